"""From columns of text to contracts: what each column is, or why it is left out, or a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.predictions.contract import Column, DateOrder, NumberFormat, Parsed, fold
from penstock.predictions.model import Left
from penstock.predictions.parse import FALSE_WORDS, MISSING_WORDS, TRUE_WORDS, parse
from penstock.predictions.refusal import Answer, Question, Unusable, quoted
from penstock.predictions.training import formats
from penstock.predictions.training.leaks import LEAK, cross_fitted_auc
from penstock.predictions.training.options import Options, Sheet

MOSTLY = 0.9  # of the cells look alike: then the rest are mistakes, or the column is something else
ID_LIKE = 0.95  # distinct values per row
MANY = 0.5  # distinct texts per row: prose, names, addresses
MAX_CATEGORIES = 250
MIN_OF_A_CATEGORY = 5  # rows; rarer values are "another value"


@dataclass(frozen=True, slots=True)
class Inferred:
    """The features' contracts with their parsed columns, and what is left out."""

    columns: tuple[Column, ...]
    parsed: tuple[Parsed, ...]
    left: tuple[Left, ...]
    warnings: tuple[str, ...]


class _LeftOut(Exception):
    def __init__(self, code: str, reason: str) -> None:
        self.code, self.reason = code, reason


def infer(
    sheet: Sheet, rows: NDArray[np.int64], truth: NDArray[np.float64], options: Options
) -> Inferred:
    """Contracts for all columns but the id and the label. Raises `Unusable` and `Question`."""
    _check_names(sheet, options)
    chosen = pa.array(rows)
    columns, parsed, left, warnings = [], [], [], []
    for name, cells in zip(sheet.names, sheet.cells, strict=True):
        if name in (options.id, options.label):
            continue
        try:
            column, values = _column(name, cells.take(chosen), rows, truth, sheet, options)
        except _LeftOut as out:
            left.append(Left(name, out.code, out.reason))
            continue
        columns.append(column)
        parsed.append(values)
    for column, values in zip(columns, parsed, strict=True):
        broken = sum(int(mask.sum()) for mask in values.bad.values())
        if broken:
            warnings.append(
                f"{broken:,} cells of {quoted(column.name)} break its contract "
                f"({', '.join(sorted(values.bad))}); they counted as missing."
            )
    if not columns:
        why = "; ".join(f"{quoted(out.name)}: {out.reason}" for out in left[:10])
        raise Unusable(
            "no_features",
            f"No column is left to learn from ({why or 'there are no others'}). Add columns that "
            "were known before customers churned.",
        )
    return Inferred(_same_decimal(columns), tuple(parsed), tuple(left), tuple(warnings))


def _check_names(sheet: Sheet, options: Options) -> None:
    twice = {name for name in sheet.names if sheet.names.count(name) > 1} - set(options.drop)
    if twice:
        raise Unusable(
            "duplicate_column",
            f"More than one column is called {quoted(min(twice))}. Rename them, or drop them.",
        )
    for option, names in (
        ("types", options.types),
        ("drop", options.drop),
        ("keep", options.keep),
        ("required", options.required),
    ):
        for name in names:
            if name not in sheet.names:
                known = ", ".join(quoted(other) for other in sheet.names[:30])
                raise Unusable(
                    "column_not_found",
                    f"There is no column {quoted(name)} (option {option}). "
                    f"The columns are: {known}.",
                )


def _column(
    name: str,
    cells: Any,
    rows: NDArray[np.int64],
    truth: NDArray[np.float64],
    sheet: Sheet,
    options: Options,
) -> tuple[Column, Parsed]:
    if name in options.drop:
        raise _LeftOut("dropped", "left out as asked")
    if not name.strip():
        raise _LeftOut("unnamed", "it has no name")
    coded = cells.dictionary_encode()
    texts = [text.strip() for text in coded.dictionary.to_pylist()]
    indices = coded.indices.to_numpy()
    filled = np.array([bool(text) for text in texts], dtype=np.bool_)[indices]
    distinct = {fold(text) for text in texts} - {""}
    if not distinct:
        raise _LeftOut("empty", "all its cells are blank")
    if len(distinct) == 1 and filled.all():
        raise _LeftOut("constant", f"it is {quoted(texts[0])} in every row")
    keep = name in options.keep
    if not keep and (told := cross_fitted_auc(filled.astype(np.intp), truth)) > LEAK:
        raise _LeftOut(
            "leak",
            f"whether it is filled in tells who churned (AUC {told:.3f}); it was probably written "
            "after the fact (keep it only if it is known in time)",
        )
    kind = options.types.get(name) or _kind(name, texts, indices, filled, rows, sheet)
    column = _contract(name, kind, cells, texts, indices, options)
    values = parse(column, cells, as_of=options.as_of)
    column = _with_range(column, values)
    if not keep:
        _leave_out_if_useless(column, values, distinct, truth, int(filled.sum()))
    return column, values


def _kind(
    name: str,
    texts: Sequence[str],
    indices: NDArray[Any],
    filled: NDArray[np.bool_],
    rows: NDArray[np.int64],
    sheet: Sheet,
) -> str:
    """What most cells look like. Raises `Question` if that is not all of them."""
    words = {fold(text) for text in texts} - {""}
    known = words - (MISSING_WORDS - {"none"})
    if known and known <= TRUE_WORDS | FALSE_WORDS and not all(word.isdigit() for word in known):
        return "boolean"
    blank = np.array([not text or text.casefold() in MISSING_WORDS for text in texts])
    total = int((~blank[indices]).sum())
    for kind, noun, fits in (
        ("number", "numbers", lambda text: formats.shape(text) is not None or _is_infinite(text)),
        ("date", "dates", formats.is_date),
    ):
        fitting = np.array([bool(fits(text)) for text in texts]) & ~blank
        count = int(fitting[indices].sum())
        if total and count == total:
            return kind
        if total and count >= MOSTLY * total:
            odd = np.flatnonzero(~(fitting | blank)[indices])
            raise Question(
                "mixed_column",
                f"{count:,} cells of {quoted(name)} are {noun} and {len(odd):,} are not, such as "
                f"{quoted(texts[indices[odd[0]]])} in row {sheet.records[rows[odd[0]]]}. Say what "
                f"the column is, a {kind} (the others count as missing) or a category, or drop it.",
                "types",
                (
                    Answer("types", kind, name),
                    Answer("types", "category", name),
                    Answer("drop", column=name),
                ),
            )
    return "category"


def _is_infinite(text: str) -> bool:
    return text.casefold().lstrip("+-") in ("inf", "infinity")


def _contract(
    name: str,
    kind: str,
    cells: Any,
    texts: Sequence[str],
    indices: NDArray[Any],
    options: Options,
) -> Column:
    required = name in options.required
    if kind == "number":
        shapes = [found for text in texts if (found := formats.shape(text)) is not None]
        form = formats.number_format(name, shapes, options.decimal)
        return Column(name, "number", required, number=form)
    if kind == "boolean":
        return Column(name, "boolean", required)
    if kind == "category":
        return Column(name, "category", required, categories=_categories(texts, indices))
    order = kind
    if kind == "date":
        filled = [text for text in texts if formats.is_date(text)]
        order = formats.date_order(name, filled, options.date_order)
    if options.as_of is None:
        raise Question(
            "as_of",
            f"{quoted(name)} has dates, which count as days before the day up to which the file "
            "knows. Say that day, or drop the column.",
            "as_of",
            (Answer("as_of", "2026-01-31"), Answer("drop", column=name)),
        )
    return Column(name, "date", required, date=cast(DateOrder, order))


def _categories(texts: Sequence[str], indices: NDArray[Any]) -> tuple[str, ...]:
    counts = np.bincount(indices, minlength=len(texts))
    spelled: dict[str, str] = {}
    rows: dict[str, int] = {}
    for i in np.argsort(-counts, kind="stable").tolist():
        if key := fold(texts[i]):
            spelled.setdefault(key, texts[i])
            rows[key] = rows.get(key, 0) + int(counts[i])
    common = [key for key, count in rows.items() if count >= MIN_OF_A_CATEGORY]
    common.sort(key=lambda key: -rows[key])
    return tuple(spelled[key] for key in common[:MAX_CATEGORIES])


def _with_range(column: Column, values: Parsed) -> Column:
    if column.kind not in ("number", "date"):
        return column
    known = values.values[np.isfinite(values.values)]
    if not len(known):
        raise _LeftOut("empty", "none of its cells can be read")
    whole = bool((known == np.rint(known)).all())
    return replace(column, integer=whole, low=float(known.min()), high=float(known.max()))


def _leave_out_if_useless(
    column: Column, values: Parsed, distinct: set[str], truth: NDArray[np.float64], filled: int
) -> None:
    if column.kind == "category":
        if len(distinct) > ID_LIKE * filled:
            raise _LeftOut("id_like", "nearly every row has a value of its own")
        if len(distinct) > MANY * filled:
            raise _LeftOut("free_text", "most of its values occur once or twice")
        if not column.categories:
            raise _LeftOut("free_text", f"no value occurs {MIN_OF_A_CATEGORY} times")
        codes = np.asarray(values.values, dtype=np.intp)
    elif column.kind == "boolean":
        codes = np.asarray(values.values, dtype=np.intp)
    else:
        known = values.values[np.isfinite(values.values)]
        different = len(np.unique(known))
        if different == 1 and len(known) == len(values.values):
            raise _LeftOut("constant", f"it is {known[0]:g} in every row")
        if column.kind == "number" and column.integer and different > ID_LIKE * len(known):
            raise _LeftOut(
                "id_like", "nearly every row has a whole number of its own (keep it if it counts)"
            )
        cuts = np.unique(np.quantile(known, np.linspace(0, 1, 65)[1:-1]))
        codes = np.where(
            np.isfinite(values.values), np.searchsorted(cuts, values.values, side="left") + 1, 0
        )
    told = cross_fitted_auc(codes, truth)
    if told > LEAK:
        raise _LeftOut(
            "leak",
            f"alone it tells who churned (AUC {told:.3f}); it was probably written after the "
            "fact (keep it only if it is known in time)",
        )


def _same_decimal(columns: Sequence[Column]) -> tuple[Column, ...]:
    """Columns of whole numbers without separators take the decimal separator of the others."""
    plain = NumberFormat()
    others = {
        column.number.decimal
        for column in columns
        if column.kind == "number" and (not column.integer or column.number != plain)
    }
    if others != {","}:
        return tuple(columns)
    return tuple(
        replace(column, number=replace(plain, decimal=","))
        if column.kind == "number" and column.integer and column.number == plain
        else column
        for column in columns
    )

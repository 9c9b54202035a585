"""Who churned: the label, the ids, and rows that say the same twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock.predictions.check import TOTALS
from penstock.predictions.contract import fold
from penstock.predictions.model import Label
from penstock.predictions.refusal import Answer, Question, Unusable, quoted
from penstock.predictions.training.options import MIN_OF_A_CLASS, MIN_ROWS, Options, Sheet

SHOWN = 5


@dataclass(frozen=True, slots=True)
class Labelled:
    """The rows that can be learned from: indices into the sheet, their label, their customer.

    `group` numbers the customers, so that one customer's rows are never on both sides of a fold.
    """

    rows: NDArray[np.int64]
    truth: NDArray[np.float64]
    group: NDArray[np.int64]
    label: Label
    warnings: tuple[str, ...]


def labelled(sheet: Sheet, options: Options) -> Labelled:
    """Find out who churned. Raises `Unusable` or `Question`."""
    label_cells = _cells(sheet, options.label, "label")
    id_cells = _cells(sheet, options.id, "id")
    if options.label == options.id:
        raise Unusable("label_is_id", "The label and the id are the same column. Name two.")
    if not len(label_cells):
        raise Unusable("no_rows", "The file has a header and no rows. Give it past customers.")
    keys = pc.dictionary_encode(label_cells)
    texts = [fold(text) for text in keys.dictionary.to_pylist()]
    label, meaning = _meaning(options, texts, keys)
    values = np.array([meaning.get(text, np.nan) for text in texts], dtype=np.float64)
    truth = values[keys.indices.to_numpy()]
    warnings = []
    if unlabelled := int(np.isnan(truth).sum()):
        warnings.append(
            f"{unlabelled:,} rows without a usable {quoted(options.label)} were left out."
        )
    ids = pc.utf8_trim_whitespace(id_cells)
    named = pc.not_equal(ids, "").to_numpy(zero_copy_only=False)
    if unnamed := int((~named).sum()):
        warnings.append(f"{unnamed:,} rows without an id ({quoted(options.id)}) were left out.")
    total = pc.is_in(pc.utf8_lower(ids), value_set=pa.array(TOTALS, ids.type))
    totals = total.to_numpy(zero_copy_only=False)
    if count := int(totals.sum()):
        warnings.append(f"{count:,} rows of totals were left out.")
    rows = np.flatnonzero(named & ~totals & ~np.isnan(truth))
    if not len(rows):
        raise Unusable("no_rows", "No row has both an id and a label. Name the right columns.")
    group = pc.dictionary_encode(ids.take(pa.array(rows))).indices.to_numpy().astype(np.int64)
    rows, group, repeated = _without_copies(sheet, rows, group)
    if repeated:
        warnings.append(f"{repeated:,} rows were exact copies of others and were left out.")
    truth = truth[rows]
    _refuse_contradictions(sheet, ids, rows, group, truth)
    if len(np.unique(group)) < len(rows):
        warnings.append(
            "Some customers have several rows that differ; each customer's rows were kept "
            "together when the quality was measured."
        )
    _refuse_few(truth, label)
    return Labelled(rows, truth, group, label, tuple(warnings))


def _cells(sheet: Sheet, name: str, role: str) -> Any:
    try:
        return sheet.cells[sheet.names.index(name)]
    except ValueError:
        known = ", ".join(quoted(other) for other in sheet.names[:30])
        raise Unusable(
            f"{role}_not_found",
            f"There is no column {quoted(name)} for the {role}. The columns are: {known}.",
        ) from None


def _meaning(options: Options, texts: list[str], keys: Any) -> tuple[Label, dict[str, float]]:
    """Which folded label values count as churned (1) and stayed (0)."""
    counts = np.bincount(keys.indices.to_numpy(), minlength=len(texts))
    spelled: dict[str, str] = {}
    rows: dict[str, int] = {}
    for i in np.argsort(-counts, kind="stable"):
        if texts[i]:
            spelled.setdefault(texts[i], keys.dictionary[int(i)].as_py().strip())
            rows[texts[i]] = rows.get(texts[i], 0) + int(counts[i])
    listed = ", ".join(f"{quoted(spelled[key])} ({n:,})" for key, n in list(rows.items())[:10])
    column = quoted(options.label)
    if len(rows) < 2:
        raise Unusable(
            "one_class",
            f"{column} has {listed or 'no values'} and nothing else. Training needs customers "
            "who churned and customers who stayed: add the others, or name another column.",
        )
    if len(rows) > 50:
        raise Unusable(
            "label_not_two",
            f"{column} has {len(rows):,} different values, so it does not say who churned. "
            "Name the column that does.",
        )
    if not options.positive:
        raise Question(
            "positive_label",
            f"{column} has the values {listed}. Say which one means that a customer churned.",
            "positive",
            (Answer("positive", "VALUE"),),
        )
    positive = {fold(value) for value in options.positive}
    negative = {fold(value) for value in options.negative}
    for key in (positive | negative) - rows.keys():
        raise Unusable(
            "label_value_not_found",
            f"{column} has no value {quoted(key)}. Its values are {listed}.",
        )
    if positive & negative:
        raise Unusable("label_value_twice", "A label value cannot mean both churned and stayed.")
    if not negative:
        negative = rows.keys() - positive
        if len(negative) > 1:
            raise Question(
                "negative_label",
                f"{column} has more than two values: {listed}. Say also which of them mean that "
                "a customer stayed, one or several. Rows with other values are left out.",
                "negative",
                (Answer("negative", "VALUE"),),
            )
    if not negative:
        raise Unusable("one_class", f"All values of {column} are said to mean churned.")
    meaning = {key: 1.0 if key in positive else 0.0 for key in positive | negative}
    label = Label(
        options.label,
        tuple(spelled[key] for key in rows if key in positive),
        tuple(spelled[key] for key in rows if key in negative),
    )
    return label, meaning


def _without_copies(
    sheet: Sheet, rows: NDArray[np.int64], group: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """The rows but for those whose cells all equal an earlier row's of the same customer."""
    order = np.argsort(group, kind="stable")
    same = np.flatnonzero(np.diff(group[order]) == 0)
    if not len(same):
        return rows, group, 0
    suspects = np.unique(np.concatenate((order[same], order[same + 1])))
    chosen = pa.array(rows[suspects])
    texts = zip(*(column.take(chosen).to_pylist() for column in sheet.cells), strict=True)
    seen: set[tuple[Any, ...]] = set()
    copies = []
    for position, text in zip(suspects.tolist(), texts, strict=True):
        if text in seen:
            copies.append(position)
        seen.add(text)
    kept = np.delete(np.arange(len(rows)), copies)
    return rows[kept], group[kept], len(copies)


def _refuse_contradictions(
    sheet: Sheet,
    ids: Any,
    rows: NDArray[np.int64],
    group: NDArray[np.int64],
    truth: NDArray[np.float64],
) -> None:
    churned = np.bincount(group, truth)
    total = np.bincount(group)
    both = np.flatnonzero((churned > 0) & (churned < total))
    if not len(both):
        return
    shown = []
    for customer in both[:SHOWN]:
        mine = rows[group == customer]
        where = ", ".join(str(sheet.records[row]) for row in mine[:SHOWN])
        shown.append(f"{quoted(ids[int(mine[0])].as_py())} (rows {where})")
    raise Unusable(
        "conflicting_labels",
        f"{len(both):,} customers churned in one row and stayed in another: {'; '.join(shown)}. "
        "Keep one row for each customer, or use an id that tells the rows apart.",
    )


def _refuse_few(truth: NDArray[np.float64], label: Label) -> None:
    rows, positives = len(truth), int(truth.sum())
    if rows < MIN_ROWS:
        raise Unusable(
            "too_few_rows",
            f"{rows:,} usable rows are too few to learn from; {MIN_ROWS} are the least. "
            "Add more past customers.",
        )
    for count, values, what in (
        (positives, label.positive, "churned"),
        (rows - positives, label.negative, "stayed"),
    ):
        if count < MIN_OF_A_CLASS:
            raise Unusable(
                "one_class" if count == 0 else "too_few_of_a_class",
                f"{count:,} customers {what} ({', '.join(map(quoted, values))}); "
                f"{MIN_OF_A_CLASS} are the least to learn from. Add more of them.",
            )

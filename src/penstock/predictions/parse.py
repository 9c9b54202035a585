"""Columns of text, read by their contract."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock.predictions.contract import (
    MISSING,
    Column,
    DateOrder,
    NumberFormat,
    Parsed,
    fold,
    is_optional,
)

# Words for a missing number, date or truth value; in a category they are values like others.
MISSING_WORDS = frozenset({"", "na", "n/a", "#n/a", "null", "none", "nan"})
TRUE_WORDS = frozenset({"yes", "y", "true", "t", "1", "on", "oui", "ja", "si", "sí", "sim"})
FALSE_WORDS = frozenset({"no", "n", "false", "f", "0", "off", "non", "nein", "não"})

_NOT_FINITE = r"^(?i:[+-]?(inf|infinity))$"
_SPACES = "[ \u00a0\u202f\u2009]"
_EPOCH_OF_EXCEL = datetime.date(1899, 12, 30)


def parse(column: Column, cells: Any, *, as_of: datetime.date | None = None) -> Parsed:
    """Read the cells (a pyarrow array of text, dictionary-encoded or not) of one column.

    `as_of` is the day from which dates are counted; a date column needs it.
    """
    if isinstance(cells, pa.ChunkedArray):
        cells = cells.combine_chunks()
    if column.kind == "number":
        return _numbers(column, cells)
    if column.kind == "date":
        if as_of is None:
            raise ValueError(f"{column.name} is a date: it needs an as-of date")
        return _dates(column, cells, as_of)
    return _words(column, cells)


def _numbers(column: Column, cells: Any) -> Parsed:
    if pa.types.is_dictionary(cells.type):
        cells = cells.cast(pa.string())
    values, bad, infinite = read_numbers(column.number, cells)
    return _measured(column, values, bad, "not_number", infinite)


def read_numbers(
    form: NumberFormat, cells: Any
) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None, int]:
    """Values (NaN: missing), which cells are no numbers, and how many were infinite."""
    bad = None
    if form == _PLAIN and cells.null_count == 0:
        try:
            values = pc.cast(cells, pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:
            values, bad = _read_slowly(form, cells)
        else:
            # pyarrow takes "nan(1)" and "-nan" too; they are judged as in any other company.
            if np.isnan(values).any():
                values, bad = _read_slowly(form, cells)
    else:
        values, bad = _read_slowly(form, cells)
    infinite = 0
    if not np.isfinite(values).all():
        endless = np.isinf(values)
        infinite = int(endless.sum())
        if infinite:
            values = np.where(endless, np.nan, values)
    return values, bad, infinite


_PLAIN = NumberFormat()


def _read_slowly(
    form: NumberFormat, cells: Any
) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
    text = pc.utf8_trim_whitespace(pc.fill_null(cells, ""))
    missing = pc.is_in(pc.utf8_lower(text), value_set=pa.array(sorted(MISSING_WORDS)))
    endless = pc.match_substring_regex(text, _NOT_FINITE)
    fine = pc.or_(pc.match_substring_regex(text, number_pattern(form)), endless)
    bad = pc.invert(pc.or_(missing, fine)).to_numpy(zero_copy_only=False)
    text = pc.if_else(pc.and_(fine, pc.invert(missing)), text, None)
    if form.prefix or form.suffix or form.group or form.decimal != ".":
        text = _plain(form, text)
    text = pc.replace_substring_regex(text, r"^\((.*)\)$", r"-\1")
    text = pc.replace_substring_regex(text, r"^\+", "")
    values = pc.cast(text, pa.float64()).to_numpy(zero_copy_only=False)
    return values, (bad if bad.any() else None)


@lru_cache(maxsize=256)
def number_pattern(form: NumberFormat) -> str:
    """What a number of this format looks like, as an RE2 and Python pattern."""
    whole = r"[0-9]+"
    if form.group:
        group = _SPACES if form.group == " " else re.escape(form.group)
        whole = rf"([0-9]{{1,3}}({group}[0-9]{{3}})+|[0-9]+)"
    decimal = re.escape(form.decimal)
    number = rf"({whole}({decimal}[0-9]*)?|{decimal}[0-9]+)([eE][+-]?[0-9]+)?"
    before, after = form.prefix, form.suffix
    if before:
        before = rf"({re.escape(before)}{_SPACES}*){'?' if is_optional(before) else ''}"
    if after:
        after = rf"({_SPACES}*{re.escape(after)}){'?' if is_optional(after) else ''}"
    sign = rf"([+-]?{before}|{before}[+-]?)" if before else "[+-]?"
    signed = rf"{sign}{number}{after}"
    # (45.00) is how accountants write -45.00.
    return rf"^({signed}|\({before}{number}{after}\))$"


def _plain(form: NumberFormat, text: Any) -> Any:
    """Numbers that fit the format, without its prefix, suffix and groups, with a point."""
    if form.prefix:
        text = pc.replace_substring_regex(text, rf"^([+(-]?){re.escape(form.prefix)}", r"\1")
    if form.suffix:
        text = pc.replace_substring_regex(text, rf"{re.escape(form.suffix)}(\)?)$", r"\1")
    if form.group and form.group != " ":
        text = pc.replace_substring(text, form.group, "")
    text = pc.replace_substring_regex(text, f"{_SPACES}+", "")
    return text if form.decimal == "." else pc.replace_substring(text, form.decimal, ".")


def _dates(column: Column, cells: Any, as_of: datetime.date) -> Parsed:
    def days(text: str) -> float:
        found = read_date(text, column.date)
        return np.nan if found is None else float((as_of - found).days)

    values, bad = _by_distinct(cells, days, np.float64, np.nan)
    future = int((values < 0).sum())
    return _measured(column, values, bad, "not_date", 0, future)


_DATE = re.compile(r"([0-9]{1,4})([-/.])([0-9]{1,2})\2([0-9]{1,4})")
_TIME = re.compile(
    r"[T ]\s*[0-9]{1,2}:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)?\s*(Z|[+-][0-9]{2}:?[0-9]{2})?"
)


def read_date(text: str, order: DateOrder) -> datetime.date | None:
    """The date of a cell, without its time; None when missing. Raises ValueError."""
    text = text.strip()
    if text.casefold() in MISSING_WORDS:
        return None
    if order == "excel":
        serial = float(text)
        if not 1 <= serial < 2_958_466:
            raise ValueError("not a day of a spreadsheet")
        return _EPOCH_OF_EXCEL + datetime.timedelta(days=int(serial))
    match = _DATE.match(text)
    if match is None or (match.end() < len(text) and not _TIME.fullmatch(text[match.end() :])):
        raise ValueError("not a date")
    first, second, third = match.group(1), match.group(3), match.group(4)
    year, month, day = {
        "ymd": (first, second, third),
        "dmy": (third, second, first),
        "mdy": (third, first, second),
    }[order]
    if len(year) != 4 or len(month) > 2 or len(day) > 2:
        raise ValueError("the year has four digits")
    return datetime.date(int(year), int(month), int(day))


def _words(column: Column, cells: Any) -> Parsed:
    known = _codes(column)
    other = None if column.kind == "boolean" else len(column.categories) + 1

    def code(text: str) -> int:
        key = fold(text)
        if not key or (other is None and key in MISSING_WORDS):
            return MISSING
        found = known.get(key, other)
        if found is None:
            raise ValueError("not a truth value")
        return found

    codes, bad = _by_distinct(cells, code, np.int32, MISSING)
    missing = codes == MISSING
    if bad is not None:
        missing &= ~bad
    unseen = 0 if other is None else int((codes == other).sum())
    return Parsed(
        codes, _bad(column, bad, "not_boolean", missing), int(missing.sum()), unseen=unseen
    )


@lru_cache(maxsize=4096)
def _codes(column: Column) -> dict[str, int]:
    """The code of each word that the column knows."""
    if column.kind == "boolean":
        return dict.fromkeys(FALSE_WORDS, 1) | dict.fromkeys(TRUE_WORDS, 2)
    return {fold(value): i for i, value in enumerate(column.categories, start=1)}


def _by_distinct(
    cells: Any, read: Callable[[str], float], dtype: Any, blank: float
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """`read` once for each distinct text; a text it refuses (ValueError) is bad."""
    if not pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_encode()
    texts = cells.dictionary.to_pylist()
    values = np.full(len(texts) + 1, blank, dtype=dtype)  # the last one stands for null
    refused = np.zeros(len(texts) + 1, dtype=np.bool_)
    for i, text in enumerate(texts):
        try:
            values[i] = read(text or "")
        except (ValueError, OverflowError):
            refused[i] = True
    indices = cells.indices
    if indices.null_count:
        indices = pc.fill_null(indices, len(texts))
    indices = indices.to_numpy(zero_copy_only=False)
    return values[indices], (refused[indices] if refused.any() else None)


def _measured(
    column: Column,
    values: NDArray[np.float64],
    bad: NDArray[np.bool_] | None,
    code: str,
    infinite: int,
    future: int = 0,
) -> Parsed:
    missing = np.isnan(values)
    if bad is not None:
        missing &= ~bad
    outside = 0
    if column.low is not None and column.high is not None:
        outside = int(((values < column.low) | (values > column.high)).sum())
    return Parsed(
        values,
        _bad(column, bad, code, missing),
        int(missing.sum()),
        not_finite=infinite,
        out_of_range=outside,
        future=future,
    )


def _bad(
    column: Column, bad: NDArray[np.bool_] | None, code: str, missing: NDArray[np.bool_]
) -> dict[str, NDArray[np.bool_]]:
    found = {} if bad is None else {code: bad}
    if column.required and missing.any():
        found["missing_value"] = missing
    return found

"""Rows held against the contract: values for the model, or what is wrong with them.

Nothing is repaired. A row that breaks the contract is set aside with one error for each cell that
does; the others go on. Which rows are bad does not depend on the rows beside them.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock.predictions.contract import Column, NumberFormat, Parsed
from penstock.predictions.parse import parse
from penstock.predictions.table import NUMBER, TEXT, WORDS, Rejected, Rows

MAX_FIELD = 64 * 1024  # bytes
TOTALS: Final = ("total", "totals", "grand total", "subtotal", "sub total", "sum")
_PLAIN = NumberFormat()

# By a text's first byte: whether it could be blank, a formula, or a total.
BLANKISH, FORMULAISH, TOTALISH = 1, 2, 4
_FIRST = np.zeros(256, dtype=np.uint8)
_FIRST[list(b"\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f ")] |= BLANKISH
_FIRST[[0xC2, 0xE1, 0xE2, 0xE3]] |= BLANKISH  # where blanks outside of ASCII begin
_FIRST[list(b"=+-@\t\r\n")] |= FORMULAISH
_FIRST[0xEF] |= FORMULAISH  # full-width forms
_FIRST[list(b"tTgGsS")] |= TOTALISH
_FIRST[_FIRST & BLANKISH > 0] |= TOTALISH | FORMULAISH

MESSAGES: Final = {
    "missing_id": "the row has no id",
    "totals_row": "the row is a total and not a customer",
    "field_too_long": f"the cell is longer than {MAX_FIELD:,} bytes",
    "not_number": "the cell is not a number of this column's format",
    "not_date": "the cell is not a date of this column's format",
    "not_boolean": "the cell is neither yes nor no",
    "missing_value": "the cell is empty, and this column must not be",
}


@dataclass(frozen=True, slots=True)
class RowError:
    """One thing that is wrong with a record; `record` is its index in the chunk."""

    record: int
    id: str
    column: str
    code: str
    value: str
    message: str


@dataclass(frozen=True, slots=True)
class Mapped:
    """Where the columns are: the id's position, and each feature's or None for one without."""

    id: int
    features: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """The rows that keep the contract, and the errors of the others."""

    ids: Any
    columns: Sequence[Parsed]
    record: NDArray[np.int64]
    errors: Sequence[RowError]
    bad: int


def types(mapped: Mapped, contract: Sequence[Column]) -> dict[int, Any]:
    """What each column that is needed should be read as."""
    wanted = {mapped.id: TEXT}
    for at, column in zip(mapped.features, contract, strict=True):
        if at is not None:
            plain = column.kind == "number" and column.number == _PLAIN
            kind = NUMBER if plain else TEXT if column.kind == "number" else WORDS
            # One column may serve twice; text serves for all.
            wanted[at] = kind if wanted.setdefault(at, kind) == kind else TEXT
    return wanted


def check(
    rows: Rows,
    mapped: Mapped,
    contract: Sequence[Column],
    names: Sequence[str],
    as_of: datetime.date | None,
) -> Checked:
    """Hold the rows against the contract; `names` are the file's, for the errors."""
    errors = [_rejected(each) for each in rows.rejected]
    ids = one(rows.columns[mapped.id])
    columns = _parse(rows, mapped, contract, as_of)
    bad = np.zeros(len(rows), dtype=np.bool_)
    for code, mask in _bad_ids(ids):
        bad |= mask
        errors += _errors(rows, ids, mask, names[mapped.id], code, ids)
    for at, parsed, column in zip(mapped.features, columns, contract, strict=True):
        if at is None:
            continue
        cells = one(rows.columns[at])
        found = dict(parsed.bad)
        if (long := _too_long(cells, column)) is not None:
            found["field_too_long"] = long
        for code, mask in found.items():
            bad |= mask
            errors += _errors(rows, ids, mask, names[at], code, cells)
    errors.sort(key=lambda error: error.record)
    if not bad.any():
        return Checked(ids, columns, rows.record, errors, len(rows.rejected))
    keep = pa.array(~bad)
    kept = Rows(
        {at: one(column).filter(keep) for at, column in rows.columns.items()},
        rows.record[~bad],
        (),
        rows.blank,
    )
    # Read again, so that what is counted are the rows that are scored.
    columns = _parse(kept, mapped, contract, as_of)
    set_aside = int(bad.sum()) + len(rows.rejected)
    return Checked(one(kept.columns[mapped.id]), columns, kept.record, errors, set_aside)


def one(column: Any) -> Any:
    """A column of a chunk as one array."""
    if isinstance(column, pa.ChunkedArray):
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return column


def first_bytes(texts: Any) -> NDArray[np.uint8]:
    """What each text's first byte says of it, as a set of flags; an empty one is BLANKISH."""
    count = len(texts)
    _, offsets_buffer, data_buffer = texts.buffers()
    if count == 0 or data_buffer is None or data_buffer.size == 0:
        return np.full(count, BLANKISH, dtype=np.uint8)
    offsets = np.frombuffer(offsets_buffer, dtype=np.int32)[texts.offset :][: count + 1]
    data = np.frombuffer(data_buffer, dtype=np.uint8)
    flags = _FIRST[data[np.minimum(offsets[:-1], len(data) - 1)]]
    flags[offsets[1:] == offsets[:-1]] = BLANKISH
    return flags


def _parse(
    rows: Rows, mapped: Mapped, contract: Sequence[Column], as_of: datetime.date | None
) -> list[Parsed]:
    found = []
    for at, column in zip(mapped.features, contract, strict=True):
        if at is None:
            found.append(_absent(column, len(rows)))
            continue
        cells = one(rows.columns[at])
        if cells.type == NUMBER:
            found.append(_number(column, cells))
        else:
            found.append(parse(column, cells, as_of=as_of))
    return found


def _absent(column: Column, count: int) -> Parsed:
    """A feature that the file does not have, by its owner's leave: missing in every row."""
    if column.kind in ("number", "date"):
        return Parsed(np.full(count, np.nan), {}, count)
    return Parsed(np.zeros(count, dtype=np.int32), {}, count)


def _number(column: Column, cells: Any) -> Parsed:
    """Cells that pyarrow has read as plain finite numbers or blanks already."""
    values = cells.to_numpy(zero_copy_only=False)
    missing = np.isnan(values) if cells.null_count else np.zeros(len(values), dtype=np.bool_)
    outside = 0
    if column.low is not None and column.high is not None:
        outside = int(((values < column.low) | (values > column.high)).sum())
    bad = {"missing_value": missing} if column.required and cells.null_count else {}
    return Parsed(values, bad, cells.null_count, out_of_range=outside)


def _bad_ids(ids: Any) -> list[tuple[str, NDArray[np.bool_]]]:
    flags = first_bytes(ids)
    found = []
    if (flags & BLANKISH).any():
        blank = pc.equal(pc.utf8_trim_whitespace(ids), "").to_numpy(zero_copy_only=False)
        found.append(("missing_id", blank))
    if (flags & TOTALISH).any():
        text = pc.utf8_trim_whitespace(pc.utf8_lower(ids))
        total = pc.is_in(text, value_set=pa.array(TOTALS)).to_numpy(zero_copy_only=False)
        found.append(("totals_row", total))
    long = pc.greater(pc.binary_length(ids), MAX_FIELD)
    if pc.any(long).as_py():
        found.append(("field_too_long", long.to_numpy(zero_copy_only=False)))
    return [(code, mask) for code, mask in found if mask.any()]


def _too_long(cells: Any, column: Column) -> NDArray[np.bool_] | None:
    """Cells over the limit. A number that long is still a number, however it was read."""
    if column.kind == "number":
        return None
    texts = cells.dictionary if pa.types.is_dictionary(cells.type) else cells
    data = texts.buffers()[2]
    if data is None or data.size <= MAX_FIELD:  # all texts together
        return None
    long = pc.greater(pc.binary_length(texts), MAX_FIELD)
    if not pc.any(long).as_py():
        return None
    mask: NDArray[np.bool_] = long.to_numpy(zero_copy_only=False)
    return mask[cells.indices.to_numpy()] if texts is not cells else mask


def _rejected(rejected: Rejected) -> RowError:
    return RowError(rejected.record, "", "", rejected.code, "", rejected.message)


def _errors(
    rows: Rows, ids: Any, mask: NDArray[np.bool_], column: str, code: str, cells: Any
) -> list[RowError]:
    at = pa.array(np.flatnonzero(mask))
    # A number column has only one fault that gets this far: it is missing.
    values = [""] * len(at) if cells.type == NUMBER else cells.take(at).to_pylist()
    return [
        RowError(int(record), name, column, code, value, MESSAGES[code])
        for record, name, value in zip(
            rows.record[mask], ids.take(at).to_pylist(), values, strict=True
        )
    ]

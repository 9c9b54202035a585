"""The text of one chunk as columns, each row with the number of its record.

pyarrow parses; it knows nothing of other chunks, and infers no types: the caller says which
columns it wants, and as what. Rows that are no rows of this table are told, not lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from penstock.predictions import records
from penstock.predictions.chunks import Layout

# While it reads, pyarrow would have Ctrl-C come to itself; one that came as it ended a chunk was
# lost (one in fifty, with 26.0). Python tells of it as soon as the chunk has been read.
pa.enable_signal_handlers(False)

TEXT = pa.string()
WORDS = pa.dictionary(pa.int32(), pa.string())
NUMBER = pa.float64()

# Some spellings of a missing number, for speed: all are among `parse.MISSING_WORDS`, and what is
# not listed here is found there, from the text.
_MISSING = ["", " ", "  ", "NA", "N/A", "n/a", "NULL", "null", "None", "NaN", "nan"]
_BOM = "\ufeff".encode()


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that is no row: its index in the chunk, the code, and why in words."""

    record: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a chunk. `record[i]` is the index in the chunk of row i's record."""

    columns: Mapping[int, Any]
    record: NDArray[np.int64]
    rejected: tuple[Rejected, ...]
    blank: int

    def __len__(self) -> int:
        return len(self.record)


def read_rows(text: bytes, layout: Layout, count: int, types: Mapping[int, Any]) -> Rows:
    """Read the columns whose positions are in `types`, as `TEXT`, `WORDS` or `NUMBER`.

    A `NUMBER` column comes back as text if one of its cells is more than a plain finite number
    or a blank. `count` is the number of records in the text.
    """
    width = len(layout.names)
    wanted = dict(types)
    if layout.trailing:
        wanted[width - 1] = WORDS
    skipped: list[tuple[int, int]] = []
    plain = _parse(text, layout, wanted, skipped)
    if plain is None:
        skipped.clear()
        texts = {at: TEXT if kind == NUMBER else kind for at, kind in wanted.items()}
        plain = _parse(text, layout, texts, skipped)
        if plain is None:
            raise RuntimeError("pyarrow cannot read text that was found to be records")
    columns = {at: plain.column(str(at)) for at in wanted}

    rejected: list[Rejected] = []
    blank = 0
    record = np.arange(plain.num_rows)
    if plain.num_rows != count:
        filled = _filled(text, layout)
        blank = count - len(filled)
        for nth, fields in skipped:
            rejected.append(_miscounted(int(filled[nth - 1]), fields, width))
        record = np.delete(filled, [nth - 1 for nth, _ in skipped])
    rows = Rows(columns, record, tuple(rejected), blank)
    if len(record) != plain.num_rows:
        raise RuntimeError("pyarrow found other records than there are")
    if layout.trailing:
        rows = _without(rows, *_surplus(rows, width))
    if 0 in text:
        rows = _without(rows, *_with_nul(rows, text, layout))
    return rows


def _parse(
    text: bytes, layout: Layout, types: Mapping[int, Any], skipped: list[tuple[int, int]]
) -> Any:
    """The table, or None if a cell of a number column is no number.

    `skipped` gets the number among the chunk's filled records, and the fields found, of each
    record that has too many or too few.
    """
    if text[:1] in b"\r\n" and not text.strip(b"\r\n"):
        return pa.table({str(at): pa.array([], kind) for at, kind in types.items()})
    if text.startswith(_BOM):
        # At the very beginning pyarrow would take it for a byte order mark, and a value lose it.
        text = b"\n" + text

    def skip(row: Any) -> str:
        skipped.append((row.number, row.actual_columns))
        return "skip"

    try:
        table = pa_csv.read_csv(
            pa.BufferReader(text),
            read_options=pa_csv.ReadOptions(
                use_threads=False,
                block_size=len(text),
                column_names=[str(at) for at in range(len(layout.names))],
            ),
            parse_options=pa_csv.ParseOptions(
                delimiter=layout.delimiter, newlines_in_values=True, invalid_row_handler=skip
            ),
            convert_options=pa_csv.ConvertOptions(
                check_utf8=False,
                include_columns=[str(at) for at in types],
                column_types={str(at): kind for at, kind in types.items()},
                null_values=_MISSING,
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid:
        return None
    for at, kind in types.items():
        # "nan", "inf" and 1e400 are not what a number is here; whoever reads the text decides.
        if kind == NUMBER and not _finite(table.column(str(at))):
            return None
    return table


def _finite(column: Any) -> bool:
    return all(
        np.isfinite(chunk.drop_null().to_numpy(zero_copy_only=False)).all()
        for chunk in column.chunks
    )


def _filled(text: bytes, layout: Layout) -> NDArray[np.int64]:
    """The indices of the records that are not blank lines."""
    ends = records.record_ends(text, layout.delimiter, final=True)
    first = np.frombuffer(text, dtype=np.uint8)[np.concatenate(([0], ends[:-1]))]
    return np.flatnonzero((first != ord("\n")) & (first != ord("\r")))


def _surplus(rows: Rows, width: int) -> tuple[NDArray[np.bool_], Callable[[int], Rejected]]:
    """Rows with something in the cell that should not be there."""
    cells = rows.columns[width - 1].combine_chunks()
    filled = np.array([bool(text.strip()) for text in cells.dictionary.to_pylist()], dtype=bool)
    bad = filled[cells.indices.to_numpy()]
    return bad, lambda record: _miscounted(record, width, width - 1)


def _miscounted(record: int, fields: int, expected: int) -> Rejected:
    message = f"{fields} field{'s' * (fields != 1)} instead of {expected}"
    return Rejected(record, "field_count", message)


def _with_nul(
    rows: Rows, text: bytes, layout: Layout
) -> tuple[NDArray[np.bool_], Callable[[int], Rejected]]:
    ends = records.record_ends(text, layout.delimiter, final=True)
    at = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == 0)
    bad = np.isin(rows.record, np.searchsorted(ends, at, side="right"))
    return bad, lambda record: Rejected(record, "nul_byte", "the row holds a zero byte")


def _without(rows: Rows, bad: NDArray[np.bool_], reject: Callable[[int], Rejected]) -> Rows:
    """The rows that are not bad."""
    if not bad.any():
        return rows
    keep = pa.array(~bad)
    return Rows(
        {at: column.filter(keep) for at, column in rows.columns.items()},
        rows.record[~bad],
        (*rows.rejected, *(reject(int(record)) for record in rows.record[bad])),
        rows.blank,
    )

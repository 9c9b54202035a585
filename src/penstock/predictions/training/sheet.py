"""A CSV read whole, for training: the same reader as for scoring, all cells as text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from penstock.predictions.chunks import chunks
from penstock.predictions.refusal import Unusable, quoted
from penstock.predictions.sniff import Given, sniff
from penstock.predictions.table import TEXT, Rejected, read_rows
from penstock.predictions.training.options import Options, Sheet


def read_sheet(
    file: BinaryIO,
    options: Options,
    given: Given | None = None,
    *,
    progress: Callable[[int], None] = lambda read: None,
) -> tuple[Sheet, tuple[str, ...]]:
    """The file's rows, and what its owner should know of it.

    `progress` gets the bytes read so far. Raises `Unusable` and `Question`.
    """
    sniffed = sniff(file, given or Given(), known=(options.id, options.label))
    layout = sniffed.layout
    width = len(layout.names) - layout.trailing
    types = dict.fromkeys(range(width), TEXT)
    parts: list[list[pa.Array]] = [[] for _ in range(width)]
    records = []
    rejected: list[tuple[int, Rejected]] = []
    for chunk, text in chunks(file, layout):
        rows = read_rows(text, layout, chunk.records, types)
        for at, column in rows.columns.items():
            if at < width:
                parts[at] += column.chunks
        records.append(rows.record + chunk.row)
        rejected += [(chunk.row + one.record, one) for one in rows.rejected]
        progress(chunk.end)
    sheet = Sheet(
        tuple(layout.names[:width]),
        # Offsets of 64 bits: a column of a large file has more than 2 GB of text.
        tuple(
            pa.chunked_array(part, TEXT).cast(pa.large_string()).combine_chunks() for part in parts
        ),
        np.concatenate(records) if records else np.empty(0, dtype=np.int64),
        _sha256(file),
    )
    notes = [note.message for note in sniffed.notes]
    if rejected:
        if len(rejected) > len(sheet.records):
            raise _mostly_broken(rejected, len(sheet.records))
        row, first = rejected[0]
        notes.append(
            f"{len(rejected):,} rows could not be read and were left out, the first is row "
            f"{row:,}: {first.message}"
        )
    return sheet, tuple(notes)


def _mostly_broken(rejected: list[tuple[int, Rejected]], rows: int) -> Unusable:
    row, first = rejected[0]
    return Unusable(
        "mostly_unreadable",
        f"{len(rejected):,} rows cannot be read and {rows:,} can; the first is row {row:,}: "
        f"{quoted(first.message, 100)}. Is the delimiter right?",
    )


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()

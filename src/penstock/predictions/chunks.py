"""A file in pieces of whole records, each with the exact place where it begins.

A chunk is a byte range of the file that begins and ends between two records. It can be read and
scored alone, in any process, and again after a crash: the same bytes give the same answer, and
where the cuts fall changes nothing but the size of the pieces.

Records are numbered as a spreadsheet numbers rows: the header is 1 unless something stands before
it, and blank lines count. Lines are numbered as an editor does: a quoted line end counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from penstock.predictions import records
from penstock.predictions.encoding import Encoding, check, decode, raw_length
from penstock.predictions.refusal import Unusable

CHUNK = 1 << 20
MAX_RECORD = 1 << 20  # bytes of UTF-8


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file is laid out, as `sniff` found it or its owner said.

    `start`, `row` and `line` are the byte, the record number and the line number of the first
    record behind the header; `names` are the header's, cleaned, one for each column. `trailing`
    says that the last column is only what a delimiter at the end of each row makes of it.
    """

    encoding: Encoding
    delimiter: str
    names: tuple[str, ...]
    start: int
    row: int
    line: int
    trailing: bool = False


@dataclass(frozen=True, slots=True)
class Chunk:
    """The bytes `start` to `end` of the file: `records` records from number `row` on."""

    number: int
    start: int
    end: int
    row: int
    line: int
    records: int


def chunks(file: BinaryIO, layout: Layout, size: int = CHUNK) -> Iterator[tuple[Chunk, bytes]]:
    """Each chunk with its text in UTF-8.

    Raises `Unusable` for a quote that is never closed, a record that is too long, and bytes that
    are not of the encoding.
    """
    start, row, line, number = layout.start, layout.row, layout.line, 0
    want = size
    while True:
        file.seek(start)
        raw = file.read(want)
        final = len(raw) < want
        if not raw:
            return
        text = decode(raw, layout.encoding, offset=start, final=final)
        cut, count, lines = records.split(text, layout.delimiter, final=final)
        if cut == 0:
            if final or len(text) > MAX_RECORD:
                check(text if final else text[:MAX_RECORD], offset=start)
                raise _endless(text, layout, row, line)
            want *= 2
            continue
        whole = text[:cut]
        check(whole, offset=start)
        if cut > MAX_RECORD:
            _refuse_long(whole, layout, row, line)
        end = start + raw_length(whole, layout.encoding)
        yield Chunk(number, start, end, row, line, count), whole
        start, row, line = end, row + count, line + lines
        number += 1
        want = size


def read(file: BinaryIO, layout: Layout, chunk: Chunk) -> bytes:
    """The text of a chunk, read again."""
    file.seek(chunk.start)
    raw = file.read(chunk.end - chunk.start)
    if len(raw) < chunk.end - chunk.start:
        raise changed()
    text = decode(raw, layout.encoding, offset=chunk.start, final=True)
    check(text, offset=chunk.start)
    return text


def changed() -> Unusable:
    """The file is not what it was when reading began."""
    return Unusable("file_changed", "The file changed while it was read. Run it once more.")


def _refuse_long(text: bytes, layout: Layout, row: int, line: int) -> None:
    ends = records.record_ends(text, layout.delimiter, final=True)
    lengths = np.diff(ends, prepend=0)
    long = int(lengths.argmax())
    if lengths[long] > MAX_RECORD:
        begins = int(ends[long] - lengths[long])
        line += records.line_ends(text[:begins])
        raise _endless(text[begins:], layout, row + long, line)


def _endless(text: bytes, layout: Layout, row: int, line: int) -> Unusable:
    """The record that begins this text does not end in time: a quote is open, or it is long."""
    text = text[:MAX_RECORD]
    quote = records.open_quote(text, layout.delimiter)
    if quote is None:
        return Unusable(
            "record_too_long",
            f"Row {row:,} is longer than {MAX_RECORD:,} bytes. Is the file a CSV at all?",
        )
    return Unusable(
        "unclosed_quote",
        f"A quote that opens in line {line + records.line_ends(text[:quote]):,} (row {row:,}) is "
        "never closed, or only far below: everything behind it would be one cell. Close it, or "
        "double it if it belongs to the value.",
    )

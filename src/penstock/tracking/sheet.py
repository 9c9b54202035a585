"""CSV as people send it, read record by record from any byte on.

Bytes in, records out, nothing else: what the columns mean is not known here. Text is UTF-8, or
UTF-16 that is turned into it while it comes in (`ToUtf8`). Records may be separated by LF, CRLF or
CR, fields by commas, semicolons or tabs; a quoted field may hold any of them.

A record that cannot be read is a `Fault` with a stable code and a sentence, and reading goes on
behind it. What a hostile or broken file can cost is bounded: no record is longer than
`MOST_BYTES`, and a quotation mark that is never closed spoils the line that it stands in, not the
rest of the file.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MOST_BYTES: Final = 32 * 1024  # of one record

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_EMPTY: Final = 50  # empty records that count as one: they cost next to nothing
_DELIMITERS: Final = ",;\t"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the next record begins, and its number; the first row of the file is 1.

    `inside`: it is in the middle of an overlong line, whose rest is to be left out.
    """

    at: int = 0  # bytes from the beginning
    row: int = 1
    inside: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A record that could be read."""

    number: int
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """A record, or a field of it, that could not: a stable code and a sentence that says why."""

    number: int
    code: str
    message: str
    column: str | None = None


class _Unfinished(Exception):
    """The record goes on behind what is at hand."""


class _TooLong(Exception):
    """The record is longer than any that is read."""


class ToUtf8:
    """Bytes of a file as they come in, as UTF-8 without a byte order mark.

    UTF-16 is recognised by its byte order mark, or by the zero bytes of its first characters. What
    is neither is passed on as it is: whether it is UTF-8 shows record by record.
    """

    def __init__(self) -> None:
        self._head: bytes | None = b""
        self._decoder: codecs.IncrementalDecoder | None = None

    def feed(self, data: bytes) -> bytes:
        """What can be said of the file so far."""
        if self._head is not None:
            data = self._head + data
            if len(data) < 4:
                self._head = data
                return b""
            data = self._begin(data)
        return self._turn(data, final=False)

    def end(self) -> bytes:
        """The rest, now that nothing more comes."""
        head, self._head = self._head, None
        rest = self._begin(head) if head else b""
        return self._turn(rest, final=True)

    def _begin(self, data: bytes) -> bytes:
        self._head = None
        for mark, name in (
            (codecs.BOM_UTF8, None),
            (codecs.BOM_UTF16_LE, "utf-16-le"),
            (codecs.BOM_UTF16_BE, "utf-16-be"),
        ):
            if data.startswith(mark):
                self._use(name)
                return data[len(mark) :]
        # The names of columns are ASCII, of which UTF-16 makes every other byte zero.
        if len(data) >= 4 and data[1] == data[3] == 0 != data[0]:
            self._use("utf-16-le")
        elif len(data) >= 4 and data[0] == data[2] == 0 != data[1]:
            self._use("utf-16-be")
        return data

    def _use(self, name: str | None) -> None:
        if name is not None:
            # Half a pair stays visible: as bytes that are no UTF-8, in the record they stand in.
            self._decoder = codecs.getincrementaldecoder(name)("surrogatepass")

    def _turn(self, data: bytes, *, final: bool) -> bytes:
        if self._decoder is None:
            return data
        try:
            text = self._decoder.decode(data, final)
        except UnicodeDecodeError:  # the file was cut in the middle of a character
            return b"\xff"
        return text.encode("utf-8", "surrogatepass")


def delimiter_of(head: bytes) -> str:
    """What separates the fields: whichever of , ; and tab is there most often in the first line."""
    line = next((line for line in _LINE_END.split(head) if line.strip()), b"")
    outside = re.sub(rb'"[^"]*"', b"", line).decode("latin-1")
    return max(_DELIMITERS, key=outside.count)  # the first of equals: the comma


def read(
    window: bytes, place: Place, *, final: bool, delimiter: str, most: int
) -> tuple[list[Row | Fault], Place]:
    """Up to `most` records of `window`, which begins at `place`, and where the next one begins.

    `final`: the window reaches to the end of the file. Else it must hold more than `MOST_BYTES`, or
    nothing may come of it. Empty records are numbered and left out.
    """
    found: list[Row | Fault] = []
    at, row, inside = 0, place.row, place.inside
    while at < len(window) and len(found) < most and row - place.row < most * _EMPTY:
        if inside:
            end = _line_end(window, at, final=final)
            if end is None:
                at = len(window) - (0 if final else 1)  # a CR at the end may be half of a CRLF
                break
            at, inside = end, False
            continue
        try:
            record, after = _record(window, at, row, final, delimiter)
        except _Unfinished:
            break
        except _TooLong:
            end = _line_end(window, at, final=final)
            inside = end is None
            if end is None:
                end = len(window) - 1
            record, after = _fault(row, "row_too_long"), end
        if record is not None:
            found.append(record)
        at, row = after, row + 1
    return found, Place(place.at + at, row, inside)


def _record(
    window: bytes, start: int, row: int, final: bool, delimiter: str
) -> tuple[Row | Fault | None, int]:
    """The record at `start` (None = an empty one) and where the next begins."""
    ends: list[int] = []
    # As latin-1 every byte is one character, so the reader can be given what is no UTF-8.
    reader = csv.reader(_lines(window, start, final, ends), delimiter=delimiter, strict=True)
    try:
        raw = next(reader)
    except csv.Error as exc:
        if "expected after" in str(exc):
            return _fault(row, "malformed_row"), ends[-1]
        # The line alone is given up, lest one quotation mark swallow all that follows.
        return _fault(row, "quote_not_closed"), ends[0]
    after = ends[-1]
    if b"\0" in window[start:after]:
        return _fault(row, "nul_character"), after
    try:
        fields = tuple(field.encode("latin-1").decode().strip() for field in raw)
    except UnicodeDecodeError:
        return _fault(row, "not_utf8"), after
    return Row(row, fields) if any(fields) else None, after


def _lines(window: bytes, start: int, final: bool, ends: list[int]) -> Iterator[str]:
    """The lines from `start` on; the end of each is appended to `ends`."""
    at = start
    while True:
        end = _line_end(window, at, final=final)
        if end is None and final:
            end = len(window)
        if (len(window) if end is None else end) - start > MOST_BYTES:
            if ends:  # within quotation marks that were opened in an earlier line
                raise csv.Error
            raise _TooLong
        if end is None:
            raise _Unfinished
        if at == end:
            return
        ends.append(end)
        yield window[at:end].decode("latin-1")
        at = end


def _line_end(window: bytes, at: int, *, final: bool) -> int | None:
    """Where the line that begins at `at` ends, its separator included; None = not in here."""
    found = _LINE_END.search(window, at)
    if found is None or (found.end() == len(window) and not final and found[0] == b"\r"):
        return None
    return found.end()


_SENTENCES: Final = {
    "quote_not_closed": "A quotation mark is opened in this row and never closed. Close it, or "
    "double each one that belongs to the text.",
    "malformed_row": "After a closing quotation mark something else follows than a separator. "
    "Double the quotation marks that belong to the text.",
    "nul_character": "The row holds a NUL character, which no text can have. Remove it.",
    "not_utf8": "The row is not UTF-8. Save the file as CSV UTF-8.",
    "row_too_long": f"The row has more than {MOST_BYTES} bytes. Shorten it.",
}


def _fault(row: int, code: str) -> Fault:
    return Fault(row, code, _SENTENCES[code])

"""What a file is, found in its first bytes: type, encoding, delimiter, header.

What can be read in two ways is asked (`Question`), never guessed; the answers are `Given`.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

from penstock.predictions import records
from penstock.predictions.chunks import Layout
from penstock.predictions.contract import fold
from penstock.predictions.encoding import ENCODINGS, Encoding, decode, named, not_utf8, raw_length
from penstock.predictions.refusal import Question, Unusable, quoted

SAMPLE = 64 * 1024  # bytes
DELIMITERS: Final = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
MAX_COLUMNS = 1000
MAX_NAME = 256  # bytes of UTF-8
HEADER_ROWS = 20  # where a header may be, at the latest
_SAMPLES = 5
_MARK = re.compile(r"[!-/:-@\[-`{-~](?<![\"'])")


@dataclass(frozen=True, slots=True)
class Given:
    """What the owner of the file said about it.

    `header_row` is the row of the column names, as a spreadsheet numbers it.
    """

    encoding: str | None = None
    delimiter: str | None = None
    header_row: int | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """Something about the file that its owner should know, and that stops nothing."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Sniffed:
    """The layout of a file, the first records behind the header, and what was noticed."""

    layout: Layout
    samples: tuple[tuple[str, ...], ...]
    notes: tuple[Note, ...]


def sniff(file: BinaryIO, given: Given | None = None, *, known: Collection[str] = ()) -> Sniffed:
    """Find out how the file is laid out. Raises `Unusable`, or `Question` where it must ask.

    `known` are column names that are hoped for, such as a model's: among several possible
    readings the one that has more of them is taken.
    """
    given = given or Given()
    _check(given)
    file.seek(0)
    raw = file.read(SAMPLE)
    refuse_other_types(raw)
    encoding, bom = _encoding(raw, None if given.encoding is None else named(given.encoding))
    file.seek(bom)
    raw = file.read(SAMPLE)
    final = len(raw) < SAMPLE
    text = _sample(raw, encoding, offset=bom, final=final)
    if not text.strip():
        raise Unusable("empty", "The file is empty.")
    notes: list[Note] = []
    told, delimiter = _told(text)
    if told:
        notes.append(Note("delimiter_line", f"Row 1 says that the delimiter is {delimiter!r}."))
    delimiter = given.delimiter or delimiter
    wanted = frozenset(fold(name) for name in known)
    look = _Look(text, final, int(told), given.header_row, wanted)
    delimiter = delimiter or look.delimiter()
    table = look.table(delimiter)
    header = look.header(delimiter, table)
    names = clean_names(table[header], notes)
    samples = [row for row in table[header + 1 :] if row]
    trailing = _trailing(len(names), samples)
    if trailing:
        names = (*names, f"column_{len(names) + 1}")
        notes.append(
            Note(
                "trailing_delimiter",
                "Each row ends with a delimiter. The empty cell behind it is dropped.",
            )
        )
    ends = records.record_ends(text, delimiter, final=final)
    behind = int(ends[header])
    if final and not text[behind:].strip(b"\r\n"):
        raise Unusable("no_rows", "The file has column names and no rows below them.")
    layout = Layout(
        encoding,
        delimiter,
        names,
        bom + raw_length(text[:behind], encoding),
        header + 2,
        1 + records.line_ends(text[:behind]),
        trailing,
    )
    return Sniffed(layout, tuple(tuple(row) for row in samples[:_SAMPLES]), tuple(notes))


def _check(given: Given) -> None:
    mark = given.delimiter
    if mark is not None and not (len(mark) == 1 and (mark == "\t" or _MARK.fullmatch(mark))):
        raise Unusable(
            "bad_delimiter",
            f"The delimiter {quoted(mark)} is not one character of ASCII that is neither letter, "
            "digit, quote nor blank.",
        )
    if given.header_row is not None and not 1 <= given.header_row <= HEADER_ROWS:
        raise Unusable("bad_header_row", f"The header is in one of the rows 1 to {HEADER_ROWS}.")


# ------------------------------------------------------------------------------------------ type

_TYPES: Final = (
    (b"PK\x03\x04", "a zip archive; unpack it and give the CSV in it"),
    (b"%PDF", "a PDF; export the data as CSV"),
    (b"\x1f\x8b", "compressed with gzip; unpack it, or name it .csv.gz"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook (.xls); save it as CSV UTF-8"),
    (b"SQLite format 3", "an SQLite database; export the table as CSV"),
    (b"PAR1", "a Parquet file; export it as CSV"),
    (b"BZh", "compressed with bzip2; unpack it"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"\xfd7zXZ", "compressed with xz; unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it"),
    (b"{\\rtf", "a rich text document; export the data as CSV"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GIF8", "a picture"),
    (b"\xff\xfe\0\0", "text in UTF-32; save it as UTF-8"),
    (b"\0\0\xfe\xff", "text in UTF-32; save it as UTF-8"),
)
_MARKUP = re.compile(rb"\s*(<!doctype|<html|<\?xml|<table|[\[{]\s*[\"{\[])", re.IGNORECASE)


def refuse_other_types(head: bytes) -> None:
    """Raise `Unusable` if a file that begins so is something other than text."""
    for magic, what in _TYPES:
        if head.startswith(magic):
            if magic == b"PK\x03\x04" and (b"[Content_Types]" in head or b"xl/" in head):
                what = "an Excel workbook (.xlsx); save it as CSV UTF-8"
            raise Unusable("not_csv", f"The file is not a CSV, it is {what}.")
    if (match := _MARKUP.match(head)) is not None:
        what = "JSON" if match[1][:1] in b"[{" else "HTML or XML"
        raise Unusable("not_csv", f"The file is not a CSV, it is {what}; export it as CSV.")


# -------------------------------------------------------------------------------------- encoding


def _encoding(raw: bytes, given: str | None) -> tuple[Encoding, int]:
    """The encoding, and how many bytes its mark takes."""
    marks: tuple[tuple[bytes, Encoding], ...] = (
        (b"\xef\xbb\xbf", "utf-8"),
        (b"\xff\xfe", "utf-16-le"),
        (b"\xfe\xff", "utf-16-be"),
    )
    for mark, encoding in marks:
        if raw.startswith(mark) and given in (None, encoding, encoding[:6]):
            return encoding, len(mark)
    for encoding in ENCODINGS:
        if given == encoding:
            return encoding, 0
    head = raw[:4096]
    zeros = head.count(0)
    if zeros > len(head) // 8:
        # UTF-16 without a mark: in mostly Latin text every other byte is 0.
        odd = head[1::2].count(0)
        if odd > 20 * (zeros - odd):
            return "utf-16-le", 0
        if (zeros - odd) > 20 * odd:
            return "utf-16-be", 0
        raise Unusable("not_csv", "The file is not text: it is full of zero bytes.")
    return ("utf-8" if given is None else "utf-16-le"), 0


def _sample(raw: bytes, encoding: Encoding, *, offset: int, final: bool) -> bytes:
    text = decode(raw, encoding, offset=offset, final=final)
    if encoding == "utf-8":
        try:
            text.decode()
        except UnicodeDecodeError as error:
            if final or error.end < len(text) or error.reason != "unexpected end of data":
                raise _ask_encoding(not_utf8(text, error, offset)) from None
            text = text[: error.start]
    return text


def _ask_encoding(refusal: Unusable) -> Question:
    return Question(refusal.code, refusal.message, "encoding")


# ------------------------------------------------------------------------- delimiter and header

_SEP = re.compile(rb'"?sep=([\x20-\x7e\t])"?(?=\r|\n|\Z)', re.IGNORECASE)
# For a cell without the blanks around it: no two parts of these can take the same characters, so
# that a cell of 64 KB is as quickly looked at as any other.
_NUMBER = re.compile(r"[-+(]?[$€£]?\s*[0-9][0-9.,' \u00a0]*[%)€$£]?")
_DATE = re.compile(r"[0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]{1,4}.*")


def _told(text: bytes) -> tuple[bool, str | None]:
    """The delimiter that a first line such as ``sep=;`` tells."""
    match = _SEP.match(text)
    if match is None or match[1].isalnum() or match[1] == b'"':
        return False, None
    return True, match[1].decode()


class _Look:
    """The sample, read with one delimiter or another."""

    def __init__(
        self, text: bytes, final: bool, skip: int, row: int | None, wanted: frozenset[str]
    ) -> None:
        self._text = text
        self._final = final
        self._first = skip if row is None else row - 1
        self._asked = row is not None
        self._wanted = wanted
        self._tables: dict[str, list[list[str]]] = {}

    def table(self, delimiter: str) -> list[list[str]]:
        """The sample's complete records; a blank line is an empty one."""
        if delimiter not in self._tables:
            ends = records.record_ends(self._text, delimiter, final=self._final)
            complete = self._text[: int(ends[-1]) if ends.size else 0].decode()
            reader = csv.reader(io.StringIO(complete, newline=""), delimiter=delimiter)
            self._tables[delimiter] = list(reader)
        return self._tables[delimiter]

    def delimiter(self) -> str:
        """The one delimiter that divides the sample into columns."""
        fits = {}
        for candidate in DELIMITERS:
            table = self.table(candidate)
            header = self._start(table)
            if header is not None and len(table[header]) > 1:
                fits[candidate] = (
                    sum(fold(name) in self._wanted for name in table[header]),
                    _regularity(table[header:]),
                )
        if not fits:
            if self._asked and all(self._start(self.table(each)) is None for each in DELIMITERS):
                raise self._no_such_row()
            raise self._no_delimiter()
        best = max(fits.values())
        # Names that are hoped for decide; without them, readings that are about as regular tie.
        close = [
            candidate
            for candidate, (hits, share) in fits.items()
            if hits == best[0] and share > best[1] - 0.1
        ]
        if len(close) > 1:
            raise Question(
                "ambiguous_delimiter",
                "The file can be divided by "
                + " and by ".join(f"{DELIMITERS[c]} ({c!r})" for c in close)
                + ". Say which one it is.",
                "delimiter",
            )
        return close[0]

    def header(self, delimiter: str, table: Sequence[Sequence[str]]) -> int:
        """The index of the record with the column names."""
        header = self._start(table)
        if header is None:
            self._refuse_unfinished(delimiter)
            raise self._no_such_row()
        if self._asked:
            return header
        names = table[header]
        hits = sum(fold(name) in self._wanted for name in names)
        likely = self._likely(table, header)
        if likely is not None:
            raise Question(
                "header_row",
                f"Row {header + 1} ({quoted(names[0])}) does not look like column names, row "
                f"{likely + 1} ({quoted(delimiter.join(table[likely]))}) does. Say in which "
                "row they are.",
                "header_row",
            )
        values = [name for name in names if _is_number(name) or _DATE.fullmatch(name.strip())]
        if values and not hits:
            raise Question(
                "no_header",
                f"Row {header + 1} holds values ({quoted(values[0])}) and not column names. Add a "
                f"row of names, or say that row {header + 1} is one.",
                "header_row",
            )
        return header

    def _start(self, table: Sequence[Sequence[str]]) -> int | None:
        """The first record that is not blank, or the one that was asked for."""
        if self._asked:
            fits = 0 <= self._first < min(len(table), HEADER_ROWS) and table[self._first]
            return self._first if fits else None
        for i in range(self._first, len(table)):
            if any(cell.strip() for cell in table[i]):
                return i
        return None

    def _likely(self, table: Sequence[Sequence[str]], header: int) -> int | None:
        """A later record that is more likely to be the header."""
        rows = [row for row in table[header:] if row]
        width = Counter(len(row) for row in rows).most_common(1)[0][0]
        for i in range(header + 1, min(len(table), HEADER_ROWS)):
            row = table[i]
            if self._wanted:
                now = sum(fold(name) in self._wanted for name in table[header])
                if sum(fold(name) in self._wanted for name in row) > max(now, 1):
                    return i
            elif (
                len(row) == width > len(table[header]) == 1
                and all(cell.strip() for cell in row)
                and not any(_is_number(cell) for cell in row)
            ):
                return i
        return None

    def _no_such_row(self) -> Unusable:
        return Unusable(
            "no_header", f"Row {self._first + 1}, which should hold the names, is not there."
        )

    def _no_delimiter(self) -> Unusable:
        for candidate in DELIMITERS:
            self._refuse_unfinished(candidate)
            table = self.table(candidate)
            start = self._start(table)
            likely = None if start is None or self._asked else self._likely(table, start)
            if start is not None and likely is not None:
                return Question(
                    "header_row",
                    f"Row {start + 1} ({quoted(table[start][0])}) does not look like column "
                    f"names, row {likely + 1} ({quoted(candidate.join(table[likely]))}) does. Say "
                    "in which row they are.",
                    "header_row",
                )
        return Unusable(
            "no_delimiter",
            "The file has one column only. Columns must be divided by comma, semicolon, tab or "
            "pipe, or by another character that you name.",
        )

    def _refuse_unfinished(self, delimiter: str) -> None:
        """If not one record ends in the sample, say why."""
        if self.table(delimiter):
            return
        quote = records.open_quote(self._text, delimiter)
        if quote is None:
            raise Unusable(
                "header_too_long", f"The row of column names is longer than {SAMPLE:,} bytes."
            )
        raise Unusable(
            "unclosed_quote",
            f"A quote that opens in line {1 + records.line_ends(self._text[:quote]):,} is never "
            "closed: everything behind it would be one cell. Close it, or double it if it "
            "belongs to the value.",
        )


def _is_number(cell: str) -> bool:
    return _NUMBER.fullmatch(cell.strip()) is not None


def _regularity(table: Sequence[Sequence[str]]) -> float:
    """The share of records that have as many fields as the header, or one empty one more."""
    width = len(table[0])
    rows = [row for row in table[1:] if row]
    fitting = sum(
        len(row) == width or (len(row) == width + 1 and not row[-1].strip()) for row in rows
    )
    return fitting / len(rows) if rows else 1.0


# ----------------------------------------------------------------------------------------- names


def clean_names(cells: Sequence[str], notes: list[Note]) -> tuple[str, ...]:
    """Column names without invisible characters; one that is empty becomes ``column_N``."""
    if len(cells) > MAX_COLUMNS:
        raise Unusable(
            "too_many_columns",
            f"The file has {len(cells):,} columns, and {MAX_COLUMNS:,} are the most. Leave out "
            "those that the model does not use.",
        )
    names = []
    hidden = False
    for number, cell in enumerate(cells, start=1):
        if len(cell.encode()) > MAX_NAME:
            raise Unusable(
                "name_too_long",
                f"The name of column {number} ({quoted(cell)}) is longer than {MAX_NAME} bytes.",
            )
        name = "".join(" " if c in "\t\r\n" else c for c in cell)
        visible = "".join(c for c in name if unicodedata.category(c) not in ("Cc", "Cf"))
        hidden |= visible != name
        names.append(" ".join(visible.split()) or f"column_{number}")
    if hidden:
        notes.append(
            Note("hidden_characters", "Invisible characters in column names were left out.")
        )
    unnamed = [str(n) for n, cell in enumerate(cells, start=1) if not cell.strip()]
    if unnamed:
        notes.append(
            Note("unnamed_column", f"Without a name, and not used: column {', '.join(unnamed)}.")
        )
    return tuple(names)


def _trailing(width: int, samples: Sequence[Sequence[str]]) -> bool:
    """Whether every row ends in a delimiter that the header lacks."""
    return bool(samples) and all(len(row) == width + 1 and not row[-1].strip() for row in samples)

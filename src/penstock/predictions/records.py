"""Where records end in CSV text, by the rules of RFC 4180 as readers really apply them.

A quote opens a quoted field only where a field begins; elsewhere it is a character like any
other. In a quoted field two quotes are one, and line ends belong to the field. What follows the
closing quote up to the delimiter is taken as it stands. Outside of quotes LF, CR LF and a CR alone
each end a record. Python's csv and pyarrow read text in just this way.

Text is UTF-8, and begins where a record begins.
"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_LF, _CR, _QUOTE = b"\n"[0], b"\r"[0], b'"'[0]

Positions = NDArray[np.int64]


def record_ends(text: bytes, delimiter: str, *, final: bool) -> Positions:
    """The position behind each record's line end.

    With `final` the text is all there is: what stands behind the last line end is a record too,
    unless a quote is still open in it. Without, a CR at the very end is left alone, as an LF may
    follow it.
    """
    if b'"' in text and not _tidy(text, delimiter):
        ends = _scan(text, delimiter)
    else:
        ends = _unquoted_line_ends(text)
    if ends.size and not final and ends[-1] == len(text) and text.endswith(b"\r"):
        ends = ends[:-1]
    if final and (ends[-1] if ends.size else 0) < len(text):
        tail = text[int(ends[-1]) if ends.size else 0 :]
        if open_quote(tail, delimiter) is None:
            ends = np.append(ends, len(text))
    return ends


def split(text: bytes, delimiter: str, *, final: bool) -> tuple[int, int, int]:
    """How far the complete records reach, how many they are, and how many lines."""
    if b'"' not in text and not _lone_cr(text) and (not final or text.endswith(b"\n")):
        # Nothing can hide a line end: counting is enough, and ten times as fast.
        cut = text.rfind(b"\n") + 1
        count = text.count(b"\n", 0, cut)
        return cut, count, count
    ends = record_ends(text, delimiter, final=final)
    if not ends.size:
        return 0, 0, 0
    cut = int(ends[-1])
    return cut, len(ends), line_ends(text[:cut])


def line_ends(text: bytes) -> int:
    """How many lines end in the text, quoted or not."""
    if b"\r" not in text:
        return text.count(b"\n")
    return text.count(b"\n") + text.count(b"\r") - text.count(b"\r\n")


def open_quote(tail: bytes, delimiter: str) -> int | None:
    """Where the quote stands that is still open at the end of an incomplete record, if one is."""
    match = _open_record(delimiter).fullmatch(tail)
    return None if match is None else match.start(1)


def _lone_cr(text: bytes) -> bool:
    # A CR at the very end may yet be half of a CR LF; it never is before the last LF.
    return b"\r" in text and text.count(b"\r") - text.endswith(b"\r") != text.count(b"\r\n")


def _unquoted_line_ends(text: bytes) -> Positions:
    """Ends by parity: a line end behind an even number of quotes ends a record."""
    data = np.frombuffer(text, dtype=np.uint8)
    at = np.flatnonzero(data == _LF)
    if _lone_cr(text) or text.endswith(b"\r"):
        cr = np.flatnonzero(data == _CR)
        following = np.append(data, 0)[cr + 1]
        at = np.sort(np.concatenate((at, cr[following != _LF])))
    if b'"' in text:
        quotes = np.flatnonzero(data == _QUOTE)
        at = at[np.searchsorted(quotes, at) % 2 == 0]
    return at + 1


def _tidy(text: bytes, delimiter: str) -> bool:
    """Whether parity alone tells quoted from unquoted.

    It does if each opening quote stands where a field begins and each closing one where a field
    ends; a doubled quote inside of a field closes and opens at once.
    """
    data = np.frombuffer(text, dtype=np.uint8)
    quotes = np.flatnonzero(data == _QUOTE)
    ends_field = np.zeros(256, dtype=bool)
    ends_field[[_LF, _CR, ord(delimiter)]] = True
    doubled = np.diff(quotes) == 1  # [i]: quote i has quote i+1 right behind it

    opening = quotes[0::2]
    before = ends_field[data[opening - 1]]
    before[opening == 0] = True
    before[1:] |= doubled[1::2]

    closing = quotes[1::2]
    closing = closing[: len(closing) - (len(closing) > 0 and closing[-1] == len(data) - 1)]
    after = ends_field[data[closing + 1]]
    pairs = doubled[1::2][: len(after)]
    after[: len(pairs)] |= pairs
    return bool(before.all() and after.all())


def _scan(text: bytes, delimiter: str) -> Positions:
    """Ends by reading every field: for text with quotes in odd places."""
    record = _record(delimiter)
    ends = []
    at = 0
    while (match := record.match(text, at)) is not None:
        at = match.end()
        ends.append(at)
    return np.array(ends, dtype=np.int64)


def _patterns(delimiter: str) -> tuple[str, str]:
    d = re.escape(delimiter)
    field = rf'(?:"(?:[^"]++|"")*+")?+[^{d}\r\n]*+'
    # A quote that opens a field and is never closed matches no field at all: the lookahead keeps
    # it from being taken for a plain character.
    unclosed = r'"(?:[^"]++|"")*+\Z'
    return rf"(?!{unclosed}){field}", unclosed


@lru_cache
def _record(delimiter: str) -> re.Pattern[bytes]:
    d = re.escape(delimiter)
    field, _ = _patterns(delimiter)
    return re.compile(rf"{field}(?:{d}{field})*+(?:\r\n|\r|\n)".encode())


@lru_cache
def _open_record(delimiter: str) -> re.Pattern[bytes]:
    d = re.escape(delimiter)
    field, unclosed = _patterns(delimiter)
    return re.compile(rf"(?:{field}{d})*+({unclosed})".encode())

"""CSV as people send it: every separator, every encoding, and what a broken file costs."""

from __future__ import annotations

import codecs
import csv
import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.tracking.sheet import (
    MOST_BYTES,
    Fault,
    Place,
    Row,
    ToUtf8,
    delimiter_of,
    read,
)


def read_all(
    data: bytes, *, window: int = 2 * MOST_BYTES, most: int = 10, delimiter: str = ","
) -> list[Row | Fault]:
    """Everything in `data`, read as the work reads it: window by window."""
    place, found = Place(), list[Row | Fault]()
    for _ in range(10 + len(data)):
        if place.at >= len(data):
            return found
        part = data[place.at : place.at + window]
        final = place.at + len(part) >= len(data)
        some, place = read(part, place, final=final, delimiter=delimiter, most=most)
        found += some
    raise AssertionError(f"it does not come to its end: {place}")


def rows(data: bytes, **options: int) -> list[tuple[int, tuple[str, ...]]]:
    found = read_all(data, **options)
    assert all(isinstance(each, Row) for each in found), found
    return [(each.number, each.fields) for each in found if isinstance(each, Row)]


def faults(data: bytes, **options: int) -> list[tuple[int, str]]:
    found = read_all(data, **options)
    return [(each.number, each.code) for each in found if isinstance(each, Fault)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_any_line_end_separates_records(end: bytes) -> None:
    data = end.join([b"a,b", b'"c\nd",e', b"f,g"])
    expected = [(1, ("a", "b")), (2, ("c\nd", "e")), (3, ("f", "g"))]
    assert rows(data) == expected
    assert rows(data + end) == expected


def test_a_quoted_field_holds_separators_line_ends_and_quotes() -> None:
    data = b'"a,1","line\r\ntwo","say ""hi"""\r\nx,y,z\r\n'
    assert rows(data) == [
        (1, ("a,1", "line\r\ntwo", 'say "hi"')),
        (2, ("x", "y", "z")),
    ]


def test_a_quote_within_plain_text_is_text() -> None:
    assert rows(b'5" pipe,a\nb,c\n') == [(1, ('5" pipe', "a")), (2, ("b", "c"))]


def test_empty_records_are_counted_and_left_out() -> None:
    assert rows(b"a,b\n\n,,\n  ,\nc,d\n") == [(1, ("a", "b")), (5, ("c", "d"))]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'"open,b', "quote_not_closed"),
        (b'a,"b"c', "malformed_row"),
        (b"a\0,b", "nul_character"),
        (b"caf\xe9,b", "not_utf8"),
        (b"\xed\xa0\x80,b", "not_utf8"),  # half a pair
        (b"x" * (MOST_BYTES + 1), "row_too_long"),
        (b'"' + b"x" * (MOST_BYTES + 1), "row_too_long"),
    ],
)
def test_a_broken_row_is_named_and_the_rest_is_read(line: bytes, code: str) -> None:
    data = b"first,1\n" + line + b"\nlast,3\n"
    found = read_all(data)
    assert [each.number for each in found] == [1, 2, 3]
    assert isinstance(found[1], Fault)
    assert found[1].code == code
    assert found[1].message.endswith(".")
    assert found[2] == Row(3, ("last", "3"))


def test_a_quote_never_closed_costs_one_row_also_in_a_long_file() -> None:
    plain = b"".join(b"row,%d\n" % n for n in range(10_000))
    found = read_all(b'"open,0\n' + plain, most=500)
    assert [each for each in found if isinstance(each, Fault)] == [found[0]]
    assert found[0].number == 1
    assert len(found) == 10_001


def test_an_overlong_row_is_left_out_window_by_window() -> None:
    data = b"a,1\n" + b"x" * (10 * MOST_BYTES) + b"\r\nb,3\n"
    found = read_all(data)
    assert [(type(each), each.number) for each in found] == [(Row, 1), (Fault, 2), (Row, 3)]


def test_a_file_of_one_endless_row_comes_to_its_end() -> None:
    assert faults(b"x" * (5 * MOST_BYTES)) == [(1, "row_too_long")]
    assert faults(b"\r" + b"x" * (5 * MOST_BYTES) + b"\r") == [(2, "row_too_long")]


def test_a_cr_at_the_end_of_a_window_may_be_half_of_a_crlf() -> None:
    line = b"a," + b"x" * (MOST_BYTES - 4) + b"\r\n"
    data = line + line + b"b,c\r\n"
    for window in range(MOST_BYTES + 2, MOST_BYTES + 12):
        assert [number for number, _ in rows(data, window=window)] == [1, 2, 3]
    data = b"x" * (2 * MOST_BYTES - 1) + b"\r\nb,c\r\n"  # the CR is the window's last byte
    assert [each.number for each in read_all(data)] == [1, 2]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"carrier,tracking_number\n", ","),
        (b"carrier;tracking_number\n", ";"),
        (b"carrier\ttracking_number\r\n", "\t"),
        (b'"a,b,c";d;e\n', ";"),
        (b"\n\n  \na;b\n", ";"),
        (b"alone\n", ","),
        (b"", ","),
    ],
)
def test_the_separator_is_that_of_the_first_line(head: bytes, expected: str) -> None:
    assert delimiter_of(head) == expected


def _utf8(data: bytes, pieces: int) -> bytes:
    turn, out = ToUtf8(), b""
    step = max(1, len(data) // pieces)
    for at in range(0, len(data), step):
        out += turn.feed(data[at : at + step])
    return out + turn.end()


TEXT = "carrier,label\r\nups,Größe 😀\r\n"


@pytest.mark.parametrize("pieces", [1, 3, 10_000])
@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-16-le"),
        TEXT.encode("utf-16-be"),
    ],
    ids=["utf-8", "utf-8 with mark", "utf-16-le", "utf-16-be", "le, no mark", "be, no mark"],
)
def test_every_encoding_becomes_utf8(data: bytes, pieces: int) -> None:
    assert _utf8(data, pieces) == TEXT.encode()


@pytest.mark.parametrize("data", [b"", b"a", b"ab", b"abc", codecs.BOM_UTF8])
def test_files_shorter_than_a_mark(data: bytes) -> None:
    assert _utf8(data, 10) == data.removeprefix(codecs.BOM_UTF8)


def test_utf16_that_is_cut_or_broken_spoils_a_row_only() -> None:
    whole = codecs.BOM_UTF16_LE + "a,b\nc,d".encode("utf-16-le")
    assert faults(_utf8(whole[:-1], 1)) == [(2, "not_utf8")]
    half = codecs.BOM_UTF16_LE + "a,b\n".encode("utf-16-le") + b"\x00\xd8,\x00d\x00\n\x00"
    assert faults(_utf8(half + "e,f".encode("utf-16-le"), 2)) == [(2, "not_utf8")]


# Texts as a spreadsheet holds them, without surrounding spaces, which are taken off.
CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20).map(
    str.strip
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=12),
    st.sampled_from([",", ";", "\t"]),
    st.integers(1, 5),
    st.integers(0, 40),
)
def test_whatever_is_written_is_read_again(
    table: list[list[str]], delimiter: str, most: int, more: int
) -> None:
    """Written by the standard library, read in windows of any size."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows(table)
    data = file.getvalue().encode()
    found = read_all(data, window=MOST_BYTES + 1 + more, most=most, delimiter=delimiter)
    expected = [Row(n, tuple(row)) for n, row in enumerate(table, 1) if any(row)]
    assert found == expected


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.integers(1, 9))
def test_no_bytes_whatever_break_it(data: bytes, most: int) -> None:
    """Read in steps or at once, the same comes out; and it comes to its end."""
    at_once = read_all(data, most=10_000)
    assert read_all(data, most=most) == at_once
    numbers = [each.number for each in at_once]
    assert numbers == sorted(set(numbers))


def test_steps_of_any_size_see_the_same_rows_in_a_large_file() -> None:
    """Each step is given the place that the one before it came to, as after a restart."""
    chance = random.Random(7)
    cells = ["plain", 'quo"ted', "two\nlines", "", "ü" * 50, "x" * 3000]
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    for _ in range(800):
        writer.writerow([chance.choice(cells) for _ in range(3)])
    data = file.getvalue().encode()
    assert len(data) > 10 * MOST_BYTES
    assert read_all(data, most=1) == read_all(data, most=300)

"""Records, chunks and rows: the same whatever the size of the pieces, with exact places."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.predictions import records
from penstock.predictions.chunks import MAX_RECORD, Chunk, Layout, chunks, read
from penstock.predictions.encoding import Encoding
from penstock.predictions.refusal import Unusable
from penstock.predictions.table import NUMBER, TEXT, WORDS, read_rows

# Few letters, so that quotes, delimiters and line ends meet in every way.
TANGLED = st.text(alphabet='a,"\n\r é', max_size=60)
SIZES = st.integers(1, 80)


def by_csv(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


def layout(encoding: Encoding = "utf-8", start: int = 0, columns: int = 3) -> Layout:
    return Layout(encoding, ",", tuple(f"c{i}" for i in range(columns)), start, 1, 1)


def pieces(data: bytes, size: int, how: Layout | None = None) -> list[tuple[Chunk, bytes]]:
    return list(chunks(io.BytesIO(data), how or layout(), size))


@given(TANGLED)
@settings(max_examples=300)
def test_records_end_where_the_csv_module_says(text: str) -> None:
    data = text.encode()
    ends = records.record_ends(data, ",", final=True).tolist()
    cut = ends[-1] if ends else 0
    each = [by_csv(data[a:b].decode()) for a, b in zip([0, *ends], ends, strict=False)]

    whole = by_csv(text)
    assert [row for rows in each for row in (rows or [[]])] == whole[: len(ends)]
    assert (len(whole) > len(ends)) == (cut < len(data))
    if cut < len(data):
        opened = records.open_quote(data[cut:], ",")
        assert opened is not None
        assert data[cut + opened : cut + opened + 1] == b'"'


@given(TANGLED)
@settings(max_examples=200)
def test_counting_agrees_with_reading(text: str) -> None:
    data = text.encode()
    ends = records.record_ends(data, ",", final=True)
    cut, count, lines = records.split(data, ",", final=True)

    assert (cut, count) == ((int(ends[-1]), len(ends)) if len(ends) else (0, 0))
    assert lines == records.line_ends(data[:cut])


@given(TANGLED, SIZES, st.sampled_from(["utf-8", "utf-16-le", "utf-16-be", "latin-1"]))
@settings(max_examples=300)
def test_the_size_of_chunks_changes_nothing(text: str, size: int, encoding: Encoding) -> None:
    data = text.encode(encoding)
    how = layout(encoding)
    whole, refused = _tried(data, len(data) + 2, how)
    found, again = _tried(data, size, how)

    assert len(whole) <= 1
    assert again == refused  # the same refusal, whose line and row are the same too
    if refused is not None:
        return
    assert b"".join(part for _, part in found) == b"".join(part for _, part in whole)
    row, line, start = 1, 1, 0
    for number, (chunk, part) in enumerate(found):
        assert (chunk.number, chunk.start, chunk.row, chunk.line) == (number, start, row, line)
        assert chunk.records == len(by_csv(part.decode()))
        assert part.decode() == data[chunk.start : chunk.end].decode(encoding)
        assert read(io.BytesIO(data), how, chunk) == part
        row, start = row + chunk.records, chunk.end
        line += records.line_ends(part)
    assert start == len(data)


def _tried(
    data: bytes, size: int, how: Layout
) -> tuple[list[tuple[Chunk, bytes]], tuple[str, str] | None]:
    """The chunks, or the code and the message of the refusal."""
    try:
        return pieces(data, size, how), None
    except Unusable as refusal:
        return [], (refusal.code, refusal.message)


@given(TANGLED, st.booleans())
@settings(max_examples=300)
def test_rows_are_those_of_the_csv_module(text: str, typed: bool) -> None:
    data = text.encode()
    for chunk, part in _tried(data, len(data) + 1, layout())[0]:
        kinds = {0: TEXT, 1: WORDS, 2: NUMBER if typed else TEXT}
        rows = read_rows(part, layout(), chunk.records, kinds)
        expected = by_csv(part.decode())

        full = [i for i, row in enumerate(expected) if len(row) == 3]
        assert rows.record.tolist() == full
        for at in range(3):
            cells = rows.columns[at].to_pylist()
            if rows.columns[at].type != NUMBER:
                assert cells == [expected[i][at] for i in full]
            else:
                assert all(not expected[i][at].strip() for i in full)
        assert rows.blank == sum(not row for row in expected)
        assert [(each.record, each.code) for each in rows.rejected] == [
            (i, "field_count") for i, row in enumerate(expected) if len(row) not in (0, 3)
        ]


def test_a_byte_order_mark_in_the_middle_is_a_character() -> None:
    data = "\ufeffa,b,c\n\ufeffd,e,f\n".encode()
    for size in (1, 1000):
        ids = [
            cell
            for chunk, part in pieces(data, size)
            for cell in read_rows(part, layout(), chunk.records, {0: TEXT}).columns[0].to_pylist()
        ]
        assert ids == ["\ufeffa", "\ufeffd"]


@pytest.mark.parametrize("cell", ["nan(1)", "inf", "1e400", "5 ", "x", "1_0", "0x1"])
def test_a_column_of_numbers_with_something_else_stays_text(cell: str) -> None:
    part = f"1,2,3\n4,5,{cell}\n".encode()
    column = read_rows(part, layout(), 2, {2: NUMBER}).columns[2]

    if cell == "5 ":  # blanks around a number are nothing
        assert column.to_pylist() == [3.0, 5.0]
    else:
        assert column.to_pylist() == ["3", cell]


def test_trailing_cells_must_be_empty() -> None:
    how = Layout("utf-8", ",", ("a", "b", "column_3"), 0, 1, 1, trailing=True)
    rows = read_rows(b"1,2,\n3,4, \n5,6,x\n7,8\n", how, 4, {0: TEXT})

    assert rows.columns[0].to_pylist() == ["1", "3"]
    assert sorted((each.record, each.code) for each in rows.rejected) == [
        (2, "field_count"),
        (3, "field_count"),
    ]


def test_rows_with_zero_bytes_are_set_aside() -> None:
    rows = read_rows(b'1,2,3\n4,"5\n\0",6\n7,8,9\n', layout(), 3, {0: TEXT, 1: WORDS})

    assert rows.columns[0].to_pylist() == ["1", "7"]
    assert [(each.record, each.code) for each in rows.rejected] == [(1, "nul_byte")]


@pytest.mark.parametrize("size", [100, 1 << 20, 1 << 23])
def test_a_record_may_be_long_and_not_longer(size: int) -> None:
    fitting = b"a,b," + b"x" * (MAX_RECORD - 5) + b"\n"
    data = b"1,2,3\n" + fitting
    assert sum(chunk.records for chunk, _ in pieces(data * 2, size)) == 4

    with pytest.raises(Unusable, match="Row 4 is longer") as refused:
        pieces(data + b"1,2,3\nx" + fitting + b"1,2,3\n" * 100, size)
    assert refused.value.code == "record_too_long"


@pytest.mark.parametrize("size", [100, 1 << 20, 1 << 23])
@pytest.mark.parametrize(
    "end", [b"", b"more\n" * 10, b"x\n" * (1 << 20), b"x\n" * (1 << 20) + b'"\n']
)
def test_a_quote_that_is_never_closed_is_told_with_its_line(size: int, end: bytes) -> None:
    data = b'1,"a\nb",3\r\n\r\n4,"quo""ted\n",x\n5,6,"open' + end
    with pytest.raises(Unusable, match=r"opens in line 6 \(row 4\)") as refused:
        pieces(data, size)
    assert refused.value.code == "unclosed_quote"


def test_bytes_that_are_not_of_the_encoding_are_told_with_their_place() -> None:
    data = b"a,b,c\n" * 1000 + b"Jos\xe9,1,2\n"
    with pytest.raises(Unusable, match=r"Byte 6,003 .*0xe9.*'José,1,2'") as refused:
        pieces(data, 500)
    assert refused.value.code == "not_utf8"

    with pytest.raises(Unusable, match="Byte 6,003 ") as refused:
        pieces(data.replace(b"\xe9", b"\x81"), 500, layout("cp1252"))
    assert refused.value.code == "bad_encoding"

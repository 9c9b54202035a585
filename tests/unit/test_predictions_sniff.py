"""What a file is: names, samples, and which column of it is which of the model's."""

from __future__ import annotations

import io
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.predictions.chunks import chunks
from penstock.predictions.mapping import CERTAIN, propose, settle
from penstock.predictions.refusal import Question, Unusable
from penstock.predictions.sniff import DELIMITERS, Given, sniff
from support.churn import small_model

WANTED = ("customer", "tenure", "price", "support", "plan")


def test_the_layout_of_a_file() -> None:
    found = sniff(io.BytesIO("\ufeffsep=;\r\n\r\nid;Name;\r\n1;é;x\r\n2;b;y\r\n".encode()))

    assert found.layout.delimiter == ";"
    assert found.layout.names == ("id", "Name", "column_3")
    assert (found.layout.row, found.layout.line, found.layout.start) == (4, 4, 22)
    assert found.samples == (("1", "é", "x"), ("2", "b", "y"))
    assert [note.code for note in found.notes] == ["delimiter_line", "unnamed_column"]


@given(
    st.sampled_from(sorted(DELIMITERS)),
    st.lists(st.text("abc1 é", max_size=8), min_size=2, max_size=6),
    st.integers(1, 30),
    st.sampled_from(["utf-8-sig", "utf-16", "utf-16-be", "utf-16-le"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_delimiter_encoding_and_first_row_are_found(
    delimiter: str, cells: list[str], rows: int, encoding: str, newline: str
) -> None:
    head = delimiter.join(f"name {letter}" for letter in "abcdef"[: len(cells)])
    text = newline.join([head, *[delimiter.join(["x", *cells[1:]])] * rows, ""])
    file = io.BytesIO(text.encode(encoding))
    layout = sniff(file).layout

    assert layout.delimiter == delimiter
    assert layout.names == tuple(head.split(delimiter))
    assert sum(chunk.records for chunk, _ in chunks(file, layout)) == rows
    assert (layout.row, layout.line) == (2, 2)


def test_a_delimiter_is_chosen_by_the_names_that_are_hoped_for() -> None:
    data = b"customer;ten,ure;price\n1;2,3;4\n5;6,7;8\n"
    with pytest.raises(Question) as asked:
        sniff(io.BytesIO(data))
    assert (asked.value.code, asked.value.option) == ("ambiguous_delimiter", "delimiter")
    assert sniff(io.BytesIO(data), known=WANTED).layout.delimiter == ";"


@pytest.mark.parametrize("cell", ["1{}(", "{}(", "-{}x", "$1{}", "1/2/{}", "1.{}"])
@pytest.mark.parametrize("filling", [" ", "\t", "1", "\u00a0", " ,", "$"])
def test_a_long_name_is_refused_at_once(cell: str, filling: str) -> None:
    """Where two parts of a pattern could share the same blanks this took minutes."""
    name = cell.format(filling * 10_000)
    begin = time.thread_time()
    for head in (f'a,"{name}"', f'words\na,"{name}"'):
        with pytest.raises(Unusable):
            sniff(io.BytesIO(f"{head}\n1,2\n".encode()))
    assert time.thread_time() - begin < 5


def test_answers_settle_what_was_asked() -> None:
    data = b"Customers of 2026\n\n1,2\n3,4\n"
    with pytest.raises(Unusable):
        sniff(io.BytesIO(data))
    assert sniff(io.BytesIO(data), Given(header_row=3)).layout.names == ("1", "2")
    with pytest.raises(Unusable, match="Row 2, "):
        sniff(io.BytesIO(data), Given(header_row=2))


def test_a_proposal_says_how_sure_it_is() -> None:
    found = propose(WANTED, ["Plan", "customer", "ten-ure", "prices", "x"])

    assert [(m.position, m.confidence, m.how) for m in found] == [
        (1, 1.0, "same"),
        (2, CERTAIN, "spelling"),
        (3, 0.82, "similar"),
        (None, 0.0, "none"),
        (0, 0.99, "spelling"),
    ]


@given(st.lists(st.text(max_size=12), max_size=12), st.lists(st.text(max_size=12), max_size=12))
def test_no_column_is_proposed_twice(wanted: list[str], names: list[str]) -> None:
    found = propose(wanted, names)
    taken = [match.position for match in found if match.position is not None]

    assert [match.wanted for match in found] == wanted
    assert len(set(taken)) == len(taken)
    for match in found:
        assert (match.position is None) == (match.name is None)
        assert match.position is None or names[match.position] == match.name
        assert (match.confidence == 1) == (match.how == "same")


def test_a_thousand_names_are_compared_in_no_time() -> None:
    names = [f"something long that is like another {i}" for i in range(1000)]
    assert len(propose([f"{name}x" for name in names], names)) == 1000


def test_a_mapping_goes_by_position() -> None:
    mapped, matches = settle(small_model(), ["plan", "support", "PRICE", "x", "tenure", "customer"])

    assert mapped.id == 5
    assert mapped.features == (4, 2, 1, 0)
    assert [match.how for match in matches] == ["same", "same", "spelling", "same", "same"]


def test_a_model_column_is_never_guessed() -> None:
    names = ["customer", "tenures", "price", "support", "plan"]
    with pytest.raises(Question, match="Is the file's 'tenures' the model's 'tenure'"):
        settle(small_model(), names)
    mapped, _ = settle(small_model(), names, allow_missing=["tenure"])
    assert mapped.features == (None, 2, 3, 4)
    mapped, _ = settle(small_model(), names, given={"tenure": "tenures"})
    assert mapped.features == (1, 2, 3, 4)

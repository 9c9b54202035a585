"""How a column writes numbers and dates is decided from all of it, or asked."""

from __future__ import annotations

import time
from typing import Any

import pytest

from penstock.predictions.contract import NumberFormat
from penstock.predictions.refusal import Question
from penstock.predictions.training.formats import (
    date_order,
    is_date,
    number_format,
    shape,
)


def found(*cells: str, decimal: Any = None) -> NumberFormat:
    shapes = [shape(cell) for cell in cells]
    assert all(each is not None for each in shapes)
    return number_format("price", [each for each in shapes if each is not None], decimal)


def asked(*cells: str, decimal: Any = None) -> Question:
    with pytest.raises(Question) as caught:
        found(*cells, decimal=decimal)
    assert "'price'" in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (("1", "20", "-3"), NumberFormat()),
        (("1.5", "1234.25", "1e5"), NumberFormat()),
        (("0.125", "1.250"), NumberFormat()),
        (("1234.567", "1.250"), NumberFormat()),
        (("$1,200", "$3.50"), NumberFormat(".", ",", "$")),
        (("$5", "7"), NumberFormat(prefix="$")),
        (("1.200,50 €", "3,5 €"), NumberFormat(",", ".", "", "€")),
        (("10,5", "3"), NumberFormat(",")),
        (("10,5", "1,250"), NumberFormat(",")),
        (("1,234,567", "1,234"), NumberFormat(".", ",")),
        (("1.234.567",), NumberFormat(",", ".")),
        (("1 234,5",), NumberFormat(",", " ")),
        (("1\u202f234",), NumberFormat(".", " ")),
        (("1'234.5",), NumberFormat(".", "'")),
        (("45 %", "3%"), NumberFormat(suffix="%")),
        (("12 months", "3 months"), NumberFormat(suffix="months")),
        (("EUR 5", "EUR 6.5"), NumberFormat(prefix="EUR")),
        (("(45.00)", "3.10"), NumberFormat()),
    ],
)
def test_decided(cells: tuple[str, ...], expected: NumberFormat) -> None:
    assert found(*cells) == expected


@pytest.mark.parametrize("cells", [("1,234",), ("1,234", "999", "12,500"), ("1.234", "12")])
def test_a_lone_separator_before_three_digits_is_asked(cells: tuple[str, ...]) -> None:
    question = asked(*cells)

    assert (question.code, question.option) == ("decimal_separator", "decimal")
    assert repr(cells[0]) in question.message
    point, comma = found(*cells, decimal="point"), found(*cells, decimal="comma")
    separator = "," if "," in cells[0] else "."
    assert (point.decimal, point.group) == (".", "," if separator == "," else "")
    assert (comma.decimal, comma.group) == (",", "." if separator == "." else "")


@pytest.mark.parametrize(
    ("cells", "code"),
    [
        (("1.5", "2,5"), "mixed_decimals"),
        (("1,234.5", "1.234,5"), "mixed_decimals"),
        (("1,234,567", "2,5"), "mixed_decimals"),
        (("$5", "€5"), "mixed_units"),
        (("45%", "0.45"), "mixed_units"),
        (("12 months", "1 year"), "mixed_units"),
        (("900", "1.2k"), "mixed_units"),
    ],
)
def test_what_is_not_written_in_one_way(cells: tuple[str, ...], code: str) -> None:
    assert asked(*cells).code == code


def test_an_answer_that_the_column_contradicts() -> None:
    assert asked("1.5", decimal="comma").code == "mixed_decimals"


@pytest.mark.parametrize(
    "cell", ["Plan 5", "Tier 1", "abc", "1-2", "2026-01-31", "v1", "5+", "()", "１２", "٣"]
)
def test_no_numbers(cell: str) -> None:
    assert shape(cell) is None


@pytest.mark.parametrize(
    "part", ["1{} (", "a{}(", "+{}(", "{}", "1{}x", "1\t{}(", "-{}1", "({}", "1e{}", "$ {}1"]
)
@pytest.mark.parametrize("filling", [" ", "1", "x", ".", ",", "\u00a0", "1 ", "e1", "$"])
def test_a_long_cell_is_looked_at_as_quickly_as_many_short_ones(part: str, filling: str) -> None:
    """Where two parts of a pattern could share the same blanks this took minutes."""
    cell = part.format(filling * 20_000)
    begin = time.thread_time()
    shape(cell)
    is_date(cell)
    assert time.thread_time() - begin < 5


@pytest.mark.parametrize(
    ("cells", "order"),
    [
        (("2026-01-31", "2026-1-2T10:00"), "ymd"),
        (("31/01/2026", "02/01/2026"), "dmy"),
        (("01/31/2026", "02/01/2026"), "mdy"),
        (("31.12.2025",), "dmy"),
    ],
)
def test_the_order_of_dates(cells: tuple[str, ...], order: str) -> None:
    assert all(is_date(cell) for cell in cells)
    assert date_order("since", cells, None) == order


def test_an_order_that_cannot_be_told_is_asked() -> None:
    with pytest.raises(Question, match=r"'01/02/2026'") as caught:
        date_order("since", ["01/02/2026", "03/04/2026"], None)
    assert caught.value.option == "date_order"
    assert {answer.value for answer in caught.value.answers} == {"dmy", "mdy"}
    assert date_order("since", ["01/02/2026"], "mdy") == "mdy"


@pytest.mark.parametrize(
    "cells",
    [("31/01/2026", "01/31/2026"), ("2026-01-31", "01/02/2026"), ("2026-01-31", "31/1/2026")],
)
def test_dates_in_several_orders(cells: tuple[str, ...]) -> None:
    with pytest.raises(Question, match="not written in one way"):
        date_order("since", cells, "dmy")


@pytest.mark.parametrize("cell", ["1/2/26", "12", "2026", "2026-01", "1-2-3", "２０２６-01-01"])
def test_no_dates(cell: str) -> None:
    assert not is_date(cell)

"""Cells read by their contract: formats, missing, and what is refused."""

from __future__ import annotations

import datetime
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.predictions.contract import Column, NumberFormat, Parsed
from penstock.predictions.parse import parse, read_numbers

DOLLARS = NumberFormat(".", ",", "$")
GERMAN = NumberFormat(",", ".", "", "€")
PERCENT = NumberFormat(suffix="%")
AS_OF = datetime.date(2026, 1, 31)


def numbers(form: NumberFormat, *cells: str) -> list[float | str | None]:
    """A number, None for missing, "bad" for refused."""
    values, bad, _ = read_numbers(form, pa.array(cells))
    refused = np.zeros(len(cells), dtype=bool) if bad is None else bad
    return [
        "bad" if no else None if math.isnan(value) else value
        for value, no in zip(values.tolist(), refused.tolist(), strict=True)
    ]


def words(column: Column, *cells: str) -> Parsed:
    return parse(column, pa.array(cells), as_of=AS_OF)


@pytest.mark.parametrize(
    ("form", "cell", "value"),
    [
        (NumberFormat(), "12", 12.0),
        (NumberFormat(), " 12.5 ", 12.5),
        (NumberFormat(), "-3", -3.0),
        (NumberFormat(), "+3", 3.0),
        (NumberFormat(), ".5", 0.5),
        (NumberFormat(), "5.", 5.0),
        (NumberFormat(), "1e3", 1000.0),
        (NumberFormat(), "(45.00)", -45.0),
        (NumberFormat(), "", None),
        (NumberFormat(), "  ", None),
        (NumberFormat(), "N/A", None),
        (NumberFormat(), "NaN", None),
        (NumberFormat(), "-Infinity", None),
        (NumberFormat(), "1e400", None),
        (NumberFormat(), "abc", "bad"),
        (NumberFormat(), "1,200", "bad"),
        (NumberFormat(), "1 200", "bad"),
        (NumberFormat(), "0x10", "bad"),
        (NumberFormat(), "1_000", "bad"),
        (NumberFormat(), "--1", "bad"),
        (NumberFormat(), "１２", "bad"),
        (DOLLARS, "$1,200.50", 1200.5),
        (DOLLARS, "1200.5", 1200.5),
        (DOLLARS, "-$5", -5.0),
        (DOLLARS, "$ -5", -5.0),
        (DOLLARS, "($1,000)", -1000.0),
        (DOLLARS, "1,20", "bad"),
        (DOLLARS, "12,00,000", "bad"),
        (DOLLARS, "€5", "bad"),
        (DOLLARS, "-$-5", "bad"),
        (GERMAN, "1.200,50 €", 1200.5),
        (GERMAN, "0,5", 0.5),
        (GERMAN, "1.5", "bad"),
        (PERCENT, "45 %", 45.0),
        (PERCENT, "0.45", "bad"),
        (NumberFormat(suffix="months"), "12 months", 12.0),
        (NumberFormat(",", " "), "1\u202f200,5", 1200.5),
        (NumberFormat(".", "'"), "1'200", 1200.0),
    ],
)
def test_numbers(form: NumberFormat, cell: str, value: float | str | None) -> None:
    assert numbers(form, cell) == [value]
    assert numbers(form, cell, "7 €" if form is GERMAN else "x", cell)[::2] == [value, value]


def test_a_number_is_never_rescaled_by_its_size() -> None:
    parsed = words(Column("price", "number", low=0, high=100), "1500", "139700", "-50")

    assert parsed.values.tolist() == [1500.0, 139700.0, -50.0]
    assert (parsed.out_of_range, dict(parsed.bad)) == (3, {})


def test_what_is_not_finite_is_missing_and_counted() -> None:
    parsed = words(Column("price", "number"), "inf", "1e999", "nan", "1")

    assert np.isnan(parsed.values).tolist() == [True, True, True, False]
    assert (parsed.missing, parsed.not_finite) == (3, 2)


@pytest.mark.parametrize("kind", ["number", "date", "boolean", "category"])
def test_a_blank_is_missing_and_only_bad_where_it_is_forbidden(kind: Any) -> None:
    for required in (False, True):
        column = Column("x", kind, required, categories=("a",) if kind == "category" else ())
        parsed = words(column, "", "  ")

        assert parsed.missing == 2
        assert list(parsed.bad) == (["missing_value"] if required else [])


def test_dates_become_days_before_the_as_of_date() -> None:
    cells = ("2026-01-30", "2026-01-30T12:00:00Z", "2026-1-1", "2026-02-01", "")
    parsed = words(Column("since", "date"), *cells)

    assert parsed.values.tolist()[:4] == [1.0, 1.0, 30.0, -1.0]
    assert (parsed.missing, parsed.future, dict(parsed.bad)) == (1, 1, {})


@pytest.mark.parametrize(
    ("order", "cell", "days"),
    [("dmy", "02/01/2026", 29), ("mdy", "02/01/2026", -1), ("dmy", "30.1.2026", 1)],
)
def test_the_order_of_a_date(order: Any, cell: str, days: int) -> None:
    assert words(Column("since", "date", date=order), cell).values.tolist() == [days]


@pytest.mark.parametrize(
    "cell", ["2026-02-30", "01/02/26", "yesterday", "2026-01-01x", "20260101", "1/2-2026", "45000"]
)
def test_no_dates(cell: str) -> None:
    assert words(Column("since", "date"), cell).bad["not_date"].tolist() == [True]


def test_days_of_a_spreadsheet_only_where_declared() -> None:
    column = Column("since", "date", date="excel")

    assert words(column, "46052", "46053.75").values.tolist() == [1.0, 0.0]
    assert words(column, "1e99", "-4", "2026-01-01").bad["not_date"].all()


def test_truth_values() -> None:
    parsed = words(Column("x", "boolean"), "Yes", "no", "TRUE", "0", " Oui ", "", "maybe")

    assert parsed.values.tolist() == [2, 1, 2, 1, 2, 0, 0]
    assert parsed.bad["not_boolean"].tolist() == [False] * 6 + [True]
    assert parsed.missing == 1


def test_categories_match_without_case_width_and_blanks() -> None:
    column = Column("plan", "category", categories=("One year", "Two year"))
    parsed = words(column, "one  YEAR ", "ｔｗｏ　ｙｅａｒ", "", "NA", "3 years")

    assert parsed.values.tolist() == [1, 2, 0, 3, 3]
    assert (parsed.missing, parsed.unseen) == (1, 2)


def test_a_column_encoded_by_the_reader_reads_the_same() -> None:
    cells = pa.array(["No", "Yes", "", "x", "No"])
    for column in (
        Column("x", "category", categories=("no",)),
        Column("x", "boolean"),
        Column("x", "number"),
    ):
        plain, coded = parse(column, cells), parse(column, cells.dictionary_encode())
        assert np.array_equal(plain.values, coded.values, equal_nan=column.kind == "number")
        assert plain.missing == coded.missing


_FORMATS = st.builds(
    NumberFormat,
    st.just("."),
    st.sampled_from(["", ",", " ", "'"]),
    st.sampled_from(["", "$", "EUR"]),
    st.sampled_from(["", "%", "€", "e", "months"]),
) | st.just(GERMAN)


@given(
    form=_FORMATS,
    cells=st.lists(st.text("0123456789.,' -+()$€%eEURmonths\u202f", max_size=12), max_size=8),
)
def test_any_text_is_a_number_or_missing_or_bad(form: NumberFormat, cells: list[str]) -> None:
    values, bad, _ = read_numbers(form, pa.array(cells, pa.string()))

    assert len(values) == len(cells)
    assert bad is None or not np.isfinite(values[bad]).any()
    # A cell is read the same whatever stands beside it.
    for i, cell in enumerate(cells):
        alone, refused, _ = read_numbers(form, pa.array([cell]))
        assert np.array_equal(alone, values[i : i + 1], equal_nan=True)
        assert (refused is not None) == (bad is not None and bool(bad[i]))


@given(
    cells=st.lists(st.text(max_size=12) | st.from_regex(r"\d{1,4}[-/]\d{1,2}[-/]\d{1,4}.?")),
    order=st.sampled_from(["ymd", "dmy", "mdy", "excel"]),
)
def test_any_text_is_a_date_or_missing_or_bad(cells: list[str], order: Any) -> None:
    parsed = words(Column("x", "date", date=order), *cells) if cells else None

    assert parsed is None or len(parsed.values) == len(cells)

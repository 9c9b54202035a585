"""A file scored in chunks: values, errors with their places, and the same bytes every time."""

from __future__ import annotations

import csv
import io
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.predictions.check import Mapped
from penstock.predictions.contract import Column
from penstock.predictions.model import Feature, Model
from penstock.predictions.output import ERROR_COLUMNS
from penstock.predictions.pipeline import FLAGS, Counts, Job, Outcome, outcomes
from penstock.predictions.sniff import Given, sniff
from support.churn import small_model

HEAD = ["customer", "tenure", "price", "support", "plan"]
ALL = Mapped(0, (1, 2, 3, 4))


@dataclass
class Result:
    rows: list[dict[str, str]]
    errors: list[dict[str, str]]
    counts: Counts
    csv: bytes
    error_bytes: bytes


def job(data: bytes, model: Model | None = None, given: Given | None = None, **more: Any) -> Job:
    model = model or small_model()
    layout = sniff(io.BytesIO(data), given, known=HEAD).layout
    return Job(model, layout, ALL, **more)


def together(of: Job, results: Iterator[Outcome]) -> Result:
    out, errors, counts = [of.csv.head], [], Counts.none(of)
    for outcome in results:
        out.append(outcome.csv)
        errors.append(outcome.errors)
        counts += outcome.counts
    scored, wrong = b"".join(out), b"".join(errors)
    return Result(
        list(csv.DictReader(io.StringIO(scored.decode(), newline=""))),
        list(csv.DictReader(io.StringIO(wrong.decode(), newline=""), ERROR_COLUMNS)),
        counts,
        scored,
        wrong,
    )


def score(data: bytes, size: int = 1 << 20, **more: Any) -> Result:
    of = job(data, **more)
    return together(of, outcomes(io.BytesIO(data), of, size=size))


def table(*rows: str, head: str = ",".join(HEAD)) -> bytes:
    return "\n".join((head, *rows, "")).encode()


def test_a_row_is_scored_and_explained() -> None:
    found = score(table("00123,1,20,yes,Monthly", "A,30,100,no,One year"))

    # -1 + 1 - .2 - .3 + .6 = .1 and -1 - .75 + .2 + .3 - .6 = -1.85, in logits
    assert [list(row.values()) for row in found.rows] == [
        ["00123", "0.524979", "medium", "tenure up to 2 (raises risk)",
         "plan is Monthly (raises risk)", "support is yes (lowers risk)"],
        ["A", "0.135873", "low", "tenure from 13 (lowers risk)", "plan is One year (lowers risk)",
         "support is no (raises risk)"],
    ]  # fmt: skip
    assert found.errors == []
    assert found.counts.levels.tolist() == [1, 1, 0]
    assert found.counts.probability == pytest.approx(0.660852)


def test_blank_cells_are_missing_and_not_bad() -> None:
    found = score(table("a,,20,,Monthly", "b, ,20,  ,Monthly", 'c,"",20,NA,Monthly'))

    assert found.errors == []
    assert len({row["churn_probability"] for row in found.rows}) == 1
    flags = {name: found.counts.flags[:, i].tolist() for i, name in enumerate(FLAGS)}
    assert flags["missing"] == [3, 0, 3, 0]


def test_a_required_column_must_be_filled() -> None:
    model = small_model()
    first, *rest = model.features
    model = replace(
        model, features=(replace(first, column=replace(first.column, required=True)), *rest)
    )
    found = score(table("a,,20,no,Monthly", "b,5,20,no,Monthly", "c,NA,x,no,Monthly"), model=model)

    assert [row["customer"] for row in found.rows] == ["b"]
    assert [(e["row"], e["column"], e["code"], e["value"]) for e in found.errors] == [
        ("2", "tenure", "missing_value", ""),
        ("4", "tenure", "missing_value", "NA"),
        ("4", "price", "not_number", "x"),
    ]
    assert (found.counts.rows, found.counts.bad) == (1, 2)


@pytest.mark.parametrize(
    "identifier", ["00123", "1e5", "12345678901234567890", "NA", "007.0", " a b ", "é漢", "nan"]
)
def test_ids_come_back_as_they_were(identifier: str) -> None:
    found = score(table(f"{identifier},1,20,yes,Monthly"))

    assert found.rows[0]["customer"] == identifier


def test_ids_with_delimiters_and_formulas() -> None:
    found = score(
        table('"a,b",1,20,yes,Monthly', '"c""d\ne",1,20,yes,Monthly', "=1+1,1,20,yes,Monthly",
              "-5,1,20,yes,Monthly", "＠x,1,20,yes,Monthly", "\t+x,1,20,yes,Monthly")
    )  # fmt: skip
    ids = [row["customer"] for row in found.rows]

    assert ids == ["a,b", 'c"d\ne', "'=1+1", "-5", "'＠x", "'\t+x"]
    assert found.counts.neutralized == 3


@pytest.mark.parametrize(
    ("row", "code", "column", "value"),
    [
        (",1,20,yes,Monthly", "missing_id", "customer", ""),
        ("  ,1,20,yes,Monthly", "missing_id", "customer", "  "),
        ("Total,1,20,yes,Monthly", "totals_row", "customer", "Total"),
        ("a,1,20,yes", "field_count", "", ""),
        ("a,1,20,yes,Monthly,", "field_count", "", ""),
        ("a,abc,20,yes,Monthly", "not_number", "tenure", "abc"),
        ("a,1,$20,yes,Monthly", "not_number", "price", "$20"),
        ("a,1,\"1,234\",yes,Monthly", "not_number", "price", "1,234"),
        ("a,1,20,perhaps,Monthly", "not_boolean", "support", "perhaps"),
        ("a,1,20,yes,Mon\0thly", "nul_byte", "", ""),
        ("a,1,20,yes," + "x" * 70_000, "field_too_long", "plan", "x" * 99 + "…"),
        ("a,=1+1,20,yes,Monthly", "not_number", "tenure", "'=1+1"),
        ('a,"1\n2",20,yes,Monthly', "not_number", "tenure", "1\\n2"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_row_is_told(row: str, code: str, column: str, value: str) -> None:
    found = score(table("fine,1,20,yes,Monthly", row, "too,1,20,yes,Monthly"))

    assert [each["customer"] for each in found.rows] == ["fine", "too"]
    (error,) = found.errors
    assert (error["row"], error["line"], error["byte"]) == ("3", "3", "57")
    assert (error["code"], error["column"], error["value"]) == (code, column, value)
    assert found.counts.faults == {(column, code): 1}


@pytest.mark.parametrize("value", ["inf", "-Infinity", "1e400"])
def test_what_is_not_finite_counts_as_missing(value: str) -> None:
    found = score(table(f"a,{value},20,yes,Monthly", "b,,20,yes,Monthly"))

    assert found.rows[0]["churn_probability"] == found.rows[1]["churn_probability"]
    assert found.counts.flags[0].tolist() == [2, 0, 1, 0, 0]


def test_values_outside_of_the_training_range_are_used_as_they_are() -> None:
    found = score(table("a,-3,20,yes,Monthly", "b,1,20,yes,Monthly", "c,999,-50,yes,Monthly"))

    assert found.rows[0]["churn_probability"] == found.rows[1]["churn_probability"]
    assert found.counts.flags[:2, FLAGS.index("out_of_range")].tolist() == [2, 1]


def test_a_value_that_training_did_not_know_is_counted() -> None:
    found = score(table("a,1,20,yes,Weekly", "b,1,20,yes,MONTHLY", "c,1,20,yes, one  year "))

    assert found.counts.flags[3].tolist() == [0, 1, 0, 0, 0]
    assert found.rows[1]["reason_2"] == "plan is Monthly (raises risk)"
    assert found.rows[2]["reason_2"] == "plan is One year (lowers risk)"


CELL = st.sampled_from(
    ["", " ", "1", "12.5", "x", "yes", "No", "Monthly", "one year", "a,b", 'q"', "new\nline", "é",
     "=1", "-5", "1e400", "nan", "nan(1)", "NA", "\r", "00123", "Total"]
)  # fmt: skip
ROW = st.one_of(
    st.lists(CELL, min_size=5, max_size=5),
    st.lists(CELL, min_size=5, max_size=5),
    st.lists(CELL, min_size=1, max_size=7),
    st.just([]),
)


@given(
    st.lists(ROW, min_size=1, max_size=12),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp1252"]),
    st.integers(1, 200),
)
@settings(max_examples=120, deadline=None)
def test_any_file_at_any_chunk_size(
    rows: list[list[str]], newline: str, encoding: str, size: int
) -> None:
    """Every row comes out once, scored or with its exact place among the errors."""
    rows = [["first", "1", "20", "yes", "Monthly"], *rows]
    places, data = written([HEAD, *rows], newline, encoding)
    given = Given(None if encoding.startswith("utf-8") else encoding, ",", 1)
    whole = score(data, given=given)
    small = score(data, size, given=given)

    assert (small.csv, small.error_bytes) == (whole.csv, whole.error_bytes)
    for name in ("slots", "reasons", "scores", "spread", "levels", "flags"):
        assert np.array_equal(getattr(small.counts, name), getattr(whole.counts, name)), name
    assert small.counts.faults == whole.counts.faults
    wrong = {int(error["row"]) for error in whole.errors}
    filled = [i for i, row in enumerate(rows, start=2) if row]
    good = [i for i in filled if i not in wrong]
    assert [row["customer"].removeprefix("'") for row in whole.rows] == [
        rows[i - 2][0].removeprefix("'") for i in good
    ]
    for error in whole.errors:
        assert (int(error["line"]), int(error["byte"])) == places[int(error["row"]) - 1]
    for i in filled:
        bad = len(rows[i - 2]) != 5
        assert ((i in wrong) and any(
            error["code"] == "field_count" for error in whole.errors if error["row"] == str(i)
        )) == bad  # fmt: skip
    assert whole.counts.blank == len(rows) - len(filled)
    assert whole.counts.rows + whole.counts.bad == len(filled)


def written(
    rows: list[list[str]], newline: str, encoding: str
) -> tuple[list[tuple[int, int]], bytes]:
    """A file, and the line and the byte at which each of its rows begins."""
    data = "".encode(encoding)
    plain = "utf-16-le" if encoding == "utf-16" else encoding.removesuffix("-sig")
    line = 1
    places = []
    for row in rows:
        text = ",".join(
            '"' + cell.replace('"', '""') + '"' if set(cell) & set(',"\r\n') else cell
            for cell in row
        )
        text = ('""' if row == [""] else text) + newline  # bare, it would be a blank line
        places.append((line, len(data)))
        data += text.encode(plain)
        line += text.replace("\r\n", "\n").replace("\r", "\n").count("\n")
    return places, data


def test_several_processes_give_the_same_bytes(tmp_path: Path) -> None:
    rows = [f"{i:05},{i % 70},{i}.5,{'yes' if i % 3 else 'perhaps'},Monthly" for i in range(3000)]
    path = tmp_path / "customers.csv"
    path.write_bytes(table(*rows))
    of = job(path.read_bytes())
    with path.open("rb") as file:
        alone = together(of, outcomes(file, of, size=20_000))
        shared = together(of, outcomes(file, of, size=20_000, processes=2))

    assert len(alone.rows) == 2000
    assert (shared.csv, shared.error_bytes) == (alone.csv, alone.error_bytes)
    assert shared.counts.slots.tolist() == alone.counts.slots.tolist()


def test_a_job_can_be_sent_to_another_process() -> None:
    of = job(table("a,1,20,yes,Monthly"))
    assert of.scorer.texts
    again = pickle.loads(pickle.dumps(of))

    assert again == of
    assert "scorer" not in vars(again)


def test_dates_are_counted_from_the_as_of_day() -> None:
    import datetime

    since = Feature(
        Column("tenure", "date", low=0.0, high=1000.0), (30.0,), (0.0, 1.0, -1.0), (0, 50, 50)
    )
    model = small_model()
    model = replace(model, features=(since, *model.features[1:]))
    data = table("a,2026-01-20,20,yes,Monthly", "b,2025-01-20,20,yes,Monthly",
                 "c,2026-02-20,20,yes,Monthly", "d,20/01/2026,20,yes,Monthly")  # fmt: skip
    found = score(data, model=model, as_of=datetime.date(2026, 1, 31))

    assert found.rows[0]["reason_1"] == "tenure up to 30 days before (raises risk)"
    assert found.rows[1]["reason_1"] == "tenure above 30 days before (lowers risk)"
    assert found.counts.flags[0, FLAGS.index("future")] == 1
    assert [(error["row"], error["code"]) for error in found.errors] == [("5", "not_date")]

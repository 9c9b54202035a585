"""What training refuses, asks and leaves out, and that the tables are the boosters."""

from __future__ import annotations

import datetime
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.predictions import parse as parsing
from penstock.predictions.card import card, html
from penstock.predictions.model import Model, Risk, dump, load
from penstock.predictions.refusal import Answer, MissingExtra, Question, Unusable
from penstock.predictions.score import Scorer, probability
from penstock.predictions.training import boost, fit, labels, measure
from penstock.predictions.training.infer import infer
from support.churn import OPTIONS, customers, sheet

Columns = dict[str, list[str]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boost, "plan", lambda rows: boost.Plan(2, 60))


def train(columns: Columns, **options: Any) -> Model:
    return fit.train(sheet(columns), replace(OPTIONS, **options), created_at="2026-01-31")


def refusal(columns: Columns, **options: Any) -> Unusable:
    with pytest.raises(Unusable) as caught:
        train(columns, **options)
    return caught.value


def left(columns: Columns, **options: Any) -> dict[str, str]:
    known = labels.labelled(sheet(columns), replace(OPTIONS, **options))
    found = infer(sheet(columns), known.rows, known.truth, replace(OPTIONS, **options))
    return {each.name: each.code for each in found.left}


def scores(model: Model, columns: Columns) -> tuple[Scorer, np.ndarray]:
    scorer = Scorer(model)
    as_of = model.as_of and datetime.date.fromisoformat(model.as_of)
    parsed = [
        parsing.parse(feature.column, pa.array(columns[feature.column.name]), as_of=as_of or None)
        for feature in model.features
    ]
    return scorer, scorer.slots(parsed)


# ---------------------------------------------------------------------------- the model itself


def test_the_same_file_gives_the_same_bytes() -> None:
    columns = customers()

    assert dump(train(columns)) == dump(train(columns))


def test_tables_are_the_boosters() -> None:
    random = np.random.default_rng(2)
    columns = customers(600)
    columns["price"] = [
        text if random.random() > 0.1 else random.choice(["", "  ", "N/A"])
        for text in columns["price"]
    ]
    columns["plan"] = [text if random.random() > 0.1 else "" for text in columns["plan"]]
    columns["since"] = [
        (datetime.date(2026, 1, 1) - datetime.timedelta(int(days))).isoformat()
        for days in random.integers(0, 900, 600)
    ]
    options = replace(OPTIONS, as_of=datetime.date(2026, 1, 1))
    model = train(columns, as_of=options.as_of)
    known = labels.labelled(sheet(columns), options)
    found = infer(sheet(columns), known.rows, known.truth, options)
    matrix = fit.design(found.columns, [each.values for each in found.parsed])
    categorical = [i for i, c in enumerate(found.columns) if c.kind == "category"]
    boosters = boost.fit(matrix, known.truth, categorical, boost.plan(600), seed=OPTIONS.seed)
    scorer, slots = scores(model, columns)

    assert {c.kind for c in found.columns} == {"number", "boolean", "category", "date"}
    assert np.abs(scorer.logit(slots) - boost.predict(boosters, matrix)).max() < 1e-9
    assert model.training.compiled_error < 1e-9
    # The parts of each feature add up to nothing over the training rows.
    for feature in model.features:
        assert abs(np.dot(feature.table, feature.counts)) < 1e-6
    # The starting point is the mean score, and each row's reasons add up to its score.
    parts = scorer.logits[slots]
    assert (model.intercept + parts.sum(axis=0)).tolist() == pytest.approx(
        scorer.logit(slots).tolist(), abs=1e-9
    )


def test_it_learns_what_there_is_to_learn() -> None:
    model = train(customers(1500, seed=3))
    others = customers(1500, seed=4)
    scorer, slots = scores(model, others)
    truth = np.array([text == "yes" for text in others["churned"]], dtype=float)

    assert measure.auc(truth, scorer.logit(slots)) > 0.75
    assert 0.7 < model.metrics.auc < 0.95
    assert model.metrics.log_loss < model.metrics.base_log_loss
    document = card(model)
    assert document["features"][0]["name"] == "tenure"
    assert sum(model.scores.counts) == 1500
    assert probability(scorer.logit(slots)).mean() == pytest.approx(truth.mean(), abs=0.05)


def test_a_slot_that_training_never_met_counts_neither_way() -> None:
    model = train(customers())
    others = {**customers(3), "tenure": [""] * 3, "support": [""] * 3, "plan": ["?", "", "None"]}
    scorer, slots = scores(model, others)

    assert (scorer.logits[slots][[0, 1, 3]] == 0).all()


def test_calibration_is_a_line_and_keeps_the_sum() -> None:
    random = np.random.default_rng(1)
    logit = random.normal(0, 3, 4000)
    truth = (random.random(4000) < 1 / (1 + np.exp(-(0.4 * logit - 1)))).astype(float)
    judged = fit.Judged(logit, truth)
    line = fit.calibration(judged)

    assert line is not None
    assert (line.slope, line.offset) == (pytest.approx(0.4, abs=0.05), pytest.approx(-1, abs=0.15))
    better = measure.ece(truth, probability(line.slope * logit + line.offset))
    assert better < 0.03 < measure.ece(truth, probability(logit))
    model = train(customers())
    features, intercept = fit.along(line, model.features, model.intercept)
    scorer, slots = scores(model, customers())
    bent = Scorer(replace(model, features=features, intercept=intercept))
    assert bent.logit(slots).tolist() == pytest.approx(
        (line.slope * scorer.logit(slots) + line.offset).tolist()
    )
    assert fit.calibration(fit.Judged(logit[:900], truth[:900])) is None  # too few to tell
    assert fit.calibration(fit.Judged(0.4 * logit - 1, truth)) is None  # good as it is


def test_the_card_says_what_it_is_and_runs_nothing() -> None:
    columns = customers()
    columns["<script>alert(1)</script>"] = columns.pop("price")
    columns["note"] = [f"</style><b>{i}" for i in range(400)]
    model = train(columns, name="<i>mine</i>", risk=Risk(0.2, 0.5))
    page = html(model)

    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;i&gt;mine&lt;/i&gt;" in page
    assert "http" not in page
    assert "note" in page
    assert "medium from 20%" in page
    assert load(dump(model)) == model


# ------------------------------------------------------------------------------------- refusals


def test_too_few_rows() -> None:
    error = refusal({name: cells[:199] for name, cells in customers().items()})

    assert error.code == "too_few_rows"
    assert "199" in error.message


@pytest.mark.parametrize(("value", "what"), [("yes", "49 customers churned"), ("no", "stayed")])
def test_too_few_of_a_class(value: str, what: str) -> None:
    columns = customers()
    other = "no" if value == "yes" else "yes"
    columns["churned"] = [value] * 49 + [other] * 351

    error = refusal(columns)
    assert error.code == "too_few_of_a_class"
    assert what in error.message


def test_one_class() -> None:
    columns = customers()
    columns["churned"] = ["yes"] * 400

    assert refusal(columns).code == "one_class"
    assert refusal({**columns, "churned": [""] * 400}).code == "one_class"


def test_no_rows() -> None:
    assert refusal({name: [] for name in customers()}).code == "no_rows"
    assert refusal({**customers(), "customer": [" "] * 400}).code == "no_rows"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"label": "Churned"}, "label_not_found"),
        ({"id": "nobody"}, "id_not_found"),
        ({"id": "churned"}, "label_is_id"),
        ({"positive": ("maybe",)}, "label_value_not_found"),
        ({"positive": ("yes",), "negative": ("YES",)}, "label_value_twice"),
        ({"positive": ("yes", "no")}, "one_class"),
        ({"label": "price"}, "label_not_two"),
        ({"drop": ("nothing",)}, "column_not_found"),
        ({"types": {"nothing": "number"}}, "column_not_found"),
        ({"drop": ("tenure", "plan", "price", "support")}, "no_features"),
    ],
)
def test_answers_that_do_not_fit_the_file(options: dict[str, Any], code: str) -> None:
    error = refusal(customers(), **options)

    assert error.code == code
    assert not isinstance(error, Question)


def test_two_columns_of_one_name() -> None:
    whole = sheet({**customers(), "tenure2": customers()["tenure"]})
    twice = replace(whole, names=tuple(name.rstrip("2") for name in whole.names))

    with pytest.raises(Unusable, match="'tenure'") as caught:
        fit.train(twice, OPTIONS, created_at="")
    assert caught.value.code == "duplicate_column"


def test_a_customer_who_churned_and_stayed() -> None:
    columns = customers()
    columns["customer"][7] = columns["customer"][300] = "X"
    columns["churned"][7], columns["churned"][300] = "yes", "no"

    error = refusal(columns)
    assert error.code == "conflicting_labels"
    assert "'X' (rows 9, 302)" in error.message


# ------------------------------------------------------------------------------------ questions


def test_the_positive_label_is_asked() -> None:
    error = refusal(customers(), positive=())

    assert isinstance(error, Question)
    assert (error.code, error.option) == ("positive_label", "positive")
    assert "'yes' (" in error.message
    assert error.answers == (Answer("positive", "VALUE"),)


def test_a_label_of_three_values_is_asked_for_the_other_side() -> None:
    columns = customers()
    columns["churned"][:5] = ["paused"] * 5

    error = refusal(columns)
    assert isinstance(error, Question)
    assert error.code == "negative_label"
    model = train(columns, negative=("NO",))
    assert model.training.rows == 395
    assert model.label.negative == ("no",)
    assert any("5 rows without a usable 'churned'" in text for text in model.warnings)


@pytest.mark.parametrize(
    ("cells", "code", "answer"),
    [
        (["1,200", "1,500", "900", "2,250"], "decimal_separator", {"decimal": "point"}),
        (["01/02/2025", "03/04/2025"], "date_order", {"date_order": "dmy"}),
        (["2025-01-31", "2025-04-01"], "as_of", {"as_of": datetime.date(2026, 1, 1)}),
        (["5", "6", "7"] * 20 + ["n.n."], "mixed_column", {"types": {"extra": "number"}}),
        (["5", "6", "7"] * 20 + ["n.n."], "mixed_column", {"types": {"extra": "category"}}),
        (["$5", "€6"], "mixed_units", {"drop": ("extra",)}),
        (["1.5", "2,5"], "mixed_decimals", {"drop": ("extra",)}),
    ],
)
def test_what_can_be_read_in_two_ways_is_asked(
    cells: list[str], code: str, answer: dict[str, Any]
) -> None:
    columns = customers()
    columns["extra"] = [cells[i % len(cells)] for i in range(400)]
    # An answer to the last question may raise the next, never the same one again.
    known = {"as_of": datetime.date(2026, 1, 1)} if code == "date_order" else {}

    error = refusal(columns, **known)
    assert isinstance(error, Question)
    assert error.code == code
    assert "'extra'" in error.message
    assert error.answers
    assert {each.column for each in error.answers} <= {"", "extra"}
    assert "--" not in error.message  # how it is said depends on who asks
    model = train(columns, **known, **answer)
    assert ("extra" in [f.column.name for f in model.features]) == ("drop" not in answer)


def test_cells_that_break_the_contract_are_told() -> None:
    columns = customers()
    columns["price"][:3] = ["unknown", "?", "abc"]

    error = refusal(columns)
    assert "row 2" in error.message
    model = train(columns, types={"price": "number"})
    assert any("3 cells of 'price' break its contract" in text for text in model.warnings)


# ---------------------------------------------------------------------- what columns are, or not


def test_prices_with_signs_groups_and_blanks() -> None:
    """Blank and "$1,200.50" cells made an earlier system fail on its own training file."""
    columns = customers()
    columns["price"] = [f"${float(text) * 30:,.2f}" for text in columns["price"]]
    columns["price"][0] = " "
    model = train(columns)
    price = next(f.column for f in model.features if f.column.name == "price")

    assert (price.kind, price.number.prefix, price.number.group) == ("number", "$", ",")
    assert price.high is not None
    assert price.high > 1000  # as written, not divided by a hundred


def test_whole_numbers_take_the_decimal_comma_of_their_file() -> None:
    columns = customers()
    columns["price"] = [text.replace(".", ",") for text in columns["price"]]
    model = train(columns)

    assert {f.column.number.decimal for f in model.features if f.column.kind == "number"} == {","}


@pytest.mark.parametrize(
    ("cells", "code"),
    [
        ([""], "empty"),
        (["same"], "constant"),
        (["7", "7.0"], "constant"),
        ([f"A-{i}" for i in range(400)], "id_like"),
        ([str(1000 + i) for i in range(400)], "id_like"),
        ([f"text {i // 2}" for i in range(400)], "id_like"),
        ([f"text {i // 4 if i % 3 else i}" for i in range(400)], "free_text"),
    ],
)
def test_columns_that_say_nothing_are_left_out(cells: list[str], code: str) -> None:
    columns = customers()
    columns["extra"] = [cells[i % len(cells)] for i in range(400)]
    expected = "free_text" if cells[0] == "text 0" and code == "id_like" else code

    assert left(columns) == {"extra": expected}


def test_columns_written_after_the_fact_are_left_out() -> None:
    columns = customers()
    gone = [text == "yes" for text in columns["churned"]]
    columns["reason"] = [["price", "service"][i % 2] if out else "" for i, out in enumerate(gone)]
    columns["last_day"] = [f"0{i % 9 + 1}/01/2026" if out else "" for i, out in enumerate(gone)]
    columns["status"] = ["closed" if out else "open" for out in gone]
    columns["refund"] = [str(100 + i % 50) if out else str(i % 50) for i, out in enumerate(gone)]

    assert left(columns) == dict.fromkeys(("reason", "last_day", "status", "refund"), "leak")
    assert "status" not in left(columns, keep=("status",))
    model = train(columns)
    assert model.metrics.auc < 0.95
    assert {each.name for each in model.left} == {"reason", "last_day", "status", "refund"}
    assert "after the fact" in html(model)


def test_copies_count_once_and_a_customers_rows_stay_together() -> None:
    columns = {name: cells + cells[:50] for name, cells in customers().items()}
    columns["tenure"][-1] = "61"
    known = labels.labelled(sheet(columns), OPTIONS)

    assert len(known.rows) == 401
    assert any("49 rows were exact copies" in text for text in known.warnings)
    chosen = fit.folds(known.truth, known.group, seed=1)
    assert chosen[known.rows == 49][0] == chosen[known.rows == 449][0]
    for fold in range(fit.FOLDS):
        assert known.truth[chosen == fold].mean() == pytest.approx(known.truth.mean(), abs=0.02)


def test_categories_that_are_rare_are_one() -> None:
    columns = customers()
    columns["plan"][:4] = ["Trial", "trial ", "Gift", "Gift"]
    model = train(columns)
    plan = next(f for f in model.features if f.column.name == "plan")

    assert plan.column.categories == ("Monthly", "One year", "Two year")
    assert plan.counts[-1] == 4


def test_truth_values_are_read_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier system took the text "No" for true."""
    monkeypatch.setattr(boost, "plan", lambda rows: boost.Plan(1, 300))
    model = train(customers(1000))
    support = next(f for f in model.features if f.column.name == "support")

    assert support.column.kind == "boolean"
    assert support.table[1] > 0 > support.table[2]


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(MissingExtra, match=r"pip install 'penstock\[train\]'"):
        train(customers())

    class Broken:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "lightgbm":
                raise OSError("libgomp.so.1: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "lightgbm")
    monkeypatch.setattr("sys.meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(MissingExtra, match="apt-get install libgomp1"):
        train(customers())

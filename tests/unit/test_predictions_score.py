"""Scores are sums of table entries, and the reasons are their largest parts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.predictions.contract import Column
from penstock.predictions.model import Feature, Model, Risk
from penstock.predictions.parse import parse
from penstock.predictions.score import (
    MIN_REASON,
    NO_REASON,
    RISK_LEVELS,
    Scorer,
    probability,
    risk_levels,
    slot_texts,
)
from support.churn import small_model


def slots(model: Model, *rows: tuple[str, ...]) -> np.ndarray:
    columns = zip(*rows, strict=True)
    parsed = [
        parse(feature.column, pa.array(cells))
        for feature, cells in zip(model.features, columns, strict=True)
    ]
    return Scorer(model).slots(parsed)


def texts(scorer: Scorer, found: np.ndarray) -> list[list[str]]:
    return [[scorer.texts[slot] for slot in row if slot != NO_REASON] for row in found.T.tolist()]


def test_a_score_is_the_sum_of_its_parts() -> None:
    model = small_model()
    scorer = Scorer(model)
    found = slots(model, ("2", "50.5", "no", "Monthly"), ("2.5", "51", "yes", "one year"))

    assert scorer.logit(found).tolist() == pytest.approx(
        [-1 + 1 - 0.2 + 0.3 + 0.6, -1 + 0.25 + 0.2 - 0.3 - 0.6]
    )
    assert probability(np.array([0.0])).tolist() == [0.5]


def test_reasons_are_the_largest_parts_in_both_directions() -> None:
    model = small_model()
    scorer = Scorer(model)
    found = slots(model, ("1", "20", "yes", "Monthly"))

    assert texts(scorer, scorer.strongest(found)) == [
        [
            "tenure up to 2 (raises risk)",
            "plan is Monthly (raises risk)",
            "support is yes (lowers risk)",
        ]
    ]
    assert texts(scorer, scorer.raising(found)) == [
        ["tenure up to 2 (raises risk)", "plan is Monthly (raises risk)"]
    ]
    assert texts(scorer, scorer.lowering(found)) == [
        ["support is yes (lowers risk)", "price up to 50.5 (lowers risk)"]
    ]


def test_nothing_is_said_of_what_training_never_met() -> None:
    """A missing tenure and an unknown plan count neither way, and are no reasons."""
    model = small_model()
    scorer = Scorer(model)
    found = slots(model, ("", "", "", "Weekly"))

    assert scorer.logit(found).tolist() == pytest.approx([-1 + 0.1])
    assert texts(scorer, scorer.strongest(found)) == [["price is missing (raises risk)"]]


def test_values_beyond_the_training_range_take_the_outermost_part() -> None:
    model = small_model()

    assert slots(model, ("-3", "1", "no", "Monthly"), ("9999", "1", "no", "Monthly"))[
        0
    ].tolist() == [1, 3]


def test_a_row_scores_the_same_alone_and_among_others() -> None:
    model = small_model()
    scorer = Scorer(model)
    random = np.random.default_rng(3)
    rows = [
        (
            str(random.integers(-5, 80)),
            f"{random.uniform(0, 200):.2f}",
            str(random.choice(["yes", "no", ""])),
            str(random.choice(["Monthly", "One year", "", "?"])),
        )
        for _ in range(257)
    ]
    together = slots(model, *rows)
    logits, reasons = scorer.logit(together), scorer.strongest(together)

    for i, row in enumerate(rows):
        alone = slots(model, row)
        assert scorer.logit(alone)[0] == logits[i]
        assert scorer.strongest(alone)[:, 0].tolist() == reasons[:, i].tolist()
        assert probability(scorer.logit(alone))[0] == probability(logits)[i]
    assert len(set(logits.tolist())) > 10


@st.composite
def models(draw: st.DrawFn) -> Model:
    logit = st.sampled_from([0.0, 0.001, 0.3, -0.3, 1.0, -1.0]) | st.floats(-3, 3)
    features = []
    for number in range(draw(st.integers(1, 8))):
        size = draw(st.integers(2, 6))
        table = tuple(draw(st.lists(logit, min_size=size, max_size=size)))
        column = Column(f"c{number}", "category", categories=tuple("abcd"[: size - 2]))
        features.append(Feature(column, (), table, (1,) * size))
    return replace(small_model(), features=tuple(features))


@settings(max_examples=60)
@given(model=models(), data=st.data())
def test_reasons_against_sorting_each_row(model: Model, data: st.DataObject) -> None:
    scorer = Scorer(model)
    rows = data.draw(st.integers(1, 5))
    found = np.array(
        [
            [int(start) + data.draw(st.integers(0, len(feature.table) - 1)) for _ in range(rows)]
            for start, feature in zip(scorer.starts, model.features, strict=True)
        ],
        dtype=np.uint16,
    )
    parts = scorer.logits[found]
    for sign, chosen in (
        (1.0, scorer.raising(found)),
        (-1.0, scorer.lowering(found)),
        (None, scorer.strongest(found)),
    ):
        sizes = np.abs(parts) if sign is None else sign * parts
        for row in range(rows):
            expected = sorted((size for size in sizes[:, row] if size >= MIN_REASON), reverse=True)
            mine = chosen[:, row]
            mine = mine[mine != NO_REASON]
            values = scorer.logits[mine]
            got = (np.abs(values) if sign is None else sign * values).tolist()
            assert got == expected[:3]
            assert set(mine.tolist()) <= set(found[:, row].tolist())
            assert len(set(mine.tolist())) == len(mine)
    assert scorer.logit(found).tolist() == pytest.approx(
        (model.intercept + parts.sum(axis=0)).tolist()
    )
    assert scorer.count(found).sum() == found.size


def test_levels_of_risk_are_the_models() -> None:
    model = small_model(risk=Risk(0.2, 0.5))
    levels = risk_levels(model, np.array([0.19, 0.2, 0.49, 0.5, 0.9]))

    assert [RISK_LEVELS[i] for i in levels] == ["low", "medium", "medium", "high", "high"]


def test_slots_in_words() -> None:
    whole = Feature(Column("n", "number", integer=True), (0.5, 1.5, 4.5), (0.0,) * 5, (1,) * 5)
    part = Feature(Column("x", "number"), (0.5, 1.25), (0.0,) * 4, (1,) * 4)
    days = Feature(Column("since", "date", integer=True), (30.0,), (0.0,) * 3, (1,) * 3)

    assert slot_texts(whole) == ["n is missing", "n up to 0", "n 1", "n 2 to 4", "n from 5"]
    assert slot_texts(part) == ["x is missing", "x up to 0.5", "x 0.5 to 1.25", "x above 1.25"]
    assert slot_texts(days)[1:] == ["since up to 30 days before", "since from 31 days before"]

"""Figures of quality, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.predictions.training import measure
from penstock.predictions.training.leaks import LEAK, cross_fitted_auc

PAIRS = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.1, 0.25, 0.5, 0.9])), min_size=2, max_size=40
).filter(lambda pairs: len({truth for truth, _ in pairs}) == 2)


@given(PAIRS)
def test_auc_counts_pairs(pairs: list[tuple[bool, float]]) -> None:
    wins = [
        1.0 if high > low else 0.5 if high == low else 0.0
        for yes, high in pairs
        for no, low in pairs
        if yes and not no
    ]
    truth, score = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))

    assert measure.auc(truth, score) == pytest.approx(sum(wins) / len(wins))


@given(PAIRS)
def test_average_precision(pairs: list[tuple[bool, float]]) -> None:
    expected, total = 0.0, sum(yes for yes, _ in pairs)
    for threshold in sorted({score for _, score in pairs}, reverse=True):
        chosen = [yes for yes, score in pairs if score >= threshold]
        new = sum(yes for yes, score in pairs if score == threshold)
        expected += new / total * sum(chosen) / len(chosen)
    truth, score = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))

    assert measure.pr_auc(truth, score) == pytest.approx(expected)


def test_losses_calibration_and_lift_by_hand() -> None:
    truth = np.array([1.0, 0.0, 1.0, 0.0] * 5)
    said = np.array([0.8, 0.2, 0.8, 0.2] * 5)

    assert measure.losses(truth, said).mean() == pytest.approx(-math.log(0.8))
    assert measure.brier(truth, said) == pytest.approx(0.04)
    assert measure.ece(truth, said) == pytest.approx(0.2)
    assert measure.ece(truth, truth) == 0.0
    assert measure.lift(truth, said) == pytest.approx(2.0)
    assert np.isfinite(measure.losses(truth, 1 - truth)).all()
    bins = measure.reliability(truth, said)
    assert sum(each.rows for each in bins) == 20
    assert (bins[0].observed, bins[-1].observed) == (0.0, 1.0)


def test_a_line_through_logits() -> None:
    random = np.random.default_rng(1)
    logit = random.normal(0, 2, 20_000)
    truth = (random.random(20_000) < 1 / (1 + np.exp(-(0.5 * logit + 1)))).astype(float)

    assert measure.platt(truth, logit) == (
        pytest.approx(0.5, abs=0.05),
        pytest.approx(1.0, abs=0.05),
    )


def test_a_leak_is_told_from_rare_values() -> None:
    random = np.random.default_rng(1)
    truth = (random.random(1000) < 0.3).astype(float)

    assert cross_fitted_auc(truth.astype(np.intp), truth) > LEAK
    # Each value occurs twice: rates of the same rows would tell half of them apart.
    assert cross_fitted_auc(np.arange(1000) // 2, truth) < 0.7
    assert cross_fitted_auc(np.zeros(1000, dtype=np.intp), truth) == pytest.approx(0.5)

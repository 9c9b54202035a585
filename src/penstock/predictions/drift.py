"""How far a file is from the training rows: population stability index (PSI) of bin counts.

``PSI = sum((p - q) * ln(p / q))`` over groups of slots, with p the share of the file's rows in a
group and q that of the training rows. Below 0.1 is usually taken for stable and above 0.25 for a
shift (Siddiqi, "Credit Risk Scorecards", 2006). Small files differ by chance alone: with
``n = 1/rows + 1/training rows`` the index is about ``n`` times a chi-square of ``groups - 1``
degrees of freedom (Yurdakul, "Statistical Properties of Population Stability Index", 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from penstock.predictions.model import Feature, Model

GROUPS = 10
SOME: Final = 0.1
LARGE: Final = 0.25
WARN: Final = 0.01  # of the rows: values that training did not know, or not so large
ALARM: Final = 0.1

Level = Literal["stable", "some", "large"]


@dataclass(frozen=True, slots=True)
class Drift:
    """The shift of one feature, or of the score.

    `by_chance` is what chance hardly exceeds (its mean and four standard deviations). `training`
    and `file` are shares by group.
    """

    name: str
    psi: float
    by_chance: float
    training: tuple[float, ...]
    file: tuple[float, ...]

    @property
    def level(self) -> Level:
        """`large` from 0.25 and `some` from 0.1 on, if it is more than chance makes."""
        if self.psi <= self.by_chance:
            return "stable"
        return "large" if self.psi >= LARGE else "some" if self.psi >= SOME else "stable"


def features(model: Model, counts: NDArray[np.int64]) -> tuple[Drift, ...]:
    """The drift of each feature; `counts` are the file's rows in each slot of all features."""
    found = []
    at = 0
    for feature in model.features:
        slots = len(feature.table)
        found.append(
            _drift(feature.column.name, feature.counts, counts[at : at + slots], _groups(feature))
        )
        at += slots
    return tuple(found)


def score(model: Model, counts: NDArray[np.int64]) -> Drift:
    """The drift of the probability; `counts` are by the bins of the model's histogram."""
    training = np.array(model.scores.counts)
    return _drift("score", training, counts, _even(training))


def _groups(feature: Feature) -> NDArray[np.int64]:
    """The group of each slot: intervals are put together so that few, full ones remain."""
    if feature.column.kind in ("number", "date"):
        missing = np.zeros(1, dtype=np.int64)
        return np.concatenate((missing, 1 + _even(np.array(feature.counts[1:]))))
    return np.arange(len(feature.table))


def _even(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Groups of neighbours that hold about as many training rows each."""
    total = int(counts.sum())
    if not total:
        return np.zeros(len(counts), dtype=np.int64)
    middle = np.cumsum(counts) - counts / 2
    group = np.minimum((middle * GROUPS / total).astype(np.int64), GROUPS - 1)
    # Without gaps in the numbers.
    return np.unique(group, return_inverse=True)[1]


def _drift(
    name: str, training: Sequence[int] | NDArray[Any], file: NDArray[Any], group: NDArray[np.int64]
) -> Drift:
    groups = int(group.max()) + 1
    expected = np.bincount(group, weights=np.asarray(training, dtype=float), minlength=groups)
    actual = np.bincount(group, weights=np.asarray(file, dtype=float), minlength=groups)
    used = (expected > 0) | (actual > 0)
    expected, actual = expected[used], actual[used]
    q, p = _shares(expected), _shares(actual)
    psi = float(((p - q) * np.log(p / q)).sum())
    free = max(len(expected) - 1, 0)
    noise = 1 / max(float(actual.sum()), 1.0) + 1 / max(float(expected.sum()), 1.0)
    chance = (free + 4 * (2 * free) ** 0.5) * noise
    return Drift(name, psi, chance, _plain(expected), _plain(actual))


def _shares(counts: NDArray[Any]) -> NDArray[Any]:
    """Shares, none of them 0: half a row is added to each group (Jeffreys)."""
    shares: NDArray[Any] = (counts + 0.5) / (counts.sum() + 0.5 * len(counts))
    return shares


def _plain(counts: NDArray[Any]) -> tuple[float, ...]:
    total = max(float(counts.sum()), 1.0)
    return tuple(float(count) / total for count in counts)

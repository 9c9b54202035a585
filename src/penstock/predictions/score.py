"""From parsed columns to probabilities and reasons: table look-ups, numpy only.

A *slot number* counts the slots of all features one after another, so that one number says which
feature and which of its slots; a row is one slot number per feature, and everything that is known
of a slot (its logits, its text) is an array indexed by it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.predictions.contract import MISSING, Column, Parsed
from penstock.predictions.model import Feature, Model

NO_REASON = 65_535
REASONS = 3
MIN_REASON = 0.005  # logits; less moves a probability by at most 0.00125, which explains nothing

Slots = NDArray[np.uint16]
Logits = NDArray[np.float64]


class Scorer:
    """A model made ready: build it once, score many chunks. It holds no state of a chunk.

    `logits[slot]` is a slot's part of the score, `texts[slot]` says it in words (the feature's
    name and the value; neutralize before it is written where formulas run), `feature[slot]` its
    feature's index. `starts[i]` is the first slot number of feature `i`.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.logits: Logits = np.array(
            [value for feature in model.features for value in feature.table], dtype=np.float64
        )
        sizes = [len(feature.table) for feature in model.features]
        self.starts = np.concatenate(([0], np.cumsum(sizes)))[:-1].astype(np.int64)
        self.feature = np.repeat(np.arange(len(sizes)), sizes)
        self.texts: list[str] = [
            f"{text} ({'raises' if logit > 0 else 'lowers'} risk)"
            for feature in model.features
            for text, logit in zip(slot_texts(feature), feature.table, strict=True)
        ]
        self._edges = [np.array(feature.edges, dtype=np.float64) for feature in model.features]
        self._by_size = _Ranking(np.abs(self.logits))
        self._by_rise = _Ranking(self.logits)
        self._by_fall = _Ranking(-self.logits)

    def slots(self, parsed: Sequence[Parsed]) -> Slots:
        """Slot numbers, shape (features, rows), of columns parsed in the model's order."""
        rows = len(parsed[0].values)
        slots = np.empty((len(parsed), rows), dtype=np.uint16)
        for i, (column, feature) in enumerate(zip(parsed, self.model.features, strict=True)):
            slots[i] = feature_slots(feature.column, self._edges[i], column.values)
            slots[i] += int(self.starts[i])
        return slots

    def logit(self, slots: Slots) -> Logits:
        """The score of each row in logits: the intercept and the features' parts, in order."""
        # One addition per feature: a row's sum does not depend on the rows beside it.
        total = np.full(slots.shape[1], self.model.intercept, dtype=np.float64)
        for row in slots:
            total += self.logits[row]
        return total

    def strongest(self, slots: Slots) -> Slots:
        """Slot numbers of each row's strongest reasons, whichever way they point, shape (3, rows).

        The strongest comes first; `NO_REASON` where there are fewer.
        """
        return self._by_size.largest(slots)

    def raising(self, slots: Slots) -> Slots:
        """As `strongest`, of those that raise the risk."""
        return self._by_rise.largest(slots)

    def lowering(self, slots: Slots) -> Slots:
        """As `strongest`, of those that lower the risk."""
        return self._by_fall.largest(slots)

    def count(self, slots: Slots) -> NDArray[np.int64]:
        """Rows in each slot, for drift: what `counts` of the features was at training."""
        return np.bincount(slots.ravel(), minlength=len(self.logits))


def feature_slots(column: Column, edges: Logits, values: Any) -> Any:
    """The slots of one feature, counted from its own first one."""
    if column.kind in ("boolean", "category"):
        return values
    found = np.searchsorted(edges, values, side="left")
    found += 1
    found[np.isnan(values)] = MISSING
    return found


class _Ranking:
    """Finds the slots with the largest values of each row.

    All slots are ranked once, so a row's largest entries are its highest ranks: 16-bit maxima of
    whole columns, which is many times cheaper than to sort each row, and a rank is a slot.
    """

    def __init__(self, values: Logits) -> None:
        # Stable, so that equal values are told apart by the features' order, always the same way.
        order = np.argsort(values, kind="stable")
        self._ranks = np.empty(len(values), dtype=np.uint16)
        self._ranks[order] = np.arange(1, len(values) + 1)
        slots = np.where(values[order] >= MIN_REASON, order, NO_REASON)
        self._slots = np.concatenate(([NO_REASON], slots)).astype(np.uint16)

    def largest(self, slots: Slots) -> Slots:
        top = np.zeros((REASONS, slots.shape[1]), dtype=np.uint16)
        for row in slots:
            rest = self._ranks[row]
            for place in top:
                # The larger one stays, the smaller one is offered to the next place.
                smaller = np.minimum(place, rest)
                np.maximum(place, rest, out=place)
                rest = smaller
        found: Slots = self._slots[top]
        return found


def probability(logit: Logits) -> Logits:
    """The logistic function."""
    return 1.0 / (1.0 + np.exp(-logit))


def risk_levels(model: Model, probabilities: Logits) -> NDArray[np.int8]:
    """0 low, 1 medium, 2 high: an index into `RISK_LEVELS`."""
    levels = (probabilities >= model.risk.medium).astype(np.int8)
    levels += probabilities >= model.risk.high
    return levels


RISK_LEVELS = ("low", "medium", "high")


def slot_texts(feature: Feature) -> list[str]:
    """What each slot of a feature means, in words: "tenure 2 to 5", "Contract is One year"."""
    column = feature.column
    if column.kind == "boolean":
        return [f"{column.name} is missing", f"{column.name} is no", f"{column.name} is yes"]
    if column.kind == "category":
        named = [f"{column.name} is {value}" for value in column.categories]
        return [f"{column.name} is missing", *named, f"{column.name} is another value"]
    unit = " days before" if column.kind == "date" else ""
    edges = feature.edges
    if not edges:
        return [f"{column.name} is missing", f"{column.name} is known"]
    texts = [f"{column.name} is missing"]
    for below, above in zip((None, *edges), (*edges, None), strict=True):
        texts.append(f"{column.name} {_interval(below, above, whole=column.integer)}{unit}")
    return texts


def _interval(below: float | None, above: float | None, *, whole: bool) -> str:
    """The values with below < value <= above; whole numbers are said as such."""
    if whole:
        least = None if below is None else math.floor(below) + 1
        most = None if above is None else math.floor(above)
        if least is None:
            return f"up to {most}"
        if most is None:
            return f"from {least}"
        return f"{least}" if least >= most else f"{least} to {most}"
    if below is None:
        return f"up to {above:.6g}"
    if above is None:
        return f"above {below:.6g}"
    return f"{below:.6g} to {above:.6g}"

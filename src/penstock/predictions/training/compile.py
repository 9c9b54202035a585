"""Boosters into tables, exactly.

Each tree sees one feature, so the ensemble is a sum of step functions of one feature each. The
steps are at the trees' thresholds; between two of them the booster is asked once, with all other
features missing, and what the others add is the same for all slots of the feature: it goes when
the table is centred.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.predictions.contract import MISSING, Column
from penstock.predictions.model import Feature, slot_count
from penstock.predictions.score import feature_slots
from penstock.predictions.training import boost

Floats = NDArray[np.float64]
TOLERANCE = 1e-9  # logits


class NotAdditive(Exception):
    """The tables do not say what the boosters say; the model must not be used."""


def encode(column: Column, values: Any) -> Floats:
    """A parsed column as the boosters see it.

    A category's missing and other values are categories like the rest: left as NaN, LightGBM
    would put them with whatever is not in a split's set.
    """
    if column.kind == "category":
        return np.asarray(values, dtype=np.float64)
    if column.kind == "boolean":
        return np.where(values == MISSING, np.nan, values - 1.0)
    return np.asarray(values, dtype=np.float64)


def compile_tables(
    boosters: Sequence[Any], columns: Sequence[Column], matrix: Floats, values: Sequence[Any]
) -> tuple[tuple[Feature, ...], float, float]:
    """The features, the intercept, and the largest difference to the boosters on these rows.

    Raises `NotAdditive` when that is not mere rounding.
    """
    steps = _steps(boosters, len(columns))
    raw = boost.predict(boosters, matrix)
    intercept = float(raw.mean())
    total = np.full(len(matrix), intercept)
    features = []
    for i, column in enumerate(columns):
        edges = np.array(sorted(steps[i]) if column.kind in ("number", "date") else [])
        slots = feature_slots(column, edges, values[i])
        counts = np.bincount(slots, minlength=slot_count(column, len(edges)))
        probe = np.full((len(counts), len(columns)), np.nan)
        probe[:, i] = _probes(column, edges)
        table = boost.predict(boosters, probe)
        table -= np.average(table, weights=counts)
        total += table[slots]
        # Of a slot that training never met nothing is known; it must not count either way.
        unmet = [MISSING, len(counts) - 1] if column.kind == "category" else [MISSING]
        table[[slot for slot in unmet if not counts[slot]]] = 0.0
        features.append(
            Feature(column, tuple(edges.tolist()), tuple(table.tolist()), tuple(counts.tolist()))
        )
    error = float(np.abs(total - raw).max())
    if not error < TOLERANCE:
        raise NotAdditive(f"the tables differ from the boosters by {error:.2g} logits")
    return tuple(features), intercept, error


def _probes(column: Column, edges: Floats) -> Floats:
    """A value inside of each slot, as the boosters see it."""
    if column.kind == "category":
        return np.arange(len(column.categories) + 2, dtype=np.float64)
    if column.kind == "boolean":
        return np.array([np.nan, 0.0, 1.0])
    beyond = np.nextafter(edges[-1:], np.inf) if len(edges) else np.zeros(1)
    return np.concatenate(([np.nan], edges, beyond))


def _steps(boosters: Sequence[Any], features: int) -> list[set[float]]:
    """Every threshold of each feature."""
    steps: list[set[float]] = [set() for _ in range(features)]
    for booster in boosters:
        for tree in booster.dump_model()["tree_info"]:
            for node in _splits(tree["tree_structure"]):
                if node["decision_type"] == "<=":
                    steps[node["split_feature"]].add(float(node["threshold"]))
    return steps


def _splits(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "split_feature" in node:
        yield node
        yield from _splits(node["left_child"])
        yield from _splits(node["right_child"])

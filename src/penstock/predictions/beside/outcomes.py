"""Scores looked up by id, and how good they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as parquet

from penstock.predictions.outcomes import Group
from penstock.predictions.output import PROBABILITY
from penstock.predictions.training import measure
from penstock.storage.objects import Objects

FEW = 50  # customers, and of either kind 10: below, figures of quality are left out
FEW_OF_A_KIND = 10


def scores(objects: Objects, key: str, ids: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """The scores of these customers in millionths, and the ids that occur more than once.

    Ids that are not in the result are in neither.
    """
    wanted = pa.array(list(ids), pa.string())
    found: dict[str, int] = {}
    twice: set[str] = set()
    with objects.open(key) as file:
        opened = parquet.ParquetFile(file)
        # By position: the id column may have the name of any other.
        for batch in opened.iter_batches(batch_size=65_536, use_threads=False):
            mask = pc.is_in(batch.column(0), value_set=wanted)
            if not pc.any(mask).as_py():
                continue
            rows = batch.filter(mask)
            probabilities = rows.column(rows.schema.names.index(PROBABILITY, 1))
            for id_, score in zip(
                rows.column(0).to_pylist(), probabilities.to_pylist(), strict=True
            ):
                if id_ in found:
                    twice.add(id_)
                found[id_] = round(score * 1_000_000)
    return {id_: score for id_, score in found.items() if id_ not in twice}, sorted(twice)


def quality(groups: Sequence[Group]) -> dict[str, Any]:
    """How good scores were that are grouped so; null where there are too few to say."""
    table = np.array(groups, dtype=np.float64).reshape(-1, 3)
    customers, churned = int(table[:, 1].sum()), int(table[:, 2].sum())
    found: dict[str, Any] = {
        "customers": customers,
        "churned": churned,
        "churn_rate": churned / customers if customers else None,
        "mean_probability": None,
        "auc": None,
        "log_loss": None,
        "brier": None,
        "calibration_error": None,
        "reliability": [],
    }
    if not customers:
        return found
    said = np.clip(table[:, 0] / 10_000, 1e-6, 1 - 1e-6)
    found["mean_probability"] = float((said * table[:, 1]).sum() / customers)
    if customers < FEW or min(churned, customers - churned) < FEW_OF_A_KIND:
        return found
    stayed = table[:, 1] - table[:, 2]
    probability = np.concatenate(
        (np.repeat(said, table[:, 2].astype(int)), np.repeat(said, stayed.astype(int)))
    )
    truth = np.concatenate((np.ones(churned), np.zeros(customers - churned)))
    found |= {
        "auc": measure.auc(truth, probability),
        "log_loss": float(measure.losses(truth, probability).mean()),
        "brier": measure.brier(truth, probability),
        "calibration_error": measure.ece(truth, probability),
        "reliability": [
            {"rows": each.rows, "predicted": each.predicted, "observed": each.observed}
            for each in measure.reliability(truth, probability)
        ],
    }
    return found

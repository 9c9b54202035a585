"""Additive boosting: LightGBM in bags, each tree seeing one feature only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.predictions.refusal import MissingExtra

Floats = NDArray[np.float64]
SMALL = 20_000  # rows; below, a second thread costs more than it brings


@dataclass(frozen=True, slots=True)
class Plan:
    """How to fit: how many bags, and trees in each."""

    bags: int
    rounds: int


def plan(rows: int) -> Plan:
    """More bags while they are cheap; fewer trees where there is little to learn from."""
    return Plan(4 if rows < 200_000 else 2, 700 if rows >= 2_000 else 400)


def lightgbm() -> Any:
    """The package. Raises `MissingExtra` with what to install."""
    try:
        import lightgbm as package
    except ImportError as exc:
        raise MissingExtra("training needs LightGBM: pip install 'penstock[train]'") from exc
    except OSError as exc:  # its shared library needs OpenMP's, which is the system's to bring
        if "gomp" not in str(exc):
            raise
        raise MissingExtra(
            "LightGBM needs the system's libgomp: apt-get install libgomp1 (Debian, Ubuntu), "
            "dnf install libgomp (Fedora, Amazon Linux)"
        ) from exc
    return package


def fit(
    matrix: Floats,
    truth: Floats,
    categorical: Sequence[int],
    plan: Plan,
    *,
    seed: int,
    done: Callable[[], None] = lambda: None,
) -> list[Any]:
    """The boosters of all bags. `done` is called after each; the same input gives the same."""
    package = lightgbm()
    rows, features = matrix.shape
    parameters = {
        "objective": "binary",
        "learning_rate": 0.03,
        "num_leaves": 3,
        "min_data_in_leaf": 20,
        "interaction_constraints": [[i] for i in range(features)],
        # Coarse bins, half of the rows for each tree and shrunk leaves: a table of one feature
        # is soon too detailed, and detail is noise (bench/churn_quality.py).
        "max_bin": 64,
        "lambda_l2": 10.0,
        "bagging_freq": 1,
        "bagging_fraction": 0.5,
        "verbose": -1,
        "deterministic": True,
        "force_col_wise": True,
        "feature_pre_filter": False,
        "num_threads": 1 if rows < SMALL else 0,
    }
    data = package.Dataset(
        matrix,
        truth,
        categorical_feature=list(categorical),
        free_raw_data=False,
        params=parameters,
    )
    boosters = []
    for bag in range(plan.bags):
        mine = {**parameters, "seed": seed + bag, "bagging_seed": seed + bag}
        boosters.append(package.train(mine, data, num_boost_round=plan.rounds))
        done()
    return boosters


def predict(boosters: Sequence[Any], matrix: Floats) -> Floats:
    """The bags' mean score of each row, in logits."""
    total = np.zeros(len(matrix))
    for booster in boosters:
        total += booster.predict(matrix, raw_score=True, num_threads=1)
    mean: Floats = total / len(boosters)
    return mean

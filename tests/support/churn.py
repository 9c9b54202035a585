"""Customers for tests: made up with a known cause of churn, and the public Telco set."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from penstock.predictions.contract import Column, Parsed
from penstock.predictions.model import (
    Feature,
    Histogram,
    Label,
    Left,
    Metrics,
    Model,
    ReliabilityBin,
    Risk,
    Training,
)
from penstock.predictions.training import boost
from penstock.predictions.training.compile import compile_tables
from penstock.predictions.training.fit import FOLDS, design, folds
from penstock.predictions.training.infer import infer
from penstock.predictions.training.labels import labelled
from penstock.predictions.training.options import Options, Sheet
from penstock.predictions.training.sheet import read_sheet

_NAME = "Telco-Customer-Churn.csv"
OPTIONS = Options(label="churned", id="customer", positive=("yes",))


def telco() -> Path:
    """The Telco customer churn set (IBM, 7,043 rows); skips where it is not to be found."""
    beside = Path(__file__).parents[2].parent / "shared" / "data" / _NAME
    path = Path(os.environ.get("PENSTOCK_TELCO", beside))
    if not path.exists():
        pytest.skip(f"no {_NAME} in ../shared/data beside the checkout, nor at PENSTOCK_TELCO")
    return path


def customers(rows: int = 400, seed: int = 1) -> dict[str, list[str]]:
    """Columns of made-up customers; short tenure and monthly contracts churn."""
    random = np.random.default_rng(seed)
    tenure = random.integers(0, 60, rows)
    plan = random.choice(["Monthly", "One year", "Two year"], rows, p=[0.5, 0.3, 0.2])
    price = np.round(random.uniform(10, 120, rows), 2)
    support = random.choice(["Yes", "No"], rows)
    logit = 1.2 - 0.08 * tenure + 1.3 * (plan == "Monthly") - 0.5 * (support == "Yes")
    churned = random.random(rows) < 1 / (1 + np.exp(-logit))
    return {
        "customer": [f"{number:05}" for number in range(rows)],
        "tenure": [str(value) for value in tenure],
        "plan": [str(value) for value in plan],
        "price": [f"{value:.2f}" for value in price],
        "support": [str(value) for value in support],
        "churned": ["yes" if value else "no" for value in churned],
    }


def sheet(columns: Mapping[str, Sequence[str]]) -> Sheet:
    """The columns as training reads them from a file."""
    rows = len(next(iter(columns.values())))
    return Sheet(
        tuple(columns),
        tuple(pa.array(list(cells), pa.large_string()) for cells in columns.values()),
        np.arange(2, rows + 2),
        hashlib.sha256(repr(columns).encode()).hexdigest(),
    )


def csv_bytes(columns: Mapping[str, Sequence[Any]], delimiter: str = ",") -> bytes:
    """The columns as a CSV."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue().encode()


def small_model(**changes: Any) -> Model:
    """A model by hand: two numbers, a truth value and a category, with easy logits."""
    features = (
        Feature(
            Column("tenure", "number", integer=True, low=0.0, high=60.0),
            edges=(2.0, 12.0),
            table=(0.0, 1.0, 0.25, -0.75),
            counts=(0, 40, 60, 100),
        ),
        Feature(
            Column("price", "number", low=10.0, high=120.0),
            edges=(50.5,),
            table=(0.1, -0.2, 0.2),
            counts=(10, 95, 95),
        ),
        Feature(Column("support", "boolean"), (), (0.0, 0.3, -0.3), (0, 100, 100)),
        Feature(
            Column("plan", "category", categories=("Monthly", "One year")),
            edges=(),
            table=(0.0, 0.6, -0.6, 0.0),
            counts=(0, 100, 100, 0),
        ),
    )
    values: dict[str, Any] = {
        "name": "small",
        "created_at": "2026-01-31T00:00:00.000000Z",
        "demo": False,
        "columns": ("customer", "tenure", "price", "support", "plan", "churned"),
        "id_column": "customer",
        "label": Label("churned", ("yes",), ("no",)),
        "as_of": None,
        "features": features,
        "intercept": -1.0,
        "risk": Risk(),
        "scores": Histogram((0.2, 0.4), (100, 50, 50)),
        "calibration": None,
        "training": Training(200, 60, "0" * 64, "0.1.0", 1, 10, 0.0),
        "metrics": Metrics(5, 0.8, 0.6, 0.4, 0.13, 0.02, 2.5, 0.6, 0.2),
        "reliability": (ReliabilityBin(100, 0.1, 0.12), ReliabilityBin(100, 0.5, 0.49)),
        "left": (Left("note", "free_text", "most of its values occur once or twice"),),
        "warnings": (),
    }
    return Model(**(values | changes))


@dataclass(frozen=True)
class Splits:
    """The Telco set as training sees it, with five folds, twice."""

    columns: tuple[Column, ...]
    values: tuple[Any, ...]
    matrix: NDArray[np.float64]
    truth: NDArray[np.float64]
    folds: tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]

    def fit(self, rows: NDArray[np.int64], seed: int = 7) -> tuple[list[Any], Model]:
        """The boosters of these rows, and the model compiled from them."""
        matrix, truth = self.matrix[rows], self.truth[rows]
        categorical = [i for i, column in enumerate(self.columns) if column.kind == "category"]
        boosters = boost.fit(matrix, truth, categorical, boost.plan(len(rows)), seed=seed)
        values = [value[rows] for value in self.values]
        features, intercept, _ = compile_tables(boosters, self.columns, matrix, values)
        return boosters, small_model(features=features, intercept=intercept)

    def rows(self, rows: NDArray[np.int64]) -> list[Parsed]:
        """These rows, as a scorer takes them."""
        return [Parsed(value[rows], {}) for value in self.values]

    def boosted(self, boosters: list[Any], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """What the boosters themselves say of these rows, in logits."""
        return boost.predict(boosters, self.matrix[rows])


def telco_splits() -> Splits:
    """The Telco set, read and inferred as `penstock train` does."""
    options = Options(label="Churn", id="customerID", positive=("Yes",))
    with telco().open("rb") as file:
        whole, _ = read_sheet(file, options)
    known = labelled(whole, options)
    found = infer(whole, known.rows, known.truth, options)
    values = tuple(parsed.values for parsed in found.parsed)
    parts = []
    for seed in (1, 2):
        fold = folds(known.truth, known.group, seed)
        parts += [(np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(FOLDS)]
    return Splits(
        found.columns, values, design(found.columns, list(values)), known.truth, tuple(parts)
    )


def logistic(
    splits: Splits, train: NDArray[np.int64], test: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Probabilities by logistic regression: numbers scaled, the rest one-hot, a little ridge."""
    parts = [np.ones((len(splits.truth), 1))]
    for column, values in zip(splits.columns, splits.values, strict=True):
        if column.kind == "number":
            filled = np.nan_to_num(values)
            mean, spread = filled[train].mean(), filled[train].std()
            parts.append(((filled - mean) / spread)[:, None])
        else:
            parts.append(np.eye(int(values.max()) + 1)[values])
    matrix = np.hstack(parts)
    beta = np.zeros(matrix.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-(matrix[train] @ beta)))
        weighted = matrix[train] * (p * (1 - p))[:, None]
        ridge = np.eye(len(beta))
        gradient = matrix[train].T @ (splits.truth[train] - p) - beta
        beta += np.linalg.solve(matrix[train].T @ weighted + ridge, gradient)
    return 1 / (1 + np.exp(-(matrix[test] @ beta)))

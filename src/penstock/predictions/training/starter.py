"""``python -m penstock.predictions.training.starter``: makes the starter model.

The customers are invented: their churn follows a formula that is plausible and means nothing. The
same command gives the same file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from penstock.predictions import starter
from penstock.predictions.model import Model, dump
from penstock.predictions.training.fit import train
from penstock.predictions.training.options import Options, Sheet

ROWS = 8_000
MADE = "2026-01-01T00:00:00.000000Z"  # not now: the same command gives the same file
OPTIONS = Options(
    label="churned", id="customer_id", positive=("yes",), name=starter.NAME, demo=True
)


def customers(rows: int = ROWS, seed: int = 20260101) -> dict[str, list[str]]:
    """Invented customers, by column."""
    random = np.random.default_rng(seed)
    tenure = random.gamma(1.6, 14, rows).astype(int).clip(0, 120)
    plan = random.choice(["Monthly", "Annual", "Two years"], rows, p=[0.55, 0.33, 0.12])
    charge = np.round(random.lognormal(4.0, 0.5, rows), 2)
    tickets = random.poisson(1.4, rows)
    logins = random.poisson(random.gamma(2.0, 6.0, rows))
    idle = random.exponential(9, rows).astype(int).clip(0, 90)
    payment = random.choice(["Card", "Direct debit", "Invoice"], rows, p=[0.5, 0.3, 0.2])
    renewing = random.random(rows) < 0.65
    logit = (
        -0.9
        - 0.035 * tenure.clip(0, 60)
        + np.select([plan == "Monthly", plan == "Annual"], [1.1, -0.2], -0.9)
        + 0.006 * (charge - 60)
        + 0.28 * tickets
        - 0.05 * logins.clip(0, 30)
        + 0.03 * idle
        + np.where(payment == "Invoice", 0.3, 0.0)
        - np.where(renewing, 0.6, 0.0)
    )
    churned = random.random(rows) < 1 / (1 + np.exp(-logit))
    # Some cells are blank, as they are in life.
    blank = random.random(rows) < 0.03
    return {
        "customer_id": [f"C{number:05}" for number in range(rows)],
        "tenure_months": [str(value) for value in tenure],
        "plan": [str(value) for value in plan],
        "monthly_charge": [f"{value:.2f}" for value in charge],
        "support_tickets": [str(value) for value in tickets],
        "logins_last_month": ["" if b else str(v) for v, b in zip(logins, blank, strict=True)],
        "days_since_login": [str(value) for value in idle],
        "payment_method": [str(value) for value in payment],
        "auto_renew": ["yes" if value else "no" for value in renewing],
        "churned": ["yes" if value else "no" for value in churned],
    }


def make() -> Model:
    """Train it."""
    columns = customers()
    sheet = Sheet(
        tuple(columns),
        tuple(pa.array(cells, pa.large_string()) for cells in columns.values()),
        np.arange(2, ROWS + 2),
        "0" * 64,  # there is no file
    )
    return train(sheet, OPTIONS, created_at=MADE)


def main() -> None:
    """Write the model file into the package."""
    path = Path(sys.modules["penstock.predictions"].__path__[0]) / "starter.json"
    path.write_bytes(dump(make()))
    print(path)


if __name__ == "__main__":
    main()

"""The starter model, and templates that every model can score itself."""

from __future__ import annotations

import csv
import datetime
import io

import pytest

from penstock.predictions import starter
from penstock.predictions.contract import Column, NumberFormat
from penstock.predictions.files import Answers, Targets, predict
from penstock.predictions.model import Feature, load
from penstock.predictions.template import template
from penstock.predictions.training.starter import OPTIONS, customers
from support.churn import small_model

TODAY = datetime.date(2026, 1, 31)


def test_the_starter_model_says_what_it_is() -> None:
    model = load(starter.data(), sha256=starter.sha256())
    assert model.demo
    assert model.name == starter.NAME
    assert set(model.columns) == set(customers(10))
    assert model.label.column == OPTIONS.label
    # It has learned what the invented customers follow, and is as good as that allows.
    assert 0.7 < model.metrics.auc < 0.9
    assert model.metrics.ece < 0.035


def test_invented_customers_are_the_same_each_time() -> None:
    assert customers(50) == customers(50)
    assert customers(50, seed=2) != customers(50)


def test_a_template_has_the_models_columns_in_its_own_formats() -> None:
    column = Feature(
        Column(
            "income",
            "number",
            number=NumberFormat(",", ".", "€ ", ""),
            low=10.0,
            high=40.0,
        ),
        edges=(20.0,),
        table=(0.0, 0.1, -0.1),
        counts=(0, 100, 100),
    )
    whole = Feature(
        Column("seats", "number", integer=True, low=0.0, high=10.0),
        (5.0,),
        (0.0, 0.1, -0.1),
        (0, 100, 100),
    )
    dates = [
        Feature(
            Column(f"since_{order}", "date", date=order, low=10.0, high=40.0),  # type: ignore[arg-type]
            (20.0,),
            (0.0, 0.1, -0.1),
            (0, 100, 100),
        )
        for order in ("ymd", "dmy", "mdy", "excel")
    ]
    model = small_model(
        features=(*small_model().features, column, whole, *dates),
        as_of="2026-01-31",
        columns=(
            *small_model().columns,
            "income",
            "seats",
            *(each.column.name for each in dates),
        ),
    )
    rows = list(csv.DictReader(io.StringIO(template(model))))
    assert rows[0]["income"] == "€ 20,00"
    assert rows[0]["seats"] == "3"
    assert [rows[0][f"since_{order}"] for order in ("ymd", "dmy", "mdy", "excel")] == [
        "2026-01-11",
        "11/01/2026",
        "01/11/2026",
        "46033",
    ]
    assert [row["plan"] for row in rows] == ["Monthly", "One year"]
    assert [row["support"] for row in rows] == ["yes", "no"]


@pytest.mark.parametrize("model", [small_model(), load(starter.data())], ids=["small", "starter"])
def test_a_template_can_be_scored(model: object, tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    (folder / "in.csv").write_text(template(model), newline="")  # type: ignore[arg-type]
    summary = predict(
        folder / "in.csv",
        model,  # type: ignore[arg-type]
        Targets(folder / "out.csv"),
        Answers(),
        today=TODAY,
    )
    assert (summary.counts.rows, summary.counts.bad) == (2, 0)
    assert int(summary.counts.flags.sum()) == 0  # nothing missing, unknown or out of range

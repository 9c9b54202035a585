"""A CSV to fill in: the columns that a model needs, and two rows as it has learned them."""

from __future__ import annotations

import csv
import datetime
import io

from penstock.predictions.contract import Column
from penstock.predictions.model import Model
from penstock.predictions.output import neutral


def template(model: Model) -> str:
    """The template of a model."""
    columns = [feature.column for feature in model.features]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(neutral(name) for name in (model.id_column, *(c.name for c in columns)))
    for number in (1, 2):
        cells = (neutral(_sample(column, number, model.as_of)) for column in columns)
        writer.writerow([f"example-{number}", *cells])
    return text.getvalue()


def _sample(column: Column, number: int, as_of: str | None) -> str:
    match column.kind:
        case "boolean":
            return "yes" if number == 1 else "no"
        case "category":
            return column.categories[(number - 1) % len(column.categories)]
        case "date":
            return _day(column, number, as_of)
        case "number":
            return _number(column, _between(column, number))


def _between(column: Column, number: int) -> float:
    """A third, or two thirds of the way through the training range."""
    if column.low is None or column.high is None:
        return float(number)
    return column.low + (column.high - column.low) * number / 3


def _number(column: Column, value: float) -> str:
    form = column.number
    text = f"{round(value)}" if column.integer else f"{value:.2f}"
    return f"{form.prefix}{text.replace('.', form.decimal)}{form.suffix}"


def _day(column: Column, number: int, as_of: str | None) -> str:
    last = datetime.date.today() if as_of is None else datetime.date.fromisoformat(as_of)
    day = last - datetime.timedelta(days=round(_between(column, number)))
    match column.date:
        case "ymd":
            return day.isoformat()
        case "dmy":
            return f"{day:%d/%m/%Y}"
        case "mdy":
            return f"{day:%m/%d/%Y}"
        case "excel":
            return str((day - datetime.date(1899, 12, 30)).days)

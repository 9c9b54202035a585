"""What predictions and models are drawn by: numbers in, the geometry that templates draw out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

WIDTH: Final = 600
HEIGHT: Final = 120
FOOT: Final = 34  # below a curve: how many customers there were
SIDE: Final = 240  # of the square of a reliability plot
HALF: Final = 100  # of a bar that goes both ways
MOST_BARS: Final = 30


@dataclass(frozen=True, slots=True)
class Column:
    """A bar from the bottom up; `kind` is its class."""

    x: float
    width: float
    height: float
    kind: str
    title: str


@dataclass(frozen=True, slots=True)
class Spread:
    """How many customers have which probability."""

    label: str
    top: str
    bars: tuple[Column, ...]
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True, slots=True)
class Both:
    """A line of a table with a bar that goes to the left and to the right of a middle."""

    name: str
    left: float
    right: float
    said: tuple[str, ...]  # in the cells after the bar


@dataclass(frozen=True, slots=True)
class Dot:
    """A tenth of the customers."""

    x: float
    y: float
    title: str


@dataclass(frozen=True, slots=True)
class Reliability:
    """Said to the right, observed upwards, both from 0 to `top`."""

    label: str
    top: str
    dots: tuple[Dot, ...]
    side: int = SIDE


@dataclass(frozen=True, slots=True)
class Curve:
    """What each interval of a number adds, as steps of equal width; `bars` are its customers."""

    label: str
    points: str
    middle: float
    bars: tuple[Column, ...]
    largest: str
    first: str
    last: str
    missing: str
    width: int = WIDTH
    height: int = HEIGHT
    foot: int = FOOT


@dataclass(frozen=True, slots=True)
class Shape:
    """A feature's part in scores: a curve, or a line for each of its values."""

    name: str
    importance: float
    curve: Curve | None
    lines: tuple[Both, ...]
    more: int  # values that are not shown


def spread(summary: dict[str, Any]) -> Spread:
    """Customers by probability, each bar in the tone of its level of risk."""
    counts: list[int] = summary["spread"]
    risk = summary["risk_from"]
    most = max([1, *counts])
    step = WIDTH / max(1, len(counts))
    bars = []
    for index, count in enumerate(counts):
        low, high = index / len(counts), (index + 1) / len(counts)
        middle = (low + high) / 2
        level = (
            "high" if middle >= risk["high"] else "medium" if middle >= risk["medium"] else "low"
        )
        bars.append(
            Column(
                round(index * step + 1, 2),
                round(step - 2, 2),
                _tall(count / most, HEIGHT),
                level,
                f"{low:.0%} to {high:.0%}: {count:,} customers",
            )
        )
    levels = summary["risk"]
    label = (
        f"Customers by probability of churn: {levels['high']:,} high, {levels['medium']:,} medium, "
        f"{levels['low']:,} low"
    )
    return Spread(label, f"{most:,} customers", tuple(bars))


def reasons(summary: dict[str, Any]) -> list[Both]:
    """How often each column is among the strongest reasons: lowering to the left, raising right."""
    found = summary["reasons"][:MOST_BARS]
    most = max([1, *(max(each["raises"], each["lowers"]) for each in found)])
    return [
        Both(
            each["column"],
            round(each["lowers"] / most * HALF, 1),
            round(each["raises"] / most * HALF, 1),
            (f"{each['lowers']:,}", f"{each['raises']:,}"),
        )
        for each in found
    ]


def reliability(bins: Sequence[dict[str, Any]]) -> Reliability | None:
    """What was said against what happened; None if there is nothing to compare."""
    if not bins:
        return None
    top = min(1.0, max([0.1, *(max(each["predicted"], each["observed"]) for each in bins)]))
    dots = tuple(
        Dot(
            round(each["predicted"] / top * SIDE, 1),
            round(SIDE - each["observed"] / top * SIDE, 1),
            f"said {each['predicted']:.1%}, observed {each['observed']:.1%}, "
            f"{each['rows']:,} customers",
        )
        for each in bins
    )
    said = "; ".join(dot.title for dot in dots)
    return Reliability(f"Said and observed churn: {said}", f"{top:.0%}", dots)


def shapes(features: Sequence[dict[str, Any]]) -> list[Shape]:
    """The parts that features of a card have in a score, the most important first."""
    return [_shape(each) for each in features]


def _shape(feature: dict[str, Any]) -> Shape:
    name, slots = feature["name"], feature["slots"]
    if feature["kind"] in ("number", "date") and len(slots) > 2:
        return Shape(name, feature["importance"], _curve(name, slots), (), 0)
    known = sorted((slot for slot in slots if slot["rows"]), key=lambda slot: -slot["rows"])
    shown = known[:MOST_BARS]
    most = max([0.1, *(abs(slot["contribution"]) for slot in shown)])
    lines = tuple(
        Both(
            _value(name, slot["is"]),
            round(max(0.0, -slot["contribution"]) / most * HALF, 1),
            round(max(0.0, slot["contribution"]) / most * HALF, 1),
            (f"{slot['contribution']:+.2f}", f"{slot['rows']:,}"),
        )
        for slot in shown
    )
    return Shape(name, feature["importance"], None, lines, len(known) - len(shown))


def _curve(name: str, slots: Sequence[dict[str, Any]]) -> Curve:
    absent, *steps = slots
    largest = max([0.1, *(abs(slot["contribution"]) for slot in steps)])
    most = max([1, *(slot["rows"] for slot in steps)])
    step = WIDTH / len(steps)
    points, bars = [], []
    for index, slot in enumerate(steps):
        left, right = round(index * step, 2), round((index + 1) * step, 2)
        y = round((1 - slot["contribution"] / largest) / 2 * HEIGHT, 2)
        points += [f"{left},{y}", f"{right},{y}"]
        title = (
            f"{_value(name, slot['is'])}: {slot['contribution']:+.3f}, {slot['rows']:,} customers"
        )
        tall = _tall(slot["rows"] / most, FOOT - 6)
        bars.append(Column(left, round(step, 2), tall, "rows", title))
    first, last = _value(name, steps[0]["is"]), _value(name, steps[-1]["is"])
    missing = ""
    if absent["rows"]:
        missing = f"missing: {absent['contribution']:+.2f}, {absent['rows']:,} customers"
    label = (
        f"{name}: {steps[0]['contribution']:+.2f} for {first}, "
        f"{steps[-1]['contribution']:+.2f} for {last}"
    )
    return Curve(
        label, " ".join(points), HEIGHT / 2, tuple(bars), f"{largest:.2f}", first, last, missing
    )


def _value(name: str, text: str) -> str:
    """What is left of "tenure up to 3" and "plan is Monthly" without the column's name."""
    return text.removeprefix(name).strip().removeprefix("is ").strip() or text


def _tall(share: float, height: float) -> float:
    # What is not nothing is seen.
    return round(max(1.5, share * height), 2) if share > 0 else 0.0

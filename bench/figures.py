"""How a figure is written down: a row of a Markdown table, the ratio first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

HEAD = ("figure", "ratio", "value", "peer in the same run", "to reach")


def row(figure: str, ratio: str, value: str, peer: str, target: str = "") -> str:
    return "| " + " | ".join((figure, ratio, value, peer, target)) + " |"


def show(rows: Iterable[str]) -> None:
    """Print the rows under their head."""
    print(row(*HEAD))
    print("|---|---|---|---|---|")
    for each in rows:
        print(each)
    print(flush=True)


def percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %"


def middle(values: Sequence[float]) -> float:
    return median(values) if values else 0.0


def columns(rows: Iterable[Sequence[Any]]) -> list[tuple[Any, ...]]:
    return list(zip(*rows, strict=True))


def spread(values: Sequence[float], unit: str = "") -> str:
    """The median, and the range if there is more than one value."""
    text = f"{middle(values):,.0f}{unit}"
    return text if len(values) < 2 else f"{text} ({min(values):,.0f} to {max(values):,.0f})"

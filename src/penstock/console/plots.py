"""Figures as plots: numbers in, the geometry that a template draws as SVG out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from penstock.console.shown import lasting

WIDTH: Final = 600
HEIGHT: Final = 120


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar from the bottom up; `upper` is the height of what is drawn above it in a lighter
    tone."""

    x: float
    width: float
    height: float
    upper: float
    title: str


@dataclass(frozen=True, slots=True)
class Plot:
    """A bar chart in a box of `WIDTH` by `HEIGHT`."""

    label: str  # the whole of it in a sentence
    top: str  # what the full height stands for
    bars: tuple[Bar, ...]
    since: str
    width: int = WIDTH
    height: int = HEIGHT


def throughput(figures: dict[str, Any]) -> Plot:
    """Events in each span."""
    spans = figures["spans"]
    most = max((span["events"] for span in spans), default=0)
    total = sum(span["events"] for span in spans)
    bars = tuple(
        _bar(
            index,
            len(spans),
            span["events"] / max(1, most),
            0.0,
            f"{span['since'][11:16]} UTC: {'about ' if span['estimated'] else ''}"
            f"{span['events']:,} events",
        )
        for index, span in enumerate(spans)
    )
    each = lasting(figures["span"])
    label = f"Events accepted: {total:,} in all, at most {most:,} in {each}"
    return Plot(label, f"{most:,} in {each}", bars, spans[0]["since"] if spans else "")


def depth(figures: dict[str, Any]) -> Plot:
    """Events on their way at the end of each span."""
    spans = figures["spans"]
    most = max((span["under_way"] for span in spans), default=0)
    bars = tuple(
        _bar(
            index,
            len(spans),
            span["under_way"] / max(1, most),
            0.0,
            f"{span['since'][11:16]} UTC: {'about ' if span['estimated'] else ''}"
            f"{span['under_way']:,} on their way",
        )
        for index, span in enumerate(spans)
    )
    now = spans[-1]["under_way"] if spans else 0
    label = f"Events on their way: {now:,} now, at most {most:,}"
    return Plot(label, f"{most:,}", bars, spans[0]["since"] if spans else "")


def latency(figures: dict[str, Any]) -> Plot:
    """Half of the events were delivered within the lower part of the bar, 95 % within all of it."""
    spans = figures["spans"]
    most = max((span["p95"] for span in spans if span["p95"] is not None), default=0.0)
    scale = most or 1.0
    bars = []
    for index, span in enumerate(spans):
        if span["p50"] is None:
            continue
        title = (
            f"{span['since'][11:16]} UTC: half within {lasting(span['p50'])}, "
            f"95 % within {lasting(span['p95'])}"
        )
        low, high = span["p50"] / scale, span["p95"] / scale
        bars.append(_bar(index, len(spans), low, high - low, title))
    label = f"Time from acceptance to delivery: 95 % within at most {lasting(most)}"
    return Plot(label, lasting(most), tuple(bars), spans[0]["since"] if spans else "")


def _bar(index: int, count: int, share: float, upper: float, title: str) -> Bar:
    step = WIDTH / count
    # What is not nothing is seen.
    height = max(1.5, share * HEIGHT) if share > 0 else 0.0
    return Bar(
        round(index * step, 2),
        round(step * 0.72, 2),
        round(height, 2),
        round(upper * HEIGHT, 2),
        title,
    )

"""Drawings for a model's card, as SVG that follows the page's colours."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from penstock.predictions.model import Feature, ReliabilityBin

_WIDTH, _LEFT, _RIGHT = 640.0, 44.0, 8.0
_TOP, _MIDDLE, _FOOT = 8.0, 150.0, 40.0  # the curve, then the bars of the rows
_INSIDE = _WIDTH - _LEFT - _RIGHT
_BAR = 18.0
SHOWN = 30  # categories


def reliability(bins: Sequence[ReliabilityBin]) -> str:
    """Said probability to the right, observed share upwards."""
    top = max([0.1, *(max(each.predicted, each.observed) for each in bins)])
    size = 320.0

    def across(value: float) -> float:
        return _LEFT + value / top * (size - _LEFT - 8)

    def up(value: float) -> float:
        return size - 24 - value / top * (size - 32)

    dots = "".join(
        f'<circle class="dot" r="4" cx="{across(each.predicted):.1f}" '
        f'cy="{up(each.observed):.1f}"><title>said {each.predicted:.1%}, observed '
        f"{each.observed:.1%}, {each.rows:,} customers</title></circle>"
        for each in bins
    )
    axes = (
        f'<line class="axis" x1="{across(0)}" y1="{up(0)}" x2="{across(top)}" y2="{up(top)}"/>'
        f'<line class="axis" x1="{across(0)}" y1="{up(0)}" x2="{across(top)}" y2="{up(0)}"/>'
        f'<text x="{across(top):.1f}" y="{size - 8}" text-anchor="end">said, to {top:.0%}</text>'
        f'<text x="2" y="{up(top) + 10:.1f}">{top:.0%}</text>'
    )
    return (
        f'<svg viewBox="0 0 {size:.0f} {size:.0f}" role="img" class="square" '
        f'aria-label="Said and observed churn">{axes}{dots}</svg>'
    )


def shape(feature: Feature, texts: Sequence[str]) -> str:
    """What each value of a feature adds to the score."""
    if feature.column.kind in ("number", "date") and feature.edges:
        return _curve(feature, texts)
    return _bars(feature, texts)


def _bars(feature: Feature, texts: Sequence[str]) -> str:
    """One bar for each value that training met, the most frequent first."""
    slots = [slot for slot, count in enumerate(feature.counts) if count]
    slots.sort(key=lambda slot: -feature.counts[slot])
    rest = len(slots) - SHOWN
    slots = slots[:SHOWN]
    largest = max([0.1, *(abs(feature.table[slot]) for slot in slots)])
    half, start = 150.0, 330.0
    lines = []
    for i, slot in enumerate(slots):
        logit, y = feature.table[slot], 4 + i * _BAR
        width = abs(logit) / largest * (half - 40)
        x = start + half - (width if logit < 0 else 0)
        side = "up" if logit > 0 else "down"
        text = texts[slot].removeprefix(feature.column.name).removeprefix(" is").strip()
        short = escape(text if len(text) <= 48 else text[:47] + "…")
        beside = x + width + 4 if logit >= 0 else x - 4
        anchor = "start" if logit >= 0 else "end"
        lines.append(
            f'<text x="{start - 10}" y="{y + 12}" text-anchor="end">{short} '
            f"({feature.counts[slot]:,})</text>"
            f'<rect class="{side}" x="{x:.1f}" y="{y + 2:.1f}" width="{width:.1f}" '
            f'height="{_BAR - 5:.0f}"/>'
            f'<text x="{beside:.1f}" y="{y + 12}" text-anchor="{anchor}">{logit:+.2f}</text>'
        )
    height = 8 + len(slots) * _BAR
    middle = start + half
    axis = f'<line class="axis" x1="{middle}" y1="0" x2="{middle}" y2="{height}"/>'
    more = f"<p>and {rest:,} more values</p>" if rest > 0 else ""
    return (
        f'<svg viewBox="0 0 {_WIDTH:.0f} {height:.0f}" role="img" '
        f'aria-label="{escape(feature.column.name)}">{axis}{"".join(lines)}</svg>{more}'
    )


def _curve(feature: Feature, texts: Sequence[str]) -> str:
    """A step for each interval, with the number of customers below."""
    column, edges = feature.column, feature.edges
    low = min(edges[0], edges[0] if column.low is None else column.low)
    high = max(edges[-1], edges[-1] if column.high is None else column.high)
    span = (high - low) or 1.0
    bounds = [low, *edges, high]
    largest = max([0.1, *(abs(logit) for logit in feature.table)])
    most = max(feature.counts[1:]) or 1

    def across(value: float) -> float:
        return _LEFT + (value - low) / span * _INSIDE

    def down(logit: float) -> float:
        return _TOP + (1 - logit / largest) / 2 * (_MIDDLE - _TOP)

    points, bars = [], []
    for slot in range(1, len(feature.table)):
        left, right = across(bounds[slot - 1]), across(bounds[slot])
        y = down(feature.table[slot])
        points += [f"{left:.1f},{y:.1f}", f"{right:.1f},{y:.1f}"]
        tall = feature.counts[slot] / most * (_FOOT - 8)
        bars.append(
            f'<rect class="rows" x="{left:.1f}" y="{_MIDDLE + _FOOT - tall:.1f}" '
            f'width="{max(right - left, 0.5):.1f}" height="{tall:.1f}"><title>'
            f"{escape(texts[slot])}: {feature.table[slot]:+.3f}, {feature.counts[slot]:,} "
            "customers</title></rect>"
        )
    height = _MIDDLE + _FOOT + 18
    missing = (
        f"<p>Missing in {feature.counts[0]:,} rows: {feature.table[0]:+.2f}</p>"
        if feature.counts[0]
        else ""
    )
    unit = " days before" if column.kind == "date" else ""
    return (
        f'<svg viewBox="0 0 {_WIDTH:.0f} {height:.0f}" role="img" '
        f'aria-label="{escape(column.name)}">'
        f'<line class="axis" x1="{_LEFT}" y1="{down(0):.1f}" x2="{_WIDTH - _RIGHT}" '
        f'y2="{down(0):.1f}"/>'
        f'<text x="2" y="{_TOP + 8}">{largest:+.2f}</text><text x="2" y="{_MIDDLE}">'
        f'{-largest:+.2f}</text><polyline class="line" points="{" ".join(points)}"/>'
        f'{"".join(bars)}<text x="{_LEFT}" y="{height - 4}">{low:g}{unit}</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{height - 4}" text-anchor="end">{high:g}{unit}</text>'
        f"</svg>{missing}"
    )

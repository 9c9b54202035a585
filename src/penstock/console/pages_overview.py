"""The overview: what is owed, how fast it goes, what gave up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from penstock.console import plots
from penstock.console.pages import Desk, Visit

RANGES = {"1h": 60, "6h": 360, "24h": 1440}


def add(desk: Desk) -> None:
    """Add the page."""

    @desk.page("/")
    async def overview(visit: Visit) -> Response:
        chosen = visit.query.get("range", "1h")
        minutes = RANGES.get(chosen, 60)
        figures = None
        if "events" in desk.services:
            figures = await visit.maybe("/v1/figures/events", {"minutes": minutes})
        work = await visit.maybe("/v1/figures/work")
        counts = (await visit.api("GET", "/v1/dead/counts"))["kinds"]
        dead = await visit.api("GET", "/v1/dead", {"limit": 5})
        lanes = await visit.maybe("/v1/lanes", {"stopped": "true", "limit": 5})
        return visit.render(
            "overview.html",
            ranges=list(RANGES),
            chosen=chosen if chosen in RANGES else "1h",
            work=None if work is None else [_kind(kind, counts) for kind in work["kinds"]],
            totals=None if work is None else _totals(work["kinds"]),
            dead_total=_sum(counts),
            dead=dead["items"],
            lanes=None if lanes is None else lanes["items"],
            rate=None if figures is None else plots.throughput(figures),
            delay=None if figures is None else plots.latency(figures),
            depth=None if figures is None else plots.depth(figures),
            figures=None if figures is None else _figures(figures),
        )


def _kind(kind: dict[str, Any], counts: Mapping[str, Any]) -> dict[str, Any]:
    dead = counts.get(kind["kind"])
    busy = any((
        kind["due"]["count"], kind["later"]["count"], kind["in_flight"], kind["lanes_stopped"],
        dead is not None and dead["count"],
    ))  # fmt: skip
    return kind | {"dead": dead, "busy": busy}


def _sum(counts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "count": sum(count["count"] for count in counts.values()),
        "more": any(count["more"] for count in counts.values()),
    }


def _totals(kinds: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "due": _sum({kind["kind"]: kind["due"] for kind in kinds}),
        "later": _sum({kind["kind"]: kind["later"] for kind in kinds}),
        "in_flight": sum(kind["in_flight"] for kind in kinds),
        "oldest_due": max((kind["oldest_due"] for kind in kinds), default=0.0),
        "lanes_stopped": sum(kind["lanes_stopped"] for kind in kinds),
    }


def _pace(a_second: float) -> str:
    if a_second >= 1:
        return f"{a_second:,.0f} a second"
    return (
        f"{a_second * 60:,.0f} a minute"
        if a_second * 60 >= 1
        else f"{a_second * 3600:,.0f} an hour"
    )


def _figures(figures: dict[str, Any]) -> dict[str, Any]:
    spans = figures["spans"]
    total = sum(span["events"] for span in spans)
    latest = next((span for span in reversed(spans) if span["p50"] is not None), None)
    return {
        "total": total,
        "estimated": any(span["estimated"] for span in spans),
        "pace": _pace(total / (figures["span"] * len(spans))),
        "p50": None if latest is None else latest["p50"],
        "p95": None if latest is None else latest["p95"],
    }

"""`/v1/figures/events`: throughput and latency."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from penstock.api.context import Caller, requires
from penstock.events import figures
from penstock.events.deps import Deps


class Span(BaseModel):
    """Events accepted in one span of time. Latencies are seconds from acceptance to delivery."""

    since: str
    events: int
    estimated: Annotated[bool, Field(description="From the pace of the span's first 250 events.")]
    failed: Annotated[float, Field(description="Share of those looked at, 0 to 1.")]
    under_way: Annotated[
        int, Field(description="Of all spans' events, those not yet delivered at its end.")
    ]
    p50: float | None
    p95: float | None


class EventFigures(BaseModel):
    """The spans, each `span` seconds long, the oldest first."""

    span: float
    spans: list[Span]


def add(api: APIRouter, deps: Deps) -> None:
    """Add the route to a router."""

    @api.get("/v1/figures/events", summary="Throughput and latency", tags=["Figures"])
    @requires("events:read")
    async def event_figures(
        caller: Caller,
        minutes: Annotated[int, Query(ge=1, le=1440, description="How far back.")] = 60,
    ) -> EventFigures:
        """Of the events accepted lately, in 60 spans."""
        return EventFigures(
            **await deps.database.read(lambda tx: figures.look(tx, caller.account, minutes))
        )

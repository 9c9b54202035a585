"""What the routes of replays take and answer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from penstock.events.models import Moment, Pattern, Plain
from penstock.events.shapes import EventAccepted, EventStatus

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

_Id = Annotated[Plain, Field(min_length=1, max_length=100)]


class EventReplayIn(BaseModel):
    """Which deliveries of an event to send again: all that ended, or those to some endpoints."""

    model_config = _STRICT

    endpoint_ids: Annotated[list[_Id], Field(min_length=1, max_length=100)] | None = None
    include_missing: bool = False


class ReplayIn(BaseModel):
    """Which events to send again; without a filter, all there are."""

    model_config = _STRICT

    event_types: Annotated[list[Pattern], Field(min_length=1, max_length=100)] | None = None
    status: EventStatus | None = None
    since: Moment | None = None
    until: Moment | None = None
    endpoint_id: _Id | None = None
    include_missing: bool = False


class RecoverIn(BaseModel):
    """From when on, and up to when, an endpoint missed events."""

    model_config = _STRICT

    since: Moment
    until: Moment | None = None


class EventReplayed(EventAccepted):
    """The event as it is now, and what the replay did to its deliveries."""

    replayed: Annotated[int, Field(description="Deliveries that had ended and are pending again.")]
    added: Annotated[int, Field(description="Deliveries made for endpoints that had none.")]
    left_pending: Annotated[int, Field(description="Deliveries that were pending: left alone.")]


class ReplayFilter(BaseModel):
    """What a replay is of. `failed_only`: what was delivered is left out."""

    event_types: list[str] | None
    status: str | None
    since: str | None
    until: str | None
    endpoint_id: str | None
    include_missing: bool
    failed_only: bool


class ReplayView(BaseModel):
    """A replay and how far it is."""

    replay_id: str
    status: Literal["pending", "done", "cancelled", "dead"]
    filter: ReplayFilter
    looked_at: Annotated[int, Field(description="Events looked at so far.")]
    estimate: Annotated[
        int | None,
        Field(description="Events to look at; null = more than a million."),
    ]
    replayed: Annotated[int, Field(description="Deliveries it made pending so far.")]
    delivered: int
    dead: int
    outstanding: Annotated[int, Field(description="Of those, not ended yet; at most 1,000.")]
    behind: Annotated[
        list[str],
        Field(description="Endpoints that it waits for: they cannot keep up, or a key is halted."),
    ]
    created_at: str
    finished_at: str | None
    last_error: str | None

"""`/v1/replays`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from penstock.client.calls import Call, Listing, at, reading
from penstock.client.resources import (
    AsyncResource,
    Resource,
    async_pages,
    awaited,
    blocking,
    pages,
)
from penstock.client.values import Value, moment, plain


@dataclass(frozen=True, slots=True)
class ReplayFilter(Value):
    """What a replay is of. `failed_only`: what was delivered is left out."""

    event_types: tuple[str, ...] | None
    status: str | None
    since: datetime | None
    until: datetime | None
    endpoint_id: str | None
    include_missing: bool
    failed_only: bool


@dataclass(frozen=True, slots=True)
class Replay(Value):
    """Many events being sent again, and how far that is.

    `status` is `pending`, `done`, `cancelled` or `dead`. `estimate` is how many events there are
    to look at (None: more than a million), `looked_at` how many were. `replayed` counts the
    deliveries that were made pending; of those `outstanding` have not ended yet. `behind` are
    the endpoints that cannot keep up.
    """

    replay_id: str
    status: str
    filter: ReplayFilter
    looked_at: int
    estimate: int | None
    replayed: int
    delivered: int
    dead: int
    outstanding: int
    behind: tuple[str, ...]
    created_at: datetime
    finished_at: datetime | None
    last_error: str | None


def create(
    *,
    event_types: Sequence[str] | None = None,
    status: str | None = None,
    since: datetime | str | None = None,
    until: datetime | str | None = None,
    endpoint_id: str | None = None,
    include_missing: bool = False,
) -> Call[Replay]:
    """Send the events that are there now again; without a filter, all of them.

    Events accepted at or after `since` and before `until`. Of events with `status` ``failed``
    only the deliveries that were not made are sent. `include_missing` also makes those that
    endpoints which take the event never got.
    """
    given = {
        "event_types": plain(event_types),
        "status": status,
        "since": moment(since),
        "until": moment(until),
        "endpoint_id": endpoint_id,
        "include_missing": include_missing,
    }
    body = {name: value for name, value in given.items() if value is not None}
    return Call("POST", at("replays"), reading(Replay.of), body=body, repeatable=False)


def get(replay_id: str) -> Call[Replay]:
    """One replay, as far as it is now."""
    return Call("GET", at("replays", replay_id), reading(Replay.of))


def every(*, page_size: int = 100) -> Listing[Replay]:
    """Replays, newest first."""
    return Listing(Call("GET", at("replays"), reading(dict), query={"limit": page_size}), Replay.of)


def cancel(replay_id: str) -> Call[Replay]:
    """Add nothing more, and take back what nobody tried yet. Repeating it is harmless."""
    return Call("POST", at("replays", replay_id, "cancel"), reading(Replay.of))


class Replays(Resource):
    """Sending many events again."""

    create = blocking(create)
    get = blocking(get)
    list = pages(every)
    cancel = blocking(cancel)


class AsyncReplays(AsyncResource):
    """Sending many events again."""

    create = awaited(create)
    get = awaited(get)
    list = async_pages(every)
    cancel = awaited(cancel)

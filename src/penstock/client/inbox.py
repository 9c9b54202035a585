"""`/v1/inbox`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from penstock.client.calls import Answer, Call, Listing, Query, at, reading
from penstock.client.resources import (
    AsyncResource,
    Resource,
    async_pages,
    awaited,
    blocking,
    pages,
)
from penstock.client.values import Value, plain


@dataclass(frozen=True, slots=True)
class InboxEvent(Value):
    """An undelivered event with its contents, and who has leased it until when."""

    event_id: str
    event_type: str
    payload: dict[str, Any]
    metadata: dict[str, Any] | None
    status: str
    created_at: datetime
    deliver_at: datetime | None
    delivery_attempts: int
    lease_id: str | None
    leased_until: datetime | None


@dataclass(frozen=True, slots=True)
class Lease(Value):
    """Events that are this reader's for a while, oldest first; there may be none."""

    lease_id: str
    leased_until: datetime
    events: tuple[InboxEvent, ...]


@dataclass(frozen=True, slots=True)
class InboxOutcome(Value):
    """What became of one event.

    Of an acknowledgement: `acknowledged`, `already_delivered`, `lease_lost` (somebody else has
    leased it since) or `not_found`. Of a release: `released`, `not_leased`, `lease_lost` or
    `not_found`.
    """

    event_id: str
    outcome: str


def every(*, event_types: Sequence[str] = (), page_size: int = 100) -> Listing[InboxEvent]:
    """Undelivered events, oldest first, leased ones among them; nothing is changed.

    `event_types`: only these, each a type, ``prefix.*`` or ``*``.
    """
    query: Query = {"event_types": event_types, "limit": page_size}
    return Listing(Call("GET", at("inbox"), reading(dict), query=query), InboxEvent.of)


def lease(
    *,
    event_types: Sequence[str] = (),
    limit: int = 10,
    lease_seconds: int = 60,
    wait: float = 0,
) -> Call[Lease]:
    """Lease up to `limit` events (at most 100): nobody else gets them, none of them is pushed.

    `wait`: seconds (at most 20) to hold the answer until there is something. It is tried again
    after a lost answer; what that answer leased is there again after `lease_seconds`.
    """
    body = {
        "event_types": plain(event_types),
        "limit": limit,
        "lease_seconds": lease_seconds,
        "wait": wait,
    }
    return Call("POST", at("inbox", "lease"), reading(Lease.of), body=body, held=float(wait))


def ack(event_ids: Sequence[str], lease_id: str | None = None) -> Call[tuple[InboxOutcome, ...]]:
    """Mark events (at most 100) delivered and cancel what is still to be pushed of them.

    With the `lease_id`, only those that nobody else has leased since. Repeating it is harmless.
    """
    return _settle("ack", event_ids, lease_id)


def release(
    event_ids: Sequence[str], lease_id: str | None = None
) -> Call[tuple[InboxOutcome, ...]]:
    """Let others have leased events (at most 100) at once, and push what was held back of them.

    With the `lease_id`, only those that it still holds. Repeating it is harmless.
    """
    return _settle("release", event_ids, lease_id)


class Inbox(Resource):
    """Fetching events instead of having them pushed."""

    list = pages(every)
    lease = blocking(lease)
    ack = blocking(ack)
    release = blocking(release)


class AsyncInbox(AsyncResource):
    """Fetching events instead of having them pushed."""

    list = async_pages(every)
    lease = awaited(lease)
    ack = awaited(ack)
    release = awaited(release)


def _settle(
    how: str, event_ids: Sequence[str], lease_id: str | None
) -> Call[tuple[InboxOutcome, ...]]:
    body: dict[str, Any] = {"event_ids": plain(event_ids)}
    if lease_id is not None:
        body["lease_id"] = lease_id
    return Call("POST", at("inbox", how), _outcomes, body=body)


def _outcomes(answer: Answer) -> tuple[InboxOutcome, ...]:
    return reading(lambda found: tuple(map(InboxOutcome.of, found["results"])))(answer)

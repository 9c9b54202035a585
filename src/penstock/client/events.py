"""`/v1/events`."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from penstock.client.calls import Answer, Call, Listing, at, nothing, reading
from penstock.client.resources import (
    AsyncResource,
    Resource,
    async_pages,
    awaited,
    blocking,
    pages,
)
from penstock.client.values import Problem, Value, moment, plain


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to be sent in a batch."""

    event_type: str
    payload: Mapping[str, Any]
    metadata: Mapping[str, Any] | None = None
    idempotency_key: str | None = None
    ordering_key: str | None = None
    deliver_at: datetime | str | None = None

    def body(self) -> dict[str, Any]:
        """As the API takes it."""
        fields = {
            "event_type": self.event_type,
            "payload": self.payload,
            "metadata": self.metadata,
            "idempotency_key": self.idempotency_key,
            "ordering_key": self.ordering_key,
            "deliver_at": moment(self.deliver_at),
        }
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Delivery(Value):
    """One endpoint's share of an event."""

    delivery_id: str
    endpoint_id: str
    status: str
    attempts: int
    next_attempt_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AcceptedEvent(Value):
    """An event as the answer to its acceptance shows it.

    `replayed`: its idempotency key was used before, and this is the answer of then.
    """

    event_id: str
    event_type: str
    status: str
    created_at: datetime
    delivered_at: datetime | None
    delivery_attempts: int
    message: str
    deliveries: tuple[Delivery, ...]
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class BatchResult(Value):
    """What became of one event of a batch: `event` if it was accepted, `problem` if not."""

    index: int
    status_code: int
    replayed: bool = False
    event: AcceptedEvent | None = None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class BatchSummary(Value):
    """The results of a batch, counted."""

    total: int
    accepted: int
    replayed: int
    refused: int


@dataclass(frozen=True, slots=True)
class Batch(Value):
    """What became of each event, in the order in which they were sent."""

    results: tuple[BatchResult, ...]
    summary: BatchSummary


@dataclass(frozen=True, slots=True)
class Event(Value):
    """An event in a list."""

    event_id: str
    event_type: str
    status: str
    created_at: datetime
    deliver_at: datetime | None
    delivered_at: datetime | None
    delivery_attempts: int
    message: str
    open_deliveries: int
    dead_deliveries: int
    # While a reader of the inbox has it.
    inbox_lease_id: str | None = None
    inbox_leased_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Why(Value):
    """Why a delivery has not run yet."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Attempt(Value):
    """One try at a delivery; `duration` is in seconds, `response` the answer's beginning."""

    number: int
    started_at: datetime
    duration: float
    status_code: int | None
    error_kind: str | None
    error: str | None
    address: str | None
    response: str | None
    response_base64: str | None = None


@dataclass(frozen=True, slots=True)
class DeliveryDetail(Value):
    """One endpoint's share of an event, with its latest attempts."""

    delivery_id: str
    endpoint_id: str
    status: str
    attempts: int
    next_attempt_at: datetime | None
    created_at: datetime
    expires_at: datetime
    finished_at: datetime | None
    last_error: str | None
    why: Why | None
    attempt_log: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class EventDetail(Value):
    """An event with its contents and what became of it; of many deliveries the first 100."""

    event_id: str
    event_type: str
    status: str
    created_at: datetime
    deliver_at: datetime | None
    delivered_at: datetime | None
    delivery_attempts: int
    message: str
    payload: dict[str, Any]
    metadata: dict[str, Any] | None
    open_deliveries: int
    dead_deliveries: int
    deliveries_total: int
    deliveries: tuple[DeliveryDetail, ...]
    # While a reader of the inbox has it.
    inbox_lease_id: str | None = None
    inbox_leased_until: datetime | None = None
    ordering_key: str | None = None


@dataclass(frozen=True, slots=True)
class ReplayedEvent(Value):
    """An event that is sent again, and how many of its deliveries.

    `replayed` had ended and are pending again, `added` are those to endpoints that had none,
    `left_pending` were under way anyway.
    """

    event_id: str
    event_type: str
    status: str
    created_at: datetime
    delivered_at: datetime | None
    delivery_attempts: int
    message: str
    deliveries: tuple[Delivery, ...]
    replayed: int
    added: int
    left_pending: int


def send(
    event_type: str,
    payload: Mapping[str, Any] | None = None,
    *,
    metadata: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
    ordering_key: str | None = None,
    deliver_at: datetime | str | None = None,
    wait: int = 0,
) -> Call[AcceptedEvent]:
    """Send one event; it is stored durably when this returns.

    Without an `idempotency_key` this call gets one of its own, so that it can be tried again.
    `wait`: seconds (at most 20) to hold the answer until every delivery was tried.
    """
    key = _new_key() if idempotency_key is None else idempotency_key
    event = NewEvent(event_type, payload or {}, metadata, key, ordering_key, deliver_at)
    return Call(
        "POST",
        at("events"),
        _accepted,
        body=event.body(),
        headers={"prefer": f"wait={wait}"} if wait else {},
        held=float(wait),
    )


def send_batch(events: Iterable[NewEvent]) -> Call[Batch]:
    """Send up to 100 events; each is accepted or refused alone, and refusals do not raise."""
    return Call(
        "POST",
        at("events", "batch"),
        reading(Batch.of),
        body={"events": [event.body() for event in events]},
        headers={"idempotency-key": _new_key()},  # for those that have none
    )


def get(event_id: str) -> Call[EventDetail]:
    """One event with its deliveries, their attempts, and why they wait."""
    return Call("GET", at("events", event_id), reading(EventDetail.of))


def every(
    *,
    event_type: str | None = None,
    status: str | None = None,
    since: datetime | str | None = None,
    until: datetime | str | None = None,
    endpoint: str | None = None,
    page_size: int = 100,
) -> Listing[Event]:
    """Events, newest first: accepted at or after `since` and before `until`."""
    query = {
        "event_type": event_type,
        "status": status,
        "since": moment(since),
        "until": moment(until),
        "endpoint": endpoint,
        "limit": page_size,
    }
    return Listing(Call("GET", at("events"), reading(dict), query=query), Event.of)


def replay(
    event_id: str, *, endpoint_ids: Sequence[str] | None = None, include_missing: bool = False
) -> Call[ReplayedEvent]:
    """Send an event again: its deliveries that have ended, or those of them to some endpoints.

    `include_missing` also makes those that endpoints which take the event never got.
    """
    body: dict[str, Any] = {"include_missing": include_missing}
    if endpoint_ids is not None:
        body["endpoint_ids"] = plain(endpoint_ids)
    return Call(
        "POST",
        at("events", event_id, "replay"),
        reading(ReplayedEvent.of),
        body=body,
        repeatable=False,
    )


def delete(event_id: str) -> Call[None]:
    """Delete an event with its deliveries; one that is being sent may still arrive."""
    return Call("DELETE", at("events", event_id), nothing)


class Events(Resource):
    """Sending events, reading them back, sending them again."""

    send = blocking(send)
    send_batch = blocking(send_batch)
    get = blocking(get)
    list = pages(every)
    replay = blocking(replay)
    delete = blocking(delete)


class AsyncEvents(AsyncResource):
    """Sending events, reading them back, sending them again."""

    send = awaited(send)
    send_batch = awaited(send_batch)
    get = awaited(get)
    list = async_pages(every)
    replay = awaited(replay)
    delete = awaited(delete)


def _accepted(answer: Answer) -> AcceptedEvent:
    event = reading(AcceptedEvent.of)(answer)
    return replace(event, replayed=answer.headers.get("idempotent-replayed") == "true")


def _new_key() -> str:
    return uuid.uuid4().hex

"""Accepting events: the event, its deliveries and its idempotency key in one transaction.

What is stored is owed: a delivery row is due from the commit that stored its event, so there
is no queue to be told and nothing to be lost in between. This is the hottest path of the
service; per event it costs one look-up, one insert for the event and one per delivery.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import to_json

from penstock.clock import SECOND, from_datetime, to_iso
from penstock.errors import Refused
from penstock.events import idempotency, ordering, views
from penstock.events.matching import Catalogue, Matcher, Subscriber
from penstock.events.models import EventIn
from penstock.ids import new_id
from penstock.storage import Tx, sql
from penstock.work import lanes

DELIVERY: Final = "delivery"  # the kind of work that pushes
FANOUT: Final = "fanout"  # the kind of work that spreads an event over many endpoints
FANOUT_ABOVE: Final = 25  # matching endpoints
FURTHEST: Final = 366 * 86400  # seconds: `deliver_at` at most a year ahead

_encode = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False
).encode

# One statement for both, so that PostgreSQL is asked once.
_LOOK = sql("SELECT (SELECT endpoints_version FROM accounts WHERE id = :account), {now}")

_EVENT = """
INSERT INTO events (id, account, event_type, payload, metadata, status, created_at, deliver_at,
                    open_deliveries, source_key, traceparent, ordering_key)
VALUES (:id, :account, :event_type, :payload, :metadata, 'pending', :created_at, :deliver_at,
        :open_deliveries, :source_key, :traceparent, :ordering_key)
"""
_INSERT_EVENT = sql(_EVENT)
_EMIT_EVENT = sql(_EVENT + "ON CONFLICT (account, source_key) DO NOTHING")

INSERT_DELIVERY = sql("""
INSERT INTO deliveries (id, account, event_id, endpoint_id, status, created_at, expires_at,
                        lane, due_at, ordering_key, order_seq)
VALUES (:id, :account, :event_id, :endpoint_id, 'pending', :created_at, :expires_at,
        :lane, :due_at, :ordering_key, :order_seq)
""")

_INSERT_FANOUT = sql("""
INSERT INTO fanouts (id, account, status, lane, due_at)
VALUES (:id, :account, 'pending', :lane, :due_at)
""")


class EventAvailable:
    """A note: the account's inbox may have something that it had not."""

    __slots__ = ("account",)

    def __init__(self, account: str) -> None:
        self.account = account


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that passed every check and can be stored as it is."""

    event_type: str
    payload: str  # compact JSON
    metadata: str | None = None
    deliver_at: int | None = None  # µs; None = now
    key: str | None = None
    fingerprint: str = ""
    ordering_key: str | None = None
    source_key: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The event is stored; `answer` is its view, as JSON text."""

    event_id: str
    answer: str
    replayed: bool = False


def compact(value: Mapping[str, Any]) -> str:
    """`value` as compact JSON, its keys in the order in which they came.

    Raises Refused for what JSON or UTF-8 cannot carry: NaN, infinities, lone surrogates.
    """
    try:
        text = _encode(value)
        text.encode()
    except ValueError:
        raise Refused(
            "validation_failed",
            "The body holds a number that is not finite or a character that is not Unicode.",
        ) from None
    return text


def new_event(
    event: EventIn, *, now: int, key: str | None = None, traceparent: str | None = None
) -> NewEvent:
    """The parsed request as it will be stored; `key` overrides the one in the body.

    Raises Refused.
    """
    deliver_at = None
    if event.deliver_at is not None:
        deliver_at = from_datetime(event.deliver_at)
        if deliver_at > now + FURTHEST * SECOND:
            raise Refused("validation_failed", "It is more than a year ahead", "/deliver_at")
    payload = compact(event.payload)
    metadata = None if event.metadata is None else compact(event.metadata)
    key = key or event.idempotency_key
    print_ = ""
    if key is not None:
        request: dict[str, Any] = {"event_type": event.event_type, "payload": event.payload}
        if event.metadata is not None:
            request["metadata"] = event.metadata
        if deliver_at is not None:
            request["deliver_at"] = to_iso(deliver_at)
        if event.ordering_key is not None:
            request["ordering_key"] = event.ordering_key
        print_ = idempotency.fingerprint(request)
    return NewEvent(
        event_type=event.event_type,
        payload=payload,
        metadata=metadata,
        deliver_at=deliver_at if deliver_at is not None and deliver_at > now else None,
        key=key,
        fingerprint=print_,
        ordering_key=event.ordering_key,
        traceparent=traceparent,
    )


class Acceptor:
    """Stores events; keeps the parsed endpoints of each account between calls.

    `expiry`: seconds after a delivery is first due at which it is given up.
    """

    __slots__ = ("_catalogue", "_expiry")

    def __init__(self, expiry: float) -> None:
        self._catalogue = Catalogue()
        self._expiry = int(expiry * SECOND)

    def accept(self, tx: Tx, account: str, events: Sequence[NewEvent]) -> list[Accepted | Refused]:
        """Store the events in this transaction, each with an outcome of its own."""
        look = tx.one(_LOOK, account=account)
        assert look is not None
        version, now = look[0] or 0, look[1]
        matcher = self._catalogue.matcher(tx, account, version)
        outcomes: list[Accepted | Refused] = []
        batch = _Batch(account, now, self._expiry)
        for event in events:
            to = matcher.subscribers(event.event_type, event.payload, event.metadata)
            outcomes.append(batch.add(tx, event, to))
        batch.write(tx)
        return outcomes

    def accept_for(self, tx: Tx, account: str, event: NewEvent, to: Subscriber) -> Accepted:
        """Store one event with one delivery, to this endpoint alone."""
        batch = _Batch(account, tx.now(), self._expiry)
        outcome = batch.add(tx, event, (to,))
        assert isinstance(outcome, Accepted)
        batch.write(tx)
        return outcome

    def emit(
        self,
        tx: Tx,
        account: str,
        event_type: str,
        payload: Mapping[str, Any],
        source_key: str,
    ) -> None:
        """Store an event of another service, once per `source_key` (the `work.emit` port)."""
        event = NewEvent(event_type, compact(payload), source_key=source_key)
        to = self.matcher(tx, account).subscribers(event_type, event.payload, None)
        self._emit(tx, account, event, to)

    def tell(
        self,
        tx: Tx,
        account: str,
        event_type: str,
        payload: Mapping[str, Any],
        source_key: str,
        about: str,
    ) -> None:
        """Store an event about an endpoint, for those others that ask for its type by name."""
        event = NewEvent(event_type, compact(payload), source_key=source_key)
        named = self.matcher(tx, account).named(event_type)
        self._emit(tx, account, event, [to for to in named if to.id != about])

    def matcher(self, tx: Tx, account: str) -> Matcher:
        """The account's endpoints as they are in this transaction."""
        look = tx.one(_LOOK, account=account)
        assert look is not None
        return self._catalogue.matcher(tx, account, look[0] or 0)

    def _emit(self, tx: Tx, account: str, event: NewEvent, to: Sequence[Subscriber]) -> None:
        batch = _Batch(account, tx.now(), self._expiry)
        batch.add(tx, event, to)
        if tx.run(_EMIT_EVENT, **batch.events.pop()):
            batch.write(tx)


class _Batch:
    """Rows gathered over the events of one transaction, written together."""

    __slots__ = ("account", "deliveries", "events", "expiry", "fanouts", "now", "wakes")

    def __init__(self, account: str, now: int, expiry: int) -> None:
        self.account = account
        self.now = now
        self.expiry = expiry
        self.events: list[dict[str, Any]] = []
        self.deliveries: list[dict[str, Any]] = []
        self.fanouts: list[dict[str, Any]] = []
        # The earliest instant at which each lane has something to do.
        self.wakes: dict[tuple[str, str], int] = {}

    def add(self, tx: Tx, event: NewEvent, subscribers: Sequence[Subscriber]) -> Accepted | Refused:
        """Take the event's key, if it has one, and gather its rows."""
        now, event_id = self.now, new_id("evt")
        due = now if event.deliver_at is None else max(now, event.deliver_at)
        # Ordered deliveries take their places in the transaction that accepts their event, to
        # however many endpoints: spread later, they might overtake one another.
        spread = len(subscribers) > FANOUT_ABOVE and event.ordering_key is None
        rows = [] if spread else self._deliveries(event_id, due, subscribers)
        # While an event is being spread, the spreading itself is its one open delivery: it
        # cannot become final before the last endpoint has been given its row.
        open_deliveries = 1 if spread else len(rows)
        text = (
            f"Accepted: being spread over {len(subscribers)} endpoints."
            if spread
            else views.message("pending", open_deliveries, 0, event.deliver_at)
        )
        answer = to_json(
            views.event(
                event_id,
                event.event_type,
                "pending",
                now,
                None,
                0,
                text,
                [
                    # Of an ordered delivery's turn nothing is known before it has its place.
                    views.delivery(
                        row["id"],
                        row["endpoint_id"],
                        "pending",
                        0,
                        due if event.ordering_key is None else None,
                    )
                    for row in rows
                ],
            )
        ).decode()
        if event.key is not None:
            taken = idempotency.take(
                tx, self.account, event.key, event.fingerprint, event_id, answer, now
            )
            if isinstance(taken, Refused):
                return taken
            if taken is not None:
                return Accepted(taken.event_id, taken.response, replayed=True)
        self.events.append(
            {
                "id": event_id,
                "account": self.account,
                "event_type": event.event_type,
                "payload": event.payload,
                "metadata": event.metadata,
                "created_at": now,
                "deliver_at": event.deliver_at,
                "open_deliveries": open_deliveries,
                "source_key": event.source_key,
                "traceparent": event.traceparent,
                "ordering_key": event.ordering_key,
            }
        )
        if spread:
            lane = f"fanout:{self.account}"
            self.fanouts.append(
                {"id": event_id, "account": self.account, "lane": lane, "due_at": now}
            )
            self.wakes[FANOUT, lane] = now
        self.deliveries += rows
        for row in rows:
            row["ordering_key"] = event.ordering_key
        return Accepted(event_id, answer)

    def _deliveries(
        self, event_id: str, due: int, subscribers: Sequence[Subscriber]
    ) -> list[dict[str, Any]]:
        return [
            {
                "id": new_id("dlv"),
                "account": self.account,
                "event_id": event_id,
                "endpoint_id": subscriber.id,
                "created_at": self.now,
                "expires_at": due + self.expiry,
                "lane": subscriber.lane,
                "due_at": due,
                "ordering_key": None,
                "order_seq": None,
            }
            for subscriber in subscribers
        ]

    def write(self, tx: Tx) -> None:
        """Insert what was gathered and wake the lanes it waits in."""
        ordered = [row for row in self.deliveries if row["ordering_key"] is not None]
        # Heads are locked in the same order by everybody; of one key, the events' order stays.
        for row in sorted(ordered, key=lambda row: (row["endpoint_id"], row["ordering_key"])):
            place, turn = ordering.enter(tx, row["endpoint_id"], row["ordering_key"], row["id"])
            row["order_seq"] = place
            if not turn:
                row["due_at"] = None
        for row in self.deliveries:
            due = row["due_at"]
            if due is not None:
                wake = (DELIVERY, row["lane"])
                self.wakes[wake] = min(due, self.wakes.get(wake, due))
        for statement, rows in (
            (_INSERT_EVENT, self.events),
            (INSERT_DELIVERY, self.deliveries),
        ):
            if len(rows) == 1:
                tx.run(statement, **rows[0])
            elif rows:
                tx.many(statement, rows)
        if self.fanouts:
            lane = self.fanouts[0]["lane"]
            lanes.ensure(tx, lane, kind=FANOUT, account=self.account, max_in_flight=4)
            tx.many(_INSERT_FANOUT, self.fanouts)
        tx.notify(EventAvailable(self.account))
        for (kind, lane), due in self.wakes.items():
            lanes.wake(tx, kind, lane, (due - self.now) / SECOND)

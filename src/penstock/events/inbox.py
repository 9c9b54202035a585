"""The inbox: undelivered events, for readers that come and fetch them, oldest first.

A reader leases events, handles them and acknowledges them. While an event is leased no push of it
is begun: one that is claimed finds the lease and is postponed, without an attempt counted. What is
being pushed is not leased; so a lease never meets a push, except where an event is acknowledged
without one, or after its lease has ended: a push that is under way then cannot be recalled.

A lease ends by its time, by release, or by the next reader's lease; until somebody else leases the
event, whoever had it may still acknowledge it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Select, exists, func, or_, select, text

from penstock.clock import SECOND, to_iso
from penstock.events import ordering, replays
from penstock.events.accept import DELIVERY, EventAvailable
from penstock.events.push import INBOX_LEASED
from penstock.events.settled import EventSettled
from penstock.ids import new_id
from penstock.storage import Tx, sql
from penstock.storage.tables import deliveries, events
from penstock.work import lanes

AckOutcome = Literal["acknowledged", "already_delivered", "lease_lost", "not_found"]
ReleaseOutcome = Literal["released", "not_leased", "lease_lost", "not_found"]

# The reason of a delivery that an acknowledgement made needless.
ACKNOWLEDGED: Final = "acknowledged: a reader of the inbox has taken the event"

_COLUMNS = (
    "id, event_type, payload, metadata, status, created_at, deliver_at, delivery_attempts, "
    "inbox_lease, inbox_until_at"
)
_LEASE = sql(f"""
UPDATE events SET inbox_lease = :lease, inbox_until_at = :until WHERE id {{in:ids}}
RETURNING {_COLUMNS}
""")  # noqa: S608 - no input in it

_UNSTARTED = sql("""
SELECT id FROM deliveries WHERE event_id {in:ids} AND status = 'pending' AND lease_until IS NULL
{lock_skip}
""")
_PENDING = sql("SELECT id, event_id FROM deliveries WHERE event_id {in:ids} AND status = 'pending'")

_LOCK_REPLAYS = sql("""
SELECT id FROM replays WHERE id IN
  (SELECT replay_id FROM deliveries WHERE event_id {in:ids} AND account = :account
     AND status = 'pending' AND replay_id IS NOT NULL)
ORDER BY id {lock}
""")
_LOCK_DELIVERIES = sql("""
SELECT id FROM deliveries WHERE event_id {in:ids} AND account = :account AND status = 'pending'
ORDER BY id {lock}
""")
_LOCK_FANOUTS = sql("""
SELECT id FROM fanouts WHERE id {in:ids} AND account = :account AND status = 'pending'
ORDER BY id {lock}
""")
_LOCK_EVENTS = sql("""
SELECT id, status, inbox_lease, CASE WHEN inbox_until_at > {now} THEN 1 ELSE 0 END
FROM events WHERE id {in:ids} AND account = :account ORDER BY id {lock}
""")

# A delivery that is being sent keeps its lease: the settlement leaves its status alone.
_CANCEL = sql("""
UPDATE deliveries SET status = 'cancelled', due_at = NULL, finished_at = {now},
  last_error = :reason
WHERE event_id {in:ids} AND status = 'pending' RETURNING replay_id
""")
_CANCEL_FANOUTS = sql("""
UPDATE fanouts SET status = 'cancelled', due_at = NULL WHERE id {in:ids} AND status = 'pending'
""")
_ACKNOWLEDGE = sql("""
UPDATE events SET status = CASE WHEN replays > 0 THEN 'replayed' ELSE 'delivered' END,
  delivered_at = {now}, open_deliveries = 0, inbox_until_at = NULL
WHERE id {in:ids} RETURNING id, status
""")
_OWNED = sql("SELECT id FROM deliveries WHERE id {in:heads} AND event_id {in:ids}")

_RELEASE = sql("UPDATE events SET inbox_until_at = NULL WHERE id {in:ids}")
# What was postponed for the lease, or is just about to be.
_DUE = sql("""
UPDATE deliveries SET due_at = {now}
WHERE event_id {in:ids} AND status = 'pending'
  AND (lease_until IS NOT NULL OR (due_at > {now} AND last_error = :reason))
RETURNING lane
""")


@dataclass(frozen=True, slots=True)
class Leased:
    """A lease; `events` are JSON texts, oldest first."""

    lease_id: str
    until: int  # µs
    events: tuple[str, ...]


def page(
    tx: Tx, account: str, event_types: Sequence[str], after: str | None, limit: int
) -> list[tuple[str, str]]:
    """Up to `limit` undelivered events after the id `after`: (id, JSON text), oldest first."""
    now = tx.now()
    query = _undelivered(account, event_types, now)
    if after is not None:
        query = query.where(events.c.id > after)
    columns = [events.c[name.strip()] for name in _COLUMNS.split(",")]
    rows = tx.rows(query.with_only_columns(*columns).order_by(events.c.id).limit(limit))
    return [(row[0], _item(row, now)) for row in rows]


def anything(tx: Tx, account: str, event_types: Sequence[str]) -> bool:
    """Whether there is an event to lease."""
    return bool(tx.rows(_available(account, event_types, tx.now()).limit(1)))


def lease(tx: Tx, account: str, event_types: Sequence[str], *, limit: int, seconds: int) -> Leased:
    """Lease up to `limit` events, the oldest that nobody has and nobody is being sent."""
    now = tx.now()
    lease_id, until = new_id("lea"), now + seconds * SECOND
    query = _available(account, event_types, now).order_by(events.c.id).limit(limit)
    # PostgreSQL: what somebody holds at this moment is passed over, never waited for.
    rows = tx.rows(query.with_for_update(of=events, key_share=True, skip_locked=True))
    ids = _unstarted(tx, [id_ for (id_,) in rows])
    if not ids:
        return Leased(lease_id, until, ())
    leased = sorted(tx.rows(_LEASE, ids=ids, lease=lease_id, until=until))
    return Leased(lease_id, until, tuple(_item(row, now) for row in leased))


def acknowledge(
    tx: Tx, account: str, event_ids: Sequence[str], lease_id: str | None = None
) -> dict[str, AckOutcome]:
    """Mark the events delivered and cancel what is still to be sent of them.

    With a `lease_id`, only those that nobody else has leased since.
    """
    ids = sorted(set(event_ids))
    if tx.dialect == "postgres":  # before heads and deliveries, as replays lock them
        tx.rows(_LOCK_REPLAYS, ids=ids, account=account)
    heads = ordering.lock_events(tx, account, ids)
    known = _locked(tx, account, ids)
    outcomes: dict[str, AckOutcome] = {}
    for id_ in ids:
        if id_ not in known:
            outcomes[id_] = "not_found"
            continue
        status, holder, _ = known[id_]
        if status not in ("pending", "failed"):
            outcomes[id_] = "already_delivered"
        elif lease_id is not None and lease_id != holder:
            outcomes[id_] = "lease_lost"
        else:
            outcomes[id_] = "acknowledged"
    taken = [id_ for id_ in ids if outcomes[id_] == "acknowledged"]
    if taken:
        _take(tx, taken, heads)
    return outcomes


def release(
    tx: Tx, account: str, event_ids: Sequence[str], lease_id: str | None = None
) -> dict[str, ReleaseOutcome]:
    """Make leased events available again, and their postponed pushes due."""
    ids = sorted(set(event_ids))
    known = _locked(tx, account, ids)
    outcomes: dict[str, ReleaseOutcome] = {}
    for id_ in ids:
        if id_ not in known:
            outcomes[id_] = "not_found"
            continue
        status, holder, leased = known[id_]
        if lease_id is not None and lease_id != holder:
            outcomes[id_] = "lease_lost"
        elif not leased or status not in ("pending", "failed"):
            outcomes[id_] = "not_leased"
        else:
            outcomes[id_] = "released"
    freed = [id_ for id_ in ids if outcomes[id_] == "released"]
    if freed:
        # The holder's id stays: it may still acknowledge until somebody else leases the event.
        tx.run(_RELEASE, ids=freed)
        for lane in sorted({lane for (lane,) in tx.rows(_DUE, ids=freed, reason=INBOX_LEASED)}):
            lanes.wake(tx, DELIVERY, lane)
        tx.notify(EventAvailable(account))
    return outcomes


def _take(tx: Tx, taken: list[str], heads: Sequence[tuple[str, str, str]]) -> None:
    cancelled = tx.rows(_CANCEL, ids=taken, reason=ACKNOWLEDGED)
    tx.run(_CANCEL_FANOUTS, ids=taken)
    for id_, status in tx.rows(_ACKNOWLEDGE, ids=taken):
        tx.notify(EventSettled(id_, status))
    if heads:
        # The next ones' turn: also behind a dead head at which its key had halted.
        rows = tx.rows(_OWNED, heads=[head for *_, head in heads], ids=taken)
        ended = {id_ for (id_,) in rows}
        for endpoint_id, key, head in heads:
            if head in ended:
                ordering.leave(tx, endpoint_id, key, head, dead=False)
    for replay_id in sorted({id_ for (id_,) in cancelled if id_ is not None}):
        replays.ended(tx, replay_id, dead=False, delivered=False)


def _locked(tx: Tx, account: str, ids: Sequence[str]) -> dict[str, tuple[str, str | None, bool]]:
    """The events, locked with their deliveries: status, latest lease, whether it holds now."""
    if tx.dialect == "postgres":
        tx.rows(_LOCK_DELIVERIES, ids=ids, account=account)
        tx.rows(_LOCK_FANOUTS, ids=ids, account=account)
    return {
        id_: (status, holder, bool(leased))
        for id_, status, holder, leased in tx.rows(_LOCK_EVENTS, ids=ids, account=account)
    }


def _unstarted(tx: Tx, ids: list[str]) -> list[str]:
    """Of these events, which are locked, those that no worker is about to send.

    On PostgreSQL a worker may be claiming a delivery in a transaction that cannot be seen yet. So
    the pending ones are locked too: what cannot be locked is being claimed, and what is locked
    cannot be claimed before this transaction ends; that claim then sees the lease.
    """
    if tx.dialect == "sqlite" or not ids:
        return ids
    free = {id_ for (id_,) in tx.rows(_UNSTARTED, ids=ids)}
    busy = {event_id for id_, event_id in tx.rows(_PENDING, ids=ids) if id_ not in free}
    return [id_ for id_ in ids if id_ not in busy]


def _available(account: str, event_types: Sequence[str], now: int) -> Select[Any]:
    e, d = events.c, deliveries.c
    return _undelivered(account, event_types, now).where(
        or_(e.inbox_until_at.is_(None), e.inbox_until_at <= now),
        ~exists().where(d.event_id == e.id, d.lease_until.is_not(None)),
    )


def _undelivered(account: str, event_types: Sequence[str], now: int) -> Select[Any]:
    e = events.c
    return select(e.id).where(
        e.account == account,
        # Written out: the databases do not see by a parameter that events_inbox will do.
        text("events.status IN ('pending', 'failed')"),
        or_(e.deliver_at.is_(None), e.deliver_at <= now),
        *([] if not event_types or "*" in event_types else [_of_types(event_types)]),
    )


def _of_types(patterns: Sequence[str]) -> ColumnElement[bool]:
    type_ = events.c.event_type
    exact = [pattern for pattern in patterns if not pattern.endswith(".*")]
    prefixes = [pattern[:-1] for pattern in patterns if pattern.endswith(".*")]
    return or_(
        *([type_.in_(exact)] if exact else []),
        *(func.substr(type_, 1, len(prefix)) == prefix for prefix in prefixes),
    )


def _item(row: tuple[Any, ...], now: int) -> str:
    """The event as JSON; its payload is the text that was stored, not parsed."""
    id_, type_, payload, metadata, status, created_at, deliver_at, attempts, holder, until = row
    leased = until is not None and until > now
    # Ids, types and times need no escaping: none can hold a quote or a backslash.
    return (
        f'{{"event_id":"{id_}","event_type":"{type_}","payload":{payload},'
        f'"metadata":{"null" if metadata is None else metadata},"status":"{status}",'
        f'"created_at":"{to_iso(created_at)}","deliver_at":{_time(deliver_at)},'
        f'"delivery_attempts":{attempts},'
        f'"lease_id":{_text(holder if leased else None)},'
        f'"leased_until":{_time(until if leased else None)}}}'
    )


def _time(us: int | None) -> str:
    return _text(None if us is None else to_iso(us))


def _text(plain: str | None) -> str:
    return "null" if plain is None else f'"{plain}"'

"""Sending again: deliveries that ended become pending once more.

A delivery keeps its id, its attempts and their log; its schedule starts anew, and so does the
time after which it is given up. `former` keeps what it was until then, for a replay that is
cancelled before it was tried. An endpoint that never got the event (it was added later) can be
given a delivery as well.

An event counts what is open again and goes back to ``pending``; from there it becomes
``replayed`` or ``failed``. An ordered delivery goes to the end of its key's queue, except a dead
one at whose feet the queue halted: that one is the head still, and is due now.

On PostgreSQL the locks are had in this order: replays, heads of queues, deliveries, events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.clock import SECOND
from penstock.errors import NotFound, Refused
from penstock.events import ordering
from penstock.events.accept import DELIVERY, Acceptor
from penstock.ids import new_id
from penstock.storage import Tx, sql
from penstock.work import lanes

ENDED = ("delivered", "dead", "cancelled")

_TOUCHED = sql("""
SELECT DISTINCT event_id FROM deliveries WHERE event_id {in:ids} AND replay_id = :replay
""")

_LOCK = sql("SELECT id FROM deliveries WHERE id {in:ids} ORDER BY id {lock}")
_LOCK_EVENTS = sql("SELECT id, deliver_at FROM events WHERE id {in:ids} ORDER BY id {lock}")

# One that is being sent at this moment (cancelled meanwhile) is left to its own end.
_REVIVE = sql("""
UPDATE deliveries SET status = 'pending', former = status, step = 0, lapses = 0,
  due_at = CASE WHEN ordering_key IS NULL THEN
    (SELECT CASE WHEN e.deliver_at > {now} THEN e.deliver_at ELSE {now} END
     FROM events e WHERE e.id = deliveries.event_id) END,
  expires_at = {now} + :expiry, finished_at = NULL, replay_id = :replay
WHERE id {in:ids} AND status IN ('delivered', 'dead', 'cancelled') AND lease_until IS NULL
RETURNING id, event_id, endpoint_id, lane, ordering_key, former
""")

_PLACE = sql("UPDATE deliveries SET order_seq = :place, due_at = :due WHERE id = :id")
_DUE = sql("UPDATE deliveries SET due_at = :due WHERE id = :id")

_ADD = sql("""
INSERT INTO deliveries (id, account, event_id, endpoint_id, status, created_at, expires_at, lane,
                        due_at, ordering_key, replay_id)
VALUES (:id, :account, :event_id, :endpoint_id, 'pending', {now}, {now} + :expiry, :lane, :due,
        :key, :replay)
ON CONFLICT (event_id, endpoint_id) DO NOTHING
""")

OPENED = sql("""
UPDATE events SET open_deliveries = open_deliveries + :opened,
  dead_deliveries = dead_deliveries - :undead, replays = replays + :first, status = 'pending'
WHERE id {in:ids}
""")

_WITHDRAWABLE = sql("""
SELECT id, event_id FROM deliveries WHERE replay_id = :replay AND status = 'pending'
  AND lease_until IS NULL AND step = 0 ORDER BY id LIMIT :limit
""")

_WITHDRAW = sql("""
UPDATE deliveries SET status = coalesce(former, 'cancelled'), due_at = NULL, finished_at = {now},
  replay_id = NULL
WHERE id {in:ids} AND replay_id = :replay AND status = 'pending' AND lease_until IS NULL
  AND step = 0
RETURNING id, event_id, endpoint_id, ordering_key, status
""")

# An event of which nothing was sent by this replay has not been replayed.
_CLOSED = sql("""
UPDATE events SET open_deliveries = open_deliveries - :closed,
  dead_deliveries = dead_deliveries + :dead,
  replays = replays - CASE WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.event_id = events.id
    AND d.replay_id = :replay) THEN 0 ELSE 1 END,
  status = CASE WHEN open_deliveries > :closed THEN 'pending'
    WHEN dead_deliveries + :dead > 0 THEN 'failed'
    WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.event_id = events.id
                 AND d.status = 'delivered')
    THEN CASE WHEN replays > CASE WHEN EXISTS (SELECT 1 FROM deliveries d
                WHERE d.event_id = events.id AND d.replay_id = :replay) THEN 0 ELSE 1 END
              THEN 'replayed' ELSE 'delivered' END
    WHEN delivered_at IS NOT NULL THEN 'delivered' ELSE 'pending' END,
  -- What was withdrawn may have been the last that an event waited for.
  delivered_at = CASE WHEN open_deliveries > :closed OR dead_deliveries + :dead > 0
                      THEN delivered_at
    WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.event_id = events.id
                 AND d.status = 'delivered') THEN coalesce(delivered_at, {now})
    ELSE delivered_at END
WHERE id {in:ids}
""")

_EVENT = sql("""
SELECT event_type, ordering_key FROM events WHERE id = :id AND account = :account
""")
_DELIVERIES = sql("""
SELECT d.id, d.endpoint_id, d.status, p.id FROM deliveries d
  LEFT JOIN endpoints p ON p.id = d.endpoint_id WHERE d.event_id = :id ORDER BY d.endpoint_id
""")
_KNOWN = sql("SELECT id FROM endpoints WHERE account = :account AND id {in:ids}")


@dataclass(frozen=True, slots=True)
class Missing:
    """A delivery that was never made."""

    event_id: str
    endpoint_id: str
    lane: str
    key: str | None


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many deliveries were made pending again, made for the first time, and left alone
    because they are pending still."""

    again: int
    added: int
    pending: int


def send_again(
    tx: Tx,
    account: str,
    deliveries: Sequence[tuple[str, str]],
    missing: Sequence[Missing],
    *,
    expiry: int,
    replay: str | None = None,
) -> tuple[int, int]:
    """Make the given (event, delivery) ids that have ended pending, and what is missing.

    `expiry` is in µs. Answers how many of each. The order given is the order in which ordered
    deliveries are queued.
    """
    event_ids = sorted({e for e, _ in deliveries} | {m.event_id for m in missing})
    if not event_ids:
        return 0, 0
    heads = {id_ for _, _, id_ in ordering.lock_events(tx, account, event_ids)}
    ids = [id_ for _, id_ in deliveries]
    tx.rows(_LOCK, ids=ids)
    before = (
        set() if replay is None else {e for (e,) in tx.rows(_TOUCHED, ids=event_ids, replay=replay)}
    )
    opened: Counter[str] = Counter()
    undead: Counter[str] = Counter()
    woken: set[str] = set()
    revived = {row[0]: row for row in tx.rows(_REVIVE, ids=ids, expiry=expiry, replay=replay)}
    deliver_at = dict(tx.rows(_LOCK_EVENTS, ids=event_ids))
    now = tx.now()
    for id_ in ids:
        if id_ not in revived:
            continue
        _, event_id, endpoint_id, lane, key, former = revived[id_]
        opened[event_id] += 1
        undead[event_id] += former == "dead"
        if key is not None:
            due = max(now, deliver_at.get(event_id) or 0)
            _queue(tx, endpoint_id, key, id_, due, head=id_ in heads)
        woken.add(lane)
    added = 0
    for m in missing:
        if m.event_id not in deliver_at:  # deleted meanwhile
            continue
        due = max(now, deliver_at[m.event_id] or 0)
        id_ = new_id("dlv")
        made = tx.run(
            _ADD,
            id=id_,
            account=account,
            event_id=m.event_id,
            endpoint_id=m.endpoint_id,
            lane=m.lane,
            due=due if m.key is None else None,
            key=m.key,
            expiry=expiry + due - now,
            replay=replay,
        )
        if not made:
            continue
        added += 1
        opened[m.event_id] += 1
        if m.key is not None:
            _queue(tx, m.endpoint_id, m.key, id_, due, head=False)
        woken.add(m.lane)
    _count(tx, opened, undead, before)
    for lane in sorted(woken):
        lanes.wake(tx, DELIVERY, lane)
    return len(revived), added


def _queue(tx: Tx, endpoint_id: str, key: str, id_: str, due: int, *, head: bool) -> None:
    if head:
        ordering.revive(tx, endpoint_id, key)
        tx.run(_DUE, id=id_, due=due)
        return
    place, turn = ordering.enter(tx, endpoint_id, key, id_)
    tx.run(_PLACE, id=id_, place=place, due=due if turn else None)


def _count(tx: Tx, opened: Counter[str], undead: Counter[str], before: Collection[str]) -> None:
    alike: dict[tuple[int, int, int], list[str]] = {}
    for event_id, n in opened.items():
        alike.setdefault((n, undead[event_id], int(event_id not in before)), []).append(event_id)
    for (n, dead, first), event_ids in sorted(alike.items()):
        tx.run(OPENED, ids=sorted(event_ids), opened=n, undead=dead, first=first)


def replay_event(
    tx: Tx,
    account: str,
    event_id: str,
    acceptor: Acceptor,
    *,
    endpoint_ids: Sequence[str] | None,
    include_missing: bool,
    expiry: float,
) -> Replayed:
    """Replay one event now. NotFound if it is not the account's; Refused for such endpoints."""
    event = tx.one(_EVENT, id=event_id, account=account)
    if event is None:
        raise NotFound("There is no such event.")
    if endpoint_ids is not None:
        known = {id_ for (id_,) in tx.rows(_KNOWN, account=account, ids=list(endpoint_ids))}
        for index, id_ in enumerate(endpoint_ids):
            if id_ not in known:
                where = f"/endpoint_ids/{index}"
                raise Refused("validation_failed", "There is no such endpoint", where)
    wanted = None if endpoint_ids is None else set(endpoint_ids)
    found = tx.rows(_DELIVERIES, id=event_id)
    mine = [row for row in found if wanted is None or row[1] in wanted]
    ended = [(event_id, id_) for id_, _, status, known_ in mine if known_ and status in ENDED]
    event_type, key = event
    missing = (
        list(_missing(event_id, key, acceptor, tx, account, event_type, {r[1] for r in found}))
        if include_missing
        else []
    )
    again, added = send_again(
        tx,
        account,
        ended,
        [m for m in missing if wanted is None or m.endpoint_id in wanted],
        expiry=int(expiry * SECOND),
    )
    return Replayed(again, added, sum(row[2] == "pending" for row in mine))


def _missing(
    event_id: str,
    key: str | None,
    acceptor: Acceptor,
    tx: Tx,
    account: str,
    event_type: str,
    have: set[str],
) -> Iterable[Missing]:
    for subscriber in acceptor.matcher(tx, account).subscribers_of(tx, event_id, event_type):
        if subscriber.id not in have:
            yield Missing(event_id, subscriber.id, subscriber.lane, key)


def withdraw(tx: Tx, account: str, replay: str, *, limit: int = 250) -> bool:
    """Give what this replay made pending, and nobody has tried yet, its former status back.

    True = there may be more. A delivery that the replay made for the first time is cancelled.
    """
    rows = tx.rows(_WITHDRAWABLE, replay=replay, limit=limit)
    if not rows:
        return False
    ordering.lock_events(tx, account, sorted({event_id for _, event_id in rows}))
    ids = sorted(id_ for id_, _ in rows)
    tx.rows(_LOCK, ids=ids)
    closed: Counter[str] = Counter()
    dead: Counter[str] = Counter()
    left: list[tuple[Any, ...]] = tx.rows(_WITHDRAW, ids=ids, replay=replay)
    for _, event_id, _, _, status in left:
        closed[event_id] += 1
        dead[event_id] += status == "dead"
    tx.rows(_LOCK_EVENTS, ids=sorted(closed))
    alike: dict[tuple[int, int], list[str]] = {}
    for event_id, n in closed.items():
        alike.setdefault((n, dead[event_id]), []).append(event_id)
    for (n, died), event_ids in sorted(alike.items()):
        tx.run(_CLOSED, ids=sorted(event_ids), closed=n, dead=died, replay=replay)
    for id_, _, endpoint_id, key, status in sorted(left):
        if key is not None:
            ordering.leave(tx, endpoint_id, key, id_, dead=status == "dead")
    return len(rows) == limit

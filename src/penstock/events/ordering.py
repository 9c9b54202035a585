"""Order: the deliveries of one key to one endpoint go one after another.

`order_heads` has a row for each (endpoint, key) in use. It names the delivery whose turn it is
and counts places in the queue; whoever adds or ends an ordered delivery locks it first, so a
place is given and the next turn is called in one order, whatever clocks and commits do. Only the
head is due; those behind it are pending with ``due_at`` NULL.

A head that dies is followed by the next, or, where the endpoint says ``on_dead: halt``, stays the
head of a halted queue until it is replayed, its event is acknowledged from the inbox, or its
endpoint says ``continue``.

On PostgreSQL everybody locks in this order, or deadlocks would cost a second each: heads by
account, endpoint and key, then deliveries, then events.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock.clock import SECOND
from penstock.storage import Tx, sql
from penstock.work import lanes

_ENTER = sql("""
INSERT INTO order_heads (endpoint_id, key, head, last_seq) VALUES (:endpoint, :key, :delivery, 1)
ON CONFLICT (endpoint_id, key) DO UPDATE
SET last_seq = order_heads.last_seq + 1, head = coalesce(order_heads.head, excluded.head)
RETURNING last_seq, head
""")

_LOCK = sql("""
SELECT head FROM order_heads WHERE endpoint_id = :endpoint AND key = :key {lock}
""")

_OF_DELIVERIES = """
SELECT h.endpoint_id, h.key, h.head FROM order_heads h
  JOIN (SELECT DISTINCT account, endpoint_id, ordering_key FROM deliveries
        WHERE {which} AND ordering_key IS NOT NULL) d
  ON d.endpoint_id = h.endpoint_id AND d.ordering_key = h.key
"""
_IN_ORDER = """
ORDER BY d.account COLLATE "C", h.endpoint_id COLLATE "C", h.key COLLATE "C"
FOR NO KEY UPDATE OF h
"""
_LOCK_SETTLED = sql(
    sqlite="SELECT 1", postgres=_OF_DELIVERIES.format(which="id {in:ids}") + _IN_ORDER
)
_OF_EVENTS = _OF_DELIVERIES.format(which="event_id {in:ids} AND account = :account")
_LOCK_EVENTS = sql(sqlite=_OF_EVENTS, postgres=_OF_EVENTS + _IN_ORDER)

# Held until the commit, so that a change of `on_dead` is either seen or sees the halt. The weakest
# lock there is: settlements that write an endpoint's other columns must not wait for each other.
_ON_DEAD = """
SELECT on_dead FROM endpoints WHERE id = :endpoint
"""
_ASK = sql(sqlite=_ON_DEAD, postgres=_ON_DEAD + "FOR KEY SHARE")
_HOLD = sql(sqlite="SELECT 1", postgres="SELECT id FROM endpoints WHERE id = :endpoint FOR UPDATE")
_HALT = sql("""
UPDATE order_heads SET halted = TRUE WHERE endpoint_id = :endpoint AND key = :key
""")

_NEXT = sql("""
SELECT d.id, d.lane, {max}({now}, coalesce(e.deliver_at, 0))
FROM deliveries d JOIN events e ON e.id = d.event_id
WHERE d.endpoint_id = :endpoint AND d.ordering_key = :key AND d.status = 'pending'
ORDER BY d.order_seq LIMIT 1
""")

_REVIVE = sql("""
UPDATE order_heads SET halted = FALSE WHERE endpoint_id = :endpoint AND key = :key
""")

_CALL = sql("""
UPDATE order_heads SET head = :head, halted = FALSE WHERE endpoint_id = :endpoint AND key = :key
""")

_DUE = sql("UPDATE deliveries SET due_at = :due WHERE id = :id AND lease_until IS NULL")

_HALTED = sql("SELECT key FROM order_heads WHERE endpoint_id = :endpoint AND halted ORDER BY key")

_FORGET = sql("DELETE FROM order_heads WHERE endpoint_id = :endpoint")

_FREE = sql("""
UPDATE deliveries SET due_at = {now}
WHERE endpoint_id = :endpoint AND ordering_key IS NOT NULL AND status = 'pending'
  AND due_at IS NULL AND lease_until IS NULL
""")

# A key whose queue is empty: the next delivery under it may start from place 1.
_PRUNE = sql("""
DELETE FROM order_heads WHERE head IS NULL AND (endpoint_id, key) IN
  (SELECT endpoint_id, key FROM order_heads h WHERE h.head IS NULL LIMIT :limit)
""")
_UNUSED = sql("SELECT count(*) FROM order_heads WHERE head IS NULL")


def enter(tx: Tx, endpoint_id: str, key: str, delivery_id: str) -> tuple[int, bool]:
    """Take the next place behind `key`; answers the place, and whether its turn is now."""
    row = tx.one(_ENTER, endpoint=endpoint_id, key=key, delivery=delivery_id)
    assert row is not None
    return int(row[0]), row[1] == delivery_id


def lock(tx: Tx, delivery_ids: Sequence[str]) -> None:
    """Lock the heads of these deliveries' keys, which are about to be settled."""
    if tx.dialect == "postgres":
        tx.rows(_LOCK_SETTLED, ids=sorted(delivery_ids))


def lock_events(tx: Tx, account: str, event_ids: Sequence[str]) -> list[tuple[str, str, str]]:
    """The same for all deliveries of these events; answers (endpoint, key, head)."""
    return [
        (endpoint_id, key, head)
        for endpoint_id, key, head in tx.rows(_LOCK_EVENTS, ids=sorted(event_ids), account=account)
        if head is not None
    ]


def leave(tx: Tx, endpoint_id: str, key: str, delivery_id: str, *, dead: bool) -> None:
    """The delivery ended: call the next one, unless it died and its endpoint says halt."""
    head = tx.one(_LOCK, endpoint=endpoint_id, key=key)
    if head is None or head[0] != delivery_id:
        return
    if dead and tx.one(_ASK, endpoint=endpoint_id) == ("halt",):
        tx.run(_HALT, endpoint=endpoint_id, key=key)
        return
    _call_next(tx, endpoint_id, key)


def hold(tx: Tx, endpoint_id: str) -> None:
    """Before a change of the endpoint's `on_dead`: no head dies by the old one from here on."""
    tx.rows(_HOLD, endpoint=endpoint_id)


def revive(tx: Tx, endpoint_id: str, key: str) -> None:
    """The dead head is pending again: its queue waits for it as for any other head."""
    tx.run(_REVIVE, endpoint=endpoint_id, key=key)


def resume(tx: Tx, endpoint_id: str) -> None:
    """The endpoint no longer halts: call the next one behind every dead head."""
    for (key,) in tx.rows(_HALTED, endpoint=endpoint_id):
        tx.rows(_LOCK, endpoint=endpoint_id, key=key)
        _call_next(tx, endpoint_id, key)


def forget(tx: Tx, endpoint_id: str) -> None:
    """The endpoint is deleted: nobody waits for a turn any more, all are due to be cancelled."""
    tx.run(_FORGET, endpoint=endpoint_id)
    tx.run(_FREE, endpoint=endpoint_id)


def prune(tx: Tx, *, limit: int = 1000) -> int:
    """Delete up to `limit` keys behind which nobody waits; answers how many."""
    return tx.run(_PRUNE, limit=limit)


def prunable(tx: Tx) -> int:
    """How many `prune` would delete in all."""
    ((n,),) = tx.rows(_UNUSED)
    return int(n)


def _call_next(tx: Tx, endpoint_id: str, key: str) -> None:
    following = tx.one(_NEXT, endpoint=endpoint_id, key=key)
    if following is None:
        tx.run(_CALL, endpoint=endpoint_id, key=key, head=None)
        return
    delivery_id, lane, due = following
    tx.run(_CALL, endpoint=endpoint_id, key=key, head=delivery_id)
    tx.run(_DUE, id=delivery_id, due=due)
    lanes.wake(tx, "delivery", lane, (due - tx.now()) / SECOND)

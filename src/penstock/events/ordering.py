"""Order: the deliveries of one key to one endpoint go one after another.

`order_heads` has a row for each (endpoint, key) in use. It names the delivery whose turn it is
and counts places in the queue; whoever adds or ends an ordered delivery locks it first, so a
place is given and the next turn is called in one order, whatever clocks and commits do. Only the
head is due; those behind it are pending with ``due_at`` NULL.

A head that dies is followed by the next, or, where the endpoint says ``on_dead: halt``, stays the
head of a halted queue until it is replayed or its endpoint says ``continue``.
"""

from __future__ import annotations

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

_HALT = sql("""
UPDATE order_heads SET halted = TRUE WHERE endpoint_id = :endpoint AND key = :key
  AND EXISTS (SELECT 1 FROM endpoints p WHERE p.id = :endpoint AND p.on_dead = 'halt')
RETURNING key
""")

_NEXT = sql("""
SELECT d.id, d.lane, {max}({now}, coalesce(e.deliver_at, 0))
FROM deliveries d JOIN events e ON e.id = d.event_id
WHERE d.endpoint_id = :endpoint AND d.ordering_key = :key AND d.status = 'pending'
ORDER BY d.order_seq LIMIT 1
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

_PRUNE = sql("""
DELETE FROM order_heads WHERE (endpoint_id, key) IN
  (SELECT endpoint_id, key FROM order_heads h WHERE h.head IS NULL
     AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.endpoint_id = h.endpoint_id
                     AND d.ordering_key = h.key)
   LIMIT :limit)
""")


def enter(tx: Tx, endpoint_id: str, key: str, delivery_id: str) -> tuple[int, bool]:
    """Take the next place behind `key`; answers the place, and whether its turn is now."""
    row = tx.one(_ENTER, endpoint=endpoint_id, key=key, delivery=delivery_id)
    assert row is not None
    return int(row[0]), row[1] == delivery_id


def leave(tx: Tx, endpoint_id: str, key: str, delivery_id: str, *, dead: bool) -> None:
    """The delivery ended: call the next one, unless it died and its endpoint says halt."""
    head = tx.one(_LOCK, endpoint=endpoint_id, key=key)
    if head is None or head[0] != delivery_id:
        return
    if dead and tx.one(_HALT, endpoint=endpoint_id, key=key) is not None:
        return
    _call_next(tx, endpoint_id, key)


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
    """Delete up to `limit` keys that no delivery names any more; answers how many."""
    return tx.run(_PRUNE, limit=limit)


def _call_next(tx: Tx, endpoint_id: str, key: str) -> None:
    following = tx.one(_NEXT, endpoint=endpoint_id, key=key)
    if following is None:
        tx.run(_CALL, endpoint=endpoint_id, key=key, head=None)
        return
    delivery_id, lane, due = following
    tx.run(_CALL, endpoint=endpoint_id, key=key, head=delivery_id)
    tx.run(_DUE, id=delivery_id, due=due)
    lanes.wake(tx, "delivery", lane, (due - tx.now()) / SECOND)

"""What events count of their deliveries, counted again."""

from __future__ import annotations

from collections.abc import Collection

from penstock.storage import Database, sql

_EVENTS = sql("""
SELECT e.id, e.status, e.open_deliveries, e.dead_deliveries, e.delivered_at, e.delivery_attempts,
  (SELECT count(*) FROM deliveries d WHERE d.event_id = e.id AND d.status = 'pending')
    + (SELECT count(*) FROM fanouts f WHERE f.id = e.id AND f.status = 'pending'),
  (SELECT count(*) FROM deliveries d WHERE d.event_id = e.id AND d.status = 'dead')
    + (SELECT count(*) FROM fanouts f WHERE f.id = e.id AND f.status = 'dead'),
  (SELECT count(*) FROM deliveries d WHERE d.event_id = e.id AND d.status = 'delivered'),
  (SELECT count(*) FROM attempts a JOIN deliveries d ON d.id = a.delivery_id
   WHERE d.event_id = e.id)
FROM events e ORDER BY e.id
""")

_STRANDED = sql("""
SELECT d.id, d.status, d.due_at, d.lease_until, h.head, h.halted, x.status
FROM deliveries d
  LEFT JOIN order_heads h ON h.endpoint_id = d.endpoint_id AND h.key = d.ordering_key
  LEFT JOIN deliveries x ON x.id = h.head
WHERE d.status = 'pending' AND d.due_at IS NULL AND d.lease_until IS NULL
  AND (d.ordering_key IS NULL OR h.head IS NULL OR h.head = d.id
       OR NOT (x.status = 'pending' OR (x.status = 'dead' AND h.halted)))
""")

_HELD_TERMINAL = sql("SELECT id, status FROM deliveries WHERE status <> 'pending' AND due_at > 0")


async def check(database: Database, acknowledged: Collection[str] = ()) -> None:
    """Every event's counts and status are what its deliveries say, and none waits in vain.

    `acknowledged` are the events that were acknowledged from the inbox.
    """
    rows = await database.read(lambda tx: tx.rows(_EVENTS))
    for id_, status, open_, dead, delivered_at, attempts, pending, died, delivered, tries in rows:
        where = f"{id_}: {status}"
        assert (open_, dead, attempts) == (pending, died, tries), where
        if id_ in acknowledged:
            expected = {"delivered", "replayed"}
        elif pending:
            expected = {"pending"}
        elif died:
            expected = {"failed"}
        else:
            expected = {"delivered", "replayed"} if delivered else {"pending"}
        assert status in expected, where
        assert (delivered_at is not None) or status not in ("delivered", "replayed"), where
    stranded = await database.read(lambda tx: tx.rows(_STRANDED))
    assert stranded == []
    assert await database.read(lambda tx: tx.rows(_HELD_TERMINAL)) == []

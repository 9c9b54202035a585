"""Deleting one event, whatever its state."""

from __future__ import annotations

from penstock.errors import NotFound
from penstock.events import ordering
from penstock.storage import Tx, sql

_FIND = sql("SELECT id FROM events WHERE id = :id AND account = :account")
_LOCK = sql("SELECT id FROM deliveries WHERE event_id = :id ORDER BY id {lock}")
_ORDERED = sql("""
SELECT id, endpoint_id, ordering_key FROM deliveries
WHERE event_id = :id AND ordering_key IS NOT NULL ORDER BY endpoint_id
""")
_DELETE = sql("DELETE FROM events WHERE id = :id AND account = :account")


def delete_event(tx: Tx, account: str, event_id: str) -> None:
    """Delete the event with its deliveries and attempts; NotFound if it is not the account's.

    What is being sent at this moment goes on, and its settlement finds nothing. Behind an ordered
    delivery the next one is called.
    """
    if tx.one(_FIND, id=event_id, account=account) is None:
        raise NotFound("There is no such event.")
    ordering.lock_events(tx, account, [event_id])
    tx.rows(_LOCK, id=event_id)
    ordered = tx.rows(_ORDERED, id=event_id)
    tx.run(_DELETE, id=event_id, account=account)
    for id_, endpoint_id, key in ordered:
        ordering.leave(tx, endpoint_id, key, id_, dead=False)

"""Deleting events that are old and final, a little at a time.

Final is ``delivered``, ``replayed`` or ``failed`` with nothing open; what nobody has taken stays.
So does an event whose dead delivery halts a queue: it is what the queue waits for.

Events are looked through oldest first, by id, in windows. One transaction deletes at most `ROWS`
rows, deliveries and attempts counted, and a large event's deliveries before the event itself; in
between others write.
"""

from __future__ import annotations

from typing import Final

from penstock.clock import SECOND
from penstock.events import idempotency, ordering
from penstock.storage import Tx, sql
from penstock.storage.retention import Rule, batches

ROWS: Final = 500  # deleted in one transaction
_WINDOW: Final = 200  # events looked at in one transaction
_DELIVERIES: Final = 30  # of a large event at once: each has a dozen attempts

_OLD = """
FROM events e WHERE e.created_at < {now} - :keep
  AND e.status IN ('delivered', 'failed', 'replayed') AND e.open_deliveries = 0
  AND NOT EXISTS (SELECT 1 FROM deliveries d JOIN order_heads h
    ON h.endpoint_id = d.endpoint_id AND h.key = d.ordering_key AND h.head = d.id
    WHERE d.event_id = e.id AND d.ordering_key IS NOT NULL)
"""
_LOOK = sql("""
SELECT id, created_at FROM events WHERE id > :after ORDER BY id LIMIT :window
""")
_FINAL = sql(f"""
SELECT e.id, 1 + e.delivery_attempts
    + (SELECT count(*) FROM deliveries d WHERE d.event_id = e.id)
{_OLD} AND e.id > :after AND e.id <= :upto ORDER BY e.id {{lock_skip}}
""")  # noqa: S608 - no input in it
_DELETE = sql("DELETE FROM events WHERE id {in:ids}")
_DELETE_SOME = sql("""
DELETE FROM deliveries WHERE id IN
  (SELECT id FROM deliveries WHERE event_id = :event AND status <> 'pending' LIMIT :limit)
""")
_COUNT = sql(f"SELECT count(*) {_OLD}")

_REPLAYS = sql("""
DELETE FROM replays WHERE id IN
  (SELECT id FROM replays WHERE status <> 'pending' AND finished_at < {now} - :keep LIMIT :limit)
""")
_COUNT_REPLAYS = sql("""
SELECT count(*) FROM replays WHERE status <> 'pending' AND finished_at < {now} - :keep
""")


def prune_events(tx: Tx, keep: float, after: str | None) -> tuple[int, str | None]:
    """Delete final events older than `keep` seconds behind the id `after`, `ROWS` rows or so.

    Answers how many, and the id to go on after; None = that is all.
    """
    keep_us = int(keep * SECOND)
    after = after or ""
    window = tx.rows(_LOOK, after=after, window=_WINDOW)
    oldest = [id_ for id_, created_at in window if created_at < tx.now() - keep_us]
    if not oldest:
        # Ids follow the time: nothing behind this window is older.
        return 0, None
    upto = oldest[-1]
    chosen: list[str] = []
    rows = 0
    for id_, size in tx.rows(_FINAL, after=after, upto=upto, keep=keep_us):
        if rows + size > ROWS:
            if not chosen:
                if tx.run(_DELETE_SOME, event=id_, limit=_DELIVERIES) == 0:
                    chosen = [id_]  # nothing left but the event itself
                    break
                return 0, after
            break
        rows += size
        chosen.append(id_)
    else:
        after = upto
    if chosen:
        tx.run(_DELETE, ids=chosen)
    return len(chosen), after


def prunable_events(tx: Tx, keep: float) -> int:
    """How many events there are for `prune_events`."""
    ((n,),) = tx.rows(_COUNT, keep=int(keep * SECOND))
    return int(n)


def prune_replays(tx: Tx, keep: float) -> int:
    """Delete replays that ended more than `keep` seconds ago, up to `ROWS`; answers how many."""
    return tx.run(_REPLAYS, keep=int(keep * SECOND), limit=ROWS)


def prunable_replays(tx: Tx, keep: float) -> int:
    """How many replays there are for `prune_replays`."""
    ((n,),) = tx.rows(_COUNT_REPLAYS, keep=int(keep * SECOND))
    return int(n)


def rules(keep: float) -> tuple[Rule, ...]:
    """What the service keeps for a while only; `keep`: seconds that final events are kept."""
    return (
        Rule(
            "events",
            lambda tx, after: prune_events(tx, keep, after),
            lambda tx: prunable_events(tx, keep),
        ),
        Rule(
            "replays",
            batches(lambda tx: prune_replays(tx, keep)),
            lambda tx: prunable_replays(tx, keep),
        ),
        Rule(
            "ordering keys",
            batches(lambda tx: ordering.prune(tx, limit=ROWS)),
            ordering.prunable,
        ),
        Rule(
            "idempotency keys",
            batches(lambda tx: idempotency.prune(tx, limit=ROWS)),
            idempotency.prunable,
            every=3600.0,
        ),
    )

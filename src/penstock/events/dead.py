"""What gave up of events: deliveries, their making for many endpoints, and replays.

Each is done again from where it stands, or put away for good.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Final

from penstock.clock import SECOND
from penstock.events import ordering, replay
from penstock.events.accept import DELIVERY, FANOUT
from penstock.events.replays import REPLAY
from penstock.storage import Tx, sql
from penstock.work import lanes
from penstock.work.care import DeadWork, LaneNote, by, dropping, redriving

_EVENTS = sql("""
SELECT id, event_id FROM deliveries
WHERE id {in:ids} AND account = :account AND status = 'dead' ORDER BY id
""")
# A deleted endpoint takes nothing any more: such a delivery can only be dropped.
_SENDABLE = sql("""
SELECT d.event_id, d.id FROM deliveries d JOIN endpoints p ON p.id = d.endpoint_id
WHERE d.id {in:ids} AND d.account = :account AND d.status = 'dead' ORDER BY d.id
""")
_LOCK_EVENTS = sql("SELECT id FROM events WHERE id {in:ids} ORDER BY id {lock}")
_DROP = sql("""
UPDATE deliveries SET status = 'cancelled', due_at = NULL
WHERE id {in:ids} AND account = :account AND status = 'dead' AND lease_until IS NULL
RETURNING id, event_id, endpoint_id, ordering_key
""")
# The event failed, unless what is left of it was delivered.
_DROPPED = sql("""
UPDATE events SET dead_deliveries = dead_deliveries - :n,
  status = CASE WHEN status = 'failed' AND dead_deliveries = :n AND EXISTS
      (SELECT 1 FROM deliveries d WHERE d.event_id = events.id AND d.status = 'delivered')
    THEN CASE WHEN replays > 0 THEN 'replayed' ELSE 'delivered' END ELSE status END
WHERE id = :id
""")
_SPREAD = sql("""
UPDATE fanouts SET status = 'pending', due_at = {now}, attempts = 0, lapses = 0, ended_at = NULL
WHERE id {in:ids} AND account = :account AND status = 'dead' AND lease_until IS NULL
RETURNING id, lane
""")
_DROP_SPREADING = sql("""
UPDATE fanouts SET status = 'cancelled', due_at = NULL, ended_at = {now}
WHERE id {in:ids} AND account = :account AND status = 'dead' AND lease_until IS NULL
RETURNING id
""")
_REPLAY = sql("""
UPDATE replays SET status = 'pending', due_at = {now}, attempts = 0, lapses = 0, finished_at = NULL
WHERE id = :id AND account = :account AND status = 'dead' AND lease_until IS NULL
RETURNING lane
""")
_DROP_REPLAY = sql("""
UPDATE replays SET status = 'cancelled', due_at = NULL, finished_at = {now}
WHERE id {in:ids} AND account = :account AND status = 'dead'
""")
_LANES = sql("""
SELECT lane, id, target, description, enabled, disabled_reason FROM endpoints WHERE lane {in:ids}
""")


def _redrive(expiry: float, tx: Tx, account: str, ids: Sequence[str]) -> int:
    found = [(event, id_) for event, id_ in tx.rows(_SENDABLE, ids=list(ids), account=account)]
    again, _ = replay.send_again(tx, account, found, (), expiry=int(expiry * SECOND))
    return again


def _drop(tx: Tx, account: str, ids: Sequence[str]) -> int:
    found = tx.rows(_EVENTS, ids=list(ids), account=account)
    if not found:
        return 0
    event_ids = sorted({event_id for _, event_id in found})
    ordering.lock_events(tx, account, event_ids)
    gone = tx.rows(_DROP, ids=[id_ for id_, _ in found], account=account)
    tx.rows(_LOCK_EVENTS, ids=event_ids)
    for event_id, n in sorted(Counter(row[1] for row in gone).items()):
        tx.run(_DROPPED, id=event_id, n=n)
    for id_, _, endpoint_id, key in sorted(gone):
        if key is not None:  # the queue may have halted at its feet
            ordering.leave(tx, endpoint_id, key, id_, dead=False)
    return len(gone)


def dead_deliveries(expiry: float) -> DeadWork:
    """Dead deliveries; one that is sent again expires after `expiry` seconds."""
    return DeadWork(
        kind=DELIVERY,
        area="events",
        table="deliveries",
        prefix="dlv",
        title="coalesce(e.event_type, '') || ' → ' || coalesce(p.target, 'a deleted endpoint')",
        about="w.event_id",
        ended="finished_at",
        redrive=partial(_redrive, expiry),
        drop=_drop,
        join="LEFT JOIN events e ON e.id = w.event_id"
        " LEFT JOIN endpoints p ON p.id = w.endpoint_id",
    )


def _spread(tx: Tx, account: str, ids: Sequence[str]) -> int:
    found = tx.rows(_SPREAD, ids=sorted(ids), account=account)
    event_ids = sorted(id_ for id_, _ in found)
    tx.rows(_LOCK_EVENTS, ids=event_ids)
    # A spreading counts as one delivery of its event for as long as it lasts.
    tx.run(replay.OPENED, ids=event_ids, opened=1, undead=1, first=0)
    for lane in sorted({lane for _, lane in found}):
        lanes.wake(tx, FANOUT, lane)
    return len(found)


def _drop_spreading(tx: Tx, account: str, ids: Sequence[str]) -> int:
    event_ids = sorted(id_ for (id_,) in tx.rows(_DROP_SPREADING, ids=sorted(ids), account=account))
    tx.rows(_LOCK_EVENTS, ids=event_ids)
    for id_ in event_ids:
        tx.run(_DROPPED, id=id_, n=1)
    return len(event_ids)


DEAD_FANOUTS: Final = DeadWork(
    kind=FANOUT,
    area="events",
    table="fanouts",
    prefix="evt",
    title="coalesce(e.event_type, '') || ' → its endpoints'",
    about="w.id",
    ended="ended_at",
    redrive=_spread,
    drop=_drop_spreading,
    join="LEFT JOIN events e ON e.id = w.id",
    created="e.created_at",
)
DEAD_REPLAYS: Final = DeadWork(
    kind=REPLAY,
    area="events",
    table="replays",
    prefix="rpl",
    title="w.looked_at || ' events looked at, ' || w.replayed || ' sent again'",
    about="w.id",
    ended="finished_at",
    redrive=redriving(REPLAY, by(_REPLAY)),
    drop=dropping(_DROP_REPLAY),
)

MANUAL: Final = "manual"


def lane_notes(tx: Tx, lanes: Sequence[str]) -> dict[str, LaneNote]:
    """Which endpoint a lane leads to; one that is disabled keeps its lane paused."""
    # A lane stays when its endpoint is deleted: what was on its way still passes through it.
    notes = {
        lane: LaneNote("a deleted endpoint", gone=True)
        for lane in lanes
        if lane.startswith(f"{DELIVERY}:")
    }
    for lane, id_, target, description, enabled, reason in tx.rows(_LANES, ids=list(lanes)):
        why = f" ({reason})" if reason and reason != MANUAL else ""
        because = None if enabled else f"the endpoint is disabled{why}; enable it"
        title = f"{target} · {description}" if description else target
        notes[lane] = LaneNote(title, id_, because)
    return notes

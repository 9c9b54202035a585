"""Checks of shipments, and imports of them, that gave up: going on, or no more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from penstock.storage import Tx, sql
from penstock.tracking.carriers.registry import CARRIERS
from penstock.tracking.credentials import CHECK
from penstock.tracking.imports import IMPORT, forget
from penstock.work.care import DeadWork, LaneNote, by, dropping, redriving

# Not beside another shipment that follows the same number.
_REDRIVE = sql("""
UPDATE shipments SET status = 'pending', due_at = {now}, lapses = 0, ended_at = NULL
WHERE id = :id AND account = :account AND status = 'dead' AND lease_until IS NULL
  AND NOT EXISTS (SELECT 1 FROM shipments s WHERE s.account = shipments.account
    AND s.carrier = shipments.carrier AND s.tracking_number = shipments.tracking_number
    AND s.status = 'pending')
RETURNING lane
""")
_DROP = sql("""
UPDATE shipments SET status = 'cancelled', due_at = NULL, ended_at = {now}, updated_at = {now}
WHERE id {in:ids} AND account = :account AND status = 'dead'
""")

_IMPORT = sql("""
UPDATE shipment_imports SET status = 'pending', due_at = {now}, attempts = 0, lapses = 0,
  ended_at = NULL
WHERE id = :id AND account = :account AND status = 'dead' AND lease_until IS NULL
RETURNING lane
""")
_DROP_IMPORT = sql("""
UPDATE shipment_imports SET status = 'cancelled', due_at = NULL, ended_at = {now}
WHERE id {in:ids} AND account = :account AND status = 'dead'
RETURNING id
""")


def _drop_import(tx: Tx, account: str, ids: Sequence[str]) -> int:
    gone = [id_ for (id_,) in tx.rows(_DROP_IMPORT, ids=sorted(ids), account=account)]
    forget(tx, gone)
    return len(gone)


DEAD_CHECKS: Final = DeadWork(
    kind=CHECK,
    area="shipments",
    table="shipments",
    prefix="shp",
    title="w.carrier || ' ' || w.tracking_number",
    about="w.id",
    ended="ended_at",
    redrive=redriving(CHECK, by(_REDRIVE)),
    drop=dropping(_DROP),
)

DEAD_IMPORTS: Final = DeadWork(
    kind=IMPORT,
    area="shipments",
    table="shipment_imports",
    prefix="imp",
    title="w.created || ' shipments made'",
    about="w.id",
    ended="ended_at",
    redrive=redriving(IMPORT, by(_IMPORT)),
    drop=_drop_import,
)


def lane_notes(tx: Tx, lanes: Sequence[str]) -> dict[str, LaneNote]:
    """Which carrier a lane asks, and with whose credential: ``trk:ups:settings``."""
    notes = {}
    for lane in lanes:
        service, _, rest = lane.partition(":")
        if service == "trk":
            carrier, _, whose = rest.partition(":")
            spec = CARRIERS.get(carrier)
            title = carrier if spec is None else spec.title
            if spec is None or spec.fields:
                own = "own" if whose.startswith("a:") else "server's"
                title = f"{title}, by the {own} credential"
            notes[lane] = LaneNote(title, paused_because="there is no credential to ask with")
    return notes

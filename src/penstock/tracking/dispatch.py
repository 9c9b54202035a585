"""Dispatching: carriers' lanes in which shipments are due are woken, all of them together.

A shipment is owed by its row, and a lane with due rows is looked at when they become due; what is
done here makes up for wakes that were lost on the way to other processes. It reads one entry of an
index for each due shipment and sends one wake for each lane, however many shipments are in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.clock import Clock
from penstock.storage import Database, Tx, sql
from penstock.telemetry import TRACKING_DISPATCHED, log
from penstock.tracking.credentials import CHECK
from penstock.work import lanes
from penstock.work.schedule import Periodic

_DUE = sql("""
SELECT d.lane, d.n, CASE WHEN l.paused OR l.paused_by_hand OR l.open_at > {now} THEN 1 ELSE 0 END
FROM (SELECT lane, count(*) AS n FROM shipments
      WHERE due_at IS NOT NULL AND lease_until IS NULL AND due_at <= {now} GROUP BY lane) AS d
JOIN lanes l ON l.id = d.lane
""")


@dataclass(frozen=True, slots=True)
class Dispatched:
    """How many shipments are due, and in how many lanes; and how many are due in lanes that let
    nothing through: their circuit is open, the carrier asked for a pause, they are paused by hand,
    or they have no credential."""

    shipments: int
    lanes: int
    held_back: int = 0


def dispatch(tx: Tx) -> Dispatched:
    """Wake every lane in which a shipment is due and may be asked for."""
    shipments = woken = held_back = 0
    for lane, due, closed in tx.rows(_DUE):
        if closed:
            held_back += due
            continue
        lanes.wake(tx, CHECK, lane)
        shipments += due
        woken += 1
    return Dispatched(shipments, woken, held_back)


def dispatcher(database: Database, clock: Clock, *, every: float) -> Periodic:
    """Dispatches every so many seconds."""

    async def run() -> None:
        began = clock.monotonic()
        done = await database.unit(dispatch)
        if done.shipments or done.held_back:
            log(
                TRACKING_DISPATCHED,
                shipments=done.shipments,
                lanes=done.lanes,
                held_back=done.held_back,
                seconds=round(clock.monotonic() - began, 3),
            )

    return Periodic("dispatch shipments", every, run)

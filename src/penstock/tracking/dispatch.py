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
SELECT lane, count(*) FROM shipments
WHERE due_at IS NOT NULL AND lease_until IS NULL AND due_at <= {now} GROUP BY lane
""")


@dataclass(frozen=True, slots=True)
class Dispatched:
    """How many shipments are due, and in how many lanes."""

    shipments: int
    lanes: int


def dispatch(tx: Tx) -> Dispatched:
    """Wake every lane in which a shipment is due."""
    due = tx.rows(_DUE)
    for lane, _ in due:
        lanes.wake(tx, CHECK, lane)
    return Dispatched(sum(n for _, n in due), len(due))


def dispatcher(database: Database, clock: Clock, *, every: float) -> Periodic:
    """Dispatches every so many seconds."""

    async def run() -> None:
        began = clock.monotonic()
        done = await database.unit(dispatch)
        if done.shipments:
            log(
                TRACKING_DISPATCHED,
                shipments=done.shipments,
                lanes=done.lanes,
                seconds=round(clock.monotonic() - began, 3),
            )

    return Periodic("dispatch shipments", every, run)

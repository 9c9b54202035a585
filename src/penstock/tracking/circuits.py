"""Carriers' circuits as people see and move them; the breaker itself is ``work/circuit.py``."""

from __future__ import annotations

from typing import Any, Final

from penstock.storage import Tx
from penstock.tracking.credentials import CHECK, Credentials
from penstock.tracking.views import iso
from penstock.work import circuit, lanes
from penstock.work.circuit import OnChange

MOST_LOGGED: Final = 20  # transitions shown, the latest


def shown(tx: Tx, account: str, carrier: str, credentials: Credentials) -> dict[str, Any]:
    """The circuit of the account's way to the carrier. Refused if there is no such carrier."""
    lane = credentials.lane_shown(tx, account, carrier)
    view: dict[str, Any] = {
        "carrier": carrier,
        "credential": credentials.shown(tx, account)[carrier].source,
        "state": "closed",
        "open_until": None,
        "held": None,
        "held_until": None,
        "failures_in_a_row": 0,
        "trips_at": None,
        "trips": 0,
        "log": [],
    }
    found = None if lane is None else circuit.show(tx, lane)
    if lane is None or found is None:  # no shipment has needed it yet
        return view
    return view | {
        "state": found.state,
        "open_until": iso(found.open_until),
        "held": found.held,
        "held_until": iso(found.held_until),
        "failures_in_a_row": found.consecutive,
        "trips_at": found.trip_after,
        "trips": found.trips,
        "log": [
            entry | {"at": iso(entry["at"]), "open_until": iso(entry["open_until"])}
            for entry in circuit.history(tx, lane, MOST_LOGGED)
        ],
    }


def hold(
    tx: Tx,
    lane: str,
    state: str,
    seconds: float,
    *,
    actor: str,
    reason: str,
    on_change: OnChange,
) -> None:
    """Hold the circuit ``open`` or ``closed`` for so long, whatever the carrier does."""
    move = circuit.force_open if state == "open" else circuit.force_closed
    move(tx, lane, seconds, actor=actor, reason=reason, on_change=on_change)
    lanes.wake(tx, CHECK, lane, delay=seconds if state == "open" else 0.0)


def release(tx: Tx, lane: str, *, actor: str, reason: str) -> bool:
    """Leave the circuit to itself again; False = nobody holds it.

    One that was held open lets a probe through now; one that was held closed may trip again.
    """
    if not circuit.release(tx, lane, actor=actor, reason=reason):
        return False
    lanes.wake(tx, CHECK, lane)
    return True

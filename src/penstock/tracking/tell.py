"""The events that tracking tells, each once.

====================================  =======================================================
event type                            when
====================================  =======================================================
``shipment.created``                  it is followed from now on
``shipment.out_for_delivery``         its status became that
``shipment.delivered``                its status became that
``shipment.exception``                its status became that
``shipment.expired``                  nothing was heard for too long
``shipment.status_changed``           its status became any other
``carrier.circuit_opened``            a carrier does not answer; not again when a probe fails
``carrier.circuit_closed``            it is asked again
====================================  =======================================================

One change is one event, of the type that says most: whoever subscribes to ``shipment.*`` hears of
it once. An event is stored in the transaction of what it tells, under a name made of the
shipment and the number of the change, so it is told neither twice nor not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from penstock.clock import to_iso
from penstock.storage import Tx, sql
from penstock.tracking.credentials import SETTINGS
from penstock.work.circuit import Changed
from penstock.work.emit import Emit

_ACCOUNT = sql("SELECT account FROM lanes WHERE id = :lane")

CREATED: Final = "shipment.created"
STATUS_CHANGED: Final = "shipment.status_changed"
CIRCUIT_OPENED: Final = "carrier.circuit_opened"
CIRCUIT_CLOSED: Final = "carrier.circuit_closed"
_OWN_TYPE: Final = frozenset({"out_for_delivery", "delivered", "exception", "expired"})


def created(tx: Tx, emit: Emit, row: Mapping[str, Any]) -> None:
    """The shipment of this row was made."""
    emit(tx, row["account"], CREATED, payload(row), f"shipment:{row['id']}:created")


def changed(tx: Tx, emit: Emit, row: Mapping[str, Any], previous: str) -> None:
    """The row's status is another than `previous`; `changes` counts it already."""
    status = row["tracking_status"]
    event_type = f"shipment.{status}" if status in _OWN_TYPE else STATUS_CHANGED
    told = payload(row) | {"previous_status": previous}
    emit(tx, row["account"], event_type, told, f"shipment:{row['id']}:{row['changes']}")


def circuit(tx: Tx, emit: Emit, account: str, change: Changed) -> None:
    """The circuit of a carrier's lane opened or closed."""
    event_type = CIRCUIT_OPENED if change.state == "open" else CIRCUIT_CLOSED
    _, carrier, credential = change.lane.split(":", 2)
    told: dict[str, Any] = {
        "carrier": carrier,
        "credential": SETTINGS if credential == SETTINGS else "account",
        "reason": change.reason,
    }
    if change.open_for is not None:
        told["seconds"] = round(change.open_for, 1)
    emit(tx, account, event_type, told, f"{event_type}:{change.lane}:{change.generation}")


def payload(row: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of a shipment, from its row."""
    metadata = row["metadata"]
    return {
        "shipment_id": row["id"],
        "carrier": row["carrier"],
        "tracking_number": row["tracking_number"],
        "label": row["label"],
        "reference": row["reference"],
        "metadata": None if metadata is None else json.loads(metadata),
        "status": row["tracking_status"],
        "sub_status": row["sub_status"],
        "carrier_code": row["carrier_code"],
        "carrier_text": row["carrier_text"],
        "status_at": _iso(row["status_at"]),
        "estimated_delivery_at": _iso(row["eta_at"]),
        "delivered_at": _iso(row["delivered_at"]),
        "signed_by": row["signed_by"],
    }


def _iso(us: int | None) -> str | None:
    return None if us is None else to_iso(us)


def circuits(emit: Emit, operator: str) -> Callable[[Tx, Changed], None]:
    """Tells of carriers' circuits: the account whose credential it is, for the deployment's own
    credential the account `operator`."""

    def changed(tx: Tx, change: Changed) -> None:
        if change.reopened or change.state == "half_open":
            return
        row = tx.one(_ACCOUNT, lane=change.lane)
        if row is not None:
            circuit(tx, emit, row[0] or operator, change)

    return changed

"""What the API shows of shipments, as plain dictionaries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, timedelta, timezone
from typing import Any, Final
from urllib.parse import quote

from penstock.clock import to_datetime, to_iso
from penstock.tracking import numbers
from penstock.tracking.carriers.base import Spec

# By the work's status: whether the carrier is still asked.
STATES: Final = {
    "pending": "active",
    "done": "ended",
    "cancelled": "stopped",
    "dead": "dead",
}


def iso(us: int | None) -> str | None:
    """The instant as RFC 3339, or None."""
    return None if us is None else to_iso(us)


def local(us: int | None, offset: int | None) -> str | None:
    """The carrier's own time: with its zone, or without one if it gave none."""
    if us is None:
        return None
    if offset is None:
        return to_datetime(us).replace(tzinfo=None).isoformat(timespec="seconds")
    zone = UTC if offset == 0 else timezone(timedelta(minutes=offset))
    return to_datetime(us).astimezone(zone).isoformat(timespec="seconds")


def shipment(row: Mapping[str, Any], spec: Spec | None) -> dict[str, Any]:
    """A shipment as lists show it, from its row by column.

    `spec` is of its carrier, None if this version does not know it any more.
    """
    metadata = row["metadata"]
    number = row["tracking_number"]
    return {
        "shipment_id": row["id"],
        "carrier": row["carrier"],
        "tracking_number": number,
        "checksum": _checksum(row["carrier"], number),
        "tracking_url": _page(spec, number),
        "label": row["label"],
        "reference": row["reference"],
        "ship_date": row["ship_date"],
        "postal_code": row["postal_code"],
        "metadata": None if metadata is None else json.loads(metadata),
        "state": STATES[row["status"]],
        "status": row["tracking_status"],
        "sub_status": row["sub_status"],
        "carrier_code": row["carrier_code"],
        "carrier_text": row["carrier_text"],
        "status_at": iso(row["status_at"]),
        "estimated_delivery_at": iso(row["eta_at"]),
        "estimated_delivery_local_time": local(row["eta_at"], row["eta_offset"]),
        "delivered_at": iso(row["delivered_at"]),
        "delivered_local_time": local(row["delivered_at"], row["delivered_offset"]),
        "signed_by": row["signed_by"],
        "service": row["service"],
        "last_checked_at": iso(row["last_checked_at"]),
        "next_check_at": iso(row["due_at"]) if row["status"] == "pending" else None,
        "error_kind": row["error_kind"],
        "consecutive_errors": row["consecutive_errors"],
        "created_at": to_iso(row["created_at"]),
        "updated_at": to_iso(row["updated_at"]),
        "ended_at": iso(row["ended_at"]),
    }


def scan(row: Mapping[str, Any]) -> dict[str, Any]:
    """A scan, from its row by column."""
    return {
        "at": to_iso(row["at"]),
        "local_time": local(row["at"], row["zone_offset"]),
        "status": row["status"],
        "sub_status": row["sub_status"],
        "code": row["code"],
        "text": row["text"],
        "place": row["place"],
        "seen_at": to_iso(row["seen_at"]),
    }


def _checksum(carrier: str, number: str) -> str:
    verdict = numbers.check(carrier, number)
    return "none" if verdict is None else "valid" if verdict else "invalid"


def _page(spec: Spec | None, number: str) -> str | None:
    if spec is None or spec.page is None:
        return None
    return spec.page.format(number=quote(number, safe=""))

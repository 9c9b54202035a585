"""What the API shows of events and deliveries, as plain dictionaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock.clock import to_iso


def iso(us: int | None) -> str | None:
    """The instant as RFC 3339, or None."""
    return None if us is None else to_iso(us)


def _count(n: int, one: str, many: str) -> str:
    return f"1 {one}" if n == 1 else f"{n} {many}"


def message(status: str, open_deliveries: int, dead: int, deliver_at: int | None) -> str:
    """Where the event stands, as a sentence."""
    if status == "delivered":
        return "Delivered."
    if status == "replayed":
        return "Delivered again."
    if status == "failed":
        return f"Failed: {_count(dead, 'delivery', 'deliveries')} gave up."
    if open_deliveries == 0:
        return "Stored: there is no delivery to make."
    when = "" if deliver_at is None else f", not before {to_iso(deliver_at)}"
    under_way = _count(open_deliveries, "delivery", "deliveries")
    return f"Accepted: {under_way} to make{when}."


def event(
    event_id: str,
    event_type: str,
    status: str,
    created_at: int,
    delivered_at: int | None,
    delivery_attempts: int,
    text: str,
    deliveries: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """An event as the answer to its acceptance shows it."""
    return {
        "event_id": event_id,
        "event_type": event_type,
        "status": status,
        "created_at": to_iso(created_at),
        "delivered_at": iso(delivered_at),
        "delivery_attempts": delivery_attempts,
        "message": text,
        "deliveries": list(deliveries),
    }


def delivery(
    delivery_id: str, endpoint_id: str, status: str, attempts: int, next_attempt_at: int | None
) -> dict[str, Any]:
    """One delivery in short."""
    return {
        "delivery_id": delivery_id,
        "endpoint_id": endpoint_id,
        "status": status,
        "attempts": attempts,
        "next_attempt_at": iso(next_attempt_at),
    }

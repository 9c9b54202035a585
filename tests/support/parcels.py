"""Parcels of the sandbox, and what is told of them."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from support.client import Api
from support.receiver import Receiver


def begun(script: str, start: float, n: int = 0) -> str:
    """A number of the sandbox whose parcel begins its way at `start`, in seconds."""
    return f"SBX{script}{int(start):010d}{n}"


async def follow(api: Api, number: str, **fields: Any) -> dict[str, Any]:
    """Follow a parcel of the sandbox."""
    body = {"carrier": "sandbox", "tracking_number": number, **fields}
    shipment: dict[str, Any] = await api.ok("POST", "/v1/shipments", body)
    return shipment


async def until(
    api: Api, shipment_id: str, seconds: float = 60.0, **values: object
) -> dict[str, Any]:
    """The shipment once these of its members have these values."""
    deadline = time.monotonic() + seconds
    while True:
        found: dict[str, Any] = await api.ok("GET", f"/v1/shipments/{shipment_id}")
        if all(found[name] == value for name, value in values.items()):
            return found
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.1)


def told(receiver: Receiver, path: str) -> dict[str, list[dict[str, Any]]]:
    """By shipment: the events that were pushed to this path, each once, in order."""
    once = {received.id: received.json for received in receiver.at(path)}
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in sorted(once.values(), key=lambda event: event["event_id"]):
        found[event["payload"]["shipment_id"]].append(event)
    return found


async def story(receiver: Receiver, path: str, shipment_id: str, last: str) -> list[str]:
    """`check_story` once all of it has been told: the API knows a change before its push is here,
    and pushes may overtake each other."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return check_story(told(receiver, path)[shipment_id], last)
        except (AssertionError, ValueError):  # of the latter kind where nothing was told yet
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.05)


def check_story(events: Iterable[Mapping[str, Any]], last: str) -> list[str]:
    """Each change was told by exactly one event, up to `last`; the statuses in their order."""
    first, *changes = events
    assert first["event_type"] == "shipment.created"
    statuses = [first["payload"]["status"]]
    for event in changes:
        # One that was told twice, or not at all, would break the chain.
        assert event["payload"]["previous_status"] == statuses[-1], (statuses, event)
        status = event["payload"]["status"]
        assert status != statuses[-1]
        own = ("out_for_delivery", "delivered", "exception", "expired")
        assert event["event_type"] == f"shipment.{status if status in own else 'status_changed'}"
        statuses.append(status)
    assert statuses[0] == "pending"
    assert statuses[-1] == last
    return statuses

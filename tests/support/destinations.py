"""Webhooks whose requests a test answers itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.clock import Clock
from penstock.events.destinations import Destination
from penstock.events.destinations.webhook import Webhook
from penstock.events.guard import Guard


def webhook(send: Any, clock: Clock) -> Mapping[str, Destination]:
    """The destinations of a worker that only pushes to URLs, through `send`."""
    return {"webhook": Webhook(Guard(), send, clock)}

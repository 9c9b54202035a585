"""The console of a process, put together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from penstock.clock import Clock
from penstock.console import (
    pages_dead,
    pages_endpoints,
    pages_events,
    pages_imports,
    pages_jobs,
    pages_keys,
    pages_lanes,
    pages_models,
    pages_outbox,
    pages_overview,
    pages_predictions,
    pages_shipments,
    pages_sign_in,
)
from penstock.console.pages import Desk
from penstock.console.sessions import Links, Sessions
from penstock.secretbox import SecretBox


def build(*, keys: Sequence[str], clock: Clock, version: str, services: Sequence[str]) -> Desk:
    """The console; `keys` seal its sessions, so processes that share them share sessions."""
    # Not the key the box makes of it, nor anything it could be guessed by.
    name = hashlib.sha256(b"penstock console cookie\0" + keys[0].encode()).hexdigest()[:8]
    sessions = Sessions(SecretBox(keys), name, Links(clock), clock)
    desk = Desk(sessions=sessions, clock=clock, version=version, services=services)
    pages_sign_in.add(desk)
    pages_overview.add(desk)
    pages_jobs.add(desk)
    pages_lanes.add(desk)
    pages_dead.add(desk)
    pages_keys.add(desk)
    if "events" in services:
        pages_events.add(desk)
        pages_endpoints.add(desk)
        pages_outbox.add(desk)
    if "tracking" in services:
        pages_shipments.add(desk)
        pages_imports.add(desk)
    if "predictions" in services:
        pages_predictions.add(desk)
        pages_models.add(desk)
    return desk

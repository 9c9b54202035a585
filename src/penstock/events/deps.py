"""What the routes of the service are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.clock import Clock
from penstock.events.accept import Acceptor
from penstock.events.destinations import Destination
from penstock.events.gather import Gatherer
from penstock.events.guard import Guard
from penstock.events.policy import Policy
from penstock.events.settled import Waiters
from penstock.secretbox import SecretBox
from penstock.storage import Database


@dataclass(frozen=True, slots=True)
class Deps:
    """One process's events service. `waiters.on_notes` is to be subscribed to `database`."""

    database: Database
    clock: Clock
    box: SecretBox
    guard: Guard
    acceptor: Acceptor
    policy: Policy
    gatherer: Gatherer
    destinations: Mapping[str, Destination]  # by kind
    waiters: Waiters = field(default_factory=Waiters)

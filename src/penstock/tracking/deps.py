"""What the routes of the service are given."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.clock import Clock
from penstock.storage import Database
from penstock.tracking.credentials import Credentials
from penstock.work.circuit import OnChange
from penstock.work.emit import Emit


@dataclass(frozen=True, slots=True)
class Deps:
    """One process's tracking service. `on_circuit` goes with every change of a carrier's lane."""

    database: Database
    clock: Clock
    credentials: Credentials
    emit: Emit
    on_circuit: OnChange

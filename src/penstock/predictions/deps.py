"""What the service's functions are given."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.clock import Clock
from penstock.predictions.pool import Pool
from penstock.storage import Database
from penstock.storage.objects import Objects
from penstock.work.emit import Emit


@dataclass(frozen=True, slots=True)
class Deps:
    """One process's prediction service.

    Short tasks that somebody waits for, scoring, and training have processes of their own, so that
    none waits behind another's. `max_upload` is in bytes; `max_rows` is of one file.
    """

    database: Database
    clock: Clock
    objects: Objects
    emit: Emit
    aside: Pool
    scoring: Pool
    training: Pool
    max_upload: int
    max_rows: int | None

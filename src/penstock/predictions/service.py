"""The prediction service of one process, put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.clock import Clock
from penstock.predictions import keeping
from penstock.predictions.deps import Deps
from penstock.predictions.fitting import train_kind
from penstock.predictions.jobs import Told
from penstock.predictions.pool import Pool
from penstock.predictions.routes import routes
from penstock.predictions.run import score_kind
from penstock.storage import Database
from penstock.storage.objects import Objects
from penstock.storage.retention import Rule
from penstock.telemetry import ROWS_SCORED, log, metrics
from penstock.work.emit import Emit
from penstock.work.kinds import AnyKind
from penstock.work.schedule import Periodic

if TYPE_CHECKING:
    from fastapi import APIRouter


@dataclass(frozen=True, slots=True)
class Predictions:
    """The service."""

    kinds: tuple[AnyKind, ...]
    routers: tuple[APIRouter, ...]
    periodic: tuple[Periodic, ...]
    retention: tuple[Rule, ...]
    deps: Deps

    def on_notes(self, notes: Sequence[object]) -> None:
        """Log and count what is committed."""
        for note in notes:
            if type(note) is Told:
                log(note.event, **note.fields)
                if note.rows:
                    metrics.inc(ROWS_SCORED, note.rows)

    async def close(self) -> None:
        """End the processes beside."""
        for pool in (self.deps.aside, self.deps.scoring, self.deps.training):
            await pool.close()


def build(
    *,
    database: Database,
    clock: Clock,
    objects: Objects,
    emit: Emit,
    processes: int,
    max_upload: int,
    max_rows: int | None,
    keep: float,
    lease: float,
) -> Predictions:
    """The service; `processes` score at once. No process starts before it is needed."""
    deps = Deps(
        database,
        clock,
        objects,
        emit,
        aside=Pool(1),
        scoring=Pool(processes),
        training=Pool(1),
        max_upload=max_upload,
        max_rows=max_rows,
    )
    return Predictions(
        kinds=(
            score_kind(deps, processes=processes, lease=lease),
            train_kind(deps, lease=lease),
        ),
        routers=(routes(deps),),
        periodic=(keeping.sweeping(database, objects),),
        retention=keeping.rules(keep),
        deps=deps,
    )

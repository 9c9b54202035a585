"""The tracking service of one process, put together from settings' values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fastapi import APIRouter

from penstock.clock import Clock
from penstock.secretbox import SecretBox
from penstock.storage import Database, Tx
from penstock.storage.retention import Rule
from penstock.telemetry import SHIPMENT_CHANGES, SHIPMENT_STATUS_UPDATED, log, metrics
from penstock.tracking import imports, retention
from penstock.tracking.carriers.base import Budget
from penstock.tracking.carriers.http import carrier_session
from penstock.tracking.carriers.registry import CARRIERS
from penstock.tracking.census import Census
from penstock.tracking.changes import StatusUpdated
from penstock.tracking.clients import Clients
from penstock.tracking.credentials import Credentials
from penstock.tracking.deps import Deps
from penstock.tracking.dispatch import dispatcher
from penstock.tracking.grouper import Grouper
from penstock.tracking.poll import check_kind
from penstock.tracking.routes import routes
from penstock.tracking.tell import circuits
from penstock.work.emit import Emit
from penstock.work.kinds import AnyKind
from penstock.work.schedule import Periodic


@dataclass(frozen=True, slots=True)
class Limits:
    """What the settings say of a carrier's budget; None = its usual."""

    per_second: float | None = None
    per_day: int | None = None


@dataclass(frozen=True, slots=True)
class Tracking:
    """What the service brings."""

    kinds: tuple[AnyKind, ...]
    routers: tuple[APIRouter, ...]
    periodic: tuple[Periodic, ...]
    retention: tuple[Rule, ...]
    on_notes: Callable[[Sequence[object]], None]  # is to be subscribed to the database
    prepare: Callable[[Tx], None]  # once, before work begins
    clients: Clients
    grouper: Grouper

    async def close(self) -> None:
        """End the calls under way and close the connections."""
        await self.grouper.close()
        await self.clients.close()


def build(
    *,
    database: Database,
    clock: Clock,
    box: SecretBox,
    own: Mapping[str, Mapping[str, str]],
    base_urls: Mapping[str, str],
    limits: Mapping[str, Limits],
    emit: Emit,
    operator: str,
    lease: float,
    dispatch_every: float,
    keep: float,
) -> Tracking:
    """The service on `database`; call it inside a running event loop, and close it.

    `own` are the deployment's credentials, by carrier; `base_urls` and `limits` what differs from
    the carriers' usual. The account `operator` hears of the circuits of the deployment's own
    credentials.
    """
    credentials = Credentials(box, CARRIERS, own, _budgets(limits))
    clients = Clients(credentials, carrier_session(), clock, base_urls)
    grouper = Grouper(clock)
    on_circuit = circuits(emit, operator)
    deps = Deps(database, clock, credentials, emit, on_circuit)
    return Tracking(
        kinds=(
            check_kind(
                credentials=credentials,
                clients=clients,
                grouper=grouper,
                census=Census(clock),
                clock=clock,
                emit=emit,
                on_circuit=on_circuit,
                lease=lease,
            ),
            imports.import_kind(database=database, credentials=credentials, emit=emit, lease=lease),
        ),
        routers=(routes(deps),),
        periodic=(dispatcher(database, clock, every=dispatch_every),),
        retention=(*retention.rules(keep), *imports.rules()),
        on_notes=_on_notes,
        prepare=credentials.prepare,
        clients=clients,
        grouper=grouper,
    )


def _budgets(limits: Mapping[str, Limits]) -> dict[str, Budget]:
    budgets = {}
    for carrier, spec in CARRIERS.items():
        limit, usual = limits.get(carrier, Limits()), spec.budget
        budgets[carrier] = Budget(
            usual.per_second if limit.per_second is None else limit.per_second,
            usual.per_day if limit.per_day is None else limit.per_day,
        )
    return budgets


def _on_notes(notes: Sequence[object]) -> None:
    """Log and count what changed, once that is committed."""
    for note in notes:
        if type(note) is StatusUpdated:
            metrics.inc(SHIPMENT_CHANGES, status=note.status)
            log(
                SHIPMENT_STATUS_UPDATED,
                shipment_id=note.shipment_id,
                account=note.account,
                carrier=note.carrier,
                status=note.status,
                previous=note.previous,
            )

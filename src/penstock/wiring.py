"""The services of a process, put together from its settings.

A service is what `Service` says: kinds of work, routes, periodic tasks. They know nothing of one
another: what one tells the others goes through the `Emit` port, which events implement.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.clock import Clock
from penstock.errors import SettingsError
from penstock.secretbox import SecretBox
from penstock.settings import Network, Settings, load_secret_keys
from penstock.storage import Database, Tx
from penstock.storage.objects import Folder, Objects
from penstock.storage.retention import BATCH, Rule, batches
from penstock.telemetry import PREDICTIONS_OFF, PRIVATE_TARGETS_ALLOWED, log
from penstock.work import emit
from penstock.work.care import DeadWork, LaneNote
from penstock.work.emit import Emit
from penstock.work.kinds import AnyKind
from penstock.work.schedule import Periodic

if TYPE_CHECKING:
    from fastapi import APIRouter

    from penstock.app import Penstock

CRON_EVERY = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class Service:
    """What a service brings to a process."""

    kinds: tuple[AnyKind, ...] = ()
    routers: tuple[APIRouter, ...] = ()
    periodic: tuple[Periodic, ...] = ()
    retention: tuple[Rule, ...] = ()
    on_notes: Callable[[Sequence[object]], None] | None = None
    prepare: Callable[[Tx], None] | None = None  # once, before this process works
    stopping: Callable[[], None] | None = None  # end what waits: long polls
    objects: Objects | None = None  # what it depends on beside the database
    emit: Emit | None = None  # by which the others tell
    dead: tuple[DeadWork, ...] = ()
    lane_notes: Callable[[Tx, Sequence[str]], Mapping[str, LaneNote]] | None = None


async def services(
    settings: Settings,
    clock: Clock,
    database: Database,
    stack: contextlib.AsyncExitStack,
    app: Penstock,
) -> list[Service]:
    """Those that the settings name, and jobs; `stack` closes them."""
    made = [_jobs(settings, database, stack, app)]
    if "events" in settings.services:
        made.append(_events(settings, clock, database, stack))
    tell = next((service.emit for service in made if service.emit is not None), emit.nobody)
    if "tracking" in settings.services:
        made.append(_tracking(settings, clock, database, stack, tell))
    if "predictions" in running(settings):
        made.append(_predictions(settings, clock, database, stack, tell))
    return made


def running(settings: Settings) -> tuple[str, ...]:
    """The services that the settings name, as far as their packages are installed.

    By default what is not installed is left out. Raises SettingsError if it was asked for by name.
    """
    lacking = _lacking(settings)
    if not lacking:
        return settings.services
    if "services" in settings.model_fields_set:
        raise SettingsError(
            f"PENSTOCK_SERVICES names predictions, and {' and '.join(lacking)} "
            f"{'is' if len(lacking) == 1 else 'are'} not installed: "
            "pip install 'penstock[predictions]'"
        )
    return tuple(name for name in settings.services if name != "predictions")


def _lacking(settings: Settings) -> list[str]:
    from penstock.predictions.extra import missing

    return missing() if "predictions" in settings.services else []


def tell_what_is_off(settings: Settings) -> None:
    """Log what the settings name and this process does without."""
    if lacking := _lacking(settings):
        log(PREDICTIONS_OFF, missing=lacking)


def make_objects(settings: Settings) -> Objects:
    """Where uploads, results and models are kept."""
    place = settings.objects or settings.data_dir / "objects"
    if isinstance(place, Path):
        return Folder(place.absolute())
    if find_spec("botocore") is None:
        raise SettingsError(
            "PENSTOCK_OBJECTS is in S3, which needs aiobotocore: pip install 'penstock[aws]'"
        )
    from penstock.storage.objects_s3 import Bucket

    endpoint_url = settings.s3_endpoint_url or settings.aws_endpoint_url
    return Bucket(place.bucket, place.prefix, settings.aws_region, endpoint_url)


def _jobs(
    settings: Settings, database: Database, stack: contextlib.AsyncExitStack, app: Penstock
) -> Service:
    from penstock import jobs
    from penstock.jobs.dead import DEAD_JOBS
    from penstock.jobs.routes import routes

    runner = jobs.JobRunner(app.jobs, slots=settings.job_slots, environment=for_children(settings))
    stack.push_async_callback(runner.close)

    async def tick() -> None:
        await database.unit(app.cron_tick)

    return Service(
        kinds=(jobs.job_kind(runner, lease=settings.lease),),
        routers=(routes(database),),
        periodic=(*([Periodic("cron", CRON_EVERY, tick)] if app.crons else []),),
        retention=(
            Rule(
                "jobs",
                batches(lambda tx: jobs.prune(tx, limit=BATCH)),
                jobs.prunable,
                every=3600.0,
            ),
        ),
        dead=(DEAD_JOBS,),
    )


def _events(
    settings: Settings, clock: Clock, database: Database, stack: contextlib.AsyncExitStack
) -> Service:
    from penstock.events import dead, service
    from penstock.events.destinations.registry import Outlets
    from penstock.events.retention import rules

    made = service.build(
        database=database,
        clock=clock,
        box=SecretBox(load_secret_keys(settings)),
        allow=private_targets(settings),
        slots=settings.delivery_slots,
        lease=settings.lease,
        schedule=settings.delivery_schedule,
        timeout=settings.delivery_timeout,
        expiry=settings.delivery_expiry,
        max_body=int(settings.max_body),
        max_batch_body=int(settings.max_batch_body),
        outlets=Outlets(
            smtp=settings.smtp_server,
            mail_by=settings.mail_by,
            mail_from=settings.mail_sender,
            mail_subject=settings.mail_subject,
            sms_by=settings.sms_by,
            aws_region=settings.aws_region,
            aws_endpoint_url=settings.aws_endpoint_url,
        ),
    )
    stack.push_async_callback(made.close)
    return Service(
        kinds=made.kinds,
        routers=made.routers,
        retention=rules(settings.keep_events),
        on_notes=made.on_notes,
        stopping=made.waiters.close,
        emit=made.acceptor.emit,
        dead=(
            dead.dead_deliveries(settings.delivery_expiry),
            dead.DEAD_FANOUTS,
            dead.DEAD_REPLAYS,
        ),
        lane_notes=dead.lane_notes,
    )


def _tracking(
    settings: Settings,
    clock: Clock,
    database: Database,
    stack: contextlib.AsyncExitStack,
    tell: Emit,
) -> Service:
    from penstock.api.auth import DEFAULT_ACCOUNT
    from penstock.tracking import dead, service

    carriers = settings.carriers()
    made = service.build(
        database=database,
        clock=clock,
        box=SecretBox(load_secret_keys(settings)),
        own={name: each.values for name, each in carriers.items() if each.values},
        base_urls={name: each.url for name, each in carriers.items() if each.url is not None},
        limits={
            name: service.Limits(each.per_second, each.per_day) for name, each in carriers.items()
        },
        emit=tell,
        operator=DEFAULT_ACCOUNT,
        lease=settings.lease,
        dispatch_every=settings.dispatch_interval,
        keep=settings.keep_shipments,
    )
    stack.push_async_callback(made.close)
    return Service(
        kinds=made.kinds,
        routers=made.routers,
        periodic=made.periodic,
        retention=made.retention,
        on_notes=made.on_notes,
        prepare=made.prepare,
        dead=(dead.DEAD_CHECKS, dead.DEAD_IMPORTS),
        lane_notes=dead.lane_notes,
    )


def _predictions(
    settings: Settings,
    clock: Clock,
    database: Database,
    stack: contextlib.AsyncExitStack,
    tell: Emit,
) -> Service:
    from penstock.predictions import dead, service

    objects = make_objects(settings)
    made = service.build(
        database=database,
        clock=clock,
        objects=objects,
        emit=tell,
        processes=settings.prediction_processes or _processors(),
        max_upload=int(settings.max_upload),
        max_rows=settings.max_rows,
        keep=settings.keep_predictions,
        lease=settings.lease,
    )
    stack.push_async_callback(made.close)
    return Service(
        kinds=made.kinds,
        routers=made.routers,
        periodic=made.periodic,
        retention=made.retention,
        on_notes=made.on_notes,
        dead=(dead.DEAD_PREDICTIONS, dead.DEAD_TRAININGS),
        objects=objects,
    )


def _processors() -> int:
    """All but one of the processors that this process may use: one stays for the server."""
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        usable = os.cpu_count() or 1
    return max(1, usable - 1)


def private_targets(settings: Settings) -> tuple[Network, ...]:
    """The private networks that may be pushed to; a server on loopback may push to loopback."""
    if settings.allow_private_targets is not None:
        return settings.allow_private_targets
    if is_loopback(settings.host):
        return (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    return ()


def listening_nowhere(settings: Settings) -> Settings:
    """The settings of a process without an API: it pushes to loopback only if told to by name.

    That no address was given says nothing of where it runs; on Lambda, loopback is Lambda's own.
    """
    if settings.allow_private_targets is not None or "host" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"allow_private_targets": ()})


def tell_private_targets(settings: Settings) -> None:
    """Log that loopback may be pushed to, if nobody has asked for that."""
    if "events" not in settings.services or settings.allow_private_targets is not None:
        return
    if networks := private_targets(settings):
        log(
            PRIVATE_TARGETS_ALLOWED,
            networks=[str(network) for network in networks],
            reason="the server listens on loopback and PENSTOCK_ALLOW_PRIVATE_TARGETS is not set",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to what listens there."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def no_jobs() -> Penstock:
    """An app without jobs, for processes that were given none."""
    from penstock.app import Penstock

    return Penstock()


def for_children(settings: Settings) -> dict[str, str]:
    """What a child must be told: it reads .env and penstock.toml as this process did, but knows
    nothing of the command line, by which it is decided where deliveries may go."""
    return {
        "PENSTOCK_DATA_DIR": str(settings.data_dir.absolute()),
        "PENSTOCK_ALLOW_PRIVATE_TARGETS": ",".join(map(str, private_targets(settings))),
    }


def operations(database: Database, services: Sequence[Service]) -> list[APIRouter]:
    """The routes that look after work of any kind."""
    from penstock.api.auth import DEFAULT_ACCOUNT
    from penstock.operations import routes_dead, routes_figures, routes_lanes
    from penstock.operations.lanes import Lanes

    kinds = [kind for service in services for kind in service.kinds]
    notes = [service.lane_notes for service in services if service.lane_notes is not None]
    return [
        routes_lanes.routes(database, Lanes(kinds, notes, DEFAULT_ACCOUNT)),
        routes_dead.routes(database, [work for service in services for work in service.dead]),
        routes_figures.routes(database, kinds, DEFAULT_ACCOUNT),
    ]

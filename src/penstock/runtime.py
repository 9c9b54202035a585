"""The composition root: from settings to a running process.

`Runtime` opens the database, gives the services (``wiring.py``) to the engine and runs them;
nothing else in Penstock constructs what it can be given. Notes of a commit go to whoever
subscribed: the waker, the waiters of the API, the log of circuits.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from penstock._version import __version__
from penstock.backends import make_database, make_wakeups
from penstock.clock import Clock, SystemClock
from penstock.errors import NotFound, SettingsError, StorageError, StorageFull
from penstock.settings import Settings, load_secret_keys
from penstock.storage import Database, retention
from penstock.storage.objects import Objects
from penstock.storage.retention import Rule, batches
from penstock.telemetry import (
    CIRCUIT_CLOSED,
    CIRCUIT_HALF_OPENED,
    CIRCUIT_OPENED,
    log,
)
from penstock.wiring import (
    Service,
    for_children,
    no_jobs,
    operations,
    running,
    services,
    tell_private_targets,
    tell_what_is_off,
)
from penstock.work import circuit
from penstock.work.isolate import child_process
from penstock.work.schedule import (
    Periodic,
    Scheduler,
    dead_letters,
    gauges,
    release_all,
    sweeper,
)
from penstock.work.waker import Waker
from penstock.work.wakeups import Wakeups
from penstock.work.worker import Summary, Worker

if TYPE_CHECKING:
    from fastapi import FastAPI

    from penstock.api.auth import TokenVerifier
    from penstock.api.limits import RateLimiter
    from penstock.app import Penstock
    from penstock.console.pages import Desk
    from penstock.work.line import Isolate

GAUGES_EVERY = 15.0  # seconds
OBJECTS_CHECK = 1.5  # seconds; less than readiness has for all checks together
DEAD_LETTERS_EVERY = 50.0  # seconds: each minute, when each minute is asked what is due


@dataclass(slots=True)
class Runtime:
    """One process of Penstock, opened by `open_runtime`."""

    settings: Settings
    clock: Clock
    database: Database
    wakeups: Wakeups
    waker: Waker
    services: tuple[Service, ...]
    worker: Worker
    scheduler: Scheduler
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _console: Desk | None = None

    def start(self) -> asyncio.Task[Summary]:
        """Start worker and scheduler; the task ends after `worker.stop()`."""
        self.start_scheduler()
        return asyncio.create_task(self.worker.run(), name="worker")

    def start_scheduler(self) -> asyncio.Task[None]:
        """Start the scheduler; it ends with the runtime."""
        task = asyncio.create_task(self.scheduler.run(), name="scheduler")
        self._tasks.append(task)
        return task

    def stop(self) -> None:
        """Stop taking work and end what waits."""
        for service in self.services:
            if service.stopping is not None:
                service.stopping()
        self.worker.stop()

    async def ready(self) -> dict[str, str | None]:
        """What readiness depends on beside the database, each with what is wrong, or None."""
        healthy = getattr(self.wakeups, "healthy", True)
        checks = {"wakeups": None if healthy else "wake-ups cannot be received or sent"}
        for service in self.services:
            if service.objects is not None:
                checks["objects"] = await _objects_failure(service.objects)
        return checks

    def http(self, admin_token: str | None = None) -> FastAPI:
        """The API over these services. `admin_token` may do everything as `default`."""
        from penstock.api.app import create_app
        from penstock.api.auth import Authenticator

        return create_app(
            routers=[
                *(router for service in self.services for router in service.routers),
                *operations(self.database, self.services),
                self.console().router,
            ],
            authenticator=Authenticator(
                self.database, clock=self.clock, admin_token=admin_token, oidc=_oidc(self.settings)
            ),
            database=self.database,
            version=__version__,
            services=self._named(),
            readiness=self.ready,
            limiter=_limiter(self.settings),
            metrics_public=self.settings.metrics_public,
            clock=self.clock,
        )

    def console(self) -> Desk:
        """Its pages, and the one-time links to it that `new_link` makes."""
        if self._console is None:
            from penstock.console.desk import build

            self._console = build(
                keys=load_secret_keys(self.settings),
                clock=self.clock,
                version=__version__,
                services=self._named(),
            )
        return self._console

    def _named(self) -> list[str]:
        return list(dict.fromkeys(("jobs", *running(self.settings))))

    async def close_tasks(self) -> None:
        """End the scheduler."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def open_runtime(
    settings: Settings,
    *,
    app: Penstock | None = None,
    app_path: str | None = None,
    clock: Clock | None = None,
    isolate: bool = True,
    listen: bool = True,
) -> AsyncIterator[Runtime]:
    """Open everything a working process needs; closes it in reverse order.

    `listen=False`: wake-ups come some other way, or none is waited for.

    The tables must be there (`migrate`). On SQLite this process becomes the database's owner, and
    whatever an earlier owner held when it died is returned.
    """
    clock = clock or SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        database = make_database(settings, clock, owner=True)
        await database.open()
        stack.push_async_callback(database.close)
        wakeups = make_wakeups(settings, database, listen=listen)
        await wakeups.open()
        stack.push_async_callback(wakeups.close)
        waker = Waker(database, wakeups)
        stack.push_async_callback(waker.close)
        app = app or no_jobs()
        made = await services(settings, clock, database, stack, app)
        tell_private_targets(settings)
        tell_what_is_off(settings)
        # What jobs enqueue goes through this process's own database, which wakes its workers.
        app.bind(database)
        stack.callback(app.unbind)
        await database.unit(app.set_caps)
        for service in made:
            if service.prepare is not None:
                await database.unit(service.prepare)
        kinds = [kind for service in made for kind in service.kinds]
        if database.dialect == "sqlite":
            await release_all(database, kinds)
        worker = Worker(
            database,
            wakeups,
            waker,
            kinds,
            clock=clock,
            grace=settings.grace,
            isolate=_isolation(settings, app_path) if isolate else None,
        )
        periodic = [
            sweeper(database, waker, kinds, every=settings.sweep_interval, held=worker.held),
            gauges(database, kinds, every=GAUGES_EVERY),
            *_dead_letters(wakeups),
            *(task for service in made for task in service.periodic),
            *(_pruning(database, rule) for rule in retention_rules(made)),
        ]
        for callback in [waker.on_notes, _log_circuits, *_listeners(made)]:
            database.subscribe(callback)
        runtime = Runtime(
            settings,
            clock,
            database,
            wakeups,
            waker,
            tuple(made),
            worker,
            Scheduler(
                database,
                clock,
                periodic,
                group=_group(settings, app),
                alone=database.dialect == "sqlite",
            ),
        )
        stack.push_async_callback(runtime.close_tasks)
        yield runtime


def _group(settings: Settings, app: Penstock) -> str:
    """What this process looks after: its services, and the crons of its app."""
    return " ".join([*dict.fromkeys(("jobs", *running(settings))), *sorted(app.crons)])


async def _objects_failure(objects: Objects) -> str | None:
    try:
        async with asyncio.timeout(OBJECTS_CHECK):
            await asyncio.to_thread(objects.check)
    except StorageFull:
        return "there is no room for objects"
    except (StorageError, NotFound):  # no bucket of this name
        return "objects cannot be read or written"
    except TimeoutError:
        return f"no answer in {OBJECTS_CHECK:g} s"
    return None


def _dead_letters(wakeups: Wakeups) -> list[Periodic]:
    ask = getattr(wakeups, "dead_letters", None)  # of queues that have such
    return [] if ask is None else [dead_letters(ask, every=DEAD_LETTERS_EVERY)]


def retention_rules(services: Sequence[Service]) -> list[Rule]:
    """What is deleted when its time is over."""
    transitions = Rule("circuit transitions", batches(circuit.prune), circuit.prunable)
    return [*(rule for service in services for rule in service.retention), transitions]


def _pruning(database: Database, rule: Rule) -> Periodic:
    async def run() -> None:
        await retention.apply(database, rule)

    return Periodic(f"prune {rule.name}", rule.every, run)


@contextlib.asynccontextmanager
async def open_services(
    settings: Settings, *, app: Penstock | None = None
) -> AsyncIterator[tuple[Database, list[Service], Clock]]:
    """The services beside an owner that may run: for a child that handles one row."""
    clock = SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        database = make_database(settings, clock, owner=False)
        await database.open()
        stack.push_async_callback(database.close)
        # The app stays unbound: what the row enqueues is woken as any other process's is.
        made = await services(settings, clock, database, stack, app or no_jobs())
        for callback in [_log_circuits, *_listeners(made)]:
            database.subscribe(callback)
        yield database, made, clock


def load_app(path: str | None) -> Penstock | None:
    """The Penstock object that ``module:name`` names; SettingsError says what is wrong with it."""
    if path is None:
        return None
    from penstock.app import Penstock

    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise SettingsError(f"--app is {path!r}; expected MODULE:NAME such as shop.jobs:app")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and module_name.startswith(exc.name):
            raise SettingsError(f"--app: there is no module {module_name!r} here") from None
        raise
    found = getattr(module, name, None)
    if not isinstance(found, Penstock):
        raise SettingsError(f"--app: {path} is not a Penstock object")
    return found


def _listeners(services: Sequence[Service]) -> list[Callable[[Sequence[object]], None]]:
    return [service.on_notes for service in services if service.on_notes is not None]


def _oidc(settings: Settings) -> TokenVerifier | None:
    if settings.oidc_issuer is None or settings.oidc_audience is None:
        return None
    from penstock.api.oidc import OidcVerifier

    return OidcVerifier(
        settings.oidc_issuer,
        settings.oidc_audience,
        jwks_url=settings.oidc_jwks_url,
        account_claim=settings.oidc_account_claim,
        audience_claim=settings.oidc_audience_claim,
    )


def _limiter(settings: Settings) -> RateLimiter | None:
    if settings.rate_limit is None:
        return None
    from penstock.api.limits import RateLimiter

    return RateLimiter(settings.rate_limit, max(1, round(2 * settings.rate_limit)))


def _isolation(settings: Settings, app_path: str | None) -> Isolate:
    environment = dict(os.environ) | for_children(settings)
    arguments = ["run-claimed-row"]
    if app_path is not None:
        arguments += ["--app", app_path]
    return child_process(arguments, environment)


def _log_circuits(notes: Sequence[object]) -> None:
    for note in notes:
        if not isinstance(note, circuit.Changed):
            continue
        if note.state == "open":
            seconds = None if note.open_for is None else round(note.open_for, 1)
            log(CIRCUIT_OPENED, lane=note.lane, reason=note.reason, seconds=seconds)
        elif note.state == "half_open":
            log(CIRCUIT_HALF_OPENED, lane=note.lane)
        else:
            log(CIRCUIT_CLOSED, lane=note.lane, reason=note.reason)

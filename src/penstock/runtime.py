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
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from penstock._version import __version__
from penstock.clock import Clock, SystemClock
from penstock.errors import NotFound, SchemaNewer, SettingsError, StorageError, StorageFull
from penstock.settings import Settings, load_secret_keys
from penstock.storage import Database, doomed, retention
from penstock.storage.lock import lock_of
from penstock.storage.objects import Objects
from penstock.storage.retention import Rule, batches
from penstock.storage.sqlite import SqliteDatabase
from penstock.telemetry import (
    CIRCUIT_CLOSED,
    CIRCUIT_HALF_OPENED,
    CIRCUIT_OPENED,
    MIGRATION_APPLIED,
    SCHEMA_NEWER,
    log,
)
from penstock.wiring import (
    Service,
    for_children,
    make_objects,
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
from penstock.work.wakeups.local import LocalWakeups
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
PATIENCE = 3.0  # seconds that another process may take to let go of the data folder
# The kinds of work of each service: who has a queue of its own sends them there.
KINDS = {
    "jobs": ("job",),
    "events": ("delivery", "fanout", "replay"),
    "tracking": ("shipment_check", "shipment_import"),
    "predictions": ("prediction", "model_training"),
}


def migrate(settings: Settings) -> tuple[str | None, str]:
    """Bring the tables up to date; answers the revisions before and after.

    An SQLite file is copied first, to ``penstock.db.<revision>.<time>.bak`` beside it. Blocks.
    """
    from penstock.storage import migrate as schema

    head = schema.head()
    if settings.database_url is not None:
        url = settings.database_url.get_secret_value()
        return _upgrade(url, schema.current(url), head, None)
    make_data_dir(settings)
    path = settings.sqlite_path
    lock = lock_of(path)
    # A command that was run at the same time may be making the tables: it ends by itself.
    lock.acquire(PATIENCE)
    try:
        before = schema.current(path)
        backup = _backup(path, before) if before is not None and before != head else None
        return _upgrade(path, before, head, backup)
    finally:
        lock.release()


def make_data_dir(settings: Settings) -> None:
    """Make the data folder if it is not there; SettingsError if it cannot be one."""
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise SettingsError(
            f"PENSTOCK_DATA_DIR is {str(settings.data_dir)!r}, which cannot be made a folder:"
            f" {exc.strerror}"
        ) from exc


def _upgrade(
    target: str | Path, before: str | None, head: str, backup: str | None
) -> tuple[str | None, str]:
    from penstock.storage import migrate as schema

    if before != head:
        schema.upgrade(target)
        log(MIGRATION_APPLIED, from_revision=before, to_revision=head, backup=backup)
    return before, head


def check_migrated(settings: Settings, *, or_newer: bool = False) -> None:
    """SettingsError unless the database has the tables of this version. Blocks.

    With `or_newer`, those of a version that this one does not know will do: a migration only adds,
    so that the version before works on, and can be gone back to.
    """
    from penstock.storage import migrate as schema

    url = settings.database_url
    target = settings.sqlite_path if url is None else url.get_secret_value()
    head = schema.head()
    try:
        found = schema.current(target)
    except SchemaNewer as exc:
        if not or_newer:
            raise
        log(SCHEMA_NEWER, known=head, error=str(exc))
        return
    if found != head:
        raise SettingsError(
            f"the database is at schema {found or 'none'}, this version needs {head}:"
            " run `penstock migrate` first"
        )


def _backup(path: Path, revision: str) -> str:
    from penstock.storage.sqlite import backup

    target = path.with_name(f"{path.name}.{revision}.{datetime.now(UTC):%Y%m%dT%H%M%S}.bak")
    backup(path, target)
    shutil.copymode(path, target)
    return str(target)


def make_database(settings: Settings, clock: Clock, *, owner: bool) -> Database:
    """The database that the settings name, not yet open."""
    if settings.database_url is None:
        make_data_dir(settings)
        return SqliteDatabase(settings.sqlite_path, clock, owner=owner, patience=PATIENCE)
    try:
        from penstock.storage.postgres import PostgresDatabase
    except ImportError:
        raise SettingsError(
            "PENSTOCK_DATABASE_URL needs psycopg: pip install 'penstock[postgres]'"
        ) from None
    return PostgresDatabase(
        settings.database_url.get_secret_value(),
        clock,
        threads=settings.database_threads,
        prepare=settings.database_prepare,
    )


def make_wakeups(settings: Settings, database: Database, *, listen: bool = True) -> Wakeups:
    """The wake-ups that fit the database, unless a setting says otherwise.

    With `listen=False` the process only tells others, if there may be others.
    """
    if isinstance(database, SqliteDatabase):
        return LocalWakeups(watch=_others_committed(database))
    if settings.wakeups == "local":
        return LocalWakeups()
    if settings.wakeups == "sqs":
        return _sqs_wakeups(settings, listen=listen)
    from penstock.work.wakeups.postgres import PostgresWakeups

    assert settings.database_url is not None
    return PostgresWakeups(settings.database_url.get_secret_value(), listen=listen)


def queues(settings: Settings) -> dict[str, str]:
    """The URL of the SQS queue for each kind of work that the settings' services have."""
    found: dict[str, str] = {}
    for service in dict.fromkeys(("jobs", *running(settings))):
        if service not in settings.sqs_queues:
            raise SettingsError(
                f"PENSTOCK_SQS_{service.upper()}_QUEUE_URL is missing: PENSTOCK_WAKEUPS is sqs,"
                f" and this process has the service {service}"
            )
        found |= dict.fromkeys(KINDS[service], settings.sqs_queues[service])
    return found


def _sqs_wakeups(settings: Settings, *, listen: bool) -> Wakeups:
    from penstock.work.wakeups.sqs import SqsWakeups

    return SqsWakeups(
        queues(settings),
        region=settings.aws_region,
        endpoint_url=settings.aws_endpoint_url,
        listen=listen,
    )


def _others_committed(database: SqliteDatabase) -> Callable[[], Awaitable[bool]]:
    seen: list[int] = []

    async def changed() -> bool:
        try:
            version = await database.data_version()
        except StorageError:
            return False
        # The first call says yes: somebody may have committed since the worker's first look.
        new = not seen or seen[0] != version
        seen[:] = [version]
        return new

    return changed


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
            *(_pruning(database, rule) for rule in _retention(made)),
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


def _retention(services: Sequence[Service]) -> list[Rule]:
    transitions = Rule("circuit transitions", batches(circuit.prune), circuit.prunable)
    return [*(rule for service in services for rule in service.retention), transitions]


def _pruning(database: Database, rule: Rule) -> Periodic:
    async def run() -> None:
        await retention.apply(database, rule)

    return Periodic(f"prune {rule.name}", rule.every, run)


async def prune(settings: Settings, *, dry_run: bool) -> dict[str, int]:
    """Delete what is past its time, or count it; answers how many, by rule."""
    await asyncio.to_thread(check_migrated, settings)
    async with open_services(settings) as (database, made, _):
        rules = _retention(made)
        if dry_run:
            return {rule.name: await database.read(rule.count) for rule in rules}
        pruned = {rule.name: await retention.apply(database, rule) for rule in rules}
        await doomed.sweep(database, make_objects(settings))
        return pruned


async def erase(settings: Settings, account: str, *, dry_run: bool) -> dict[str, int]:
    """Delete every row of an account, or count them; answers how many, by table."""
    await asyncio.to_thread(check_migrated, settings)
    database = make_database(settings, SystemClock(), owner=False)
    await database.open()
    try:
        if dry_run:
            return await database.read(lambda tx: retention.count(tx, account))
        erased = await retention.erase(database, account)
        await doomed.sweep(database, make_objects(settings))
        return erased
    finally:
        await database.close()


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

"""A process of Penstock from its start to its end: signals, the listening socket, run.json."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

import uvicorn

from penstock import __version__, ecs, runfile
from penstock.api.connection import Connection
from penstock.backends import make_data_dir
from penstock.errors import SettingsError
from penstock.runfile import RunFile
from penstock.runtime import Runtime, load_app, open_runtime
from penstock.schema import check_migrated, migrate
from penstock.settings import Settings
from penstock.telemetry import (
    SCHEDULER_STARTED,
    SERVER_STARTED,
    SERVER_STOPPED,
    WORKER_STARTUP,
    configure_logging,
    log,
    metrics,
    metrics_to_cloudwatch,
)
from penstock.wiring import is_loopback, listening_nowhere, running
from penstock.work.kinds import Claim

if TYPE_CHECKING:
    from fastapi import FastAPI

PORTS_TRIED = 20
# Seconds that a connection may be idle between two requests: longer than those who connect keep it
# (load balancers and reverse proxies: 60), or a request would meet its end and get no answer.
KEEP_ALIVE = 75
METRICS_EVERY = 60.0  # seconds; CloudWatch keeps figures by the minute
# Seconds after which a thread that waits for the interpreter gets it (Python's default is 5 ms).
# The database's threads ask for it between any two statements, and requests wait for them.
SWITCH_INTERVAL = 0.0005
# What runs beside the server once it listens; ended when the server stops, which stops if it fails.
Companion = Callable[[Runtime, RunFile], Coroutine[Any, Any, None]]


async def _nothing(runtime: Runtime, run_file: RunFile) -> None:
    await asyncio.Event().wait()


def run(main: Callable[[], Coroutine[Any, Any, int]]) -> None:
    """Run `main` on a fast event loop and exit with its code."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:  # Windows has none
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        code = runner.run(main())
    sys.exit(code)


async def up(
    settings: Settings,
    *,
    app_path: str | None = None,
    announce: Callable[[str], None] = lambda line: None,
    companion: Companion = _nothing,
    working: bool = True,
) -> int:
    """Everything in one process: API, workers, scheduler. Returns at SIGTERM or SIGINT.

    Without `working` it is the API alone: others work, which takes PostgreSQL.
    """
    configure_logging(settings.log_level, settings.log_format)
    app = load_app(app_path)
    make_data_dir(settings)  # for run.json, whatever the database
    if working:
        await asyncio.to_thread(migrate, settings)
    else:
        _among_others(settings, "api")
        await asyncio.to_thread(check_migrated, settings, or_newer=True)
    async with (
        _metrics_sent(settings),
        open_runtime(settings, app=app, app_path=app_path, listen=working) as runtime,
    ):
        with listen(settings) as listening:
            stopping = _signals()
            began = runtime.clock.monotonic()
            run_file = RunFile(os.getpid(), _url(listening), runfile.new_token())
            http = HttpServer(runtime.http(run_file.token), settings.grace)
            serving = asyncio.create_task(http.serve(sockets=[listening]), name="http")
            await _first(serving, asyncio.create_task(http.listening.wait()))
            _keep_what_start_up_made()
            waiting = asyncio.create_task(stopping.wait())
            worker: asyncio.Task[Any] = runtime.start() if working else waiting
            with runfile.written(settings.data_dir, run_file):
                log(
                    SERVER_STARTED,
                    url=run_file.url,
                    database=runtime.database.dialect,
                    data_dir=str(settings.data_dir),
                    services=list(running(settings)),
                    version=__version__,
                    seconds=round(runtime.clock.monotonic() - began, 3),
                )
                announce(f"Penstock {__version__} runs at {run_file.url}")
                if is_loopback(settings.host):
                    announce(f"Sign in (once, within ten minutes): {run_file.url}{link(runtime)}")
                beside = asyncio.create_task(companion(runtime, run_file))
                await _first(waiting, worker, serving, beside)
                beside.cancel()
                http.should_exit = True
                runtime.stop()
                results = await asyncio.gather(worker, serving, beside, return_exceptions=True)
            log(SERVER_STOPPED, uptime=round(runtime.clock.monotonic() - began, 3))
            for result in results:
                if isinstance(result, Exception):
                    raise result
    return 0


async def work(settings: Settings, *, app_path: str | None = None) -> int:
    """Workers and scheduler, no API. Returns at SIGTERM or SIGINT."""
    settings = listening_nowhere(settings)
    configure_logging(settings.log_level, settings.log_format)
    app = load_app(app_path)
    if settings.database_url is None:
        await asyncio.to_thread(migrate, settings)
    else:
        await asyncio.to_thread(check_migrated, settings, or_newer=True)
    async with (
        _metrics_sent(settings),
        open_runtime(settings, app=app, app_path=app_path) as runtime,
    ):
        stopping = _signals()
        log(
            WORKER_STARTUP,
            kinds=list(runtime.worker.lines),
            slots={name: line.kind.slots for name, line in runtime.worker.lines.items()},
            database=runtime.database.dialect,
            wakeups=type(runtime.wakeups).__name__,
        )
        _keep_what_start_up_made()
        worker = runtime.start()
        async with _spared(runtime):
            await _first(asyncio.create_task(stopping.wait()), worker)
            runtime.stop()
            await worker
    return 0


@contextlib.asynccontextmanager
async def _spared(runtime: Runtime) -> AsyncIterator[None]:
    """As a task of Amazon ECS, be spared while something runs for long."""
    uri = ecs.agent()
    if uri is None:
        yield
        return
    lines = runtime.worker.lines.values()
    held = lambda: [row for line in lines for row in line.held]  # noqa: E731
    protecting = asyncio.create_task(ecs.protect(uri, held, runtime.clock), name="protection")
    try:
        yield
    finally:
        protecting.cancel()
        await asyncio.wait([protecting])


async def schedule(settings: Settings, *, app_path: str | None = None) -> int:
    """The scheduler alone; others work, which takes PostgreSQL. Returns at SIGTERM or SIGINT."""
    settings = listening_nowhere(settings)
    configure_logging(settings.log_level, settings.log_format)
    _among_others(settings, "scheduler")
    app = load_app(app_path)
    await asyncio.to_thread(check_migrated, settings, or_newer=True)
    async with (
        _metrics_sent(settings),
        open_runtime(settings, app=app, app_path=app_path, listen=False) as runtime,
    ):
        stopping = _signals()
        began = runtime.clock.monotonic()
        scheduling = runtime.start_scheduler()
        log(
            SCHEDULER_STARTED,
            tasks=[task.name for task in runtime.scheduler.tasks],
            database=runtime.database.dialect,
        )
        _keep_what_start_up_made()
        await _first(asyncio.create_task(stopping.wait()), scheduling)
        log(SERVER_STOPPED, uptime=round(runtime.clock.monotonic() - began, 3))
        if scheduling.done():
            scheduling.result()
    return 0


def _among_others(settings: Settings, command: str) -> None:
    """SettingsError on SQLite, whose one process does everything."""
    if settings.database_url is None:
        raise SettingsError(
            f"`penstock {command}` works beside other processes, which takes PostgreSQL: set"
            " PENSTOCK_DATABASE_URL; with SQLite, `penstock up` does everything"
        )


async def run_claimed_row(settings: Settings, claim: Claim, *, app_path: str | None) -> int:
    """The child's part of isolation: one row, settled by this process."""
    from penstock.runtime import open_services
    from penstock.work.isolate import run_one

    configure_logging(settings.log_level, settings.log_format)
    async with (
        _metrics_sent(settings),
        open_services(settings, app=load_app(app_path)) as (database, services, clock),
    ):
        for service in services:
            for kind in service.kinds:
                if kind.name == claim.kind:
                    settled = await run_one(database, kind, claim, clock)
                    return 0 if settled else 1
    return 1


@contextlib.asynccontextmanager
async def _metrics_sent(settings: Settings) -> AsyncIterator[None]:
    """While this is open, figures go to CloudWatch now and then, and once more at its end."""
    if settings.metrics != "emf":
        yield
        return
    emf = metrics_to_cloudwatch(settings.metrics_namespace)

    async def now_and_then() -> None:
        while True:
            await asyncio.sleep(METRICS_EVERY)
            emf.flush()

    flushing = asyncio.create_task(now_and_then(), name="metrics")
    try:
        yield
    finally:
        flushing.cancel()
        await asyncio.wait([flushing])
        metrics.send_to(None)
        emf.flush()


def link(runtime: Runtime) -> str:
    """The address, below the server's, of a new one-time sign-in link."""
    from penstock.console.pages_sign_in import link_path

    return link_path(runtime.console())


def _keep_what_start_up_made() -> None:
    """Take modules, routes and models out of the garbage collector's sight.

    They live as long as the process; going through them again and again would hold up every
    request for some 80 ms each time.
    """
    gc.collect()
    gc.freeze()


@contextlib.contextmanager
def listen(settings: Settings) -> Iterator[socket.socket]:
    """A listening socket on the wanted port, or the next free one."""
    wanted = settings.port
    ports = range(wanted, min(wanted + PORTS_TRIED, 65536)) if wanted else [0]
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    for port in ports:
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((settings.host, port))
            listening.listen(2048)
        except OSError as exc:
            listening.close()
            if port == ports[-1] or exc.errno != errno.EADDRINUSE:
                raise SettingsError(
                    f"cannot listen on {settings.host}:{port}: {exc.strerror}; choose another"
                    " with --host and --port"
                ) from None
            continue
        with listening:
            yield listening
        return


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - read, not bound
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class HttpServer(uvicorn.Server):
    """uvicorn, without its own signal handling: this module stops it."""

    def __init__(self, app: FastAPI, grace: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
                timeout_graceful_shutdown=max(1, int(grace)),
                timeout_keep_alive=KEEP_ALIVE,
            )
        )
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self.listening.set()


def _signals() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; the second ends the process at once.

    Nothing is lost by that either: what was held is returned at the next start.
    """
    stopping = asyncio.Event()

    def stop() -> None:
        if stopping.is_set():
            os._exit(1)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    return stopping


async def _first(*tasks: asyncio.Task[Any]) -> None:
    """Return when the first of these has ended."""
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

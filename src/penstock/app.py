"""`Penstock`: where a program declares its jobs and enqueues them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, overload

from penstock._beside import Beside
from penstock.clock import Clock, SystemClock
from penstock.errors import JobError, UnknownJob
from penstock.jobs.arguments import Arguments, frame_locals
from penstock.jobs.cron import Cron, cron, cron_tick
from penstock.jobs.handle import JobHandle, Units
from penstock.jobs.job import (
    Call,
    Job,
    enqueue_many,
    enqueue_many_in,
    enqueue_many_sync,
)
from penstock.jobs.options import Duration, Errors, job_options
from penstock.jobs.store import set_caps
from penstock.work.backoff import Backoff

if TYPE_CHECKING:
    from penstock.settings import Settings
    from penstock.storage import Database, Tx

P = ParamSpec("P")
R = TypeVar("R")


class Penstock:
    """The jobs of a program, and the database they are enqueued in.

    ::

        app = Penstock()

        @app.job(timeout="2m")
        async def resize(image_id: int, width: int = 800) -> str: ...

        handle = await resize.enqueue(42, width=400)
        print(await handle.result(timeout=60))

    The database is the one that the settings name (``PENSTOCK_DATA_DIR`` or
    ``PENSTOCK_DATABASE_URL``); it is opened at the first enqueue, from any thread or event
    loop, and closed by `close` or ``async with app``. In ``penstock worker -A module:app``
    it is the worker's. `account` owns the jobs that are not enqueued by other jobs.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        account: str = "default",
        clock: Clock | None = None,
    ) -> None:
        self.account = account
        self.clock: Clock = clock or SystemClock()
        self.jobs: dict[str, Job[..., Any]] = {}
        self.crons: dict[str, Cron] = {}
        self._settings = settings
        self._bound: Units | None = None
        self._beside: Beside | None = None
        self._opening = threading.Lock()

    # ------------------------------------------------------------------ declaring

    @overload
    def job(self, function: Callable[P, Awaitable[R]], /) -> Job[P, R]: ...
    @overload
    def job(self, function: Callable[P, R], /) -> Job[P, R]: ...
    @overload
    def job(
        self,
        /,
        *,
        name: str | None = None,
        retries: int = 7,
        timeout: Duration = 300.0,
        concurrency: int | None = None,
        process: bool = False,
        lane: str | None = None,
        backoff: Backoff | Sequence[Duration] | None = None,
        retry_on: Errors | None = None,
        dead_on: Errors = (),
    ) -> JobDecorator: ...
    def job(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        retries: int = 7,
        timeout: Duration = 300.0,
        concurrency: int | None = None,
        process: bool = False,
        lane: str | None = None,
        backoff: Backoff | Sequence[Duration] | None = None,
        retry_on: Errors | None = None,
        dead_on: Errors = (),
    ) -> Any:
        """Make a job of an async or plain function; as ``@app.job`` or ``@app.job(…)``.

        `name`: under which its rows are stored, by default the function's; keep it when the
        function is renamed, or what is enqueued finds no function.
        `retries`: how often it is tried again after a failure (a raised exception, a
        timeout, a returned `Retry`), after 30 s doubling to 1 h, jittered; or as `backoff`
        says: a list of waits, the last of which repeats, or a function of the number of
        failed attempts that answers seconds or None to give up.
        `timeout`: of one attempt. A coroutine is cancelled and a process killed; a thread
        cannot be stopped, it runs on while the job is already tried again.
        `concurrency`: how many run at once in all workers together (in each lane, where
        lanes are given); by default 16, with `process` the number of cores.
        `process`: run in a process of a pool, for what computes or must be stoppable.
        `lane`: the lane of calls that name none.
        `retry_on`, `dead_on`: errors after which the job is tried again, or dead at once;
        without `retry_on` all but those of `dead_on` are tried again. A timeout always is.
        """

        def decorate(function: Callable[..., Any]) -> Job[..., Any]:
            options = job_options(
                function.__name__ if name is None else name,
                retries=retries,
                timeout=timeout,
                concurrency=concurrency,
                process=process,
                lane=lane,
                backoff=backoff,
                retry_on=retry_on,
                dead_on=dead_on,
            )
            earlier = self.jobs.get(options.name)
            if earlier is not None:
                raise JobError(
                    f"two jobs are named {options.name!r}: {_where(earlier.function)} and"
                    f" {_where(function)}; give one of them another name="
                )
            arguments = Arguments(function, frame_locals(function))
            job: Job[..., Any] = Job(function, options, self, arguments)
            self.jobs[options.name] = job
            return job

        return decorate if function is None else decorate(function)

    def cron(self, schedule: str, *, tz: str = "UTC", name: str | None = None) -> CronDecorator:
        """Enqueue a function by the clock: ``@app.cron("0 * * * *")``.

        The function takes no arguments that must be given. It becomes a job, unless
        ``@app.job(…)`` below this one made it one already. A time that is missed while no
        scheduler runs is made up for once. `name` tells several schedules of one job apart.
        """

        def decorate(function: Callable[..., Any]) -> Job[..., Any]:
            job = function if isinstance(function, Job) else self.job(function)
            found = cron(name or job.name, schedule, tz, job)
            if found.name in self.crons:
                raise JobError(f"two schedules are named {found.name!r}; give one another name=")
            self.crons[found.name] = found
            return job

        return decorate  # type: ignore[return-value]

    # ------------------------------------------------------------------ enqueueing

    async def enqueue_many(self, calls: Iterable[Call[Any]]) -> list[JobHandle[Any]]:
        """Store calls of any jobs, made by `job.call(…)`, in one transaction."""
        return await enqueue_many(self, calls)

    def enqueue_many_sync(self, calls: Iterable[Call[Any]]) -> list[JobHandle[Any]]:
        """As `enqueue_many`, without an event loop."""
        return enqueue_many_sync(self, calls)

    def enqueue_many_in(self, connection: Any, calls: Iterable[Call[Any]]) -> list[JobHandle[Any]]:
        """As `enqueue_many`, in the caller's own transaction (see `Job.enqueue_in`)."""
        return enqueue_many_in(self, connection, calls)

    def handle(self, job_id: str) -> JobHandle[Any]:
        """The handle of a job that was enqueued before, by its id."""
        return JobHandle(job_id, self)

    def get(self, name: str) -> Job[..., Any]:
        """The job of that name. Raises UnknownJob."""
        try:
            return self.jobs[name]
        except KeyError:
            raise UnknownJob(f"there is no job named {name!r}") from None

    # ------------------------------------------------------------------ for the worker

    def cron_tick(self, tx: Tx) -> int:
        """Enqueue what is due by the clock, once each; answers how many jobs that was."""
        return cron_tick(tx, self.crons.values())

    def set_caps(self, tx: Tx) -> None:
        """Bring existing lanes to the concurrency that the jobs are declared with now."""
        for job in self.jobs.values():
            set_caps(tx, job.name, job.settings.concurrency)

    # ------------------------------------------------------------------ the database

    @property
    def units(self) -> Units:
        """The database: the one that is bound, else this process's own, opened now."""
        if self._bound is not None:
            return self._bound
        if self._beside is None:
            with self._opening:
                if self._beside is None:
                    self._beside = Beside.open(self._settings, self.clock)
        return self._beside

    async def ready(self) -> Units:
        """As `units`; opening does not hold up the event loop."""
        if self._bound is not None:
            return self._bound
        if self._beside is not None:
            return self._beside
        return await asyncio.to_thread(lambda: self.units)

    def bind(self, database: Database) -> None:
        """Enqueue in `database`, whose owner publishes the wakes (the worker does this)."""
        self._bound = database

    def unbind(self) -> None:
        """Undo `bind`."""
        self._bound = None

    def close_sync(self) -> None:
        """Close what this app opened itself; the next enqueue opens it again."""
        with self._opening:
            beside, self._beside = self._beside, None
        if beside is not None:
            beside.close()

    async def close(self) -> None:
        """As `close_sync`, without holding up the event loop."""
        await asyncio.to_thread(self.close_sync)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<Penstock with {len(self.jobs)} jobs>"


if TYPE_CHECKING:
    from typing import Protocol

    class JobDecorator(Protocol):
        """What `@app.job(…)` is."""

        @overload
        def __call__(self, function: Callable[P, Awaitable[R]], /) -> Job[P, R]: ...
        @overload
        def __call__(self, function: Callable[P, R], /) -> Job[P, R]: ...

    class CronDecorator(Protocol):
        """What `@app.cron(…)` is."""

        @overload
        def __call__(self, function: Job[P, R], /) -> Job[P, R]: ...  # type: ignore[overload-overlap]
        @overload
        def __call__(self, function: Callable[[], Awaitable[R]], /) -> Job[[], R]: ...
        @overload
        def __call__(self, function: Callable[[], R], /) -> Job[[], R]: ...


def _where(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"

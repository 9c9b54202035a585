"""Run an app's jobs in a test: a database of its own, and a clock that you move.

::

    from penstock import testing
    from shop.jobs import app, send_invoice

    async def test_invoice_is_sent_again_after_a_failure():
        async with testing.run(app) as t:
            await send_invoice.enqueue(42, delay="10m")
            await t.advance("10m")              # it fails once ...
            assert [job.status for job in t.jobs()] == ["pending"]
            await t.advance("1m")               # ... and is tried again after 30 s or so
            assert [job.status for job in t.jobs()] == ["succeeded"]

Nothing runs by itself: jobs run inside `run_until_idle` and `advance`, in the order in
which they come due, with the real rules for retries, keys, lanes and schedules. Timeouts
are the exception: they are measured by the real clock.
"""

from __future__ import annotations

import asyncio
import functools
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from penstock import durations
from penstock.app import Penstock
from penstock.clock import SECOND, ManualClock, to_datetime
from penstock.jobs import JobRunner, job_kind, next_tick
from penstock.jobs.options import Duration
from penstock.jobs.store import Status
from penstock.storage import Tx, sql
from penstock.storage.sqlite import SqliteDatabase
from penstock.work import lanes, ledger
from penstock.work.kinds import Claim, Task
from penstock.work.settlement import decide

RUNS = 10_000  # in one `run_until_idle`: a job that asks to run again at once never ends


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A job as it is stored. `due` is None when nothing is owed."""

    id: str
    name: str
    args: dict[str, Any]
    status: Status
    attempts: int
    key: str | None
    lane: str
    due: datetime | None
    last_error: str | None
    result: Any


class Testing:
    """What `run` gives: the clock, the jobs, and ways to let time pass."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    def __init__(self, app: Penstock, database: SqliteDatabase, clock: ManualClock) -> None:
        self.app = app
        self.clock = clock
        self._database = database
        self._runner = JobRunner(app.jobs)
        self._kind = job_kind(self._runner)

    @property
    def now(self) -> datetime:
        """The test's time."""
        return to_datetime(self.clock.now())

    def jobs(self, name: str | None = None) -> list[JobInfo]:
        """All jobs in the order they were enqueued, or those of one name."""
        rows = self._database.unit_sync(lambda tx: tx.rows(_JOBS))
        return [_info(row) for row in rows if name is None or row[1] == name]

    async def run_until_idle(self) -> int:
        """Run everything that is due now, and what that enqueues; answers how many runs."""
        runs = 0
        while claims := await self._claim():
            runs += len(claims)
            if runs > RUNS:
                raise RuntimeError(f"still not idle after {RUNS} runs")
            await self._run(claims)
        return runs

    async def advance(self, duration: Duration) -> int:
        """Let time pass, running what comes due when it does; answers how many runs."""
        end = self.clock.now() + round(durations.seconds(duration) * SECOND)
        runs = 0
        while True:
            await self._database.unit(self.app.cron_tick)
            runs += await self.run_until_idle()
            due = await self._database.read(self._next_due)
            now = self.clock.now()
            if due is None or due > end:
                self.clock.advance((end - now) / SECOND)
                return runs
            self.clock.advance(max(1, due - now) / SECOND)

    async def _claim(self) -> list[tuple[Claim, Any]]:
        def take(tx: Tx) -> list[tuple[Claim, Any]]:
            named = lanes.waiting(tx, self._kind.table)
            claims = ledger.claim(tx, self._kind, self._kind.slots, named).claims
            loaded = self._kind.load(tx, claims)
            return [(claim, loaded[claim.id]) for claim in claims]

        return await self._database.unit(take)

    async def _run(self, claims: list[tuple[Claim, Any]]) -> None:
        kind = self._kind
        outcomes = await asyncio.gather(
            *(kind.handle(Task(claim, data, kind.timeout)) for claim, data in claims)
        )
        now = self.clock.now()
        settlements = [
            decide(kind, claim, outcome, now)
            for (claim, _), outcome in zip(claims, outcomes, strict=True)
        ]
        await self._database.unit(lambda tx: ledger.settle(tx, kind, settlements))

    def _next_due(self, tx: Tx) -> int | None:
        row = tx.one(_NEXT)
        found = [us for us in (row and row[0], next_tick(tx, self.app.crons.values())) if us]
        return min(found, default=None)

    async def _close(self) -> None:
        await self._runner.close()


@asynccontextmanager
async def run(app: Penstock, *, start: datetime | None = None) -> AsyncIterator[Testing]:
    """Bind `app` to an empty database in a temporary folder, with the time standing still.

    The time is 2026-01-01T00:00Z, or `start` (aware).
    """
    clock = ManualClock() if start is None else ManualClock(round(start.timestamp() * SECOND))
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        path = Path(folder, "penstock.db")
        await asyncio.to_thread(path.write_bytes, _empty())
        database = SqliteDatabase(path, clock)
        await database.open()
        app.bind(database)
        testing = Testing(app, database, clock)
        try:
            await database.unit(app.cron_tick)  # from now on schedules count
            yield testing
        finally:
            app.unbind()
            await testing._close()
            await database.close()


class SyncTesting:
    """As `Testing`, for tests without an event loop."""

    __test__ = False

    def __init__(self, testing: Testing, runner: asyncio.Runner) -> None:
        self._testing = testing
        self._runner = runner
        self.app = testing.app
        self.clock = testing.clock
        self.jobs = testing.jobs

    @property
    def now(self) -> datetime:
        """The test's time."""
        return self._testing.now

    def run_until_idle(self) -> int:
        """As `Testing.run_until_idle`."""
        return self._runner.run(self._testing.run_until_idle())

    def advance(self, duration: Duration) -> int:
        """As `Testing.advance`."""
        return self._runner.run(self._testing.advance(duration))


@contextmanager
def run_sync(app: Penstock, *, start: datetime | None = None) -> Iterator[SyncTesting]:
    """As `run`, for tests that enqueue with `enqueue_sync`."""
    with asyncio.Runner() as runner:
        context = run(app, start=start)
        testing = runner.run(_enter(context))
        try:
            yield SyncTesting(testing, runner)
        finally:
            runner.run(_leave(context))


async def _enter(context: Any) -> Testing:
    testing: Testing = await context.__aenter__()
    return testing


async def _leave(context: Any) -> None:
    await context.__aexit__(None, None, None)


@functools.cache
def _empty() -> bytes:
    """A database with all tables and no rows, as a file's contents."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    from penstock.storage.tables import metadata

    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        path = Path(folder, "empty.db")
        engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
        metadata.create_all(engine)
        engine.dispose()
        return path.read_bytes()


_JOBS = sql("""
SELECT id, name, args, status, lease_until, attempts, key, lane, due_at, last_error, result
FROM jobs ORDER BY id
""")
_NEXT = sql("SELECT min(due_at) FROM jobs WHERE due_at IS NOT NULL AND lease_until IS NULL")


def _info(row: tuple[Any, ...]) -> JobInfo:
    id_, name, args, status, lease_until, attempts, key, lane, due_at, last_error, result = row
    return JobInfo(
        id=id_,
        name=name,
        args=json.loads(args),
        status="running" if status == "pending" and lease_until is not None else status,
        attempts=attempts,
        key=key,
        lane=lane,
        due=None if due_at is None else to_datetime(due_at),
        last_error=last_error,
        result=None if result is None else json.loads(result),
    )

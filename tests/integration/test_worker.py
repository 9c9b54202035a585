"""The worker as it runs: real loops, real time, a real database."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from penstock.clock import SECOND, Clock, ManualClock, SystemClock
from penstock.errors import StorageUnavailable
from penstock.storage import Database, Tx, sql
from penstock.storage.postgres import PostgresDatabase
from penstock.storage.sqlite import SqliteDatabase
from penstock.work import lanes, ledger, line
from penstock.work.kinds import Claim, Kind, Task
from penstock.work.line import SHARE_EVERY, Isolate
from penstock.work.outcomes import Dead, Done, Later, Outcome, Postpone, Retry
from penstock.work.waker import Waker
from penstock.work.wakeups import Wake, Wakeups
from penstock.work.wakeups.local import LocalWakeups
from penstock.work.wakeups.postgres import PostgresWakeups
from penstock.work.worker import Summary, Worker

pytestmark = pytest.mark.anyio

INSERT = sql("""
INSERT INTO jobs (id, account, name, args, status, created_at, lane, due_at)
VALUES (:id, 'a', 'n', :args, 'pending', {now}, :lane, {now} + :delay)
""")
LOAD = sql("SELECT id, args FROM jobs WHERE id {in:ids}")
ROWS = sql("SELECT id, status, due_at, lease_until, attempts, lapses, last_error FROM jobs")
HELD = sql("SELECT count(*) FROM jobs WHERE lane = :lane AND lease_until IS NOT NULL")
RESULT = sql("UPDATE jobs SET result = :result WHERE id = :id")

Handle = Callable[[Task[Any]], Awaitable[Outcome]]


@dataclass(frozen=True)
class Row:
    status: str
    due_at: int | None
    lease_until: int | None
    attempts: int
    lapses: int
    last_error: str | None


def _load(tx: Tx, claims: Any) -> dict[str, Any]:
    rows = tx.rows(LOAD, ids=[claim.id for claim in claims])
    return {id_: json.loads(args) for id_, args in rows}


def job_kind(handle: Handle, **options: Any) -> Kind[Any]:
    defaults: dict[str, Any] = {
        "load": _load,
        "done": "succeeded",
        "terminal": frozenset({"succeeded", "dead", "cancelled"}),
        "backoff": lambda n: 0.05 if n < 3 else None,
    }
    return Kind("job", "jobs", handle=handle, **(defaults | options))


class Flaky:
    """A database that can be made unreachable, slow, and counts its calls."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.down = False
        self.delay: Callable[[], float] = lambda: 0.0
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def _call(self, call: Callable[..., Awaitable[Any]], fn: Any) -> Any:
        self.calls += 1
        if delay := self.delay():
            await asyncio.sleep(delay)
        if self.down:
            raise StorageUnavailable("the database went for lunch")
        result = await call(fn)
        if delay := self.delay():
            await asyncio.sleep(delay)
        return result

    async def unit(self, fn: Any) -> Any:
        return await self._call(self._database.unit, fn)

    async def read(self, fn: Any) -> Any:
        return await self._call(self._database.read, fn)


@dataclass
class House:
    """Everything one process has."""

    database: Any
    wakeups: Wakeups
    waker: Waker
    workers: list[Worker] = field(default_factory=list)

    async def lane(self, id_: str = "l", cap: int = 100, **options: Any) -> None:
        await self.database.unit(
            lambda tx: lanes.ensure(tx, id_, kind="job", account="a", max_in_flight=cap, **options)
        )

    async def put(self, *ids: str, lane: str = "l", delay: float = 0.0, args: Any = None) -> None:
        def put(tx: Tx) -> None:
            for id_ in ids:
                us = int(delay * SECOND)
                tx.run(INSERT, id=id_, lane=lane, args=json.dumps(args), delay=us)
            lanes.wake(tx, "job", lane, delay)

        await self.database.unit(put)

    async def rows(self) -> dict[str, Row]:
        rows = await self.database.read(lambda tx: tx.rows(ROWS))
        return {row[0]: Row(*row[1:]) for row in rows}

    async def row(self, id_: str = "j") -> Row:
        return (await self.rows())[id_]

    async def until(
        self, condition: Callable[[dict[str, Row]], bool], seconds: float = 60.0
    ) -> dict[str, Row]:
        deadline = time.monotonic() + seconds
        while not condition(rows := await self.rows()):
            assert time.monotonic() < deadline, rows
            await asyncio.sleep(0.01)
        return rows

    async def until_done(self, seconds: float = 60.0) -> dict[str, Row]:
        return await self.until(
            lambda rows: all(row.status != "pending" for row in rows.values()), seconds
        )

    @asynccontextmanager
    async def working(
        self, kind: Kind[Any] | Handle, *, grace: float = 5.0, isolate: Isolate | None = None
    ) -> AsyncIterator[Working]:
        if not isinstance(kind, Kind):
            kind = job_kind(kind)
        worker = Worker(
            self.database,
            self.wakeups,
            self.waker,
            [kind],
            clock=SystemClock(),
            grace=grace,
            isolate=isolate,
        )
        running = Working(worker, asyncio.create_task(worker.run()))
        try:
            yield running
        finally:
            await running.stop()


@dataclass
class Working:
    worker: Worker
    run: asyncio.Task[Summary]

    async def until_free(self) -> None:
        """A slot is free a moment after its settlement is durable."""
        async with asyncio.timeout(60):
            while self.worker.held("job"):
                await asyncio.sleep(0.01)

    async def stop(self) -> Summary:
        self.worker.stop()
        async with asyncio.timeout(60):
            return await asyncio.shield(self.run)


@asynccontextmanager
async def sqlite_house(
    path: Path, wrap: Callable[[Any], Any] = lambda d: d, clock: Clock | None = None
) -> AsyncIterator[House]:
    database = SqliteDatabase(path, clock or SystemClock())
    await database.open()
    wakeups = LocalWakeups()
    await wakeups.open()
    wrapped = wrap(database)
    waker = Waker(wrapped, wakeups)
    database.subscribe(waker.on_notes)
    try:
        yield House(wrapped, wakeups, waker)
    finally:
        await waker.close()
        await wakeups.close()
        await database.close()


@asynccontextmanager
async def postgres_house(
    url: str, channel: str, wrap: Callable[[Any], Any] = lambda d: d
) -> AsyncIterator[House]:
    database = PostgresDatabase(url, SystemClock())
    await database.open()
    wakeups = PostgresWakeups(url, channel=channel, gap=0.02)
    await wakeups.open()
    wrapped = wrap(database)
    waker = Waker(wrapped, wakeups)
    database.subscribe(waker.on_notes)
    try:
        yield House(wrapped, wakeups, waker)
    finally:
        await waker.close()
        await wakeups.close()
        await database.close()


@pytest.fixture
async def house(sqlite_path: Path) -> AsyncIterator[House]:
    """SQLite and the wake-ups within this process; nothing sweeps."""
    async with sqlite_house(sqlite_path, Flaky) as opened:
        yield opened


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def any_house(request: pytest.FixtureRequest) -> AsyncIterator[House]:
    if request.param == "sqlite":
        async with sqlite_house(request.getfixturevalue("sqlite_path"), Flaky) as opened:
            yield opened
    else:
        url = request.getfixturevalue("postgres_database_url")
        async with postgres_house(url, f"c{uuid4().hex}", Flaky) as opened:
            yield opened


@pytest.fixture
async def houses(postgres_database_url: str) -> AsyncIterator[list[House]]:
    """Two processes, as far as the database can tell."""
    channel = f"c{uuid4().hex}"
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(postgres_house(postgres_database_url, channel))
            for _ in range(2)
        ]


async def succeed(task: Task[Any]) -> Outcome:
    return Done()


async def hang(task: Task[Any]) -> Outcome:
    await asyncio.sleep(3600)
    raise AssertionError


# --------------------------------------------------------------------------- doing the work


async def test_everything_that_is_put_is_done_once(any_house: House) -> None:
    ran: Counter[str] = Counter()

    async def handle(task: Task[Any]) -> Outcome:
        ran[task.claim.id] += 1
        await asyncio.sleep(0)
        return Done()

    for n in range(20):
        await any_house.lane(f"l{n}", cap=1 + n % 4)
    before = [f"before-{n}" for n in range(60)]
    for n, id_ in enumerate(before):
        await any_house.put(id_, lane=f"l{n % 20}")
    async with any_house.working(handle) as working:
        during = [f"during-{n}" for n in range(60)]
        for n, id_ in enumerate(during):
            await any_house.put(id_, lane=f"l{n % 20}")
        rows = await any_house.until_done()
        summary = await working.stop()
    assert ran == dict.fromkeys(before + during, 1)
    assert {row.status for row in rows.values()} == {"succeeded"}
    assert (summary.processed, summary.failed, summary.success_rate) == (120, 0, 1.0)
    assert summary.uptime > 0


async def test_the_handler_gets_what_was_loaded(house: House) -> None:
    got: list[Any] = []

    async def handle(task: Task[Any]) -> Outcome:
        got.append((task.data, task.timeout, task.claim.lane))
        return Done()

    await house.lane()
    await house.put("j", args={"n": 5})
    async with house.working(job_kind(handle, timeout_of=lambda data: 7.0)):
        await house.until_done()
    assert got == [({"n": 5}, 7.0, "l")]


async def test_a_retry_happens_at_its_time_without_any_sweeper(any_house: House) -> None:
    at: list[float] = []

    async def handle(task: Task[Any]) -> Outcome:
        at.append(time.monotonic())
        return Done() if len(at) == 4 else Retry(after=0.1, reason="not yet")

    await any_house.lane()
    async with any_house.working(handle):
        await any_house.put("j")
        rows = await any_house.until_done()
    gaps = [later - earlier for earlier, later in pairwise(at)]
    assert all(gap >= 0.1 for gap in gaps), gaps
    assert rows["j"].attempts == 4


async def test_work_for_later_is_done_at_its_time(any_house: House) -> None:
    at: dict[str, float] = {}

    async def handle(task: Task[Any]) -> Outcome:
        at[task.claim.id] = time.monotonic()
        return Done()

    await any_house.lane()
    began = time.monotonic()
    await any_house.put("before", delay=0.3)
    async with any_house.working(handle):
        await any_house.put("late", delay=0.4)
        await any_house.put("soon", delay=0.2)
        await any_house.until_done()
    for id_, delay in [("before", 0.3), ("soon", 0.2), ("late", 0.4)]:
        assert delay <= at[id_] - began < delay + 20.0


async def test_polling_work_comes_again(house: House) -> None:
    seen: list[int] = []

    async def handle(task: Task[Any]) -> Outcome:
        seen.append(task.claim.attempts)
        return Done(again=0.02) if len(seen) < 4 else Done()

    await house.lane()
    await house.put("j")
    async with house.working(handle):
        await house.until_done()
    assert seen == [0, 0, 0, 0]


async def test_a_rate_is_kept_by_the_timer_alone(any_house: House) -> None:
    await any_house.lane(rate=20.0, burst=2.0)
    await any_house.put(*(f"j{n}" for n in range(10)))
    began = time.monotonic()
    async with any_house.working(succeed):
        await any_house.until_done()
    took = time.monotonic() - began
    assert 8 / 20 - 0.02 <= took < 20


async def test_a_lane_that_is_resumed_goes_on_at_once(any_house: House) -> None:
    await any_house.lane()
    await any_house.database.unit(lambda tx: lanes.configure(tx, "l", paused=True))
    async with any_house.working(succeed):
        await any_house.put("j")
        await asyncio.sleep(0.1)
        assert (await any_house.row()).status == "pending"
        await any_house.database.unit(lambda tx: lanes.configure(tx, "l", paused=False))
        await any_house.until_done()


async def test_the_slots_bound_what_runs_at_once(house: House) -> None:
    now, most = 0, 0

    async def handle(task: Task[Any]) -> Outcome:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        return Done()

    for n in range(3):
        await house.lane(f"l{n}")
        await house.put(*(f"j{n}-{m}" for m in range(10)), lane=f"l{n}")
    async with house.working(job_kind(handle, slots=4)):
        await house.until_done()
    assert most == 4


async def test_lanes_take_turns_when_slots_are_short(house: House) -> None:
    order: list[str] = []

    async def handle(task: Task[Any]) -> Outcome:
        order.append(task.claim.lane)
        await asyncio.sleep(0.002)
        return Done()

    names = [f"l{n:02}" for n in range(24)]
    for name in names:
        await house.lane(name)
        await house.put(*(f"{name}-{m:02}" for m in range(12)), lane=name)
    async with house.working(job_kind(handle, slots=2)):
        await house.until_done()
    for name in names:  # nobody waits much longer than everybody's turn takes
        assert order.index(name) < 4 * len(names)


async def test_a_wake_for_a_lane_that_is_gone_is_forgotten(house: House) -> None:
    await house.lane("here")
    async with house.working(succeed):
        await house.wakeups.publish([Wake("job", "gone"), Wake("nobody's", "here")])
        await house.put("j", lane="here")
        await house.until_done()


async def test_a_row_without_data_is_dead(house: House) -> None:
    ended: list[tuple[str, str]] = []
    kind = job_kind(
        hang,
        load=lambda tx, claims: {},
        on_end=lambda tx, claim, status, reason: ended.append((claim.id, status)),
    )
    await house.lane()
    await house.put("j")
    async with house.working(kind):
        rows = await house.until_done()
    assert rows["j"].status == "dead"
    assert ended == [("j", "dead")]


# --------------------------------------------------------------------------- failures


async def test_a_timeout_is_a_failed_attempt(house: House) -> None:
    cancelled: list[bool] = []

    async def handle(task: Task[Any]) -> Outcome:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        raise AssertionError

    kind = job_kind(handle, timeout=0.05, max_attempts=2)
    await house.lane()
    await house.put("j")
    async with house.working(kind) as working:
        rows = await house.until_done()
        summary = await working.stop()
    assert rows["j"].status == "dead"
    assert rows["j"].last_error == "gave up after 2 attempts: timed out after 0.05 s"
    assert cancelled == [True, True]
    assert (summary.processed, summary.failed, summary.success_rate) == (2, 2, 0.0)


class Custom(Exception):
    pass


def _raises(exc: BaseException) -> Handle:
    async def handle(task: Task[Any]) -> Outcome:
        raise exc

    return handle


async def _cancelled_inside(task: Task[Any]) -> Outcome:
    inner = asyncio.create_task(asyncio.sleep(10))
    inner.cancel()
    await inner
    raise AssertionError


async def _no_outcome(task: Task[Any]) -> Any:
    return None


async def _no_number(task: Task[Any]) -> Outcome:
    return Retry(after=float("nan"))


@pytest.mark.parametrize(
    ("handle", "error"),
    [
        (_raises(ValueError("no such thing")), "ValueError: no such thing"),
        (_raises(Custom("\x00\ud800")), "Custom: \\x00\\ud800"),
        (_raises(TimeoutError("its own")), "TimeoutError: its own"),
        (_raises(SystemExit(3)), "SystemExit: 3"),
        (_cancelled_inside, "CancelledError"),
        (_no_outcome, "the handler returned None"),
        (_no_number, "the handler returned"),
    ],
)
async def test_whatever_a_handler_does_its_row_is_settled_and_the_worker_lives(
    any_house: House, handle: Handle, error: str
) -> None:
    async def either(task: Task[Any]) -> Outcome:
        return await (succeed if task.data == "good" else handle)(task)

    await any_house.lane()
    await any_house.put("bad")
    async with any_house.working(job_kind(either, slots=2)) as working:
        rows = await any_house.until(lambda rows: rows["bad"].status == "dead")
        await any_house.put("good", args="good")
        await any_house.until_done()
        await working.until_free()
    assert error in (rows["bad"].last_error or "")


async def test_the_kinds_own_functions_may_fail(house: House) -> None:
    def fail(_: Any) -> Any:
        raise Custom("in the kind")

    await house.lane()
    await house.put("a")
    async with house.working(job_kind(_raises(Custom("x")), classify=fail)):
        rows = await house.until_done()
    assert "in the kind" in (rows["a"].last_error or "")
    await house.put("b")
    async with house.working(job_kind(succeed, timeout_of=fail)):
        rows = await house.until_done()
    assert rows["b"].status == "dead"
    await house.put("c")
    async with house.working(job_kind(_raises(Custom("x")), backoff=fail)):
        rows = await house.until_done()
    assert rows["c"].status == "dead"


async def test_exceptions_are_classified_by_the_kind(house: House) -> None:
    def classify(exc: BaseException) -> Outcome:
        return Dead(f"never: {exc}") if isinstance(exc, Custom) else Retry(reason=str(exc))

    async def handle(task: Task[Any]) -> Outcome:
        if task.claim.id == "dead":
            raise Custom("x")
        if task.claim.attempts == 0:
            raise ValueError("once")
        return Done()

    await house.lane()
    await house.put("dead", "retried")
    async with house.working(job_kind(handle, classify=classify)):
        rows = await house.until_done()
    assert (rows["dead"].status, rows["dead"].attempts) == ("dead", 1)
    assert (rows["retried"].status, rows["retried"].attempts) == ("succeeded", 2)


async def test_one_poisonous_settlement_fails_alone(any_house: House) -> None:
    """Of a hundred that settle together one cannot be stored, in three different ways."""
    started = asyncio.Event()
    waiting = 0

    def break_it(tx: Tx) -> None:
        raise ZeroDivisionError("poison")

    def break_sql(tx: Tx) -> None:
        tx.run(RESULT, id="sql", result="a\x00b\ud800")

    async def handle(task: Task[Any]) -> Outcome:
        nonlocal waiting
        id_ = task.claim.id
        if task.claim.attempts == 0:
            waiting += 1
            if waiting == 103:
                started.set()
            await started.wait()
        if id_ == "python":
            return Done(apply=break_it)
        if id_ == "sql":
            return Done(apply=break_sql)
        if id_ == "later":
            return Done(apply=lambda tx: Later("shared", break_it))

        def written(tx: Tx) -> None:
            tx.run(RESULT, id=id_, result="written")

        # One half writes at once, the other when all are settled.
        return Done(apply=written if id_ < "j050" else lambda tx: Later("shared", written))

    ids = [f"j{n:03}" for n in range(100)]
    await any_house.lane(cap=200)
    await any_house.put(*ids, "python", "sql", "later")
    async with any_house.working(job_kind(handle, slots=200)) as working:
        rows = await any_house.until_done()
        await working.until_free()
    for id_ in ids:
        assert (rows[id_].status, rows[id_].attempts) == ("succeeded", 1)
    for id_ in ("python", "sql", "later"):
        assert (rows[id_].status, rows[id_].attempts) == ("dead", 3)
        assert "could not be stored" in (rows[id_].last_error or "")


async def test_a_row_whose_end_cannot_be_written_does_not_stop_the_others(
    house: House,
) -> None:
    def on_end(tx: Tx, claim: Claim, status: str, reason: str) -> None:
        if claim.id == "bad":
            raise ZeroDivisionError("poison")

    async def handle(task: Task[Any]) -> Outcome:
        return Dead("no") if task.claim.id == "bad" else Done()

    await house.lane()
    await house.put("bad")
    async with house.working(job_kind(handle, on_end=on_end, max_attempts=1)) as working:
        await asyncio.sleep(0.1)
        await house.put("good")
        await house.until(lambda rows: rows["good"].status == "succeeded")
        await working.until_free()
        row = await house.row("bad")
        assert (row.status, row.lease_until is not None) == ("pending", True)  # it will lapse


async def test_one_row_that_cannot_be_read_fails_alone(any_house: House) -> None:
    def load(tx: Tx, claims: Any) -> dict[str, Any]:
        if any(claim.id == "bad" for claim in claims):
            raise ValueError("not to be read")
        return _load(tx, claims)

    ids = [f"j{n}" for n in range(20)]
    await any_house.lane()
    await any_house.put(*ids, "bad")
    async with any_house.working(job_kind(succeed, load=load, slots=32)):
        rows = await any_house.until_done()
    assert {rows[id_].status for id_ in ids} == {"succeeded"}
    assert rows["bad"].status == "dead"
    assert "not to be read" in (rows["bad"].last_error or "")


# --------------------------------------------------------------------------- leases


async def test_leases_are_renewed_while_handlers_run(sqlite_path: Path) -> None:
    """The worker's time is real; the database's goes on when the worker has renewed."""
    lease, clock, release = 1.5, ManualClock(), asyncio.Event()
    renewed: list[float] = []

    async def handle(task: Task[Any]) -> Outcome:
        await release.wait()
        return Done()

    async with sqlite_house(sqlite_path, clock=clock) as house:
        await house.lane()
        await house.put("j")
        async with house.working(job_kind(handle, lease=lease)):
            await house.until(lambda rows: rows["j"].lease_until is not None)
            for _ in range(4):
                clock.advance(lease * 2 / 3)
                until = clock.now() + int(lease * SECOND)
                await house.until(lambda rows, until=until: rows["j"].lease_until == until)  # type: ignore[misc]
                renewed.append(time.monotonic())
                assert await house.database.unit(lambda tx: ledger.sweep(tx, job_kind(hang))) == []
            release.set()
            rows = await house.until_done()
    assert (rows["j"].attempts, rows["j"].lapses) == (1, 0)
    # Before it is over; of some a busy machine may make more.
    assert min(later - earlier for earlier, later in pairwise(renewed)) < lease


async def test_a_lost_lease_cancels_the_handler_and_its_late_settlement_is_refused(
    any_house: House,
) -> None:
    first: asyncio.Event = asyncio.Event()
    cancelled: list[str] = []
    applied: list[str] = []
    release = asyncio.Event()

    async def handle(task: Task[Any]) -> Outcome:
        if not first.is_set():
            first.set()
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                cancelled.append("first")
            # It does not obey, and wants to have the last word.
            await release.wait()
            return Done(apply=lambda tx: applied.append("late"))
        return Done(apply=lambda tx: applied.append("second"))

    kind = job_kind(handle, lease=0.2, slots=1)
    await any_house.lane()
    await any_house.put("j")
    async with any_house.working(kind):
        await first.wait()
        await any_house.database.unit(lambda tx: ledger.sweep(tx, kind, everything=True))
        # Its slot is free again as soon as the loss is noticed.
        rows = await any_house.until_done()
        assert cancelled == ["first"]
        release.set()
        await asyncio.sleep(0.1)
    assert applied == ["second"]
    assert (rows["j"].attempts, (await any_house.row()).status) == (1, "succeeded")


# --------------------------------------------------------------------------- stopping


async def test_running_handlers_finish_within_the_grace(any_house: House) -> None:
    finished: list[str] = []
    release = asyncio.Event()

    async def handle(task: Task[Any]) -> Outcome:
        await release.wait()
        finished.append(task.claim.id)
        return Done()

    await any_house.lane(cap=3)
    await any_house.put(*(f"j{n}" for n in range(9)))
    async with any_house.working(handle, grace=60.0) as working:
        await any_house.until(
            lambda rows: sum(r.lease_until is not None for r in rows.values()) == 3
        )
        stopping = asyncio.create_task(working.stop())
        while not working.worker.lines["job"]._stopping:
            await asyncio.sleep(0.01)
        release.set()
        summary = await stopping
    rows = await any_house.rows()
    assert sorted(id_ for id_, row in rows.items() if row.status == "succeeded") == sorted(finished)
    assert len(finished) == 3 == summary.processed
    assert all(row.lease_until is None for row in rows.values())
    assert sum(row.due_at is not None for row in rows.values()) == 6


async def test_what_does_not_finish_is_given_back_uncounted(any_house: House) -> None:
    async def handle(task: Task[Any]) -> Outcome:
        if task.claim.id == "quick":
            return Done()
        if task.claim.id == "polite":
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                return Postpone(until=0.0, reason="asked to stop")
        await asyncio.sleep(3600)
        raise AssertionError

    await any_house.lane()
    await any_house.put("quick", "slow", "polite")
    async with any_house.working(handle, grace=0.1) as working:
        await any_house.until(lambda rows: rows["quick"].status == "succeeded")
        began = time.monotonic()
        await working.stop()
    assert time.monotonic() - began < 20
    rows = await any_house.rows()
    for id_, error in [("slow", None), ("polite", "asked to stop")]:
        row = rows[id_]
        assert (row.status, row.attempts, row.lapses, row.lease_until) == ("pending", 0, 0, None)
        assert row.due_at is not None
        assert row.due_at <= time.time() * SECOND
        assert row.last_error == error
    assert rows["quick"].attempts == 1


async def test_a_handler_that_ignores_its_cancellation_does_not_hold_up_the_end(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "CANCEL_WAIT", 0.3)
    release = asyncio.Event()

    async def handle(task: Task[Any]) -> Outcome:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return Done()

    await house.lane()
    await house.put("j")
    async with house.working(handle, grace=0.05) as working:
        await house.until(lambda rows: rows["j"].lease_until is not None)
        began = time.monotonic()
        await working.stop()
        assert time.monotonic() - began < 20
        row = await house.row()
        assert (row.status, row.lease_until, row.attempts) == ("pending", None, 0)
        release.set()
        await asyncio.sleep(0.05)
    assert (await house.row()).status == "pending"


async def test_stopping_twice_or_before_the_start_is_harmless(house: House) -> None:
    await house.lane()
    await house.put("j")
    worker = Worker(
        house.database, house.wakeups, house.waker, [job_kind(hang)], clock=SystemClock(), grace=0.0
    )
    worker.stop()
    async with asyncio.timeout(60):
        summary = await worker.run()
    worker.stop()
    assert summary.processed == 0
    row = await house.row()
    assert (row.lease_until, row.lapses) == (None, 0)
    assert row.due_at is not None


async def test_nothing_that_finished_is_done_again_after_a_restart(any_house: House) -> None:
    ran: Counter[str] = Counter()

    async def handle(task: Task[Any]) -> Outcome:
        await asyncio.sleep(random.random() * 0.01)
        ran[task.claim.id] += 1
        return Done()

    await any_house.lane(cap=50)
    ids = [f"j{n:03}" for n in range(300)]
    await any_house.put(*ids)
    processed, longest = 0, 0.1
    while processed < len(ids):
        async with any_house.working(handle, grace=30.0) as working:
            await asyncio.sleep(random.random() * longest)
            now = (await working.stop()).processed
            processed += now
        longest = 0.1 if now else 2 * longest  # a busy machine may need more to begin at all
        rows = await any_house.rows()
        assert all(row.lease_until is None for row in rows.values())
        assert sum(row.status == "succeeded" for row in rows.values()) == processed
    assert ran == dict.fromkeys(ids, 1)


async def test_a_stop_while_a_claim_is_on_its_way_leaves_nothing_held(house: House) -> None:
    await house.lane()
    for n in range(12):
        await house.put(f"j{n}")
        house.database.delay = lambda: 0.02
        async with house.working(hang, grace=0.0) as working:
            await asyncio.sleep(random.random() * 0.06)
            await working.stop()
        house.database.delay = lambda: 0.0
        rows = await house.rows()
        assert all(row.lease_until is None for row in rows.values())
        assert all(row.lapses == row.attempts == 0 for row in rows.values())


async def test_a_database_that_is_down_does_not_hold_up_the_end_for_ever(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "LAST_SETTLE", 0.3)
    await house.lane()
    await house.put("a", "b")
    go_on = asyncio.Event()

    async def handle(task: Task[Any]) -> Outcome:
        if task.claim.id == "a":
            await go_on.wait()
            return Done()
        return await hang(task)

    async with house.working(handle, grace=0.2) as working:
        await house.until(lambda rows: all(row.lease_until is not None for row in rows.values()))
        house.database.down = True
        go_on.set()
        began = time.monotonic()
        await working.stop()
        assert time.monotonic() - began < 20
        house.database.down = False
    assert all(row.lease_until is not None for row in (await house.rows()).values())  # they lapse


# --------------------------------------------------------------------------- trouble


async def test_the_loops_survive_a_database_that_is_away_for_a_while(house: House) -> None:
    ran: Counter[str] = Counter()

    async def handle(task: Task[Any]) -> Outcome:
        ran[task.claim.id] += 1
        await asyncio.sleep(0.05)
        return Done()

    await house.lane(cap=5)
    await house.put(*(f"j{n}" for n in range(20)))
    async with house.working(job_kind(handle, lease=0.3)) as working:
        await asyncio.sleep(0.07)
        house.database.down = True
        await asyncio.sleep(0.5)
        house.database.down = False
        await house.until_done()
        assert not working.run.done()
    assert max(ran.values()) == 1


async def test_no_wake_is_lost_between_publishing_and_claiming(any_house: House) -> None:
    """Rows arrive one at a time while every call is delayed at random; nothing sweeps."""
    any_house.database.delay = lambda: random.choice([0, 0, 0.001, 0.003])
    await any_house.lane("x", cap=1)
    await any_house.lane("y", cap=3)
    async with any_house.working(job_kind(succeed, slots=3)):

        async def produce(who: int) -> None:
            for n in range(25):
                await any_house.put(f"j{who}-{n}", lane=random.choice("xy"))
                await asyncio.sleep(random.choice([0, 0.001, 0.01]))

        async with asyncio.TaskGroup() as group:
            for who in range(4):
                group.create_task(produce(who))
        await any_house.until_done()


async def test_two_workers_lose_no_wake_between_them(houses: list[House]) -> None:
    await houses[0].lane("x", cap=1)
    await houses[0].lane("y", cap=2)
    async with AsyncExitStack() as stack:
        for house in houses:
            await stack.enter_async_context(house.working(job_kind(succeed, slots=2)))

        async def produce(house: House, who: int) -> None:
            for n in range(40):
                await house.put(f"j{who}-{n}", lane=random.choice("xy"))
                await asyncio.sleep(random.choice([0, 0.001, 0.005]))

        async with asyncio.TaskGroup() as group:
            for who in range(4):
                group.create_task(produce(houses[who % 2], who))
        rows = await houses[0].until_done()
    assert all(row.attempts == 1 for row in rows.values())


async def test_two_workers_share_a_lanes_cap_and_rate(houses: list[House]) -> None:
    now: Counter[str] = Counter()
    most: Counter[str] = Counter()
    by: Counter[int] = Counter()
    starts: list[float] = []

    def handler(who: int) -> Handle:
        async def handle(task: Task[Any]) -> Outcome:
            lane = task.claim.lane
            by[who] += 1
            if lane == "rated":
                starts.append(time.monotonic())
                return Done()
            now[lane] += 1
            most[lane] = max(most[lane], now[lane])
            await asyncio.sleep(0.02)
            now[lane] -= 1
            return Done()

        return handle

    await houses[0].lane("capped", cap=3)
    await houses[0].lane("rated", rate=30.0, burst=3.0)
    await houses[0].put(*(f"c{n}" for n in range(60)), lane="capped")
    await houses[0].put(*(f"r{n}" for n in range(30)), lane="rated")
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        for who, house in enumerate(houses):
            await stack.enter_async_context(house.working(job_kind(handler(who), slots=8)))
        await houses[0].until_done()
        took = starts[-1] - began
        async with asyncio.timeout(60):
            for more in count():
                if len(by) == 2:  # both had some, be it that one began too late for the first
                    break
                await houses[0].put(*(f"m{more}-{n}" for n in range(6)), lane="capped")
                await houses[0].until_done()
    assert most["capped"] <= 3
    # 3 at once, then 30 a second: the last of 30 cannot start before 0.9 s have passed.
    assert took >= 27 / 30 - 0.1


async def test_others_are_told_now_and_then_of_what_one_has_no_slot_for(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Wake] = []
    monkeypatch.setattr(house.waker, "share", told.extend)

    async def slow(task: Task[Any]) -> Outcome:
        await asyncio.sleep(0.01)
        return Done()

    await house.lane("x")
    await house.lane("y")
    began = time.monotonic()
    async with house.working(job_kind(slow, slots=1)):
        await house.put(*(f"x{n}" for n in range(40)), lane="x")
        await house.put(*(f"y{n}" for n in range(40)), lane="y")
        await house.until_done()
    seconds = time.monotonic() - began
    by_lane = Counter(wake.lane for wake in told)
    assert set(by_lane) == {"x", "y"}
    assert max(by_lane.values()) <= 1 + seconds / SHARE_EVERY


async def test_what_one_worker_gives_back_the_other_takes_at_once(houses: list[House]) -> None:
    taken = asyncio.Event()

    async def handle(task: Task[Any]) -> Outcome:
        taken.set()
        return await hang(task)

    await houses[0].lane()
    await houses[0].put("j")
    async with houses[0].working(handle, grace=0.0) as first:
        await taken.wait()
        async with houses[1].working(succeed):
            await asyncio.sleep(0.1)
            await first.stop()
            await houses[1].until_done()


# --------------------------------------------------------------------------- idleness


@contextmanager
def cpu_share() -> Iterator[list[float]]:
    share: list[float] = []
    wall, cpu = time.monotonic(), time.process_time()
    yield share
    share.append((time.process_time() - cpu) / (time.monotonic() - wall))


async def becomes_quiet(house: House, calls: int) -> None:
    """There comes half a second with hardly any use of the processor or the database."""
    for _ in range(20):
        house.database.calls = 0
        with cpu_share() as share:
            await asyncio.sleep(0.5)
        if house.database.calls <= calls and share[0] < 0.3:
            return
    raise AssertionError((house.database.calls, share))


async def test_an_idle_worker_asks_the_database_nothing(any_house: House) -> None:
    await any_house.lane()
    await any_house.put("later", delay=3000)
    async with any_house.working(succeed):
        await becomes_quiet(any_house, 2)


@pytest.mark.parametrize("full", ["slots", "cap", "rate"])
async def test_a_saturated_worker_does_not_spin(any_house: House, full: str) -> None:
    options: dict[str, Any] = {"cap": 2} if full == "cap" else {}
    if full == "rate":
        options = {"rate": 0.01, "burst": 2.0}
    for lane in ("x", "y"):
        await any_house.lane(lane, **options)
        await any_house.put(*(f"{lane}{n}" for n in range(20)), lane=lane)
    async with any_house.working(job_kind(hang, slots=2 if full == "slots" else 50), grace=0.0):
        await any_house.until(lambda rows: any(row.lease_until for row in rows.values()))
        await becomes_quiet(any_house, 10)


async def test_a_row_that_somebody_else_has_locked_is_not_hammered_at(
    houses: list[House],
) -> None:
    house = houses[0]
    await house.lane()
    await house.put("j")
    claims = 0
    real = ledger.claim

    def count(*args: Any) -> Any:
        nonlocal claims
        claims += 1
        return real(*args)

    lock = sql(sqlite="", postgres="SELECT id FROM jobs FOR UPDATE")

    locked, release = threading.Event(), threading.Event()

    def hold(tx: Tx) -> None:
        tx.rows(lock)
        locked.set()
        release.wait(60)

    holding = asyncio.create_task(houses[1].database.unit(hold))
    await asyncio.to_thread(locked.wait, 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "claim", count)
        began = time.monotonic()
        async with house.working(succeed):
            await asyncio.sleep(0.4)
            assert (await house.row()).status == "pending"
            assert claims <= 5 + (time.monotonic() - began) / line.LOCKED_WAIT
            release.set()
            await holding
            await house.until_done()


# --------------------------------------------------------------------------- isolation


LAPSED = sql("UPDATE jobs SET lapses = :lapses WHERE id = :id")


async def _lapsed(house: House, id_: str, lapses: int) -> None:
    await house.database.unit(lambda tx: tx.run(LAPSED, id=id_, lapses=lapses))


async def test_rows_that_lost_their_lease_twice_run_alone(house: House) -> None:
    here: list[str] = []
    alone: list[tuple[str, float]] = []
    at_once = 0

    async def handle(task: Task[Any]) -> Outcome:
        here.append(task.claim.id)
        return Done()

    kind = job_kind(handle, timeout=33.0)

    async def isolate(claim: Claim, timeout: float) -> str | None:
        nonlocal at_once
        at_once += 1
        assert at_once <= line.CHILDREN
        alone.append((claim.id, timeout))
        await asyncio.sleep(0.02)
        settlement = line.decide(kind, claim, Done(), 0)
        await house.database.unit(lambda tx: ledger.settle(tx, kind, [settlement]))
        at_once -= 1
        return None

    await house.lane()
    some = [("fresh", 0), ("once", 1), ("twice", 2), ("often", 5)]
    many = [(f"more-{n}", 2) for n in range(2 * line.CHILDREN)]
    for id_, lapses in some + many:
        await house.put(id_, delay=0.2)
        await _lapsed(house, id_, lapses)
    async with house.working(kind, isolate=isolate) as working:
        rows = await house.until_done()
        summary = await working.stop()
    assert sorted(here) == ["fresh", "once"]
    assert sorted(alone) == sorted((id_, 33.0) for id_, lapses in some + many if lapses >= 2)
    assert all((row.status, row.lapses) == ("succeeded", 0) for row in rows.values())
    assert (summary.processed, summary.failed) == (len(some + many), 0)


@pytest.mark.parametrize("fault", ["killed by signal 9", OSError("no more processes")])
async def test_a_process_that_ends_without_settling_is_a_lapse(house: House, fault: Any) -> None:
    ended: list[tuple[str, str]] = []
    runs = 0

    async def isolate(claim: Claim, timeout: float) -> str | None:
        nonlocal runs
        runs += 1
        if isinstance(fault, Exception):
            raise fault
        return str(fault)

    kind = job_kind(hang, on_end=lambda tx, claim, status, reason: ended.append((claim.id, status)))
    await house.lane()
    await house.put("j", delay=0.1)
    await _lapsed(house, "j", 3)
    async with house.working(kind, isolate=isolate) as working:
        rows = await house.until_done()
        await working.until_free()
        summary = await working.stop()
    assert runs == 3
    assert (rows["j"].status, rows["j"].lapses, rows["j"].attempts) == ("dead", 6, 0)
    assert ended == [("j", "dead")]
    assert (summary.processed, summary.failed) == (3, 3)


async def test_what_runs_alone_is_given_back_at_the_end(house: House) -> None:
    cancelled = asyncio.Event()
    started = asyncio.Event()

    async def isolate(claim: Claim, timeout: float) -> str | None:
        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()
        return None

    await house.lane()
    await house.put("j", "k", delay=0.1)
    await _lapsed(house, "j", 4)
    await _lapsed(house, "k", 4)
    async with house.working(hang, grace=0.05, isolate=isolate) as working:
        await started.wait()
        await working.stop()
    assert cancelled.is_set()
    for row in (await house.rows()).values():
        assert (row.status, row.lapses, row.lease_until) == ("pending", 4, None)
        assert row.due_at is not None


async def test_on_sqlite_a_settlement_fills_the_place_that_it_frees(house: House) -> None:
    await house.lane(cap=1)
    await house.put(*(f"j{n}" for n in range(20)))
    before = house.database.commits
    async with house.working(succeed):
        await house.until_done()
    assert house.database.commits - before < 30  # a claim and a settlement for each: 40


async def test_what_a_settlement_takes_while_the_worker_stops_is_given_back(house: House) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def handle(task: Task[Any]) -> Outcome:
        started.set()
        await go_on.wait()
        return Done()

    await house.lane(cap=1)
    await house.put("a", "b", "c")
    async with house.working(handle):
        await started.wait()
        house.database.delay = lambda: 0.6  # the settlement is on its way for this long
        go_on.set()
        calls = house.database.calls
        while house.database.calls == calls:
            await asyncio.sleep(0)
    rows = await house.rows()
    assert sorted(row.status for row in rows.values()) == ["pending", "pending", "succeeded"]
    assert [row.lease_until for row in rows.values()] == [None] * 3
    assert [row.attempts for row in rows.values() if row.status == "pending"] == [0, 0]


async def test_a_late_settlement_frees_no_slot_that_was_free_before(house: House) -> None:
    first, release = asyncio.Event(), asyncio.Event()
    here: list[str] = []

    async def handle(task: Task[Any]) -> Outcome:
        here.append(task.claim.id)
        if len(here) > 1:
            return await hang(task)
        first.set()
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        return Done()

    kind = job_kind(handle, lease=0.2, slots=1)
    await house.lane()
    await house.put("a", "b", "c", "d")
    async with house.working(kind, grace=0.0) as working:
        await first.wait()
        await house.database.unit(lambda tx: ledger.sweep(tx, kind, everything=True))
        async with asyncio.timeout(60):
            while len(here) < 2:
                await asyncio.sleep(0.01)
        release.set()
        await asyncio.sleep(0.1)
        assert len(here) == 2
        assert len(working.worker.held("job")) == 1

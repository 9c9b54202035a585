"""Leaders, the sweeper, and what is released at a start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest

from penstock.clock import SECOND, ManualClock
from penstock.errors import StorageUnavailable
from penstock.storage import Database, Tx, sql
from penstock.telemetry import (
    DEAD_LETTERS,
    DEAD_ROWS,
    DUE_ROWS,
    LANES_OPEN,
    OLDEST_DUE_AGE,
    metrics,
)
from penstock.work import circuit, lanes, ledger
from penstock.work.kinds import Claim, Kind, Task
from penstock.work.outcomes import Dead, Outcome
from penstock.work.schedule import (
    LEASE,
    Periodic,
    Scheduler,
    dead_letters,
    gauges,
    release_all,
    sweeper,
)
from penstock.work.settlement import decide
from penstock.work.waker import Waker
from penstock.work.wakeups import WakeupsError, WakeupsUnavailable
from penstock.work.wakeups.local import LocalWakeups

pytestmark = pytest.mark.anyio

INSERT = sql("""
INSERT INTO jobs (id, account, name, args, status, created_at, lane, due_at)
VALUES (:id, 'a', 'n', '[]', 'pending', {now}, :lane, {now} + :delay)
""")
ROW = sql("SELECT status, due_at, lease_until, lapses FROM jobs WHERE id = :id")
LEADERS = sql("SELECT name, holder, until_at FROM leaders")


async def _never(task: Task[int]) -> Outcome:
    raise AssertionError


def job_kind(**options: Any) -> Kind[int]:
    return Kind(
        "job",
        "jobs",
        load=lambda tx, claims: {},
        handle=_never,
        done="succeeded",
        terminal=frozenset({"succeeded", "dead", "cancelled"}),
        **options,
    )


# --------------------------------------------------------------------------- leaders


class Group:
    """Schedulers on one database, which note when they did their task."""

    def __init__(self, database: Database, clock: ManualClock) -> None:
        self.database, self.clock = database, clock
        self.did: list[int] = []

    @asynccontextmanager
    async def member(self, who: int, every: float = 0.01) -> AsyncIterator[Scheduler]:
        async def do() -> None:
            self.did.append(who)

        scheduler = Scheduler(self.database, self.clock, [Periodic("note", every, do)])
        task = asyncio.create_task(scheduler.run())
        try:
            yield scheduler
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def turns(self, who: int | None, seconds: float = 60.0) -> None:
        """Wait until `who` has done its task anew."""
        self.did.clear()
        async with asyncio.timeout(seconds):
            while who not in self.did:
                self.clock.advance(0.02)  # "every" is counted on this clock
                await asyncio.sleep(0.01)

    async def leaders(self) -> list[tuple[str, str, int]]:
        rows = await self.database.read(lambda tx: tx.rows(LEADERS))
        return [(name, holder, until) for name, holder, until in rows]


@pytest.fixture
async def group(database: Database, clock: ManualClock) -> Group:
    return Group(database, clock)


async def test_one_of_several_leads(group: Group) -> None:
    async with AsyncExitStack() as stack:
        members = [await stack.enter_async_context(group.member(n)) for n in range(3)]
        async with asyncio.timeout(60):
            while not group.did:
                await asyncio.sleep(0.01)
        for _ in range(30):
            group.clock.advance(0.02)
            await asyncio.sleep(0.01)
        assert len(set(group.did)) == 1
        assert [member.leads for member in members].count(True) == 1
        assert len(await group.leaders()) == 1


async def test_a_leader_renews_its_lease(group: Group) -> None:
    async with group.member(0) as scheduler:
        await group.turns(0)
        ((_, holder, _),) = await group.leaders()
        for _ in range(4):
            group.clock.advance(LEASE / 2)
            until = group.clock.now() + int(LEASE * SECOND)  # the clock stands still meanwhile
            async with asyncio.timeout(60):
                while [row[1:] for row in await group.leaders()] != [(holder, until)]:
                    await asyncio.sleep(0.01)
        await group.turns(0)
        assert scheduler.leads


async def test_a_leader_that_stops_resigns_so_that_the_next_need_not_wait(group: Group) -> None:
    async with group.member(0):
        await group.turns(0)
    assert await group.leaders() == []
    async with group.member(1) as second:
        await group.turns(1)
        assert second.leads


async def test_the_dead_are_followed_when_their_lease_is_over(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = group.member(0)
    scheduler = await first.__aenter__()
    await group.turns(0)
    # It dies without a word: it neither elects nor resigns any more.
    monkeypatch.setattr(scheduler, "_elect", lambda: asyncio.sleep(3600))
    async with group.member(1) as second:
        group.did.clear()
        for _ in range(10):
            await asyncio.sleep(0.01)
        assert not second.leads
        group.clock.advance(LEASE + 1)
        await group.turns(1)
        assert second.leads
        assert len(await group.leaders()) == 1
    await first.__aexit__(None, None, None)


async def test_a_task_that_fails_stops_neither_the_others_nor_its_next_turn(
    group: Group,
) -> None:
    turns: list[str] = []

    async def fail() -> None:
        turns.append("fails")
        raise ZeroDivisionError

    async def work() -> None:
        turns.append("works")

    scheduler = Scheduler(
        group.database, group.clock, [Periodic("a", 0.01, fail), Periodic("b", 0.01, work)]
    )
    task = asyncio.create_task(scheduler.run())
    async with asyncio.timeout(60):
        while turns.count("works") < 3 or turns.count("fails") < 3:
            group.clock.advance(0.02)
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_each_task_keeps_its_own_time(group: Group) -> None:
    turns: list[str] = []

    def note(name: str) -> Callable[[], Any]:
        async def run() -> None:
            turns.append(name)

        return run

    scheduler = Scheduler(
        group.database,
        group.clock,
        [Periodic("often", 0.01, note("often")), Periodic("seldom", 25.0, note("seldom"))],
    )
    task = asyncio.create_task(scheduler.run())
    async with asyncio.timeout(60):
        for turn in range(1, 11):
            while turns.count("often") < turn:
                await asyncio.sleep(0.01)
            group.clock.advance(6.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 2 <= turns.count("seldom") <= 3 < turns.count("often")


class Away:
    """A database that can be unreachable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.down = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def unit(self, fn: Any) -> Any:
        if self.down:
            raise StorageUnavailable("away")
        return await self._database.unit(fn)


async def test_one_that_is_stopped_while_it_is_being_elected_resigns_too(group: Group) -> None:
    """The election is carried out although nobody waits for its answer any more."""
    for wait in (0.0, 0.0005, 0.001, 0.002):
        async with group.member(0):
            await asyncio.sleep(wait)
        await asyncio.sleep(0.02)
        assert await group.leaders() == []


async def test_who_cannot_reach_the_database_does_not_lead(group: Group) -> None:
    away: Any = Away(group.database)
    group.database = away
    async with group.member(0) as scheduler:
        await group.turns(0)
        away.down = True
        async with asyncio.timeout(60):
            while scheduler.leads:
                group.clock.advance(LEASE / 3)
                await asyncio.sleep(0.01)
        away.down = False
        group.clock.advance(LEASE / 3)
        await group.turns(0)
        assert scheduler.leads
        away.down = True  # nor can it resign: that must not turn its end into an error
    assert not scheduler.leads


# --------------------------------------------------------------------------- sweeper


class Yard:
    """What a sweeper needs, and rows for it to find."""

    def __init__(self, database: Database, clock: ManualClock) -> None:
        self.database, self.clock = database, clock
        self.wakeups = LocalWakeups()
        self.waker = Waker(database, self.wakeups)
        self.held: list[str] = []
        self.kind = job_kind()

    def sweeper(self, every: float = 15.0) -> Periodic:
        return sweeper(
            self.database, self.waker, [self.kind], every=every, held=lambda kind: self.held
        )

    async def lane(self, id_: str = "l") -> None:
        await self.database.unit(
            lambda tx: lanes.ensure(tx, id_, kind="job", account="a", max_in_flight=600)
        )

    async def put(self, *ids: str, lane: str = "l", delay: float = 0.0) -> None:
        us = int(delay * SECOND)
        await self.database.unit(
            lambda tx: [tx.run(INSERT, id=id_, lane=lane, delay=us) for id_ in ids]
        )

    async def claim(self) -> list[Claim]:
        claimed = await self.database.unit(lambda tx: ledger.claim(tx, self.kind, 1000, ["l"]))
        return list(claimed.claims)

    async def row(self, id_: str) -> tuple[Any, ...]:
        row = await self.database.read(lambda tx: tx.one(ROW, id=id_))
        assert row is not None
        return row

    async def woken(self) -> set[str]:
        stats = await self.wakeups.stats()
        if not stats.visible:
            return set()
        messages = await self.wakeups.receive(100)
        await self.wakeups.acknowledge(messages)
        return {message.lane for message in messages}


@pytest.fixture
async def yard(database: Database, clock: ManualClock) -> AsyncIterator[Yard]:
    yard = Yard(database, clock)
    yield yard
    await yard.wakeups.close()


async def test_it_returns_expired_leases_and_wakes_what_is_due(yard: Yard) -> None:
    for lane in ("l", "due", "soon", "far", "empty"):
        await yard.lane(lane)
    await yard.put("j")
    await yard.claim()
    yard.clock.advance(yard.kind.lease + 1)
    await yard.put("d", lane="due")
    await yard.put("s", lane="soon", delay=20)
    await yard.put("f", lane="far", delay=40)
    await yard.sweeper().run()
    assert await yard.row("j") == ("pending", yard.clock.now(), None, 1)
    assert await yard.woken() == {"l", "due"}
    assert (await yard.wakeups.stats()).delayed == 1


async def test_a_clock_that_jumps_ahead_takes_no_row_from_its_worker(yard: Yard) -> None:
    """On SQLite the process knows what it holds; on PostgreSQL the server's clock rules."""
    await yard.lane()
    await yard.put("mine", "lost")
    await yard.claim()
    yard.held = ["mine"]
    yard.clock.step(3 * 24 * 3600)
    await yard.sweeper().run()
    assert (await yard.row("lost"))[3] == 1
    assert (await yard.row("mine"))[3] == (0 if yard.database.dialect == "sqlite" else 1)


async def test_a_row_whose_end_cannot_be_written_does_not_keep_the_others(
    yard: Yard,
) -> None:
    def on_end(tx: Tx, claim: Claim, status: str, reason: str) -> None:
        raise ZeroDivisionError("poison")

    yard.kind = job_kind(on_end=on_end)
    await yard.lane()
    await yard.put("bad", "good")
    lapses = sql("UPDATE jobs SET lapses = 5 WHERE id = 'bad'")
    await yard.database.unit(lambda tx: tx.run(lapses))
    await yard.claim()
    yard.clock.advance(yard.kind.lease + 1)
    with suppress(ZeroDivisionError):
        await yard.sweeper().run()
    assert (await yard.row("good"))[1:] == (yard.clock.now(), None, 1)
    assert await yard.woken() == {"l"}


async def test_more_leases_than_fit_into_one_sweep_are_returned_by_the_next(yard: Yard) -> None:
    await yard.lane()
    ids = [f"j{n:04}" for n in range(520)]
    await yard.put(*ids)
    assert len(await yard.claim()) == 520
    yard.clock.advance(yard.kind.lease + 1)
    await yard.sweeper().run()
    await yard.sweeper().run()
    held = sql("SELECT count(*) FROM jobs WHERE lease_until IS NOT NULL")
    assert await yard.database.read(lambda tx: tx.one(held)) == (0,)


async def test_a_start_releases_every_lease(yard: Yard) -> None:
    await yard.lane()
    ids = [f"j{n:04}" for n in range(510)]
    await yard.put(*ids)
    await yard.claim()
    await release_all(yard.database, [yard.kind])
    held = sql("SELECT count(*), sum(lapses) FROM jobs WHERE lease_until IS NULL")
    assert await yard.database.read(lambda tx: tx.one(held)) == (510, 510)


async def test_the_gauges_tell_what_is_owed(yard: Yard) -> None:
    await yard.lane()
    await yard.lane("closed")
    await yard.put("dead")
    (claim,) = await yard.claim()
    settlement = decide(yard.kind, claim, Dead("no"), 0)
    await yard.database.unit(lambda tx: ledger.settle(tx, yard.kind, [settlement]))
    await yard.put("a", "b")
    yard.clock.advance(12)
    await yard.put("later", delay=100)
    await yard.database.unit(lambda tx: circuit.force_open(tx, "closed", 60, actor="a", reason="r"))
    await gauges(yard.database, [yard.kind], every=15).run()
    text = metrics.render().decode()

    def value(metric: Any) -> float:
        (line,) = [
            line
            for line in text.splitlines()
            if line.startswith(f"{metric.name}{{") and 'kind="job"' in line
        ]
        return float(line.rsplit(" ", 1)[1])

    assert value(DUE_ROWS) == 2
    assert value(OLDEST_DUE_AGE) == pytest.approx(12, abs=0.01)
    assert value(DEAD_ROWS) == 1
    assert value(LANES_OPEN) == 1


async def test_a_sweeper_in_a_scheduler_brings_a_lost_wake_back(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    await yard.lane()
    await yard.put("j")
    scheduler = Scheduler(yard.database, yard.clock, [yard.sweeper(every=0.05)])
    task = asyncio.create_task(scheduler.run())
    async with asyncio.timeout(60):
        (message,) = await yard.wakeups.receive(1)
    assert (message.kind, message.lane) == ("job", "l")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_process_that_is_called_now_and_then_runs_what_is_due(
    database: Database, clock: ManualClock
) -> None:
    ran: list[str] = []

    def task(name: str, every: float, fault: Exception | None = None) -> Periodic:
        async def run() -> None:
            ran.append(name)
            if fault is not None:
                raise fault

        return Periodic(name, every, run)

    tasks = [task("often", 60), task("daily", 86400), task("bad", 86400, ValueError("no"))]
    names = {"often", "daily", "bad"}

    def process() -> Scheduler:  # each knows nothing of the one before
        return Scheduler(database, clock, tasks)

    assert await process().turn(names) == (["often", "daily", "bad"], ["bad"])
    # What failed is not put off to its next time.
    assert await process().turn(names) == (["bad"], ["bad"])
    clock.advance(60)
    assert await process().turn({"often", "daily"}) == (["often"], [])
    assert await process().turn({"daily"}, due=False) == (["daily"], [])
    assert await process().turn({"nothing"}) == ([], [])
    clock.advance(86400)
    assert await process().turn({"daily"}) == (["daily"], [])


async def test_processes_that_do_other_things_elect_each_their_own(
    database: Database, clock: ManualClock
) -> None:
    """Where one process has no predictions, another must sweep them all the same."""
    done: set[str] = set()

    def process(group: str, holder: str) -> Scheduler:
        async def run() -> None:
            done.add(holder)

        return Scheduler(database, clock, [Periodic("sweep", 0.01, run)], group=group)

    running = [
        asyncio.create_task(process(group, holder).run())
        for group, holder in (("jobs", "a"), ("jobs", "b"), ("jobs predictions", "c"))
    ]
    try:
        async with asyncio.timeout(60):
            while len(done) < 2:
                await asyncio.sleep(0.01)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    assert "c" in done
    assert done != {"a", "b", "c"}
    rows = await database.read(lambda tx: tx.rows(sql("SELECT count(*) FROM leaders")))
    assert rows == [(0,)]  # all have resigned


# --------------------------------------------------------------------------- dead letters


async def test_dead_letters_are_counted_as_long_as_somebody_tells(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers: list[dict[str, int] | Exception] = [
        {"events-dead": 3, "jobs-dead": 0},
        WakeupsUnavailable("no answer"),
        {"events-dead": 1},
        WakeupsError("SQS refused: AccessDenied"),
    ]

    async def ask() -> dict[str, int]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    task = dead_letters(ask, every=50.0)
    await task.run()
    assert metrics.value(DEAD_LETTERS, queue="events-dead") == 3
    assert metrics.value(DEAD_LETTERS, queue="jobs-dead") == 0
    with pytest.raises(WakeupsUnavailable):  # whoever runs it says so, and asks again
        await task.run()
    await task.run()
    assert metrics.value(DEAD_LETTERS, queue="events-dead") == 1
    capsys.readouterr()
    for _ in range(3):  # the permission is missing: asked and said once
        await task.run()
    assert answers == []
    assert capsys.readouterr().err.count("dead_letters_unseen") == 1

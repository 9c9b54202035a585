"""Bursts of work: named lanes are worked off, and nothing is left running or forgotten."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from penstock.clock import SECOND, ManualClock, SystemClock
from penstock.errors import StorageUnavailable
from penstock.storage import Database, Tx, sql
from penstock.work import lanes
from penstock.work.burst import Burst, burst
from penstock.work.kinds import Kind, Task
from penstock.work.outcomes import Done, Outcome, Retry
from penstock.work.waker import Waker
from penstock.work.wakeups import Wake, WakeupsUnavailable
from penstock.work.wakeups.memory import MemoryWakeups

pytestmark = pytest.mark.anyio

INSERT = sql("""
INSERT INTO jobs (id, account, name, args, status, created_at, lane, due_at)
VALUES (:id, 'a', 'n', :args, 'pending', {now}, :lane, {now} + :delay)
""")
STATES = sql("SELECT id, status, due_at, lease_until, attempts, lapses FROM jobs ORDER BY id")
HELD = sql("SELECT count(*) FROM jobs WHERE lease_until IS NOT NULL")


class Recording(MemoryWakeups):
    """Keeps what is published; `broken` as a queue out of reach."""

    def __init__(self) -> None:
        super().__init__(ManualClock())
        self.sent: list[Wake] = []
        self.broken = False

    async def publish(self, wakes: Any) -> None:
        if self.broken:
            raise WakeupsUnavailable
        self.sent += wakes


class Flaky:
    """A database that can go away, for all or after so many calls.

    The answer to the next unit comes `slow` seconds late, and may be `lost` by then.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.left: int | None = None
        self.slow = 0.0
        self.lost: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def _call(self, call: Callable[..., Awaitable[Any]], fn: Any) -> Any:
        if self.left is not None:
            if self.left <= 0:
                raise StorageUnavailable("gone")
            self.left -= 1
        return await call(fn)

    async def unit(self, fn: Any) -> Any:
        answer = await self._call(self._database.unit, fn)
        if slow := self.slow:
            self.slow = 0.0
            await asyncio.sleep(slow)
            if self.lost is not None:
                raise self.lost
        return answer

    async def read(self, fn: Any) -> Any:
        return await self._call(self._database.read, fn)


class Room:
    def __init__(self, database: Database) -> None:
        self.database: Any = Flaky(database)
        self.wakeups = Recording()
        self.waker = Waker(self.database, self.wakeups)
        self.ran: list[str] = []
        self.handle: Callable[[Task[str]], Awaitable[Outcome]] = self._done

    async def _done(self, task: Task[str]) -> Outcome:
        return Done()

    async def _handle(self, task: Task[str]) -> Outcome:
        self.ran.append(task.claim.id)
        return await self.handle(task)

    async def put(self, *ids: str, lane: str = "l", delay: float = 0.0) -> None:
        def write(tx: Tx) -> None:
            lanes.ensure(tx, lane, kind="job", account="a", max_in_flight=100)
            for id_ in ids:
                us = int(delay * SECOND)
                tx.run(INSERT, id=id_, lane=lane, args=json.dumps([]), delay=us)

        await self.database.unit(write)

    async def burst(self, *named: str, seconds: float = 60.0, grace: float = 0.5) -> Burst:
        kind = Kind(
            "job",
            "jobs",
            load=lambda tx, claims: {claim.id: "" for claim in claims},
            handle=self._handle,
            done="succeeded",
            terminal=frozenset({"succeeded", "dead", "cancelled"}),
            slots=4,
        )
        before = asyncio.all_tasks()
        done = await burst(
            self.database,
            self.wakeups,
            self.waker,
            [kind],
            [("job", lane) for lane in named],
            clock=SystemClock(),
            seconds=seconds,
            grace=grace,
        )
        assert asyncio.all_tasks() == before  # nothing is left running
        return done

    async def states(self) -> dict[str, tuple[Any, ...]]:
        found = await self.database.read(lambda tx: tx.rows(STATES))
        return {row[0]: tuple(row[1:]) for row in found}


@pytest.fixture
def room(database: Database) -> Room:
    return Room(database)


async def test_named_lanes_are_worked_off_and_no_others(room: Room) -> None:
    await room.put(*(f"a{n}" for n in range(20)), lane="a")
    await room.put("b0", lane="b")
    began = time.monotonic()
    done = await room.burst("a", "a", "nowhere")
    assert time.monotonic() - began < 40  # it ends when there is nothing more to do
    assert (done.processed, done.failed, done.unsettled) == (20, 0, frozenset())
    assert sorted(room.ran) == sorted(f"a{n}" for n in range(20))
    assert (await room.states())["b0"][0] == "pending"
    # Beyond its slots others may help; nobody is told of anything else.
    assert {wake.lane for wake in room.wakeups.sent} <= {"a"}


async def test_nothing_to_do_is_done_at_once(room: Room) -> None:
    done = await room.burst()
    assert (done.processed, done.unsettled) == (0, frozenset())


async def test_what_is_due_within_the_second_is_waited_for_the_rest_is_published(
    room: Room, clock: Any
) -> None:
    await room.put("soon", lane="s", delay=0.2)
    await room.put("later", lane="t", delay=30.0)
    moving = asyncio.create_task(_advance(clock))
    done = await room.burst("s", "t")
    moving.cancel()
    assert room.ran == ["soon"]
    assert done.unsettled == frozenset()
    ((kind, lane, delay),) = [(w.kind, w.lane, w.delay) for w in room.wakeups.sent]
    assert (kind, lane) == ("job", "t")
    assert 10 < delay <= 30  # less what passed until its lane was looked at


async def _advance(clock: Any) -> None:
    while True:  # the database's clock, which tests move
        await asyncio.sleep(0.05)
        clock.advance(0.05)


async def test_a_retry_within_the_second_is_tried_in_the_same_burst(room: Room, clock: Any) -> None:
    await room.put("a")

    async def second_time(task: Task[str]) -> Outcome:
        return Retry(after=0.1, reason="not yet") if len(room.ran) == 1 else Done()

    room.handle = second_time
    moving = asyncio.create_task(_advance(clock))
    done = await room.burst("l")
    moving.cancel()
    assert room.ran == ["a", "a"]
    assert (done.processed, done.failed) == (2, 1)


async def test_time_that_is_over_gives_back_and_wakes_others(room: Room) -> None:
    never = asyncio.Event()

    async def wait(task: Task[str]) -> Outcome:
        await never.wait()
        return Done()

    room.handle = wait
    await room.put(*(f"a{n}" for n in range(9)), lane="a")
    done = await room.burst("a", seconds=0.5, grace=0.2)  # or it never ends
    assert done.unsettled == frozenset()
    states = await room.states()
    assert all(
        due is not None and lease is None and (attempts, lapses) == (0, 0)
        for _, due, lease, attempts, lapses in states.values()
    )
    # Whoever comes next is told; more often than once is no harm.
    assert {wake.lane for wake in room.wakeups.sent} == {"a"}


async def test_handlers_that_end_within_the_grace_are_settled(room: Room) -> None:
    async def slow(task: Task[str]) -> Outcome:
        await asyncio.sleep(0.5)
        return Done()

    room.handle = slow
    await room.put("a")
    deadline = time.monotonic() + 60
    while not room.ran:  # on a busy machine time may be over before it is begun
        assert time.monotonic() < deadline
        done = await room.burst("l", seconds=0.2, grace=60.0)
    assert done.processed == 1
    assert (await room.states())["a"][0] == "succeeded"


async def test_without_a_database_the_lanes_are_unsettled(room: Room) -> None:
    await room.put("a")
    room.database.left = 0
    done = await room.burst("l", "m", seconds=0.3)
    assert done.unsettled == {("job", "l"), ("job", "m")}
    room.database.left = None
    assert (await room.states())["a"][0] == "pending"
    assert room.ran == []


async def test_lanes_that_could_not_be_passed_on_are_unsettled(room: Room) -> None:
    never = asyncio.Event()

    async def wait(task: Task[str]) -> Outcome:
        await never.wait()
        return Done()

    room.handle = wait
    await room.put(*(f"a{n}" for n in range(4)), lane="a")
    await room.put("b0", lane="b")
    room.wakeups.broken = True
    done = await room.burst("a", "b", seconds=0.3, grace=0.2)
    assert ("job", "b") in done.unsettled or ("job", "a") in done.unsettled
    assert await room.database.read(lambda tx: tx.one(HELD)) == (0,)


async def test_a_claim_that_is_on_its_way_when_time_is_over_is_given_back(room: Room) -> None:
    await room.put("a0", lane="a")
    room.database.slow = 0.4
    done = await room.burst("a", "empty", seconds=0.1)
    assert room.ran == []
    assert done.unsettled == frozenset()
    assert await room.database.read(lambda tx: tx.one(HELD)) == (0,)
    # What was due there beside it, nobody has seen.
    assert {wake.lane for wake in room.wakeups.sent} == {"a", "empty"}


async def test_a_claim_that_fails_when_time_is_over_holds_up_no_end(room: Room) -> None:
    await room.put("a0", lane="a")
    room.database.slow = 0.4
    room.database.lost = StorageUnavailable("gone meanwhile")
    async with asyncio.timeout(30):
        done = await room.burst("a", seconds=0.1)
    assert room.ran == []
    assert done.unsettled == frozenset()
    assert {wake.lane for wake in room.wakeups.sent} == {"a"}

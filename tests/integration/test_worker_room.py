"""A worker takes no wake-up that it has no room for: another may have."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import pytest

from penstock.clock import ManualClock, SystemClock
from penstock.storage import Database, Tx, sql
from penstock.telemetry import LogEvent
from penstock.work import lanes
from penstock.work.kinds import Kind, Task
from penstock.work.outcomes import Done, Outcome
from penstock.work.waker import Waker
from penstock.work.wakeups import Wake
from penstock.work.wakeups.memory import MemoryWakeups
from penstock.work.worker import Worker

pytestmark = pytest.mark.anyio

INSERT = sql("""
INSERT INTO jobs (id, account, name, args, status, created_at, lane, due_at)
VALUES (:id, 'a', 'n', :args, 'pending', {now}, :lane, {now})
""")


class Hall:
    """Two workers with two slots each, on one queue; handlers wait until they are let go."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.wakeups = MemoryWakeups(ManualClock())
        self.started: list[tuple[str, str]] = []  # worker, row
        self.gates: dict[str, asyncio.Event] = {}
        self.wakers = {name: Waker(database, self.wakeups) for name in ("one", "two")}
        self.workers = {name: self._worker(name) for name in self.wakers}
        self.tasks: dict[str, asyncio.Task[object]] = {}

    def _worker(self, name: str) -> Worker:
        async def handle(task: Task[str]) -> Outcome:
            self.started.append((name, task.claim.id))
            await self.gates.setdefault(task.claim.id, asyncio.Event()).wait()
            return Done()

        kind = Kind(
            "job",
            "jobs",
            load=lambda tx, claims: {claim.id: "" for claim in claims},
            handle=handle,
            done="succeeded",
            terminal=frozenset({"succeeded", "dead", "cancelled"}),
            slots=2,
        )
        waker = self.wakers[name]
        return Worker(self.database, self.wakeups, waker, [kind], clock=SystemClock(), grace=60.0)

    async def run(self, name: str) -> None:
        """Start the worker; returns when it has looked around: from then on wakes alone tell it."""
        look, looked = self.workers[name]._look_everywhere, asyncio.Event()

        async def look_everywhere() -> None:
            await look()
            looked.set()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.workers[name], "_look_everywhere", look_everywhere)
            self.tasks[name] = asyncio.create_task(self.workers[name].run())
            async with asyncio.timeout(60):
                await looked.wait()

    async def put(self, *rows: str) -> None:
        """A row each in a lane of its own, and its wake."""

        def write(tx: Tx) -> None:
            for row in rows:
                lanes.ensure(tx, row, kind="job", account="a", max_in_flight=9)
                tx.run(INSERT, id=row, lane=row, args=json.dumps([]))

        await self.database.unit(write)
        await self.wakeups.publish([Wake("job", row) for row in rows])

    async def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self.started
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        for gate in self.gates.values():
            gate.set()
        for worker in self.workers.values():
            worker.stop()
        await asyncio.gather(*self.tasks.values())
        for waker in self.wakers.values():
            await waker.close()


async def test_a_busy_worker_leaves_wakes_to_others(database: Database) -> None:
    hall = Hall(database)
    await hall.run("one")
    await hall.run("two")
    await hall.put("a", "b", "c", "d")
    await hall.until(lambda: len(hall.started) == 4)
    assert sorted(name for name, _ in hall.started) == ["one", "one", "two", "two"]
    await hall.put("e")
    await asyncio.sleep(0.1)
    assert (await hall.wakeups.stats()).visible == 1  # nobody took it
    busy = {row: name for name, row in hall.started}
    hall.gates["a"].set()  # a place is free again
    await hall.until(lambda: (busy["a"], "e") in hall.started)
    await hall.stop()


async def test_a_wake_for_no_lane_is_told_of(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, object]] = []

    def log(event: LogEvent, exc_info: object = None, **fields: object) -> None:
        told.append({"event": event.name, **fields})

    monkeypatch.setattr("penstock.work.line.log", log)
    hall = Hall(database)
    await hall.run("one")
    await hall.wakeups.publish([Wake("job", "gone")])
    await hall.put("a")
    await hall.until(lambda: hall.started == [("one", "a")])
    await hall.until(lambda: told)
    assert told == [{"event": "lane_unknown", "kind": "job", "lane": "gone"}]
    async with asyncio.timeout(60):
        while (await hall.wakeups.stats()).in_flight:
            await asyncio.sleep(0.005)
    await hall.stop()


async def test_a_wake_is_told_whose_lane_it_is_for(database: Database) -> None:
    sent: list[Wake] = []

    class Recording(MemoryWakeups):
        async def publish(self, wakes: object) -> None:
            sent.extend(wakes)  # type: ignore[call-overload]

    waker = Waker(database, Recording(ManualClock()))

    def write(tx: Tx) -> None:
        lanes.ensure(tx, "acme's", kind="job", account="acme", max_in_flight=9)
        lanes.ensure(tx, "other", kind="job", account="globex", max_in_flight=9)

    await database.unit(write)
    waker.publish([Wake("job", "acme's"), Wake("job", "other", 30.0), Wake("job", "gone", 5.0)])
    await waker.close()
    assert {(wake.lane, wake.account) for wake in sent} == {
        ("acme's", "acme"),
        ("other", "globex"),
        ("gone", ""),
    }

"""Several workers, a real clock, and a carrier that goes down and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.clock import SystemClock
from penstock.storage import Database, Tx, sql
from penstock.storage.postgres import PostgresDatabase
from penstock.storage.sqlite import SqliteDatabase
from penstock.tracking.carriers.base import Answer, Query, RateLimited, Unavailable
from penstock.tracking.credentials import lane_of
from penstock.tracking.dispatch import Dispatched, dispatch, dispatcher
from penstock.work import circuit, lanes
from penstock.work.schedule import Scheduler, sweeper
from penstock.work.waker import Waker
from penstock.work.wakeups import Wake, Wakeups
from penstock.work.wakeups.local import LocalWakeups
from penstock.work.wakeups.postgres import PostgresWakeups
from penstock.work.worker import Worker
from support.engine import until
from support.tracking import World, found, scan

pytestmark = pytest.mark.anyio

DOWN = Unavailable("HTTP 503", "http_503")
BY_STATUS = sql("SELECT tracking_status, count(*) FROM shipments GROUP BY tracking_status")
LOST = sql("SELECT count(*) FROM shipments WHERE status <> 'pending' OR due_at IS NULL")
# Those that failed are asked for a minute later; somebody is impatient.
REFRESHED = sql("UPDATE shipments SET due_at = {now} WHERE error_kind IS NOT NULL")
ATTEMPTS = sql("SELECT coalesce(sum(attempts), 0) FROM shipments WHERE carrier = 'alpha'")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def world(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    monkeypatch.setattr(circuit, "FIRST_OPEN", 0.5)
    clock = SystemClock()
    if request.param == "sqlite":
        where: Path | str = request.getfixturevalue("sqlite_path")
        database: Database = SqliteDatabase(where, clock)
    else:
        where = request.getfixturevalue("postgres_database_url")
        database = PostgresDatabase(where, clock)
    await database.open()
    try:
        made = World(database, clock)
        made.where = where
        yield made
    finally:
        await database.close()


@asynccontextmanager
async def working(world: World) -> AsyncIterator[None]:
    """Three workers where processes can share the database, each with clients of its own."""
    async with AsyncExitStack() as stack:
        for number in range(3 if isinstance(world.where, str) else 1):
            database, wakeups = world.database, LocalWakeups()
            if isinstance(world.where, str):
                wakeups = PostgresWakeups(world.where)
                if number:
                    database = PostgresDatabase(world.where, world.clock)
                    await database.open()
                    stack.push_async_callback(database.close)
            await _start(stack, world, database, wakeups)
        yield


async def _start(stack: AsyncExitStack, world: World, database: Database, wakeups: Wakeups) -> None:
    await wakeups.open()
    stack.push_async_callback(wakeups.close)
    waker = Waker(database, wakeups)
    stack.push_async_callback(waker.close)
    kinds = [world.kind_of(world.clock)]
    worker = Worker(database, wakeups, waker, kinds, clock=world.clock, grace=5.0)
    database.subscribe(waker.on_notes)
    tasks = [
        sweeper(database, waker, kinds, every=0.5, held=worker.held),
        dispatcher(database, world.clock, every=1.0),
    ]
    scheduler = asyncio.create_task(Scheduler(database, world.clock, tasks).run())
    running = asyncio.create_task(worker.run())

    async def end() -> None:
        worker.stop()
        await running
        scheduler.cancel()
        await asyncio.gather(scheduler, return_exceptions=True)

    stack.push_async_callback(end)


async def state(world: World) -> str:
    return str((await world.lane())["circuit"])


async def test_an_outage_costs_a_few_calls_and_no_shipment(world: World) -> None:
    for n in range(40):
        await world.create(f"N{n:02}")
        await world.create(f"M{n:02}", "bulk")
    up = False
    asked_at: list[str] = []

    async def alpha(_: str, queries: Sequence[Query]) -> dict[str, Answer]:
        asked_at.append(queries[0].number)
        await asyncio.sleep(0.01)
        if not up:
            return {q.number: DOWN for q in queries}
        return {q.number: found(q.number, scan(1, "in_transit")) for q in queries}

    world.answers["alpha"] = alpha
    world.answers["bulk"] = lambda _, queries: {
        q.number: found(q.number, scan(1, "out_for_delivery")) for q in queries
    }
    async with working(world):
        await until(lambda: _opened(world, trips=3))
        # The other carrier went on all the while.
        await until(lambda: _has(world, "out_for_delivery", 40))
        probes = [
            entry
            for entry in await world.database.read(
                lambda tx: circuit.history(tx, lane_of("alpha", None), 100)
            )
            if entry["state"] == "half_open"
        ]
        # Four may be under way when the third fails; afterwards there is one call for each probe.
        assert len(asked_at) <= 3 + 4 + len(probes) + 1
        rows = await world.database.read(lambda tx: tx.rows(ATTEMPTS))
        assert rows[0][0] <= len(asked_at)  # no attempt is counted but for a call
        up = True
        await until(lambda: _recovered(world), seconds=60.0)
    assert await state(world) == "closed"
    ((lost,),) = await world.database.read(lambda tx: tx.rows(LOST))
    assert lost == 0
    events = await world.events()
    assert events.count("shipment.created") == 80
    assert events.count("shipment.out_for_delivery") == 40
    assert events.count("shipment.status_changed") == 40


async def _opened(world: World, trips: int) -> bool:
    return int((await world.lane())["trips"]) >= trips


async def _recovered(world: World) -> bool:
    # Again and again: a probe that failed may not have been settled before.
    await world.database.unit(lambda tx: tx.run(REFRESHED))
    return await _has(world, "in_transit", 40)


async def _has(world: World, status: str, n: int) -> bool:
    rows = await world.database.read(lambda tx: tx.rows(BY_STATUS))
    return dict(rows).get(status) == n


async def test_a_pause_that_the_carrier_asks_for_is_kept_by_all_workers(world: World) -> None:
    for n in range(12):
        await world.create(f"N{n:02}")
    asked: list[float] = []
    paused = 2.0

    def alpha(_: str, queries: Sequence[Query]) -> dict[str, Answer]:
        asked.append(world.clock.monotonic())
        if len(asked) <= 4:
            return {q.number: RateLimited(paused) for q in queries}
        return {q.number: found(q.number, scan(1, "in_transit")) for q in queries}

    world.answers["alpha"] = alpha
    async with working(world):
        await until(lambda: _has(world, "in_transit", 12), seconds=60.0)
    # Those that were claimed together, and then nobody until the time was over.
    first = [at for at in asked if at - asked[0] < paused - 0.5]
    assert len(first) <= 4
    assert len(asked) == 12 + 4
    assert (await world.lane())["trips"] == 0


# ------------------------------------------------------------------ dispatch


async def test_a_dispatch_wakes_each_lane_once(world: World) -> None:
    for n in range(5):
        await world.create(f"N{n}")
    await world.create("M1", "bulk")
    await world.create("N1", "free", account="other")
    later = sql("UPDATE shipments SET due_at = {now} + 60000000 WHERE carrier = 'free'")
    await world.database.unit(lambda tx: tx.run(later))
    notes: list[Any] = []
    world.database.subscribe(notes.extend)
    assert await world.database.unit(dispatch) == Dispatched(6, 2)
    assert {note.lane for note in notes if isinstance(note, Wake)} == {
        lane_of("alpha", None),
        lane_of("bulk", None),
    }
    assert len(notes) == 2
    pause = {"alpha": 60.0, "bulk": 0.0}
    for carrier, seconds in pause.items():
        lane = lane_of(carrier, None)
        await world.database.unit(lambda tx, lane=lane, s=seconds: lanes.close_for(tx, lane, s))
    assert await world.database.unit(dispatch) == Dispatched(1, 1, held_back=5)


async def test_what_is_being_checked_is_not_dispatched_again(world: World) -> None:
    """However often it is dispatched, a shipment that is due is checked once."""
    await world.create("N1")
    held = await world.claim()
    assert await world.database.unit(dispatch) == Dispatched(0, 0)
    assert await world.claim() == []
    assert await world.settle(await world.handle(held)) == 1
    assert await world.database.unit(dispatch) == Dispatched(0, 0)
    assert len(world.calls) == 1


async def test_what_is_asked_for_while_it_is_checked_is_dispatched_afterwards(world: World) -> None:
    id_ = await world.create("N1")
    held = await world.claim()
    await world.refresh(id_)
    assert await world.database.unit(dispatch) == Dispatched(0, 0)
    await world.settle(await world.handle(held))
    assert await world.database.unit(dispatch) == Dispatched(1, 1)


async def test_a_dispatch_finds_what_nobody_was_woken_for(world: World) -> None:
    """Wakes are lost on the way; what is due is due."""
    world.answers["alpha"] = lambda _, queries: {
        q.number: found(q.number, scan(1, "in_transit")) for q in queries
    }
    await world.create("N1")

    def silent(tx: Tx) -> None:
        lanes.configure(tx, lane_of("alpha", None), paused=False)

    async with working(world):
        await world.database.unit(silent)
        await until(lambda: _has(world, "in_transit", 1))

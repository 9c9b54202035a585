"""Replays by real workers on both databases, beside new events, with endpoints that fail."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from penstock.events import replay, replays
from penstock.events.accept import NewEvent
from penstock.storage import sql
from support.counters import check
from support.engine import LATER, NEVER, OK, Answer, Engine, engine, until

pytestmark = pytest.mark.anyio

OPEN = sql("SELECT count(*) FROM deliveries WHERE status = 'pending'")
DEADLOCKS = sql(
    sqlite="SELECT 0",
    postgres="SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()",
)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def where(request: pytest.FixtureRequest) -> Path | str:
    """A migrated, empty database whose time is the real one."""
    sqlite = request.param == "sqlite"
    found: Path | str = request.getfixturevalue(
        "sqlite_path" if sqlite else "postgres_database_url"
    )
    return found


def event(number: int, key: str | None = None) -> NewEvent:
    return NewEvent("order.changed", json.dumps({"n": number}), ordering_key=key)


async def count(bench: Engine, statement: Any) -> int:
    ((n,),) = await bench.database.read(lambda tx: tx.rows(statement))
    return int(n)


async def state(bench: Engine, id_: str) -> dict[str, Any]:
    return await bench.database.read(lambda tx: replays.get(tx, "default", id_))


@pytest.mark.timeout(300)
async def test_replays_beside_new_events(where: Path | str) -> None:
    luck = random.Random(7)
    fails = True
    sent: Counter[str] = Counter()

    async def answer(body: bytes) -> Answer:
        sent[json.loads(body)["event_id"]] += 1
        await asyncio.sleep(luck.random() / 500)
        return luck.choice([OK, OK, LATER, NEVER]) if fails else OK

    async with engine(where, answer) as bench:
        for _ in range(3):
            await bench.endpoint()
        async with bench.working(2 if isinstance(where, str) else 1):
            old: list[str] = []
            for n in range(0, 150, 50):
                keys = [None, "k1", "k2"]
                old += await bench.accept(*(event(m, keys[m % 3]) for m in range(n, n + 50)))

            async def idle() -> bool:
                return await count(bench, OPEN) == 0

            await until(idle, 60)
            await check(bench.database)
            began = await count(bench, DEADLOCKS)
            first = await replays.create(bench.database, "default")
            second = await replays.create(bench.database, "default", status="failed")
            most = 0

            async def look() -> bool:
                nonlocal most
                most = max(most, (await state(bench, first))["outstanding"])
                return most > 0

            for n in range(60):
                await bench.accept(event(n, "k1"), event(n))
                await look()
                await asyncio.sleep(0.01)
            await until(look)  # it may begin late
            fails = False
            await bench.endpoint()
            third = await replays.create(bench.database, "default", include_missing=True)

            async def done(id_: str) -> bool:
                return (await state(bench, id_))["status"] == "done"

            for id_ in (first, second, third):
                await until(lambda id_=id_: done(id_), 90)  # type: ignore[misc]
            await until(idle, 60)
            # One is undone and run again, so a few do no harm; many would mean a wrong lock order.
            assert await count(bench, DEADLOCKS) - began < 5
        await check(bench.database)
        assert 0 < most <= 1000
        whole = await state(bench, third)
        assert whole["delivered"] + whole["dead"] == whole["replayed"] >= 270
        assert whole["looked_at"] == whole["estimate"] == 270
        assert min(sent[id_] for id_ in old) >= 5  # three endpoints at first, then the fourth too


async def test_a_replay_is_cancelled_while_it_runs(where: Path | str) -> None:
    sent = 0
    cancelled = asyncio.Event()

    async def answer(body: bytes) -> Answer:
        nonlocal sent
        sent += 1
        await asyncio.sleep(0.01)
        if sent > 350:  # it must not be done before
            await cancelled.wait()
        return OK

    async with engine(where, answer) as bench:
        await bench.endpoint()
        async with bench.working():
            await bench.accept(*(event(n) for n in range(300)))

            async def idle() -> bool:
                return await count(bench, OPEN) == 0

            await until(idle, 60)
            id_ = await replays.create(bench.database, "default")

            async def begun() -> bool:
                return (await state(bench, id_))["replayed"] > 20

            await until(begun)
            await bench.database.unit(lambda tx: replays.cancel(tx, "default", id_))
            cancelled.set()
            while await bench.database.unit(lambda tx: replay.withdraw(tx, "default", id_)):
                pass
            await until(idle)
            found = await state(bench, id_)
            await asyncio.sleep(0.3)
            assert await state(bench, id_) == found
        assert (found["status"], found["outstanding"]) == ("cancelled", 0)
        assert found["replayed"] < 300
        await check(bench.database)

"""Order per key: real workers on both databases, and an endpoint that fails at random."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.clock import SECOND, SystemClock, to_iso
from penstock.events import endpoints, ordering, query
from penstock.events.accept import NewEvent
from penstock.storage import Database, sql
from support.counters import check
from support.engine import LATER, NEVER, OK, Answer, Engine, engine, until

pytestmark = pytest.mark.anyio

OPEN = sql("SELECT count(*) FROM deliveries WHERE status = 'pending'")
HELD = sql("SELECT count(*) FROM deliveries WHERE lease_until IS NOT NULL")
HEADS = sql("SELECT key, head, halted FROM order_heads ORDER BY key")
STATES = sql("SELECT status FROM deliveries ORDER BY order_seq")
PLACES = sql("""
SELECT d.ordering_key, e.id FROM deliveries d JOIN events e ON e.id = d.event_id
ORDER BY d.ordering_key, d.order_seq
""")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def where(request: pytest.FixtureRequest) -> Path | str:
    """A migrated, empty database whose time is the real one."""
    sqlite = request.param == "sqlite"
    found: Path | str = request.getfixturevalue(
        "sqlite_path" if sqlite else "postgres_database_url"
    )
    return found


def event(key: str | None, number: int, **fields: Any) -> NewEvent:
    payload = json.dumps({"key": key, "n": number}, separators=(",", ":"))
    return NewEvent("order.changed", payload, ordering_key=key, **fields)


class Endpoint:
    """Answers as it is told, and keeps what it was sent: (key, number, event id, status).

    `began` is when each number of a key was sent first, in µs.
    """

    def __init__(self, decide: Callable[[str, int], Answer], pause: float = 0.0) -> None:
        self.decide = decide
        self.pause = pause
        self.log: list[tuple[str, int, str, int]] = []
        self.began: dict[tuple[str, int], int] = {}
        self.under_way: dict[str, int] = defaultdict(int)
        self.at_once = 0

    async def __call__(self, body: bytes) -> Answer:
        sent = json.loads(body)
        key, number = sent["payload"]["key"], sent["payload"]["n"]
        self.began.setdefault((key, number), SystemClock().now())
        self.under_way[key] += 1
        self.at_once = max(self.at_once, sum(self.under_way.values()))
        assert key is None or self.under_way[key] == 1, f"two of {key} at once"
        await asyncio.sleep(self.pause)
        answer = self.decide(key, number)
        self.under_way[key] -= 1
        self.log.append((key, number, sent["event_id"], getattr(answer, "status", 0)))
        return answer

    def numbers(self, key: str) -> list[int]:
        """The numbers sent under a key, repeats of one merged."""
        found: list[int] = []
        for of, number, *_ in self.log:
            if of == key and (not found or found[-1] != number):
                found.append(number)
        return found


async def count(database: Database, statement: Any) -> int:
    row = await database.read(lambda tx: tx.one(statement))
    assert row is not None
    return int(row[0])


def nothing_open(bench: Engine) -> Callable[[], Awaitable[bool]]:
    async def condition() -> bool:
        return await count(bench.database, OPEN) == 0

    return condition


async def why(bench: Engine, event_id: str) -> str:
    found = await bench.database.read(lambda tx: query.detail(tx, "default", event_id))
    (delivery,) = found["deliveries"]
    return str(delivery["why"]["code"]) if delivery["why"] else str(delivery["status"])


async def test_a_thousand_events_over_twenty_keys(where: Path | str) -> None:
    chance = random.Random(3)
    endpoint = Endpoint(lambda *_: LATER if chance.random() < 0.3 else OK, pause=0.001)
    async with engine(where, endpoint) as bench:
        await bench.endpoint()

        async def produce(keys: list[str]) -> None:
            # Accepted one by one and in batches over several keys, while others are pushed.
            for start in range(0, 50, 5):
                batch = [event(key, n) for n in range(start, start + 5) for key in keys]
                chance.shuffle(keys)
                if start % 2:
                    await bench.accept(*batch)
                else:
                    for each in batch:
                        await bench.accept(each)

        keys = [f"k{n}" for n in range(20)]
        async with bench.working(workers=2 if isinstance(where, str) else 1):
            async with asyncio.TaskGroup() as producers:
                for n in range(5):
                    producers.create_task(produce(keys[n::5]))
            await until(nothing_open(bench))
        assert len(endpoint.log) > 1200
        for key in keys:
            assert endpoint.numbers(key) == list(range(50))
        assert endpoint.at_once > 5
        await check(bench.database)
        heads = await bench.database.read(lambda tx: tx.rows(HEADS))
        assert [(head, bool(halted)) for _, head, halted in heads] == [(None, False)] * 20
        assert await bench.database.unit(ordering.prune) == 20


async def test_many_senders_of_the_same_keys(where: Path | str) -> None:
    # Nobody can say in which order events of several senders come, but it is one order.
    chance = random.Random(4)
    endpoint = Endpoint(lambda *_: LATER if chance.random() < 0.2 else OK)
    keys = ["a", "b", "c"]
    async with engine(where, endpoint) as bench:
        await bench.endpoint()

        async def produce(sender: int) -> None:
            for n in range(12):
                chance.shuffle(keys)
                await bench.accept(*(event(key, 100 * sender + n) for key in keys))

        async with bench.working(workers=2 if isinstance(where, str) else 1):
            await asyncio.gather(*(produce(sender) for sender in range(8)))
            await until(nothing_open(bench))
        places = await bench.database.read(lambda tx: tx.rows(PLACES))
        for key in keys:
            sent: list[str] = []
            for of, _, event_id, _ in endpoint.log:
                if of == key and (not sent or sent[-1] != event_id):
                    sent.append(event_id)
            assert sent == [event_id for of, event_id in places if of == key]
        await check(bench.database)


async def test_one_key_that_never_succeeds_holds_up_no_other(where: Path | str) -> None:
    endpoint = Endpoint(lambda key, n: LATER if (key, n) == ("stuck", 0) else OK)
    async with engine(where, endpoint) as bench:
        await bench.endpoint(schedule=[0.01] * 3 + [3600.0])
        first, second = await bench.accept(event("stuck", 0), event("stuck", 1))
        async with bench.working():
            await bench.accept(*(event(f"k{n % 10}", n) for n in range(200)))
            await bench.accept(*(event(None, n) for n in range(50)))

            async def only_stuck() -> bool:
                # It has come to the gap of an hour, too.
                tries = sum(key == "stuck" for key, *_ in endpoint.log)
                return tries == 4 and await count(bench.database, OPEN) == 2

            await until(only_stuck)
        assert await why(bench, first) == "retry_later"
        assert await why(bench, second) == "behind"
        assert endpoint.numbers("stuck") == [0]
        await check(bench.database)


async def test_a_dead_head_is_followed_by_the_next(where: Path | str) -> None:
    endpoint = Endpoint(lambda _, n: NEVER if n % 3 == 0 else OK)
    async with engine(where, endpoint) as bench:
        await bench.endpoint()
        await bench.accept(*(event("a", n) for n in range(10)))
        async with bench.working():
            await until(nothing_open(bench))
        assert endpoint.numbers("a") == list(range(10))
        states = [s for (s,) in await bench.database.read(lambda tx: tx.rows(STATES))]
        assert states == ["dead" if n % 3 == 0 else "delivered" for n in range(10)]
        await check(bench.database)


async def test_a_dead_head_halts_its_key_until_the_endpoint_says_continue(
    where: Path | str,
) -> None:
    endpoint = Endpoint(lambda key, n: NEVER if (key, n) == ("a", 1) else OK)
    async with engine(where, endpoint) as bench:
        endpoint_id = await bench.endpoint(on_dead="halt")
        ids = await bench.accept(
            *(event("a", n) for n in range(4)), *(event("b", n) for n in range(4))
        )
        async with bench.working():

            async def halted() -> bool:
                return await count(bench.database, OPEN) == 2 and len(endpoint.log) == 6

            await until(halted)
            (late,) = await bench.accept(event("a", 4))
            await asyncio.sleep(0.2)
            assert endpoint.numbers("a") == [0, 1]
            assert endpoint.numbers("b") == [0, 1, 2, 3]
            assert [await why(bench, id_) for id_ in (*ids[:4], late)] == [
                "delivered",
                "dead",
                *["behind_dead"] * 3,
            ]
            await check(bench.database)
            await bench.database.unit(
                lambda tx: endpoints.change(tx, "default", endpoint_id, {"on_dead": "continue"})
            )
            await until(nothing_open(bench))
        assert endpoint.numbers("a") == [0, 1, 2, 3, 4]
        heads = await bench.database.read(lambda tx: tx.rows(HEADS))
        assert [(key, head, bool(halt)) for key, head, halt in heads] == [
            ("a", None, False),
            ("b", None, False),
        ]
        await check(bench.database)


async def test_on_dead_changed_at_the_moment_of_death(where: Path | str) -> None:
    # Whichever comes first, no queue stays halted at an endpoint that says continue.
    endpoint = Endpoint(lambda _, n: NEVER if n == 0 else OK)
    async with engine(where, endpoint) as bench:
        endpoint_id = await bench.endpoint(on_dead="halt")
        async with bench.working():
            for round_ in range(5):
                keys = [f"{round_}.{n}" for n in range(8)]

                async def set_on_dead(value: str) -> None:
                    await bench.database.unit(
                        lambda tx: endpoints.change(tx, "default", endpoint_id, {"on_dead": value})
                    )

                await set_on_dead("halt")
                accepting = [
                    asyncio.create_task(bench.accept(event(key, 0), event(key, 1))) for key in keys
                ]
                await asyncio.sleep(0.01 * round_)
                await set_on_dead("continue")
                await asyncio.gather(*accepting)
                await until(nothing_open(bench))
        await check(bench.database)


async def test_the_deletion_of_an_endpoint_cancels_all_that_wait(where: Path | str) -> None:
    endpoint = Endpoint(lambda *_: LATER, pause=0.01)
    async with engine(where, endpoint) as bench:
        # None may have used up its attempts by then: a deletion may be kept waiting.
        endpoint_id = await bench.endpoint(schedule=[0.003] * 1000)
        async with bench.working():
            await bench.accept(*(event(f"k{n % 5}", n) for n in range(50)))

            async def produce() -> None:
                for n in range(100):
                    await bench.accept(event(f"k{n % 5}", n))

            producing = asyncio.create_task(produce())
            await until(lambda: len(endpoint.log) > 10)
            lane = await bench.database.unit(
                lambda tx: endpoints.delete(tx, "default", endpoint_id)
            )
            while await bench.database.unit(lambda tx: endpoints.cancel_waiting(tx, lane)):
                pass
            await producing
            await until(nothing_open(bench))
        states = {s for (s,) in await bench.database.read(lambda tx: tx.rows(STATES))}
        assert states <= {"cancelled", "delivered"}
        assert "cancelled" in states
        await check(bench.database)


async def test_a_worker_that_dies_does_not_change_the_order(where: Path | str) -> None:
    frozen = asyncio.Event()
    stuck = True

    async def answers(body: bytes) -> Answer:
        if stuck:  # what the first worker sends is never answered, as if it had been killed
            endpoint.log.append(("", 0, "", 0))
            await frozen.wait()
        return await endpoint(body)

    endpoint = Endpoint(lambda *_: OK)
    async with engine(where, answers, lease=1.5, slots=8) as bench:
        await bench.endpoint()
        await bench.accept(*(event(f"k{n % 4}", n) for n in range(40)))
        async with bench.working():
            await until(lambda: len(endpoint.log) >= 4)
            for line in bench.workers[0].lines.values():
                # Taken away behind its back: neither renewed nor settled.
                for running in list(line._running.values()):
                    assert running.task is not None
                    running.task.cancel()
                line._running.clear()
            stuck = False
            endpoint.log.clear()
            await until(nothing_open(bench))
        for n in range(4):
            assert endpoint.numbers(f"k{n}") == list(range(n, 40, 4))
        await check(bench.database)


async def test_a_head_that_is_for_later_holds_its_followers_back(where: Path | str) -> None:
    endpoint = Endpoint(lambda *_: OK)
    async with engine(where, endpoint) as bench:
        await bench.endpoint()
        soon = SystemClock().now() + SECOND
        later, never = soon + SECOND, soon + 86_400 * SECOND
        async with bench.working():
            held = await bench.accept(event("b", 0, deliver_at=never), event("b", 1))
            await bench.accept(
                event("a", 0, deliver_at=soon),
                event("a", 1),
                event("a", 2, deliver_at=later),
            )
            (last,) = await bench.accept(event("a", 3, deliver_at=never))

            async def its_turn() -> bool:
                return await why(bench, last) == "not_due"

            await until(its_turn)
            assert [await why(bench, id_) for id_ in held] == ["not_due", "behind"]
        assert endpoint.numbers("a") == [0, 1, 2]
        assert soon <= endpoint.began["a", 0] <= endpoint.began["a", 1], to_iso(soon)
        assert later <= endpoint.began["a", 2], to_iso(later)
        assert endpoint.numbers("b") == []
        await check(bench.database)


async def test_finding_the_next_does_not_walk_past_the_delivered(where: Path | str) -> None:
    async with engine(where, Endpoint(lambda *_: OK)) as bench:
        text = (
            "SELECT id FROM deliveries WHERE endpoint_id = 'e' AND ordering_key = 'k'"
            " AND status = 'pending' ORDER BY order_seq LIMIT 1"
        )
        if isinstance(where, str):
            statement = sql(f"EXPLAIN {text}")

            def plan(tx: Any) -> list[Any]:
                tx.rows(sql("SELECT set_config('enable_seqscan', 'off', true)"))
                return list(tx.rows(statement))

            found = str(await bench.database.read(plan))
            assert "Sort" not in found
        else:
            found = str(
                await bench.database.read(lambda tx: tx.rows(sql(f"EXPLAIN QUERY PLAN {text}")))
            )
            assert "TEMP B-TREE" not in found
        assert "deliveries_order" in found

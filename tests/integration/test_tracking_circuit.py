"""A carrier in trouble: its circuit, as the shipments of several workers see it."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import pytest

from penstock.clock import SECOND, ManualClock
from penstock.storage import Database, Tx, sql
from penstock.tracking.carriers.base import (
    Forbidden,
    Invalid,
    Malformed,
    NotFound,
    RateLimited,
    Unavailable,
)
from penstock.tracking.credentials import lane_of
from penstock.work import circuit, ledger
from support.tracking import World, checked, found, scan

pytestmark = pytest.mark.anyio

DOWN = Unavailable("HTTP 503", "http_503")
TOUCHED = sql("SELECT count(*) FROM shipments WHERE attempts > 0 OR generation > 0")
STATES = sql("SELECT DISTINCT tracking_status FROM shipments")
LOST = sql("SELECT count(*) FROM shipments WHERE status <> 'pending' OR due_at IS NULL")
ALL_DUE = sql("UPDATE shipments SET due_at = {now} WHERE status = 'pending'")
CIRCUITS = sql("SELECT event_type, account FROM events WHERE event_type LIKE 'carrier.%'")


@pytest.fixture
def world(database: Database, clock: ManualClock) -> World:
    return World(database, clock)


async def fails(world: World, times: int, answer: Any = DOWN) -> None:
    """So many calls, one after the other."""
    world.answers["alpha"] = answer
    for _ in range(times):
        assert await world.check(lane_of("alpha", None), slots=1) == 1


async def cool_down(world: World) -> None:
    wait = ((await world.lane())["open_at"] - world.clock.now()) / SECOND
    assert isinstance(world.clock, ManualClock)
    world.clock.advance(max(0.0, wait))


async def number(world: World, statement: Any) -> int:
    ((n,),) = await world.database.read(lambda tx: tx.rows(statement))
    return int(n)


@pytest.mark.parametrize(
    "answer", [DOWN, Unavailable("slow", "timeout"), Forbidden(None, "bad key")]
)
async def test_three_failures_in_a_row_open_it(world: World, answer: Any) -> None:
    """An outage is seen for what it is: the client's answer counts, not whether it raised."""
    await world.create_many(10)
    await fails(world, 2, answer)
    await fails(world, 1, NotFound("x", "no"))  # an answer: they were not in a row
    await fails(world, 2, answer)
    assert (await world.lane())["circuit"] == "closed"
    await fails(world, 1, answer)
    lane = await world.lane()
    assert (lane["circuit"], lane["trips"]) == ("open", 1)


async def test_while_it_is_open_nothing_is_asked_counted_or_lost(world: World) -> None:
    """What waits is not touched at all: no attempt is used up, so nothing can run out of them."""
    await world.create_many(50)
    await fails(world, 3)
    calls = len(world.calls)
    for _ in range(20):
        world.clock.advance(0.7)
        assert await world.check() == 0
    assert len(world.calls) == calls
    assert await number(world, TOUCHED) == 3
    assert await number(world, LOST) == 0


async def test_other_carriers_and_credentials_go_on(world: World) -> None:
    await world.create_many(5)
    await world.create("M1", "bulk")
    await world.database.unit(
        lambda tx: world.credentials.put(tx, "other", "alpha", {"key": "theirs"})
    )
    await world.create("N1", account="other")
    await fails(world, 3)
    world.answers["alpha"] = NotFound("x", "no")
    assert await world.check(lane_of("bulk", None)) == 1
    assert await world.check(lane_of("alpha", "other")) == 1
    assert (await world.lane())["circuit"] == "open"


async def test_failures_are_counted_exactly_by_twenty_writers_at_once(world: World) -> None:
    """No failure is lost to another's, none is counted twice, and it opens once."""
    await world.create_many(60)
    world.answers["alpha"] = DOWN
    settled = await world.handle(await world.claim(slots=60))
    slow = world.database.dialect == "postgres"
    quiet = await silent(world, settled[:18])

    def settle(tx: Tx, settlement: Any) -> None:
        if slow:
            time.sleep(random.random() * 0.003)
        ledger.settle(tx, world.kind, [settlement])

    async def all_at_once(some: list[Any]) -> None:
        await asyncio.gather(*(world.database.unit(lambda tx, s=s: settle(tx, s)) for s in some))

    await all_at_once([*quiet, *settled[18:20]])  # twenty writers, two of them with bad news
    lane = await world.lane()
    assert (lane["circuit"], lane["consecutive"]) == ("closed", 2)
    await all_at_once(settled[20:40])
    lane = await world.lane()
    assert (lane["circuit"], lane["circuit_generation"], lane["trips"]) == ("open", 1, 1)
    await all_at_once(settled[40:])
    assert await world.lane() == lane
    log = await world.database.read(lambda tx: circuit.history(tx, lane_of("alpha", None), 10))
    assert [entry["state"] for entry in log] == ["open"]


async def silent(world: World, settlements: list[Any]) -> list[Any]:
    """The same, saying nothing of the carrier."""
    from dataclasses import replace

    return [replace(each, health=None) for each in settlements]


async def test_the_first_failures_of_all_workers_at_once_are_no_conflict(world: World) -> None:
    """The lane is there from the first shipment on: no writer has to make it."""
    await world.create_many(20)
    world.answers["alpha"] = DOWN
    settled = await world.handle(await world.claim(slots=20))
    done = await asyncio.gather(
        *(world.settle([settlement]) for settlement in settled), return_exceptions=True
    )
    assert done == [1] * 20
    assert (await world.lane())["trips"] == 1


async def test_after_the_cool_down_exactly_one_is_let_through(world: World) -> None:
    await world.create_many(40)
    await fails(world, 3)
    await cool_down(world)
    claimed = await asyncio.gather(*(world.claim(slots=10) for _ in range(20)))
    probes = [held for part in claimed for held in part]
    assert len(probes) == 1
    assert await world.check() == 0
    world.answers["alpha"] = found(probes[0][1].query.number, scan(1, "in_transit"))
    assert await world.settle(await world.handle(probes)) == 1
    assert (await world.lane())["circuit"] == "closed"
    assert await world.check(slots=10) == 10


async def test_a_number_that_is_not_known_is_an_answer_to_the_probe(world: World) -> None:
    await world.create_many(5)
    await fails(world, 3)
    await cool_down(world)
    await fails(world, 1, NotFound("x", "no"))
    assert (await world.lane())["circuit"] == "closed"


async def test_a_failed_probe_doubles_the_wait(world: World) -> None:
    await world.create_many(20)
    await fails(world, 3)
    longest = 30.0
    for trips in range(1, 9):
        lane = await world.lane()
        assert (lane["circuit"], lane["trips"]) == ("open", trips)
        wait = (lane["open_at"] - world.clock.now()) / SECOND
        assert longest / 2 - 0.01 <= wait <= longest
        longest = min(2 * longest, 1800.0)
        await cool_down(world)
        await fails(world, 1)


async def test_answers_of_before_it_opened_are_ignored(world: World) -> None:
    """A call that was under way when it opened does not close it, however well it went."""
    await world.create_many(10)
    held = await world.claim(slots=2)
    world.answers["alpha"] = found("x", scan(1, "in_transit"))
    late = await world.handle(held)
    await fails(world, 3)
    opened = await world.lane()
    assert await world.settle(late) == 2
    assert await world.lane() == opened


@pytest.mark.parametrize(
    "answer",
    [
        NotFound("x", "no"),
        Invalid("x", "no"),
        Forbidden("x", "not yours"),
        Malformed("x", "no status"),
        RateLimited(1.0),
    ],
)
async def test_what_says_nothing_bad_of_the_carrier_never_opens_it(
    world: World, answer: Any
) -> None:
    await world.create_many(30)
    world.answers["alpha"] = answer
    for _ in range(30):
        assert await world.check(lane_of("alpha", None), slots=1) == 1
        world.clock.advance(1.1)
    lane = await world.lane()
    assert (lane["circuit"], lane["consecutive"]) == ("closed", 0)


async def test_our_own_bugs_never_open_it(world: World) -> None:
    await world.create_many(30)

    def broken(*_: Any) -> Any:
        raise KeyError("a mistake of ours")

    world.answers["alpha"] = broken
    assert await world.check() == 30
    lane = await world.lane()
    assert (lane["circuit"], lane["consecutive"]) == ("closed", 0)
    assert await number(world, LOST) == 0


async def test_a_database_that_fails_never_opens_it(world: World) -> None:
    """What cannot be stored is settled bare, as an attempt that failed, without a word of the
    carrier."""
    from penstock.work.outcomes import Retry
    from penstock.work.settlement import decide

    await world.create_many(10)
    held = await world.claim(slots=10)
    batch = [
        decide(world.kind, claim, Retry(reason="what it led to could not be stored"), 0)
        for claim, _ in held
    ]
    assert await world.settle(batch) == 10
    lane = await world.lane()
    assert (lane["circuit"], lane["consecutive"]) == ("closed", 0)


async def test_a_failed_call_for_many_is_one_failure(world: World) -> None:
    await world.create_many(90, "bulk")
    world.answers["bulk"] = DOWN
    assert await world.check(slots=30) == 30
    assert (await world.lane("bulk"))["consecutive"] == 1
    assert await world.check(slots=60) == 60
    assert (await world.lane("bulk"))["circuit"] == "open"
    assert len(world.calls) == 3


async def test_it_can_be_held_open_and_closed_and_let_go(world: World) -> None:
    await world.create_many(40)
    lane = lane_of("alpha", None)

    async def move(fn: Any, *args: Any, **options: Any) -> Any:
        return await world.database.unit(
            lambda tx: fn(tx, lane, *args, actor="key_1", reason="they told us", **options)
        )

    async def shown() -> circuit.Circuit:
        found = await world.database.read(lambda tx: circuit.show(tx, lane))
        assert found is not None
        return found

    world.answers["alpha"] = NotFound("x", "no")
    assert await move(circuit.force_open, 600.0)
    assert await world.check() == 0
    assert ((await shown()).state, (await shown()).held) == ("open", "open")
    world.clock.advance(601.0)  # it expires: a probe decides
    assert (await shown()).held is None
    assert await world.check() == 1
    assert (await world.lane())["circuit"] == "closed"
    assert await move(circuit.force_closed, 600.0)
    await fails(world, 10)
    assert (await world.lane())["circuit"] == "closed"
    world.clock.advance(601.0)  # it expires: failures count again
    await fails(world, 1)
    assert (await world.lane())["circuit"] == "open"
    assert await move(circuit.force_open, 600.0)
    assert await move(circuit.release)
    assert not await move(circuit.release)
    assert (await shown()).held is None
    await fails(world, 1, NotFound("x", "no"))  # the probe, at once
    assert (await world.lane())["circuit"] == "closed"
    assert await move(circuit.force_closed, 600.0)
    assert await move(circuit.release)
    await fails(world, 3)
    assert (await world.lane())["circuit"] == "open"
    log = await world.database.read(lambda tx: circuit.history(tx, lane, 50))
    assert {entry["actor"] for entry in log} == {"circuit", "key_1"}
    assert log[0]["state"] == "open"


async def test_an_outage_of_an_hour_leaves_every_status_in_place(world: World) -> None:
    await world.create_many(60)
    world.answers["alpha"] = lambda _, queries: {
        q.number: found(q.number, scan(1, "in_transit")) for q in queries
    }
    assert await world.check() == 60
    assert isinstance(world.clock, ManualClock)
    await world.database.unit(lambda tx: tx.run(ALL_DUE))
    calls = len(world.calls)
    world.answers["alpha"] = DOWN
    for _ in range(720):
        await world.check(slots=4)
        world.clock.advance(5.0)
    asked = len(world.calls) - calls
    assert 3 <= asked <= 16  # those under way when it began, then probes ever further apart
    assert await world.database.read(lambda tx: tx.rows(STATES)) == [("in_transit",)]
    assert await number(world, LOST) == 0
    untouched = sql("SELECT count(*) FROM shipments WHERE attempts = 0")
    assert await number(world, untouched) >= 60 - asked
    world.answers["alpha"] = lambda _, queries: {
        q.number: found(q.number, scan(1, "in_transit"), scan(30, "delivered")) for q in queries
    }
    world.clock.advance(1800.0)
    await world.database.unit(lambda tx: tx.run(ALL_DUE))
    assert await world.check() == 1
    await world.check()
    assert await world.database.read(lambda tx: tx.rows(STATES)) == [("delivered",)]


async def test_it_is_told_whose_credential_it_is(world: World) -> None:
    await world.create_many(10)
    await world.database.unit(
        lambda tx: world.credentials.put(tx, "other", "alpha", {"key": "theirs"})
    )
    for n in range(3):
        await world.create(f"T{n}", account="other")
    await fails(world, 3)
    await cool_down(world)
    await fails(world, 1)  # opened again by a probe: told no second time
    await cool_down(world)
    await fails(world, 1, NotFound("x", "no"))
    world.answers["alpha"] = DOWN
    assert await world.check(lane_of("alpha", "other")) == 3
    told = await world.database.read(lambda tx: tx.rows(CIRCUITS))
    assert sorted(told) == [
        ("carrier.circuit_closed", "default"),
        ("carrier.circuit_opened", "default"),
        ("carrier.circuit_opened", "other"),
    ]


async def test_a_shipment_goes_on_after_all_that(world: World) -> None:
    id_ = await world.create("N1")
    for _ in range(3):
        await checked(world, id_, DOWN)
    await cool_down(world)
    row = await checked(world, id_, found("N1", scan(1, "delivered")))
    assert (row["tracking_status"], row["attempts"]) == ("delivered", 0)

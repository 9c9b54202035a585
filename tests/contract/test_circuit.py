"""The circuit breaker of a lane on both databases, also under concurrent writers."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from penstock.clock import SECOND, ManualClock
from penstock.storage import Database, Tx, sql
from penstock.work import circuit, lanes, ledger
from penstock.work.circuit import Changed
from penstock.work.kinds import Claim, Kind, Task
from penstock.work.outcomes import Dead, Done, Health, Outcome, Retry
from penstock.work.settlement import decide

pytestmark = pytest.mark.anyio

INSERT = sql("""
INSERT INTO jobs (id, account, name, args, status, created_at, lane, due_at)
VALUES (:id, 'a', 'n', '[]', 'pending', {now}, 'l', {now})
""")
STATE = sql("""
SELECT circuit, circuit_generation, open_at, trips, consecutive, calls, failures
FROM lanes WHERE id = 'l'
""")
LOG = sql(
    "SELECT state, open_until, reason, actor, at FROM circuit_log WHERE lane = 'l' ORDER BY id"
)
LEASE = 60.0


@dataclass(frozen=True)
class State:
    circuit: str
    generation: int
    open_at: int
    trips: int
    consecutive: int
    calls: int
    failures: int


@dataclass
class Lane:
    """The lane ``l`` with a breaker, and enough rows to try it with."""

    database: Database
    clock: ManualClock
    changes: list[Changed] = field(default_factory=list)

    def __post_init__(self) -> None:
        async def handle(task: Task[int]) -> Outcome:
            raise AssertionError

        self.kind: Kind[int] = Kind(
            "job",
            "jobs",
            load=lambda tx, claims: {},
            handle=handle,
            done="succeeded",
            terminal=frozenset({"succeeded", "dead", "cancelled"}),
            lease=LEASE,
            backoff=lambda n: 0.0,
        )
        self.database.subscribe(
            lambda notes: self.changes.extend(n for n in notes if isinstance(n, Changed))
        )

    async def make(self, trip_after: int | None = 3, rows: int = 40, cap: int = 1000) -> None:
        def make(tx: Tx) -> None:
            lanes.ensure(tx, "l", kind="job", account="a", max_in_flight=cap, trip_after=trip_after)
            for n in range(rows):
                tx.run(INSERT, id=f"j{n:04}")

        await self.database.unit(make)

    async def claim(self, slots: int = 1) -> list[Claim]:
        claimed = await self.database.unit(lambda tx: ledger.claim(tx, self.kind, slots, ["l"]))
        return list(claimed.claims)

    async def settle(self, *claims: Claim, health: Health | None, **more: Any) -> None:
        outcome = Retry(after=0, health=health, **more) if health != "ok" else Done(health=health)
        batch = [decide(self.kind, claim, outcome, self.clock.now()) for claim in claims]
        await self.database.unit(lambda tx: ledger.settle(tx, self.kind, batch))

    async def answer(self, *healths: Health | None) -> None:
        """Claim one row for each and settle it, one after the other."""
        for health in healths:
            (claim,) = await self.claim()
            await self.settle(claim, health=health)

    async def state(self) -> State:
        return State(*await self.database.read(lambda tx: tx.one(STATE)))

    async def log(self) -> list[tuple[Any, ...]]:
        return list(await self.database.read(lambda tx: tx.rows(LOG)))

    async def cool_down(self) -> None:
        """Let the time pass for which the circuit is open."""
        wait = ((await self.state()).open_at - self.clock.now()) / SECOND
        self.clock.advance(max(0.0, wait))


@pytest.fixture
async def lane(database: Database, clock: ManualClock) -> Lane:
    return Lane(database, clock)


async def test_it_trips_at_so_many_failures_in_a_row(lane: Lane) -> None:
    await lane.make(trip_after=3)
    await lane.answer("bad", "bad", "ok", "bad", "bad", None)
    assert (await lane.state()).circuit == "closed"
    await lane.answer("bad")
    state = await lane.state()
    assert (state.circuit, state.generation, state.trips) == ("open", 1, 1)
    low, high = (lane.clock.now() + int(s * SECOND) for s in (15, 30))
    assert low <= state.open_at <= high
    assert await lane.claim() == []


async def test_a_lane_without_a_breaker_never_trips(lane: Lane) -> None:
    await lane.make(trip_after=None)
    await lane.answer(*["bad"] * 30)
    state = await lane.state()
    assert (state.circuit, state.failures) == ("closed", 0)


async def test_health_writes_nothing_while_all_is_well(lane: Lane) -> None:
    await lane.make()
    before = await lane.state()
    await lane.answer(*["ok"] * 30)
    assert await lane.state() == before


async def test_it_trips_exactly_once_under_concurrent_writers(lane: Lane) -> None:
    await lane.make(trip_after=10, rows=40)
    claims = await lane.claim(40)
    slow = lane.database.dialect == "postgres"

    def fail(tx: Tx, claim: Claim) -> None:
        if slow:
            time.sleep(random.random() * 0.003)
        outcome = Retry(after=0, health="bad")
        ledger.settle(tx, lane.kind, [decide(lane.kind, claim, outcome, 0)])

    async def fail_all(part: list[Claim]) -> None:
        for claim in part:
            await lane.database.unit(lambda tx, claim=claim: fail(tx, claim))

    await asyncio.gather(*(fail_all([claim]) for claim in claims[:9]))
    state = await lane.state()
    assert (state.circuit, state.consecutive) == ("closed", 9)
    await asyncio.gather(*(fail_all(claims[9 + n :: 20]) for n in range(20)))
    state = await lane.state()
    assert (state.circuit, state.generation, state.trips) == ("open", 1, 1)
    assert [row[:1] for row in await lane.log()] == [("open",)]
    assert [change.state for change in lane.changes] == ["open"]


async def test_one_batch_of_failures_trips_it_once(lane: Lane) -> None:
    await lane.make(trip_after=3)
    await lane.settle(*await lane.claim(20), health="bad")
    state = await lane.state()
    assert (state.circuit, state.trips) == ("open", 1)


async def test_results_of_an_earlier_state_are_ignored(lane: Lane) -> None:
    await lane.make(trip_after=3)
    late = await lane.claim(6)
    await lane.settle(*late[:3], health="bad")
    tripped = await lane.state()
    await lane.settle(late[3], health="bad")
    await lane.settle(late[4], health="ok")
    assert await lane.state() == tripped
    await lane.cool_down()
    await lane.settle(late[5], health=None)
    (probe,) = await lane.claim(5)
    await lane.settle(probe, health="ok")
    state = await lane.state()
    assert (state.circuit, state.generation, state.trips) == ("closed", 3, 0)


async def test_a_late_failure_does_not_undo_a_recovery(lane: Lane) -> None:
    await lane.make(trip_after=1)
    late = await lane.claim(2)
    await lane.settle(late[0], health="bad")
    await lane.cool_down()
    lane.clock.advance(LEASE)
    await lane.database.unit(lambda tx: ledger.renew(tx, lane.kind, late))
    # The late one still counts as in flight: no probe beside it.
    assert await lane.claim() == []
    await lane.settle(late[1], health="bad")
    (probe,) = await lane.claim()
    await lane.settle(probe, health="ok")
    assert (await lane.state()).circuit == "closed"


async def test_only_the_probes_own_result_decides(lane: Lane) -> None:
    """Nothing else is under way beside a probe; a report of it would be ignored."""
    await lane.make(trip_after=1)
    await lane.answer("bad")
    await lane.cool_down()
    (probe,) = await lane.claim()
    probing = await lane.state()
    for health in ({"ok": 1, "bad": 0}, {"ok": 0, "bad": 1}):
        await lane.database.unit(
            lambda tx, health=health: circuit.record(tx, "l", probing.generation - 1, **health)
        )
        assert await lane.state() == probing
    await lane.settle(probe, health="ok")
    assert (await lane.state()).circuit == "closed"


async def test_a_failure_of_before_it_was_closed_by_hand_does_not_count(lane: Lane) -> None:
    await lane.make(trip_after=1)
    late = await lane.claim(2)
    await lane.database.unit(
        lambda tx: circuit.force_closed(tx, "l", 0.001, actor="key_1", reason="they are back")
    )
    lane.clock.advance(1.0)
    await lane.settle(late[0], health="bad")
    state = await lane.state()
    assert (state.circuit, state.consecutive) == ("closed", 0)
    # Of what was claimed since, it does.
    (new,) = await lane.claim(1)
    await lane.settle(new, health="bad")
    assert (await lane.state()).circuit == "open"


async def test_half_of_twenty_calls_within_a_minute_trip_it(lane: Lane) -> None:
    await lane.make(trip_after=1000, rows=60)
    pattern: list[Health] = ["bad", "ok"]
    await lane.answer(*pattern * 9, "ok")
    state = await lane.state()
    assert (state.circuit, state.calls, state.failures) == ("closed", 19, 9)
    await lane.answer("bad")
    assert (await lane.state()).circuit == "open"
    (row,) = await lane.log()
    assert "10 of 20" in row[2]


async def test_less_than_half_does_not_trip_it(lane: Lane) -> None:
    await lane.make(trip_after=1000, rows=100)
    await lane.answer(*["bad", "ok", "ok"] * 30)
    assert (await lane.state()).circuit == "closed"


async def test_failures_of_an_earlier_window_do_not_count(lane: Lane) -> None:
    await lane.make(trip_after=1000, rows=60)
    await lane.answer(*["bad"] * 15)
    lane.clock.advance(60.1)
    await lane.answer(*["bad"] * 15)
    state = await lane.state()
    assert (state.circuit, state.calls) == ("closed", 15)
    await lane.answer(*["bad"] * 5)
    assert (await lane.state()).circuit == "open"


async def test_only_one_probe_is_let_through(lane: Lane) -> None:
    await lane.make(trip_after=1)
    await lane.answer("bad")
    await lane.cool_down()
    claimed = await asyncio.gather(*(lane.claim(4) for _ in range(12)))
    probes = [claim for part in claimed for claim in part]
    assert len(probes) == 1
    state = await lane.state()
    assert (state.circuit, state.generation) == ("half_open", 2)
    assert probes[0].circuit == 2
    assert await lane.claim() == []


async def test_nothing_passes_before_the_cool_down_is_over(lane: Lane) -> None:
    await lane.make(trip_after=1)
    await lane.answer("bad")
    left = ((await lane.state()).open_at - lane.clock.now()) / SECOND
    lane.clock.advance(left - 0.001)
    assert await lane.claim() == []
    lane.clock.advance(0.001)
    assert len(await lane.claim()) == 1


async def test_an_open_lane_without_work_stays_open_until_there_is_a_probe(lane: Lane) -> None:
    await lane.make(trip_after=1, rows=1)
    (claim,) = await lane.claim()
    outcome = Dead("no", health="bad")
    await lane.database.unit(
        lambda tx: ledger.settle(tx, lane.kind, [decide(lane.kind, claim, outcome, 0)])
    )
    await lane.cool_down()
    assert await lane.claim() == []
    assert (await lane.state()).circuit == "open"


async def test_an_answered_probe_closes_it_and_forgets(lane: Lane) -> None:
    await lane.make(trip_after=2)
    await lane.answer("bad", "bad")
    await lane.cool_down()
    await lane.answer("ok")
    state = await lane.state()
    assert (state.circuit, state.generation, state.trips) == ("closed", 3, 0)
    assert (state.consecutive, state.calls, state.failures) == (0, 0, 0)
    assert len(await lane.claim(10)) == 10


async def test_each_failed_probe_doubles_the_cool_down(lane: Lane) -> None:
    await lane.make(trip_after=1, rows=5)
    longest = 30.0
    for trip in range(1, 10):
        await lane.answer("bad")
        state = await lane.state()
        assert (state.circuit, state.trips) == ("open", trip)
        seconds = (state.open_at - lane.clock.now()) / SECOND
        assert longest / 2 - 0.001 <= seconds <= longest
        longest = min(1800.0, 2 * longest)
        await lane.cool_down()


async def test_a_probe_that_says_nothing_is_followed_by_another(lane: Lane) -> None:
    await lane.make(trip_after=1)
    await lane.answer("bad")
    await lane.cool_down()
    for _ in range(3):
        (probe,) = await lane.claim(5)
        assert await lane.claim(5) == []
        await lane.settle(probe, health=None)
        assert (await lane.state()).circuit == "half_open"
    await lane.answer("ok")
    assert (await lane.state()).circuit == "closed"


async def test_a_probe_that_dies_is_replaced_when_its_lease_is_swept(lane: Lane) -> None:
    await lane.make(trip_after=1)
    await lane.answer("bad")
    await lane.cool_down()
    (lost,) = await lane.claim()
    lane.clock.advance(LEASE + 1)
    assert await lane.claim() == []
    await lane.database.unit(lambda tx: ledger.sweep(tx, lane.kind))
    (probe,) = await lane.claim()
    assert probe != lost
    await lane.settle(lost, health="bad")  # no longer its row to speak for
    assert (await lane.state()).circuit == "half_open"
    await lane.settle(probe, health="ok")
    assert (await lane.state()).circuit == "closed"


async def test_a_probe_that_is_given_back_is_replaced(lane: Lane) -> None:
    await lane.make(trip_after=1)
    await lane.answer("bad")
    await lane.cool_down()
    probes = await lane.claim()
    await lane.database.unit(lambda tx: ledger.give_back(tx, lane.kind, probes))
    await lane.answer("ok")
    assert (await lane.state()).circuit == "closed"


async def test_a_pause_that_comes_with_the_closing_answer_holds(lane: Lane) -> None:
    await lane.make(trip_after=1)
    await lane.answer("bad")
    await lane.cool_down()
    (probe,) = await lane.claim()
    outcome = Done(health="ok", pause=20.0)
    await lane.database.unit(
        lambda tx: ledger.settle(tx, lane.kind, [decide(lane.kind, probe, outcome, 0)])
    )
    state = await lane.state()
    assert (state.circuit, state.open_at) == ("closed", lane.clock.now() + 20 * SECOND)
    assert await lane.claim() == []


async def test_a_pause_does_not_count_as_trouble(lane: Lane) -> None:
    await lane.make(trip_after=1)
    (claim,) = await lane.claim()
    await lane.settle(claim, health=None, pause=5.0)
    assert await lane.claim() == []
    lane.clock.advance(5)
    assert (await lane.state()).circuit == "closed"
    assert len(await lane.claim(3)) == 3


async def test_it_can_be_held_open(lane: Lane) -> None:
    await lane.make(trip_after=3)
    before = await lane.claim(1)
    assert await lane.database.unit(
        lambda tx: circuit.force_open(tx, "l", 600.0, actor="key_1", reason="maintenance")
    )
    await lane.settle(*before, health="ok")
    assert await lane.claim() == []
    lane.clock.advance(599.9)
    assert await lane.claim() == []
    lane.clock.advance(0.1)
    assert len(await lane.claim(5)) == 1
    assert (await lane.state()).circuit == "half_open"
    assert not await lane.database.unit(
        lambda tx: circuit.force_open(tx, "nowhere", 1.0, actor="a", reason="r")
    )


async def test_it_can_be_held_closed_for_a_while(lane: Lane) -> None:
    await lane.make(trip_after=2)
    await lane.answer("bad", "bad")
    assert await lane.database.unit(
        lambda tx: circuit.force_closed(tx, "l", 600.0, actor="key_1", reason="we know better")
    )
    await lane.answer(*["bad"] * 30)
    state = await lane.state()
    assert (state.circuit, state.trips) == ("closed", 0)
    lane.clock.advance(600.1)
    await lane.answer("ok", "bad", "bad")
    assert (await lane.state()).circuit == "open"
    assert not await lane.database.unit(
        lambda tx: circuit.force_closed(tx, "nowhere", 1.0, actor="a", reason="r")
    )


async def test_every_transition_is_logged_and_told(lane: Lane) -> None:
    await lane.make(trip_after=1)
    await lane.answer("bad")
    opened = await lane.state()
    await lane.cool_down()
    await lane.answer("ok")
    await lane.database.unit(
        lambda tx: circuit.force_open(tx, "l", 60.0, actor="key_1", reason="maintenance")
    )
    now = lane.clock.now()
    await lane.database.unit(
        lambda tx: circuit.force_closed(tx, "l", 60.0, actor="key_2", reason="done")
    )
    log = await lane.log()
    assert [row[:4] for row in log] == [
        ("open", opened.open_at, "1 failures in a row", "circuit"),
        ("half_open", None, "cool-down over", "circuit"),
        ("closed", None, "the probe was answered", "circuit"),
        ("open", now + 60 * SECOND, "maintenance", "key_1"),
        ("closed", None, "done", "key_2"),
    ]
    assert log[-1][4] == now
    assert [(change.state, change.actor) for change in lane.changes] == [
        (row[0], row[3]) for row in log
    ]
    assert {change.lane for change in lane.changes} == {"l"}

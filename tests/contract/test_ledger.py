"""The ledger's rules, each by name, on both databases."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from penstock.clock import SECOND, ManualClock
from penstock.storage import Database, Statement, Tx, sql
from penstock.storage.sqlite import SqliteDatabase
from penstock.work import lanes, ledger
from penstock.work.kinds import Claim, Kind, Task
from penstock.work.lanes import Gate
from penstock.work.outcomes import Dead, Done, Later, Outcome, Postpone, Retry
from penstock.work.settlement import Settlement, decide
from penstock.work.wakeups import Wake

pytestmark = pytest.mark.anyio

INSERT = sql("""
INSERT INTO jobs (id, account, name, args, status, created_at, lane, due_at)
VALUES (:id, 'a', 'n', '[]', 'pending', {now}, :lane, {now} + :delay)
""")
ROW = sql("""
SELECT status, due_at, lease_until, generation, attempts, lapses, last_error
FROM jobs WHERE id = :id
""")
REFRESH = sql("UPDATE jobs SET due_at = {now} WHERE id = :id")
CANCEL = sql("UPDATE jobs SET status = 'cancelled', due_at = NULL WHERE id = :id")
LANE = sql("SELECT served_at, woken_at, tokens, open_at FROM lanes WHERE id = :id")
HELD = sql("SELECT count(*) FROM jobs WHERE lane = :lane AND lease_until IS NOT NULL")
LEASE = 60.0


@dataclass(frozen=True)
class Row:
    status: str
    due_at: int | None
    lease_until: int | None
    generation: int
    attempts: int
    lapses: int
    last_error: str | None


@dataclass
class Bench:
    """A database with one kind of work, and short names for what tests do to it."""

    database: Database
    clock: ManualClock
    ended: list[tuple[str, str, str]] = field(default_factory=list)  # id, status, reason
    notes: list[object] = field(default_factory=list)

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
            backoff=lambda n: 10.0 * n if n < 5 else None,
            on_end=lambda tx, claim, status, reason: self.ended.append((claim.id, status, reason)),
        )
        self.database.subscribe(self.notes.extend)

    @property
    def wakes(self) -> list[Wake]:
        return [note for note in self.notes if isinstance(note, Wake)]

    def now(self) -> int:
        return self.clock.now()

    async def unit(self, fn: Callable[[Tx], Any]) -> Any:
        return await self.database.unit(fn)

    async def lane(self, id_: str = "l", cap: int = 10, **options: Any) -> str:
        await self.unit(
            lambda tx: lanes.ensure(tx, id_, kind="job", account="a", max_in_flight=cap, **options)
        )
        return id_

    async def put(self, *ids: str, lane: str = "l", delay: float | None = 0.0) -> None:
        us = None if delay is None else int(delay * SECOND)
        await self.unit(lambda tx: [tx.run(INSERT, id=id_, lane=lane, delay=us) for id_ in ids])

    async def claim(self, *named: str, slots: int = 100) -> list[Claim]:
        claimed = await self.unit(lambda tx: ledger.claim(tx, self.kind, slots, named or ("l",)))
        return list(claimed.claims)

    async def claim_one(self) -> Claim:
        (claim,) = await self.claim()
        return claim

    def decided(self, claim: Claim, outcome: Outcome) -> Settlement:
        return decide(self.kind, claim, outcome, self.now())

    async def settle(self, claim: Claim, outcome: Outcome) -> bool:
        settlement = self.decided(claim, outcome)
        settled = await self.unit(lambda tx: ledger.settle(tx, self.kind, [settlement]))
        assert settled <= {claim}
        return bool(settled)

    async def sweep(self, **options: Any) -> list[ledger.Lapsed]:
        return list(await self.unit(lambda tx: ledger.sweep(tx, self.kind, **options)))

    async def renew(self, *claims: Claim) -> set[Claim]:
        return set(await self.unit(lambda tx: ledger.renew(tx, self.kind, claims)))

    async def give_back(self, *claims: Claim) -> None:
        await self.unit(lambda tx: ledger.give_back(tx, self.kind, claims))

    async def refresh(self, id_: str = "j") -> None:
        await self.unit(lambda tx: tx.run(REFRESH, id=id_))

    async def cancel(self, id_: str = "j") -> None:
        await self.unit(lambda tx: tx.run(CANCEL, id=id_))

    async def row(self, id_: str = "j") -> Row:
        return Row(*await self.database.read(lambda tx: tx.one(ROW, id=id_)))

    async def gate(self, lane: str = "l") -> Gate:
        (gate,) = await self.database.read(lambda tx: lanes.gates(tx, "jobs", [lane]))
        return gate

    async def next_look(self, lane: str = "l") -> float | None:
        return (await self.gate(lane)).next_look

    async def marks(self, lane: str = "l") -> tuple[int, int]:
        served, woken, _, _ = await self.database.read(lambda tx: tx.one(LANE, id=lane))
        return served, woken

    async def configure(self, lane: str = "l", **changes: Any) -> bool:
        return bool(await self.unit(lambda tx: lanes.configure(tx, lane, **changes)))


@pytest.fixture
async def bench(database: Database, clock: ManualClock) -> Bench:
    return Bench(database, clock)


@pytest.fixture
async def postgres(_postgres_database: Database, clock: ManualClock) -> AsyncIterator[Bench]:
    await _postgres_database.open()
    yield Bench(_postgres_database, clock)
    await _postgres_database.close()


# --------------------------------------------------------------------------- claim


async def test_a_claim_holds_the_row_under_a_new_generation(bench: Bench) -> None:
    await bench.lane()
    await bench.put("j")
    claim = await bench.claim_one()
    assert claim == Claim("job", "j", "l", 1, 0, 0, 0)
    row = await bench.row()
    assert row == Row("pending", None, bench.now() + int(LEASE * SECOND), 1, 0, 0, None)


async def test_a_held_row_cannot_be_claimed_again_even_if_it_is_due(bench: Bench) -> None:
    await bench.lane()
    await bench.put("j")
    await bench.claim_one()
    await bench.refresh()
    assert await bench.claim() == []


async def test_nothing_is_claimed_before_it_is_due(bench: Bench) -> None:
    await bench.lane()
    await bench.put("j", delay=5)
    await bench.put("rest", delay=None)
    assert await bench.claim() == []
    bench.clock.advance(4.999999)
    assert await bench.claim() == []
    bench.clock.advance(0.000001)
    assert [c.id for c in await bench.claim()] == ["j"]


async def test_rows_are_taken_in_the_order_they_became_due(bench: Bench) -> None:
    await bench.lane()
    order = [f"j{n}" for n in range(9)]
    random.shuffle(order)
    for n, id_ in enumerate(order):
        await bench.put(id_, delay=n - 20)
    taken = []
    for _ in range(3):
        taken.append({c.id for c in await bench.claim(slots=3)})
    assert taken == [set(order[:3]), set(order[3:6]), set(order[6:])]


async def test_a_claim_takes_no_more_than_its_slots(bench: Bench) -> None:
    for lane in ("a", "b", "c"):
        await bench.lane(lane)
        await bench.put(*(f"{lane}{n}" for n in range(10)), lane=lane)
    assert len(await bench.claim("a", "b", "c", slots=7)) == 7


async def test_only_named_lanes_are_looked_into(bench: Bench) -> None:
    await bench.lane("a")
    await bench.lane("b")
    await bench.put("ja", lane="a")
    await bench.put("jb", lane="b")
    assert [c.id for c in await bench.claim("b")] == ["jb"]


async def test_a_lane_that_is_gone_is_no_error(bench: Bench) -> None:
    await bench.lane("a")
    await bench.put("ja", lane="a")
    assert await bench.claim("nowhere") == []
    assert [c.id for c in await bench.claim("nowhere", "a")] == ["ja"]
    assert await bench.claim() == []


async def test_lanes_share_the_slots_evenly(bench: Bench) -> None:
    for lane in ("a", "b", "c"):
        await bench.lane(lane, cap=100)
    await bench.put(*(f"a{n}" for n in range(50)), lane="a", delay=-10)
    await bench.put(*(f"b{n}" for n in range(50)), lane="b")
    await bench.put("c0", lane="c")
    taken = Counter(c.lane for c in await bench.claim("a", "b", "c", slots=9))
    assert taken == {"a": 3, "b": 3, "c": 1}


async def test_lanes_that_are_looked_into_together_take_turns_at_the_only_slot(
    bench: Bench,
) -> None:
    for lane in ("a", "b", "c"):
        await bench.lane(lane)
        await bench.put(*(f"{lane}{n}" for n in range(5)), lane=lane)
    turns = []
    for _ in range(6):
        bench.clock.advance(0.001)
        (claim,) = await bench.claim("a", "b", "c", slots=1)
        turns.append(claim.lane)
    assert turns == ["a", "b", "c", "a", "b", "c"]


async def test_every_lane_that_was_looked_into_has_answered_its_wake(bench: Bench) -> None:
    await bench.lane("full", cap=1)
    await bench.lane("idle")
    await bench.lane("busy")
    await bench.put("f1", "f2", lane="full")
    await bench.put("b1", lane="busy")
    await bench.claim("full")
    names = ["full", "idle", "busy"]
    for _ in range(2):
        bench.clock.advance(1)
        assert len(await bench.unit(lambda tx: lanes.mark_woken(tx, names))) == 3
        bench.clock.advance(1)
        await bench.claim(*names)
        for lane in names:
            served, woken = await bench.marks(lane)
            assert served >= woken


# --------------------------------------------------------------------------- cap and rate


async def test_the_cap_counts_what_is_held_already(bench: Bench) -> None:
    await bench.lane(cap=3)
    await bench.put(*"abcdef")
    held = await bench.claim(slots=2)
    held += await bench.claim()
    assert len(held) == 3
    assert await bench.claim() == []
    await bench.settle(held[0], Done())
    assert len(await bench.claim()) == 1


async def test_a_lowered_cap_lets_nothing_through_until_enough_has_settled(bench: Bench) -> None:
    await bench.lane(cap=4)
    await bench.put(*"abcdef")
    held = await bench.claim()
    await bench.configure(max_in_flight=2)
    for claim in held[:2]:
        await bench.settle(claim, Done())
        assert await bench.claim() == []
    await bench.settle(held[2], Done())
    assert len(await bench.claim()) == 1


async def test_concurrent_claimers_never_hold_more_than_the_cap(bench: Bench) -> None:
    await bench.lane(cap=3)
    await bench.lane("other", cap=2)
    await bench.put(*(f"j{n:03}" for n in range(60)), delay=-1)
    await bench.put(*(f"o{n:03}" for n in range(40)), lane="other", delay=-1)
    most: Counter[str] = Counter()
    done: list[str] = []
    sleeps = bench.database.dialect == "postgres"

    def take(tx: Tx) -> list[Claim]:
        if sleeps:
            time.sleep(random.random() * 0.002)
        named = random.sample(["l", "other"], 2)
        claims = ledger.claim(tx, bench.kind, random.choice([1, 2, 5]), named).claims
        for lane in named:
            row = tx.one(HELD, lane=lane)
            assert row is not None
            most[lane] = max(most[lane], row[0])
        if sleeps:
            time.sleep(random.random() * 0.003)
        return claims

    async def work() -> None:
        while len(done) < 100:
            claims = await bench.unit(take)
            for claim in claims:
                assert await bench.settle(claim, Done())
                done.append(claim.id)
            held = await bench.database.read(
                lambda tx: [tx.one(HELD, lane=lane) for lane in ("l", "other")]
            )
            most["l"] = max(most["l"], held[0][0])
            most["other"] = max(most["other"], held[1][0])

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(work())
    assert sorted(done) == sorted(set(done))
    assert most["l"] <= 3
    assert most["other"] <= 2


async def test_the_bucket_starts_full_and_refills_to_its_size(bench: Bench) -> None:
    await bench.lane(cap=100, rate=2.0, burst=3.0)
    await bench.put(*(f"j{n:02}" for n in range(40)), delay=-1)
    assert len(await bench.claim()) == 3
    assert await bench.claim() == []
    bench.clock.advance(0.49)
    assert await bench.claim() == []
    bench.clock.advance(0.51)
    assert len(await bench.claim()) == 2
    bench.clock.advance(3600)
    assert len(await bench.claim()) == 3


async def test_a_fraction_of_a_token_is_not_lost_by_looking(bench: Bench) -> None:
    await bench.lane(cap=100, rate=1.0, burst=1.0)
    await bench.put(*(f"j{n:02}" for n in range(40)), delay=-1)
    taken = []
    for _ in range(100):
        taken += await bench.claim()
        bench.clock.advance(0.1)
    assert len(taken) in (10, 11)


async def test_a_clock_that_steps_back_gives_no_tokens_twice(bench: Bench) -> None:
    await bench.lane(cap=100, rate=1.0, burst=2.0)
    await bench.put(*(f"j{n:02}" for n in range(40)), delay=-100)
    assert len(await bench.claim()) == 2
    bench.clock.step(-10)
    assert await bench.claim() == []  # the step itself brings none
    bench.clock.advance(1)
    assert len(await bench.claim()) == 1  # nor does the bucket wait for the clock to catch up
    assert await bench.claim() == []


async def test_rows_claimed_together_are_paid_for_by_the_call(bench: Bench) -> None:
    await bench.lane(cap=1000, rate=1.0, burst=2.0, per_call=30)
    await bench.put(*(f"j{n:03}" for n in range(150)))
    assert len(await bench.claim()) == 60
    assert await bench.claim() == []
    bench.clock.advance(1.0)
    assert len(await bench.claim(slots=31)) == 30
    bench.clock.advance(2.0)
    # A call that is not full costs as much as a full one.
    assert len(await bench.claim(slots=31)) == 31
    assert await bench.claim() == []
    ((_, _, tokens, _),) = await bench.unit(lambda tx: tx.rows(LANE, id="l"))
    assert tokens == pytest.approx(0.0)


async def test_of_a_lane_that_is_not_closed_one_row_passes_however_many_a_call_takes(
    bench: Bench,
) -> None:
    await bench.lane(cap=1000, rate=1.0, burst=2.0, per_call=30, trip_after=1)
    await bench.put(*(f"j{n:03}" for n in range(70)))
    claims = await bench.claim(slots=30)
    assert await bench.settle(claims[0], Retry(after=0.0, health="bad"))
    for claim in claims[1:]:
        await bench.settle(claim, Done())
    bench.clock.advance(31.0)
    assert len(await bench.claim()) == 1
    assert await bench.claim() == []


async def test_concurrent_claimers_share_one_bucket(bench: Bench) -> None:
    await bench.lane(cap=100, rate=5.0, burst=4.0)
    await bench.put(*(f"j{n:02}" for n in range(60)), delay=-1)
    total = 0
    for round_ in range(5):
        got = await asyncio.gather(*(bench.claim(slots=3) for _ in range(8)))
        total += sum(map(len, got))
        assert total == 4 + round_ * 4  # 0.8 s give four tokens
        bench.clock.advance(0.8)


# --------------------------------------------------------------------------- settle


async def test_done_leaves_nothing_owed(bench: Bench) -> None:
    await bench.lane()
    await bench.put("j")
    assert await bench.settle(await bench.claim_one(), Done())
    assert await bench.row() == Row("succeeded", None, None, 2, 1, 0, None)
    assert bench.ended == [("j", "succeeded", "")]


@pytest.mark.parametrize(
    ("outcome", "delay", "attempts", "error"),
    [
        (Retry(after=7.5, reason="r"), 7.5, 1, "r"),
        (Retry(reason="r"), 10.0, 1, "r"),
        (Postpone(until=3.0, reason="p"), 3.0, 0, "p"),
        (Done(again=9.0), 9.0, 0, None),
        (Done(again=0.0), 0.0, 0, None),
    ],
)
async def test_what_is_owed_again_is_due_at_its_time(
    bench: Bench, outcome: Outcome, delay: float, attempts: int, error: str | None
) -> None:
    await bench.lane()
    await bench.put("j")
    claim = await bench.claim_one()
    bench.clock.advance(1.5)
    assert await bench.settle(claim, outcome)
    due = bench.now() + int(delay * SECOND)
    assert await bench.row() == Row("pending", due, None, 2, attempts, 0, error)
    assert bench.ended == []


async def test_attempts_add_up_until_the_back_off_gives_up(bench: Bench) -> None:
    await bench.lane()
    await bench.put("j")
    for attempt in range(1, 5):
        await bench.settle(await bench.claim_one(), Retry(reason="no"))
        row = await bench.row()
        assert (row.attempts, row.due_at) == (attempt, bench.now() + attempt * 10 * SECOND)
        bench.clock.advance(attempt * 10)
    await bench.settle(await bench.claim_one(), Retry(reason="no"))
    reason = "gave up after 5 attempts: no"
    assert await bench.row() == Row("dead", None, None, 10, 5, 0, reason)
    assert bench.ended == [("j", "dead", reason)]


async def test_a_stale_settlement_changes_nothing_and_applies_nothing(bench: Bench) -> None:
    await bench.lane()
    await bench.put("j")
    stale = await bench.claim_one()
    bench.clock.advance(LEASE + 1)
    await bench.sweep()
    current = await bench.claim_one()
    before = await bench.row()
    applied: list[str] = []
    for outcome in (
        Done(apply=lambda tx: applied.append("stale"), health="bad", pause=60),
        Dead("no", apply=lambda tx: applied.append("stale")),
    ):
        assert not await bench.settle(stale, outcome)
    assert await bench.row() == before
    assert await bench.settle(current, Done(apply=lambda tx: applied.append("current")))
    assert not await bench.settle(current, Done(apply=lambda tx: applied.append("twice")))
    assert applied == ["current"]
    assert bench.ended == [("j", "succeeded", "")]
    assert (await bench.gate()).opens_in <= 0


async def test_in_one_batch_only_the_claim_that_holds_the_row_settles_it(bench: Bench) -> None:
    await bench.lane()
    await bench.put("j")
    stale = await bench.claim_one()
    bench.clock.advance(LEASE + 1)
    await bench.sweep()
    current = await bench.claim_one()
    applied: list[str] = []
    batch = [
        bench.decided(stale, Done(apply=lambda tx: applied.append("stale"), pause=60)),
        bench.decided(current, Retry(after=1, apply=lambda tx: applied.append("current"))),
        bench.decided(current, Done(apply=lambda tx: applied.append("twice"))),
    ]
    settled = await bench.unit(lambda tx: ledger.settle(tx, bench.kind, batch))
    assert settled == {current}
    assert applied == ["current"]
    assert (await bench.row()).status == "pending"
    assert bench.ended == []
    assert (await bench.gate()).opens_in <= 0


async def test_what_apply_writes_is_one_commit_with_the_settlement(bench: Bench) -> None:
    await bench.lane()
    await bench.put("j")
    claim = await bench.claim_one()

    def fails(tx: Tx) -> None:
        tx.run(INSERT, id="follow-up", lane="l", delay=0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await bench.settle(claim, Done(apply=fails))
    assert await bench.database.read(lambda tx: tx.one(ROW, id="follow-up")) is None
    assert (await bench.row()).lease_until is not None
    works = Done(apply=lambda tx: tx.run(INSERT, id="follow-up", lane="l", delay=0) and None)
    assert await bench.settle(claim, works)
    assert (await bench.row("follow-up")).due_at == bench.now()


async def test_what_is_left_for_later_is_done_last_and_in_the_order_of_keys(bench: Bench) -> None:
    await bench.lane()
    await bench.put("a", "b", "c", "d")
    order: list[str] = []

    def leaves(id_: str, key: str) -> Callable[[Tx], Later]:
        def apply(tx: Tx) -> Later:
            order.append(id_)
            return Later(key, lambda tx: order.append(f"{key} of {id_}, {len(bench.ended)} ended"))

        return apply

    claims = {claim.id: claim for claim in await bench.claim()}
    await bench.give_back(claims["d"])  # what nobody settles leaves nothing either
    keys = {"a": "y", "b": "x", "c": "y", "d": "x"}
    settlements = [
        bench.decided(claims[id_], Done(apply=leaves(id_, key))) for id_, key in keys.items()
    ]
    await bench.unit(lambda tx: ledger.settle(tx, bench.kind, settlements))
    assert order == ["a", "b", "c", "x of b, 3 ended", "y of a, 3 ended", "y of c, 3 ended"]


async def test_a_refresh_during_the_lease_is_kept(bench: Bench) -> None:
    await bench.lane()
    await bench.put("a", "b", "c")
    claims = await bench.claim()
    bench.clock.advance(2)
    asked = bench.now()
    for id_ in "abc":
        await bench.refresh(id_)
    bench.clock.advance(3)
    for claim, outcome in zip(
        claims, [Retry(after=100, reason="r"), Postpone(until=100), Done(again=100)], strict=True
    ):
        await bench.settle(claim, outcome)
        assert (await bench.row(claim.id)).due_at == asked


async def test_an_earlier_time_of_its_own_beats_a_later_one_that_was_written(
    bench: Bench,
) -> None:
    await bench.lane()
    await bench.put("j")
    claim = await bench.claim_one()
    later = sql("UPDATE jobs SET due_at = {now} + 50000000 WHERE id = 'j'")
    await bench.unit(lambda tx: tx.run(later))
    await bench.settle(claim, Retry(after=5))
    assert (await bench.row()).due_at == bench.now() + 5 * SECOND


async def test_done_wins_over_a_refresh(bench: Bench) -> None:
    await bench.lane()
    await bench.put("j")
    claim = await bench.claim_one()
    await bench.refresh()
    await bench.settle(claim, Done())
    row = await bench.row()
    assert (row.status, row.due_at) == ("succeeded", None)


@pytest.mark.parametrize("outcome", [Dead("gone"), Retry(reason="again")])
async def test_a_row_that_failed_for_good_stays_owed_if_it_was_asked_for_meanwhile(
    bench: Bench, outcome: Outcome
) -> None:
    await bench.lane()
    await bench.put("j")
    bench.kind = Kind(
        **{
            name: getattr(bench.kind, name)
            for name in bench.kind.__dataclass_fields__
            if name != "max_attempts"
        },
        max_attempts=1,
    )
    claim = await bench.claim_one()
    await bench.refresh()
    asked = bench.now()
    bench.clock.advance(1)
    await bench.settle(claim, outcome)
    row = await bench.row()
    assert (row.status, row.due_at, row.lease_until) == ("pending", asked, None)
    assert bench.ended == []
    await bench.settle(await bench.claim_one(), Dead("gone"))
    row = await bench.row()
    assert (row.status, row.due_at) == ("dead", None)
    assert [end[:2] for end in bench.ended] == [("j", "dead")]


@pytest.mark.parametrize(
    "outcome", [Done(), Done(again=1), Retry(after=1), Postpone(until=1), Dead("no")]
)
async def test_what_was_cancelled_during_its_lease_stays_cancelled(
    bench: Bench, outcome: Outcome
) -> None:
    await bench.lane()
    await bench.put("j")
    claim = await bench.claim_one()
    await bench.cancel()
    await bench.settle(claim, outcome)
    row = await bench.row()
    assert (row.status, row.due_at, row.lease_until) == ("cancelled", None, None)
    assert bench.ended == []


async def test_a_refresh_of_a_cancelled_row_does_not_bring_it_back(bench: Bench) -> None:
    await bench.lane()
    await bench.put("a", "b", "c")
    claims = await bench.claim()
    for claim in claims:
        await bench.cancel(claim.id)
        await bench.refresh(claim.id)
    await bench.settle(claims[0], Retry(after=1))
    await bench.give_back(claims[1])
    bench.clock.advance(LEASE + 1)
    await bench.sweep()
    for claim in claims:
        row = await bench.row(claim.id)
        assert (row.status, row.due_at, row.lease_until) == ("cancelled", None, None)


async def test_a_refresh_committed_while_the_settlement_waits_for_it_is_kept(
    postgres: Bench,
) -> None:
    bench = postgres
    await bench.lane()
    await bench.put("j")
    claim = await bench.claim_one()
    written, release = threading.Event(), threading.Event()

    def slow_refresh(tx: Tx) -> None:
        tx.run(REFRESH, id="j")
        written.set()
        release.wait(60)

    asked = bench.now()
    refreshing = asyncio.create_task(bench.unit(slow_refresh))
    await asyncio.to_thread(written.wait, 60)
    settling = asyncio.create_task(bench.settle(claim, Retry(after=100)))
    await asyncio.sleep(0.05)
    assert not settling.done()
    release.set()
    await refreshing
    assert await settling
    assert (await bench.row()).due_at == asked


async def test_a_row_that_an_open_transaction_writes_is_not_waited_for(postgres: Bench) -> None:
    bench = postgres
    await bench.lane()
    await bench.put("a", "b")
    written, release = threading.Event(), threading.Event()

    def slow_refresh(tx: Tx) -> None:
        tx.run(REFRESH, id="a")
        written.set()
        release.wait(60)

    refreshing = asyncio.create_task(bench.unit(slow_refresh))
    await asyncio.to_thread(written.wait, 60)
    try:
        async with asyncio.timeout(30):
            assert [c.id for c in await bench.claim()] == ["b"]
    finally:
        release.set()
        await refreshing
    assert [c.id for c in await bench.claim()] == ["a"]


async def test_a_lane_named_by_a_wake_is_waited_for(postgres: Bench) -> None:
    bench = postgres
    await bench.lane(cap=1)
    await bench.put("a", "b")
    claimed, release = threading.Event(), threading.Event()

    def slow_claim(tx: Tx) -> list[Claim]:
        claims = ledger.claim(tx, bench.kind, 1, ["l"]).claims
        claimed.set()
        release.wait(60)
        return claims

    first = asyncio.create_task(bench.unit(slow_claim))
    await asyncio.to_thread(claimed.wait, 60)
    second = asyncio.create_task(bench.claim())
    await asyncio.sleep(0.05)
    assert not second.done()
    release.set()
    assert len(await first) == 1
    assert await second == []  # it saw the lease that was taken while it waited


# --------------------------------------------------------------------------- renew, give back


async def test_renewal_extends_what_is_held_and_leaves_out_what_is_lost(bench: Bench) -> None:
    await bench.lane()
    await bench.put("a", "b", "c", "d")
    a, b, c, d = await bench.claim()
    await bench.settle(b, Retry(after=0))
    (b_again,) = await bench.claim()
    await bench.settle(d, Done())
    bench.clock.advance(30)
    assert await bench.renew(a, b, c, d) == {a, c}
    until = bench.now() + int(LEASE * SECOND)
    assert (await bench.row("a")).lease_until == until
    assert (await bench.row("b")).lease_until == until - 30 * SECOND
    assert (await bench.row("b")).generation == b_again.generation
    assert (await bench.row("d")).lease_until is None


async def test_renewal_tells_two_claims_of_one_row_apart(bench: Bench) -> None:
    await bench.lane()
    await bench.put("j")
    stale = await bench.claim_one()
    bench.clock.advance(LEASE + 1)
    await bench.sweep()
    current = await bench.claim_one()
    assert await bench.renew(stale, current) == {current}


async def test_renewal_of_nothing(bench: Bench) -> None:
    assert await bench.renew() == set()


async def test_renewal_touches_the_lease_only(bench: Bench) -> None:
    await bench.lane()
    await bench.put("j")
    claim = await bench.claim_one()
    await bench.refresh()
    before = await bench.row()
    bench.clock.advance(10)
    await bench.renew(claim)
    after = await bench.row()
    assert after.lease_until == bench.now() + int(LEASE * SECOND)
    assert (after.due_at, after.generation) == (before.due_at, before.generation)


async def test_giving_back_counts_nothing_and_wakes_the_lane(bench: Bench) -> None:
    await bench.lane()
    await bench.put("j")
    await bench.settle(await bench.claim_one(), Retry(after=0, reason="r"))
    claim = await bench.claim_one()
    bench.clock.advance(1)
    bench.notes.clear()
    await bench.give_back(claim)
    assert await bench.row() == Row("pending", bench.now(), None, 4, 1, 0, "r")
    assert bench.wakes == [Wake("job", "l")]
    await bench.give_back(claim)
    assert (await bench.row()).generation == 4
    assert not await bench.settle(claim, Done())


async def test_giving_back_keeps_an_earlier_due_time_and_a_cancel(bench: Bench) -> None:
    await bench.lane()
    await bench.put("a", "b")
    claims = await bench.claim()
    await bench.refresh("a")
    asked = bench.now()
    await bench.cancel("b")
    bench.clock.advance(1)
    await bench.give_back(*claims)
    assert (await bench.row("a")).due_at == asked
    row = await bench.row("b")
    assert (row.status, row.due_at, row.lease_until) == ("cancelled", None, None)


# --------------------------------------------------------------------------- sweep


async def test_an_expired_lease_is_returned_with_a_lapse(bench: Bench) -> None:
    await bench.lane()
    await bench.put("a", "b")
    a, _b = await bench.claim()
    bench.clock.advance(LEASE - 1)
    await bench.renew(a)
    bench.clock.advance(2)
    bench.notes.clear()
    assert await bench.sweep() == [ledger.Lapsed("b", "l", 1, False)]
    assert bench.wakes == [Wake("job", "l")]
    row = await bench.row("b")
    assert (row.status, row.due_at, row.lease_until) == ("pending", bench.now(), None)
    assert (row.generation, row.attempts, row.lapses) == (2, 0, 1)
    assert row.last_error
    assert (await bench.row("a")).lapses == 0
    assert await bench.sweep() == []


async def test_rows_this_process_holds_are_left_alone(bench: Bench) -> None:
    await bench.lane()
    await bench.put("a", "b")
    await bench.claim()
    bench.clock.step(7 * 24 * 3600)
    assert [lapsed.id for lapsed in await bench.sweep(held=["a"])] == ["b"]


async def test_at_the_start_every_lease_is_swept(bench: Bench) -> None:
    await bench.lane()
    await bench.put("a", "b", "c", "rest")
    await bench.cancel("rest")
    await bench.claim()
    await bench.cancel("b")
    swept: list[ledger.Lapsed] = []
    while got := await bench.sweep(everything=True, limit=2):
        swept += got
    assert sorted(lapsed.id for lapsed in swept) == ["a", "b", "c"]
    assert (await bench.row("a")).due_at == bench.now()
    row = await bench.row("b")
    assert (row.status, row.due_at) == ("cancelled", None)


async def test_the_sixth_lapse_in_a_row_is_the_end(bench: Bench) -> None:
    await bench.lane()
    await bench.put("j")
    for lapse in range(1, 7):
        claim = await bench.claim_one()
        assert claim.lapses == lapse - 1
        bench.clock.advance(LEASE + 1)
        (lapsed,) = await bench.sweep()
        assert lapsed == ledger.Lapsed("j", "l", lapse, lapse == 6)
    row = await bench.row()
    assert (row.status, row.due_at, row.lease_until, row.lapses) == ("dead", None, None, 6)
    assert [end[:2] for end in bench.ended] == [("j", "dead")]
    assert await bench.sweep() == []
    assert await bench.sweep(everything=True) == []
    assert await bench.claim() == []
    assert len(bench.ended) == 1


async def test_any_settlement_is_progress_and_forgets_the_lapses(bench: Bench) -> None:
    await bench.lane()
    await bench.put("j")
    for _ in range(5):
        await bench.claim_one()
        bench.clock.advance(LEASE + 1)
        await bench.sweep()
    await bench.settle(await bench.claim_one(), Postpone(until=0))
    assert (await bench.row()).lapses == 0


async def test_a_cancelled_row_is_not_swept_back_to_life(bench: Bench) -> None:
    await bench.lane()
    await bench.put("j")
    for _ in range(5):
        await bench.claim_one()
        bench.clock.advance(LEASE + 1)
        await bench.sweep()
    await bench.claim_one()
    await bench.cancel()
    bench.clock.advance(LEASE + 1)
    (lapsed,) = await bench.sweep()
    assert not lapsed.dead
    row = await bench.row()
    assert (row.status, row.due_at, row.lease_until) == ("cancelled", None, None)
    assert bench.ended == []


async def test_one_claim_can_lapse_at_once(bench: Bench) -> None:
    await bench.lane()
    await bench.put("j")
    claim = await bench.claim_one()
    lapsed = await bench.unit(lambda tx: ledger.lapse(tx, bench.kind, claim, "exit code 9"))
    assert lapsed == ledger.Lapsed("j", "l", 1, False)
    row = await bench.row()
    assert (row.due_at, row.lapses, row.last_error) == (bench.now(), 1, "exit code 9")
    assert await bench.unit(lambda tx: ledger.lapse(tx, bench.kind, claim, "x")) is None
    await bench.claim_one()
    assert not await bench.settle(claim, Done())


async def test_settlement_and_sweep_at_once_end_in_one_of_the_two(postgres: Bench) -> None:
    bench = postgres
    await bench.lane(cap=200)
    ids = [f"j{n:03}" for n in range(120)]
    await bench.put(*ids)
    claims = await bench.claim(slots=200)
    bench.clock.advance(LEASE + 1)
    applied: Counter[str] = Counter()
    random.shuffle(claims)

    def note(tx: Tx, id_: str) -> None:
        tx.notify(id_)

    async def settle(part: list[Claim]) -> set[Claim]:
        batch = [
            bench.decided(c, Retry(after=100, apply=lambda tx, id_=c.id: note(tx, id_)))
            for c in part
        ]
        settled: set[Claim] = await bench.unit(lambda tx: ledger.settle(tx, bench.kind, batch))
        return settled

    bench.database.subscribe(lambda notes: applied.update(n for n in notes if isinstance(n, str)))
    results = await asyncio.gather(
        *(settle(claims[n : n + 20]) for n in range(0, 120, 20)),
        *(settle(claims[n : n + 30]) for n in range(0, 120, 30)),
        *(bench.sweep(limit=25) for _ in range(6)),
        *(bench.renew(*random.sample(claims, 60)) for _ in range(4)),
    )
    settled = Counter(claim.id for part in results[:10] for claim in part)
    swept = Counter(lapsed.id for part in results[10:16] for lapsed in part)
    assert all(n == 1 for n in (settled + swept).values())
    assert applied == settled
    for id_ in ids:
        row = await bench.row(id_)
        assert (row.attempts, row.lapses) == (settled[id_], swept[id_])


# --------------------------------------------------------------------------- look


async def test_a_lane_with_due_rows_is_to_be_looked_at_now(bench: Bench) -> None:
    await bench.lane()
    assert await bench.next_look() is None
    await bench.put("j")
    assert await bench.next_look() <= 0  # type: ignore[operator]
    await bench.claim()
    assert await bench.next_look() is None


async def test_a_lane_is_looked_at_again_when_its_next_row_is_due(bench: Bench) -> None:
    await bench.lane()
    await bench.put("late", delay=60)
    await bench.put("soon", delay=2.5)
    assert await bench.next_look() == pytest.approx(2.5, abs=1e-5)


async def test_a_held_row_that_was_refreshed_is_the_settlements_to_announce(
    bench: Bench,
) -> None:
    await bench.lane()
    await bench.put("j")
    claim = await bench.claim_one()
    await bench.refresh()
    assert await bench.next_look() is None
    await bench.settle(claim, Retry(after=50))
    assert await bench.next_look() <= 0  # type: ignore[operator]


async def test_a_full_lane_is_looked_at_by_the_settlement_that_frees_a_place(
    bench: Bench,
) -> None:
    await bench.lane(cap=1)
    await bench.put("a", "b")
    claim = await bench.claim_one()
    assert await bench.next_look() is None
    await bench.settle(claim, Retry(after=50))
    assert await bench.next_look() <= 0  # type: ignore[operator]


async def test_a_lane_without_tokens_is_looked_at_when_it_has_one(bench: Bench) -> None:
    await bench.lane(rate=0.25, burst=2.0)
    await bench.put("a", "b", "c", "d")
    assert len(await bench.claim()) == 2
    look = await bench.next_look()
    assert look == pytest.approx(4.0, abs=1e-4)
    assert look is not None
    bench.clock.advance(look)
    assert len(await bench.claim()) == 1


async def test_a_pause_closes_the_lane_and_only_lengthens(bench: Bench) -> None:
    await bench.lane()
    await bench.put("a", "b", "c")
    (claim,) = await bench.claim(slots=1)
    await bench.settle(claim, Retry(after=0, pause=30.0))
    assert await bench.claim() == []
    assert await bench.next_look() == pytest.approx(30.0, abs=1e-4)
    await bench.unit(lambda tx: lanes.close_for(tx, "l", 5.0))
    assert await bench.next_look() == pytest.approx(30.0, abs=1e-4)
    await bench.unit(lambda tx: lanes.close_for(tx, "l", 60.0))
    assert await bench.next_look() == pytest.approx(60.0, abs=1e-4)
    bench.clock.advance(60)
    assert len(await bench.claim()) == 3


async def test_of_several_pauses_in_a_batch_the_longest_counts(bench: Bench) -> None:
    await bench.lane()
    await bench.put("a", "b", "c")
    claims = await bench.claim()
    batch = [
        bench.decided(claim, Retry(after=0, pause=pause))
        for claim, pause in zip(claims, [5.0, 50.0, 0.5], strict=True)
    ]
    await bench.unit(lambda tx: ledger.settle(tx, bench.kind, batch))
    assert await bench.next_look() == pytest.approx(50.0, abs=1e-4)


async def test_a_paused_lane_waits_for_whoever_resumes_it(bench: Bench) -> None:
    await bench.lane()
    await bench.put("j")
    assert await bench.configure(paused=True)
    assert await bench.claim() == []
    assert await bench.next_look() is None
    bench.notes.clear()
    assert await bench.configure(paused=False)
    assert bench.wakes == [Wake("job", "l")]
    assert len(await bench.claim()) == 1


async def test_configuring_a_lane_wakes_it_and_says_whether_it_is_there(bench: Bench) -> None:
    await bench.lane(cap=1)
    assert await bench.configure(max_in_flight=5, rate=3.0, burst=2.0)
    assert bench.wakes == [Wake("job", "l")]
    assert not await bench.configure("nowhere", paused=True)
    with pytest.raises(TypeError, match="open_at"):
        await bench.configure(open_at=5)
    gate = await bench.gate()
    assert (gate.cap, gate.rate) == (5, 3.0)


async def test_ensuring_a_lane_that_exists_changes_nothing(bench: Bench) -> None:
    await bench.lane(cap=7, rate=3.0, burst=5.0)
    await bench.lane(cap=1)
    gate = await bench.gate()
    assert (gate.cap, gate.rate) == (7, 3.0)


async def test_a_survey_finds_every_lane_that_is_due_in_time(bench: Bench) -> None:
    for lane in ("now", "soon", "late", "empty", "held", "paused"):
        await bench.lane(lane)
    await bench.put("n", lane="now")
    await bench.put("s", lane="soon", delay=20)
    await bench.put("l", lane="late", delay=31)
    await bench.put("h", lane="held")
    await bench.put("p", lane="paused")
    await bench.put("stray", lane="unknown")
    await bench.claim("held")
    await bench.configure("paused", paused=True)
    wakes = await bench.database.read(lambda tx: lanes.survey(tx, "job", "jobs", within=30.0))
    found = {wake.lane: wake.delay for wake in wakes}
    assert found == {"now": 0.0, "soon": pytest.approx(20.0, abs=1e-4)}


async def test_after_every_step_each_lane_with_work_has_a_next_look_or_a_lease(
    bench: Bench,
) -> None:
    """Claims with few slots over many lanes; what a look announces is enough to finish."""
    names = [f"l{n}" for n in range(6)]
    for n, lane in enumerate(names):
        await bench.lane(lane, cap=1 + n % 3, rate=5.0 if n % 2 else None, burst=1.0 + n)
        await bench.put(*(f"{lane}-{m}" for m in range(8)), lane=lane, delay=n * 0.3)

    wakes = dict.fromkeys(names, 0.0)
    done = 0
    for _ in range(400):
        if not wakes:
            break
        lane = min(wakes, key=lambda name: wakes[name])
        wait = wakes.pop(lane)
        if wait > 0:
            bench.clock.advance(wait)
            wakes = {name: at - wait for name, at in wakes.items()}

        def step(tx: Tx, lane: str = lane) -> tuple[list[Claim], list[Wake]]:
            claimed = ledger.claim(tx, bench.kind, 2, [lane])
            return claimed.claims, lanes.look(tx, "job", "jobs", claimed.visited)

        claims, looks = await bench.unit(step)
        batch = [bench.decided(claim, Done()) for claim in claims]

        def finish(tx: Tx, batch: list[Settlement] = batch, lane: str = lane) -> list[Wake]:
            ledger.settle(tx, bench.kind, batch)
            return lanes.look(tx, "job", "jobs", [lane])

        for wake in looks + (await bench.unit(finish) if batch else []):
            wakes[wake.lane] = min(wake.delay, wakes.get(wake.lane, 1e9))
        done += len(claims)
    assert done == 48


# --------------------------------------------------------------------------- wakes


async def test_a_lane_is_marked_as_woken_once(bench: Bench) -> None:
    await bench.lane("a")
    await bench.lane("b")

    async def mark(*ids: str) -> set[str]:
        marked: set[str] = await bench.unit(lambda tx: lanes.mark_woken(tx, ids))
        return marked

    assert await mark("b", "a", "nowhere") == {"a", "b"}
    assert await mark("a", "b") == set()
    bench.clock.advance(1)
    await bench.claim("a")
    assert await mark("a", "b") == {"a"}
    assert await mark("a") == set()
    await bench.unit(lambda tx: lanes.unmark_woken(tx, ["a", "b"]))
    assert await mark("a", "b") == {"a", "b"}


async def test_a_wake_that_brought_nobody_for_a_minute_is_lost(bench: Bench) -> None:
    await bench.lane()
    for _ in range(3):
        assert await bench.unit(lambda tx: lanes.mark_woken(tx, ["l"])) == {"l"}
        bench.clock.advance(59)
        assert await bench.unit(lambda tx: lanes.mark_woken(tx, ["l"])) == set()
        bench.clock.advance(1.1)


async def test_slow_clocks_do_not_hold_wakes_back(bench: Bench) -> None:
    await bench.lane()
    await bench.claim()  # served at the fast clock's time
    bench.clock.step(-3600)
    for _ in range(3):
        assert await bench.unit(lambda tx: lanes.mark_woken(tx, ["l"])) == {"l"}
        assert await bench.unit(lambda tx: lanes.mark_woken(tx, ["l"])) == set()
        await bench.claim()
        served, woken = await bench.marks()
        assert served >= woken


async def test_concurrent_wakers_of_one_lane_send_one_wake(bench: Bench) -> None:
    ids = [f"l{n}" for n in range(10)]
    for id_ in ids:
        await bench.lane(id_)
    marked = await asyncio.gather(
        *(
            bench.unit(lambda tx, part=part: lanes.mark_woken(tx, part))
            for part in [random.sample(ids, 8) for _ in range(16)]
        )
    )
    assert Counter(id_ for part in marked for id_ in part) == dict.fromkeys(ids, 1)


# --------------------------------------------------------------------------- size


FILL = sql("""
INSERT INTO jobs (id, account, name, args, status, created_at, lane, due_at)
VALUES (:id, 'a', 'n', '[]', 'pending', 0, :lane, :due)
""")


async def test_a_backlog_behind_a_closed_lane_costs_the_others_nothing(bench: Bench) -> None:
    await bench.lane("closed")
    await bench.lane("open", cap=1000)
    due = bench.now() - 5 * SECOND

    async def fill(lane: str, rows: int) -> None:
        await bench.unit(
            lambda tx: tx.many(
                FILL, [{"id": f"{lane}{n:06}", "lane": lane, "due": due - n} for n in range(rows)]
            )
        )

    async def cost() -> float:
        took = []
        for _ in range(25):
            began = time.perf_counter()
            claims = await bench.claim("open", "closed", slots=16)
            await bench.database.read(lambda tx: lanes.survey(tx, "job", "jobs", 30.0))
            took.append(time.perf_counter() - began)
            assert {claim.lane for claim in claims} == {"open"}
            await bench.give_back(*claims)
        return min(took)  # what others do on the machine adds to it, and takes nothing away

    await fill("open", 200)
    await bench.configure("closed", paused=True)
    before = await cost()
    await fill("closed", 20_000)
    if bench.database.dialect == "postgres":
        await bench.unit(lambda tx: tx.run(sql("ANALYZE jobs")))
    after = await cost()
    deadline = time.monotonic() + 30
    while after > 2 * before and time.monotonic() < deadline:  # a busy machine: until it has a gap
        await asyncio.sleep(0.2)
        after = min(after, await cost())
    assert after <= 2 * before
    held = await bench.database.read(
        lambda tx: tx.one(sql("SELECT sum(generation) FROM jobs WHERE lane = 'closed'"))
    )
    assert held[0] == 0  # no waiting row was touched


class Spy:
    """A SQLite Tx that keeps the plan of each statement it runs."""

    dialect = "sqlite"

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self.plan: list[str] = []

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._tx, name)
        if name not in ("rows", "one", "run"):
            return call

        def explained(statement: Statement, **params: Any) -> Any:
            lists = {each: json.dumps(list(params[each])) for each in statement.lists}
            now = {"at": 0} if statement.uses_now else {}
            text = "EXPLAIN QUERY PLAN " + statement.sqlite.replace(":now", ":at")
            explain = sql(sqlite=text, postgres="-")
            self.plan += [row[3] for row in self._tx.rows(explain, **(params | lists | now))]
            return call(statement, **params)

        return explained


async def test_searches_run_on_the_partial_indexes(sqlite_path: Path, clock: ManualClock) -> None:
    database = SqliteDatabase(sqlite_path, clock)
    await database.open()
    bench = Bench(database, clock)
    await bench.lane()
    await bench.put(*(f"j{n}" for n in range(20)))

    def everything(tx: Tx) -> list[str]:
        spy: Any = Spy(tx)
        claims = ledger.claim(spy, bench.kind, 5, ["l"]).claims
        assert len(claims) == 5
        lanes.survey(spy, "job", "jobs", 30.0)
        lanes.mark_woken(spy, ["l"])
        ledger.renew(spy, bench.kind, claims)
        ledger.settle(spy, bench.kind, [bench.decided(claims[0], Done(health="bad"))])
        ledger.give_back(spy, bench.kind, claims[1:2])
        ledger.lapse(spy, bench.kind, claims[2], "x")
        ledger.sweep(spy, bench.kind, held=["x"])
        ledger.sweep(spy, bench.kind, everything=True)
        return list(spy.plan)

    plan = await database.unit(everything)
    await database.close()
    tables = ("jobs", "lanes", "n", "w", "h")
    scans = [step for step in plan if step.startswith("SCAN") and step.split()[1] in tables]
    assert [step for step in scans if "INDEX" not in step] == []
    for index in ("jobs_due", "jobs_held", "jobs_leases"):
        assert any(index in step for step in plan), plan

"""The engine against a model of it in plain Python, played by hypothesis.

The model knows what each row and lane must look like after every step; besides, some things are
checked that no agreement of the two could excuse: the cap, the rate, the order, the fence.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from penstock.clock import SECOND, ManualClock
from penstock.storage import Tx, sql, sqlite
from penstock.storage.sqlite import SqliteDatabase
from penstock.work import circuit, lanes, ledger
from penstock.work.kinds import Claim, Kind, Task
from penstock.work.outcomes import Dead, Done, Outcome, Postpone, Retry
from penstock.work.settlement import decide

LEASE = 20.0
NAMES = ["a", "b", "c"]
TERMINAL = {"succeeded", "dead", "cancelled"}
INSERT = sql("""
INSERT INTO jobs (id, account, name, args, status, created_at, lane, due_at)
VALUES (:id, 'a', 'n', '[]', 'pending', {now}, :lane, {now} + :delay)
""")
REFRESH = sql("UPDATE jobs SET due_at = {now} + :delay WHERE id = :id AND status = 'pending'")
CANCEL = sql("UPDATE jobs SET status = 'cancelled', due_at = NULL WHERE id = :id")
ROWS = sql("SELECT id, lane, status, due_at, lease_until, generation, attempts, lapses FROM jobs")
LANES = sql("""
SELECT id, max_in_flight, rate, burst, tokens, tokens_at, paused, open_at, circuit,
  circuit_generation, trips, consecutive, served_at, woken_at, per_call FROM lanes
""")
EMPTY = [sql(f"DELETE FROM {table}") for table in ("jobs", "lanes", "circuit_log")]


@dataclass(frozen=True)
class Row:
    lane: str
    status: str
    due: int | None
    lease: int | None
    generation: int
    attempts: int
    lapses: int

    @property
    def waits(self) -> bool:
        return self.due is not None and self.lease is None


@dataclass
class Lane:
    cap: int
    rate: float | None
    burst: float
    tokens: float
    tokens_at: int
    per_call: int = 1
    paused: bool = False
    open_at: int = 0
    circuit: str = "closed"
    generation: int = 0
    trips: int = 0
    consecutive: int = 0
    forced: tuple[str, int] = ("", 0)  # by somebody, to what and until when
    taken: list[tuple[float, int]] = field(default_factory=list)  # when, for how many tokens

    def bucket(self, now: int) -> float:
        if self.rate is None:
            return 1e9
        return min(self.burst, self.tokens + self.rate * max(0, now - self.tokens_at) / 1e6)

    def allowance(self, now: int, held: int) -> int:
        if self.paused or self.open_at > now:
            return 0
        if self.circuit != "closed":
            return int(held == 0 and self.bucket(now) >= 1)
        return max(0, min(self.cap - held, int(self.bucket(now)) * self.per_call))

    def price(self, rows: int) -> int:
        """Tokens for so many rows claimed together."""
        whole, rest = divmod(rows, self.per_call)
        return whole + bool(rest)


TRIP_AFTER = 2

outcomes = st.one_of(
    st.builds(Done, again=st.sampled_from([None, 0.0, 3.0])),
    st.builds(Retry, after=st.sampled_from([None, 0.0, 2.0, 50.0]), reason=st.just("r")),
    st.builds(Postpone, until=st.sampled_from([0.0, 1.0, 30.0])),
    st.just(Dead("no")),
)
healths = st.sampled_from([None, None, "ok", "bad", "bad"])
pauses = st.sampled_from([None, None, None, 4.0])
Pick = tuple[int, bool]  # which of the claims, and whether one that holds nothing will do
picks = st.tuples(st.integers(0, 20), st.sampled_from([False, False, False, True]))


class Engine(RuleBasedStateMachine):
    """One database, as many workers as it likes; their memory is the bundle of claims."""

    database: Any
    clock: ManualClock

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, Row] = {}
        self.lanes: dict[str, Lane] = {}
        self.forward = 0.0  # seconds that the wall clock ever went forward
        self.claims: list[Claim] = []  # what workers remember, also long after it was settled
        self.ended: list[tuple[str, str]] = []
        self.kind: Kind[int] = Kind(
            "job",
            "jobs",
            load=lambda tx, claims: {},
            handle=_never,
            done="succeeded",
            terminal=frozenset(TERMINAL),
            lease=LEASE,
            backoff=lambda n: 5.0 * n if n < 4 else None,
            on_end=lambda tx, claim, status, reason: self.ended.append((claim.id, status)),
        )

    # ---------------------------------------------------------------- what happens

    @initialize(
        caps=st.tuples(*[st.integers(1, 4)] * 3),
        rates=st.tuples(*[st.sampled_from([None, None, 0.5, 2.0])] * 3),
        per_calls=st.tuples(*[st.sampled_from([1, 1, 2, 3])] * 3),
        burst=st.sampled_from([1.0, 3.0]),
        rows=st.lists(st.sampled_from(NAMES), max_size=12),
    )
    def start(self, caps: Any, rates: Any, per_calls: Any, burst: float, rows: list[str]) -> None:
        def make(tx: Tx) -> None:
            for statement in EMPTY:
                tx.run(statement)
            for name, cap, rate, per_call in zip(NAMES, caps, rates, per_calls, strict=True):
                lanes.ensure(
                    tx,
                    name,
                    kind="job",
                    account="a",
                    max_in_flight=cap,
                    rate=rate,
                    burst=burst,
                    trip_after=TRIP_AFTER,
                    per_call=per_call,
                )

        now = self.clock.now()
        for name, cap, rate, per_call in zip(NAMES, caps, rates, per_calls, strict=True):
            self.lanes[name] = Lane(cap, rate, burst, burst, now, per_call)
        self.do(make)
        for name in rows:
            self.enqueue(name, 0.0, 1)

    @rule(
        lane=st.sampled_from(NAMES),
        delay=st.sampled_from([0.0, 0.0, 0.0, 1.0, 7.0]),
        n=st.integers(1, 4),
    )
    def enqueue(self, lane: str, delay: float, n: int) -> None:
        ids = [f"j{len(self.rows) + m:04}" for m in range(n)]
        us = int(delay * SECOND)
        for id_ in ids:
            self.rows[id_] = Row(lane, "pending", self.clock.now() + us, None, 0, 0, 0)
        self.do(lambda tx: [tx.run(INSERT, id=id_, lane=lane, delay=us) for id_ in ids])

    @rule(
        named=st.lists(st.sampled_from([*NAMES, "nowhere"]), min_size=1, unique=True),
        slots=st.sampled_from([0, 1, 2, 4, 6, 6]),
    )
    def claim(self, named: list[str], slots: int) -> None:
        now = self.clock.now()
        claimed = self.do(lambda tx: ledger.claim(tx, self.kind, slots, named), compare=False)
        self.check_claim(claimed, named, slots, now)
        for c in claimed.claims:
            row = self.rows[c.id]
            assert (c.lane, c.attempts, c.lapses) == (row.lane, row.attempts, row.lapses)
            self.rows[c.id] = replace(
                row, due=None, lease=now + int(LEASE * SECOND), generation=row.generation + 1
            )
            assert c.generation == self.rows[c.id].generation
        for name in set(named) & set(NAMES):
            lane = self.lanes[name]
            taken = sum(1 for c in claimed.claims if c.lane == name)
            if lane.rate is not None:
                lane.tokens = lane.bucket(now) - lane.price(taken)
                lane.tokens_at = now
            if lane.circuit == "open" and taken:
                lane.circuit, lane.generation = "half_open", lane.generation + 1
            assert all(c.circuit == lane.generation for c in claimed.claims if c.lane == name)
            if taken:
                lane.taken.append((self.forward, lane.price(taken)))
            self.check_rate(lane)
        self.claims += claimed.claims
        self.compare()

    def check_claim(self, claimed: ledger.Claimed, named: list[str], slots: int, now: int) -> None:
        assert sorted(claimed.visited) == sorted(set(named) & set(NAMES))
        assert len(claimed.claims) <= slots
        possible = 0
        for name in claimed.visited:
            lane = self.lanes[name]
            due = {i: r for i, r in self.rows.items() if r.lane == name and r.waits}
            due = {i: r for i, r in due.items() if r.due is not None and r.due <= now}
            taken = {c.id for c in claimed.claims if c.lane == name}
            allowance = lane.allowance(now, self.held(name))
            assert taken <= set(due)
            assert len(taken) <= allowance
            # In the order they became due.
            left = [r.due for i, r in due.items() if i not in taken]
            if taken and left:
                assert max(due[i].due for i in taken) <= min(left)  # type: ignore[type-var]
            possible += min(allowance, len(due))
            if slots >= len(named) and due and allowance:
                assert taken, f"lane {name} got nothing though there was a slot for each"
        assert bool(claimed.claims) == bool(possible and slots)

    @rule(pick=picks, outcome=outcomes, health=healths, pause=pauses, twice=st.booleans())
    def settle(
        self, pick: Pick, outcome: Any, health: Any, pause: float | None, twice: bool
    ) -> None:
        """Claims stay in memory, so that they are settled again, or too late."""
        claim = self.picked(pick)
        if claim is not None:
            self.settle_one(claim, outcome, health, pause, twice)

    def settle_one(
        self, claim: Claim, outcome: Any, health: Any, pause: float | None, twice: bool
    ) -> None:
        now = self.clock.now()
        applied: list[int] = []
        outcome = replace(outcome, apply=lambda tx: applied.append(1), health=health, pause=pause)
        settlement = decide(self.kind, claim, outcome, now)
        batch = [settlement, settlement] if twice else [settlement]
        self.ended.clear()
        settled = self.do(lambda tx: ledger.settle(tx, self.kind, batch), compare=False)
        row = self.rows[claim.id]
        if not self.holds(claim):
            assert (settled, applied, self.ended) == (set(), [], [])
            self.compare()
            return
        assert (settled, applied) == ({claim}, [1])
        self.rows[claim.id] = after = _settled(row, outcome, now)
        reached = after.status if after.status != row.status else None
        assert self.ended == ([(claim.id, reached)] if reached else [])
        self.circuit_hears(self.lanes[claim.lane], claim, health, now)
        if pause is not None:
            lane = self.lanes[claim.lane]
            lane.open_at = max(lane.open_at, now + int(pause * SECOND))
        self.compare()

    def circuit_hears(self, lane: Lane, claim: Claim, health: Any, now: int) -> None:
        if health is None or claim.circuit != lane.generation:
            return
        if lane.circuit == "half_open" and health == "ok":
            lane.circuit, lane.generation = "closed", lane.generation + 1
            lane.open_at, lane.trips, lane.consecutive = now, 0, 0
        elif lane.circuit == "closed" and health == "ok":
            lane.consecutive = 0
        elif lane.circuit != "open":
            lane.consecutive += lane.circuit == "closed"
            if lane.circuit == "half_open" or lane.consecutive >= TRIP_AFTER:
                lane.circuit, lane.generation = "open", lane.generation + 1
                until = self.do(lambda tx: tx.rows(LANES), compare=False)
                open_at = next(row[7] for row in until if row[0] == claim.lane)
                longest = min(1800.0, 30.0 * 2**lane.trips) * SECOND
                earliest = max(lane.open_at, now + int(longest / 2) - 1)
                assert earliest <= open_at <= max(lane.open_at, now + longest)
                lane.open_at, lane.consecutive = open_at, 0
                lane.trips += 1

    @rule(some=st.lists(picks, max_size=4))
    def renew(self, some: list[Pick]) -> None:
        held = list(dict.fromkeys(c for c in map(self.picked, some) if c is not None))
        now = self.clock.now()
        kept = self.do(lambda tx: ledger.renew(tx, self.kind, held), compare=False)
        assert kept == {c for c in held if self.holds(c)}
        for c in kept:
            self.rows[c.id] = replace(self.rows[c.id], lease=now + int(LEASE * SECOND))
        self.compare()

    @rule(pick=picks)
    def give_back(self, pick: Pick) -> None:
        claim = self.picked(pick)
        if claim is None:
            return
        now = self.clock.now()
        if self.holds(claim):
            row = self.rows[claim.id]
            due = None if row.status in TERMINAL else _earlier(row.due, now)
            self.rows[claim.id] = replace(row, due=due, lease=None, generation=row.generation + 1)
        self.do(lambda tx: ledger.give_back(tx, self.kind, [claim]))

    @rule(held=st.lists(picks, max_size=2), everything=st.sampled_from([False, False, True]))
    def sweep(self, held: list[Pick], everything: bool) -> None:
        """Workers that crashed are those whose claims nobody renews."""
        now = self.clock.now()
        spared = {c.id for c in map(self.picked, held) if c is not None}
        self.ended.clear()
        lapsed = self.do(
            lambda tx: ledger.sweep(tx, self.kind, held=spared, everything=everything),
            compare=False,
        )
        expected = set()
        died = []
        for id_, row in self.rows.items():
            if row.lease is None or id_ in spared or not (everything or row.lease < now):
                continue
            expected.add(id_)
            due: int | None = now
            status = row.status
            if status in TERMINAL:
                due = None
            elif row.lapses + 1 >= 6:
                due, status = None, "dead"
                died.append((id_, "dead"))
            self.rows[id_] = replace(
                row,
                status=status,
                due=due,
                lease=None,
                generation=row.generation + 1,
                lapses=row.lapses + 1,
            )
        assert {x.id for x in lapsed} == expected
        assert (
            sorted(self.ended) == sorted(died) == sorted((x.id, "dead") for x in lapsed if x.dead)
        )
        self.compare()

    @rule(pick=picks, delay=st.sampled_from([0.0, 0.0, 9.0]))
    def refresh(self, pick: Pick, delay: float) -> None:
        if (claim := self.picked(pick)) is None:
            return
        row = self.rows[claim.id]
        us = int(delay * SECOND)
        if row.status == "pending":
            self.rows[claim.id] = replace(row, due=self.clock.now() + us)
        self.do(lambda tx: tx.run(REFRESH, id=claim.id, delay=us))

    @rule(pick=picks)
    def cancel(self, pick: Pick) -> None:
        claim = self.picked(pick)
        if claim is not None and self.rows[claim.id].status == "pending":
            self.rows[claim.id] = replace(self.rows[claim.id], status="cancelled", due=None)
            self.do(lambda tx: tx.run(CANCEL, id=claim.id))

    @rule(name=st.sampled_from(NAMES), times=st.sampled_from([1, 3, 6]), asked=st.booleans())
    def crash_repeatedly(self, name: str, times: int, asked: bool) -> None:
        """What chance alone would hardly ever do: lose one row's lease time and again."""
        for _ in range(times):
            self.claim([name], 1)
            if asked:
                self.refresh((0, False), 0.0)
            self.time_passes(LEASE + 1)
            self.sweep([], False)

    def picked(self, pick: Pick) -> Claim | None:
        """Mostly one that holds its row, for that is when it matters."""
        n, any_ = pick
        claims = self.claims if any_ else [c for c in self.claims if self.holds(c)]
        return claims[-1 - n % len(claims)] if claims else None

    @rule(seconds=st.sampled_from([0.0001, 0.5, 2.0, 10.0, LEASE + 1, 200.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.forward += seconds

    @rule(seconds=st.sampled_from([-30.0, -1.0, 3.0, 3600.0]))
    def the_clock_steps(self, seconds: float) -> None:
        self.clock.step(seconds)
        self.forward += max(0.0, seconds)

    @rule(
        name=st.sampled_from(NAMES),
        changes=st.fixed_dictionaries(
            {},
            optional={
                "max_in_flight": st.integers(1, 4),
                "rate": st.sampled_from([None, 0.5, 2.0]),
                "paused": st.booleans(),
                "per_call": st.integers(1, 3),
            },
        ).filter(bool),
    )
    def configure(self, name: str, changes: dict[str, Any]) -> None:
        lane = self.lanes[name]
        lane.cap = changes.get("max_in_flight", lane.cap)
        lane.paused = changes.get("paused", lane.paused)
        lane.per_call = changes.get("per_call", lane.per_call)
        if "rate" in changes:
            lane.rate = changes["rate"]
            lane.taken.clear()
        self.do(lambda tx: lanes.configure(tx, name, **changes))

    @rule(name=st.sampled_from(NAMES), close=st.booleans())
    def override(self, name: str, close: bool) -> None:
        lane, now = self.lanes[name], self.clock.now()
        lane.generation += 1
        if close:
            lane.circuit, lane.open_at, lane.trips, lane.consecutive = "closed", now, 0, 0
            force = circuit.force_closed
        else:
            lane.circuit, lane.open_at = "open", now + 5 * SECOND
            force = circuit.force_open
        # Held for no time at all, a closed circuit may trip again at once.
        seconds = 0.0 if close else 5.0
        lane.forced = ("closed" if close else "open", now + int(seconds * SECOND))
        self.do(lambda tx: force(tx, name, seconds, actor="a", reason="r"))

    @rule(name=st.sampled_from(NAMES))
    def release(self, name: str) -> None:
        lane, now = self.lanes[name], self.clock.now()
        forced = lane.forced[1] > now
        if forced and lane.circuit == "open":
            lane.open_at = now
        if forced:
            lane.forced = ("", 0)
        released = self.do(
            lambda tx: circuit.release(tx, name, actor="a", reason="r"), compare=False
        )
        assert released == forced
        self.compare()

    @rule(name=st.sampled_from(NAMES))
    def try_now(self, name: str) -> None:
        lane, now = self.lanes[name], self.clock.now()
        state, until = lane.forced
        if lane.open_at > now and not (state == "open" and until > now):
            lane.open_at = now
        self.do(lambda tx: circuit.try_now(tx, name))

    # ---------------------------------------------------------------- what must hold

    def holds(self, claim: Claim) -> bool:
        row = self.rows[claim.id]
        return row.lease is not None and row.generation == claim.generation

    def held(self, lane: str) -> int:
        return sum(1 for r in self.rows.values() if r.lane == lane and r.lease is not None)

    def check_rate(self, lane: Lane) -> None:
        if lane.rate is None:
            return
        total = 0
        for at, n in reversed(lane.taken):
            total += n
            assert total <= lane.burst + lane.rate * (self.forward - at) + 1e-6

    def do(self, fn: Callable[[Tx], Any], *, compare: bool = True) -> Any:
        result = self.database.unit_sync(fn)
        if compare:
            self.compare()
        return result

    def compare(self) -> None:
        rows, found, looks = self.database.unit_sync(
            lambda tx: (tx.rows(ROWS), tx.rows(LANES), lanes.gates(tx, "jobs", NAMES))
        )
        assert {row[0]: Row(*row[1:]) for row in rows} == self.rows
        for id_, cap, rate, burst, tokens, tokens_at, paused, open_at, *rest in found:
            lane = self.lanes[id_]
            state, generation, trips, consecutive, served_at, woken_at, per_call = rest
            assert per_call == lane.per_call
            assert (cap, rate, burst, bool(paused)) == (
                lane.cap,
                lane.rate,
                lane.burst,
                lane.paused,
            )
            assert (open_at, tokens_at) == (lane.open_at, lane.tokens_at)
            assert tokens == pytest.approx(lane.tokens, abs=1e-6)
            assert -1e-6 <= tokens <= burst
            assert (state, generation) == (lane.circuit, lane.generation)
            assert (trips, consecutive) == (lane.trips, lane.consecutive)
            assert served_at >= woken_at
        for row in self.rows.values():
            assert row.status not in TERMINAL or row.due is None
            # Nothing that was accepted is lost: it waits, is held, or is at its end.
            assert row.status in TERMINAL or row.due is not None or row.lease is not None
        for gate in looks:
            self.check_look(gate)

    def check_look(self, gate: lanes.Gate) -> None:
        """The next look is when a row can pass if nobody writes anything more.

        It may come too early, and be followed by another, while the clock is behind itself.
        """
        lane, held, now = self.lanes[gate.id], self.held(gate.id), self.clock.now()
        waiting = [r.due for r in self.rows.values() if r.lane == gate.id and r.waits]
        at: float | None = None
        if waiting and not lane.paused:
            at = max(now, min(d for d in waiting if d is not None), lane.open_at)
            behind = 0
            if lane.rate is not None and lane.bucket(now) < 1:
                behind = max(0, lane.tokens_at - now)
                at = max(at, now + (1 - lane.bucket(now)) / lane.rate * SECOND)
            if lane.allowance(int(at) + 10 + behind, held) == 0:
                at = None  # full, or its probe is out: a settlement will say
        if at is None:
            assert gate.next_look is None
        else:
            assert gate.next_look == pytest.approx((at - now) / SECOND, abs=1e-4)

    def teardown(self) -> None:
        """Whatever happened: resume, let time pass, and everything reaches its end."""
        if not self.lanes:
            return
        owed = {i for i, r in self.rows.items() if r.status not in TERMINAL}

        def resume(tx: Tx) -> None:
            for name in NAMES:
                lanes.configure(tx, name, paused=False)

        self.database.unit_sync(resume)
        for _ in range(200):
            self.clock.advance(LEASE + 2000)

            def turn(tx: Tx) -> int:
                ledger.sweep(tx, self.kind)
                named = [wake.lane for wake in lanes.survey(tx, "job", "jobs", 0.0)]
                claims = ledger.claim(tx, self.kind, 50, named).claims
                batch = [decide(self.kind, c, Done(health="ok"), 0) for c in claims]
                return len(ledger.settle(tx, self.kind, batch))

            if self.database.unit_sync(turn) == 0:
                break
        ends = {row[0]: row for row in self.database.unit_sync(lambda tx: tx.rows(ROWS))}
        assert all(ends[id_][2] in TERMINAL for id_ in owed)
        assert all(row[3] is None and row[4] is None for row in ends.values())


async def _never(task: Task[int]) -> Outcome:
    raise AssertionError


def _earlier(written: int | None, own: int) -> int:
    return own if written is None else min(written, own)


def _settled(row: Row, outcome: Any, now: int) -> Row:
    """What the design says about a settlement, once more in other words."""
    counted = row.attempts + 1
    gone = replace(row, lease=None, generation=row.generation + 1, lapses=0)
    match outcome:
        case Done(again=None):
            end, after, attempts = "succeeded", None, counted
        case Done(again=again):
            end, after, attempts = None, again, 0
        case Postpone(until=until):
            end, after, attempts = None, until, row.attempts
        case Retry(after=None) if counted < 4:
            end, after, attempts = None, 5.0 * counted, counted
        case Retry(after=after) if after is not None:
            end, attempts = None, counted
        case _:
            end, after, attempts = "dead", None, counted
    gone = replace(gone, attempts=attempts)
    if row.status in TERMINAL:
        return replace(gone, due=None)
    if end == "succeeded":
        return replace(gone, status="succeeded", due=None)
    if end == "dead":
        return gone if row.due is not None else replace(gone, status="dead", due=None)
    assert after is not None
    return replace(gone, due=_earlier(row.due, now + int(after * SECOND)))


SETTINGS: dict[str, Any] = {
    # Shrinking plays on for minutes; without this line it tells a shorter story.
    "phases": [Phase.explicit, Phase.generate],
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
    # One seed for a run that must be repeatable; else each run plays something new.
    "derandomize": "CI" in os.environ,
}


def play(database: Any, clock: ManualClock, **options: Any) -> None:
    def machine() -> Engine:
        engine = Engine()
        engine.database, engine.clock = database, clock
        return engine

    run_state_machine_as_test(machine, settings=settings(**SETTINGS, **options))


def test_sqlite_does_as_the_model_says(
    sqlite_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is asked here of the disk, and waiting for it would take most of the time.
    fast = [pragma.replace("synchronous=FULL", "synchronous=OFF") for pragma in sqlite._PRAGMAS]
    monkeypatch.setattr(sqlite, "_PRAGMAS", fast)
    database = SqliteDatabase(sqlite_path, clock)
    database.open_sync()
    try:
        play(database, clock, max_examples=120, stateful_step_count=50)
    finally:
        database.close_sync()


@pytest.mark.postgres
def test_postgres_does_as_the_model_says(
    request: pytest.FixtureRequest, clock: ManualClock
) -> None:
    database = request.getfixturevalue("_postgres_database")
    database.open_sync()
    try:
        play(database, clock, max_examples=20, stateful_step_count=40)
    finally:
        database.close_sync()

"""The ledger: the only code that moves a row's lease, and the rules by which it does.

Every function here is one step of a transaction. A row is

* *waiting* when ``due_at`` is set and ``lease_until`` is not,
* *held* when ``lease_until`` is set: exactly one claim, fenced by ``generation``,
* *at rest* when neither is: nothing is owed.

People and services write ``due_at`` and ``status`` only ("refresh" = due now, "cancel" = due
never), never the lease, so they cannot race a worker: what they write during a lease is kept by
the settlement. A terminal status always stays, with nothing owed. A row that failed for good
although somebody asked for it meanwhile stays owed: the request came after the failing try began.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Any

from penstock.clock import SECOND
from penstock.errors import BadData
from penstock.storage import Statement, Tx, sql
from penstock.work import circuit, lanes
from penstock.work.kinds import AnyKind, Claim
from penstock.work.lanes import Gate
from penstock.work.outcomes import Later
from penstock.work.settlement import Settlement

MAX_LAPSES = 6  # leases lost in a row before the row is dead
_LONGEST = 2**62  # µs; what comes in as JSON would become a float beyond
STOPPED = "the worker that held it stopped without settling it"
ISOLATE_AFTER = 2  # lapses from which a row runs alone, in a process of its own


# --------------------------------------------------------------------------- claim


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim took. `visited` are the lanes it looked into, whether or not it took."""

    claims: list[Claim]
    visited: list[str]


_LOCK = sql("SELECT id FROM lanes WHERE id {in:ids} ORDER BY id {lock}")


@cache
def _take(table: str) -> Statement:
    # PostgreSQL: the LIMIT is a plan-time constant with the quota outside it, because a variable
    # inside LIMIT costs six times as much; SKIP LOCKED leaves rows an open accept still holds.
    return sql(
        sqlite=f"""
UPDATE {table} SET due_at = NULL, lease_until = {{now}} + :lease, generation = generation + 1
WHERE id IN (SELECT id FROM {table} INDEXED BY {table}_due
             WHERE lane = :lane AND due_at IS NOT NULL AND due_at <= {{now}}
               AND lease_until IS NULL ORDER BY due_at LIMIT :quota)
RETURNING id, lane, generation, attempts, lapses
""",  # noqa: S608
        postgres=f"""
WITH q AS MATERIALIZED (SELECT * FROM unnest(:lanes::text[], :quotas::int[]) AS q(lane, quota)),
pick AS (SELECT p.id FROM q CROSS JOIN LATERAL (
    SELECT x.id, row_number() OVER () AS r FROM (
      SELECT w.id FROM {table} w
      WHERE w.lane = q.lane AND w.due_at IS NOT NULL AND w.due_at <= {{now}}
        AND w.lease_until IS NULL ORDER BY w.due_at LIMIT :slots) x) p WHERE p.r <= q.quota),
lk AS (SELECT id FROM {table} WHERE id IN (SELECT id FROM pick) AND due_at <= {{now}}
         AND lease_until IS NULL FOR NO KEY UPDATE SKIP LOCKED)
UPDATE {table} w SET due_at = NULL, lease_until = {{now}} + :lease, generation = generation + 1
FROM lk WHERE w.id = lk.id RETURNING w.id, w.lane, w.generation, w.attempts, w.lapses
""",  # noqa: S608
    )


# `tokens_at` follows the clock also where that was set back: a bucket must not wait for the clock
# to catch up. Rows taken together are paid for by the call, of which the last may be a part of one;
# these are integers, whose division rounds down. A lane that gave nothing, has no bucket and was
# not woken is not written: on SQLite, looking into it then waits for no disk.
_SERVED = sql(
    sqlite="""
UPDATE lanes SET
  served_at = CASE WHEN :taken > 0 THEN max({now}, woken_at) ELSE max(served_at, woken_at) END,
  tokens = CASE WHEN rate IS NULL THEN tokens
    ELSE min(burst, tokens + rate * max(0, {now} - tokens_at) / 1e6)
      - (:taken + per_call - 1) / per_call END,
  tokens_at = CASE WHEN rate IS NULL THEN tokens_at ELSE {now} END
WHERE id = :lane AND (:taken > 0 OR rate IS NOT NULL OR woken_at > served_at)
""",
    postgres="""
UPDATE lanes n SET
  served_at = CASE WHEN q.taken > 0 THEN greatest({now}, woken_at)
                   ELSE greatest(served_at, woken_at) END,
  tokens = CASE WHEN rate IS NULL THEN tokens
    ELSE least(burst, tokens + rate * greatest(0, {now} - tokens_at) / 1e6)
      - (q.taken + per_call - 1) / per_call END,
  tokens_at = CASE WHEN rate IS NULL THEN tokens_at ELSE {now} END
FROM unnest(:lanes::text[], :taken::int[]) AS q(lane, taken)
WHERE n.id = q.lane AND (q.taken > 0 OR rate IS NOT NULL OR woken_at > served_at)
""",
)


def claim(tx: Tx, kind: AnyKind, slots: int, named: Sequence[str]) -> Claimed:
    """Take up to `slots` due rows from the named lanes, fairly shared between them.

    The lanes are locked, and waited for, in the order of their ids.
    """
    locked = tx.rows(_LOCK, ids=sorted(named))
    if not locked:
        return Claimed([], [])
    # A statement of its own, so that it sees what was committed before the locks were had:
    # counting live leases in the locking statement let a cap of 3 hold 6.
    gates = lanes.gates(tx, kind.table, [id_ for (id_,) in locked])
    wanted = {
        gate.id: quota for gate, quota in zip(gates, share(gates, slots), strict=True) if quota
    }
    rows = _take_rows(tx, kind, wanted)
    taken: dict[str, int] = {gate.id: 0 for gate in gates}
    for row in rows:
        taken[row[1]] += 1
    generations = {
        gate.id: circuit.half_open(tx, gate.id)
        if gate.circuit == "open" and taken[gate.id]
        else gate.circuit_generation
        for gate in gates
    }
    _mark_served(tx, taken)
    claims = [
        Claim(kind.name, id_, lane, generation, attempts, lapses, generations[lane])
        for id_, lane, generation, attempts, lapses in sorted(rows)
    ]
    return Claimed(claims, [gate.id for gate in gates])


def share(gates: Sequence[Gate], slots: int) -> list[int]:
    """How many rows each lane may give, one each in turn until `slots` are spent.

    The order of `gates` is the order of turns: the lane served longest ago comes first.
    """
    open_ = [
        gate.allowance if gate.due_in is not None and gate.due_in <= 0 else 0 for gate in gates
    ]
    quotas = [0] * len(gates)
    while slots > 0 and any(open_):
        turn = max(1, slots // sum(1 for left in open_ if left))
        for i, left in enumerate(open_):
            give = min(left, turn, slots)
            quotas[i] += give
            open_[i] -= give
            slots -= give
    return quotas


def _take_rows(
    tx: Tx, kind: AnyKind, wanted: dict[str, int]
) -> list[tuple[str, str, int, int, int]]:
    statement = _take(kind.table)
    lease = int(kind.lease * SECOND)
    rows: list[tuple[str, str, int, int, int]] = []
    if tx.dialect == "sqlite":
        for lane, quota in wanted.items():
            rows += tx.rows(statement, lane=lane, quota=quota, lease=lease)
    elif wanted:
        rows += tx.rows(
            statement,
            lanes=list(wanted),
            quotas=list(wanted.values()),
            slots=max(wanted.values()),
            lease=lease,
        )
    return rows


def _mark_served(tx: Tx, taken: dict[str, int]) -> None:
    # Every lane that was locked answers its wake. One that gave nothing keeps its turn: else,
    # of lanes that are looked into together for one slot, the same would get it every time.
    if tx.dialect == "sqlite":
        for lane, n in taken.items():
            tx.run(_SERVED, lane=lane, taken=n)
    else:
        tx.run(_SERVED, lanes=list(taken), taken=list(taken.values()))


# --------------------------------------------------------------------------- settle


@cache
def _settle(kind: AnyKind) -> Statement:
    terminal = ", ".join(f"'{status}'" for status in sorted(kind.terminal))
    values = f"""
  lease_until = NULL, generation = w.generation + 1,
  attempts = s.attempts, lapses = 0, last_error = s.error,
  status = CASE WHEN w.status IN ({terminal}) THEN w.status
                WHEN s.status = '{kind.dead}' AND w.due_at IS NOT NULL THEN w.status
                ELSE coalesce(s.status, w.status) END,
  due_at = CASE WHEN w.status IN ({terminal}) THEN NULL
                WHEN s.status = '{kind.dead}' THEN w.due_at
                WHEN s.status IN ({terminal}) THEN NULL
                WHEN s.delay IS NULL THEN w.due_at
                WHEN w.due_at < {{now}} + s.delay THEN w.due_at
                ELSE {{now}} + s.delay END"""
    if kind.ended is not None:
        values += f""",
  {kind.ended} = CASE WHEN w.status IN ({terminal}) THEN w.{kind.ended}
                WHEN s.status = '{kind.dead}' AND w.due_at IS NOT NULL THEN w.{kind.ended}
                WHEN s.status IN ({terminal}) THEN {{now}} ELSE w.{kind.ended} END"""
    columns = ("id", "generation", "status", "delay", "attempts", "error")
    read = ", ".join(f"json_extract(value, '$[{i}]') AS {name}" for i, name in enumerate(columns))
    return sql(
        # One statement for all: each step of one gives the event loop's thread its turn.
        sqlite=f"""
WITH s AS MATERIALIZED (SELECT {read} FROM json_each(:rows))
UPDATE {kind.table} AS w SET {values} FROM s
WHERE w.id = s.id AND w.generation = s.generation AND w.lease_until IS NOT NULL
RETURNING id, generation - 1, status
""",  # noqa: S608
        postgres=f"""
WITH s AS MATERIALIZED (SELECT * FROM unnest(:ids::text[], :generations::bigint[],
    :statuses::text[], :delays::bigint[], :attempts::int[], :errors::text[])
    AS s(id, generation, status, delay, attempts, error)),
lk AS MATERIALIZED (SELECT x.id FROM {kind.table} x JOIN s ON s.id = x.id
    WHERE x.generation = s.generation AND x.lease_until IS NOT NULL
    ORDER BY x.id FOR NO KEY UPDATE OF x)
UPDATE {kind.table} w SET {values} FROM s JOIN lk ON lk.id = s.id
WHERE w.id = s.id AND w.generation = s.generation AND w.lease_until IS NOT NULL
RETURNING w.id, s.generation, w.status
""",  # noqa: S608
    )


def settle(tx: Tx, kind: AnyKind, settlements: Sequence[Settlement]) -> set[Claim]:
    """Carry out what handlers decided, for the claims that still hold their row; answers those.

    In the same transaction: each one's `apply`, the kind's `on_end` for those that reached
    `done` or `dead`, what was left for later, pauses, and what the lanes' circuits have to know.
    """
    once = {s.claim: s for s in reversed(settlements)}  # of two for one claim the first counts
    ordered = sorted(once.values(), key=lambda s: s.claim.id)
    kind.lock(tx, [s.claim for s in ordered])
    statuses = _settle_rows(tx, kind, ordered)
    reports: dict[tuple[str, int], tuple[int, int]] = {}
    pauses: dict[str, float] = {}
    later: list[Later] = []
    for s in ordered:
        if s.claim not in statuses:
            continue
        if s.apply is not None and isinstance(left := s.apply(tx), Later):
            later.append(left)
        if s.status is not None and statuses[s.claim] == s.status:
            kind.on_end(tx, s.claim, s.status, s.error or "")
        if s.health is not None:
            key = (s.claim.lane, s.claim.circuit)
            ok, bad = reports.get(key, (0, 0))
            reports[key] = (ok + (s.health == "ok"), bad + (s.health == "bad"))
        if s.pause is not None:
            pauses[s.claim.lane] = max(s.pause, pauses.get(s.claim.lane, 0.0))
    for left in sorted(later, key=attrgetter("key")):
        left.do(tx)
    _tell_lanes(tx, kind, reports, pauses)
    return set(statuses)


def _tell_lanes(
    tx: Tx,
    kind: AnyKind,
    reports: dict[tuple[str, int], tuple[int, int]],
    pauses: dict[str, float],
) -> None:
    for lane in sorted({lane for lane, _ in reports} | set(pauses)):  # this order: no deadlock
        for generation in sorted(g for reported, g in reports if reported == lane):
            ok, bad = reports[lane, generation]
            circuit.record(tx, lane, generation, ok=ok, bad=bad, on_change=kind.on_circuit)
        if lane in pauses:  # last: a circuit that closes opens the lane
            lanes.close_for(tx, lane, pauses[lane])


def _settle_rows(tx: Tx, kind: AnyKind, ordered: Sequence[Settlement]) -> dict[Claim, str]:
    statement = _settle(kind)
    if tx.dialect == "sqlite":
        if any(s.delay_us is not None and s.delay_us > _LONGEST for s in ordered):
            raise BadData("the delay is longer than a database can count")
        values = [
            (s.claim.id, s.claim.generation, s.status, s.delay_us, s.attempts, s.error)
            for s in ordered
        ]
        rows = tx.rows(statement, rows=json.dumps(values, ensure_ascii=False))
    else:
        rows = tx.rows(
            statement,
            ids=[s.claim.id for s in ordered],
            generations=[s.claim.generation for s in ordered],
            statuses=[s.status for s in ordered],
            delays=[s.delay_us for s in ordered],
            attempts=[s.attempts for s in ordered],
            errors=[s.error for s in ordered],
        )
    by_key = {(s.claim.id, s.claim.generation): s.claim for s in ordered}
    return {by_key[id_, generation]: status for id_, generation, status in rows}


# --------------------------------------------------------------------------- renew, give back


@cache
def _renew(table: str) -> Statement:
    return sql(
        sqlite=f"""
UPDATE {table} SET lease_until = {{now}} + :lease
WHERE lease_until IS NOT NULL AND (id, generation) IN
  (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:held))
RETURNING id, generation
""",  # noqa: S608
        postgres=f"""
WITH lk AS MATERIALIZED (SELECT x.id, x.generation FROM {table} x
    JOIN unnest(:ids::text[], :generations::bigint[]) AS s(id, generation) ON s.id = x.id
    WHERE x.generation = s.generation AND x.lease_until IS NOT NULL
    ORDER BY x.id FOR NO KEY UPDATE OF x)
UPDATE {table} w SET lease_until = {{now}} + :lease FROM lk
WHERE w.id = lk.id AND w.generation = lk.generation AND w.lease_until IS NOT NULL
RETURNING w.id, w.generation
""",  # noqa: S608
    )


def renew(tx: Tx, kind: AnyKind, claims: Sequence[Claim]) -> set[Claim]:
    """Extend every lease held, in one statement; a claim missing from the answer is lost."""
    lease = int(kind.lease * SECOND)
    if tx.dialect == "sqlite":
        held = [[c.id, c.generation] for c in claims]
        rows = tx.rows(_renew(kind.table), held=json.dumps(held), lease=lease)
    else:
        rows = tx.rows(
            _renew(kind.table),
            ids=[c.id for c in claims],
            generations=[c.generation for c in claims],
            lease=lease,
        )
    kept = set(rows)
    return {c for c in claims if (c.id, c.generation) in kept}


@cache
def _give_back(kind: AnyKind) -> Statement:
    terminal = ", ".join(f"'{status}'" for status in sorted(kind.terminal))
    return sql(f"""
UPDATE {kind.table} SET lease_until = NULL, generation = generation + 1,
  due_at = CASE WHEN status IN ({terminal}) THEN NULL
                WHEN due_at < {{now}} THEN due_at ELSE {{now}} END
WHERE id = :id AND generation = :generation AND lease_until IS NOT NULL
""")  # noqa: S608


def give_back(tx: Tx, kind: AnyKind, claims: Sequence[Claim]) -> None:
    """Return rows untried: due now, no attempt and no lapse counted."""
    for c in sorted(claims, key=lambda c: c.id):
        tx.run(_give_back(kind), id=c.id, generation=c.generation)
    for lane in sorted({c.lane for c in claims}):
        lanes.wake(tx, kind.name, lane)


# --------------------------------------------------------------------------- lapse, sweep


@cache
def _lapse(kind: AnyKind, which: str) -> Statement:
    terminal = ", ".join(f"'{status}'" for status in sorted(kind.terminal))
    ended = ""
    if kind.ended is not None:
        ended = f"""
  {kind.ended} = CASE WHEN status IN ({terminal}) OR lapses + 1 < {MAX_LAPSES} THEN {kind.ended}
                ELSE {{now}} END,"""
    return sql(f"""
UPDATE {kind.table} SET lease_until = NULL, generation = generation + 1, lapses = lapses + 1,
  last_error = CAST(:error AS TEXT)
    || CASE WHEN lapses + 1 >= {MAX_LAPSES} THEN ', {MAX_LAPSES} times in a row' ELSE '' END,{ended}
  status = CASE WHEN status IN ({terminal}) THEN status
                WHEN lapses + 1 >= {MAX_LAPSES} THEN '{kind.dead}' ELSE status END,
  due_at = CASE WHEN status IN ({terminal}) OR lapses + 1 >= {MAX_LAPSES} THEN NULL
                ELSE {{now}} END
WHERE {which}
RETURNING id, lane, generation, attempts, lapses, status, due_at
""")  # noqa: S608


_ONE = "id = :id AND generation = :generation AND lease_until IS NOT NULL"


@dataclass(frozen=True, slots=True)
class Lapsed:
    """A row whose lease was lost: the worker that held it died, or could not renew."""

    id: str
    lane: str
    lapses: int
    dead: bool


def lapse(tx: Tx, kind: AnyKind, c: Claim, error: str) -> Lapsed | None:
    """Count one lost lease, if the claim still holds the row."""
    rows = tx.rows(_lapse(kind, _ONE), id=c.id, generation=c.generation, error=error)
    return _after_lapse(tx, kind, rows, error)[0] if rows else None


def sweep(
    tx: Tx, kind: AnyKind, *, held: Collection[str] = (), everything: bool = False, limit: int = 500
) -> list[Lapsed]:
    """Return expired leases: due now, one more lapse, dead at the sixth.

    `held` are rows this process knows to be alive, whatever the clock says. `everything` sweeps
    leases that have not expired too: at the start of the only process there is (SQLite).
    """
    which = f"""id IN (SELECT id FROM {kind.table} WHERE {_expired(everything)}
             ORDER BY lease_until LIMIT {limit} {{lock_skip}})"""  # noqa: S608
    rows = tx.rows(_lapse(kind, which), held=list(held), error=STOPPED)
    return _after_lapse(tx, kind, rows, STOPPED)


def expired(
    tx: Tx, kind: AnyKind, *, held: Collection[str] = (), everything: bool = False, limit: int = 500
) -> list[Claim]:
    """The claims that a `sweep` would end."""
    rows = tx.rows(_find_expired(kind.table, everything, limit), held=list(held))
    return [
        Claim(kind.name, id_, lane, generation, attempts, lapses, 0)
        for id_, lane, generation, attempts, lapses in rows
    ]


@cache
def _find_expired(table: str, everything: bool, limit: int) -> Statement:
    return sql(f"""
SELECT id, lane, generation, attempts, lapses FROM {table} WHERE {_expired(everything)}
ORDER BY lease_until LIMIT {limit}
""")  # noqa: S608


def _expired(everything: bool) -> str:
    bound = "lease_until IS NOT NULL" if everything else "lease_until < {now}"
    return f"{bound} AND NOT id {{in:held}}"


def _after_lapse(tx: Tx, kind: AnyKind, rows: list[tuple[Any, ...]], error: str) -> list[Lapsed]:
    lapsed: list[Lapsed] = []
    for id_, lane, generation, attempts, lapses, status, due_at in sorted(rows):
        # A lapse leaves `due_at` set unless the row was terminal before or died just now.
        dead = status == kind.dead and lapses >= MAX_LAPSES and due_at is None
        if dead:
            reason = f"{error}, {lapses} times in a row"
            kind.on_end(
                tx, Claim(kind.name, id_, lane, generation, attempts, lapses, 0), status, reason
            )
        lanes.wake(tx, kind.name, lane)
        lapsed.append(Lapsed(id_, lane, lapses, dead))
    return lapsed

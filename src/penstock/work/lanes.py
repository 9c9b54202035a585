"""Lanes: the gate that each piece of work passes through.

A lane holds what many rows have in common: a rate, a cap on what is in flight, a circuit
breaker, a pause. It is written once and no waiting row is touched, so a backlog behind a
closed lane costs the others nothing.

`Gate` is a lane as one statement saw it: the claim asks it how many rows may pass
(`allowance`), and the look after a commit asks when the lane should be looked at again
(`next_look`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from penstock.clock import SECOND
from penstock.storage import Statement, Tx, sql
from penstock.work.wakeups import Wake


@dataclass(frozen=True, slots=True)
class Gate:
    """A lane at one instant. Times are seconds from that instant, negative = past."""

    id: str
    paused: bool
    opens_in: float
    circuit: str
    circuit_generation: int
    rate: float | None
    tokens: float  # what the bucket holds now; without a rate, more than anyone asks for
    held: int  # live leases
    cap: int
    due_in: float | None  # of the earliest waiting row; None = nothing waits
    per_call: int = 1  # rows that one token pays for when they are claimed together
    by_hand: bool = False  # it was paused by a person, whatever else; `paused` says so too

    @property
    def allowance(self) -> int:
        """How many rows may pass now."""
        if self.paused or self.opens_in > 0:
            return 0
        if self.circuit != "closed":  # half-open: one probe, alone
            return 1 if self.held == 0 and self.tokens >= 1 else 0
        return max(0, min(self.cap - self.held, int(self.tokens) * self.per_call))

    @property
    def next_look(self) -> float | None:
        """Seconds until a row can pass; None = somebody's write will say so.

        A full lane, or one whose probe is out, is looked at again by the settlement that
        frees a place; a paused one by whoever resumes it.
        """
        if self.due_in is None or self.paused or self.held >= self.cap:
            return None
        if self.circuit != "closed" and self.held > 0:
            return None
        wait = max(0.0, self.due_in, self.opens_in)
        if self.rate is not None and self.tokens < 1:
            # A hair more than the bucket needs, so that rounding cannot wake too early.
            wait = max(wait, (1 - self.tokens) / self.rate + 1e-6)
        return wait


_ENSURE = sql("""
INSERT INTO lanes (id, kind, account, max_in_flight, rate, burst, tokens, tokens_at,
                   trip_after, created_at, per_call)
VALUES (:id, :kind, :account, :max_in_flight, :rate, :burst, :burst, {now}, :trip_after, {now},
        :per_call)
ON CONFLICT (id) DO NOTHING
""")


def ensure(
    tx: Tx,
    lane: str,
    *,
    kind: str,
    account: str,
    max_in_flight: int,
    rate: float | None = None,
    burst: float = 1.0,
    trip_after: int | None = None,
    per_call: int = 1,
) -> None:
    """Create the lane unless it exists. `rate` is tokens a second, `burst` the bucket's size.

    A token pays for one row, or for up to `per_call` of them that are claimed together.
    """
    tx.run(
        _ENSURE,
        id=lane,
        kind=kind,
        account=account,
        max_in_flight=max_in_flight,
        rate=rate,
        burst=burst,
        trip_after=trip_after,
        per_call=per_call,
    )


_CONFIGURABLE = (
    *("paused", "paused_by_hand", "max_in_flight", "rate", "burst", "trip_after", "per_call"),
)


@cache
def _update(columns: tuple[str, ...]) -> Statement:
    assignments = ", ".join(f"{column} = :{column}" for column in columns)
    return sql(f"UPDATE lanes SET {assignments} WHERE id = :id RETURNING kind")  # noqa: S608


def configure(tx: Tx, lane: str, **changes: Any) -> bool:
    """Change some of `_CONFIGURABLE`; False = no such lane.

    The lane is woken: it may let through now what it held back.
    """
    unknown = set(changes) - set(_CONFIGURABLE)
    if unknown:
        raise TypeError(f"not a lane's property: {', '.join(sorted(unknown))}")
    if not changes:
        raise TypeError("nothing to change")
    found = tx.one(_update(tuple(sorted(changes))), id=lane, **changes)
    if found is None:
        return False
    wake(tx, found[0], lane)
    return True


def wake(tx: Tx, kind: str, lane: str, delay: float = 0.0) -> None:
    """After this unit's commit, say that the lane should be looked at in `delay` seconds."""
    tx.notify(Wake(kind, lane, delay))


_PAUSE_UNTIL = sql("""
UPDATE lanes SET open_at = {max}(open_at, {now} + :delay) WHERE id = :id
""")


def close_for(tx: Tx, lane: str, seconds: float) -> None:
    """Let nothing through for `seconds`, unless it is closed for longer already."""
    tx.run(_PAUSE_UNTIL, id=lane, delay=int(seconds * SECOND))


_WOKEN = sql(
    sqlite="""
UPDATE lanes SET woken_at = max({now}, served_at + 1)
WHERE id {in:ids} AND (woken_at <= served_at OR woken_at < {now} - 60000000) RETURNING id
""",
    postgres="""
WITH k AS MATERIALIZED (SELECT id FROM lanes WHERE id {in:ids}
    AND (woken_at <= served_at OR woken_at < {now} - 60000000) ORDER BY id FOR NO KEY UPDATE)
UPDATE lanes n SET woken_at = greatest({now}, served_at + 1) FROM k WHERE n.id = k.id
RETURNING n.id
""",
)
_ACCOUNTS = sql("SELECT id, account FROM lanes WHERE id {in:ids}")


def accounts(tx: Tx, ids: Sequence[str]) -> dict[str, str]:
    """Whose each of these lanes is; a lane's account never changes."""
    return {row[0]: row[1] for row in tx.rows(_ACCOUNTS, ids=list(ids))}


_UNWOKEN = sql("UPDATE lanes SET woken_at = served_at WHERE id {in:ids}")


def mark_woken(tx: Tx, ids: Sequence[str]) -> set[str]:
    """Of these lanes, those that no wake is on its way to; they are marked as woken.

    A wake that has brought nobody for a minute is taken for lost.
    """
    return {id_ for (id_,) in tx.rows(_WOKEN, ids=sorted(ids))}


def unmark_woken(tx: Tx, ids: Sequence[str]) -> None:
    """Take the mark back: the wake could not be published."""
    tx.run(_UNWOKEN, ids=sorted(ids))


@cache
def _gates(table: str) -> Statement:
    return sql(f"""
SELECT n.id, n.paused OR n.paused_by_hand, (n.open_at - {{now}}) / 1e6, n.circuit,
  n.circuit_generation, n.rate,
  CASE WHEN n.rate IS NULL THEN 1e9
       ELSE {{min}}(n.burst, n.tokens + n.rate * {{max}}(0, {{now}} - n.tokens_at) / 1e6) END,
  (SELECT count(*) FROM {table} h WHERE h.lane = n.id AND h.lease_until IS NOT NULL),
  n.max_in_flight,
  ((SELECT w.due_at FROM {table} w
    WHERE w.lane = n.id AND w.due_at IS NOT NULL AND w.lease_until IS NULL
    ORDER BY w.due_at LIMIT 1) - {{now}}) / 1e6, n.per_call, n.paused_by_hand
FROM lanes n WHERE n.id {{in:ids}} ORDER BY n.served_at, n.id
""")  # noqa: S608 - the table's name is the kind's own


def gates(tx: Tx, table: str, ids: Iterable[str]) -> list[Gate]:
    """These lanes as they are now, the one served longest ago first."""
    return [
        Gate(
            id_,
            bool(paused),
            float(opens_in),
            circuit,
            generation,
            rate,
            float(tokens),
            held,
            cap,
            None if due_in is None else float(due_in),
            per_call,
            bool(by_hand),
        )
        for (
            id_,
            paused,
            opens_in,
            circuit,
            generation,
            rate,
            tokens,
            held,
            cap,
            due_in,
            per_call,
            by_hand,
        ) in tx.rows(_gates(table), ids=list(ids))
    ]


@cache
def _waiting(table: str) -> Statement:
    # A loose index scan: one step per lane, however many rows wait in it.
    return sql(
        sqlite=f"""
WITH RECURSIVE l(lane) AS (
  SELECT min(lane) FROM {table} WHERE due_at IS NOT NULL AND lease_until IS NULL
  UNION ALL
  SELECT (SELECT min(lane) FROM {table}
          WHERE due_at IS NOT NULL AND lease_until IS NULL AND lane > l.lane)
  FROM l WHERE l.lane IS NOT NULL)
SELECT lane FROM l WHERE lane IS NOT NULL
""",  # noqa: S608
        postgres=f"""
WITH RECURSIVE l AS (
  (SELECT lane FROM {table} WHERE due_at IS NOT NULL AND lease_until IS NULL
   ORDER BY lane LIMIT 1)
  UNION ALL
  SELECT x.lane FROM l CROSS JOIN LATERAL (
    SELECT lane FROM {table} WHERE due_at IS NOT NULL AND lease_until IS NULL AND lane > l.lane
    ORDER BY lane LIMIT 1) x)
SELECT lane FROM l
""",  # noqa: S608
    )


def waiting(tx: Tx, table: str) -> list[str]:
    """The lanes in which any row waits, due or not."""
    return [lane for (lane,) in tx.rows(_waiting(table))]


def look(tx: Tx, kind: str, table: str, ids: Iterable[str]) -> list[Wake]:
    """When each of these lanes should be looked at again, as far as that is known now."""
    return [
        Wake(kind, gate.id, gate.next_look)
        for gate in gates(tx, table, ids)
        if gate.next_look is not None
    ]


def survey(tx: Tx, kind: str, table: str, within: float) -> list[Wake]:
    """The same for every lane in which rows wait, where that is due `within` so many seconds."""
    wakes = look(tx, kind, table, waiting(tx, table))
    return [wake for wake in wakes if wake.delay <= within]

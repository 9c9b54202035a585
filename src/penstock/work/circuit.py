"""The circuit breaker of a lane.

closed --(too many failures)--> open --(open_at passed, a row is claimed)--> half_open
half_open --(probe answered)--> closed            half_open --(probe failed)--> open, doubled

A lane that is not closed lets one row through at a time, after `open_at`: the claim that takes
it makes it the probe, and the row's own lease is the probe's lease, so a probe that dies with
its worker is replaced when the lease is swept. Each transition raises `circuit_generation`;
results carry the generation they were claimed under, so late results of an earlier state are
ignored. What counts as failure is the handler's to say (`Health`): the peer timing out,
refusing connections or answering 5xx; never a fault of ours.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from penstock.clock import SECOND
from penstock.ids import new_id
from penstock.storage import Tx, sql

WINDOW = 60.0  # seconds over which the failure rate is taken
MIN_CALLS = 20  # calls in the window before the rate means anything
FAILURE_RATE = 0.5
FIRST_OPEN = 30.0  # seconds open after the first trip; doubles with each
LONGEST_OPEN = 1800.0
KEEP_LOG = 90 * 86400.0  # seconds for which transitions are kept


@dataclass(frozen=True, slots=True)
class Changed:
    """A transition, told to the database's subscriber after its commit.

    `reopened`: it was not closed since it opened; a probe failed. `generation` is the new one.
    """

    lane: str
    state: str
    open_for: float | None
    reason: str
    actor: str
    generation: int = 0
    reopened: bool = False


# Is told of a transition within its transaction, so that what it writes is one commit with it.
OnChange = Callable[[Tx, Changed], None]


def unheard(tx: Tx, change: Changed) -> None:
    """Does nothing about a transition."""


_COUNT = sql("""
UPDATE lanes SET
  window_start_at = CASE WHEN {now} - window_start_at > :window THEN {now}
                         ELSE window_start_at END,
  calls = CASE WHEN {now} - window_start_at > :window THEN 0 ELSE calls END + :ok + :bad,
  failures = CASE WHEN {now} - window_start_at > :window THEN 0 ELSE failures END + :bad,
  consecutive = CASE WHEN :ok > 0 THEN 0 ELSE consecutive + :bad END
WHERE id = :lane AND circuit = 'closed' AND circuit_generation = :generation
  AND trip_after IS NOT NULL AND (:bad > 0 OR consecutive > 0 OR failures > 0)
RETURNING consecutive, calls, failures, trips, trip_after,
  CASE WHEN override = 'closed' AND override_until > {now} THEN 1 ELSE 0 END
""")

_OPEN = sql("""
UPDATE lanes SET circuit = 'open', circuit_generation = circuit_generation + 1,
  open_at = {max}(open_at, {now} + :open_for), trips = trips + 1,
  calls = 0, failures = 0, consecutive = 0
WHERE id = :lane RETURNING circuit_generation
""")

_PROBE = sql("""
SELECT trips FROM lanes
WHERE id = :lane AND circuit = 'half_open' AND circuit_generation = :generation {lock}
""")

_HALF_OPEN = sql("""
UPDATE lanes SET circuit = 'half_open', circuit_generation = circuit_generation + 1
WHERE id = :lane AND circuit = 'open' RETURNING circuit_generation
""")

_CLOSE = sql("""
UPDATE lanes SET circuit = 'closed', circuit_generation = circuit_generation + 1,
  open_at = {now}, trips = 0, calls = 0, failures = 0, consecutive = 0, window_start_at = {now}
WHERE id = :lane RETURNING circuit_generation
""")

_LOG = sql("""
INSERT INTO circuit_log (id, lane, at, state, open_until, reason, actor)
VALUES (:id, :lane, {now}, :state, {now} + :open_for, :reason, :actor)
""")


def record(
    tx: Tx, lane: str, generation: int, *, ok: int, bad: int, on_change: OnChange = unheard
) -> None:
    """Count the answers and failures of rows claimed under `generation`; trip if they say so.

    A report of nothing but success on a lane without failures writes nothing, so the healthy
    path costs one look-up.
    """
    counted = tx.one(
        _COUNT, lane=lane, generation=generation, ok=ok, bad=bad, window=int(WINDOW * SECOND)
    )
    if counted is not None:
        consecutive, calls, failures, trips, trip_after, held_closed = counted
        if held_closed:
            return
        if consecutive >= trip_after:
            _open(tx, lane, trips, f"{consecutive} failures in a row", on_change)
        elif calls >= MIN_CALLS and failures >= calls * FAILURE_RATE:
            reason = f"{failures} of {calls} calls failed within {WINDOW:.0f} s"
            _open(tx, lane, trips, reason, on_change)
        return
    probe = tx.one(_PROBE, lane=lane, generation=generation)
    if probe is None:
        return  # an earlier state's result, or a healthy lane
    if bad:
        _open(tx, lane, probe[0], "the probe failed", on_change)
    elif ok:
        new = _generation(tx.one(_CLOSE, lane=lane))
        change = Changed(lane, "closed", None, "the probe was answered", "circuit", new)
        _tell(tx, change, on_change)


def half_open(tx: Tx, lane: str) -> int:
    """The lane's next row is the probe; answers the generation it is to be claimed under."""
    row = tx.one(_HALF_OPEN, lane=lane)
    if row is None:
        raise RuntimeError(f"lane {lane} is not open")  # the claim holds its lock
    new = int(row[0])
    _tell(tx, Changed(lane, "half_open", None, "cool-down over", "circuit", new), unheard)
    return new


def open_for(trips: int) -> float:
    """Seconds to stay open after `trips` earlier trips: doubling, capped, 50-100 % of it."""
    return min(LONGEST_OPEN, FIRST_OPEN * 2.0 ** min(trips, 10)) * (
        0.5 + random.random() / 2  # noqa: S311 - not a secret
    )


def _open(tx: Tx, lane: str, trips: int, reason: str, on_change: OnChange) -> None:
    seconds = open_for(trips)
    new = _generation(tx.one(_OPEN, lane=lane, open_for=int(seconds * SECOND)))
    change = Changed(lane, "open", seconds, reason, "circuit", new, reopened=trips > 0)
    _tell(tx, change, on_change)


_FORCE_OPEN = sql("""
UPDATE lanes SET circuit = 'open', circuit_generation = circuit_generation + 1,
  open_at = {now} + :seconds, override = 'open', override_until = {now} + :seconds
WHERE id = :lane RETURNING circuit_generation
""")
_FORCE_CLOSED = sql("""
UPDATE lanes SET circuit = 'closed', circuit_generation = circuit_generation + 1,
  open_at = {now}, trips = 0, calls = 0, failures = 0, consecutive = 0,
  override = 'closed', override_until = {now} + :seconds
WHERE id = :lane RETURNING circuit_generation
""")


def force_open(
    tx: Tx,
    lane: str,
    seconds: float,
    *,
    actor: str,
    reason: str,
    on_change: OnChange = unheard,
) -> bool:
    """Hold the circuit open for `seconds`; then a probe decides. False = no such lane."""
    row = tx.one(_FORCE_OPEN, lane=lane, seconds=int(seconds * SECOND))
    if row is None:
        return False
    _tell(tx, Changed(lane, "open", seconds, reason, actor, row[0]), on_change)
    return True


def force_closed(
    tx: Tx,
    lane: str,
    seconds: float,
    *,
    actor: str,
    reason: str,
    on_change: OnChange = unheard,
) -> bool:
    """Close the circuit and let no failure trip it for `seconds`. False = no such lane.

    The caller wakes the lane (`lanes.wake`): rows may be waiting.
    """
    row = tx.one(_FORCE_CLOSED, lane=lane, seconds=int(seconds * SECOND))
    if row is None:
        return False
    _tell(tx, Changed(lane, "closed", None, reason, actor, row[0]), on_change)
    return True


_RELEASE = sql("""
UPDATE lanes SET override = NULL, override_until = NULL,
  open_at = CASE WHEN circuit = 'open' THEN {now} ELSE open_at END
WHERE id = :lane AND override_until > {now} RETURNING circuit
""")


def release(tx: Tx, lane: str, *, actor: str, reason: str) -> bool:
    """End what `force_open` or `force_closed` began; False = nothing is held.

    A circuit that was held open lets its next row through as a probe; one that was held closed
    may trip again. The caller wakes the lane.
    """
    row = tx.one(_RELEASE, lane=lane)
    if row is None:
        return False
    _log(tx, Changed(lane, row[0], None, reason, actor))
    return True


_TRY = sql("""
UPDATE lanes SET open_at = {now} WHERE id = :lane AND open_at > {now}
  AND (override IS NULL OR override <> 'open' OR override_until <= {now})
""")


def try_now(tx: Tx, lane: str) -> None:
    """What kept the lane closed may be over: an open circuit lets its probe through now.

    Not where somebody holds it open. The caller wakes the lane.
    """
    tx.run(_TRY, lane=lane)


@dataclass(frozen=True, slots=True)
class Circuit:
    """A lane's circuit as it is now. Instants are µs.

    `open_until`: nothing passes before; then one row goes through as a probe. `held`: somebody
    forced it, until `held_until`.
    """

    state: str
    open_until: int | None
    consecutive: int  # failures in a row
    trip_after: int | None
    trips: int  # since it was last closed
    held: str | None  # "open" or "closed"
    held_until: int | None


_SHOW = sql("""
SELECT circuit, CASE WHEN circuit = 'open' THEN open_at END, consecutive, trip_after, trips,
  CASE WHEN override_until > {now} THEN override END,
  CASE WHEN override_until > {now} THEN override_until END
FROM lanes WHERE id = :lane
""")
_HISTORY = sql("""
SELECT at, state, open_until, reason, actor FROM circuit_log WHERE lane = :lane
ORDER BY id DESC LIMIT :limit
""")


def show(tx: Tx, lane: str) -> Circuit | None:
    """The lane's circuit; None = there is no such lane."""
    row = tx.one(_SHOW, lane=lane)
    return None if row is None else Circuit(*row)


def history(tx: Tx, lane: str, limit: int) -> list[dict[str, Any]]:
    """Its latest transitions, the newest first: `at`, `state`, `open_until`, `reason`, `actor`."""
    return tx.dicts(_HISTORY, lane=lane, limit=limit)


_PRUNE = sql("""
DELETE FROM circuit_log WHERE id IN
  (SELECT id FROM circuit_log WHERE at < {now} - :age ORDER BY id LIMIT :limit)
""")
_OLD = sql("SELECT count(*) FROM circuit_log WHERE at < {now} - :age")


def prune(tx: Tx, *, age: float = KEEP_LOG, limit: int = 500) -> int:
    """Delete up to `limit` logged transitions older than `age` seconds; answers how many."""
    return tx.run(_PRUNE, age=int(age * SECOND), limit=limit)


def prunable(tx: Tx, *, age: float = KEEP_LOG) -> int:
    """How many `prune` would delete in all."""
    ((n,),) = tx.rows(_OLD, age=int(age * SECOND))
    return int(n)


def _generation(row: tuple[int, ...] | None) -> int:
    assert row is not None, "the lane's row was locked before"
    return row[0]


def _tell(tx: Tx, change: Changed, on_change: OnChange) -> None:
    _log(tx, change)
    on_change(tx, change)
    tx.notify(change)


def _log(tx: Tx, change: Changed) -> None:
    tx.run(
        _LOG,
        id=new_id("cir"),
        lane=change.lane,
        state=change.state,
        open_for=None if change.open_for is None else int(change.open_for * SECOND),
        reason=change.reason,
        actor=change.actor,
    )

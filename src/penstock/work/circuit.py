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
from dataclasses import dataclass

from penstock.clock import SECOND
from penstock.ids import new_id
from penstock.storage import Tx, sql

WINDOW = 60.0  # seconds over which the failure rate is taken
MIN_CALLS = 20  # calls in the window before the rate means anything
FAILURE_RATE = 0.5
FIRST_OPEN = 30.0  # seconds open after the first trip; doubles with each
LONGEST_OPEN = 1800.0


@dataclass(frozen=True, slots=True)
class Changed:
    """A transition, told to the database's subscriber after its commit."""

    lane: str
    state: str
    open_for: float | None
    reason: str
    actor: str


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
WHERE id = :lane
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
WHERE id = :lane
""")

_LOG = sql("""
INSERT INTO circuit_log (id, lane, at, state, open_until, reason, actor)
VALUES (:id, :lane, {now}, :state, {now} + :open_for, :reason, :actor)
""")


def record(tx: Tx, lane: str, generation: int, *, ok: int, bad: int) -> None:
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
            _open(tx, lane, trips, f"{consecutive} failures in a row")
        elif calls >= MIN_CALLS and failures >= calls * FAILURE_RATE:
            _open(tx, lane, trips, f"{failures} of {calls} calls failed within {WINDOW:.0f} s")
        return
    probe = tx.one(_PROBE, lane=lane, generation=generation)
    if probe is None:
        return  # an earlier state's result, or a healthy lane
    if bad:
        _open(tx, lane, probe[0], "the probe failed")
    elif ok:
        tx.run(_CLOSE, lane=lane)
        _tell(tx, lane, "closed", None, "the probe was answered", "circuit")


def half_open(tx: Tx, lane: str) -> int:
    """The lane's next row is the probe; answers the generation it is to be claimed under."""
    row = tx.one(_HALF_OPEN, lane=lane)
    if row is None:
        raise RuntimeError(f"lane {lane} is not open")  # the claim holds its lock
    _tell(tx, lane, "half_open", None, "cool-down over", "circuit")
    return int(row[0])


def open_for(trips: int) -> float:
    """Seconds to stay open after `trips` earlier trips: doubling, capped, 50-100 % of it."""
    return min(LONGEST_OPEN, FIRST_OPEN * 2.0 ** min(trips, 10)) * (
        0.5 + random.random() / 2  # noqa: S311 - not a secret
    )


def _open(tx: Tx, lane: str, trips: int, reason: str) -> None:
    seconds = open_for(trips)
    tx.run(_OPEN, lane=lane, open_for=int(seconds * SECOND))
    _tell(tx, lane, "open", seconds, reason, "circuit")


_FORCE_OPEN = sql("""
UPDATE lanes SET circuit = 'open', circuit_generation = circuit_generation + 1,
  open_at = {now} + :seconds, override = 'open', override_until = {now} + :seconds
WHERE id = :lane RETURNING kind
""")
_FORCE_CLOSED = sql("""
UPDATE lanes SET circuit = 'closed', circuit_generation = circuit_generation + 1,
  open_at = {now}, trips = 0, calls = 0, failures = 0, consecutive = 0,
  override = 'closed', override_until = {now} + :seconds
WHERE id = :lane RETURNING kind
""")


def force_open(tx: Tx, lane: str, seconds: float, *, actor: str, reason: str) -> bool:
    """Hold the circuit open for `seconds`; then a probe decides. False = no such lane."""
    if tx.one(_FORCE_OPEN, lane=lane, seconds=int(seconds * SECOND)) is None:
        return False
    _tell(tx, lane, "open", seconds, reason, actor)
    return True


def force_closed(tx: Tx, lane: str, seconds: float, *, actor: str, reason: str) -> bool:
    """Close the circuit and let no failure trip it for `seconds`. False = no such lane.

    The caller wakes the lane (`lanes.wake`): rows may be waiting.
    """
    if tx.one(_FORCE_CLOSED, lane=lane, seconds=int(seconds * SECOND)) is None:
        return False
    _tell(tx, lane, "closed", None, reason, actor)
    return True


def _tell(tx: Tx, lane: str, state: str, open_for: float | None, reason: str, actor: str) -> None:
    tx.run(
        _LOG,
        id=new_id("cir"),
        lane=lane,
        state=state,
        open_for=None if open_for is None else int(open_for * SECOND),
        reason=reason,
        actor=actor,
    )
    tx.notify(Changed(lane, state, open_for, reason, actor))

"""Pushing a delivery: one try at its destination, and what follows from the answer.

=================  =======================================================================
the answer means   what happens
=================  =======================================================================
delivered          done
gone               dead, and the endpoint is disabled
transient          tried again after the schedule's next gap; where the answer asks for a
                   pause, the lane closes for that long
permanent          dead, or tried again without the quick gaps (`on_permanent`)
=================  =======================================================================

What means what is the business of each kind of destination (`events/destinations`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from penstock.clock import SECOND, Clock, to_iso
from penstock.durations import describe
from penstock.events import autodisable, ordering, replays
from penstock.events.accept import DELIVERY
from penstock.events.destinations import Answer, Destination, failed
from penstock.events.policy import Policy
from penstock.events.receivers import Push, Receiver, Receivers
from penstock.events.settled import ENDPOINT_DELETED, EventSettled, delivery_ended
from penstock.secretbox import SecretBox
from penstock.storage import Tx, sql
from penstock.telemetry import (
    DELIVERY_DEAD,
    DELIVERY_FAILURE,
    DELIVERY_LATENCY,
    DELIVERY_RETRIED,
    DELIVERY_RETRY,
    DELIVERY_SUCCEEDED,
    DELIVERY_SUCCESS,
    log,
    metrics,
)
from penstock.work.backoff import jittered, schedule
from penstock.work.kinds import Claim, Kind, Task
from penstock.work.outcomes import Apply, Dead, Done, Later, Outcome, Postpone, Retry

QUICK: Final = 60.0  # seconds: gaps below are quick retries, of no use after a permanent answer
# The reason of a delivery that waits because its event is leased: it costs no attempt.
INBOX_LEASED: Final = "inbox_leased: a reader of the inbox has the event"

_ATTEMPT = sql("""
INSERT INTO attempts (delivery_id, number, started_at, duration, status_code, error_kind, error,
                      address, response)
VALUES (:delivery_id, :number, :started_at, :duration, :status_code, :error_kind, :error,
        :address, :response)
RETURNING (SELECT status FROM deliveries WHERE id = :delivery_id)
""")
_STEP = sql("UPDATE deliveries SET step = :step WHERE id = :id")
_COUNT = sql("""
UPDATE events SET delivery_attempts = delivery_attempts + 1 WHERE id = :id RETURNING status
""")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try that was made."""

    number: int
    started_at: int  # µs
    answer: Answer


def next_gap(gaps: Sequence[float], step: int, *, quick: bool) -> tuple[float, int] | None:
    """The gap at position `step`, or the first long one from there, and the position after it."""
    for position in range(step, len(gaps)):
        if quick or gaps[position] >= QUICK:
            return gaps[position], position + 1
    return None


def body(push: Push) -> bytes:
    """What is sent: assembled from the stored texts, so it is the same on every attempt."""
    metadata = "null" if push.metadata is None else push.metadata
    # Ids, types and times need no escaping: none can hold a quote or a backslash.
    return (
        f'{{"event_id":"{push.event_id}","event_type":"{push.event_type}",'
        f'"payload":{push.payload},"metadata":{metadata},'
        f'"created_at":"{to_iso(push.created_at)}"}}'
    ).encode()


def decide(push: Push, receiver: Receiver, attempt: Attempt) -> Outcome:
    """The outcome of an attempt, with the writes that belong to it."""
    verdict = attempt.answer.verdict
    record = partial(_record, push, attempt)
    if verdict.means == "delivered":
        return Done(apply=record, health=verdict.health)
    if verdict.means == "gone":
        return Dead(verdict.reason, record, verdict.health)
    if verdict.means == "permanent" and not receiver.patient:
        return Dead(verdict.reason, record, verdict.health)
    gap = next_gap(receiver.schedule, push.step, quick=verdict.means == "transient")
    if gap is None:
        reason = f"exhausted after {attempt.number} attempts: {verdict.reason}"
        return Dead(reason, record, verdict.health, verdict.pause)
    seconds, step = gap
    return Retry(
        jittered(seconds),
        verdict.reason,
        partial(_record_retry, push, attempt, step),
        verdict.health,
        verdict.pause,
    )


def _record(push: Push, attempt: Attempt, tx: Tx) -> None:
    if _log(push, attempt, tx) == "cancelled":
        # Its end was counted when it was cancelled, while it was being sent.
        tx.run(_COUNT, id=push.event_id)


def _log(push: Push, attempt: Attempt, tx: Tx) -> str:
    """Answers the delivery's status, which the settlement has written already."""
    answer = attempt.answer
    row = tx.one(
        _ATTEMPT,
        delivery_id=push.delivery_id,
        number=attempt.number,
        started_at=attempt.started_at,
        duration=answer.duration,
        status_code=answer.status_code,
        error_kind=answer.error_kind,
        error=answer.verdict.reason or None,
        address=answer.address,
        response=answer.response,
    )
    if answer.apply is not None:
        answer.apply(tx)
    return "" if row is None else str(row[0])


def _record_retry(push: Push, attempt: Attempt, step: int, tx: Tx) -> None:
    _log(push, attempt, tx)
    tx.run(_STEP, id=push.delivery_id, step=step)
    row = tx.one(_COUNT, id=push.event_id)
    if row is not None:
        tx.notify(EventSettled(push.event_id, row[0]))


def delivery_kind(
    *,
    clock: Clock,
    box: SecretBox,
    destinations: Mapping[str, Destination],
    policy: Policy,
    slots: int = 256,
    lease: float = 60.0,
    tell: autodisable.Tell = autodisable.nobody,
) -> Kind[Push]:
    """The kind of work that pushes deliveries; `slots` = pushes at once in this process.

    `tell` is told of endpoints that are disabled and of their circuits.
    """
    receivers = Receivers(box, policy.schedule)
    expired = f"expired: it could not be delivered within {describe(policy.expiry)}"

    async def handle(task: Task[Push]) -> Outcome:
        push, receiver = task.data, task.data.receiver
        if receiver is None:
            return Dead(ENDPOINT_DELETED)
        if push.held_for is not None:
            return Postpone(push.held_for / SECOND, INBOX_LEASED)
        number = task.claim.attempts + 1
        started_at = clock.now()
        if started_at >= push.expires_at:
            outcome: Outcome = Dead(expired)
            _tell(push, number, None, outcome, started_at)
            return outcome
        content = body(push)
        destination = destinations.get(receiver.kind)
        if destination is None:  # stored by a newer process, while versions are changed
            answer = failed(
                "unsupported", f"there is no kind {receiver.kind!r} here", 0.0, health=None
            )
        else:
            opened = receivers.open(receiver)
            answer = await destination.send(push, receiver, opened, content)
        now = clock.now()
        attempt = Attempt(number, started_at, answer)
        outcome = decide(push, receiver, attempt)
        _tell(push, number, attempt, outcome, now)
        means = answer.verdict.means
        if means == "delivered" and push.failing_since is None:
            return outcome
        return replace(outcome, apply=partial(watch, outcome.apply, push, receiver, means))

    def watch(apply: Apply | None, push: Push, receiver: Receiver, means: str, tx: Tx) -> Later:
        if apply is not None:
            apply(tx)
        return Later(receiver.id, partial(judge, push, receiver, means))

    def judge(push: Push, receiver: Receiver, means: str, tx: Tx) -> None:
        if means == "delivered":
            autodisable.succeeded(tx, receiver.id)
        elif means == "gone":
            autodisable.gone(tx, receiver.id, receiver.version, tell)
        else:
            since, limit = push.failing_since, policy.disable_after
            autodisable.failed(tx, receiver.id, receiver.version, since, limit, tell)

    def lock(tx: Tx, claims: Sequence[Claim]) -> None:
        if mine := {receivers.replays[c.id] for c in claims if c.id in receivers.replays}:
            tx.rows(replays.LOCK, ids=sorted(mine))
        if receivers.ordered:
            ordering.lock(tx, [claim.id for claim in claims])

    return Kind(
        name=DELIVERY,
        table="deliveries",
        load=receivers.load,
        handle=handle,
        done="delivered",
        dead="dead",
        terminal=frozenset({"delivered", "dead", "cancelled"}),
        lease=lease,
        timeout=45.0,  # the endpoint's own timeout, at most 30 s, comes first
        slots=slots,
        # Only for faults of ours, such as a secret that cannot be opened: an answer or a
        # network error brings its own delay. It never gives up, expiry does: attempts are
        # counted over replays, and a delivery that was sent again must not die of earlier ones.
        backoff=schedule(policy.schedule, for_ever=True),
        ended="finished_at",
        on_circuit=autodisable.on_circuit(tell),
        on_end=delivery_ended,
        lock=lock,
    )


def _tell(push: Push, number: int, attempt: Attempt | None, outcome: Outcome, now: int) -> None:
    answer = None if attempt is None else attempt.answer
    fields: dict[str, Any] = {
        "delivery_id": push.delivery_id,
        "event_id": push.event_id,
        "endpoint_id": push.receiver.id if push.receiver else None,
        "attempt": number,
        "status_code": answer.status_code if answer else None,
        "seconds": round(answer.duration, 4) if answer else None,
    }
    match outcome:
        case Done():
            metrics.inc(DELIVERY_SUCCESS)
            metrics.observe(DELIVERY_LATENCY, max(0.0, (now - push.created_at) / SECOND))
            log(DELIVERY_SUCCEEDED, **fields)
        case Retry(after=after, reason=reason):
            metrics.inc(DELIVERY_RETRY)
            log(DELIVERY_RETRIED, **fields, error=reason, retry_in=round(after or 0.0, 3))
        case Dead(reason=reason):
            metrics.inc(DELIVERY_FAILURE)
            log(DELIVERY_DEAD, **fields, error=reason)

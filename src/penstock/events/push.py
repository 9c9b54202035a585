"""Pushing a delivery: one signed POST, and what its answer means.

==========================================  ==============================================
answer                                      what happens
==========================================  ==============================================
2xx                                         delivered
410                                         dead, and the endpoint is disabled
network error, 408, 425, 429, 5xx           tried again after the schedule's next gap
429 or 503 with Retry-After                 likewise, and the lane closes for that long
any other answer, redirects among them;     dead, or tried again without the quick gaps
an address that must not be reached         (`on_permanent`)
==========================================  ==============================================

A receiver sees the same ``webhook-id`` (the event's id) and the same bytes on every attempt.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Final, Literal

from penstock._version import __version__
from penstock.clock import SECOND, Clock, from_datetime, to_iso
from penstock.durations import describe
from penstock.events import autodisable, ordering, replays, sign
from penstock.events.accept import DELIVERY
from penstock.events.http import Failure, Response
from penstock.events.policy import Policy
from penstock.events.receivers import Opened, Push, Receiver, Receivers
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
from penstock.work.outcomes import Apply, Dead, Done, Health, Outcome, Postpone, Retry

# (url, body, headers, total timeout in seconds): one POST through the guarded pool.
Send = Callable[[str, bytes, Mapping[str, str], float], Awaitable[Response | Failure]]

USER_AGENT: Final = f"Penstock/{__version__}"
QUICK: Final = 60.0  # seconds: gaps below are quick retries, of no use after a permanent answer
LONGEST_PAUSE: Final = 3600.0  # seconds that a Retry-After can close the lane for
_TRANSIENT: Final = frozenset({408, 425, 429})
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
class Verdict:
    """What an answer means. `reason` is empty where it was a success."""

    means: Literal["delivered", "transient", "permanent", "gone"]
    reason: str = ""
    health: Health | None = "ok"
    pause: float | None = None  # seconds


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try that was made."""

    number: int
    started_at: int  # µs
    answer: Response | Failure
    verdict: Verdict


def judge(answer: Response | Failure, now: int) -> Verdict:
    """What the answer means; `now` (µs) is for a Retry-After that names an instant."""
    if isinstance(answer, Failure):
        if answer.kind == "refused_by_guard":
            return Verdict("permanent", f"{answer.kind}: {answer.text}", None)
        return Verdict("transient", f"{answer.kind}: {answer.text}", "bad")
    status = answer.status
    if 200 <= status < 300:
        return Verdict("delivered")
    if status == 410:
        return Verdict("gone", "HTTP 410: the endpoint says that it is gone for good")
    if status in _TRANSIENT or status >= 500:
        pause = None
        if status in (429, 503):
            pause = retry_after(answer.headers.get("retry-after"), now)
        return Verdict("transient", f"HTTP {status}", "bad" if status >= 500 else "ok", pause)
    if 300 <= status < 400:
        return Verdict("permanent", f"HTTP {status}: redirects are not followed")
    return Verdict("permanent", f"HTTP {status}")


def retry_after(value: str | None, now: int) -> float | None:
    """Seconds that a Retry-After asks for (RFC 9110 §10.2.3), bounded; None = nothing useful."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:18])
    else:
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (from_datetime(moment) - now) / SECOND
    return min(seconds, LONGEST_PAUSE) if seconds > 0 else None


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


def request_headers(
    push: Push, receiver: Receiver, opened: Opened, content: bytes, now: int
) -> dict[str, str]:
    """The headers of one attempt; while a secret is being rotated, both keys sign."""
    keys = [opened.key]
    if opened.previous_key is not None and now < (receiver.previous_until or 0):
        keys.append(opened.previous_key)
    headers = {"content-type": "application/json", "user-agent": USER_AGENT}
    if push.traceparent is not None:
        headers["traceparent"] = push.traceparent
    own = {name.lower(): value for name, value in opened.headers.items()}
    return headers | own | sign.headers(keys, push.event_id, now // SECOND, content)


def decide(push: Push, receiver: Receiver, attempt: Attempt) -> Outcome:
    """The outcome of an attempt, with the writes that belong to it."""
    verdict = attempt.verdict
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
        status_code=None if isinstance(answer, Failure) else answer.status,
        error_kind=answer.kind if isinstance(answer, Failure) else None,
        error=attempt.verdict.reason or None,
        address=answer.address,
        response=None if isinstance(answer, Failure) else answer.excerpt,
    )
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
    send: Send,
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
        headers = request_headers(push, receiver, receivers.open(receiver), content, started_at)
        answer = await send(receiver.target, content, headers, receiver.timeout)
        now = clock.now()
        attempt = Attempt(number, started_at, answer, judge(answer, now))
        outcome = decide(push, receiver, attempt)
        _tell(push, number, attempt, outcome, now)
        means = attempt.verdict.means
        if means == "delivered" and push.failing_since is None:
            return outcome
        return replace(outcome, apply=partial(watch, outcome.apply, push, receiver, means))

    def watch(apply: Apply | None, push: Push, receiver: Receiver, means: str, tx: Tx) -> None:
        if apply is not None:
            apply(tx)
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
        timeout=45.0,  # the pool's own timeout, at most 30 s, comes first
        slots=slots,
        # Only for faults of ours, such as a secret that cannot be opened: an answer or a
        # network error brings its own delay. It never gives up, expiry does: attempts are
        # counted over replays, and a delivery that was sent again must not die of earlier ones.
        backoff=schedule(policy.schedule, for_ever=True),
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
        "status_code": answer.status if isinstance(answer, Response) else None,
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

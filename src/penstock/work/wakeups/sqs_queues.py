"""The queues as their operator sees them: how much is in them, and their dead letters."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from penstock.work.wakeups import WakeupsError, WakeupsUnavailable
from penstock.work.wakeups.sqs_calls import describe, name_of

_COUNTS: Final = [
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesDelayed",
    "ApproximateNumberOfMessagesNotVisible",
]


class NoDeadLetterQueue(WakeupsError):
    """The queue has no dead-letter queue: set its redrive policy."""


@dataclass(frozen=True, slots=True)
class QueueStats:
    """A queue, with approximate numbers of messages; `dead_letter*` None = it has no such queue."""

    queue: str
    visible: int
    delayed: int
    in_flight: int
    dead_letter_queue: str | None
    dead_letters: int | None
    max_receives: int | None


@dataclass(frozen=True, slots=True)
class Move:
    """How far a redrive has come. `status` is SQS's own: RUNNING, COMPLETED, FAILED, CANCELLED."""

    source: str
    status: str
    moved: int
    to_move: int
    reason: str | None


async def stats(sqs: Any, url: str) -> QueueStats:
    """Raises WakeupsUnavailable if it cannot be asked."""
    found = await _attributes(sqs, url)
    visible, delayed, in_flight = (int(found[name]) for name in _COUNTS)
    dlq = _dead_letters_of(url, found)
    if dlq is None:
        return QueueStats(name_of(url), visible, delayed, in_flight, None, None, None)
    there = await _attributes(sqs, dlq.url)
    return QueueStats(
        name_of(url),
        visible,
        delayed,
        in_flight,
        name_of(dlq.url),
        sum(int(there[name]) for name in _COUNTS),
        dlq.max_receives,
    )


async def start_redrive(
    sqs: Any, url: str, rate: int | None = None, *, done: Collection[str] = ()
) -> str | None:
    """Have SQS move the dead letters back to the queue that each came from.

    `rate`: messages a second, 1 to 500; None = as fast as SQS does. Answers the ARN of the
    dead-letter queue, None if there is nothing in it, or it is one of `done`. NoDeadLetterQueue if
    there is none; WakeupsError if SQS refuses: one task at a time runs for a queue.
    """
    dlq = _dead_letters_of(url, await _attributes(sqs, url))
    if dlq is None:
        raise NoDeadLetterQueue(f"{name_of(url)} has no dead-letter queue: set its redrive policy")
    if dlq.arn in done:  # several queues may share one
        return None
    there = await _attributes(sqs, dlq.url)
    if not any(int(there[name]) for name in _COUNTS):
        return None
    options = {} if rate is None else {"MaxNumberOfMessagesPerSecond": rate}
    await _call(sqs.start_message_move_task(SourceArn=dlq.arn, **options))
    return dlq.arn


async def redrive_status(sqs: Any, arn: str) -> Move:
    """The latest redrive of the dead-letter queue."""
    answer = await _call(sqs.list_message_move_tasks(SourceArn=arn, MaxResults=1))
    (found,) = answer["Results"]
    return Move(
        arn.rpartition(":")[2],
        found["Status"],
        int(found.get("ApproximateNumberOfMessagesMoved", 0)),
        int(found.get("ApproximateNumberOfMessagesToMove", 0)),
        found.get("FailureReason"),
    )


async def redriven(sqs: Any, arn: str, *, every: float = 1.0) -> Move:
    """The redrive once it has ended; asked every so many seconds."""
    while True:
        move = await redrive_status(sqs, arn)
        if move.status not in ("RUNNING", "CANCELLING"):
            return move
        await asyncio.sleep(every)


@dataclass(frozen=True, slots=True)
class _DeadLetters:
    url: str
    arn: str
    max_receives: int


def _dead_letters_of(url: str, attributes: Mapping[str, str]) -> _DeadLetters | None:
    policy = attributes.get("RedrivePolicy")
    if not policy:
        return None
    found = json.loads(policy)
    arn: str = found["deadLetterTargetArn"]
    # A dead-letter queue is in the account and region of its queue, so its URL is known without
    # asking for it, which would need a permission of its own.
    base = url.rstrip("/").rpartition("/")[0]
    return _DeadLetters(f"{base}/{arn.rpartition(':')[2]}", arn, int(found["maxReceiveCount"]))


async def _attributes(sqs: Any, url: str) -> dict[str, str]:
    answer = await _call(
        sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[*_COUNTS, "RedrivePolicy"])
    )
    found: dict[str, str] = answer.get("Attributes", {})
    return found


async def _call(call: Any) -> Any:
    from botocore.exceptions import ClientError

    try:
        return await call
    except ClientError as exc:
        raise WakeupsError(f"SQS refused: {describe(exc)}") from exc
    except Exception as exc:  # no connection, no credentials, no region
        raise WakeupsUnavailable(f"SQS cannot be asked: {describe(exc)}") from exc

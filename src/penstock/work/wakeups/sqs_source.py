"""One queue as a process uses it: what is sent to it, what it brings, whether it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from penstock.telemetry import (
    MESSAGE_LEFT,
    MESSAGE_VALIDATION_FAILED,
    MESSAGES_REFUSED,
    QUEUE_UNREACHABLE,
    log,
    metrics,
)
from penstock.work.wakeups import Message
from penstock.work.wakeups.sqs_body import BadBody, decode
from penstock.work.wakeups.sqs_calls import BATCH, LONG_POLL, Batches, Entry, describe, name_of

LEFT_FOR: Final = 300  # seconds that a message of an unknown kind is hidden from processes like us
_POLLS: Final = 4  # calls at once to a queue that keeps giving full batches
_DELETE_LINGER: Final = 0.5  # seconds; what is deleted late does no harm
_EXCERPT: Final = 500  # characters of a refused body that are logged
_COUNTS: Final = [
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
]


@dataclass(frozen=True, slots=True, eq=False)
class Receipt:
    """What a message is deleted by."""

    source: Source
    handle: str


class Source:
    """A queue that holds wakes of `kinds`.

    `arrived` is called with what each call brought, and whether calls before it had failed, so
    that wakes may have been missed. `backoff` says how many seconds to wait after so many failures.
    """

    def __init__(
        self,
        url: str,
        kinds: frozenset[str],
        *,
        arrived: Callable[[list[Message], bool], None],
        backoff: Callable[[int], float],
    ) -> None:
        self.kinds = kinds
        self.failures = 0  # calls to receive that failed in a row
        self.sends = Batches(self._send)
        self.deletes = Batches(self._delete, linger=_DELETE_LINGER)
        self.returns = Batches(self._hide)
        self._url = url
        self._arrived = arrived
        self._backoff = backoff
        self._sqs: Any = None
        self._polls: set[asyncio.Task[None]] = set()
        self._asked = 0  # messages that those may bring
        self._busy = False  # the latest brought as many as it asked for

    def use(self, sqs: Any) -> None:
        """Call through this client."""
        self._sqs = sqs

    @property
    def url(self) -> str:
        """The queue."""
        return self._url

    @property
    def batches(self) -> list[Batches]:
        """All calls that change something."""
        return [self.sends, self.deletes, self.returns]

    async def _send(self, entries: list[Entry]) -> Any:
        return await self._sqs.send_message_batch(QueueUrl=self._url, Entries=entries)

    async def _delete(self, entries: list[Entry]) -> Any:
        return await self._sqs.delete_message_batch(QueueUrl=self._url, Entries=entries)

    async def _hide(self, entries: list[Entry]) -> Any:
        return await self._sqs.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)

    # ------------------------------------------------------------------ receive

    def poll(self, most: int) -> None:
        """Have up to `most` messages fetched, those that are being fetched among them."""
        while (ask := min(BATCH, most - self._asked)) > 0 and (
            not self._polls or (self._busy and len(self._polls) < _POLLS)
        ):
            # Only one waits: an idle queue costs three calls a minute. After a failure none
            # does: whether the queue can be reached must be known at once.
            wait = 0 if self._polls or self.failures else LONG_POLL
            self._asked += ask
            self._polls.add(asyncio.get_running_loop().create_task(self._fetch(ask, wait)))

    async def stop(self) -> None:
        """Fetch no more."""
        polls = list(self._polls)
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)

    async def _fetch(self, most: int, wait: int) -> None:
        found: list[Message] = []
        missed = False
        try:
            try:
                answer = await self._sqs.receive_message(
                    QueueUrl=self._url, MaxNumberOfMessages=most, WaitTimeSeconds=wait
                )
            except Exception as exc:  # whatever it was, a process must not stay deaf
                self._busy = False
                retry_in = self._backoff(self.failures)
                self.failures += 1
                self.log_unreachable(exc, retry_in)
                await asyncio.sleep(retry_in)
                return
            messages = answer.get("Messages", [])
            missed, self.failures = self.failures > 0, 0
            self._busy = len(messages) == most
            for each in messages:
                found += self._read(each["MessageId"], each["ReceiptHandle"], each["Body"])
        finally:
            self._asked -= most
            task = asyncio.current_task()
            assert task is not None
            self._polls.discard(task)
            self._arrived(found, missed)

    def _read(self, id_: str, handle: str, body: str) -> list[Message]:
        """The message, unless it is not for us."""
        try:
            found = decode(body)
        except BadBody as exc:
            # A wake-up holds nothing that the rows do not know: its end is the log. Not the
            # dead-letter queue, which is for what could not even be tried; not the database,
            # which whoever may send to the queue could fill.
            log(
                MESSAGE_VALIDATION_FAILED,
                queue=name_of(self._url),
                message_id=id_,
                reason=str(exc),
                body=body[:_EXCERPT],
            )
            metrics.inc(MESSAGES_REFUSED, queue=name_of(self._url))
            self.deletes.put([{"ReceiptHandle": handle}])
            return []
        if found is None or found[0] not in self.kinds:
            # Of a version that comes or goes, in a rolling deploy: whoever knows it takes it.
            kind = None if found is None else found[0][:100]
            log(MESSAGE_LEFT, queue=name_of(self._url), message_id=id_, kind=kind)
            self.returns.put([{"ReceiptHandle": handle, "VisibilityTimeout": LEFT_FOR}])
            return []
        return [Message(*found, Receipt(self, handle))]

    # ------------------------------------------------------------------ how it is

    async def counts(self) -> tuple[int, int, int]:
        """Visible, in flight and delayed messages, approximately; raises what botocore does."""
        await self.deletes.flush()
        answer = await self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=_COUNTS)
        visible, in_flight, delayed = (int(answer["Attributes"][name]) for name in _COUNTS)
        return visible, in_flight, delayed

    def log_unreachable(self, exc: Exception, retry_in: float) -> None:
        """Say that a call failed, and when the next is made."""
        log(
            QUEUE_UNREACHABLE,
            wakeups="sqs",
            queue=name_of(self._url),
            error=describe(exc),
            retry_in=retry_in,
        )

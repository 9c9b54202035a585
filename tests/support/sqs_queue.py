"""One queue as Amazon SQS keeps it: visibility, delays, receipts, groups, and the dead letters.

Rules are those of https://docs.aws.amazon.com/AWSSimpleQueueService/latest/ (API reference and
quotas pages). Where SQS promises nothing, this does what hurts most: deleting with an older
receipt handle succeeds and deletes nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Final

ACCOUNT: Final = "123456789012"
DEDUPLICATION: Final = 300.0  # seconds in which a FIFO queue drops what it has seen
LONGEST_VISIBILITY: Final = 43200  # seconds from the receipt on
LIMITS: Final[Mapping[str, tuple[int, int, int]]] = {  # attribute: least, most, default
    "VisibilityTimeout": (0, LONGEST_VISIBILITY, 30),
    "DelaySeconds": (0, 900, 0),
    "MessageRetentionPeriod": (60, 1209600, 345600),
    "ReceiveMessageWaitTimeSeconds": (0, 20, 0),
    "MaximumMessageSize": (1024, 1048576, 1048576),
}
_OTHER: Final = frozenset(
    (
        "ContentBasedDeduplication",
        "FifoQueue",
        "KmsMasterKeyId",
        "Policy",
        "RedriveAllowPolicy",
        "RedrivePolicy",
        "SqsManagedSseEnabled",
    )
)
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,80}|[A-Za-z0-9_-]{1,75}\.fifo")
_GROUP: Final = re.compile(r"""[A-Za-z0-9!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]{1,128}""")
_FORBIDDEN: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class SqsError(Exception):
    """What SQS answers instead of doing it. `query` is the code of its older protocol."""

    def __init__(
        self, code: str, message: str, *, query: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.code = code
        self.query = query or code
        self.status = status

    @property
    def sender(self) -> bool:
        return self.status < 500


class Time:
    """Seconds that pass by themselves and can be moved on."""

    def __init__(self) -> None:
        self._offset = 0.0

    def now(self) -> float:
        return time.monotonic() + self._offset

    def wall(self) -> float:
        return time.time() + self._offset

    def advance(self, seconds: float) -> None:
        self._offset += seconds


@dataclass(slots=True, eq=False)
class Stored:
    """One message."""

    body: str
    attributes: dict[str, Any]
    group: str | None
    deduplication: str | None
    sent: float  # wall clock
    origin: str | None = None  # ARN of the queue that it is a dead letter of
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    sequence: int = 0
    visible_at: float = 0.0
    receives: int = 0
    received_at: float = 0.0
    first_received: float | None = None  # wall clock
    receipt: str | None = None  # the latest
    gone: bool = False

    @property
    def size(self) -> int:
        return size_of(self.body, self.attributes)


@dataclass(slots=True)
class Mischief:
    """What goes wrong by chance, as shares of 1."""

    lose: float = 0.0  # sent messages that are never seen
    duplicate: float = 0.0  # received messages that can be received again at once
    reorder: bool = False


class Queue:
    """Messages in the order of arrival, unless told otherwise."""

    def __init__(
        self,
        name: str,
        attributes: Mapping[str, str],
        region: str,
        clock: Time,
        chance: random.Random,
        find: Callable[[str], Queue],
    ) -> None:
        if not _NAME.fullmatch(name):
            raise SqsError(
                "InvalidParameterValue",
                "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in"
                " length",
            )
        self.name = name
        self.arn = f"arn:aws:sqs:{region}:{ACCOUNT}:{name}"
        self.fifo = name.endswith(".fifo")
        self.created = clock.wall()
        self.mischief = Mischief()
        self.attributes: dict[str, str] = {}
        self._clock = clock
        self._chance = chance
        self._find = find
        self._visible: OrderedDict[str, Stored] = OrderedDict()
        self._hidden: list[tuple[float, int, Stored]] = []  # may hold what was meant otherwise
        self._held: dict[str, Stored] = {}  # in flight, by message id
        self._later: dict[str, Stored] = {}  # never received, delayed
        self._receipts: dict[str, Stored] = {}
        self._seen: dict[str, tuple[float, str, int]] = {}
        self._count = 0
        self.lost = 0
        self.set_attributes(attributes)
        if self.fifo != (self.attributes.get("FifoQueue") == "true"):
            raise SqsError("InvalidParameterValue", "The name of a FIFO queue ends with .fifo")

    # ------------------------------------------------------------------ attributes

    def set_attributes(self, given: Mapping[str, str]) -> None:
        for name, value in given.items():
            if name in LIMITS:
                least, most, _ = LIMITS[name]
                if not str(value).isdigit() or not least <= int(value) <= most:
                    raise SqsError(
                        "InvalidAttributeValue", f"Invalid value for the parameter {name}."
                    )
            elif name not in _OTHER:
                raise SqsError("InvalidAttributeName", f"Unknown Attribute {name}.")
            if name == "RedrivePolicy" and value:
                policy = json.loads(value)
                if not 1 <= int(policy["maxReceiveCount"]) <= 1000:
                    raise SqsError("InvalidParameterValue", "maxReceiveCount is from 1 to 1000")
                target = self._find(policy["deadLetterTargetArn"])
                if target.fifo != self.fifo:
                    raise SqsError("InvalidParameterValue", "A queue and its DLQ are of one type")
        self.attributes.update(given)

    def number(self, name: str) -> int:
        return int(self.attributes.get(name, LIMITS[name][2]))

    @property
    def redrive(self) -> tuple[str, int] | None:
        """ARN of the dead-letter queue and how often a message may be received."""
        policy = self.attributes.get("RedrivePolicy")
        if not policy:
            return None
        found = json.loads(policy)
        return found["deadLetterTargetArn"], int(found["maxReceiveCount"])

    def counts(self) -> tuple[int, int, int]:
        """Visible, in flight, delayed."""
        self._come_due()
        return len(self._visible), len(self._held), len(self._later)

    def describe(self) -> dict[str, str]:
        visible, held, later = self.counts()
        return {
            **{name: str(self.number(name)) for name in LIMITS},
            **{name: value for name, value in self.attributes.items() if name in _OTHER and value},
            "ApproximateNumberOfMessages": str(visible),
            "ApproximateNumberOfMessagesNotVisible": str(held),
            "ApproximateNumberOfMessagesDelayed": str(later),
            "CreatedTimestamp": str(int(self.created)),
            "LastModifiedTimestamp": str(int(self.created)),
            "QueueArn": self.arn,
        }

    # ------------------------------------------------------------------ send

    def send(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Take one message; the answer without its id in a batch."""
        body, attributes = entry.get("MessageBody") or "", dict(entry.get("MessageAttributes", {}))
        if not body:
            raise SqsError("MissingParameter", "The request must contain the parameter MessageBody")
        if _FORBIDDEN.search(body):
            raise SqsError("InvalidMessageContents", "Invalid characters found.")
        if len(attributes) > 10:
            raise SqsError("InvalidParameterValue", "A message has at most 10 attributes.")
        if size_of(body, attributes) > self.number("MaximumMessageSize"):
            raise SqsError(
                "InvalidParameterValue",
                f"One or more parameters are invalid. Reason: Message must be shorter than"
                f" {self.number('MaximumMessageSize')} bytes.",
            )
        group = entry.get("MessageGroupId")
        if group is not None and not _GROUP.fullmatch(group):
            raise SqsError("InvalidParameterValue", "MessageGroupId can include 1 to 128 of …")
        delay = entry.get("DelaySeconds")
        if delay is not None and not 0 <= delay <= 900:
            raise SqsError(
                "InvalidParameterValue",
                f"Value {delay} for parameter DelaySeconds is invalid. Reason: DelaySeconds must"
                " be >= 0 and <= 900.",
            )
        deduplication = entry.get("MessageDeduplicationId")
        if self.fifo:
            deduplication = self._check_fifo(entry, body, group, deduplication, delay)
        elif deduplication is not None:
            raise SqsError("InvalidParameterValue", "MessageDeduplicationId is for FIFO queues")
        answer: dict[str, Any] = {"MD5OfMessageBody": md5(body)}
        if attributes:
            answer["MD5OfMessageAttributes"] = md5_of_attributes(attributes)
        if (known := self._duplicate(deduplication)) is not None:
            return answer | {"MessageId": known[1], "SequenceNumber": f"{known[2]:020}"}
        stored = Stored(body, attributes, group, deduplication, self._clock.wall())
        if self._chance.random() < self.mischief.lose:
            self.lost += 1
        else:
            self.add(stored, self.number("DelaySeconds") if delay is None else delay)
        if deduplication is not None:
            at = self._clock.now()
            self._seen[deduplication] = (at, stored.id, stored.sequence)
            answer["SequenceNumber"] = f"{stored.sequence:020}"
        return answer | {"MessageId": stored.id}

    def _check_fifo(
        self,
        entry: Mapping[str, Any],
        body: str,
        group: str | None,
        deduplication: str | None,
        delay: int | None,
    ) -> str:
        if group is None:
            raise SqsError(
                "MissingParameter", "The request must contain the parameter MessageGroupId."
            )
        if delay:
            raise SqsError("InvalidParameterValue", "DelaySeconds is the queue's in a FIFO queue")
        if deduplication is not None:
            return deduplication
        if self.attributes.get("ContentBasedDeduplication") != "true":
            raise SqsError(
                "InvalidParameterValue",
                "The queue should either have ContentBasedDeduplication enabled or"
                " MessageDeduplicationId provided explicitly",
            )
        return hashlib.sha256(body.encode()).hexdigest()

    def _duplicate(self, deduplication: str | None) -> tuple[float, str, int] | None:
        if deduplication is None:
            return None
        known = self._seen.get(deduplication)
        fresh = known is not None and self._clock.now() - known[0] < DEDUPLICATION
        return known if fresh else None

    def add(self, stored: Stored, delay: float = 0.0) -> None:
        self._count += 1
        stored.sequence = self._count
        if delay > 0:
            self._later[stored.id] = stored
            self._hide(stored, self._clock.now() + delay)
        else:
            self._visible[stored.id] = stored

    def _hide(self, stored: Stored, until: float) -> None:
        stored.visible_at = until
        self._count += 1
        heappush(self._hidden, (until, self._count, stored))

    # ------------------------------------------------------------------ receive

    def next_due(self) -> float | None:
        """When something hidden may become visible, on the clock's scale."""
        return self._hidden[0][0] if self._hidden else None

    def receive(self, most: int, visibility: int | None) -> list[Stored]:
        """Up to `most` messages, which are held from now on."""
        self._come_due()
        hidden_for = self.number("VisibilityTimeout") if visibility is None else visibility
        taken: list[Stored] = []
        for stored in self._candidates():
            if len(taken) == most:
                break
            redrive = self.redrive
            if redrive is not None and stored.receives >= redrive[1]:
                self._bury(stored, redrive[0])
                continue
            self._take(stored, hidden_for)
            taken.append(stored)
        return taken

    def _candidates(self) -> Iterator[Stored]:
        if self.fifo:
            # A group is closed while any of its messages is held, except by this very call.
            closed = {stored.group for stored in self._held.values()}
            waiting = sorted(self._visible.values(), key=lambda stored: stored.sequence)
            yield from (stored for stored in waiting if stored.group not in closed)
        elif self.mischief.reorder:
            waiting = list(self._visible.values())
            self._chance.shuffle(waiting)
            yield from waiting
        else:
            while self._visible:  # whoever asks takes each away, one way or another
                yield next(iter(self._visible.values()))

    def _take(self, stored: Stored, hidden_for: float) -> None:
        del self._visible[stored.id]
        if not self.fifo and self._chance.random() < self.mischief.duplicate:
            # As when a server of SQS missed the receipt: the same message, visible as before.
            copy = Stored(stored.body, stored.attributes, stored.group, None, stored.sent)
            copy.receives, copy.first_received = stored.receives, stored.first_received
            self.add(copy)
        stored.receives += 1
        stored.first_received = stored.first_received or self._clock.wall()
        stored.received_at = self._clock.now()
        stored.receipt = f"{uuid.uuid4().hex}{uuid.uuid4().hex}"
        self._receipts[stored.receipt] = stored
        self._held[stored.id] = stored
        self._hide(stored, stored.received_at + hidden_for)

    def _bury(self, stored: Stored, arn: str) -> None:
        del self._visible[stored.id]
        stored.origin = self.arn
        stored.receipt = None
        self._find(arn).add(stored)

    def _come_due(self) -> None:
        now = self._clock.now()
        while self._hidden and self._hidden[0][0] <= now:
            at, _, stored = heappop(self._hidden)
            if stored.gone or stored.visible_at != at or stored.id in self._visible:
                continue
            self._held.pop(stored.id, None)
            self._later.pop(stored.id, None)
            self._visible[stored.id] = stored
        oldest = self._clock.wall() - self.number("MessageRetentionPeriod")
        while self._visible and next(iter(self._visible.values())).sent < oldest:
            self._visible.popitem(last=False)

    # ------------------------------------------------------------------ receipts

    def delete(self, receipt: str) -> None:
        stored = self._of(receipt)
        if stored.receipt != receipt or stored.gone:
            return
        self._forget(stored)

    def _forget(self, stored: Stored) -> None:
        stored.gone = True
        self._visible.pop(stored.id, None)
        self._held.pop(stored.id, None)

    def change_visibility(self, receipt: str, seconds: int) -> None:
        if not 0 <= seconds <= LONGEST_VISIBILITY:
            raise SqsError(
                "InvalidParameterValue",
                f"Value {seconds} for parameter VisibilityTimeout is invalid. Reason:"
                " VisibilityTimeout must be an integer between 0 and 43200.",
            )
        stored = self._of(receipt)
        self._come_due()
        if stored.gone or stored.receipt != receipt or stored.id not in self._held:
            raise SqsError(
                "MessageNotInflight",
                "The message referred to is not in flight.",
                query="AWS.SimpleQueueService.MessageNotInflight",
            )
        until = self._clock.now() + seconds
        if until > stored.received_at + LONGEST_VISIBILITY:
            raise SqsError("InvalidParameterValue", "Total VisibilityTimeout is beyond 12 hours")
        self._hide(stored, until)
        self._come_due()

    def _of(self, receipt: str) -> Stored:
        stored = self._receipts.get(receipt)
        if stored is None:
            raise SqsError(
                "ReceiptHandleIsInvalid",
                f'The input receipt handle "{receipt}" is not a valid receipt handle.',
                status=404,
            )
        return stored

    # ------------------------------------------------------------------ for tests and redrives

    def messages(self) -> list[Stored]:
        """All that are kept, oldest first."""
        self._come_due()
        kept = [*self._visible.values(), *self._held.values(), *self._later.values()]
        return sorted(kept, key=lambda stored: stored.sequence)

    def take_for_move(self) -> Stored | None:
        """Remove the oldest visible message."""
        self._come_due()
        return self._visible.popitem(last=False)[1] if self._visible else None

    def purge(self) -> None:
        for stored in self.messages():
            self._forget(stored)
            self._later.pop(stored.id, None)


def view(stored: Stored, system: list[str], named: list[str]) -> dict[str, Any]:
    """The message as ReceiveMessage shows it."""
    everything = {
        "SenderId": "AIDAEXAMPLE",
        "SentTimestamp": str(int(stored.sent * 1000)),
        "ApproximateReceiveCount": str(stored.receives),
        "ApproximateFirstReceiveTimestamp": str(int((stored.first_received or 0) * 1000)),
    }
    if stored.group is not None:
        everything["MessageGroupId"] = stored.group
    if stored.deduplication is not None:
        everything["MessageDeduplicationId"] = stored.deduplication
        everything["SequenceNumber"] = f"{stored.sequence:020}"
    if stored.origin is not None:
        everything["DeadLetterQueueSourceArn"] = stored.origin
    shown = {
        "MessageId": stored.id,
        "ReceiptHandle": stored.receipt,
        "MD5OfBody": md5(stored.body),
        "Body": stored.body,
    }
    if attributes := {k: v for k, v in everything.items() if "All" in system or k in system}:
        shown["Attributes"] = attributes
    wanted = {k: v for k, v in stored.attributes.items() if _is_named(k, named)}
    if wanted:
        shown["MessageAttributes"] = wanted
        shown["MD5OfMessageAttributes"] = md5_of_attributes(wanted)
    return shown


def _is_named(name: str, patterns: list[str]) -> bool:
    return any(
        pattern in ("All", ".*", name) or (pattern.endswith(".*") and name.startswith(pattern[:-2]))
        for pattern in patterns
    )


def size_of(body: str, attributes: Mapping[str, Any]) -> int:
    """In bytes, as SQS counts."""
    total = len(body.encode())
    for name, value in attributes.items():
        total += len(name.encode()) + len(value["DataType"].encode()) + len(_content(value))
    return total


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def md5_of_attributes(attributes: Mapping[str, Any]) -> str:
    """The digest of the developer guide's page on message attributes."""
    digest = hashlib.md5()

    def add(content: bytes) -> None:
        digest.update(len(content).to_bytes(4, "big") + content)

    for name, value in sorted(attributes.items()):
        add(name.encode())
        add(value["DataType"].encode())
        digest.update(b"\x02" if "BinaryValue" in value else b"\x01")
        add(_content(value))
    return digest.hexdigest()


def _content(value: Mapping[str, Any]) -> bytes:
    if "BinaryValue" in value:
        return base64.b64decode(value["BinaryValue"])
    return str(value["StringValue"]).encode()

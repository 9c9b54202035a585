"""Amazon SQS: the event as a message in the endpoint's queue.

Body and signature are those of a webhook; what a webhook has in headers is in the message's
attributes.

In a FIFO queue the events of one ordering key are a group; one without a key is a group of its
own, so that it waits for no other. A try that is made again because the answer to the first was
lost is dropped by the queue as a duplicate, if it comes within five minutes; a replay is not.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final

from penstock.clock import SECOND, Clock
from penstock.events import sign
from penstock.events.destinations import Answer, TargetRefused, failed, refused
from penstock.events.destinations.aws import Aws, require
from penstock.events.receivers import Opened, Push, Receiver, signing_keys

MOST: Final = 1024 * 1024  # bytes of body and attributes

_REGION: Final = r"(?P<region>[a-z]{2,4}(?:-[a-z]{2,10}){1,3}-[0-9])"
_ACCOUNT: Final = r"(?P<account>[0-9]{12})"
_NAME: Final = r"(?P<name>[A-Za-z0-9_-]{1,80}|[A-Za-z0-9_-]{1,75}\.fifo)"
_ARN: Final = re.compile(rf"arn:aws(?:-cn|-us-gov)?:sqs:{_REGION}:{_ACCOUNT}:{_NAME}", re.ASCII)
_URL: Final = re.compile(
    rf"https://sqs(?:-fips)?\.{_REGION}\.amazonaws\.com(?:\.cn)?/{_ACCOUNT}/{_NAME}", re.ASCII
)
_LOCAL: Final = re.compile(rf"/{_ACCOUNT}/{_NAME}", re.ASCII)
_GROUP: Final = re.compile(r"[!-~]{1,128}", re.ASCII)
_HASHED: Final = "sha256:"  # before the hex digits of a key that is no group's name itself
# The few characters that JSON may hold as they are and SQS does not take.
_NOT_XML: Final = re.compile("[\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue; `region` None = the one of the settings."""

    url: str
    region: str | None
    fifo: bool


class Sqs:
    """Messages in queues on AWS, or at the server that stands in for it."""

    kind: Final = "sqs"
    takes_headers: Final = False
    signs: Final = True

    def __init__(self, aws: Aws, clock: Clock) -> None:
        self._aws = aws
        self._clock = clock

    async def check(self, target: str) -> str:
        """The queue's URL."""
        require()
        return queue(target, self._aws.endpoint_url).url

    async def send(self, push: Push, receiver: Receiver, opened: Opened, content: bytes) -> Answer:
        """Put the event into the queue."""
        try:
            to = queue(receiver.target, self._aws.endpoint_url)
        except TargetRefused as exc:
            return refused(str(exc))
        body = content.decode()
        if _NOT_XML.search(body):
            body = _NOT_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", body)
            content = body.encode()
        attributes = _attributes(push, receiver, opened, content, self._clock.now())
        size = len(content) + sum(
            len(name) + len("String") + len(value) for name, value in attributes.items()
        )
        if size > MOST:
            text = f"{size} bytes are more than SQS takes ({MOST})"
            return failed("too_large", text, 0.0, means="permanent", health=None)
        parameters: dict[str, Any] = {
            "QueueUrl": to.url,
            "MessageBody": body,
            "MessageAttributes": {
                name: {"DataType": "String", "StringValue": value}
                for name, value in attributes.items()
            },
        }
        if to.fifo:
            parameters["MessageGroupId"] = group(push)
            parameters["MessageDeduplicationId"] = deduplication(push)
        return await self._aws.call(
            "sqs", "send_message", receiver.timeout, region=to.region, **parameters
        )


def queue(target: str, endpoint_url: str | None) -> Queue:
    """The queue that a URL or an ARN names; TargetRefused if it is neither.

    Where it leads is decided by its shape alone: a queue's URL on AWS, or one at
    `endpoint_url` where something stands in for AWS.
    """
    base = None if endpoint_url is None else endpoint_url.rstrip("/")
    if (found := _ARN.fullmatch(target)) is not None:
        path = f"/{found['account']}/{found['name']}"
        region = found["region"]
        if base is not None:
            return Queue(base + path, region, _is_fifo(found))
        suffix = ".cn" if region.startswith("cn-") else ""
        return Queue(f"https://sqs.{region}.amazonaws.com{suffix}{path}", region, _is_fifo(found))
    if (found := _URL.fullmatch(target)) is not None:
        return Queue(target, found["region"], _is_fifo(found))
    if base is not None and target.startswith(base + "/"):
        found = _LOCAL.fullmatch(target[len(base) :])
        if found is not None:
            return Queue(target, None, _is_fifo(found))
    raise TargetRefused(
        "give the queue's URL (https://sqs.REGION.amazonaws.com/ACCOUNT/NAME) or its ARN"
    )


def group(push: Push) -> str:
    """The FIFO queue's group: messages of one group are received one after another.

    A group's name has up to 128 letters, digits and punctuation marks; a key that has more, or a
    space, is named by its hash. So is one that looks like such a hash, that no two share a group.
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
    """
    key = push.ordering_key
    if key is None:
        return push.event_id
    if _GROUP.fullmatch(key) and not key.startswith(_HASHED):
        return key
    return _HASHED + hashlib.sha256(key.encode()).hexdigest()


def deduplication(push: Push) -> str:
    """The same for every try of one sending, and another once the delivery is replayed.

    The time after which a delivery is given up begins anew with each replay, and stays as it is
    over retries, so it tells one sending from the next.
    """
    return f"{push.delivery_id}-{push.expires_at}"


def _is_fifo(found: re.Match[str]) -> bool:
    return found["name"].endswith(".fifo")


def _attributes(
    push: Push, receiver: Receiver, opened: Opened, content: bytes, now: int
) -> dict[str, str]:
    signed = sign.headers(
        signing_keys(receiver, opened, now), push.event_id, now // SECOND, content
    )
    named = {"event_type": push.event_type, **signed}
    return named if push.traceparent is None else named | {"traceparent": push.traceparent}

"""Our server of SQS's protocol beside an emulator that others wrote: the same calls, like answers.

What tests of wake-ups believe of SQS, they believe of the server in `support.sqs_server`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from botocore.exceptions import ClientError

from penstock.work.wakeups import Message, Wake
from penstock.work.wakeups.sqs import SqsWakeups
from penstock.work.wakeups.sqs_calls import client
from support.sqs_server import ENVIRONMENT, REGION, SqsServer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def urls(emulator: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[str, str]]:
    """Of our server and of the emulator."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    async with SqsServer() as server:
        yield server.url, emulator


def shape(value: Any) -> Any:
    """Names and types of an answer; an empty list is as good as none."""
    if isinstance(value, Mapping):
        return {k: shape(v) for k, v in value.items() if k != "ResponseMetadata" and v != []}
    if isinstance(value, list):
        return sorted((shape(each) for each in value), key=repr)
    return type(value).__name__


async def _refusal(call: Any) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        await call
    response: Any = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


async def _played(sqs: Any) -> dict[str, Any]:
    """What the server answers to each kind of call that wake-ups make, good and bad ones."""
    told: dict[str, Any] = {}
    dead = (await sqs.create_queue(QueueName="shape-dead"))["QueueUrl"]
    named = await sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])
    policy = {"deadLetterTargetArn": named["Attributes"]["QueueArn"], "maxReceiveCount": 2}
    made = await sqs.create_queue(
        QueueName="shape",
        Attributes={"VisibilityTimeout": "60", "RedrivePolicy": json.dumps(policy)},
    )
    told["create"], url = shape(made), made["QueueUrl"]
    told["url"] = shape(await sqs.get_queue_url(QueueName="shape"))
    entries = [
        {"Id": "0", "MessageBody": "now", "MessageGroupId": "account"},
        {"Id": "1", "MessageBody": "later", "DelaySeconds": 60},
    ]
    told["send"] = shape(await sqs.send_message_batch(QueueUrl=url, Entries=entries))
    told["counts"] = await _counts(sqs, url)
    first = await _receive(sqs, url)
    told["receive"] = shape(first)
    (message,) = first["Messages"]
    told["message"] = message["Body"], message["Attributes"]["ApproximateReceiveCount"]
    told["held"] = await _counts(sqs, url)
    told["empty"] = shape(await _receive(sqs, url))
    entry = {"Id": "0", "ReceiptHandle": message["ReceiptHandle"]}
    told["hide"] = shape(
        await sqs.change_message_visibility_batch(
            QueueUrl=url, Entries=[{**entry, "VisibilityTimeout": 0}]
        )
    )
    (again,) = (await _receive(sqs, url))["Messages"]
    told["again"] = again["Attributes"]["ApproximateReceiveCount"]
    await sqs.change_message_visibility(
        QueueUrl=url, ReceiptHandle=again["ReceiptHandle"], VisibilityTimeout=0
    )
    told["buried"] = shape(await _receive(sqs, url)), (await _counts(sqs, dead))[0]
    (letter,) = (await _receive(sqs, dead))["Messages"]
    told["same message"] = letter["MessageId"] == message["MessageId"]
    entry = {"Id": "0", "ReceiptHandle": letter["ReceiptHandle"]}
    told["delete"] = shape(await sqs.delete_message_batch(QueueUrl=dead, Entries=[entry]))
    told["gone"] = await _counts(sqs, dead)

    told["no queue"] = await _refusal(sqs.receive_message(QueueUrl=f"{url}-none"))
    told["no entry"] = await _refusal(sqs.send_message_batch(QueueUrl=url, Entries=[]))
    many = [{"Id": str(n), "MessageBody": "x"} for n in range(11)]
    told["too many"] = await _refusal(sqs.send_message_batch(QueueUrl=url, Entries=many))
    twice = [{"Id": "same", "MessageBody": "x"}] * 2
    told["same id"] = await _refusal(sqs.send_message_batch(QueueUrl=url, Entries=twice))
    for queue in (url, dead):
        await sqs.delete_queue(QueueUrl=queue)
    return told


async def _receive(sqs: Any, url: str) -> Any:
    return await sqs.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["All"]
    )


async def _counts(sqs: Any, url: str) -> tuple[int, ...]:
    answer = await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
    names = ("", "NotVisible", "Delayed")
    return tuple(int(answer["Attributes"][f"ApproximateNumberOfMessages{each}"]) for each in names)


async def test_both_answer_alike(urls: tuple[str, str]) -> None:
    told = []
    for url in urls:
        async with client(REGION, url) as sqs:
            told.append(await _played(sqs))
    ours, theirs = told
    assert ours == theirs


async def test_wakes_go_through_the_emulator(urls: tuple[str, str]) -> None:
    _, emulator = urls
    async with client(REGION, emulator) as sqs:
        url = (await sqs.create_queue(QueueName="wakes"))["QueueUrl"]
        wakeups = SqsWakeups({"job": url}, region=REGION, endpoint_url=emulator)
        await wakeups.open()
        try:
            wanted = {f"lane-{n}" for n in range(30)}
            await wakeups.publish([Wake("job", lane, account="acme") for lane in wanted])
            await wakeups.publish([Wake("job", "soon", 2.0), Wake("job", "late", 800.0)])
            held: list[Message] = []
            async with asyncio.timeout(20):
                while len(held) < 30:
                    held += await wakeups.receive(100)
            assert {message.lane for message in held} == wanted
            await wakeups.release(held[:3])
            await wakeups.acknowledge(held[3:])
            seen: set[str] = set()
            async with asyncio.timeout(20):
                while len(seen) < 4:
                    more = await wakeups.receive(100)
                    seen |= {message.lane for message in more}
                    await wakeups.acknowledge(more)
            assert seen == {"soon", *(message.lane for message in held[:3])}
            stats = await wakeups.stats()
            assert (stats.visible, stats.delayed, stats.in_flight) == (0, 1, 0)
        finally:
            await wakeups.close()
            await sqs.delete_queue(QueueUrl=url)

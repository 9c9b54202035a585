"""The local server of SQS: what tests that stand on it may believe."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from penstock.work.wakeups import sqs_calls
from penstock.work.wakeups.sqs_calls import client
from support.sqs_server import ENVIRONMENT, REGION, SqsServer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SqsServer]:
    monkeypatch.setattr(sqs_calls, "_CONNECT", 60.0)  # the machine may be busy
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    async with SqsServer() as running:
        yield running


@pytest.fixture
async def sqs(server: SqsServer) -> AsyncIterator[Any]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(client(REGION, server.url))


async def texts(sqs: Any, url: str, most: int = 10, **options: Any) -> list[str]:
    answer = await sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=most, **options)
    return [message["Body"] for message in answer.get("Messages", [])]


async def counts(sqs: Any, url: str) -> tuple[int, int, int]:
    answer = await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
    found = answer["Attributes"]
    return (
        int(found["ApproximateNumberOfMessages"]),
        int(found["ApproximateNumberOfMessagesNotVisible"]),
        int(found["ApproximateNumberOfMessagesDelayed"]),
    )


def code(caught: pytest.ExceptionInfo[ClientError]) -> str:
    return str(caught.value.response["Error"]["Code"])


async def test_a_message_is_hidden_once_received_and_comes_back(
    server: SqsServer, sqs: Any
) -> None:
    url = (await sqs.create_queue(QueueName="q", Attributes={"VisibilityTimeout": "60"}))[
        "QueueUrl"
    ]
    assert (await sqs.get_queue_url(QueueName="q"))["QueueUrl"] == url
    attribute = {"n": {"DataType": "Number", "StringValue": "7"}}
    await sqs.send_message(QueueUrl=url, MessageBody="hello", MessageAttributes=attribute)
    answer = await sqs.receive_message(
        QueueUrl=url, MessageSystemAttributeNames=["All"], MessageAttributeNames=["n"]
    )
    (first,) = answer["Messages"]
    assert first["Body"] == "hello"
    assert first["MessageAttributes"] == attribute
    assert first["Attributes"]["ApproximateReceiveCount"] == "1"
    assert await texts(sqs, url) == []
    assert await counts(sqs, url) == (0, 1, 0)
    server.advance(61)
    (again,) = (await sqs.receive_message(QueueUrl=url, MessageSystemAttributeNames=["All"]))[
        "Messages"
    ]
    assert again["Attributes"]["ApproximateReceiveCount"] == "2"
    assert again["MessageId"] == first["MessageId"]
    # The older receipt deletes nothing, and says nothing of it.
    await sqs.delete_message(QueueUrl=url, ReceiptHandle=first["ReceiptHandle"])
    assert await counts(sqs, url) == (0, 1, 0)
    await sqs.delete_message(QueueUrl=url, ReceiptHandle=again["ReceiptHandle"])
    await sqs.delete_message(QueueUrl=url, ReceiptHandle=again["ReceiptHandle"])
    assert await counts(sqs, url) == (0, 0, 0)
    with pytest.raises(ClientError) as caught:
        await sqs.delete_message(QueueUrl=url, ReceiptHandle="forged")
    assert code(caught) == "ReceiptHandleIsInvalid"


async def test_visibility_can_be_changed_while_it_is_held(server: SqsServer, sqs: Any) -> None:
    url = server.create("q")
    await sqs.send_message(QueueUrl=url, MessageBody="a")
    (held,) = (await sqs.receive_message(QueueUrl=url))["Messages"]
    receipt = {"QueueUrl": url, "ReceiptHandle": held["ReceiptHandle"]}
    await sqs.change_message_visibility(**receipt, VisibilityTimeout=600)
    server.advance(500)
    assert await texts(sqs, url) == []
    await sqs.change_message_visibility(**receipt, VisibilityTimeout=0)
    with pytest.raises(ClientError) as caught:
        await sqs.change_message_visibility(**receipt, VisibilityTimeout=10)
    assert code(caught) == "AWS.SimpleQueueService.MessageNotInflight"
    assert await texts(sqs, url) == ["a"]
    with pytest.raises(ClientError) as caught:
        await sqs.change_message_visibility(**receipt, VisibilityTimeout=43201)
    assert code(caught) == "InvalidParameterValue"


async def test_a_long_poll_ends_with_the_first_message(server: SqsServer, sqs: Any) -> None:
    url = server.create("q")
    waiting = asyncio.create_task(texts(sqs, url, WaitTimeSeconds=20))
    while not server.calls["ReceiveMessage"]:
        await asyncio.sleep(0.01)
    await sqs.send_message(QueueUrl=url, MessageBody="a", DelaySeconds=900)
    assert await counts(sqs, url) == (0, 0, 1)
    assert not waiting.done()
    server.advance(900)
    async with asyncio.timeout(60):
        assert await waiting == ["a"]


@pytest.mark.filterwarnings("ignore:Sending a large body")  # one is meant to be too large
async def test_batches_answer_for_each_entry(server: SqsServer, sqs: Any) -> None:
    url = server.create("q")
    answer = await sqs.send_message_batch(
        QueueUrl=url,
        Entries=[
            {"Id": "good", "MessageBody": "a", "MessageGroupId": "acme"},
            {"Id": "late", "MessageBody": "b", "DelaySeconds": 901},
            {"Id": "bad", "MessageBody": "\x00"},
            {"Id": "group", "MessageBody": "c", "MessageGroupId": "a b"},
        ],
    )
    assert [each["Id"] for each in answer["Successful"]] == ["good"]
    failed = {each["Id"]: (each["Code"], each["SenderFault"]) for each in answer["Failed"]}
    assert failed == {
        "late": ("InvalidParameterValue", True),
        "bad": ("InvalidMessageContents", True),
        "group": ("InvalidParameterValue", True),
    }
    server.faults.partial = 1.0
    answer = await sqs.send_message_batch(QueueUrl=url, Entries=[{"Id": "0", "MessageBody": "a"}])
    assert answer["Failed"][0]["SenderFault"] is False
    for entries, fault in (
        ([], "EmptyBatchRequest"),
        ([{"Id": "1", "MessageBody": "a"}] * 2, "BatchEntryIdsNotDistinct"),
        ([{"Id": "a b", "MessageBody": "a"}], "InvalidBatchEntryId"),
        ([{"Id": str(n), "MessageBody": "a"} for n in range(11)], "TooManyEntriesInBatchRequest"),
        ([{"Id": str(n), "MessageBody": "a" * 150_000} for n in range(8)], "BatchRequestTooLong"),
    ):
        with pytest.raises(ClientError) as caught:
            await sqs.send_message_batch(QueueUrl=url, Entries=entries)
        assert code(caught) == f"AWS.SimpleQueueService.{fault}"


async def test_sizes_count_bytes_and_attributes(server: SqsServer, sqs: Any) -> None:
    url = server.create("q", MaximumMessageSize=1024)
    await sqs.send_message(QueueUrl=url, MessageBody="ü" * 512)
    for body, attributes in (
        ("ü" * 513, {}),
        ("a" * 1010, {"name": {"DataType": "String", "StringValue": "12345"}}),
    ):
        with pytest.raises(ClientError) as caught:
            await sqs.send_message(QueueUrl=url, MessageBody=body, MessageAttributes=attributes)
        assert code(caught) == "InvalidParameterValue"


async def test_dead_letters_and_their_way_back(server: SqsServer, sqs: Any) -> None:
    url = server.create("q", dlq="dead", receives=2)
    dead = server.url_of(server.queue("dead"))
    arn = server.queue("dead").arn
    await sqs.send_message(QueueUrl=url, MessageBody="a")
    for _ in range(2):
        assert await texts(sqs, url, VisibilityTimeout=0) == ["a"]
    assert await counts(sqs, dead) == (0, 0, 0)  # it goes when it would be received once more
    assert await texts(sqs, url) == []
    assert await counts(sqs, dead) == (1, 0, 0)
    sources = await sqs.list_dead_letter_source_queues(QueueUrl=dead)
    assert sources["queueUrls"] == [url]

    with pytest.raises(ClientError) as caught:
        await sqs.start_message_move_task(SourceArn=server.queue("q").arn)
    assert code(caught) == "UnsupportedOperation"
    handle = (await sqs.start_message_move_task(SourceArn=arn))["TaskHandle"]
    assert handle
    while True:
        (move,) = (await sqs.list_message_move_tasks(SourceArn=arn))["Results"]
        if move["Status"] != "RUNNING":
            break
        await asyncio.sleep(0.01)
    assert (move["Status"], move["ApproximateNumberOfMessagesMoved"]) == ("COMPLETED", 1)
    answer = await sqs.receive_message(QueueUrl=url, MessageSystemAttributeNames=["All"])
    assert answer["Messages"][0]["Attributes"]["ApproximateReceiveCount"] == "1"

    await sqs.send_message(QueueUrl=dead, MessageBody="nobody knows whence")
    await sqs.start_message_move_task(SourceArn=arn)
    await asyncio.sleep(0.05)
    (move,) = (await sqs.list_message_move_tasks(SourceArn=arn))["Results"]
    assert move["Status"] == "FAILED"


async def test_a_move_can_be_cancelled(server: SqsServer, sqs: Any) -> None:
    server.create("q", dlq="dead")
    arn = server.queue("dead").arn
    for n in range(5):
        await sqs.send_message(QueueUrl=server.url_of(server.queue("dead")), MessageBody=str(n))
    started = await sqs.start_message_move_task(
        SourceArn=arn, DestinationArn=server.queue("q").arn, MaxNumberOfMessagesPerSecond=1
    )
    with pytest.raises(ClientError) as caught:
        await sqs.start_message_move_task(SourceArn=arn)
    assert "already a task running" in str(caught.value)
    await sqs.cancel_message_move_task(TaskHandle=started["TaskHandle"])
    with pytest.raises(ClientError) as caught:
        await sqs.cancel_message_move_task(TaskHandle=started["TaskHandle"])
    assert code(caught) == "ResourceNotFoundException"


async def test_a_fifo_queue_keeps_groups_in_order_and_drops_duplicates(
    server: SqsServer, sqs: Any
) -> None:
    url = server.create("q.fifo", FifoQueue="true")

    async def send(body: str, group: str, deduplication: str) -> str:
        answer = await sqs.send_message(
            QueueUrl=url,
            MessageBody=body,
            MessageGroupId=group,
            MessageDeduplicationId=deduplication,
        )
        return str(answer["MessageId"])

    first = await send("a1", "a", "1")
    assert await send("a1", "a", "1") == first
    await send("a2", "a", "2")
    await send("b1", "b", "3")
    assert await texts(sqs, url, most=1) == ["a1"]
    assert await texts(sqs, url) == ["b1"]  # the group a waits for its head
    server.advance(31)
    assert await texts(sqs, url) == ["a1", "a2", "b1"]
    server.advance(300)
    assert await send("a1", "a", "1") != first
    with pytest.raises(ClientError) as caught:
        await sqs.send_message(QueueUrl=url, MessageBody="x", MessageDeduplicationId="9")
    assert code(caught) == "MissingParameter"


async def test_what_is_lost_doubled_and_shuffled(server: SqsServer, sqs: Any) -> None:
    url = server.create("q")
    mischief = server.queue("q").mischief
    mischief.lose = 1.0
    await sqs.send_message(QueueUrl=url, MessageBody="lost")
    mischief.lose = 0.0
    for n in range(9):
        await sqs.send_message(QueueUrl=url, MessageBody=str(n))
    mischief.reorder = True
    order = await texts(sqs, url)
    assert sorted(order) == [str(n) for n in range(9)]
    assert order != sorted(order)
    server.advance(31)
    mischief.duplicate = 0.5
    assert len(await texts(sqs, url) + await texts(sqs, url)) > 9
    assert server.queue("q").lost == 1


async def test_faults_on_the_way(server: SqsServer, sqs: Any) -> None:
    url = server.create("q")
    server.faults.error = 1.0
    with pytest.raises(ClientError) as caught:
        await sqs.send_message(QueueUrl=url, MessageBody="a")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    server.faults.error, server.faults.throttle = 0.0, 1.0
    with pytest.raises(ClientError) as caught:
        await sqs.send_message(QueueUrl=url, MessageBody="a")
    assert code(caught) == "RequestThrottled"
    server.faults.throttle, server.faults.hang_up = 0.0, 1.0
    with pytest.raises(BotoCoreError):
        await sqs.send_message(QueueUrl=url, MessageBody="carried out, and nobody knows")
    server.faults.hang_up = 0.0
    assert await counts(sqs, url) == (1, 0, 0)
    server.cut()
    with pytest.raises(BotoCoreError):
        await sqs.send_message(QueueUrl=url, MessageBody="a")
    server.faults.unreachable = False
    await server.shut()
    with pytest.raises(BotoCoreError):
        await sqs.send_message(QueueUrl=url, MessageBody="a")
    await server.listen()
    await sqs.send_message(QueueUrl=url, MessageBody="a")
    assert await counts(sqs, url) == (2, 0, 0)


async def test_what_does_not_exist(server: SqsServer, sqs: Any) -> None:
    with pytest.raises(ClientError) as caught:
        await sqs.send_message(QueueUrl=f"{server.url}/123456789012/none", MessageBody="a")
    assert code(caught) == "AWS.SimpleQueueService.NonExistentQueue"
    with pytest.raises(ClientError) as caught:
        await sqs.create_queue(QueueName="a b")
    assert code(caught) == "InvalidParameterValue"
    await sqs.create_queue(QueueName="q", Attributes={"DelaySeconds": "3"})
    with pytest.raises(ClientError) as caught:
        await sqs.create_queue(QueueName="q", Attributes={"DelaySeconds": "4"})
    assert code(caught) == "QueueAlreadyExists"
    policy = json.dumps({"deadLetterTargetArn": "arn:aws:sqs:x:1:none", "maxReceiveCount": 3})
    with pytest.raises(ClientError):
        await sqs.create_queue(QueueName="r", Attributes={"RedrivePolicy": policy})


async def test_an_outage_leaves_no_connection_open() -> None:
    """Of clients that connect at that very moment, too: what is left open fails the tests."""
    async with SqsServer() as server:
        host, port = "127.0.0.1", int(server.url.rpartition(":")[2])
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                client = stack.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex((host, port))
            for _ in range(2):  # they have been taken, and are served from the next turn on
                await asyncio.sleep(0)
            await server.shut()
        gc.collect()
        await server.listen()

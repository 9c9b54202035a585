"""What the engine asks of every queue of wake-ups."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from uuid import uuid4

import pytest

from penstock.clock import ManualClock
from penstock.work.wakeups import EVERYTHING, Message, Wake, Wakeups, WakeupsClosed, WakeupStats
from penstock.work.wakeups.local import LocalWakeups
from penstock.work.wakeups.memory import MemoryWakeups
from penstock.work.wakeups.postgres import PostgresWakeups
from penstock.work.wakeups.sqs import SqsWakeups
from support.sqs_server import ENVIRONMENT, REGION, SqsServer

pytestmark = pytest.mark.anyio


@dataclass(frozen=True, slots=True)
class Queue:
    publisher: Wakeups  # the receiver itself, or another process's
    receiver: Wakeups
    advance: Callable[[float], Awaitable[None]]
    coalesces: bool = True
    ordered: bool = True
    many: int = 10_000  # wakes that take it a few seconds
    step: float = 0.0  # seconds in which it gets somewhere


@pytest.fixture(
    params=[
        "local",
        "memory",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("postgres-remote", marks=pytest.mark.postgres),
        "sqs",
        "sqs-remote",
    ]
)
async def queue(request: pytest.FixtureRequest) -> AsyncIterator[Queue]:
    async with AsyncExitStack() as stack:

        async def opened(wakeups: Wakeups) -> Wakeups:
            stack.push_async_callback(wakeups.close)
            await wakeups.open()
            return wakeups

        if request.param == "local":
            local = await opened(LocalWakeups())
            yield Queue(local, local, asyncio.sleep)
        elif request.param == "memory":
            twin = MemoryWakeups(ManualClock())
            await opened(twin)
            yield Queue(twin, twin, twin.advance, coalesces=False)
        elif request.param.startswith("sqs"):
            monkeypatch = request.getfixturevalue("monkeypatch")
            for name, value in ENVIRONMENT.items():
                monkeypatch.setenv(name, value)
            yield await _sqs_queue(stack, opened, remote=request.param == "sqs-remote")
        else:
            url = request.getfixturevalue("postgres_url")
            channel = f"test_{uuid4().hex}"
            receiver = await opened(PostgresWakeups(url, channel=channel, gap=0.02))
            publisher = receiver
            if request.param == "postgres-remote":
                publisher = await opened(
                    PostgresWakeups(url, channel=channel, listen=False, gap=0.02)
                )
            # Wakes sent before it listened were missed, and it says so.
            (first,) = await take(receiver)
            assert (first.kind, first.lane) == (EVERYTHING, EVERYTHING)
            await receiver.acknowledge([first])
            yield Queue(publisher, receiver, asyncio.sleep)


async def _sqs_queue(
    stack: AsyncExitStack, opened: Callable[[Wakeups], Awaitable[Wakeups]], *, remote: bool
) -> Queue:
    server = await stack.enter_async_context(SqsServer())
    one, two = [server.create(name, VisibilityTimeout=360) for name in ("one", "two")]
    queues = {"delivery": one, "a": one, "b": one, "job": two, "\u00fc": two}
    place = {"region": REGION, "endpoint_url": server.url}
    receiver = await opened(SqsWakeups(queues, **place))
    publisher = receiver
    if remote:
        publisher = await opened(SqsWakeups(queues, listen=False, **place))

    async def advance(seconds: float) -> None:
        await asyncio.sleep(seconds)  # what is due within a second is a timer of the receiver's
        server.advance(seconds)

    return Queue(
        publisher, receiver, advance, coalesces=False, ordered=False, many=1000, step=0.001
    )


async def take(wakeups: Wakeups, limit: int = 10) -> list[Message]:
    async with asyncio.timeout(60):
        return await wakeups.receive(limit)


async def at_once(wakeups: Wakeups) -> list[str]:
    """Lanes received, and acknowledged, without much of a wait."""
    try:
        async with asyncio.timeout(0.05):
            messages = await wakeups.receive(1)
    except TimeoutError:
        return []
    await wakeups.acknowledge(messages)
    return [message.lane for message in messages]


async def nothing(wakeups: Wakeups) -> bool:
    return await at_once(wakeups) == []


async def drain(queue: Queue, expected: int) -> list[str]:
    """Lanes received and acknowledged until `expected` different ones were seen."""
    lanes: list[str] = []
    while len(set(lanes)) < expected:
        messages = await take(queue.receiver)
        await queue.receiver.acknowledge(messages)
        lanes += [message.lane for message in messages]
    return lanes


async def test_a_published_wake_is_received(queue: Queue) -> None:
    await queue.publisher.publish([Wake("delivery", "lane-1")])
    (message,) = await take(queue.receiver)
    assert (message.kind, message.lane) == ("delivery", "lane-1")


async def test_a_waiting_receiver_gets_what_is_published_later(queue: Queue) -> None:
    async with asyncio.TaskGroup() as group:
        receiving = group.create_task(take(queue.receiver))
        await asyncio.sleep(0.01)
        assert not receiving.done()
        await queue.publisher.publish([Wake("job", "a")])
    assert [message.lane for message in receiving.result()] == ["a"]


async def test_kinds_and_lanes_arrive_as_they_were_sent(queue: Queue) -> None:
    odd = {("a", "b:c/d"), ("b", 'quote" \\ back'), ("ü", "snow☃"), ("job", ""), ("a", "x\ny")}
    await queue.publisher.publish([Wake(kind, lane) for kind, lane in odd])
    got: set[tuple[str, str]] = set()
    while got != odd:
        got |= {(message.kind, message.lane) for message in await take(queue.receiver)}
        assert got <= odd


async def test_lanes_arrive_in_the_order_of_publishing(queue: Queue) -> None:
    lanes = [f"lane-{n}" for n in range(30)]
    await queue.publisher.publish([Wake("job", lane) for lane in lanes])
    arrived = await drain(queue, 30)
    assert sorted(arrived) == sorted(lanes)
    if queue.ordered:
        assert arrived == lanes


async def test_publishing_nothing_is_harmless(queue: Queue) -> None:
    await queue.publisher.publish([])
    assert await nothing(queue.receiver)


async def test_the_limit_is_respected(queue: Queue) -> None:
    await queue.publisher.publish([Wake("job", f"lane-{n}") for n in range(7)])
    sizes = []
    while sum(sizes) < 7:
        sizes.append(len(await take(queue.receiver, 3)))
    assert max(sizes) <= 3
    assert await nothing(queue.receiver)


async def test_a_limit_below_one_is_refused(queue: Queue) -> None:
    with pytest.raises(ValueError, match="limit"):
        await queue.receiver.receive(0)


async def test_a_delayed_wake_is_not_received_before_its_time(queue: Queue) -> None:
    loop = asyncio.get_running_loop()
    for delay in (0.3, 3.0, 30.0):  # longer where a busy machine takes as long for the first look
        now, later = f"now, {delay}", f"later, {delay}"
        due = loop.time() + delay
        await queue.publisher.publish([Wake("job", later, delay), Wake("job", now)])
        seen = await drain(queue, 1) + await at_once(queue.receiver)
        stats = await queue.receiver.stats()
        if was_early := loop.time() < due:
            assert seen == [now]
            assert stats == WakeupStats(visible=0, delayed=1, in_flight=0)
        await queue.advance(delay)
        while later not in seen:
            seen += await drain(queue, 1)
        assert sorted(seen) == [later, now]
        assert await nothing(queue.receiver)
        if was_early:
            return
    pytest.fail("the machine is too busy to look before half a minute is over")


async def test_a_waiting_receiver_gets_a_delayed_wake(queue: Queue) -> None:
    loop = asyncio.get_running_loop()
    for delay in (0.1, 1.0, 10.0):  # as above
        async with asyncio.TaskGroup() as group:
            receiving = group.create_task(take(queue.receiver))
            due = loop.time() + delay
            await queue.publisher.publish([Wake("job", f"later, {delay}", delay)])
            await asyncio.sleep(0.01)
            received = receiving.done()
            if was_early := loop.time() < due:
                assert not received
            await queue.advance(delay)
        assert [message.lane for message in receiving.result()] == [f"later, {delay}"]
        await queue.receiver.acknowledge(receiving.result())
        if was_early:
            return
    pytest.fail("the machine is too busy to look before ten seconds are over")


async def test_a_second_wake_does_not_put_off_an_earlier_one(queue: Queue) -> None:
    await queue.publisher.publish([Wake("job", "a", 0.2), Wake("job", "a", 60.0)])
    await queue.publisher.publish([Wake("job", "a", 60.0)])
    await queue.advance(0.2)
    assert await drain(queue, 1) == ["a"]


async def test_an_earlier_wake_does_not_wait_for_a_later_one(queue: Queue) -> None:
    await queue.publisher.publish([Wake("job", "a", 60.0)])
    await queue.publisher.publish([Wake("job", "a", 0.1)])
    await queue.advance(0.1)
    assert await drain(queue, 1) == ["a"]


async def test_a_lane_woken_often_is_received_at_least_once(queue: Queue) -> None:
    for _ in range(5):
        await queue.publisher.publish([Wake("job", "a"), Wake("job", "a")])
    await queue.publisher.publish([Wake("job", "last")])
    seen = Counter(await drain(queue, 2))
    if queue.coalesces and queue.publisher is queue.receiver:
        assert seen["a"] == 1  # it waited all the while
    assert await nothing(queue.receiver)


async def test_a_wake_during_the_look_is_not_lost(queue: Queue) -> None:
    await queue.publisher.publish([Wake("job", "a")])
    held = await take(queue.receiver)
    await queue.publisher.publish([Wake("job", "a")])
    await queue.receiver.acknowledge(held)
    assert await drain(queue, 1) == ["a"]


async def test_what_was_acknowledged_does_not_come_back(queue: Queue) -> None:
    await queue.publisher.publish([Wake("job", "a")])
    held = await take(queue.receiver)
    await queue.receiver.acknowledge(held)
    await queue.receiver.release(held)
    await queue.receiver.acknowledge(held)
    await queue.receiver.acknowledge([Message("job", "never received")])
    assert await nothing(queue.receiver)
    assert await queue.receiver.stats() == WakeupStats(visible=0, delayed=0, in_flight=0)


async def test_what_was_released_is_received_again(queue: Queue) -> None:
    await queue.publisher.publish([Wake("job", "a"), Wake("job", "b")])
    held: list[Message] = []
    while len(held) < 2:
        held += await take(queue.receiver)
    a, b = held
    await queue.receiver.acknowledge([a])
    await queue.receiver.release([b])
    await queue.receiver.release([b])
    await queue.receiver.acknowledge([b])  # too late: it is somebody else's now
    assert await drain(queue, 1) == ["b"]
    assert await nothing(queue.receiver)


async def test_a_waiting_receiver_gets_what_is_released(queue: Queue) -> None:
    await queue.publisher.publish([Wake("job", "a")])
    held = await take(queue.receiver)
    async with asyncio.TaskGroup() as group:
        receiving = group.create_task(take(queue.receiver))
        await asyncio.sleep(0.01)
        await queue.receiver.release(held)
    assert [message.lane for message in receiving.result()] == ["a"]


async def test_stats_count_what_is_visible_delayed_and_held(queue: Queue) -> None:
    wakes = [Wake("job", f"lane-{n}") for n in range(5)]
    await queue.publisher.publish([*wakes, Wake("job", "later", 60.0)])
    held = await take(queue.receiver, 2)
    while (stats := await queue.receiver.stats()).visible + len(held) < 5:
        await asyncio.sleep(0.01)  # on its way from another process
    assert stats == WakeupStats(visible=5 - len(held), delayed=1, in_flight=len(held))
    await queue.receiver.acknowledge(held)
    assert (await queue.receiver.stats()).in_flight == 0


async def test_cancelled_receivers_lose_nothing(queue: Queue) -> None:
    chance = random.Random(7)
    wanted = {f"lane-{n}" for n in range(300)}
    got: list[str] = []
    publishing = []
    for lane in sorted(wanted):
        receiving = asyncio.create_task(queue.receiver.receive(2))
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(queue.step)
        publishing.append(asyncio.create_task(queue.publisher.publish([Wake("job", lane)])))
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(queue.step)
        receiving.cancel()
        try:
            messages = await receiving
        except asyncio.CancelledError:
            continue
        got += [message.lane for message in messages]
        await queue.receiver.acknowledge(messages)
    await asyncio.gather(*publishing)
    if queue.publisher is queue.receiver:
        assert got  # some were received before they were cancelled, some were not
    missing = len(wanted - set(got))
    assert missing
    got += await drain(queue, missing)
    assert sorted(got) == sorted(wanted)
    assert await queue.receiver.stats() == WakeupStats(0, 0, 0)


async def test_two_receivers_share(queue: Queue) -> None:
    got: dict[str, list[str]] = {"first": [], "second": []}

    async def receive(name: str) -> None:
        while True:
            messages = await queue.receiver.receive(5)
            got[name] += [message.lane for message in messages]
            await queue.receiver.acknowledge(messages)
            await asyncio.sleep(0)

    receivers = [asyncio.create_task(receive(name)) for name in got]
    await asyncio.sleep(0)
    await queue.publisher.publish([Wake("job", f"lane-{n}") for n in range(100)])
    async with asyncio.timeout(60):
        while len(got["first"]) + len(got["second"]) < 100:
            await asyncio.sleep(0.001)
    for receiver in receivers:
        receiver.cancel()
    await asyncio.wait(receivers)
    assert got["first"]
    assert got["second"]
    assert sorted(got["first"] + got["second"]) == sorted(f"lane-{n}" for n in range(100))


async def test_thousands_of_wakes(queue: Queue) -> None:
    lanes = [f"lane-{n}" for n in range(queue.many)]
    await asyncio.gather(
        *(
            queue.publisher.publish([Wake("job", lane) for lane in lanes[n : n + 10]])
            for n in range(0, queue.many, 10)
        )
    )
    assert sorted(await drain(queue, queue.many)) == sorted(lanes)
    assert await queue.receiver.stats() == WakeupStats(0, 0, 0)


async def test_publishing_from_the_callback_of_a_writer_thread(queue: Queue) -> None:
    """As a database tells its subscriber: on the loop, in a callback that cannot await."""
    loop = asyncio.get_running_loop()
    publishing: list[asyncio.Task[None]] = []

    def committed(lane: str) -> None:
        wakes = [Wake("job", lane)]
        publishing.append(loop.create_task(queue.publisher.publish(wakes)))

    def write() -> None:
        for n in range(20):
            loop.call_soon_threadsafe(committed, f"lane-{n}")

    writer = threading.Thread(target=write)
    writer.start()
    got = await drain(queue, 20)
    await asyncio.to_thread(writer.join)
    await asyncio.gather(*publishing)
    assert sorted(got) == sorted(f"lane-{n}" for n in range(20))


async def test_closing_wakes_the_receivers(queue: Queue) -> None:
    receivers = [asyncio.create_task(queue.receiver.receive(1)) for _ in range(3)]
    await asyncio.sleep(0)
    await queue.receiver.close()
    async with asyncio.timeout(60):
        results = await asyncio.gather(*receivers, return_exceptions=True)
    assert [type(result) for result in results] == [WakeupsClosed] * 3
    with pytest.raises(WakeupsClosed):
        await queue.receiver.receive(1)
    await queue.receiver.close()

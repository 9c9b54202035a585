from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from penstock.clock import ManualClock
from penstock.work.wakeups import Message, Wake, WakeupStats, WakeupsUnavailable
from penstock.work.wakeups.memory import MemoryWakeups, Receipt

pytestmark = pytest.mark.anyio

WAKES = [Wake("job", f"lane-{n}") for n in range(200)]


async def test_what_nobody_acknowledges_comes_back_after_the_visibility_timeout() -> None:
    queue = MemoryWakeups(ManualClock(), visibility=30)
    await queue.publish([Wake("job", "a")])
    (first,) = await queue.receive(10)
    await queue.advance(29.9)
    assert await queue.stats() == WakeupStats(visible=0, delayed=0, in_flight=1)
    await queue.advance(0.1)
    (second,) = await queue.receive(10)
    assert (first.lane, second.lane) == ("a", "a")
    assert (first.handle, second.handle) == (Receipt(1, 1), Receipt(1, 2))


async def test_a_receipt_counts_until_the_message_is_received_again() -> None:
    queue = MemoryWakeups(ManualClock(), visibility=30)
    await queue.publish([Wake("job", "a"), Wake("job", "b")])
    a, b = await queue.receive(10)
    await queue.advance(30)
    await queue.acknowledge([a])  # late, but nobody else has it
    (again,) = await queue.receive(10)
    assert again.lane == "b"
    await queue.acknowledge([b])
    await queue.release([b])
    assert await queue.stats() == WakeupStats(visible=0, delayed=0, in_flight=1)
    await queue.acknowledge([again])
    assert await queue.stats() == WakeupStats(visible=0, delayed=0, in_flight=0)


async def test_a_receiver_waits_for_the_clock_alone() -> None:
    clock = ManualClock()
    queue = MemoryWakeups(clock)
    await queue.publish([Wake("job", "a", 3600.0)])
    receiving = asyncio.create_task(queue.receive(1))
    await queue.advance(3599.0)
    assert not receiving.done()
    clock.advance(1.0)
    await queue.advanced()
    assert [message.lane for message in await receiving] == ["a"]


async def test_small_steps_add_up() -> None:
    queue = MemoryWakeups(ManualClock())
    await queue.publish([Wake("job", "a", 0.8)])
    for _ in range(8):  # 0.1 * 8 is a little less than 0.8 in floating point
        await queue.advance(0.1)
    assert (await queue.stats()).visible == 1


async def test_nothing_is_coalesced() -> None:
    queue = MemoryWakeups(ManualClock())
    await queue.publish([Wake("job", "a")] * 3)
    assert len(await queue.receive(10)) == 3


async def receive_all(queue: MemoryWakeups) -> list[str]:
    got: list[Message] = []
    while (await queue.stats()).visible:
        messages = await queue.receive(10)
        await queue.acknowledge(messages)
        got += messages
    return [message.lane for message in got]


async def test_lost_wakes() -> None:
    queue = MemoryWakeups(ManualClock(), lose=0.5, seed=1)
    await queue.publish(WAKES)
    got = await receive_all(queue)
    assert 50 < len(got) < 150
    assert len(set(got)) == len(got)


async def test_duplicated_wakes() -> None:
    queue = MemoryWakeups(ManualClock(), duplicate=0.3, seed=1)
    await queue.publish(WAKES)
    counts = Counter(await receive_all(queue))
    assert counts.keys() == {wake.lane for wake in WAKES}
    assert 20 < sum(1 for count in counts.values() if count > 1) < 120


async def test_a_duplicate_reaches_another_receiver_that_waits() -> None:
    queue = MemoryWakeups(ManualClock(), duplicate=0.999, seed=1)
    receivers = [asyncio.create_task(queue.receive(1)) for _ in range(2)]
    await asyncio.sleep(0)
    await queue.publish([Wake("job", "a")])
    async with asyncio.timeout(30):
        got = await asyncio.gather(*receivers)
    assert [message.lane for (message,) in got] == ["a", "a"]


async def test_shuffled_wakes_and_the_same_again_for_the_same_seed() -> None:
    async def order(seed: int) -> list[str]:
        queue = MemoryWakeups(ManualClock(), shuffle=True, seed=seed)
        await queue.publish(WAKES)
        return await receive_all(queue)

    published = [wake.lane for wake in WAKES]
    first = await order(1)
    assert first != published
    assert sorted(first) == sorted(published)
    assert await order(1) == first
    assert await order(2) != first


async def test_an_unreachable_queue_refuses_and_keeps() -> None:
    queue = MemoryWakeups(ManualClock())
    await queue.publish([Wake("job", "a")])
    queue.reachable = False
    receiving = asyncio.create_task(queue.receive(1))
    await queue.advance(1)
    with pytest.raises(WakeupsUnavailable):
        await queue.publish([Wake("job", "b")])
    assert not receiving.done()
    queue.reachable = True
    await queue.advanced()
    assert [message.lane for message in await receiving] == ["a"]
    assert (await queue.stats()).visible == 0


async def test_publishing_to_a_closed_queue_is_an_error() -> None:
    queue = MemoryWakeups(ManualClock())
    await queue.close()
    with pytest.raises(WakeupsUnavailable):
        await queue.publish([Wake("job", "a")])


def test_a_message_that_would_never_end_is_refused() -> None:
    with pytest.raises(ValueError, match="duplicate"):
        MemoryWakeups(ManualClock(), duplicate=1.0)

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from penstock.work.wakeups import EVERYTHING, Wake, WakeupStats
from penstock.work.wakeups.local import LocalWakeups

pytestmark = pytest.mark.anyio


@pytest.fixture
async def queue() -> AsyncIterator[LocalWakeups]:
    wakeups = LocalWakeups()
    await wakeups.open()
    yield wakeups
    await wakeups.close()


async def lanes(queue: LocalWakeups, limit: int = 100) -> list[str]:
    async with asyncio.timeout(30):
        messages = await queue.receive(limit)
    await queue.acknowledge(messages)
    return [message.lane for message in messages]


async def test_a_lane_that_waits_keeps_its_place(queue: LocalWakeups) -> None:
    queue.publish_nowait([Wake("job", "a"), Wake("job", "b"), Wake("job", "a")])
    assert await lanes(queue) == ["a", "b"]


async def test_the_same_lane_of_two_kinds_is_two(queue: LocalWakeups) -> None:
    queue.publish_nowait([Wake("job", "a"), Wake("delivery", "a")])
    assert await lanes(queue) == ["a", "a"]


async def test_of_later_wakes_only_the_earliest_is_kept(queue: LocalWakeups) -> None:
    for delay in (30.0, 0.02, 60.0, 0.05):
        queue.publish_nowait([Wake("job", "a", delay)])
    assert (await queue.stats()).delayed == 1
    assert await lanes(queue) == ["a"]
    assert await queue.stats() == WakeupStats(0, 0, 0)


async def test_a_wake_now_leaves_the_later_one_in_place(queue: LocalWakeups) -> None:
    queue.publish_nowait([Wake("job", "a", 0.02), Wake("job", "a")])
    assert await lanes(queue) == ["a"]
    assert await lanes(queue) == ["a"]


async def test_later_wakes_come_in_the_order_of_their_times(queue: LocalWakeups) -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "time", lambda: start)  # all at one instant, however busy the machine
        for lane, delay in (("c", 0.06), ("a", 0.02), ("d", 0.08), ("b", 0.04)):
            queue.publish_nowait([Wake("job", lane, delay)])
    for lane, delay in (("a", 0.02), ("b", 0.04), ("c", 0.06), ("d", 0.08)):
        assert (await lanes(queue, 1)) == [lane]
        assert loop.time() >= start + delay


async def test_a_lane_put_off_again_and_again_takes_no_memory(queue: LocalWakeups) -> None:
    for n in range(10_000):
        queue.publish_nowait([Wake("job", "a", 10_000.0 - n)])
    assert len(queue._heap) < 200
    queue.publish_nowait([Wake("job", "a", 0.01)])
    assert await lanes(queue) == ["a"]


@pytest.mark.parametrize("delay", [1e300, float("inf")])
async def test_an_absurd_delay_waits(queue: LocalWakeups, delay: float) -> None:
    queue.publish_nowait([Wake("job", "never", delay), Wake("job", "soon", 0.01)])
    assert await lanes(queue) == ["soon"]
    assert (await queue.stats()).delayed == 1


async def test_publishing_after_close_does_nothing(queue: LocalWakeups) -> None:
    queue.publish_nowait([Wake("job", "a", 0.01)])
    await queue.close()
    queue.publish_nowait([Wake("job", "a"), Wake("job", "b", 0.01)])
    await queue.publish([Wake("job", "a")])
    await asyncio.sleep(0.02)
    assert await queue.stats() == WakeupStats(0, 0, 0)


async def test_what_other_processes_commit_wakes_everything() -> None:
    asked = 0

    async def changed() -> bool:
        nonlocal asked
        asked += 1
        return asked == 3

    queue = LocalWakeups(changed, watch_every=0.001)
    await queue.open()
    async with asyncio.timeout(30):
        (message,) = await queue.receive(10)
    assert (message.kind, message.lane) == (EVERYTHING, EVERYTHING)
    assert asked >= 3
    await queue.close()
    asked_until_close = asked
    await asyncio.sleep(0.01)
    assert asked == asked_until_close


async def test_a_watch_that_fails_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = 0
    slept: list[float] = []
    errors: list[object] = []
    sleep = asyncio.sleep

    async def changed() -> bool:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise OSError("gone")
        return True

    async def no_time(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    queue = LocalWakeups(changed, watch_every=0.1)
    monkeypatch.setattr(asyncio, "sleep", no_time)
    monkeypatch.setattr(
        "penstock.work.wakeups.local.log", lambda _event, **fields: errors.append(fields["error"])
    )
    await queue.open()
    async with asyncio.timeout(30):
        await queue.receive(1)
    await queue.close()
    assert slept[:4] == [0.1, 1.0, 2.0, 0.1]
    assert errors == ["OSError('gone')"] * 2

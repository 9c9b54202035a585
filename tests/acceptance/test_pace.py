"""What an endpoint allows holds for all processes together, counted where the pushes arrive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.client import Api
from support.process import Process, Up
from support.receiver import Receiver, Reply

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]

RATE = 10
BURST = 2  # one, and a tenth of a second's worth
WINDOW = 8.0  # seconds that are measured
CAP = 3


@pytest.fixture
def pair(
    new_postgres: Callable[[], str], start: Callable[..., Any], tmp_path: Path
) -> Iterator[Up]:
    """A server with a worker beside it on one database; each has work of its own to show."""
    env = {
        "PENSTOCK_DATABASE_URL": new_postgres(),
        "PENSTOCK_SECRET_KEY": "s" * 32,
        "PENSTOCK_ALLOW_PRIVATE_TARGETS": "127.0.0.0/8",
        # Neither can fill the cap alone.
        "PENSTOCK_DELIVERY_SLOTS": str(CAP - 1),
    }
    server = start(Up, tmp_path / "data", env=env)
    worker = start(Process, "worker", data=tmp_path / "worker", env=env)
    worker.wait_logged("worker_ready")
    yield server
    for process in (server, worker):
        assert process.terminate() == 0
        (summary,) = process.logged("worker_shutdown")
        assert summary["processed"] > 0


async def waiting(api: Api, target: str, topic: str, events: int, **limits: Any) -> str:
    """A disabled endpoint for which so many events wait; the path that enables it."""
    made = await api.endpoint(target, topic, **limits)
    path = f"/v1/endpoints/{made['endpoint_id']}"
    await api.ok("POST", f"{path}/disable")
    for first in range(0, events, 100):
        items = [{"event_type": topic, "payload": {}}] * min(100, events - first)
        answer = await api.ok("POST", "/v1/events/batch", {"events": items})
        assert answer["summary"]["accepted"] == len(items)
    return f"{path}/enable"


def fastest(arrivals: list[float]) -> float:
    """The highest rate over any `WINDOW` that begins after the burst; 0 before there is one."""
    best, begin = 0.0, BURST
    for end in range(BURST, len(arrivals)):
        while begin + 1 < end and arrivals[end] - arrivals[begin + 1] >= WINDOW:
            begin += 1
        if arrivals[end] - arrivals[begin] >= WINDOW:
            best = max(best, (end - begin) / (arrivals[end] - arrivals[begin]))
    return best


async def test_ten_a_second_of_two_workers_are_ten_a_second(
    pair: Up, receiver: Receiver, topic: str
) -> None:
    async with Api(pair.url, pair.token) as api:
        enable = await waiting(api, receiver.url("/paced"), topic, 900, rate_limit=RATE)

        began = time.monotonic()
        await api.ok("POST", enable)
        # A machine that stands still for a while lowers the rate, so there are several windows.
        await receiver.until(
            lambda: fastest([push.at for push in receiver.at("/paced")]) >= 0.9 * RATE, 80
        )

    # Counted from the beginning, because that holds however late some of them came.
    for number, push in enumerate(receiver.at("/paced"), 1):
        assert number <= BURST + RATE * (push.at - began) + 0.01, (number, push.at - began)


async def test_a_cap_is_kept_by_two_workers(pair: Up, receiver: Receiver, topic: str) -> None:
    gate = asyncio.Event()
    most = 0

    def slow(_: object) -> Reply:
        nonlocal most
        most = max(most, receiver.in_flight["/capped"])
        return Reply(gate=gate, delay=0.05)

    async with Api(pair.url, pair.token) as api:
        target = receiver.script("/capped", slow)
        enable = await waiting(api, target, topic, 90, max_in_flight=CAP, timeout=30)
        await api.ok("POST", enable)
        await receiver.until(lambda: receiver.in_flight["/capped"] == CAP)
        await asyncio.sleep(1.0)  # time for one too many
        assert receiver.begun == CAP
        gate.set()
        await receiver.until(lambda: receiver.begun == 90, 60)
        await receiver.until(lambda: receiver.in_flight["/capped"] == 0)
    assert most == CAP
    assert len(receiver.by_id("/capped")) == 90

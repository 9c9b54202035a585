"""The peer of `deliver`: aiohttp alone, pushing the same bodies, with nothing remembered.

``python -m bench.push URL COUNT CONCURRENCY`` prints how long it took and what it cost.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time

import aiohttp
import uvloop

BODY = (
    '{"event_id":"evt_%026d","event_type":"order.created","payload":{"sent":%d},'
    '"metadata":null,"created_at":"2026-01-02T03:04:05.678901Z"}'
)


async def push(url: str, count: int, concurrency: int) -> None:
    numbers = iter(range(count))

    async def pusher() -> None:
        for number in numbers:
            body = (BODY % (number, time.monotonic_ns() // 1000)).encode()
            async with session.post(url, data=body, headers=headers) as answer:
                await answer.read()

    headers = {"content-type": "application/json"}
    async with aiohttp.ClientSession() as session:
        began = time.monotonic()
        await asyncio.gather(*(pusher() for _ in range(concurrency)))
        seconds = time.monotonic() - began
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu = usage.ru_utime + usage.ru_stime
    json.dump({"seconds": seconds, "cpu": cpu}, sys.stdout)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(push(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))

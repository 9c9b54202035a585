from __future__ import annotations

import asyncio
import os
import sys
from urllib.parse import urlsplit

from taskiq_aio_sqs import SQSBroker

URL = urlsplit(os.environ["SQS_QUEUE_URL"])

broker = SQSBroker(
    sqs_queue_name=URL.path.rpartition("/")[2],
    endpoint_url=f"{URL.scheme}://{URL.netloc}",
    region_name="eu-west-1",
    max_number_of_messages=10,
    wait_time_seconds=20,
)


@broker.task(task_name="noop")
async def noop(number: int) -> None: ...


async def enqueue(jobs: int) -> None:
    await broker.startup()
    for start in range(0, jobs, 100):
        numbers = range(start, min(start + 100, jobs))
        await asyncio.gather(*(noop.kiq(number) for number in numbers))
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(enqueue(int(sys.argv[1])))

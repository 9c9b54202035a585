"""What `sqs` has done: a job that does nothing.

``python -m bench.sqs_jobs JOBS LANES`` enqueues so many, in so many lanes.
"""

from __future__ import annotations

import os
import sys

from penstock import Penstock

app = Penstock()


@app.job(concurrency=int(os.environ.get("PENSTOCK_JOB_SLOTS", "16")))
async def noop(number: int) -> None: ...


def enqueue(jobs: int, lanes: int) -> None:
    for start in range(0, jobs, 1000):
        numbers = range(start, min(start + 1000, jobs))
        app.enqueue_many_sync(
            noop.options(lane=f"lane-{number % lanes}").call(number) for number in numbers
        )
    app.close_sync()


if __name__ == "__main__":
    enqueue(int(sys.argv[1]), int(sys.argv[2]))

"""A worker as a process of its own, to be killed: it inserts a line for each handled row.

It says "ready" once it works, and from then on ends in order on SIGTERM.

Arguments: a database (path or URL), and how long a handler takes at most, in seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
from typing import Any

from penstock.clock import SystemClock
from penstock.storage import Tx, sql
from penstock.storage.postgres import PostgresDatabase
from penstock.storage.sqlite import SqliteDatabase
from penstock.work import schedule
from penstock.work.kinds import Kind, Task
from penstock.work.outcomes import Done, Outcome, Retry
from penstock.work.schedule import Scheduler, release_all, sweeper
from penstock.work.waker import Waker
from penstock.work.wakeups.local import LocalWakeups
from penstock.work.wakeups.postgres import PostgresWakeups
from penstock.work.worker import Worker

DONE = sql("INSERT INTO done (id, attempt) VALUES (:id, :attempt)")


async def main(where: str, longest: float) -> None:
    schedule.LEASE = 1.0  # a killed leader is followed soon

    async def handle(task: Task[Any]) -> Outcome:
        await asyncio.sleep(random.random() * longest)
        attempt = task.claim.attempts + 1

        def apply(tx: Tx) -> None:
            tx.run(DONE, id=task.claim.id, attempt=attempt)

        return Retry(after=0.01, apply=apply) if attempt < 3 else Done(apply=apply)

    kind: Kind[Any] = Kind(
        "job",
        "jobs",
        load=lambda tx, claims: {claim.id: True for claim in claims},
        handle=handle,
        done="succeeded",
        terminal=frozenset({"succeeded", "dead", "cancelled"}),
        lease=0.6,
        slots=8,
    )
    clock = SystemClock()
    database: Any
    wakeups: Any
    if "://" in where:
        database = PostgresDatabase(where, clock)
        wakeups = PostgresWakeups(where, channel="chaos")
    else:
        database, wakeups = SqliteDatabase(where, clock), LocalWakeups()
    await database.open()
    await wakeups.open()
    waker = Waker(database, wakeups)
    database.subscribe(waker.on_notes)
    if database.dialect == "sqlite":
        await release_all(database, [kind])
    worker = Worker(database, wakeups, waker, [kind], clock=clock, grace=1.0)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    scheduler = Scheduler(
        database, clock, [sweeper(database, waker, [kind], every=0.2, held=worker.held)]
    )
    sweeping = asyncio.create_task(scheduler.run())
    print("ready", flush=True)
    await worker.run()
    sweeping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sweeping
    await waker.close()
    await wakeups.close()
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))

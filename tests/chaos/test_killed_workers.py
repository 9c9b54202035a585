"""Workers that are killed without a word: nothing is lost and nothing settles twice."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from penstock.clock import SystemClock
from penstock.storage import Database, Tx, sql
from penstock.storage.postgres import PostgresDatabase
from penstock.storage.sqlite import SqliteDatabase
from penstock.work import lanes

pytestmark = pytest.mark.anyio

PROCESS = Path(__file__).with_name("worker_process.py")
ROWS = 360
INSERT = sql("""
INSERT INTO jobs (id, account, name, args, status, created_at, lane, due_at)
VALUES (:id, 'a', 'n', '[]', 'pending', {now}, :lane, {now})
""")
CREATE = sql("CREATE TABLE done (id TEXT NOT NULL, attempt INTEGER NOT NULL)")
DROP = sql("DROP TABLE IF EXISTS done")
DONE = sql("SELECT id, attempt FROM done")
LEFT = sql("SELECT count(*) FROM jobs WHERE status = 'pending'")
ENDS = sql("SELECT status, count(*) FROM jobs GROUP BY status")
HELD = sql("SELECT lane, count(*) FROM jobs WHERE lease_until IS NOT NULL GROUP BY lane")


def _fill(tx: Tx) -> None:
    tx.run(DROP)
    tx.run(CREATE)
    for n in range(4):
        lanes.ensure(tx, f"l{n}", kind="job", account="a", max_in_flight=3)
    for n in range(ROWS):
        tx.run(INSERT, id=f"j{n:04}", lane=f"l{n % 4}")


class Fleet:
    """Processes that come back after they were killed."""

    def __init__(self, where: str, size: int) -> None:
        self.size = size
        self._where = where
        self._processes = [self._start() for _ in range(size)]

    def _start(self) -> subprocess.Popen[bytes]:
        self.started = time.monotonic()
        return subprocess.Popen(
            [sys.executable, PROCESS, self._where, "0.02"], stderr=subprocess.DEVNULL
        )

    def kill_one(self) -> None:
        n = random.randrange(len(self._processes))
        self._processes[n].kill()
        self._processes[n].wait()
        self._processes[n] = self._start()

    def stop(self) -> list[int]:
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        return [process.wait(20) for process in self._processes]

    def end(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()


async def _survives(database: Database, fleet: Fleet, kills: int, every: float) -> None:
    planned = kills
    try:
        deadline = time.monotonic() + 60
        next_kill = time.monotonic() + 1.0  # once they are up
        while await database.read(lambda tx: tx.one(LEFT)) != (0,):
            assert time.monotonic() < deadline
            for _, held in await database.read(lambda tx: tx.rows(HELD)):
                assert held <= 3
            if kills and time.monotonic() > next_kill:
                fleet.kill_one()
                kills -= 1
                next_kill = time.monotonic() + every
            await asyncio.sleep(0.02)
        # One that has just come back cannot end in order before it is up.
        await asyncio.sleep(max(0.0, fleet.started + 4 - time.monotonic()))
        assert fleet.stop() == [0] * fleet.size
        assert kills < planned
    finally:
        fleet.end()
    ends = dict(await database.read(lambda tx: tx.rows(ENDS)))
    assert ends == {"succeeded": ROWS}
    done = Counter(await database.read(lambda tx: tx.rows(DONE)))
    assert done == {(f"j{n:04}", attempt): 1 for n in range(ROWS) for attempt in (1, 2, 3)}


async def test_on_sqlite(sqlite_path: Path) -> None:
    database = SqliteDatabase(sqlite_path, SystemClock(), owner=False)
    await database.open()
    await database.unit(_fill)
    await _survives(database, Fleet(str(sqlite_path), 1), kills=3, every=1.2)
    await database.close()


@pytest.mark.postgres
async def test_on_postgres(postgres_database_url: str) -> None:
    database = PostgresDatabase(postgres_database_url, SystemClock())
    await database.open()
    await database.unit(_fill)
    await _survives(database, Fleet(postgres_database_url, 3), kills=5, every=0.8)
    await database.unit(lambda tx: tx.run(DROP))
    await database.close()

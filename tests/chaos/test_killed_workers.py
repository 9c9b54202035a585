"""Workers that are killed without a word: nothing is lost and nothing settles twice."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from penstock.clock import SystemClock
from penstock.storage import Database, Tx, sql
from penstock.storage.postgres import PostgresDatabase
from penstock.storage.sqlite import SqliteDatabase
from penstock.work import lanes
from support.nursery import Forked
from support.process import start_script

pytestmark = pytest.mark.anyio

PROCESS = Path(__file__).with_name("worker_process.py")
PART = 60  # rows that there are to begin with, and that come with each kill
INSERT = sql("""
INSERT INTO jobs (id, account, name, args, status, created_at, lane, due_at)
VALUES (:id, 'a', 'n', '[]', 'pending', {now}, :lane, {now})
""")
CREATE = sql("CREATE TABLE done (id TEXT NOT NULL, attempt INTEGER NOT NULL)")
DROP = sql("DROP TABLE IF EXISTS done")
DONE = sql("SELECT id, attempt FROM done")
LEFT = sql("SELECT count(*) FROM jobs WHERE status = 'pending'")
HANDLED = sql("SELECT count(*) FROM done")
ENDS = sql("SELECT status, count(*) FROM jobs GROUP BY status")
HELD = sql("SELECT lane, count(*) FROM jobs WHERE lease_until IS NOT NULL GROUP BY lane")


def _fill(tx: Tx) -> None:
    tx.run(DROP)
    tx.run(CREATE)
    for n in range(4):
        lanes.ensure(tx, f"l{n}", kind="job", account="a", max_in_flight=3)
    _add(tx, 0)


def _add(tx: Tx, part: int) -> None:
    for n in range(PART * part, PART * (part + 1)):
        tx.run(INSERT, id=f"j{n:04}", lane=f"l{n % 4}")


class Fleet:
    """Processes that come back after they were killed."""

    def __init__(self, where: str, size: int, folder: Path) -> None:
        self.size = size
        self._where = where
        self._folder = folder
        self._begun = 0
        self._processes = [self._start() for _ in range(size)]

    def _start(self) -> tuple[Forked | subprocess.Popen[bytes], Path]:
        self._begun += 1
        out = self._folder / f"worker{self._begun}.out"
        return start_script(PROCESS, self._where, "0.02", out=out), out

    def ready(self) -> bool:
        """Whether all of them work."""
        return all(out.read_bytes() for _, out in self._processes)

    def kill_one(self) -> None:
        n = random.randrange(len(self._processes))
        process, _ = self._processes[n]
        process.kill()
        process.wait(60)
        self._processes[n] = self._start()

    def stop(self) -> list[int]:
        for process, _ in self._processes:
            process.send_signal(signal.SIGTERM)
        return [process.wait(60) for process, _ in self._processes]

    def end(self) -> None:
        for process, _ in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait(60)


async def _survives(database: Database, fleet: Fleet, kills: int) -> None:
    rows = PART * (kills + 1)
    killed = 0
    try:
        async with asyncio.timeout(90):
            while (await database.read(lambda tx: tx.rows(LEFT)))[0][0] != 0 or killed < kills:
                for _, held in await database.read(lambda tx: tx.rows(HELD)):
                    assert held <= 3
                # In the middle of each part of the work, whatever its speed; and so that there is
                # work for who comes back, however late the kill is.
                ((handled,),) = await database.read(lambda tx: tx.rows(HANDLED))
                if killed < kills and handled >= 3 * PART * killed + 3 * PART // 2:
                    killed += 1
                    await database.unit(lambda tx, part=killed: _add(tx, part))  # type: ignore[misc]
                    fleet.kill_one()
                await asyncio.sleep(0.01)
            # One that has just come back cannot end in order before it is up.
            while not fleet.ready():
                await asyncio.sleep(0.02)
        assert fleet.stop() == [0] * fleet.size
    finally:
        fleet.end()
    ends = dict(await database.read(lambda tx: tx.rows(ENDS)))
    assert ends == {"succeeded": rows}
    done = Counter(await database.read(lambda tx: tx.rows(DONE)))
    assert done == {(f"j{n:04}", attempt): 1 for n in range(rows) for attempt in (1, 2, 3)}


async def test_on_sqlite(sqlite_path: Path, tmp_path: Path) -> None:
    database = SqliteDatabase(sqlite_path, SystemClock(), owner=False)
    await database.open()
    await database.unit(_fill)
    await _survives(database, Fleet(str(sqlite_path), 1, tmp_path), kills=5)
    await database.close()


@pytest.mark.postgres
async def test_on_postgres(postgres_database_url: str, tmp_path: Path) -> None:
    database = PostgresDatabase(postgres_database_url, SystemClock())
    await database.open()
    await database.unit(_fill)
    await _survives(database, Fleet(postgres_database_url, 3, tmp_path), kills=5)
    await database.unit(lambda tx: tx.run(DROP))
    await database.close()

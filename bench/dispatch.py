"""Dispatching 100,000 due shipments: time and memory, beside a loop of one message for each.

The shipments belong to 1,000 accounts with credentials of their own, so they wait in as many lanes;
all of them are due. Dispatching is what the server does on its schedule: count what is due, and
wake each lane. The peer reads the ids of all that is due and sends one message for each to what
stands in for a queue on this machine, by keep-alive connections, 16 at once, without signing them.
Each is a process of its own; its memory is what it grew by at most since its database was open.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import figures
from bench.processes import ROOT, folder, module
from penstock.clock import SystemClock
from penstock.storage import Tx, migrate, sql
from penstock.storage.sqlite import SqliteDatabase
from penstock.tracking.credentials import CHECK, lane_of
from penstock.tracking.dispatch import dispatch
from penstock.work import lanes

AT_ONCE = 16  # messages on their way
_FILL = sql("""
INSERT INTO shipments (id, account, carrier, tracking_number, status, created_at, updated_at,
                       news_at, lane, due_at)
VALUES (:id, :account, 'ups', :id, 'pending', {now}, {now}, {now}, :lane, {now})
""")
_DUE = sql("""
SELECT id FROM shipments WHERE due_at IS NOT NULL AND lease_until IS NULL AND due_at <= {now}
""")


def run(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("bench dispatch", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--lanes", type=int, default=1_000)
    parser.add_argument("--turn", nargs=2, metavar=("PATH", "URL"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.turn:
        path, url = given.turn
        print(json.dumps(asyncio.run(_turn(Path(path), url))))
        return
    with folder() as data, module("bench.receiver") as queue:
        path = data / "penstock.db"
        migrate.upgrade(path)
        asyncio.run(_fill(path, given.rows, given.lanes))
        ours = _measure(path, "")
        loop = _measure(path, queue.url)
        received = queue.call("GET", "/")["received"]
    assert ours["shipments"] == loop["shipments"] == received == given.rows
    assert ours["messages"] == given.lanes
    figures.show(
        [
            figures.row(
                f"dispatch of {given.rows:,} due shipments: time",
                f"{loop['seconds'] / ours['seconds']:,.0f} ×",
                f"{ours['seconds'] * 1e3:,.0f} ms, {ours['messages']:,} wakes",
                f"{loop['seconds']:,.1f} s, {loop['messages']:,} messages",
            ),
            figures.row(
                "the same: memory",
                f"{loop['memory'] / max(ours['memory'], 0.1):,.0f} ×",
                f"{ours['memory']:.1f} MB",
                f"{loop['memory']:.1f} MB",
            ),
        ]
    )


def _measure(path: Path, url: str) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.dispatch", "--turn", str(path), url]
    return dict(json.loads(subprocess.check_output(command, cwd=ROOT)))


async def _fill(path: Path, rows: int, accounts: int) -> None:
    database = SqliteDatabase(path, SystemClock())
    await database.open()

    def fill(tx: Tx) -> None:
        for number in range(accounts):
            lanes.ensure(
                tx,
                lane_of("ups", f"a{number}"),
                kind=CHECK,
                account=f"a{number}",
                max_in_flight=4,
            )
        tx.many(
            _FILL,
            [
                {
                    "id": f"shp_{number:08}",
                    "account": f"a{number % accounts}",
                    "lane": lane_of("ups", f"a{number % accounts}"),
                    "now": tx.now(),
                }
                for number in range(rows)
            ],
        )

    await database.unit(fill)
    await database.close()


async def _turn(path: Path, url: str) -> dict[str, float]:
    """One dispatch, ours where there is no queue to send to."""
    database = SqliteDatabase(path, SystemClock())
    await database.open()
    session = None
    if url:
        import aiohttp

        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE))
    before, began = _memory(), time.monotonic()
    if session is not None:
        ids = [id_ for (id_,) in await database.read(lambda tx: tx.rows(_DUE))]
        await _send_each(session, url, ids)
        found = {"shipments": len(ids), "messages": len(ids)}
    else:
        woken: list[Any] = []
        database.subscribe(woken.extend)
        done = await database.unit(dispatch)
        found = {"shipments": done.shipments, "messages": len(woken)}
    seconds, grown = time.monotonic() - began, _memory() - before
    if session is not None:
        await session.close()
    await database.close()
    return {**found, "seconds": seconds, "memory": grown}


async def _send_each(session: Any, url: str, ids: list[str]) -> None:
    left = iter(ids)

    async def sender() -> None:
        for id_ in left:
            async with session.post(url, data=json.dumps({"shipment_id": id_})) as answer:
                await answer.read()

    await asyncio.gather(*(sender() for _ in range(AT_ONCE)))


def _memory() -> float:
    """The most that this process ever had, in MB."""
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak) / 1024


if __name__ == "__main__":
    run(sys.argv[1:])

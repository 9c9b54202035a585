"""100,000 deliveries waiting behind one closed endpoint: what they cost another endpoint.

Three servers in one run: one with the backlog, one where as many deliveries have ended (their
endpoint was deleted), so that the files are alike and only the waiting differs, and an empty one.
Events for another endpoint are posted on schedule to each in turn. Latency is from a POST's
intended start to the arrival of its push; what is compared are the medians over the turns. Then
the engine alone: ms for a claim of one row of the other lane, its settlement and its look.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench import figures
from bench.deliver import _job, wait_for
from bench.http import SENT
from bench.processes import Process, add_endpoint, folder, load, module, penstock


def run(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("bench backlog", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each turn")
    parser.add_argument("--turns", type=int, default=12)
    given = parser.parse_args(arguments)
    with (
        folder() as one,
        folder() as other,
        folder() as third,
        module("bench.receiver") as receiver,
    ):
        with penstock(one) as burdened, penstock(other) as eased, penstock(third) as empty:
            closed = {}
            for server in (burdened, eased, empty):
                endpoint = add_endpoint(server, "http://127.0.0.1:9/", event_types=["backlog.*"])
                server.call("POST", f"/v1/endpoints/{endpoint}/disable")
                add_endpoint(server, receiver.url, event_types=["order.*"])
                closed[server.pid] = endpoint
            began = time.monotonic()
            _burden(burdened, given.rows)
            filled = time.monotonic() - began
            _burden(eased, given.rows)
            eased.call("DELETE", f"/v1/endpoints/{closed[eased.pid]}")
            latencies: dict[str, list[float]] = {"waiting": [], "ended": [], "none": []}
            tails: dict[str, list[float]] = {name: [] for name in latencies}
            order = [("waiting", burdened), ("ended", eased), ("none", empty)]
            for turn in range(given.turns):
                # Each is the first as often as the others.
                for name, server in order[turn % 3 :] + order[: turn % 3]:
                    found = _turn(server, receiver, given.rate, given.seconds)
                    latencies[name].append(found["p50"])
                    tails[name].append(found["p99"])
        claims = {name: _claim_ms(path) for name, path in (("waiting", one), ("ended", other))}
    p50 = {name: median(found) for name, found in latencies.items()}
    told = {name: f"p50 {p50[name]:.2f} ms, p99 {median(tails[name]):.1f} ms" for name in latencies}
    figures.show(
        [
            figures.row(
                f"latency beside {given.rows:,} waiting deliveries",
                figures.percent(p50["waiting"], p50["ended"]),
                told["waiting"],
                f"beside as many that have ended {told['ended']}",
                "100 ± 10 %",
            ),
            figures.row(
                "the same, against an empty database",
                figures.percent(p50["waiting"], p50["none"]),
                told["waiting"],
                f"alone {told['none']}",
            ),
            figures.row(
                "claim + settle + look of one row beside them",
                figures.percent(claims["waiting"], claims["ended"]),
                f"{claims['waiting']:.3f} ms",
                f"beside as many that have ended {claims['ended']:.3f} ms",
            ),
        ]
    )
    print(f"(the {given.rows:,} events were accepted in {filled:.0f} s, in batches of 100)")


def _burden(server: Process, rows: int) -> None:
    event = {"event_type": "backlog.item", "payload": {"number": 1}}
    body = json.dumps({"events": [event] * 100})
    report = load(_job(server, "/v1/events/batch", body, requests=rows // 100, connections=4))
    assert set(report["statuses"]) == {"202"}, report["statuses"]


def _turn(server: Process, receiver: Process, rate: float, seconds: float) -> dict[str, Any]:
    receiver.call("GET", "/reset")
    total = int(rate * seconds)
    body = json.dumps({"event_type": "order.created", "payload": {"sent": SENT}})
    load(_job(server, "/v1/events", body, requests=total, rate=rate, connections=32))
    return wait_for(receiver, total)


def _claim_ms(data: Path, rounds: int = 200) -> float:
    """The median, in this process, on a copy of nothing: the server has ended."""
    from penstock.clock import SystemClock
    from penstock.storage import Tx, sql
    from penstock.storage.sqlite import SqliteDatabase
    from penstock.work import lanes, ledger
    from penstock.work.kinds import Kind
    from penstock.work.outcomes import Done
    from penstock.work.settlement import decide

    async def nothing(task: Any) -> Done:
        return Done()

    kind: Kind[None] = Kind(
        name="delivery",
        table="deliveries",
        load=lambda tx, claims: {},
        handle=nothing,
        done="delivered",
        terminal=frozenset({"delivered", "dead", "cancelled"}),
    )
    owe = sql("""
UPDATE deliveries SET due_at = {now}, status = 'pending' WHERE id =
  (SELECT max(id) FROM deliveries WHERE lane = :lane)
""")
    other = sql("SELECT lane FROM deliveries ORDER BY id DESC LIMIT 1")

    def cycle(tx: Tx, lane: str) -> None:
        (claim,) = ledger.claim(tx, kind, 32, [lane]).claims
        assert ledger.settle(tx, kind, [decide(kind, claim, Done(), 0)])
        lanes.look(tx, kind.name, kind.table, [lane])

    async def measure() -> float:
        database = SqliteDatabase(data / "penstock.db", SystemClock())
        await database.open()
        try:
            (lane,) = await database.read(lambda tx: tx.rows(other)[0])
            taken = []
            for _ in range(rounds):
                await database.unit(lambda tx: tx.run(owe, lane=lane))

                def timed(tx: Tx) -> float:
                    began = time.perf_counter()
                    cycle(tx, lane)
                    return time.perf_counter() - began

                taken.append(await database.unit(timed))
            return median(taken) * 1e3
        finally:
            await database.close()

    return asyncio.run(measure())

"""Accepts a second, each durable, against FastAPI and uvicorn with nothing behind them.

Closed loop: 32 keep-alive connections, each sending as soon as it was answered, alternately at
the peer and at Penstock. Two Penstock rows: events that one endpoint is to get (its pushes are
held back by disabling it, so that accepting alone is measured) and events that none matches.
An open loop at 1,000 requests a second, latency counted from the intended start, comes before
that, and once more after it, while the disk is still busy with what those turns left to write.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from bench import figures
from bench.figures import columns
from bench.http import Job
from bench.processes import Process, add_endpoint, folder, load, module, penstock

PAYLOAD = {
    "order_id": 18273645,
    "customer": {"id": "cus_8f3k2", "email": "ada@example.com", "country": "GB"},
    "lines": [{"sku": "A-1042", "quantity": 2, "price": 1999}, {"sku": "B-7", "quantity": 1}],
    "total": 4497,
    "currency": "GBP",
}
OWED = json.dumps({"event_type": "order.created", "payload": PAYLOAD})
UNMATCHED = json.dumps({"event_type": "other.thing", "payload": PAYLOAD})


def run(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("bench accept", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1000.0, help="requests/s of the open loop")
    given = parser.parse_args(arguments)

    def turn(server: Process, body: str) -> tuple[float, float]:
        """Answers a second, and microseconds of the server's CPU for each."""
        before = server.cpu()
        report = load(job(server, body, connections=given.connections, seconds=given.seconds))
        return report["per_second"], (server.cpu() - before) / report["requests"] * 1e6

    with folder() as data, module("bench.bare") as bare, penstock(data) as server:
        endpoint = add_endpoint(server, "http://127.0.0.1:9/", event_types=["order.*"])
        server.call("POST", f"/v1/endpoints/{endpoint}/disable")
        for each in (bare, server):  # warm
            load(job(each, OWED, connections=given.connections, seconds=0.5))
        paced_bare = load(job(bare, OWED, connections=64, seconds=3.0, rate=given.rate))
        paced = load(job(server, OWED, connections=64, seconds=10.0, rate=given.rate))
        turns = [
            (turn(bare, OWED), turn(server, OWED), turn(server, UNMATCHED))
            for _ in range(given.turns)
        ]
        tired = load(job(server, OWED, connections=64, seconds=6.0, rate=given.rate))
    bares, oweds, unmatcheds = (columns(each) for each in columns(turns))
    rows = []
    for name, found, target in (
        ("accept, one delivery owed", oweds, "≥ 50 % of bare"),
        ("accept, nobody subscribed", unmatcheds, ""),
    ):
        rows.append(
            figures.row(
                name,
                figures.percent(figures.middle(found[0]), figures.middle(bares[0])),
                f"{figures.spread(found[0])}/s, {figures.middle(found[1]):.0f} µs CPU each",
                f"{figures.spread(bares[0])}/s, {figures.middle(bares[1]):.0f} µs CPU each",
                target,
            )
        )
    for name, found, target in (
        (f"accept at {given.rate:,.0f}/s, p99", paced, "p99 < 20 ms"),
        ("the same straight after the turns above", tired, ""),
    ):
        ratio = f"{found['p99'] / paced_bare['p99']:.1f} ×"
        rows.append(figures.row(name, ratio, latency(found), latency(paced_bare), target))
    figures.show(rows)


def latency(report: dict[str, Any]) -> str:
    return ", ".join(f"{name} {report[name]:.1f} ms" for name in ("p50", "p99", "max"))


def job(server: Process, body: str, **options: Any) -> Job:
    headers = {"authorization": f"Bearer {server.token}"} if server.token else {}
    return Job(server.url.rstrip("/") + "/v1/events", [body], headers, **options)

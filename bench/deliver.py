"""From accept to endpoint on one machine: deliveries a second, and how long one takes.

Events are posted over HTTP, singly and in batches of 100, to a server that pushes each to one
endpoint; what is counted is from the first POST to the arrival of the last event, accepting
included. The peer is aiohttp alone pushing as many bodies to the same receiver, with as many
at once. Then 200 single POSTs a second on schedule: from a POST's intended start to the arrival
of its push.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from bench import figures
from bench.accept import PAYLOAD
from bench.http import SENT, Job
from bench.processes import ROOT, Process, add_endpoint, folder, load, loading, module, penstock

AT_ONCE = 32  # an endpoint's max_in_flight, by default


def run(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("bench deliver", description=__doc__)
    parser.add_argument("--events", type=int, default=6000, help="of each turn")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=8.0, help="at that rate")
    given = parser.parse_args(arguments)
    single = json.dumps({"event_type": "order.created", "payload": PAYLOAD})
    batch = json.dumps({"events": [json.loads(single)] * 100})
    with folder() as data, module("bench.receiver") as receiver, penstock(data) as server:
        add_endpoint(server, receiver.url, event_types=["order.*"])

        def turn(path: str, body: str, events: int, posts: int, connections: int) -> Turn:
            receiver.call("GET", "/reset")
            before = server.cpu()
            job = _job(server, path, body, requests=posts, connections=connections)
            with loading(job) as posted:
                last = wait_for(receiver, events)
                began = posted()["began"]
            seconds = last["last"] - began
            return events / seconds, (server.cpu() - before) / events * 1e6

        n = given.events
        turn("/v1/events", single, 200, 200, 8)  # warm
        rows: dict[str, list[Turn]] = {"alone": [], "single": [], "batch": []}
        for _ in range(given.turns):
            rows["alone"].append(_alone(receiver, n))
            rows["single"].append(turn("/v1/events", single, n, n, 32))
            rows["batch"].append(turn("/v1/events/batch", batch, n, n // 100, 2))
        receiver.call("GET", "/reset")
        total = int(given.rate * given.seconds)
        stamped = json.dumps({"event_type": "order.created", "payload": {"sent": SENT, **PAYLOAD}})
        job = _job(server, "/v1/events", stamped, requests=total, rate=given.rate, connections=64)
        paced = load(job)
        found = wait_for(receiver, total)
    alone_rate, alone_cpu = map(figures.middle, figures.columns(rows["alone"]))
    peer = f"aiohttp alone {alone_rate:,.0f}/s, {alone_cpu:.0f} µs CPU each"
    printed = []
    for name, label in (("single", "posted singly"), ("batch", "posted in hundreds")):
        rates, costs = figures.columns(rows[name])
        printed.append(
            figures.row(
                f"accept → endpoint, {label}",
                figures.percent(figures.middle(rates), alone_rate),
                f"{figures.spread(rates)} deliveries/s, {figures.middle(costs):.0f} µs CPU each",
                peer,
                "≥ 1,500/s",
            )
        )
    printed.append(
        figures.row(
            f"accept → endpoint at {given.rate:.0f}/s",
            f"{found['p50'] / paced['p50']:.1f} ×",
            f"arrives after p50 {found['p50']:.1f} ms, p99 {found['p99']:.1f} ms",
            f"the 202 after p50 {paced['p50']:.1f} ms, p99 {paced['p99']:.1f} ms",
            "p50 < 15 ms",
        )
    )
    figures.show(printed)


Turn = tuple[float, float]  # a second, µs of CPU each


def wait_for(receiver: Process, events: int, seconds: float = 60.0) -> dict[str, Any]:
    """The receiver's counts once so many different events have arrived."""
    deadline = time.monotonic() + seconds
    while True:
        counts: dict[str, Any] = receiver.call("GET", "/")
        if counts["unique"] >= events:
            return counts
        if time.monotonic() > deadline:
            raise RuntimeError(f"{counts['unique']} of {events} events arrived")
        time.sleep(0.05)


def _alone(receiver: Process, count: int) -> Turn:
    done = subprocess.run(
        [sys.executable, "-m", "bench.push", receiver.url, str(count), str(AT_ONCE)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        check=True,
    )
    found = json.loads(done.stdout)
    return count / found["seconds"], found["cpu"] / count * 1e6


def _job(server: Process, path: str, body: str, **options: Any) -> Job:
    headers = {"authorization": f"Bearer {server.token}"}
    return Job(server.url.rstrip("/") + path, [body], headers, **options)

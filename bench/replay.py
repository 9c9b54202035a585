"""What a replay of many events costs the new ones.

One endpoint takes everything. Old events are stored and delivered first; then single POSTs a
second on schedule, each timed from its intended start to the arrival of its push, in turns with
and without a replay of all the old events to the same endpoint. While it runs, the rows that the
replay has under way are counted; at the end of its turn it is cancelled.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bench import figures
from bench.accept import PAYLOAD
from bench.deliver import wait_for
from bench.http import SENT, Job
from bench.processes import Process, add_endpoint, folder, load, module, penstock


def run(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("bench replay", description=__doc__)
    parser.add_argument("--events", type=int, default=50_000, help="to be replayed")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each turn")
    given = parser.parse_args(arguments)
    total = int(given.rate * given.seconds)
    old = json.dumps({"events": [{"event_type": "old", "payload": PAYLOAD}] * 100})
    new = json.dumps({"event_type": "new", "payload": {"sent": SENT, **PAYLOAD}})
    seen: list[dict[str, Any]] = []
    with folder() as data, module("bench.receiver") as receiver, penstock(data) as server:
        add_endpoint(server, receiver.url)
        load(_job(server, "/v1/events/batch", old, requests=given.events // 100, connections=2))
        wait_for(receiver, given.events, 300)

        def turn() -> dict[str, Any]:
            receiver.call("GET", "/reset")
            load(_job(server, "/v1/events", new, requests=total, rate=given.rate, connections=64))
            time.sleep(1.0)
            counts: dict[str, Any] = receiver.call("GET", "/")
            return counts

        turn()  # warm
        alone: list[dict[str, Any]] = []
        beside: list[dict[str, Any]] = []
        for number in range(given.turns):
            for replaying in (False, True) if number % 2 == 0 else (True, False):
                if replaying:
                    with _replaying(server, seen):
                        beside.append(turn())
                else:
                    alone.append(turn())
    rows = []
    for quantile in ("p50", "p99"):
        without = [counts[quantile] for counts in alone]
        with_ = [counts[quantile] for counts in beside]
        rows.append(
            figures.row(
                f"new events at {given.rate:.0f}/s beside a replay of {given.events:,}, {quantile}",
                figures.percent(figures.middle(with_), figures.middle(without)),
                f"{figures.middle(with_):.2f} ms ({min(with_):.2f} to {max(with_):.2f})",
                f"no replay: {figures.middle(without):.2f} ms"
                f" ({min(without):.2f} to {max(without):.2f})",
                "≤ 110 %" if quantile == "p50" else "",
            )
        )
    replayed = [state["replayed"] / given.seconds for state in seen if state["status"] != "pending"]
    rows.append(
        figures.row(
            "rows that the replay had under way",
            "",
            f"at most {max(state['outstanding'] for state in seen):,}",
            f"it sent {figures.spread(replayed)} a second",
            "≤ 1,000",
        )
    )
    figures.show(rows)


@contextmanager
def _replaying(server: Process, seen: list[dict[str, Any]]) -> Iterator[None]:
    """A replay of the old events during the block, looked at twice a second."""
    made = server.call("POST", "/v1/replays", {"event_types": ["old"]})
    path = f"/v1/replays/{made['replay_id']}"
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            seen.append(server.call("GET", path))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
        server.call("POST", f"{path}/cancel")
    while (state := server.call("GET", path))["outstanding"]:
        time.sleep(0.1)
    seen.append(state)


def _job(server: Process, path: str, body: str, **options: Any) -> Job:
    headers = {"authorization": f"Bearer {server.token}"}
    return Job(server.url.rstrip("/") + path, [body], headers, **options)

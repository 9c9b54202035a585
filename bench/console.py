"""Pages of the console beside a million events and 100,000 dead rows.

Each page is asked for over HTTP, one request after another, from a server whose worker is idle as
the lanes are paused; what is told is the time until the whole page has come. The peer is the
sign-in page of the same server, which asks the database nothing.
"""

from __future__ import annotations

import argparse
import http.client
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from bench import figures, postgres
from bench.filled import Filled, fill_postgres, fill_sqlite
from bench.processes import ROOT, Process, environment, folder, penstock

LIMIT = 100.0  # ms


def run(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("bench console", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=40, help="of each page")
    parser.add_argument("--database", choices=("sqlite", "postgres", "both"), default="both")
    given = parser.parse_args(arguments)
    if given.database != "postgres":
        with folder() as data:
            _migrate(data, {})
            began = time.monotonic()
            filled = fill_sqlite(data / "penstock.db", given.events)
            _told("SQLite", filled, time.monotonic() - began)
            with penstock(data) as server:
                _measure(server, filled, given.requests)
    if given.database != "sqlite":
        with postgres.cluster() as url, folder() as data:
            if url is None:
                print("(no PostgreSQL on this machine)")
                return
            env = {"PENSTOCK_DATABASE_URL": url, "PENSTOCK_SECRET_KEY": "of the bench alone"}
            _migrate(data, env)
            began = time.monotonic()
            filled = fill_postgres(url, given.events)
            _told("PostgreSQL", filled, time.monotonic() - began)
            with penstock(data, env=env) as server:
                _measure(server, filled, given.requests)


def _told(database: str, filled: Filled, seconds: float) -> None:
    print(f"{database}: {filled.events:,} events, written in {seconds:.0f} s")


def _migrate(data: Path, env: Mapping[str, str]) -> None:
    subprocess.run(
        [sys.executable, "-m", "penstock", "migrate", "--data", str(data)],
        cwd=ROOT,
        env=environment() | dict(env),
        stdout=subprocess.DEVNULL,
        check=True,
    )


def pages(filled: Filled) -> dict[str, str]:
    """What is asked for, with all that is hard about it."""
    since, until = filled.hour
    return {
        "overview": "/",
        "overview, a day": "/?range=24h",
        "events": "/events",
        "failed events": "/events?status=failed",
        "failed events of a type": "/events?status=failed&event_type=order.paid",
        "failed events of a rare type": "/events?status=failed&event_type=rare.type",
        "events of no type there is": "/events?event_type=absent",
        "events of a busy endpoint": f"/events?endpoint={filled.busy}",
        "events of a quiet endpoint": f"/events?endpoint={filled.rare}",
        "failed events of a quiet endpoint": f"/events?endpoint={filled.rare}&status=failed",
        "events of an hour at noon": f"/events?since={since}&until={until}",
        "events before that hour": f"/events?until={since}",
        "an event that failed": f"/events/{filled.dead}",
        "an event that was delivered": f"/events/{filled.delivered}",
        "endpoints": "/endpoints",
        "a busy endpoint": f"/endpoints/{filled.busy}",
        "shipments": "/shipments",
        "shipments in transit": "/shipments?status=in_transit",
        "shipments that nothing fits": "/shipments?search=absent",
        "a shipment": f"/shipments/{filled.shipment}",
        "imports": "/imports",
        "predictions": "/predictions",
        "predictions that failed": "/predictions?status=FAILED",
        "a prediction": f"/predictions/{filled.prediction}",
        "models": "/models",
        "jobs": "/jobs",
        "dead jobs": "/jobs?status=dead",
        "jobs of no name there is": "/jobs?name=absent",
        "a job": f"/jobs/{filled.job}",
        "lanes": "/lanes",
        "lanes that are stopped": "/lanes?stopped=true",
        "a lane with a long queue": f"/lane?id=delivery:{filled.busy}",
        "dead work": "/dead",
        "dead deliveries": "/dead?kind=delivery",
        "dead work for a reason": "/dead?reason=503",
        "dead work for no reason there is": "/dead?reason=absent",
        "all dead deliveries": "/dead-all?kind=delivery",
        "outbox": "/outbox",
        "keys": "/keys",
    }


def _measure(server: Process, filled: Filled, requests: int) -> None:
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    link = server.call("POST", "/sign-in/link")["path"]
    connection.request("GET", link)
    answer = connection.getresponse()
    answer.read()
    cookie = (answer.getheader("set-cookie") or "").partition(";")[0]
    asked = pages(filled)
    # The second page of what has one: where the place in the list has to be found again.
    for name in ("events", "failed events of a type", "dead work", "jobs"):
        if (more := _older(_get(connection, asked[name], cookie)[1])) is not None:
            asked[f"{name}, the next page"] = more
    empty = sorted(_get(connection, "/sign-in", "")[0] for _ in range(requests))
    rows = []
    slowest = 0.0
    for name, path in asked.items():
        _get(connection, path, cookie)  # which compiles its template
        before = server.cpu()
        found = sorted(_get(connection, path, cookie)[0] for _ in range(requests))
        cpu = (server.cpu() - before) * 1e3 / requests
        p50, p95 = found[len(found) // 2], found[len(found) * 95 // 100]
        slowest = max(slowest, p95)
        rows.append(
            figures.row(
                f"{name}: `{path[:40]}`" if len(path) > 12 else f"{name}: `{path}`",
                f"{p50 / empty[len(empty) // 2]:.1f} ×",
                f"p50 {p50:.1f} ms, p95 {p95:.1f} ms, {cpu:.0f} ms CPU",
                f"p50 {empty[len(empty) // 2]:.1f} ms",
                f"< {LIMIT:.0f} ms" if p95 < LIMIT else f"< {LIMIT:.0f} ms: MISSED",
            )
        )
    connection.close()
    figures.show(rows)
    print(f"(slowest of {len(rows)} pages: p95 {slowest:.1f} ms)\n")


def _get(connection: http.client.HTTPConnection, path: str, cookie: str) -> tuple[float, str]:
    began = time.perf_counter()
    connection.request("GET", path, headers={"cookie": cookie})
    answer = connection.getresponse()
    text = answer.read().decode()
    taken = (time.perf_counter() - began) * 1e3
    if answer.status != 200:
        said = re.sub(r"<[^>]+>|\s+", " ", text)
        raise RuntimeError(f"{path}: {answer.status}\n{said[:500]}")
    return taken, text


def _older(text: str) -> str | None:
    found = re.search(r'rel="next" href="([^"]+)"', text)
    return found[1].replace("&amp;", "&") if found else None

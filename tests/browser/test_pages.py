"""Every page at both widths and in both schemes: nothing overflows, axe-core finds nothing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from penstock.clock import SystemClock
from penstock.jobs import store
from penstock.jobs.store import NewJob
from penstock.storage import Tx, sql
from penstock.storage.sqlite import SqliteDatabase
from support.chromium import MARKUP, PATIENCE, SIZES, Visitor, axe, wrong_with
from support.process import Up

Visit = Callable[..., Visitor]

_DIED = sql("""
UPDATE jobs SET status = 'dead', due_at = NULL, attempts = 8, last_error = :error
WHERE id = 'job_died'
""")


async def _jobs(server: Up) -> None:
    """A job that waits and one that died, put beside the server as a program of its own would."""
    database = SqliteDatabase(server.data / "penstock.db", SystemClock(), owner=False)
    await database.open()

    def put(tx: Tx) -> None:
        lane, arguments = store.lane_id("default", "resize"), json.dumps({"note": MARKUP})
        store.insert(
            tx,
            [
                NewJob(f"job_{name}", "default", "resize", arguments, lane, 1, delay=3600.0)
                for name in ("waits", "died")
            ],
        )
        tx.run(_DIED, error=MARKUP)

    await database.unit(put)
    await database.close()


@pytest.fixture(scope="module")
def pages(server: Up, call: Callable[..., Any], receiver: str) -> list[str]:
    """Their addresses, once there is something on each."""
    # Playwright has a loop of its own in this thread.
    with ThreadPoolExecutor(1) as aside:
        aside.submit(asyncio.run, _jobs(server)).result(PATIENCE)
    new = {"target": f"{receiver}/no", "event_types": ["page.*"], "on_permanent": "dead"}
    bad = call("POST", "/v1/endpoints", new | {"description": MARKUP})["endpoint_id"]
    call("POST", "/v1/endpoints", {"target": f"{receiver}/ok", "event_types": ["page.*"]})
    call("POST", "/v1/endpoints", {"kind": "email", "target": "ann@example.com"})
    payload = {"note": MARKUP, "long": "x" * 300}
    event = call("POST", "/v1/events", {"event_type": "page.sent", "payload": payload})["event_id"]
    lane = f"/lane?id=delivery:{bad}"
    hold = {"state": "open", "for": "1h", "reason": MARKUP}
    parcel = {"carrier": "sandbox", "tracking_number": "SBXDELIVERED21", "label": MARKUP}
    shipment = call("POST", "/v1/shipments", parcel)["shipment_id"]
    deadline = time.monotonic() + PATIENCE
    while True:
        found = call("GET", f"/v1/events/{event}")
        if found["open_deliveries"] == 0 and call("GET", f"/v1/shipments/{shipment}")["scans"]:
            break
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    call("POST", f"/v1/lanes/delivery:{bad}/circuit", hold)
    waiting = call("POST", "/v1/events", {"event_type": "page.waits", "payload": {}})["event_id"]
    return [
        "/", "/?range=24h", "/events", "/events?status=failed", f"/events/{event}",
        f"/events/{waiting}", "/events/new", "/endpoints", "/endpoints/new",
        f"/endpoints/{bad}", f"/endpoints/{bad}/change", "/outbox", "/shipments",
        f"/shipments/{shipment}", "/imports", "/jobs", "/jobs/job_waits",
        "/jobs/job_died", "/lanes", lane, "/dead",
        "/dead?kind=delivery", "/dead-all?kind=delivery", "/keys", "/events/evt_unknown",
    ]  # fmt: skip


# Colours do not depend on the width, nor does the layout on the colours.
@pytest.mark.parametrize(("size", "scheme"), [("narrow", "light"), ("wide", "dark")])
def test_every_page_fits_and_can_be_read_by_everybody(
    visit: Visit, pages: list[str], size: str, scheme: str
) -> None:
    source = axe()
    person = visit(viewport=SIZES[size], color_scheme=scheme)
    found = {}
    for path in pages:
        person.page.goto(path)
        assert person.page.locator("main h1").count() == 1, path
        too_wide = person.page.evaluate(
            "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert too_wide <= 0, (path, too_wide)
        if wrong := wrong_with(person, source):
            found[path] = wrong
    person.press("Sign out")
    if wrong := wrong_with(person, source):
        found["/sign-in"] = wrong
    assert found == {}

"""Tracking as the composition root puts it together: alone, beside events, in a child."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from penstock.runtime import Runtime, open_runtime
from penstock.schema import migrate
from penstock.secretbox import SecretBox
from penstock.settings import load_settings
from penstock.storage import Tx, sql
from penstock.tracking import shipments
from penstock.tracking.carriers.registry import CARRIERS
from penstock.tracking.credentials import CHECK, Credentials, lane_of
from penstock.tracking.shipments import NewShipment
from penstock.work import lanes
from penstock.work.emit import nobody
from support.engine import until

pytestmark = pytest.mark.anyio

# A parcel of the sandbox whose journey is over.
DELIVERED = "SBXDELIVERED1"
STATUS = sql("SELECT tracking_status, lapses, attempts FROM shipments")
EVENTS = sql("SELECT event_type FROM events ORDER BY id")
LAPSED = sql("UPDATE shipments SET lapses = 2, due_at = {now}")


@pytest.fixture(autouse=True)
def _no_settings_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.upper().startswith("PENSTOCK_") and not name.startswith("PENSTOCK_TEST_"):
            monkeypatch.delenv(name)


@asynccontextmanager
async def running(tmp_path: Path, *services: str, work: bool = True) -> AsyncIterator[Runtime]:
    settings = load_settings(data_dir=tmp_path / "data", services=services, grace=5.0)
    await asyncio.to_thread(migrate, settings)
    async with open_runtime(settings) as runtime:
        worker = runtime.start() if work else None
        try:
            yield runtime
        finally:
            runtime.stop()
            if worker is not None:
                await worker


async def follow(runtime: Runtime, *, lapsed: bool = False) -> None:
    credentials = Credentials(SecretBox(["a key for the tests"]), CARRIERS, {})

    def create(tx: Tx) -> None:
        new = NewShipment("sandbox", DELIVERED)
        shipments.create(tx, "default", new, credentials=credentials, emit=nobody)
        if lapsed:
            tx.run(LAPSED)

    await runtime.database.unit(create)


async def arrived(runtime: Runtime) -> bool:
    rows = await runtime.database.read(lambda tx: tx.rows(STATUS))
    return [row[0] for row in rows] == ["delivered"]


async def test_it_works_alone_and_tells_nobody(tmp_path: Path) -> None:
    async with running(tmp_path, "tracking") as runtime:
        kinds = {kind.name for service in runtime.services for kind in service.kinds}
        assert CHECK in kinds
        assert "delivery" not in kinds
        await follow(runtime)
        await until(lambda: arrived(runtime))
        assert await runtime.database.read(lambda tx: tx.rows(EVENTS)) == []


async def test_beside_events_it_tells(tmp_path: Path) -> None:
    async with running(tmp_path, "events", "tracking") as runtime:
        await follow(runtime)
        await until(lambda: arrived(runtime))
        assert await runtime.database.read(lambda tx: tx.rows(EVENTS)) == [("shipment.delivered",)]


async def test_switched_off_it_is_not_there(tmp_path: Path) -> None:
    async with running(tmp_path, "events", work=False) as runtime:
        kinds = {kind.name for service in runtime.services for kind in service.kinds}
        assert CHECK not in kinds
        paths = runtime.http().openapi()["paths"]
        assert not [path for path in paths if "shipment" in path or "carrier" in path]


async def test_one_that_killed_its_worker_twice_is_checked_by_a_process_of_its_own(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, "events", "tracking") as runtime:
        await follow(runtime, lapsed=True)
        await until(lambda: arrived(runtime), seconds=60.0)
        ((_, lapses, _),) = await runtime.database.read(lambda tx: tx.rows(STATUS))
        assert lapses == 0
        assert await runtime.database.read(lambda tx: tx.rows(EVENTS)) == [("shipment.delivered",)]


async def test_a_start_takes_over_what_the_settings_say_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lanes that exist get the budgets of now; one whose credential is gone is paused."""
    monkeypatch.setenv("PENSTOCK_DHL_API_KEY", "k")
    lane = lane_of("dhl", None)

    async def gate() -> lanes.Gate:
        async with running(tmp_path, "tracking", work=False) as runtime:
            (found,) = await runtime.database.read(lambda tx: lanes.gates(tx, "shipments", [lane]))
            return found

    before = await gate()
    assert not before.paused
    monkeypatch.setenv("PENSTOCK_DHL_CALLS_PER_DAY", "5000")
    after = await gate()
    assert after.rate is not None
    assert before.rate is not None
    assert after.rate > 10 * before.rate
    monkeypatch.delenv("PENSTOCK_DHL_API_KEY")
    assert (await gate()).paused

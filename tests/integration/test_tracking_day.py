"""What is out for delivery goes first, and no budget is exceeded: by hand, and over a whole day."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock.clock import SECOND, ManualClock
from penstock.storage import Database, Tx, sql
from support.tracking import World

ROOT = Path(__file__).parents[2]
DUE = sql("""
UPDATE shipments SET tracking_status = :status, last_checked_at = {now}, due_at = {now} - :ago
WHERE id = :id
""")
LANES = sql("UPDATE lanes SET max_in_flight = 1")


@pytest.fixture
def world(database: Database, clock: ManualClock) -> World:
    return World(database, clock)


async def due(world: World, number: str, status: str, minutes_ago: int) -> str:
    id_ = await world.create(number)
    ago = minutes_ago * 60 * SECOND

    def write(tx: Tx) -> None:
        tx.run(DUE, id=id_, status=status, ago=ago)
        tx.run(LANES)  # one at a time

    await world.database.unit(write)
    return id_


async def taken(world: World, times: int) -> list[str]:
    """The numbers in the order in which they are looked at."""
    order = []
    for _ in range(times):
        ((claim, parcel),) = await world.claim(slots=1)
        order.append(parcel.query.number)
        await world.settle(await world.handle([(claim, parcel)]))
    return order


@pytest.mark.anyio
async def test_in_a_lane_that_is_behind_parcels_on_the_van_go_first(world: World) -> None:
    for n in range(6):
        await due(world, f"REST{n}", "in_transit", 120 - n)
    for n in range(3):
        await due(world, f"VAN{n}", "out_for_delivery", 3 - n)
    first, *order = await taken(world, 9)
    assert first == "REST0"  # it was taken before anybody looked
    assert {number[:3] for number in order[:3]} == {"VAN"}
    assert order[3:] == ["REST1", "REST2", "REST3", "REST4", "REST5"]


@pytest.mark.anyio
async def test_one_that_becomes_due_later_goes_before_what_waits(world: World) -> None:
    for n in range(4):
        await due(world, f"REST{n}", "in_transit", 120 - n)
    await due(world, "VAN", "out_for_delivery", -10)
    assert await taken(world, 2) == ["REST0", "REST1"]
    assert isinstance(world.clock, ManualClock)
    world.clock.advance(11 * 60)
    assert (await taken(world, 2)).index("VAN") <= 1
    assert await taken(world, 1) in (["REST2"], ["REST3"])


@pytest.mark.anyio
async def test_other_lanes_and_what_is_not_due_are_left_alone(world: World) -> None:
    await due(world, "REST0", "in_transit", 120)
    await due(world, "REST1", "in_transit", 119)
    later = await due(world, "VAN", "out_for_delivery", -10)
    before = (await world.row(later))["due_at"]
    await taken(world, 2)
    assert (await world.row(later))["due_at"] == before


def simulated(*options: str) -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.tracking_day", "--json", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return report


def test_a_simulated_day_keeps_each_budget_and_looks_first_at_what_is_on_the_van() -> None:
    """The small sister of ``python -m bench tracking_day``: as many parcels for each call."""
    report = simulated("--shipments", "500", "--budget", "0.05")
    assert set(report) == {"ups", "fedex", "usps", "dhl"}
    for carrier, found in report.items():
        assert 0 < found["calls"] <= found["per_day"], carrier
        assert found["most_in_a_second"] <= max(1, found["per_second"]), carrier
        assert found["urgent_late"] <= max(60, found["others_late"]), carrier
    # More is wanted of UPS than it gives: then those on the van wait little, the others long.
    ups = report["ups"]
    between_calls = 86_400 / ups["per_day"]
    assert ups["urgent_looks"] > 50
    assert ups["urgent_late"] < 10 * between_calls < ups["others_late"]
    # USPS takes many numbers in one call.
    assert report["usps"]["looks"] > 3 * report["usps"]["calls"]

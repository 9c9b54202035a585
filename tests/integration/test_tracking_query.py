"""Reading shipments and circuits back, on both databases."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock.clock import SECOND
from penstock.errors import NotFound
from penstock.secretbox import SecretBox
from penstock.storage import Database, Tx
from penstock.tracking import circuits, query, shipments
from penstock.tracking.carriers.registry import CARRIERS
from penstock.tracking.credentials import Credentials, lane_of
from penstock.tracking.shipments import NewShipment
from penstock.work.circuit import Changed
from penstock.work.emit import nobody

pytestmark = pytest.mark.anyio

CREDENTIALS = Credentials(SecretBox(["a key for the tests"]), CARRIERS, {})


async def follow(database: Database, number: str, account: str = "acme", **fields: Any) -> str:
    new = NewShipment("sandbox", number, **fields)

    def create(tx: Tx) -> str:
        return shipments.create(tx, account, new, credentials=CREDENTIALS, emit=nobody).id

    return await database.unit(create)


async def found(database: Database, account: str = "acme", **filters: Any) -> list[str]:
    rows, _ = await database.read(lambda tx: query.page(tx, account, CARRIERS, **filters))
    return [row["tracking_number"] for row in rows]


async def test_every_filter(database: Database, clock: Any) -> None:
    began = clock.now()
    first = await follow(database, "SBXTOUR1", label="A 100% chair", reference="r_1")
    clock.advance(10)
    await follow(database, "SBXTOUR2", label="Ärmel", reference="rx1")
    await follow(database, "SBXTOUR1", "other")
    await database.unit(lambda tx: shipments.stop(tx, "acme", first))

    both = ["SBXTOUR2", "SBXTOUR1"]
    assert await found(database) == both
    assert await found(database, limit=1) == both[:1]
    assert await found(database, before=first) == []
    assert await found(database, carrier="sandbox", status="pending") == both
    assert await found(database, carrier="ups") == []
    assert await found(database, status="delivered") == []
    assert await found(database, state="active") == ["SBXTOUR2"]
    assert await found(database, state="stopped") == ["SBXTOUR1"]
    assert await found(database, reference="r_1") == ["SBXTOUR1"]
    assert await found(database, since=began + SECOND) == ["SBXTOUR2"]
    assert await found(database, until=began + SECOND) == ["SBXTOUR1"]
    assert await found(database, search=" Sbx-tour 2 ") == ["SBXTOUR2"]
    assert await found(database, search="CHAIR") == ["SBXTOUR1"]
    assert await found(database, search="0%") == ["SBXTOUR1"]  # no wildcards
    assert await found(database, search="r_1") == ["SBXTOUR1"]
    assert await found(database, search="\\") == []


async def test_creations_at_the_same_time_are_one_shipment(database: Database) -> None:
    ids = await asyncio.gather(*(follow(database, "SBXTOUR1") for _ in range(20)))
    assert len(set(ids)) == 1
    assert await found(database) == ["SBXTOUR1"]


async def test_a_shipment_with_its_reason_to_wait(database: Database) -> None:
    id_ = await follow(database, "SBXTOUR1")
    detail = await database.read(lambda tx: query.detail(tx, "acme", id_, CARRIERS))
    assert (detail["why"]["code"], detail["scans"]) == ("due", [])
    with pytest.raises(NotFound):
        await database.read(lambda tx: query.detail(tx, "other", id_, CARRIERS))
    # A carrier that a later version does not know any more can still be read of.
    detail = await database.read(lambda tx: query.detail(tx, "acme", id_, {}))
    assert detail["tracking_url"] is None


async def test_a_circuit_is_held_shown_and_let_go(database: Database, clock: Any) -> None:
    await follow(database, "SBXTOUR1")
    lane, changes = lane_of("sandbox", "acme"), list[Changed]()

    async def shown() -> dict[str, Any]:
        return await database.read(lambda tx: circuits.shown(tx, "acme", "sandbox", CREDENTIALS))

    async def hold(state: str) -> None:
        await database.unit(
            lambda tx: circuits.hold(
                tx,
                lane,
                state,
                60.0,
                actor="key key_1",
                reason="a test",
                on_change=lambda _, change: changes.append(change),
            )
        )

    before = await shown()
    assert (before["state"], before["credential"], before["trips_at"]) == (
        "closed",
        "none needed",
        3,
    )
    await hold("open")
    held = await shown()
    assert (held["state"], held["held"]) == ("open", "open")
    assert held["open_until"] == held["held_until"] == held["log"][0]["open_until"]
    clock.advance(61)
    over = await shown()
    assert (over["held"], over["held_until"]) == (None, None)
    await hold("closed")
    assert (await shown())["held"] == "closed"
    assert [change.state for change in changes] == ["open", "closed"]

    def release(tx: Tx) -> bool:
        return circuits.release(tx, lane, actor="key key_2", reason="enough")

    assert await database.unit(release)
    assert not await database.unit(release)
    last = await shown()
    assert last["held"] is None
    assert [(entry["actor"], entry["reason"]) for entry in last["log"]] == [
        ("key key_2", "enough"),
        ("key key_1", "a test"),
        ("key key_1", "a test"),
    ]

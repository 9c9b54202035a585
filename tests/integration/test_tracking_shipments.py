"""Shipments and credentials as rows: what people do to them, on both databases."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from typing import Any

import pytest

from penstock.clock import SECOND, ManualClock
from penstock.errors import Conflict, NotFound, Refused
from penstock.storage import Database, Tx, retention, sql
from penstock.tracking import credentials as credentials_module
from penstock.tracking import retention as tracking_retention
from penstock.tracking import shipments
from penstock.tracking.carriers.base import Budget, Forbidden
from penstock.tracking.credentials import lane_of
from penstock.tracking.shipments import NewShipment
from penstock.work import circuit, lanes
from support.tracking import World, checked, found, scan

pytestmark = pytest.mark.anyio

STORED = sql("SELECT sealed FROM carrier_credentials")
NUMBERS = sql("SELECT tracking_number, lane FROM shipments ORDER BY tracking_number")
ALL = sql("SELECT * FROM shipments")


@pytest.fixture
def world(database: Database, clock: ManualClock) -> World:
    return World(database, clock)


# ------------------------------------------------------------------ shipments


async def test_a_new_shipment_is_owed_its_first_check_from_its_commit(world: World) -> None:
    """A shipment that is added is followed: nobody has to ask for a first refresh."""
    id_ = await world.create("N1", label="Box", reference="R", metadata='{"a": 1}')
    row = await world.row(id_)
    assert (row["status"], row["tracking_status"]) == ("pending", "pending")
    assert row["due_at"] == row["created_at"] == row["news_at"] == world.clock.now()
    assert row["lane"] == lane_of("alpha", None)
    assert await world.check() == 1
    assert world.calls == [("alpha", "settings", ["N1"])]


async def test_its_event_says_what_it_is(world: World) -> None:
    await world.create("N1", label="Box", metadata='{"a": 1}')
    rows = await world.database.read(
        lambda tx: tx.rows(sql("SELECT event_type, payload FROM events"))
    )
    ((event_type, payload),) = rows
    assert event_type == "shipment.created"
    told = json.loads(payload)
    assert told["tracking_number"] == "N1"
    assert told["label"] == "Box"
    assert told["metadata"] == {"a": 1}
    assert told["status"] == "pending"


async def test_a_number_is_followed_once_by_an_account(world: World) -> None:
    first = await world.create("N1", label="first")
    assert await world.create("N1", label="second") == first
    assert await world.create("N1", account="other") != first
    assert await world.create("N1", carrier="bulk") != first
    assert (await world.row(first))["label"] == "first"
    assert len(await world.events()) == 3


async def test_a_number_that_was_stopped_may_be_followed_anew(world: World) -> None:
    """Carriers use numbers again."""
    first = await world.create("N1")
    await world.database.unit(lambda tx: shipments.stop(tx, "default", first))
    second = await world.create("N1")
    assert second != first
    assert (await world.row(first))["status"] == "cancelled"


async def test_what_is_not_configured_is_refused_not_forgotten(world: World) -> None:
    """A carrier that cannot be asked is said so when the shipment is made; it never opens a
    circuit."""
    world.own.clear()
    with pytest.raises(Refused) as refused:
        await world.create("N1")
    assert refused.value.code == "carrier_not_configured"
    with pytest.raises(Refused) as refused:
        await world.create("N1", carrier="pigeon")
    assert refused.value.code == "unknown_carrier"
    assert await world.database.read(lambda tx: tx.rows(ALL)) == []


async def test_many_new_ones_do_not_push_the_others_aside(
    database: Database, clock: ManualClock
) -> None:
    """The first checks of an import are spread over half of the budget."""
    world = World(database, clock, Budget(per_second=10.0, per_day=86_410))
    for n in range(shipments.AT_ONCE + 5):
        await world.create(f"N{n:02}")
    rows = await database.read(lambda tx: tx.dicts(ALL))
    delays = sorted((row["due_at"] - clock.now()) / SECOND for row in rows)
    assert delays[: shipments.AT_ONCE] == [0.0] * shipments.AT_ONCE
    assert delays[shipments.AT_ONCE :] == pytest.approx([2.0, 4.0, 6.0, 8.0, 10.0], rel=0.01)


async def test_a_patch_changes_what_it_names(world: World) -> None:
    id_ = await world.create("N1", label="old", reference="R")
    await world.check()
    due = (await world.row(id_))["due_at"]

    async def patch(**changes: str | None) -> None:
        await world.database.unit(lambda tx: shipments.patch(tx, "default", id_, changes))

    await patch(label="new", reference=None)
    row = await world.row(id_)
    assert (row["label"], row["reference"], row["due_at"]) == ("new", None, due)
    checked_at = world.clock.now()
    world.clock.advance(5)
    await patch(ship_date="2026-01-02")  # the carrier is asked with it, though not at once again
    assert (await world.row(id_))["due_at"] == checked_at + 60 * SECOND
    world.clock.advance(60)
    await patch(ship_date="2026-01-03")
    assert (await world.row(id_))["due_at"] == checked_at + 60 * SECOND
    await patch()
    with pytest.raises(TypeError):
        await patch(tracking_status="delivered")
    with pytest.raises(NotFound):
        await world.database.unit(
            lambda tx: shipments.patch(tx, "other", id_, {"label": "theirs now"})
        )
    with pytest.raises(NotFound):
        await world.database.unit(lambda tx: shipments.patch(tx, "other", id_, {}))


async def test_a_refresh_makes_it_due_and_keeps_the_check_under_way(world: World) -> None:
    id_ = await world.create("N1")
    held = await world.claim()
    await world.refresh(id_)
    assert await world.settle(await world.handle(held)) == 1
    row = await world.row(id_)
    assert row["due_at"] == world.clock.now()  # it was asked for after that check began
    with pytest.raises(NotFound):
        await world.refresh(id_, account="other")


async def test_who_refreshes_again_and_again_has_the_carrier_asked_once_a_minute(
    world: World,
) -> None:
    id_ = await world.create("N1")
    assert await world.check() == 1
    answered = (await world.row(id_))["last_checked_at"]
    for _ in range(3):
        await world.refresh(id_)
        assert (await world.row(id_))["due_at"] == answered + 60 * SECOND
        assert await world.check() == 0
    await world.database.unit(
        lambda tx: tx.run(sql("UPDATE shipments SET due_at = last_checked_at + 5000000"))
    )
    await world.refresh(id_)  # what is due sooner than that stays so
    assert (await world.row(id_))["due_at"] == answered + 5 * SECOND
    await world.database.unit(
        lambda tx: tx.run(sql("UPDATE shipments SET last_checked_at = {now} - 90000000"))
    )
    await world.database.unit(
        lambda tx: tx.run(sql("UPDATE shipments SET due_at = {now} + 90000000"))
    )
    await world.refresh(id_)
    assert await world.check() == 1


async def test_what_has_ended_is_not_refreshed(world: World) -> None:
    id_ = await world.create("N1")
    await world.database.unit(lambda tx: shipments.stop(tx, "default", id_))
    with pytest.raises(Conflict, match="stopped"):
        await world.refresh(id_)


async def test_one_that_was_given_up_is_followed_again_by_a_refresh(world: World) -> None:
    id_ = await world.create("N1")
    dead = sql("UPDATE shipments SET status = 'dead', due_at = NULL, ended_at = {now}")
    await world.database.unit(lambda tx: tx.run(dead))
    await world.refresh(id_)
    row = await world.row(id_)
    assert (row["status"], row["ended_at"], row["due_at"]) == ("pending", None, world.clock.now())
    await world.database.unit(lambda tx: tx.run(dead))
    await world.create("N1")
    with pytest.raises(Conflict, match="another"):
        await world.refresh(id_)


async def test_one_that_is_stopped_is_asked_for_no_more(world: World) -> None:
    id_ = await world.create("N1")
    held = await world.claim()
    await world.database.unit(lambda tx: shipments.stop(tx, "default", id_))
    world.answers["alpha"] = found("N1", scan(1, "in_transit"))
    assert await world.settle(await world.handle(held)) == 1
    row = await world.row(id_)
    assert (row["status"], row["due_at"]) == ("cancelled", None)
    assert await world.check() == 0
    await world.database.unit(lambda tx: shipments.stop(tx, "default", id_))  # again: no harm
    with pytest.raises(NotFound):
        await world.database.unit(lambda tx: shipments.stop(tx, "other", id_))


async def test_a_check_of_a_deleted_one_leads_to_nothing(world: World) -> None:
    id_ = await world.create("N1")
    await checked(world, id_, found("N1", scan(1, "in_transit")))
    await world.refresh(id_)
    held = await world.claim()
    with pytest.raises(NotFound):
        await world.database.unit(lambda tx: shipments.delete(tx, "other", id_))
    await world.database.unit(lambda tx: shipments.delete(tx, "default", id_))
    world.answers["alpha"] = found("N1", scan(2, "delivered"))
    assert await world.settle(await world.handle(held)) == 0
    assert await world.scans(id_) == []
    assert await world.events() == ["shipment.created", "shipment.status_changed"]


async def test_old_ones_that_have_ended_are_pruned(world: World) -> None:
    ended = await world.create("N1")
    await checked(world, ended, found("N1", scan(1, "cancelled")))
    kept = await world.create("N2")
    world.clock.advance(100.0)
    (rule,) = tracking_retention.rules(keep=90.0)
    assert await world.database.read(rule.count) == 1
    assert await retention.apply(world.database, rule) == 1
    rows = await world.database.read(lambda tx: tx.dicts(ALL))
    assert [row["id"] for row in rows] == [kept]


async def test_an_account_is_erased_with_its_scans_and_credentials(world: World) -> None:
    for account in ("mine", "theirs"):
        await put(world, account=account, key=f"key-{account}")
        id_ = await world.create("N1", account=account)
        world.answers["alpha"] = found("N1", scan(1, "in_transit"), scan(2, "in_transit", "x"))
        assert await world.check(lane_of("alpha", account)) == 1
    erased = await retention.erase(world.database, "mine")
    assert erased["shipments"] == erased["carrier_credentials"] == 1
    assert erased["scans"] == 2
    rows = await world.database.read(lambda tx: tx.dicts(ALL))
    assert [row["account"] for row in rows] == ["theirs"]
    assert len(await world.scans(id_)) == 2


# ------------------------------------------------------------------ credentials


async def put(
    world: World, carrier: str = "alpha", account: str = "default", **values: str
) -> None:
    await world.database.unit(lambda tx: world.credentials.put(tx, account, carrier, values))


async def remove(world: World, carrier: str = "alpha", account: str = "default") -> bool:
    return await world.database.unit(lambda tx: world.credentials.remove(tx, account, carrier))


async def test_an_accounts_credential_goes_before_the_deployments(world: World) -> None:
    await world.create("N1")
    await put(world, key="my key")
    rows = await world.database.read(lambda tx: tx.rows(NUMBERS))
    assert rows == [("N1", lane_of("alpha", "default"))]
    assert await world.check(lane_of("alpha", "default")) == 1
    assert world.calls == [("alpha", "default", ["N1"])]
    await world.create("N2")
    assert await world.check() == 0  # nothing in the deployment's lane
    assert await world.check(lane_of("alpha", "default")) == 1


async def test_one_that_was_given_up_goes_on_with_the_credential_of_now(world: World) -> None:
    dead = sql("UPDATE shipments SET status = 'dead', due_at = NULL, ended_at = {now}")
    id_ = await world.create("N1")
    await world.database.unit(lambda tx: tx.run(dead))
    await put(world, key="my key")
    await world.refresh(id_)
    assert await world.check() == 0  # nothing in the deployment's lane
    assert await world.check(lane_of("alpha", "default")) == 1
    # The same when the account's own is gone, and when the deployment's comes later.
    await world.database.unit(lambda tx: tx.run(dead))
    world.own.clear()
    assert await remove(world)
    world.own["alpha"] = {"key": "of the settings"}
    await world.database.unit(world.credentials.prepare)
    await world.refresh(id_)
    assert await world.check() == 1


async def test_clients_of_replaced_credentials_are_not_kept(world: World) -> None:
    """However often an account stores another: none but those that are in use."""
    id_ = await world.create("N1")
    for n in range(20):
        await put(world, key=f"key {n}")
        await world.refresh(id_)
        await world.check(lane_of("alpha", "default"))
    gc.collect()
    assert len(world.clients._replaced) <= 1


async def test_a_credential_is_sealed_and_shown_to_nobody(world: World) -> None:
    await put(world, key="my key")
    ((sealed,),) = await world.database.read(lambda tx: tx.rows(STORED))
    assert "my key" not in sealed
    shown = await world.database.read(lambda tx: world.credentials.shown(tx, "default"))
    assert shown["alpha"].source == "account"
    assert shown["bulk"].source == "settings"
    assert shown["free"].source == "none needed"
    assert "my key" not in repr(shown)
    opened = world.credentials.open(lane_of("alpha", "default"), "default", "alpha", sealed)
    assert opened is not None
    assert opened.values == {"key": "my key"}
    assert "my key" not in repr(opened)


async def test_a_replaced_credential_is_used_from_the_next_check_on(world: World) -> None:
    await put(world, key="old")
    id_ = await world.create("N1")
    lane = lane_of("alpha", "default")
    await world.check(lane)
    old = world.clients._clients[lane][1]
    await put(world, key="new")
    world.clock.advance(60)
    await world.refresh(id_)
    await world.check(lane)
    new: Any = world.clients._clients[lane][1]
    assert new is not old
    assert new.credential.values == {"key": "new"}


async def test_a_corrected_credential_is_tried_at_once(world: World) -> None:
    """Whoever corrects a wrong key does not wait for the circuit, nor for the back-off."""
    lane = lane_of("alpha", "default")
    await put(world, key="wrong")
    ids = [await world.create(f"N{n}") for n in range(3)]
    world.answers["alpha"] = Forbidden(None, "no such key")
    assert await world.check(lane) == 3
    assert (await world.lane(account="default"))["circuit"] == "open"
    await put(world, key="right")
    world.answers["alpha"] = lambda _, queries: {
        q.number: found(q.number, scan(1, "in_transit")) for q in queries
    }
    assert await world.check(lane) == 1  # the probe
    assert await world.check(lane) == 2
    assert {(await world.row(id_))["tracking_status"] for id_ in ids} == {"in_transit"}


async def test_a_new_credential_does_not_end_what_somebody_holds_open(world: World) -> None:
    lane = lane_of("alpha", "default")
    await put(world, key="one")
    await world.create("N1")
    await world.database.unit(
        lambda tx: circuit.force_open(tx, lane, 600.0, actor="key_1", reason="maintenance")
    )
    await put(world, key="another")
    assert await world.check(lane) == 0


async def test_without_its_credential_an_account_goes_on_with_the_deployments(
    world: World,
) -> None:
    await put(world, key="my key")
    await world.create("N1")
    assert await remove(world)
    assert not await remove(world)
    assert await world.check() == 1
    assert world.calls == [("alpha", "settings", ["N1"])]


async def test_one_made_while_its_credential_is_removed_is_moved_with_the_others(
    world: World,
) -> None:
    """Else it would stand in a lane that nobody has a credential for."""
    await put(world, key="my key")
    made, go_on = threading.Event(), threading.Event()

    def make(tx: Tx) -> None:
        new = NewShipment("alpha", "N1")
        shipments.create(
            tx, "default", new, credentials=world.credentials, emit=world.acceptor.emit
        )
        made.set()
        assert go_on.wait(60)

    making = asyncio.create_task(world.database.unit(make))
    assert await asyncio.to_thread(made.wait, 60)
    removing = asyncio.create_task(remove(world))
    await asyncio.wait([removing], timeout=0.3)
    go_on.set()
    await asyncio.gather(making, removing)
    rows = await world.database.read(lambda tx: tx.rows(NUMBERS))
    assert rows == [("N1", lane_of("alpha", None))]


async def test_where_there_is_none_at_all_shipments_wait_and_nothing_is_counted(
    world: World,
) -> None:
    world.own.clear()
    await put(world, key="my key")
    id_ = await world.create("N1")
    assert await remove(world)
    lane = lane_of("alpha", "default")
    assert await world.check(lane) == 0
    row = await world.row(id_)
    assert (row["status"], row["attempts"], row["error_kind"]) == ("pending", 0, None)
    await put(world, key="another")
    assert await world.check(lane) == 1


async def test_what_waited_goes_on_when_the_deployment_has_a_credential(world: World) -> None:
    world.own.clear()
    await put(world, key="my key")
    await world.create("N1")
    await remove(world)
    world.own["alpha"] = {"key": "of the settings"}
    await world.database.unit(world.credentials.prepare)
    assert await world.check() == 1
    assert world.calls == [("alpha", "settings", ["N1"])]


async def test_a_deployment_that_lost_its_credential_asks_no_more(world: World) -> None:
    await world.create("N1")
    del world.own["alpha"]
    await world.database.unit(world.credentials.prepare)
    assert (await world.lane())["paused"]
    assert await world.check() == 0
    world.own["alpha"] = {"key": "again"}
    await world.database.unit(world.credentials.prepare)
    assert await world.check() == 1


async def test_a_changed_budget_reaches_the_lanes_there_are(
    database: Database, clock: ManualClock
) -> None:
    world = World(database, clock)
    await world.create("N1")
    await put(world, account="other", key="k")
    slower = World(database, clock, Budget(1.0, 1001))
    await database.unit(slower.credentials.prepare)
    for lane in (await world.lane(), await world.lane(account="other")):
        assert lane["rate"] == pytest.approx(1000 / 86_400)
    woken: list[object] = []
    database.subscribe(lambda notes: woken.extend(notes))
    await database.unit(slower.credentials.prepare)
    assert woken == []  # nothing changed, nothing is written


async def test_a_carrier_without_credential_has_a_lane_for_each_account(world: World) -> None:
    """What one account tries with the sandbox opens nobody else's circuit."""
    await world.create("N1", carrier="free")
    await world.create("N1", carrier="free", account="other")
    rows = await world.database.read(lambda tx: tx.rows(NUMBERS))
    assert {lane for _, lane in rows} == {lane_of("free", "default"), lane_of("free", "other")}


async def test_an_account_called_settings_is_not_the_deployment() -> None:
    assert lane_of("ups", "settings") != lane_of("ups", None)


@pytest.mark.parametrize(
    ("values", "pointer"),
    [
        ({}, "/key"),
        ({"key": "  "}, "/key"),
        ({"key": "a\nb"}, "/key"),
        ({"key": "ключ"}, "/key"),
        ({"key": "a" * (credentials_module.LONGEST_VALUE + 1)}, "/key"),
        ({"key": "a", "secret": "b"}, "/secret"),
    ],
)
async def test_a_credential_that_cannot_be_one_is_refused(
    world: World, values: dict[str, str], pointer: str
) -> None:
    with pytest.raises(Refused) as refused:
        await put(world, **values)
    assert (refused.value.code, refused.value.pointer) == ("validation_failed", pointer)
    assert await world.database.read(lambda tx: tx.rows(STORED)) == []


async def test_a_carrier_that_needs_no_credential_takes_none(world: World) -> None:
    with pytest.raises(Refused):
        await put(world, carrier="free", key="k")


async def test_a_lane_is_made_once_and_with_its_budget(world: World) -> None:
    await world.create("N1", carrier="bulk")

    def gates(tx: Tx) -> list[lanes.Gate]:
        return lanes.gates(tx, "shipments", [lane_of("bulk", None)])

    (gate,) = await world.database.read(gates)
    assert gate.per_call == 30
    assert gate.cap == 30 * credentials_module.CALLS_IN_FLIGHT

"""What carriers' answers do to shipments, on both databases."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.clock import SECOND, ManualClock
from penstock.storage import Database, Tx, sql
from penstock.tracking import poll, tell
from penstock.tracking.carriers.base import (
    Budget,
    Forbidden,
    Invalid,
    Malformed,
    NotFound,
    RateLimited,
    Unavailable,
)
from penstock.tracking.credentials import lane_of
from penstock.work import ledger
from support.tracking import T0, World, checked, found, scan

pytestmark = pytest.mark.anyio

HOUR = 3600.0
DAY = 24 * HOUR
DOWN = Unavailable("HTTP 503", "http_503")
PAYLOADS = sql("SELECT payload FROM events WHERE event_type = :type")


@pytest.fixture
def world(database: Database, clock: ManualClock) -> World:
    return World(database, clock)


def due_in(world: World, row: dict[str, Any]) -> float:
    return float(row["due_at"] - world.clock.now()) / SECOND


# ------------------------------------------------------------------ what is known


async def test_what_the_carrier_says_is_kept_with_its_scans(world: World) -> None:
    """All that is told is stored: the place, the announced delivery, the carrier's own words."""
    id_ = await world.create()
    eta = T0 + 30 * 3600 * SECOND
    answer = found(
        "N1", scan(1, "pre_transit"), scan(5, "in_transit", "Departed"), eta=eta, eta_offset=-300
    )
    row = await checked(world, id_, answer)
    assert (row["tracking_status"], row["carrier_text"]) == ("in_transit", "Departed")
    assert row["status_at"] == T0 + 5 * 3600 * SECOND
    assert (row["eta_at"], row["eta_offset"]) == (eta, -300)
    assert row["last_checked_at"] == row["news_at"] == world.clock.now()
    assert (row["attempts"], row["error_kind"], row["status"]) == (0, None, "pending")
    assert [text for _, text in await world.scans(id_)] == ["pre_transit", "Departed"]
    assert 2.6 * HOUR <= due_in(world, row) <= 3.4 * HOUR


async def test_a_delivery_is_dated_by_the_carriers_clock(world: World) -> None:
    """Not by when it was heard of; with its zone, and who signed."""
    id_ = await world.create()
    answer = found("N1", scan(1, "in_transit"), scan(9, "delivered"), signed_by="A. B.")
    row = await checked(world, id_, answer)
    assert row["tracking_status"] == "delivered"
    assert (row["delivered_at"], row["delivered_offset"]) == (T0 + 9 * 3600 * SECOND, -300)
    assert row["signed_by"] == "A. B."


async def test_a_delivered_one_is_looked_at_once_more_and_then_no_more(world: World) -> None:
    """A parcel that has arrived is retired by itself."""
    id_ = await world.create()
    delivered = found("N1", scan(9, "delivered"))
    row = await checked(world, id_, delivered)
    assert row["status"] == "pending"
    assert 10 * HOUR < due_in(world, row) < 14 * HOUR
    world.clock.advance(14 * HOUR)
    world.answers["alpha"] = found("N1", scan(9, "delivered"), signed_by="C. D.")
    assert await world.check() == 1
    row = await world.row(id_)
    assert (row["status"], row["due_at"], row["signed_by"]) == ("done", None, "C. D.")
    assert row["ended_at"] == world.clock.now()
    world.clock.advance(60 * DAY)
    assert await world.check() == 0
    assert await world.events() == ["shipment.created", "shipment.delivered"]


@pytest.mark.parametrize("status", ["cancelled", "return_to_sender"])
async def test_other_ends_need_no_second_look(world: World, status: Any) -> None:
    id_ = await world.create()
    last = scan(3, status)
    answer = found("N1", scan(1, "in_transit"), last)
    if status == "return_to_sender":
        last = scan(3, status, "Back")
        back = type(last)(
            last.at, last.offset, status, "returned", last.code, last.text, last.place
        )
        answer = type(answer)("N1", status, "returned", None, "Back", (back,))
    row = await checked(world, id_, answer)
    assert (row["status"], row["due_at"]) == ("done", None)
    assert await world.events() == ["shipment.created", "shipment.status_changed"]


# ------------------------------------------------------------------ one event for each change


async def test_each_change_is_told_once(world: World) -> None:
    id_ = await world.create()
    scans = [scan(1, "pre_transit")]
    for at, status in enumerate(
        ["in_transit", "exception", "in_transit", "out_for_delivery", "delivered"], 2
    ):
        scans.append(scan(at, status))  # type: ignore[arg-type]
        answer = found("N1", *scans)
        for _ in range(3):  # the same answer again tells nothing new
            await checked(world, id_, answer)
            if status == "delivered":
                break
    assert await world.events() == [
        "shipment.created",
        "shipment.status_changed",
        "shipment.exception",
        "shipment.status_changed",
        "shipment.out_for_delivery",
        "shipment.delivered",
    ]
    ((payload,),) = await world.database.read(
        lambda tx: tx.rows(PAYLOADS, type="shipment.delivered")
    )
    told = json.loads(payload)
    assert told["shipment_id"] == id_
    assert (told["previous_status"], told["status"]) == ("out_for_delivery", "delivered")
    assert told["delivered_at"] == "2023-11-15T04:13:20.000000Z"


async def test_what_died_between_the_answer_and_its_settlement_is_told_once(world: World) -> None:
    """The worker is killed after the carrier was asked: the change is found again, told once."""
    id_ = await world.create()
    world.answers["alpha"] = found("N1", scan(1, "out_for_delivery"))
    lost = await world.handle(await world.claim())
    world.clock.advance(61.0)
    await world.database.unit(lambda tx: ledger.sweep(tx, world.kind))
    assert await world.check() == 1
    assert await world.settle(lost) == 0  # it was only slow: too late all the same
    assert await world.events() == ["shipment.created", "shipment.out_for_delivery"]
    assert len(await world.scans(id_)) == 1


async def test_status_scans_and_event_are_one_commit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = await world.create()
    world.answers["alpha"] = found("N1", scan(1, "in_transit"))
    held = await world.claim()

    def fail(*_: Any) -> None:
        raise RuntimeError("the event cannot be stored")

    monkeypatch.setattr(tell, "changed", fail)
    settlements = await world.handle(held)
    with pytest.raises(RuntimeError):
        await world.settle(settlements)
    row = await world.row(id_)
    assert (row["tracking_status"], row["changes"]) == ("pending", 0)
    assert await world.scans(id_) == []
    monkeypatch.undo()
    assert await world.settle(settlements) == 1
    assert await world.events() == ["shipment.created", "shipment.status_changed"]


async def test_late_scans_are_kept_and_undo_nothing(world: World) -> None:
    id_ = await world.create()
    delivered = scan(9, "delivered")
    await checked(world, id_, found("N1", delivered))
    row = await checked(world, id_, found("N1", scan(7, "out_for_delivery"), scan(5, "in_transit")))
    assert row["tracking_status"] == "delivered"
    assert row["delivered_at"] == delivered.at
    assert [text for _, text in await world.scans(id_)] == [
        "in_transit",
        "out_for_delivery",
        "delivered",
    ]
    assert await world.events() == ["shipment.created", "shipment.delivered"]


async def test_a_carrier_that_tells_endlessly_does_not_fill_the_disk(world: World) -> None:
    id_ = await world.create()
    many = [scan(at / 100, "in_transit", f"scan {at}") for at in range(poll.MOST_SCANS + 50)]
    await checked(world, id_, found("N1", *many))
    assert len(await world.scans(id_)) == poll.MOST_SCANS
    await checked(world, id_, found("N1", scan(99, "delivered")))
    assert len(await world.scans(id_)) == poll.MOST_SCANS
    assert (await world.row(id_))["tracking_status"] == "delivered"


# ------------------------------------------------------------------ what is not known


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (NotFound("N1", "no"), "not_found"),
        (Invalid("N1", "no"), "invalid"),
        (Forbidden("N1", "not yours"), "forbidden"),
    ],
)
async def test_a_number_that_is_not_known_is_asked_for_ever_less_often(
    world: World, answer: Any, kind: str
) -> None:
    id_ = await world.create()
    waits = []
    for _ in range(4):
        row = await checked(world, id_, answer)
        waits.append(due_in(world, row) / HOUR)
        assert (row["status"], row["tracking_status"], row["attempts"]) == ("pending", "pending", 0)
        assert (row["error_kind"], row["consecutive_errors"]) == (kind, 0)
    for wait, hours in zip(waits, (6, 12, 24, 24), strict=True):
        assert 0.89 * hours <= wait <= 1.11 * hours
    row = await checked(world, id_, found("N1", scan(1, "in_transit")))
    assert (row["not_found"], row["error_kind"]) == (0, None)


async def test_a_carrier_that_forgot_a_parcel_does_not_change_its_status(world: World) -> None:
    id_ = await world.create()
    await checked(world, id_, found("N1", scan(1, "in_transit")))
    row = await checked(world, id_, NotFound("N1", "no"))
    assert row["tracking_status"] == "in_transit"
    assert await world.events() == ["shipment.created", "shipment.status_changed"]


async def test_without_news_for_thirty_days_it_expires(world: World) -> None:
    id_ = await world.create()
    await checked(world, id_, found("N1", scan(1, "in_transit")))
    world.clock.advance(29.9 * DAY)
    row = await checked(world, id_, found("N1", scan(1, "in_transit")))
    assert row["status"] == "pending"
    world.clock.advance(0.2 * DAY)
    row = await checked(world, id_, NotFound("N1", "no"))
    assert (row["status"], row["tracking_status"], row["due_at"]) == ("done", "expired", None)
    assert (await world.events())[-1] == "shipment.expired"


async def test_a_number_that_never_was_one_expires(world: World) -> None:
    """Nothing is asked for for ever."""
    id_ = await world.create()
    world.clock.advance(30.1 * DAY)
    row = await checked(world, id_, Invalid("N1", "no"))
    assert (row["status"], row["tracking_status"]) == ("done", "expired")


# ------------------------------------------------------------------ trouble


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (DOWN, "http_503"),
        (Unavailable("no whole answer in time", "timeout"), "timeout"),
        (Forbidden(None, "bad key"), "credential_refused"),
        (Malformed("N1", "no status"), "malformed"),
    ],
)
async def test_a_failed_check_leaves_what_is_known(world: World, answer: Any, kind: str) -> None:
    """A fetch error is not a status: it does not overwrite one."""
    id_ = await world.create()
    await checked(world, id_, found("N1", scan(1, "out_for_delivery")))
    before = await world.row(id_)
    row = await checked(world, id_, answer)
    for column in ("tracking_status", "carrier_text", "status_at", "last_checked_at", "news_at"):
        assert row[column] == before[column], column
    assert (row["error_kind"], row["consecutive_errors"], row["attempts"]) == (kind, 1, 1)
    assert row["last_error"]
    assert 48.0 <= due_in(world, row) <= 72.0
    row = await checked(world, id_, found("N1", scan(2, "delivered")))
    assert (row["error_kind"], row["consecutive_errors"], row["attempts"]) == (None, 0, 0)


async def test_errors_back_off_to_six_hours_and_never_end(world: World) -> None:
    id_ = await world.create()
    row = await world.row(id_)
    for times in range(1, 30):
        row = await checked(world, id_, Malformed("N1", "no status"))
        longest = min(60.0 * 2 ** (times - 1), 6 * HOUR)
        assert 0.79 * longest <= due_in(world, row) <= 1.21 * longest
    assert (row["status"], row["attempts"]) == ("pending", 29)
    assert await world.events() == ["shipment.created"]


async def test_asked_to_wait_the_lane_waits_and_nothing_is_counted(world: World) -> None:
    id_ = await world.create("N1")
    await world.create("N2")
    row = await checked_first(world, id_, RateLimited(120.0))
    assert (row["attempts"], row["error_kind"], row["status"]) == (0, None, "pending")
    calls = len(world.calls)
    world.clock.advance(119.0)
    assert await world.check() == 0
    world.clock.advance(1.1)
    world.answers["alpha"] = NotFound("x", "no")
    assert await world.check() == 2
    assert len(world.calls) == calls + 2
    assert (await world.lane())["circuit"] == "closed"


async def checked_first(world: World, id_: str, answer: Any) -> dict[str, Any]:
    world.answers["alpha"] = answer
    assert await world.check(slots=1) == 1
    return await world.row(id_)


async def test_one_that_does_not_say_how_long_is_left_alone_for_a_while(world: World) -> None:
    id_ = await world.create("N1")
    await checked_first(world, id_, RateLimited(None))
    world.clock.advance(poll.PATIENCE - 1)
    assert await world.check() == 0
    world.clock.advance(1.1)
    assert await world.check() == 1


async def test_a_credential_that_cannot_be_opened_is_our_trouble(world: World) -> None:
    """Nobody is called, no attempt is counted, no circuit opens."""
    await world.database.unit(
        lambda tx: world.credentials.put(tx, "default", "alpha", {"key": "k"})
    )
    id_ = await world.create("N1")
    await world.database.unit(
        lambda tx: tx.run(sql("UPDATE carrier_credentials SET sealed = 'not sealed by us'"))
    )
    lane = lane_of("alpha", "default")
    for _ in range(5):
        assert await world.check(lane) == 1
        world.clock.advance(poll.NO_CREDENTIAL + 1)
    row = await world.row(id_)
    assert (row["attempts"], row["status"], world.calls) == (0, "pending", [])
    assert "opened" in row["last_error"]
    assert (await world.lane(account="default"))["circuit"] == "closed"


async def test_a_carrier_of_a_newer_version_waits_for_it(world: World) -> None:
    """While a deployment rolls, workers of before leave such shipments alone."""
    id_ = await world.create("N1")
    del world.specs["alpha"]
    for _ in range(8):
        assert await world.check() == 1
        world.clock.advance(poll.NO_CREDENTIAL + 1)
    row = await world.row(id_)
    assert (row["status"], row["attempts"], world.calls) == ("pending", 0, [])


# ------------------------------------------------------------------ grouped calls


async def test_what_a_carrier_takes_in_one_call_is_paid_for_once(
    database: Database, clock: ManualClock
) -> None:
    """Thirty numbers are one call and one token of the budget."""
    world = World(database, clock, Budget(per_second=2.0, per_day=1_000))
    world.answers["bulk"] = lambda _, queries: {
        q.number: found(q.number, scan(1, "in_transit")) for q in queries
    }
    await world.create_many(75, "bulk")
    assert await world.check() == 60
    assert [len(numbers) for _, _, numbers in world.calls] == [30, 30]
    assert (await world.lane("bulk"))["tokens"] == pytest.approx(0.0, abs=1e-6)
    assert await world.check() == 0
    world.clock.advance(90.0)
    assert await world.check() == 15


async def test_of_one_call_each_parcel_has_its_own_answer(world: World) -> None:
    """A parcel that cannot be read, or is not known, takes no other of its call along."""
    ids = [await world.create(f"N{n}", "bulk") for n in range(4)]
    world.answers["bulk"] = lambda _, queries: {
        "N0": found("N0", scan(1, "in_transit")),
        "N1": NotFound("N1", "no"),
        "N2": Malformed("N2", "no status"),
        "N3": found("N3", scan(2, "delivered")),
    }
    assert await world.check() == 4
    rows = [await world.row(id_) for id_ in ids]
    assert [row["tracking_status"] for row in rows] == [
        "in_transit",
        "pending",
        "pending",
        "delivered",
    ]
    assert [row["error_kind"] for row in rows] == [None, "not_found", "malformed", None]
    assert len(world.calls) == 1


# ------------------------------------------------------------------ budgets


async def test_a_days_budget_is_kept_however_much_is_owed(
    database: Database, clock: ManualClock
) -> None:
    """Also from the first moment on, with a full bucket, and over midnight."""
    world = World(database, clock, Budget(per_second=5.0, per_day=60))
    await world.create_many(200)
    made: list[float] = []
    began = clock.now()
    for _ in range(3 * 24 * 2):
        calls = len(world.calls)
        await world.check()
        made += [(clock.now() - began) / SECOND] * (len(world.calls) - calls)
        clock.advance(1800.0)
        await database.unit(_all_due)
    assert len(made) > 150  # what is allowed is used
    for at in made:
        assert sum(1 for other in made if at <= other < at + DAY) <= 60


async def test_where_the_budget_is_short_checks_are_planned_farther_apart(
    database: Database, clock: ManualClock
) -> None:
    """So that few are owed that the budget must refuse."""
    world = World(database, clock, Budget(per_second=100.0, per_day=1_000))
    await world.create_many(200)
    await database.unit(lambda tx: tx.run(sql("UPDATE shipments SET tracking_status='in_transit'")))
    world.answers["alpha"] = lambda _, queries: {
        q.number: found(q.number, scan(1, "in_transit")) for q in queries
    }
    assert await world.check() > 0
    planned = await database.read(
        lambda tx: tx.rows(sql("SELECT due_at FROM shipments WHERE last_checked_at IS NOT NULL"))
    )
    # 200 parcels, looked at eight times a day, are twice what 80 % of the budget allows.
    for (due_at,) in planned:
        assert (due_at - clock.now()) / SECOND == pytest.approx(2.2 * 3 * HOUR, rel=0.2)


def _all_due(tx: Tx) -> None:
    tx.run(sql("UPDATE shipments SET due_at = {now} WHERE status = 'pending'"))

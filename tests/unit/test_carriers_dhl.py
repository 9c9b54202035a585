"""DHL: what its answers mean."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date
from typing import Any

import pytest

from penstock.clock import ManualClock, from_iso
from penstock.tracking.carriers.base import (
    Answer,
    Credential,
    Found,
    Invalid,
    Malformed,
    NotFound,
    Query,
)
from penstock.tracking.carriers.dhl import Dhl
from penstock.tracking.status import RETURNED
from support.carriers import (
    SECRET,
    SPOKEN,
    CarrierServer,
    dhl_error,
    dhl_event,
    dhl_found,
    dhl_shipment,
    patient_session,
)

pytestmark = pytest.mark.anyio
NUMBER = SPOKEN["dhl"].numbers[0]


class Asked:
    def __init__(self, server: CarrierServer, carrier: Dhl) -> None:
        self.server = server
        self._carrier = carrier

    async def __call__(self, *shipments: Any, number: str = NUMBER, **more: Any) -> Answer:
        if shipments:
            self.server.answers(dhl_found(*shipments))
        return (await self._carrier.fetch([Query(number, **more)]))[number]

    async def found(self, *shipments: Any, **more: Any) -> Found:
        answer = await self(*shipments, **more)
        assert isinstance(answer, Found), answer
        return answer

    async def of(self, *events: Any, **more: Any) -> Found:
        return await self.found(dhl_shipment(NUMBER, *events, **more))


@pytest.fixture
async def ask() -> AsyncIterator[Asked]:
    async with CarrierServer() as server, patient_session() as session:
        carrier = Dhl(
            Credential("settings", SPOKEN["dhl"].values), server.url, session, ManualClock()
        )
        yield Asked(server, carrier)
        await carrier.close()


async def test_it_asks_as_dhl_wants_to_be_asked(ask: Asked) -> None:
    """The key was not sent, so that each answer was a refusal."""
    await ask.found(dhl_shipment(NUMBER), postal_code="53113")
    (call,) = ask.server.calls
    assert (call.method, call.path) == ("GET", "/track/shipments")
    assert call.query == {
        "trackingNumber": NUMBER,
        "language": "en",
        "recipientPostalCode": "53113",
    }
    assert call.headers["dhl-api-key"] == SECRET


@pytest.mark.parametrize(
    ("code", "text", "status", "sub_status"),
    [
        ("pre-transit", "Shipment information received", "pre_transit", None),
        ("transit", "Processed at BONN", "in_transit", None),
        ("transit", "Shipment picked up", "in_transit", "picked_up"),
        ("transit", "Customs clearance status updated", "in_transit", "customs"),
        ("transit", "Shipment is out with courier for delivery", "in_transit", None),
        ("transit", "Out for delivery", "out_for_delivery", None),
        ("transit", "With delivery courier", "out_for_delivery", None),
        (
            "transit",
            "The shipment has been loaded onto the delivery vehicle",
            "out_for_delivery",
            None,
        ),
        ("transit", "Available for pick-up at the shop", "available_for_pickup", None),
        ("transit", "Returned to shipper", "return_to_sender", "returning"),
        ("delivered", "Delivered", "delivered", None),
        ("delivered", "Returned to sender", "return_to_sender", RETURNED),
        ("failure", "Something else", "exception", None),
        ("failure", "Delivery attempted; recipient not home", "attempt_failed", None),
        ("failure", "Shipment damaged", "exception", "damaged"),
        ("failure", "The shipment is being returned to the sender", "return_to_sender",
         "returning"),
    ],
)  # fmt: skip
async def test_codes_and_known_wordings(
    ask: Asked, code: str, text: str, status: str, sub_status: str | None
) -> None:
    """What DHL called DELIVERED was compared with "Delivered", and delivered was nobody's."""
    if text == "Shipment is out with courier for delivery":
        status = "out_for_delivery"
    found = await ask.of(dhl_event(code, text))
    assert (found.status, found.sub_status) == (status, sub_status)
    assert (found.code, found.text) == (code, text)
    (scan,) = found.scans
    assert (scan.status, scan.sub_status) == (status, sub_status)


async def test_a_code_that_says_nothing_leaves_what_the_scans_say(ask: Asked) -> None:
    found = await ask.of(
        dhl_event("unknown", "Please see below", at="2026-03-22T08:00:00+01:00"),
        dhl_event("transit", "Out for delivery", at="2026-03-22T07:00:00+01:00"),
    )
    assert found.status == "out_for_delivery"
    assert [scan.status for scan in found.scans] == [None, "out_for_delivery"]
    new = await ask.of(dhl_event("a-new-code", "Teleported"))
    assert new.status == "in_transit"


async def test_times_keep_their_zone_or_have_none(ask: Asked) -> None:
    """The zone was cut off."""
    found = await ask.of(
        dhl_event(at="2026-03-21T09:30:15+01:00"),
        dhl_event(at="2026-03-21T08:00:00"),
        dhl_event(at="2026-03-21T06:00:00.123456789Z"),
        dhl_event(at="soon"),
    )
    assert [(scan.at, scan.offset) for scan in found.scans] == [
        (from_iso("2026-03-21T08:30:15Z"), 60),
        (from_iso("2026-03-21T08:00:00Z"), None),
        (from_iso("2026-03-21T06:00:00.123456Z"), 0),
    ]
    assert found.scans[0].place == "Bonn, DE"


async def test_a_delivery_with_its_time_and_who_signed(ask: Asked) -> None:
    handed = dhl_event("delivered", "Delivered", at="2026-03-23T11:02:00+02:00")
    proof = {
        "timestamp": "2026-03-23T23:59:59Z",
        "signatureUrl": "https://example.com/signature",
        "signed": {"type": "Person", "givenName": "Marie", "familyName": "Curie"},
    }
    found = await ask.of(
        handed,
        dhl_event(),
        details={"proofOfDelivery": proof},
        estimatedTimeOfDelivery="2026-03-24",
    )
    assert found.status == "delivered"
    assert found.delivered_at == from_iso("2026-03-23T09:02:00Z")
    assert found.delivered_offset == 120
    assert found.signed_by == "Marie Curie"
    assert found.eta is None


async def test_what_is_announced(ask: Asked) -> None:
    """The field that was read is not one that DHL sends."""
    day = await ask.of(dhl_event(), estimatedTimeOfDelivery="2026-03-24")
    assert (day.eta, day.eta_offset) == (from_iso("2026-03-24T23:59:59Z"), None)
    time = await ask.of(dhl_event(), estimatedTimeOfDelivery="2026-03-24T18:00:00+01:00")
    assert (time.eta, time.eta_offset) == (from_iso("2026-03-24T17:00:00Z"), 60)
    window = await ask.of(
        dhl_event(),
        estimatedTimeOfDelivery="2026-03-24",
        estimatedDeliveryTimeFrame={
            "estimatedFrom": "2026-03-24T10:00:00+01:00",
            "estimatedThrough": "2026-03-24T12:00:00+01:00",
        },
    )
    assert (window.eta, window.eta_offset) == (from_iso("2026-03-24T11:00:00Z"), 60)


async def test_what_was_turned_back_and_delivered_has_gone_to_the_sender(ask: Asked) -> None:
    found = await ask.of(
        dhl_event("delivered", "Delivered", at="2026-03-29T10:00:00+01:00"),
        dhl_event("transit", "Being returned", at="2026-03-25T10:00:00+01:00"),
        dhl_event("transit", "Processed", at="2026-03-22T10:00:00+01:00"),
    )
    assert (found.status, found.sub_status) == ("return_to_sender", RETURNED)
    assert found.delivered_at is None


async def test_a_status_without_events_has_a_date_all_the_same(ask: Asked) -> None:
    found = await ask.of(dhl_event("transit", "Processed"), events=[])
    (scan,) = found.scans
    assert scan.at == from_iso("2026-03-21T08:30:15Z")


# --------------------------------------------------------------------------- several of a number


async def test_of_several_the_one_of_the_division_whose_numbers_look_so(ask: Asked) -> None:
    """Without the division DHL may answer another shipment of the same number."""
    express = dhl_shipment(NUMBER, dhl_event(text="the right one"), service="express")
    freight = dhl_shipment(
        NUMBER, dhl_event(text="newer", at="2026-04-21T09:30:15+01:00"), service="freight"
    )
    for order in ((express, freight), (freight, express)):
        assert (await ask.found(*order)).text == "the right one"


async def test_of_several_the_one_that_was_sent_then(ask: Asked) -> None:
    old = dhl_shipment(NUMBER, dhl_event(text="old", at="2025-03-21T09:30:15+01:00"))
    new = dhl_shipment(NUMBER, dhl_event(text="new", at="2026-03-21T09:30:15+01:00"))
    assert (await ask.found(old, new)).text == "new"
    assert (await ask.found(old, new, ship_date=date(2025, 3, 19))).text == "old"


# --------------------------------------------------------------------------- refusals


async def test_an_unknown_number(ask: Asked) -> None:
    ask.server.answers(dhl_error(404, "No result found", "No shipment with given number."))
    assert await ask() == NotFound(NUMBER, "No shipment with given number.")
    ask.server.answers(dhl_found())
    assert isinstance(await ask(), NotFound)


async def test_a_number_that_is_refused(ask: Asked) -> None:
    ask.server.answers(dhl_error(400, "Bad request", f"trackingNumber is wrong, {SECRET}"))
    answer = await ask()
    assert isinstance(answer, Invalid)
    assert SECRET not in answer.text


async def test_a_shipment_that_says_nothing_cannot_be_read(ask: Asked) -> None:
    assert isinstance(await ask({"id": NUMBER, "service": "express"}), Malformed)

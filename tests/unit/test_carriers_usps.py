"""USPS: what its answers mean."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date
from typing import Any

import pytest

from penstock.clock import ManualClock, from_iso
from penstock.tracking.carriers.base import (
    Answer,
    Credential,
    Forbidden,
    Found,
    Invalid,
    Malformed,
    NotFound,
    Query,
)
from penstock.tracking.carriers.usps import Usps
from penstock.tracking.carriers.usps_codes import of_event, of_parcel
from support.carriers import (
    CLIENT_ID,
    SECRET,
    SPOKEN,
    Call,
    CarrierServer,
    Reply,
    patient_session,
    usps_asked,
    usps_error,
    usps_event,
    usps_failure,
    usps_parcel,
    usps_reply,
)

pytestmark = pytest.mark.anyio
NUMBER, OTHER = SPOKEN["usps"].numbers
NUMBERS = [f"94001118992230{i:08}" for i in range(80)]


class Asked:
    def __init__(self, server: CarrierServer, carrier: Usps) -> None:
        self.server = server
        self.carrier = carrier

    async def __call__(self, category: str = "In Transit", **more: Any) -> Answer:
        self.server.answers(usps_reply(usps_parcel(NUMBER, category, **more)))
        return (await self.carrier.fetch([Query(NUMBER)]))[NUMBER]

    async def found(self, category: str = "In Transit", **more: Any) -> Found:
        answer = await self(category, **more)
        assert isinstance(answer, Found), answer
        return answer

    async def all(self, *numbers: str) -> dict[str, Answer]:
        return await self.carrier.fetch([Query(number) for number in numbers])


@pytest.fixture
async def ask() -> AsyncIterator[Asked]:
    async with CarrierServer() as server, patient_session() as session:
        carrier = Usps(
            Credential("settings", SPOKEN["usps"].values), server.url, session, ManualClock()
        )
        yield Asked(server, carrier)
        await carrier.close()


async def test_it_asks_as_usps_wants_to_be_asked(ask: Asked) -> None:
    ask.server.answers(SPOKEN["usps"].found)
    await ask.carrier.fetch(
        [Query(NUMBER, date(2026, 3, 18), "38101-1234"), Query(OTHER, None, "SW1A 1AA")]
    )
    (call,) = ask.server.calls
    assert (call.method, call.path) == ("POST", "/tracking/v3r2/tracking")
    assert call.json == [
        {"trackingNumber": NUMBER, "destinationZIPCode": "38101", "mailingDate": "2026-03-18"},
        {"trackingNumber": OTHER},
    ]
    (token,) = ask.server.token_calls
    assert token.json == {
        "grant_type": "client_credentials",
        "client_id": CLIENT_ID,
        "client_secret": SECRET,
        "scope": "tracking",
    }


async def test_thirty_five_numbers_go_into_one_call_and_never_more(ask: Asked) -> None:
    ask.server.answers(SPOKEN["usps"].found)
    answers = await ask.all(*NUMBERS)
    assert list(answers) == NUMBERS
    assert [len(usps_asked(call)) for call in ask.server.calls] == [35, 35, 10]


async def test_each_number_has_a_status_of_its_own(ask: Asked) -> None:
    five = NUMBERS[:6]
    ask.server.answers(
        usps_reply(
            usps_parcel(five[0]),
            usps_failure(five[1], "404"),
            usps_failure(five[2], "400", "Invalid tracking number."),
            usps_failure(five[3], "403", "Not authorized for this Mailer ID."),
            usps_failure(five[4], "500", "Try again."),
            {"trackingNumber": five[5], "statusCode": "200"},
        )
    )
    answers = await ask.all(*five)
    assert [type(answers[number]) for number in five] == [
        Found,
        NotFound,
        Invalid,
        Forbidden,
        Malformed,
        Malformed,
    ]
    forbidden = answers[five[3]]
    assert forbidden == Forbidden(five[3], "Not authorized for this Mailer ID.")


async def test_answers_are_told_apart_by_number_not_by_place(ask: Asked) -> None:
    ask.server.answers(usps_reply(usps_parcel(OTHER, "Delivered"), usps_parcel(NUMBER)))
    answers = await ask.all(NUMBER, OTHER)
    found = {
        number: answer.status for number, answer in answers.items() if isinstance(answer, Found)
    }
    assert found == {NUMBER: "in_transit", OTHER: "delivered"}


async def test_a_failure_that_does_not_name_its_number_is_known_by_its_place(ask: Asked) -> None:
    nameless = usps_failure(OTHER)
    del nameless["trackingNumber"]
    ask.server.answers(usps_reply(usps_parcel(NUMBER), nameless))
    answers = await ask.all(NUMBER, OTHER)
    assert [type(answer) for answer in answers.values()] == [Found, NotFound]


async def test_a_number_that_comes_back_without_its_zip_code_is_known(ask: Asked) -> None:
    routed = f"42038101{NUMBER}"
    ask.server.answers(usps_reply(usps_parcel(OTHER), usps_parcel(NUMBER)))
    answers = await ask.all(OTHER, routed)
    assert [type(answer) for answer in answers.values()] == [Found, Found]
    ask.server.answers(usps_reply(usps_parcel(OTHER), usps_parcel(NUMBER)))
    answers = await ask.all(NUMBER, NUMBERS[0])  # that is the other one, in another place
    assert [type(answer) for answer in answers.values()] == [Found, Malformed]


async def test_a_number_that_the_answer_does_not_mention(ask: Asked) -> None:
    ask.server.answers(usps_reply(usps_parcel(OTHER)))
    answers = await ask.all(NUMBER, OTHER)
    assert [type(answer) for answer in answers.values()] == [Malformed, Found]


async def test_one_malformed_parcel_does_not_spoil_the_others(ask: Asked) -> None:
    broken: list[Any] = [
        {"trackingNumber": NUMBERS[0], "statusCategory": {}, "trackingEvents": [[]]},
        {"trackingNumber": NUMBERS[1], "trackingEvents": "none"},
        None,
    ]
    ask.server.answers(usps_reply(*broken, usps_parcel(NUMBERS[3])))
    answers = await ask.all(*NUMBERS[:4])
    assert [type(answer) for answer in answers.values()] == [Malformed] * 3 + [Found]


async def test_a_404_for_the_only_number_is_not_found(ask: Asked) -> None:
    ask.server.answers(usps_error(404, "Tracking is not available for this item."))
    assert await ask.all(NUMBER) == {
        NUMBER: NotFound(NUMBER, "Tracking is not available for this item.")
    }


async def test_a_number_that_spoils_the_whole_call_is_found_and_left_out(ask: Asked) -> None:
    bad = NUMBERS[20]

    def picky(call: Call) -> Reply:
        if bad in usps_asked(call):
            return usps_error(400, "Invalid tracking number.")
        return SPOKEN["usps"].found(call)

    ask.server.answers(picky)
    answers = await ask.all(*NUMBERS[:35])
    assert isinstance(answers.pop(bad), Invalid)
    assert all(isinstance(answer, Found) for answer in answers.values())
    assert len(ask.server.calls) <= 13


async def test_times_are_greenwich_with_the_distance_beside_them(ask: Asked) -> None:
    event = usps_event(local="2026-03-21T09:30:15", gmt="2026-03-21T14:30:15.041Z")
    (scan,) = (await ask.found(trackingEvents=[event])).scans
    assert scan.at == from_iso("2026-03-21T14:30:15.041Z")
    assert scan.offset == -300
    assert scan.place == "MEMPHIS, TN, US"


@pytest.mark.parametrize(
    ("event", "instant", "offset"),
    [
        ({"GMTOffset": None}, "2026-03-21T14:30:15Z", -300),
        ({"GMTTimestamp": None}, "2026-03-21T14:30:15Z", -300),
        ({"GMTTimestamp": None, "GMTOffset": None}, "2026-03-21T09:30:15Z", None),
        (
            {"GMTTimestamp": None, "GMTOffset": None, "eventTimestamp": "2026-03-21T09:30:15Z"},
            "2026-03-21T09:30:15Z",
            None,  # the local time, whatever the Z says
        ),
        (
            {"GMTTimestamp": None, "eventTimestamp": "2026-03-21T09:30:15-06:00"},
            "2026-03-21T15:30:15Z",
            -360,
        ),
    ],
)
async def test_times_of_which_not_all_is_told(
    ask: Asked, event: dict[str, Any], instant: str, offset: int | None
) -> None:
    (scan,) = (await ask.found(trackingEvents=[usps_event(**event)])).scans
    assert (scan.at, scan.offset) == (from_iso(instant), offset)


@pytest.mark.parametrize(
    ("more", "eta"),
    [
        (
            {"deliveryDateExpectation": {"expectedDeliveryDate": "2026-03-24"}},
            "2026-03-24T23:59:59Z",
        ),
        (
            {
                "deliveryDateExpectation": {
                    "expectedDeliveryDate": "2026-03-24",
                    "predictedDeliveryDate": "2026-03-24",
                    "predictedDeliveryWindowStartTime": "12:30 pm",
                    "predictedDeliveryWindowEndTime": "4:30 pm",
                    "endOfDay": "9:00 pm",
                }
            },
            "2026-03-24T16:30:00Z",
        ),
        (
            {
                "deliveryDateExpectation": {
                    "predictedDeliveryDate": "2026-03-25",
                    "guaranteedDeliveryDate": "2026-03-26",
                    "endOfDay": "9:00pm",
                }
            },
            "2026-03-25T21:00:00Z",
        ),
        (
            {"deliveryDateExpectation": {"guaranteedDeliveryDate": "2026-03-26"}},
            "2026-03-26T23:59:59Z",
        ),
        ({"expectedDeliveryTimeStamp": "2026-03-24T18:00:00"}, "2026-03-24T18:00:00Z"),
        (
            {
                "predictedDeliveryDate": "2026-03-24",
                "predictedDeliveryWindowEndTime": "18:00:00",
            },
            "2026-03-24T18:00:00Z",
        ),
        ({"deliveryDateExpectation": {"expectedDeliveryDate": "3 Business Days"}}, None),
        ({}, None),
    ],
)
async def test_the_eta(ask: Asked, more: dict[str, Any], eta: str | None) -> None:
    found = await ask.found(**more)
    assert found.eta == (None if eta is None else from_iso(eta))


async def test_a_delivery_has_its_time_and_who_took_it(ask: Asked) -> None:
    """By the carrier's clock, not by ours."""
    found = await ask.found(
        "Delivered",
        status="Delivered, Left with Individual",
        trackingEvents=[
            usps_event(
                "01",
                "Delivered, Left with Individual",
                local="2026-03-22T11:00:00",
                gmt="2026-03-22T16:00:00Z",
                name="J SMITH",
            ),
            usps_event("OF", "Out for Delivery"),
        ],
        deliveryDateExpectation={"expectedDeliveryDate": "2026-03-22"},
    )
    assert found.status == "delivered"
    assert found.delivered_at == from_iso("2026-03-22T16:00:00Z")
    assert found.delivered_offset == -300
    assert found.signed_by == "J SMITH"
    assert found.eta is None
    assert found.code == "01"
    assert found.text == "Delivered, Left with Individual"
    assert found.service == "Priority Mail®"


@pytest.mark.parametrize(
    ("category", "status"),
    [
        ("Pre-Shipment", "pre_transit"),
        ("Accepted", "in_transit"),
        ("In Transit", "in_transit"),
        ("Out for Delivery", "out_for_delivery"),
        ("Delivery Attempt", "attempt_failed"),
        ("Delivery Attempt: Action Needed", "attempt_failed"),
        ("Available for Pickup", "available_for_pickup"),
        ("Delivered", "delivered"),
        ("Delivered to Agent", "delivered"),
        ("Alert", "exception"),
        ("Return to Sender", "return_to_sender"),
        ("Moving Through Network", "in_transit"),
    ],
)
async def test_each_category_is_its_own_status(ask: Asked, category: str, status: str) -> None:
    """Not everything that is not delivered is in transit."""
    assert (await ask.found(category)).status == status


async def test_delivered_to_the_original_sender_is_not_delivered(ask: Asked) -> None:
    found = await ask.found(
        "Delivered",
        status="Delivered, To Original Sender",
        trackingEvents=[
            usps_event("01", "Delivered, To Original Sender", gmt="2026-03-25T16:00:00Z"),
            usps_event("21", "No Such Number", gmt="2026-03-23T16:00:00Z"),
        ],
    )
    assert (found.status, found.sub_status) == ("return_to_sender", "returned")
    assert found.delivered_at is None
    assert (found.scans[0].status, found.scans[0].sub_status) == ("return_to_sender", "returned")


async def test_a_category_that_is_not_known_yet_leaves_it_to_text_and_events(ask: Asked) -> None:
    assert (await ask.found("Brand New", status="Held at Post Office")).status == (
        "available_for_pickup"
    )
    out = usps_event("OF", "Out for Delivery")
    assert (await ask.found("Brand New", trackingEvents=[out])).status == "out_for_delivery"
    assert (await ask.found("Brand New", trackingEvents=[])).status == "pending"


@pytest.mark.parametrize(
    ("category", "text", "newest", "meaning"),
    [
        ("Alert", "Refused", None, ("exception", "refused")),
        ("Alert", "Alert", ("exception", "undeliverable"), ("exception", "undeliverable")),
        ("Alert", "Return to Sender", None, ("return_to_sender", "returning")),
        ("In Transit", "x", ("return_to_sender", "returning"), ("return_to_sender", "returning")),
        ("Alert", "Alert", ("in_transit", None), ("exception", None)),
        ("In Transit", "x", ("out_for_delivery", None), ("in_transit", None)),
        ("In Transit", "Forwarded", None, ("in_transit", "forwarded")),
        ("Delivered", "x", ("delivered", "to_agent"), ("delivered", "to_agent")),
    ],
)
def test_text_and_newest_event_make_a_category_more_precise(
    category: str, text: str, newest: Any, meaning: Any
) -> None:
    assert of_parcel(category, text, "", newest) == meaning


@pytest.mark.parametrize(
    ("code", "text", "status"),
    [
        ("MA", "Shipping Label Created", "pre_transit"),
        ("03", "Accepted", "in_transit"),
        ("02", "Notice Left", "attempt_failed"),
        ("16", "Available for Pickup", "available_for_pickup"),
        ("04", "Refused", "exception"),
        ("09", "Return to Sender", "return_to_sender"),
        ("01", "Delivered, To Original Sender", "return_to_sender"),
        ("ZZ", "Arrived at USPS Regional Facility", "in_transit"),
        ("", "Out for Delivery", "out_for_delivery"),
        ("DX", "Delivery Status Not Updated", None),
        ("ZZ", "Something unheard of", None),
        # The text decides by how it begins, not by what it holds.
        ("", "USPS expects item for delivery attempt", "pre_transit"),
    ],
)
def test_events(code: str, text: str, status: str | None) -> None:
    meaning = of_event(code, text)
    assert (meaning and meaning[0]) == status

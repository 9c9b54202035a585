"""FedEx: what its answers mean."""

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
from penstock.tracking.carriers.fedex import CODES, FedEx
from support.carriers import (
    CLIENT_ID,
    SECRET,
    SPOKEN,
    Call,
    CarrierServer,
    Reply,
    fedex_asked,
    fedex_error,
    fedex_refusal,
    fedex_reply,
    fedex_result,
    fedex_scan,
    patient_session,
)

pytestmark = pytest.mark.anyio
NUMBER, OTHER = SPOKEN["fedex"].numbers
NUMBERS = [str(449044304137000 + i) for i in range(75)]


class Asked:
    def __init__(self, server: CarrierServer, carrier: FedEx) -> None:
        self.server = server
        self.carrier = carrier

    async def __call__(self, *results: Any, ship_date: date | None = None) -> Answer:
        if results:
            self.server.answers(fedex_reply({NUMBER: list(results)}))
        return (await self.carrier.fetch([Query(NUMBER, ship_date)]))[NUMBER]

    async def found(self, *results: Any, ship_date: date | None = None) -> Found:
        answer = await self(*results, ship_date=ship_date)
        assert isinstance(answer, Found), answer
        return answer


@pytest.fixture
async def ask() -> AsyncIterator[Asked]:
    async with CarrierServer() as server, patient_session() as session:
        carrier = FedEx(
            Credential("settings", SPOKEN["fedex"].values), server.url, session, ManualClock()
        )
        yield Asked(server, carrier)
        await carrier.close()


def dated(**times: str) -> list[dict[str, str]]:
    return [{"type": type_, "dateTime": time} for type_, time in times.items()]


async def test_it_asks_as_fedex_wants_to_be_asked(ask: Asked) -> None:
    await ask.found(fedex_result(NUMBER))
    (call,) = ask.server.calls
    assert (call.method, call.path) == ("POST", "/track/v1/trackingnumbers")
    assert call.json == {
        "includeDetailedScans": True,
        "trackingInfo": [{"trackingNumberInfo": {"trackingNumber": NUMBER}}],
    }
    assert call.headers["x-locale"] == "en_US"
    assert call.headers["x-customer-transaction-id"]
    (token,) = ask.server.token_calls
    assert token.form == {
        "grant_type": "client_credentials",
        "client_id": CLIENT_ID,
        "client_secret": SECRET,
    }


async def test_thirty_numbers_go_into_one_call_and_never_more(ask: Asked) -> None:
    ask.server.answers(SPOKEN["fedex"].found)
    answers = await ask.carrier.fetch([Query(number) for number in NUMBERS])
    assert list(answers) == NUMBERS
    assert all(isinstance(answer, Found) for answer in answers.values())
    assert [len(fedex_asked(call)) for call in ask.server.calls] == [30, 30, 15]
    assert len(ask.server.token_calls) == 1


async def test_what_is_wrong_with_one_stands_beside_what_was_found_of_another(ask: Asked) -> None:
    """And nothing else is asked for: no documents, no second call for a delivered parcel."""
    four = [NUMBER, OTHER, "231300687629630", "377101283611590", "076288115212522"]
    ask.server.answers(
        fedex_reply(
            {
                four[0]: fedex_result(four[0], "DL"),
                four[1]: fedex_refusal(four[1], "TRACKING.TRACKINGNUMBER.NOTFOUND"),
                four[2]: fedex_refusal(four[2], "TRACKING.TRACKINGNUMBER.INVALID"),
                four[3]: fedex_refusal(four[3], "INTERNAL.SERVER.ERROR"),
                four[4]: fedex_refusal(four[4], "NOT.AUTHORIZED.ERROR"),
            }
        )
    )
    answers = await ask.carrier.fetch([Query(number) for number in four])
    assert [type(answers[number]) for number in four] == [
        Found,
        NotFound,
        Invalid,
        Malformed,
        Forbidden,
    ]
    forbidden = answers[four[4]]
    assert isinstance(forbidden, Forbidden)
    assert forbidden.number == four[4]  # only this one: the credential itself is good
    assert len(ask.server.calls) == 1


async def test_one_malformed_parcel_does_not_spoil_the_others(ask: Asked) -> None:
    broken: list[Any] = [
        {},
        {"latestStatusDetail": "?", "scanEvents": {"date": 7}},
        {"latestStatusDetail": [], "dateAndTimes": "x", "scanEvents": [None]},
    ]
    numbers = NUMBERS[: len(broken) + 1]
    results: dict[str, Any] = dict(zip(numbers, broken, strict=False))
    ask.server.answers(fedex_reply({**results, numbers[-1]: fedex_result(numbers[-1])}))
    answers = await ask.carrier.fetch([Query(number) for number in numbers])
    assert [type(answers[number]) for number in numbers] == [Malformed] * len(broken) + [Found]


async def test_a_number_that_the_answer_does_not_mention(ask: Asked) -> None:
    ask.server.answers(fedex_reply({OTHER: fedex_result(OTHER)}))
    answers = await ask.carrier.fetch([Query(NUMBER), Query(OTHER)])
    assert isinstance(answers[NUMBER], Malformed)
    assert isinstance(answers[OTHER], Found)


async def test_a_number_that_spoils_the_whole_call_is_found_and_left_out(ask: Asked) -> None:
    bad = NUMBERS[17]

    def picky(call: Call) -> Reply:
        if bad in fedex_asked(call):
            return fedex_error(400, "TRACKING.TRACKINGNUMBER.INVALID", "Invalid tracking number.")
        return SPOKEN["fedex"].found(call)

    ask.server.answers(picky)
    answers = await ask.carrier.fetch([Query(number) for number in NUMBERS[:30]])
    assert isinstance(answers.pop(bad), Invalid)
    assert len(answers) == 29
    assert all(isinstance(answer, Found) for answer in answers.values())


async def test_a_fedex_that_refuses_every_call_is_not_asked_for_ever(ask: Asked) -> None:
    ask.server.answers(fedex_error(400, "TRACKING.TRACKINGNUMBER.INVALID", "No."))
    answers = await ask.carrier.fetch([Query(number) for number in NUMBERS[:30]])
    assert len(answers) == 30
    assert len(ask.server.calls) <= 11
    ask.server.calls.clear()
    ask.server.answers(fedex_error(400, "BAD.REQUEST", "Something of ours."))
    answers = await ask.carrier.fetch([Query(number) for number in NUMBERS[:30]])
    assert all(isinstance(answer, Malformed) for answer in answers.values())
    assert len(ask.server.calls) == 1


async def test_a_404_about_the_number_is_not_found(ask: Asked) -> None:
    ask.server.answers(fedex_error(404, "TRACKING.TRACKINGNUMBER.NOTFOUND", "Cannot be found."))
    assert isinstance(await ask(), NotFound)


async def test_the_time_of_a_scan_is_the_instant_and_its_zone(ask: Asked) -> None:
    """03:54 at -06:00 is not 03:54 in Greenwich."""
    scan = fedex_scan(date="2026-03-21T03:54:44-06:00")
    (read,) = (await ask.found(fedex_result(NUMBER, scanEvents=[scan]))).scans
    assert read.at == from_iso("2026-03-21T09:54:44Z")
    assert read.offset == -360
    assert read.place == "MEMPHIS, TN, US"
    assert (read.code, read.status) == ("AR", "in_transit")


async def test_a_scan_that_cannot_be_read_does_not_take_the_others_along(ask: Asked) -> None:
    scans = [fedex_scan(date="yesterday"), "?", fedex_scan()]
    assert len((await ask.found(fedex_result(NUMBER, scanEvents=scans))).scans) == 1


async def test_a_scan_is_read_by_its_event_before_what_fedex_derives_of_it(ask: Asked) -> None:
    scans = [
        fedex_scan("OD", "IT"),
        fedex_scan("ZZ", "OC"),
        fedex_scan("ZZ", "ZZ"),
        fedex_scan("DE", "DE", exceptionDescription="Customer not available"),
    ]
    found = await ask.found(fedex_result(NUMBER, scanEvents=scans))
    assert [scan.status for scan in found.scans] == [
        "out_for_delivery",
        "pre_transit",
        None,
        "attempt_failed",
    ]
    assert found.scans[-1].text == "event DE: Customer not available"


@pytest.mark.parametrize(
    ("more", "eta", "offset"),
    [
        (
            {
                "estimatedDeliveryTimeWindow": {
                    "window": {
                        "begins": "2026-03-24T09:00:00-06:00",
                        "ends": "2026-03-24T13:00:00-06:00",
                    }
                },
                "dateAndTimes": dated(ESTIMATED_DELIVERY="2026-03-25T00:00:00-06:00"),
            },
            "2026-03-24T19:00:00Z",
            -360,
        ),
        (
            {
                "estimatedDeliveryTimeWindow": {"window": {"begins": "", "ends": ""}},
                "standardTransitTimeWindow": {"window": {"ends": "2026-03-26T00:00:00-06:00"}},
                "dateAndTimes": dated(ESTIMATED_DELIVERY="2026-03-25T18:00:00-06:00"),
            },
            "2026-03-26T00:00:00Z",
            -360,
        ),
        (
            {"standardTransitTimeWindow": {"window": {"ends": "2026-03-26T20:00:00"}}},
            "2026-03-26T20:00:00Z",
            None,
        ),
        ({"dateAndTimes": dated(COMMITMENT="2026-03-27")}, "2026-03-27T23:59:59Z", None),
        ({}, None, None),
    ],
)
async def test_the_eta(
    ask: Asked, more: dict[str, Any], eta: str | None, offset: int | None
) -> None:
    found = await ask.found(fedex_result(NUMBER, **more))
    assert found.eta == (None if eta is None else from_iso(eta))
    assert found.eta_offset == offset


async def test_a_delivery_has_its_time_and_who_took_it(ask: Asked) -> None:
    """By the carrier's clock, not by ours."""
    found = await ask.found(
        fedex_result(
            NUMBER,
            "DL",
            dateAndTimes=dated(
                ACTUAL_DELIVERY="2026-03-21T13:31:00-05:00",
                ESTIMATED_DELIVERY="2026-03-22T00:00:00-05:00",
            ),
            deliveryDetails={"receivedByName": "J.SMITH", "deliveryAttempts": "0"},
        )
    )
    assert found.status == "delivered"
    assert found.delivered_at == from_iso("2026-03-21T18:31:00Z")
    assert found.delivered_offset == -300
    assert found.signed_by == "J.SMITH"
    assert found.eta is None
    assert found.service == "FedEx Ground"


async def test_the_reason_of_an_exception_is_told(ask: Asked) -> None:
    result = fedex_result(NUMBER, "SE")
    result["latestStatusDetail"]["ancillaryDetails"] = [
        {"reason": "99", "reasonDescription": "Severe weather", "action": ""}
    ]
    found = await ask.found(result)
    assert found.status == "exception"
    assert found.text == "description SE: Severe weather"


async def test_a_code_that_is_not_known_yet_leaves_it_to_the_scans(ask: Asked) -> None:
    found = await ask.found(fedex_result(NUMBER, "??", scanEvents=[fedex_scan("OD", "OD")]))
    assert (found.status, found.code) == ("out_for_delivery", "??")
    bare = await ask.found(fedex_result(NUMBER, "??", scanEvents=[]))
    assert bare.status == "pending"


async def test_of_two_parcels_with_one_number_the_ship_date_decides(ask: Asked) -> None:
    old = fedex_result(
        NUMBER,
        "DL",
        dateAndTimes=dated(
            SHIP="2024-01-05T00:00:00-06:00", ACTUAL_DELIVERY="2024-01-09T12:00:00-06:00"
        ),
    )
    new = fedex_result(NUMBER, "IT", dateAndTimes=dated(SHIP="2026-03-18T00:00:00-06:00"))
    assert (await ask.found(old, new)).status == "in_transit"
    assert (await ask.found(old, new, ship_date=date(2026, 3, 17))).status == "in_transit"
    assert (await ask.found(new, old, ship_date=date(2024, 1, 4))).status == "delivered"
    refused = fedex_refusal(NUMBER, "TRACKING.TRACKINGNUMBER.NOTFOUND")
    assert (await ask.found(refused, new)).status == "in_transit"


async def test_delivered_to_the_sender_is_not_delivered(ask: Asked) -> None:
    scans = [
        fedex_scan("DL", "DL", "2026-03-25T12:00:00-05:00"),
        fedex_scan("RS", "RS", "2026-03-23T12:00:00-05:00"),
    ]
    times = dated(ACTUAL_DELIVERY="2026-03-25T12:00:00-05:00")
    found = await ask.found(fedex_result(NUMBER, "DL", scanEvents=scans, dateAndTimes=times))
    assert (found.status, found.sub_status) == ("return_to_sender", "returned")


@pytest.mark.parametrize(
    ("codes", "status"),
    [
        ("OC MD EP OX", "pre_transit"),
        ("PU PX OF AP IT IX AR DP AF FD SF LO PM PL PF TR EA EO AA AC AX OW CP CC", "in_transit"),
        ("OD ED AD", "out_for_delivery"),
        ("DL", "delivered"),
        ("HL HP", "available_for_pickup"),
        ("DE", "attempt_failed"),
        ("SE CD DY DD PD", "exception"),
        ("RS", "return_to_sender"),
        ("CA", "cancelled"),
    ],
)
def test_the_table_of_codes(codes: str, status: str) -> None:
    for code in codes.split():
        meaning = CODES[code]
        assert meaning is not None
        assert meaning[0] == status, code


async def test_codes_are_read_whatever_their_case(ask: Asked) -> None:
    assert (await ask.found(fedex_result(NUMBER, "Ow"))).status == "in_transit"

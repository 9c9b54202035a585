"""UPS: what its answers mean."""

from __future__ import annotations

from collections.abc import AsyncIterator
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
from penstock.tracking.carriers.ups import Ups
from penstock.tracking.carriers.ups_codes import CODES
from support.carriers import (
    CLIENT_ID,
    SECRET,
    SPOKEN,
    CarrierServer,
    patient_session,
    ups_activity,
    ups_error,
    ups_found,
    ups_package,
    ups_status,
    ups_warned,
)

pytestmark = pytest.mark.anyio
NUMBER = SPOKEN["ups"].numbers[0]


class Asked:
    def __init__(self, server: CarrierServer, carrier: Ups) -> None:
        self.server = server
        self._carrier = carrier

    async def __call__(self, *packages: Any) -> Answer:
        if packages:
            self.server.answers(ups_found(NUMBER, *packages))
        return (await self._carrier.fetch([Query(NUMBER)]))[NUMBER]

    async def found(self, *packages: Any) -> Found:
        answer = await self(*packages)
        assert isinstance(answer, Found), answer
        return answer


@pytest.fixture
async def ask() -> AsyncIterator[Asked]:
    async with CarrierServer() as server, patient_session() as session:
        carrier = Ups(
            Credential("settings", SPOKEN["ups"].values), server.url, session, ManualClock()
        )
        yield Asked(server, carrier)
        await carrier.close()


async def test_it_asks_as_ups_wants_to_be_asked(ask: Asked) -> None:
    await ask.found(ups_package(NUMBER))
    await ask()
    first, second = ask.server.calls
    assert first.method == "GET"
    assert first.path == f"/api/track/v1/details/{NUMBER}"
    assert first.query["locale"] == "en_US"
    assert first.headers["transactionsrc"] == "penstock"
    assert first.headers["transid"] != second.headers["transid"]
    (token,) = ask.server.token_calls
    assert token.form == {"grant_type": "client_credentials"}
    assert token.headers["authorization"].startswith("Basic ")
    assert SECRET.encode() not in token.body
    assert CLIENT_ID not in first.headers.values()


async def test_an_unknown_number_is_a_404_or_a_200_with_a_warning(ask: Asked) -> None:
    ask.server.answers(ups_warned(NUMBER))
    warned = await ask()
    ask.server.answers(ups_error(404, "TW0001", "Tracking Information Not Found"))
    refused = await ask()
    assert warned == refused == NotFound(NUMBER, "TW0001 Tracking Information Not Found")


async def test_a_warning_beside_a_package_hides_nothing(ask: Asked) -> None:
    reply = ups_found(NUMBER)
    reply.body["trackResponse"]["shipment"][0]["warnings"] = [{"code": "TW1", "message": "!"}]
    ask.server.answers(reply)
    assert isinstance(await ask(), Found)


@pytest.mark.parametrize(
    ("code", "message"),
    [("TV1002", "Invalid inquiry number"), ("151018", "Invalid tracking number")],
)
async def test_a_number_that_is_none(ask: Asked, code: str, message: str) -> None:
    ask.server.answers(ups_error(400, code, message))
    assert await ask() == Invalid(NUMBER, f"{code} {message}")


async def test_another_400_is_no_verdict_on_the_number(ask: Asked) -> None:
    ask.server.answers(ups_error(400, "TV0001", "Missing transId"))
    assert isinstance(await ask(), Malformed)


async def test_the_time_of_a_scan_is_the_instant_and_its_zone(ask: Asked) -> None:
    """Not the local time taken for UTC."""
    found = await ask.found(
        ups_package(NUMBER, activity=[ups_activity(local="20260321 213015")]),
    )
    (scan,) = found.scans
    assert scan.at == from_iso("2026-03-22T01:30:15Z")
    assert scan.offset == -240
    assert scan.place == "Louisville, KY, US"
    assert scan.code == "005"


async def test_a_scan_with_no_zone_says_so(ask: Asked) -> None:
    bare = ups_activity(gmtDate=None, gmtTime=None, gmtOffset=None)
    (scan,) = (await ask.found(ups_package(NUMBER, activity=[bare]))).scans
    assert (scan.at, scan.offset) == (from_iso("2026-03-21T09:30:15Z"), None)


async def test_a_scan_that_cannot_be_read_does_not_take_the_others_along(ask: Asked) -> None:
    broken = ups_activity(date="tomorrow", gmtDate="tomorrow")
    found = await ask.found(ups_package(NUMBER, activity=[broken, 7, ups_activity()]))
    assert len(found.scans) == 1


@pytest.mark.parametrize(
    ("package", "eta"),
    [
        (
            {"deliveryDate": [{"type": "SDD", "date": "20260324"}]},
            "2026-03-24T23:59:59Z",
        ),
        (
            {
                "deliveryDate": [
                    {"type": "SDD", "date": "20260324"},
                    {"type": "RDD", "date": "20260325"},
                ],
                "deliveryTime": {"type": "EDW", "startTime": "101500", "endTime": "141500"},
            },
            "2026-03-25T14:15:00Z",
        ),
        (
            {
                "deliveryDate": [{"type": "SDD", "date": "20260324"}],
                "deliveryTime": {"type": "CMT", "endTime": "103000"},
            },
            "2026-03-24T10:30:00Z",
        ),
        (
            {
                "deliveryDate": [{"type": "SDD", "date": "20260324"}],
                "deliveryTime": {"type": "EOD"},
            },
            "2026-03-24T23:59:59Z",
        ),
        ({"deliveryDate": [{"type": "SDD", "date": "unknown"}]}, None),
    ],
)
async def test_the_scheduled_and_the_rescheduled_day_are_the_eta(
    ask: Asked, package: dict[str, Any], eta: str | None
) -> None:
    found = await ask.found(ups_package(NUMBER, **package))
    assert found.eta == (None if eta is None else from_iso(eta))
    assert found.eta_offset is None


async def test_a_delivery_has_its_time_and_who_took_it(ask: Asked) -> None:
    """By the carrier's clock, not by ours."""
    found = await ask.found(
        ups_package(
            NUMBER,
            "011",
            "D",
            activity=[ups_activity("011", "D", local="20260321 141500"), ups_activity("021")],
            deliveryDate=[{"type": "DEL", "date": "20260321"}, {"type": "SDD", "date": "20260322"}],
            deliveryTime={"type": "DEL", "endTime": "141500"},
            deliveryInformation={"location": "Front Door", "receivedBy": "JORDAN"},
        )
    )
    assert found.status == "delivered"
    assert found.delivered_at == from_iso("2026-03-21T18:15:00Z")
    assert found.delivered_offset == -240
    assert found.signed_by == "JORDAN"
    assert found.eta is None
    assert found.service == "UPS Ground"


async def test_a_delivery_without_its_activity_has_the_local_time(ask: Asked) -> None:
    found = await ask.found(
        ups_package(
            NUMBER,
            "011",
            "D",
            activity=[],
            deliveryDate=[{"type": "DEL", "date": "20260321"}],
            deliveryTime={"type": "DEL", "endTime": "141500"},
        )
    )
    assert found.delivered_at == from_iso("2026-03-21T14:15:00Z")
    assert found.delivered_offset is None


@pytest.mark.parametrize(
    ("code", "type_", "status"),
    [
        ("003", "M", "pre_transit"),
        ("021", "I", "out_for_delivery"),  # its type says only "in transit"
        ("040", "I", "available_for_pickup"),
        ("012", "I", "in_transit"),
        ("022", "X", "attempt_failed"),
        ("059", "X", "exception"),
        ("011", "D", "delivered"),
        ("036", "X", "return_to_sender"),
        ("007", "MV", "cancelled"),
        ("21", "I", "out_for_delivery"),  # without its zero
    ],
)
async def test_the_status_is_that_of_the_code_not_of_the_type(
    ask: Asked, code: str, type_: str, status: str
) -> None:
    assert (await ask.found(ups_package(NUMBER, code, type_))).status == status


@pytest.mark.parametrize(
    ("type_", "status"), [("I", "in_transit"), ("X", "exception"), ("??", "in_transit")]
)
async def test_a_code_that_is_not_known_yet(ask: Asked, type_: str, status: str) -> None:
    found = await ask.found(ups_package(NUMBER, "999", type_))
    assert found.status == status
    assert found.code == "999"


async def test_a_request_says_nothing_of_where_the_parcel_is(ask: Asked) -> None:
    """The newest activity that tells, counts."""
    found = await ask.found(
        ups_package(
            NUMBER,
            "027",
            "X",
            activity=[ups_activity("027", "X"), ups_activity("021"), ups_activity("005")],
        )
    )
    assert found.status == "out_for_delivery"
    assert found.code == "027"
    assert found.scans[0].status is None


async def test_a_summary_without_code_and_type_is_that_of_the_newest_activity(ask: Asked) -> None:
    package = ups_package(NUMBER, "021")
    package["currentStatus"] = {"description": "We Have Your Package"}
    found = await ask.found(package)
    assert found.status == "out_for_delivery"
    assert found.text == "We Have Your Package"


async def test_nothing_but_a_number_is_malformed(ask: Asked) -> None:
    assert isinstance(await ask({"trackingNumber": NUMBER}), Malformed)


async def test_the_package_is_the_one_that_was_asked_for(ask: Asked) -> None:
    found = await ask.found(ups_package("1Z12345E6605272234", "011", "D"), ups_package(NUMBER))
    assert found.status == "in_transit"


async def test_delivered_to_the_sender_is_not_delivered(ask: Asked) -> None:
    found = await ask.found(
        ups_package(
            NUMBER,
            "011",
            "D",
            activity=[
                ups_activity("011", "D", local="20260325 120000"),
                ups_activity("036", "X", local="20260323 120000"),
            ],
        )
    )
    assert (found.status, found.sub_status) == ("return_to_sender", "returned")
    assert found.delivered_at is None


async def test_returned_as_ups_says_it_at_the_end(ask: Asked) -> None:
    found = await ask.found(ups_package(NUMBER, currentStatus=ups_status("034", "D")))
    assert (found.status, found.sub_status) == ("return_to_sender", "returned")


@pytest.mark.parametrize(
    ("codes", "status"),
    [
        ("003 044 045 080 157 166", "pre_transit"),
        ("005 010 038 039 047 057 073 074 079 087 158 159 160 164 165", "in_transit"),
        ("006 021 037 071 072 075 078 089 091 146 162", "out_for_delivery"),
        ("011 026 143 161", "delivered"),
        ("017 040 106 108 144", "available_for_pickup"),
        ("022 023 024 060 061 062 066 145", "attempt_failed"),
        ("033 034 035 036 067 081 118 119", "return_to_sender"),
        (
            "013 029 030 032 046 048 049 050 051 052 053 059 064 068 069 083 085 086 090 132 147"
            " 149",
            "exception",
        ),
        ("007 043", "cancelled"),
    ],
)
def test_the_table_of_codes(codes: str, status: str) -> None:
    for code in codes.split():
        meaning = CODES[code]
        assert meaning is not None
        assert meaning[0] == status, code


@pytest.mark.parametrize("code", ["012", "014", "058", "084", "092", "124", "125", "126", "134"])
def test_customs_is_told_apart(code: str) -> None:
    meaning = CODES[code]
    assert meaning is not None
    assert meaning[0] in ("in_transit", "exception")
    assert (meaning[1] or "").startswith("customs")

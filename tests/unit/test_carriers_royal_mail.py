"""Royal Mail: what its answers mean."""

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
from penstock.tracking.carriers.royal_mail import RoyalMail
from penstock.tracking.status import RETURNED
from support.carriers import (
    CLIENT_ID,
    SECRET,
    SPOKEN,
    CarrierServer,
    patient_session,
    royal_mail_error,
    royal_mail_event,
    royal_mail_found,
    royal_mail_piece,
)

pytestmark = pytest.mark.anyio
NUMBER = SPOKEN["royal_mail"].numbers[0]


class Asked:
    def __init__(self, server: CarrierServer, carrier: RoyalMail) -> None:
        self.server = server
        self._carrier = carrier

    async def __call__(self, piece: Any = None) -> Answer:
        if piece is not None:
            self.server.answers(royal_mail_found(piece))
        return (await self._carrier.fetch([Query(NUMBER)]))[NUMBER]

    async def of(self, *events: Any, **more: Any) -> Found:
        answer = await self(royal_mail_piece(NUMBER, *events, **more))
        assert isinstance(answer, Found), answer
        return answer


@pytest.fixture
async def ask() -> AsyncIterator[Asked]:
    async with CarrierServer() as server, patient_session() as session:
        credential = Credential("settings", SPOKEN["royal_mail"].values)
        carrier = RoyalMail(credential, server.url, session, ManualClock())
        yield Asked(server, carrier)
        await carrier.close()


async def test_it_asks_as_royal_mail_wants_to_be_asked(ask: Asked) -> None:
    await ask.of()
    (call,) = ask.server.calls
    assert (call.method, call.path) == ("GET", f"/mailpieces/v2/{NUMBER}/events")
    assert call.headers["x-ibm-client-id"] == CLIENT_ID
    assert call.headers["x-ibm-client-secret"] == SECRET
    assert call.headers["x-accept-rmg-terms"] == "yes"


@pytest.mark.parametrize(
    ("code", "category", "status", "sub_status"),
    [
        ("EVAIP", "IN TRANSIT", "pre_transit", None),
        ("EVDAC", "IN TRANSIT", "in_transit", None),
        ("EVNMI", "IN TRANSIT", "in_transit", "misrouted"),
        ("EVGPD", "IN TRANSIT", "out_for_delivery", None),
        ("EVKNA", "IN TRANSIT", "attempt_failed", None),
        ("EVNPS", "IN TRANSIT", "available_for_pickup", None),
        ("EVKLC", "DELIVERED", "available_for_pickup", None),  # at the collection point
        ("EVKSP", "DELIVERED", "delivered", None),
        ("EVKDN", "DELIVERED", "delivered", "to_neighbour"),
        ("EVPLC", "DELIVERED", "delivered", "collected"),
        ("EVKRF", "EXCEPTION", "return_to_sender", "returning"),
        ("EVRTS", "DELIVERED", "return_to_sender", RETURNED),
        ("EVZZZ", "DELIVERED", "delivered", None),
        ("EVZZZ", "EXCEPTION", "exception", None),
        ("EVZZZ", "IN TRANSIT", "in_transit", None),
        ("EVZZZ", "EXPIRED", "in_transit", None),  # Royal Mail forgets; the item does not move
    ],
)
async def test_codes_and_where_one_is_not_known_the_category(
    ask: Asked, code: str, category: str, status: str, sub_status: str | None
) -> None:
    """An item that was out for delivery was said to be in transit."""
    found = await ask.of(royal_mail_event(code, "Its name"), category=category)
    assert (found.status, found.sub_status) == (status, sub_status)
    assert (found.code, found.text) == (code, "A few words about it")
    (scan,) = found.scans
    assert (scan.code, scan.text) == (code, "Its name")
    assert scan.status == (None if code == "EVZZZ" else status)


async def test_a_request_of_the_recipient_leaves_the_status_as_it_was(ask: Asked) -> None:
    found = await ask.of(
        royal_mail_event("RORXS", "Redelivery requested", "2026-03-22T10:00:00+00:00"),
        royal_mail_event("EVKNA", "No answer", "2026-03-22T09:00:00+00:00"),
    )
    assert found.status == "attempt_failed"


async def test_times_keep_their_zone(ask: Asked) -> None:
    found = await ask.of(
        royal_mail_event(at="2026-06-21T10:04:00+01:00"),
        royal_mail_event(at="2026-06-20T10:04:00+0100"),
        royal_mail_event(at="2026-06-19T10:04:00"),
        royal_mail_event(at=""),
    )
    assert [(scan.at, scan.offset) for scan in found.scans] == [
        (from_iso("2026-06-21T09:04:00Z"), 60),
        (from_iso("2026-06-20T09:04:00Z"), 60),
        (from_iso("2026-06-19T10:04:00Z"), None),
    ]
    assert found.scans[0].place == "Stafford DO"


async def test_a_delivery_with_its_time_and_who_signed(ask: Asked) -> None:
    found = await ask.of(
        royal_mail_event("EVKSP", "Delivered", "2026-06-21T10:04:00+01:00"),
        category="DELIVERED",
        signature={"recipientName": "SIMON", "signatureDateTime": "2026-06-21T10:05:00+01:00"},
        estimatedDelivery={"date": "2026-06-22"},
    )
    assert found.delivered_at == from_iso("2026-06-21T09:04:00Z")
    assert found.delivered_offset == 60
    assert found.signed_by == "SIMON"
    assert found.eta is None
    assert found.service == "Special Delivery Guaranteed"


async def test_what_is_announced(ask: Asked) -> None:
    announced = {
        "date": "2026-02-20",
        "startOfEstimatedWindow": "08:00:00+00:00",
        "endOfEstimatedWindow": "11:00:00+00:00",
    }
    window = await ask.of(estimatedDelivery=announced)
    assert (window.eta, window.eta_offset) == (from_iso("2026-02-20T11:00:00Z"), 0)
    day = await ask.of(estimatedDelivery={"date": "2026-02-20"})
    assert (day.eta, day.eta_offset) == (from_iso("2026-02-20T23:59:59Z"), None)


async def test_a_summary_without_events_and_events_without_a_summary(ask: Asked) -> None:
    alone = await ask.of(royal_mail_event("EVGPD", "Due today"), events=[])
    assert alone.status == "out_for_delivery"
    assert [scan.code for scan in alone.scans] == ["EVGPD"]
    piece = royal_mail_piece(
        NUMBER,
        royal_mail_event("EVNPS", "Ready", "2026-10-21T07:30:00+0000"),
        royal_mail_event("EVKNA", "No answer", "2026-10-20T07:30:00+0000"),
    )
    del piece["summary"]
    found = await ask(piece)
    assert isinstance(found, Found)
    assert (found.status, found.code, found.text) == ("available_for_pickup", "EVNPS", "Ready")


# --------------------------------------------------------------------------- refusals


async def test_an_unknown_item_in_each_of_its_ways(ask: Asked) -> None:
    ask.server.answers(royal_mail_error(404, "E1142", "Barcode reference is not recognised"))
    assert await ask() == NotFound(NUMBER, "E1142 Barcode reference is not recognised")
    error = {"errorCode": "E1142", "errorDescription": "not recognised"}
    assert await ask(royal_mail_piece(NUMBER, error=error)) == NotFound(
        NUMBER, "E1142 not recognised"
    )
    assert isinstance(await ask(royal_mail_piece(NUMBER, category="NOT FOUND")), NotFound)


async def test_a_number_that_is_refused(ask: Asked) -> None:
    ask.server.answers(royal_mail_error(400, "E1001", f"mailPieceId is wrong, {SECRET}"))
    answer = await ask()
    assert isinstance(answer, Invalid)
    assert SECRET not in answer.text


async def test_headers_that_are_refused_say_nothing_of_the_number(ask: Asked) -> None:
    ask.server.answers(royal_mail_error(400, "E0004", "Failed header validation"))
    assert isinstance(await ask(), Malformed)

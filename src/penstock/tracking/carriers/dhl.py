"""DHL: Shipment Tracking - Unified, one number a call.

Source: https://developer.dhl.com/api-reference/shipment-tracking (version 1.5.8). A key begins
with 250 calls a day, which end at midnight UTC, and one call in five seconds. Its status codes are
five; what is finer stands only in texts made to be read, and is taken from them where the wording
is known. The divisions of DHL number on their own, so one number may belong to several shipments.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import aiohttp

from penstock.clock import Clock
from penstock.tracking import numbers
from penstock.tracking.carriers import http, read
from penstock.tracking.carriers.base import (
    Answer,
    Budget,
    Carrier,
    Credential,
    Field,
    Found,
    Invalid,
    Malformed,
    NotFound,
    Query,
    Spec,
    one_by_one,
)
from penstock.tracking.carriers.http import Reply
from penstock.tracking.status import RETURNED, Scan, Status

Meaning = tuple[Status, str | None]

# "unknown" says nothing.
_CODES: Final[dict[str, Meaning]] = {
    "pre-transit": ("pre_transit", None),
    "transit": ("in_transit", None),
    "delivered": ("delivered", None),
    "failure": ("exception", None),
}


def _wording(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


# Which texts say more than the code beside them, by that code; the first that fits counts.
_WORDINGS: Final[dict[str, tuple[tuple[re.Pattern[str], Meaning], ...]]] = {
    "delivered": (
        (
            _wording(
                r"(delivered|returned) (back )?to (the )?(shipper|sender)"
                r"|returned to (the )?(shipper|sender)"
            ),
            ("return_to_sender", RETURNED),
        ),
    ),
    "transit": (
        (
            _wording(r"return(ed|ing)? to (the )?(shipper|sender)|being returned"),
            ("return_to_sender", read.RETURNING),
        ),
        (
            _wording(
                r"out for delivery|with (the )?(delivery )?courier"
                r"|loaded onto the delivery vehicle|in the delivery vehicle"
            ),
            ("out_for_delivery", None),
        ),
        (
            _wording(r"(ready|available|awaiting|held) for (pick-?up|collection)"),
            ("available_for_pickup", None),
        ),
        (
            _wording(r"delivery attempt(ed)?|could not be delivered|recipient not (at )?home"),
            ("attempt_failed", None),
        ),
        (_wording(r"customs"), ("in_transit", "customs")),
        (_wording(r"picked up"), ("in_transit", "picked_up")),
    ),
    "failure": (
        (
            _wording(r"return(ed|ing)? to (the )?(shipper|sender)|being returned"),
            ("return_to_sender", read.RETURNING),
        ),
        (
            _wording(r"delivery attempt(ed)?|recipient not (at )?home|attempted delivery"),
            ("attempt_failed", None),
        ),
        (_wording(r"customs"), ("exception", "customs")),
        (_wording(r"damage"), ("exception", "damaged")),
        (_wording(r"refused"), ("exception", "refused")),
        (_wording(r"address"), ("exception", "address")),
    ),
}

# Which division's numbers look so, by the name of the format.
_SERVICES: Final = {
    "DHL Express": "express",
    "DHL Paket": "parcel-de",
    "UPU S10": "parcel-de",
    "DHL eCommerce": "ecommerce",
}


class Dhl:
    """DHL, with one API key."""

    name = "dhl"
    per_call = 1

    def __init__(
        self, credential: Credential, base_url: str, session: aiohttp.ClientSession, clock: Clock
    ) -> None:
        self._credential = credential
        self._base_url = base_url.rstrip("/")
        self._session = session
        self._clock = clock

    async def fetch(self, queries: Sequence[Query]) -> dict[str, Answer]:
        """An answer for every number; one call each, one after another."""
        return await one_by_one(queries, self._fetch)

    async def close(self) -> None:
        """Nothing is kept between calls."""

    async def _fetch(self, query: Query) -> Answer:
        number = query.number
        if not (number.isascii() and number.isalnum()):
            return Invalid(number, "a DHL number has only letters and digits")
        asked = {"trackingNumber": number, "language": "en"}
        if query.postal_code:
            asked["recipientPostalCode"] = query.postal_code
        reply = await http.call(
            self._session,
            "GET",
            f"{self._base_url}/track/shipments",
            query=asked,
            headers={"DHL-API-Key": self._credential.values["api_key"]},
        )
        if not isinstance(reply, Reply):
            return reply
        common = http.refused(reply, self._clock)
        if common is not None:
            return common
        if 200 <= reply.status < 300:
            return http.one_parcel(number, _parcel, query, reply.body)
        said = self._credential.scrub(
            read.text(reply.body, "detail") or read.text(reply.body, "title")
        )
        if not said:
            return http.unexpected(reply)
        if reply.status == 404:
            return NotFound(number, said)
        if reply.status == 400:
            return Invalid(number, said)
        return Malformed(number, f"HTTP {reply.status}: {said}")


def _parcel(query: Query, body: Any) -> Answer:
    shipments = read.items(body, "shipments")
    if not shipments:
        if isinstance(body, dict) and body.get("shipments") == []:
            return NotFound(query.number, "no shipment in the answer")
        return Malformed(query.number, "the answer holds no shipments")
    return _found(query.number, _chosen(query, shipments))


def _chosen(query: Query, shipments: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of several with one number: that of the division whose numbers look so, then the newest."""
    if len(shipments) == 1:
        return shipments[0]
    looks = next((c.format for c in numbers.detect(query.number) if c.carrier == "dhl"), "")
    expected = _SERVICES.get(looks)

    def fitness(shipment: dict[str, Any]) -> tuple[bool, bool, int]:
        dates = [scan.at for scan in _scans(shipment)]
        near = -min(
            (read.days_between(at, query.ship_date) for at in dates), default=10**6
        ) if query.ship_date else max(dates, default=0)  # fmt: skip
        fits = expected is not None and read.text(shipment, "service") == expected
        return read.text(shipment, "id") == query.number, fits, near

    return max(shipments, key=fitness)


def _found(number: str, shipment: dict[str, Any]) -> Found | Malformed:
    said = read.obj(shipment, "status")
    scans = _scans(shipment)
    if not said and not scans:
        return Malformed(number, "the answer holds neither a status nor events")
    status, sub_status = _meaning(said) or read.told_last(scans)
    delivered = _delivered(shipment, scans) if status == "delivered" else None
    eta = None if status == "delivered" else _eta(shipment)
    found = Found(
        number,
        status,
        sub_status,
        read.text(said, "statusCode") or None,
        _said(said),
        scans,
        eta=eta.at if eta else None,
        eta_offset=eta.offset if eta else None,
        delivered_at=delivered.at if delivered else None,
        delivered_offset=delivered.offset if delivered else None,
        signed_by=_signed_by(shipment),
        service=read.text(shipment, "details", "product", "productName")
        or read.text(shipment, "service")
        or None,
    )
    return read.sent_back(found)


def _scans(shipment: dict[str, Any]) -> tuple[Scan, ...]:
    """Its events; the status alone where there are none, so that it has a date."""
    events = read.items(shipment, "events") or read.items(shipment, "status")
    return tuple(scan for scan in map(_scan, events) if scan is not None)


def _scan(event: dict[str, Any]) -> Scan | None:
    """None if it has no time that can be read: it has no place among the others."""
    moment = read.iso(read.text(event, "timestamp"))
    if moment is None:
        return None
    status, sub_status = _meaning(event) or (None, None)
    address = read.obj(event, "location", "address")
    where = read.place(read.text(address, "addressLocality"), read.text(address, "countryCode"))
    code = read.text(event, "statusCode") or None
    return Scan(moment.at, moment.offset, status, sub_status, code, _said(event), where)


def _meaning(said: dict[str, Any]) -> Meaning | None:
    code = read.text(said, "statusCode")
    words = " / ".join(read.text(said, key) for key in ("status", "description", "remark"))
    for wording, meaning in _WORDINGS.get(code, ()):
        if wording.search(words):
            return meaning
    return _CODES.get(code)


def _said(said: dict[str, Any]) -> str:
    return read.text(said, "description") or read.text(said, "status")


def _eta(shipment: dict[str, Any]) -> read.Moment | None:
    """The end of the announced window; else the announced time, or the end of that day."""
    frame = read.obj(shipment, "estimatedDeliveryTimeFrame")
    return read.iso(read.text(frame, "estimatedThrough")) or read.iso(
        read.text(shipment, "estimatedTimeOfDelivery")
    )


def _delivered(shipment: dict[str, Any], scans: Sequence[Scan]) -> read.Moment | None:
    """The time of the event of the delivery; else that of its proof, or of the status."""
    handed = [scan for scan in scans if scan.status == "delivered"]
    if handed:
        latest = max(handed, key=lambda scan: scan.at)
        return read.Moment(latest.at, latest.offset)
    proof = read.obj(shipment, "details", "proofOfDelivery")
    return read.iso(read.text(proof, "timestamp")) or read.iso(
        read.text(shipment, "status", "timestamp")
    )


def _signed_by(shipment: dict[str, Any]) -> str | None:
    signed = read.obj(shipment, "details", "proofOfDelivery", "signed")
    names = (read.text(signed, key) for key in ("givenName", "familyName"))
    return read.text(signed, "name") or " ".join(filter(None, names)) or None


def _make(
    credential: Credential, base_url: str, session: aiohttp.ClientSession, clock: Clock
) -> Carrier:
    return Dhl(credential, base_url, session, clock)


SPEC: Final = Spec(
    name="dhl",
    title="DHL",
    fields=(Field("api_key", "API key", secret=True),),
    per_call=1,
    budget=Budget(per_second=0.2, per_day=250),
    base_url="https://api-eu.dhl.com",
    page="https://www.dhl.com/global-en/home/tracking.html?submit=1&tracking-id={number}",
    make=_make,
)

"""USPS: the Tracking API 3.2 (its path says v3r2), up to 35 numbers a call.

Source: https://developers.usps.com/trackingv3r2 and, for the fields of a parcel, the published
description of 3.2.6. The quota of a new application is about 60 calls an hour over all of USPS's
APIs, token calls included, so how many numbers go into one call decides how many can be followed.
A call for several numbers is answered 207, each with a status code of its own; 404 also means that
USPS has the label's data, but nothing yet to tell. Since 2026-04-01 only who owns the Mailer ID of
a label, or is authorised for it, sees its parcel.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any, Final

import aiohttp

from penstock.clock import Clock
from penstock.tracking.carriers import http, oauth, read
from penstock.tracking.carriers.base import (
    Answer,
    Budget,
    Carrier,
    Credential,
    Field,
    Forbidden,
    Found,
    Invalid,
    Malformed,
    NotFound,
    Query,
    Spec,
    Unavailable,
)
from penstock.tracking.carriers.batches import in_batches
from penstock.tracking.carriers.http import Reply
from penstock.tracking.carriers.usps_codes import Meaning, of_event, of_parcel
from penstock.tracking.status import RETURNED, Scan

_PER_CALL: Final = 35
_LENGTHS: Final = range(4, 35)
_NO_ACCESS: Final = "has USPS granted the application access to its Tracking API?"
_TAG: Final = re.compile(r"<[^<>]*>")


class Usps:
    """USPS, with one credential: that of an application with access to Tracking."""

    name = "usps"
    per_call = _PER_CALL

    def __init__(
        self, credential: Credential, base_url: str, session: aiohttp.ClientSession, clock: Clock
    ) -> None:
        self._credential = credential
        self._base_url = base_url.rstrip("/")
        self._session = session
        self._clock = clock
        self._tokens = oauth.Tokens(self._ask_token, credential, clock)

    async def fetch(self, queries: Sequence[Query]) -> dict[str, Answer]:
        """An answer for every number; 35 of them a call, one call after another."""
        return await in_batches(queries, _PER_CALL, _refused_here, self._fetch)

    async def close(self) -> None:
        """End a token call that is under way."""
        await self._tokens.close()

    async def _fetch(self, queries: Sequence[Query]) -> dict[str, Answer] | Answer | None:
        async def ask(token: str) -> Reply | Unavailable:
            return await http.call(
                self._session,
                "POST",
                f"{self._base_url}/tracking/v3r2/tracking",
                document=[_asked(query) for query in queries],
                headers={"Authorization": f"Bearer {token}"},
            )

        reply = await oauth.with_token(self._tokens, ask)
        if not isinstance(reply, Reply):
            return reply
        if isinstance(reply.body, list):  # each number with its own status, whatever that of all
            return self._parcels(queries, reply.body)
        common = http.refused(reply, self._clock, hint=_NO_ACCESS)
        if common is not None:
            return common
        if 200 <= reply.status < 300:
            return self._parcels(queries, read.items(reply.body))
        error = read.obj(reply.body, "error")
        if not error:
            return http.unexpected(reply)
        if len(queries) > 1:
            return None  # one of them spoils the call: ask for fewer
        number = queries[0].number
        return {number: self._said_no(number, str(reply.status), error)}

    def _parcels(self, queries: Sequence[Query], body: Any) -> dict[str, Answer]:
        asked = {query.number for query in queries}
        by_number = {read.text(one, "trackingNumber"): one for one in body if isinstance(one, dict)}
        answers: dict[str, Answer] = {}
        for index, query in enumerate(queries):
            parcel = by_number.get(query.number)
            if parcel is None and len(body) == len(queries) and isinstance(body[index], dict):
                # What is wrong with a number may come without it, and what begins with a ZIP code
                # (420 and five or nine digits) may come without that: then its place tells.
                name = read.text(body[index], "trackingNumber")
                if name not in asked and query.number.endswith(name):
                    parcel = body[index]
            answers[query.number] = http.one_parcel(
                query.number, self._parcel, query.number, parcel
            )
        return answers

    def _parcel(self, number: str, parcel: dict[str, Any] | None) -> Answer:
        if parcel is None:
            return Malformed(number, "the answer does not mention this number")
        error = read.obj(parcel, "error")
        status = read.text(parcel, "statusCode")
        if error or status not in ("", "200"):
            return self._said_no(number, status or read.text(error, "code"), error)
        return _found(number, parcel)

    def _said_no(self, number: str, status: str, error: dict[str, Any]) -> Answer:
        details = read.items(error, "errors")
        detail = (
            read.text(details[0], "detail") or read.text(details[0], "title") if details else ""
        )
        said = self._tokens.scrub(read.text(error, "message") or detail or f"status {status}")
        match status:
            case "404":
                return NotFound(number, said)
            case "400":
                return Invalid(number, said)
            case "401" | "403":
                return Forbidden(number, said)
            case _:
                return Malformed(number, f"status {status}: {said}")

    async def _ask_token(self) -> Reply | Unavailable:
        return await http.call(
            self._session,
            "POST",
            f"{self._base_url}/oauth2/v3/token",
            document={
                "grant_type": "client_credentials",
                "client_id": self._credential.values["client_id"],
                "client_secret": self._credential.values["client_secret"],
                "scope": "tracking",
            },
            headers={},
        )


def _refused_here(query: Query) -> Invalid | None:
    number = query.number
    if number.isascii() and number.isalnum() and len(number) in _LENGTHS:
        return None
    return Invalid(number, "a USPS number has 4 to 34 letters and digits")


def _asked(query: Query) -> dict[str, str]:
    asked = {"trackingNumber": query.number}
    zip_code = (query.postal_code or "").strip()[:5]
    if re.fullmatch(r"[0-9]{5}", zip_code):
        asked["destinationZIPCode"] = zip_code
    if query.ship_date is not None:
        asked["mailingDate"] = query.ship_date.isoformat()
    return asked


def _found(number: str, parcel: dict[str, Any]) -> Found | Malformed:
    events = read.items(parcel, "trackingEvents")
    scans = tuple(scan for scan in map(_scan, events) if scan is not None)
    category, text = read.text(parcel, "statusCategory"), read.text(parcel, "status")
    summary = read.text(parcel, "statusSummary")
    if not category and not text and not scans:
        return Malformed(number, "the answer holds no status and no event")
    newest = max(scans, key=lambda scan: scan.at, default=None)
    meaning = of_parcel(category, text, summary, _told(newest))
    status, sub_status = meaning or read.told_last(scans)
    handed = [scan for scan in scans if scan.status == "delivered"]
    delivered = max(handed, key=lambda scan: scan.at, default=None)
    delivered = delivered if status == "delivered" else None
    eta = _eta(parcel) if status not in ("delivered", "return_to_sender") else None
    found = Found(
        number,
        status,
        sub_status,
        newest.code if newest is not None else None,
        text or category or (newest.text if newest is not None else ""),
        scans,
        eta=eta.at if eta else None,
        eta_offset=eta.offset if eta else None,
        delivered_at=delivered.at if delivered else None,
        delivered_offset=delivered.offset if delivered else None,
        signed_by=_signed_by(events) if status == "delivered" else None,
        service=_plain(read.text(parcel, "mailClass")) or None,
    )
    return found if sub_status == RETURNED else read.sent_back(found)


def _told(scan: Scan | None) -> Meaning | None:
    return None if scan is None or scan.status is None else (scan.status, scan.sub_status)


def _scan(event: dict[str, Any]) -> Scan | None:
    """None if it has no time that can be read: it has no place among the others."""
    moment = _moment(event)
    if moment is None:
        return None
    code, text = read.text(event, "eventCode"), read.text(event, "eventType")
    happened, more = of_event(code, text) or (None, None)
    where = read.place(
        read.text(event, "eventCity"),
        read.text(event, "eventState"),
        read.text(event, "eventCountry"),
    )
    return Scan(moment.at, moment.offset, happened, more, code or None, text, where)


def _moment(event: dict[str, Any]) -> read.Moment | None:
    """eventTimestamp is the local time, even where it is written with a Z."""
    greenwich = read.iso(read.text(event, "GMTTimestamp"))
    local = read.iso(read.text(event, "eventTimestamp"))
    if local is not None and local.offset:
        return local
    return read.placed(
        greenwich.at if greenwich else None,
        local.at if local else None,
        read.zone(read.text(event, "GMTOffset")),
    )


def _eta(parcel: dict[str, Any]) -> read.Moment | None:
    """What is expected, else predicted, else guaranteed; with the end of the predicted window.

    3.2 has these in an object of their own, 3.0 beside the rest.
    """
    said = read.obj(parcel, "deliveryDateExpectation") or parcel
    expected = read.first(
        read.text(said, key) for key in ("expectedDeliveryTimeStamp", "expectedDeliveryDate")
    )
    predicted = read.text(said, "predictedDeliveryDate")
    guaranteed = read.first(
        read.text(said, key) for key in ("guaranteedDeliveryTimeStamp", "guaranteedDeliveryDate")
    )
    on = read.day(expected or predicted or guaranteed)
    if on is None:
        return None
    at = read.clock_time(read.text(said, "predictedDeliveryWindowEndTime"))
    if at is None or read.day(predicted) != on:
        exact = read.iso(expected or guaranteed)
        if exact is not None and "T" in (expected or guaranteed):
            return exact
        at = read.clock_time(read.text(said, "endOfDay"))
    return read.joined(on, at, None)


def _signed_by(events: Sequence[dict[str, Any]]) -> str | None:
    for event in events:
        meaning = of_event(read.text(event, "eventCode"), read.text(event, "eventType"))
        if meaning is not None and meaning[0] == "delivered":
            return read.text(event, "name") or read.text(event, "firm") or None
    return None


def _plain(marked: str) -> str:
    """Names of services come with HTML in them: ``Priority Mail<SUP>&reg;</SUP>``."""
    return html.unescape(_TAG.sub("", marked)).strip()


def _make(
    credential: Credential, base_url: str, session: aiohttp.ClientSession, clock: Clock
) -> Carrier:
    return Usps(credential, base_url, session, clock)


SPEC: Final = Spec(
    name="usps",
    title="USPS",
    fields=(
        Field("client_id", "Consumer Key", secret=False),
        Field("client_secret", "Consumer Secret", secret=True),
    ),
    per_call=_PER_CALL,
    # Fifty an hour: the ten that are left are for tokens and for calls that are made twice.
    budget=Budget(per_second=50 / 3600, per_day=1_200),
    base_url="https://apis.usps.com",
    page="https://tools.usps.com/go/TrackConfirmAction?tLabels={number}",
    make=_make,
)

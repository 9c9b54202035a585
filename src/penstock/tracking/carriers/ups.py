"""UPS: the Track API, one number a call.

Source: https://developer.ups.com/api/reference/tracking (Tracking, OAuth client credentials, and
the appendix of status codes). UPS publishes no rate limit; it asks to be told what is needed.
A number that it does not know is a 404, or a 200 with a warning and no package.
"""

from __future__ import annotations

import re
import uuid
from base64 import b64encode
from collections.abc import Sequence
from typing import Any, Final, Literal
from urllib.parse import quote

import aiohttp

from penstock.clock import Clock
from penstock.tracking.carriers import http, oauth, read
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
    Unavailable,
    one_by_one,
)
from penstock.tracking.carriers.http import Reply
from penstock.tracking.carriers.ups_codes import CODES, TYPES, Meaning
from penstock.tracking.status import RETURNED, Scan

_LENGTHS: Final = range(7, 35)  # of an inquiry number, by the specification
_NO_NUMBER: Final = frozenset(("TV1002", "150022", "151018"))
_NO_NUMBER_TEXT: Final = re.compile(r"invalid (inquiry|tracking) ?number", re.IGNORECASE)


class Ups:
    """UPS, with one credential."""

    name = "ups"
    per_call = 1

    def __init__(
        self, credential: Credential, base_url: str, session: aiohttp.ClientSession, clock: Clock
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._session = session
        self._clock = clock
        pair = f"{credential.values['client_id']}:{credential.values['client_secret']}"
        self._basic = "Basic " + b64encode(pair.encode()).decode()
        self._tokens = oauth.Tokens(self._ask_token, credential, clock)

    async def fetch(self, queries: Sequence[Query]) -> dict[str, Answer]:
        """An answer for every number; one call each, one after another."""
        return await one_by_one(queries, self._fetch)

    async def close(self) -> None:
        """End a token call that is under way."""
        await self._tokens.close()

    async def _fetch(self, query: Query) -> Answer:
        number = query.number
        if not (number.isascii() and number.isalnum() and len(number) in _LENGTHS):
            return Invalid(number, "a UPS number has 7 to 34 letters and digits")

        async def ask(token: str) -> Reply | Unavailable:
            return await http.call(
                self._session,
                "GET",
                f"{self._base_url}/api/track/v1/details/{quote(number, safe='')}",
                query={"locale": "en_US", "returnSignature": "false"},
                headers={
                    "Authorization": f"Bearer {token}",
                    "transId": uuid.uuid4().hex,
                    "transactionSrc": "penstock",
                },
            )

        reply = await oauth.with_token(self._tokens, ask)
        if not isinstance(reply, Reply):
            return reply
        common = http.refused(reply, self._clock)
        if common is not None:
            return common
        if 200 <= reply.status < 300:
            return http.one_parcel(number, _parcel, number, reply.body)
        return self._said_no(number, reply)

    def _said_no(self, number: str, reply: Reply) -> Answer:
        errors = read.items(reply.body, "response", "errors")
        if not errors:
            return http.unexpected(reply)
        code, message = read.text(errors[0], "code"), read.text(errors[0], "message")
        said = self._tokens.scrub(f"{code} {message}".strip())
        if reply.status == 404:
            return NotFound(number, said)
        if code in _NO_NUMBER or _NO_NUMBER_TEXT.search(message):
            return Invalid(number, said)
        return Malformed(number, f"HTTP {reply.status}: {said}")

    async def _ask_token(self) -> Reply | Unavailable:
        return await http.call(
            self._session,
            "POST",
            f"{self._base_url}/security/v1/oauth/token",
            form={"grant_type": "client_credentials"},
            headers={"Authorization": self._basic},
        )


def _parcel(number: str, body: Any) -> Answer:
    shipments = read.items(body, "trackResponse", "shipment")
    packages = [package for one in shipments for package in read.items(one, "package")]
    if not packages:
        warnings = [warning for one in shipments for warning in read.items(one, "warnings")]
        if not warnings:
            return Malformed(number, "the answer holds no package and no warning")
        return NotFound(
            number, f"{read.text(warnings[0], 'code')} {read.text(warnings[0], 'message')}".strip()
        )
    mine = [one for one in packages if read.text(one, "trackingNumber") == number]
    return _found(number, (mine or packages)[0])


def _found(number: str, package: dict[str, Any]) -> Found | Malformed:
    activities = read.items(package, "activity")
    scans = tuple(scan for scan in map(_scan, activities) if scan is not None)
    said = [read.obj(package, "currentStatus")]
    # The summary often has neither code nor type, or only tells that something was asked for:
    # then the newest activity that tells where the parcel is counts.
    said += [read.obj(activity, "status") for activity in activities]
    if not any(said):
        return Malformed(number, "the answer holds no status and no activity")
    unclear: Meaning = ("in_transit", None) if scans else ("pending", None)
    told = (meaning for meaning in map(_meaning, said) if meaning is not None)
    status, sub_status = next(told, unclear)
    quoted = next(filter(None, said))
    delivered = _delivered(package, scans) if status == "delivered" else None
    eta = None if status == "delivered" else _eta(package)
    found = Found(
        number,
        status,
        sub_status,
        _code(quoted),
        _said(quoted),
        scans,
        eta=eta.at if eta else None,
        eta_offset=eta.offset if eta else None,
        delivered_at=delivered.at if delivered else None,
        delivered_offset=delivered.offset if delivered else None,
        signed_by=read.text(package, "deliveryInformation", "receivedBy") or None,
        service=read.text(package, "service", "description") or None,
    )
    return read.sent_back(found)


def _scan(activity: dict[str, Any]) -> Scan | None:
    """None if it has no time that can be read: it has no place among the others."""
    moment = _moment(activity)
    if moment is None:
        return None
    status = read.obj(activity, "status")
    happened, more = _meaning(status) or (None, None)
    address = read.obj(activity, "location", "address")
    country = read.text(address, "countryCode") or read.text(address, "country")
    where = read.place(read.text(address, "city"), read.text(address, "stateProvince"), country)
    return Scan(moment.at, moment.offset, happened, more, _code(status), _said(status), where)


def _moment(activity: dict[str, Any]) -> read.Moment | None:
    """The local time, Greenwich time and the distance are all given, or only the first."""
    offset = read.zone(read.text(activity, "gmtOffset"))
    local = _written(activity, "date", "time")
    return read.placed(_written(activity, "gmtDate", "gmtTime"), local, offset)


def _written(value: dict[str, Any], date_key: str, time_key: str) -> int | None:
    on = read.day(read.text(value, date_key))
    at = read.clock_time(read.text(value, time_key))
    return None if on is None or at is None else read.joined(on, at, None).at


def _meaning(status: dict[str, Any]) -> Meaning | None:
    """Of the three-digit code; of the type, which is coarser, where the code is not known."""
    type_ = read.text(status, "type")
    known = read.text(status, "statusCode").zfill(3)
    meaning = CODES[known] if known in CODES else TYPES.get(type_)
    if meaning is not None and meaning[0] == "return_to_sender" and type_ in ("D", "RS"):
        return ("return_to_sender", RETURNED)
    return meaning


def _code(status: dict[str, Any]) -> str | None:
    return read.text(status, "statusCode") or read.text(status, "code") or None


def _said(status: dict[str, Any]) -> str:
    return read.text(status, "description") or read.text(status, "simplifiedTextDescription")


def _eta(package: dict[str, Any]) -> read.Moment | None:
    """The end of the announced window, or of the day: rescheduled before scheduled."""
    on = _date(package, "RDD") or _date(package, "SDD")
    if on is None:
        return None
    window = read.obj(package, "deliveryTime")
    if read.text(window, "type") in ("EOD", "DEL"):
        return read.joined(on, None, None)
    return read.joined(on, read.clock_time(read.text(window, "endTime")), None)


def _delivered(package: dict[str, Any], scans: Sequence[Scan]) -> read.Moment | None:
    """The time of the delivery's activity, which has a zone; else the local one beside it."""
    handed = [scan for scan in scans if scan.status == "delivered"]
    if handed:
        latest = max(handed, key=lambda scan: scan.at)
        return read.Moment(latest.at, latest.offset)
    on = _date(package, "DEL")
    if on is None:
        return None
    window = read.obj(package, "deliveryTime")
    return read.joined(on, read.clock_time(read.text(window, "endTime")), None)


def _date(package: dict[str, Any], type_: Literal["SDD", "RDD", "DEL"]) -> Any:
    for one in read.items(package, "deliveryDate"):
        if read.text(one, "type") == type_:
            return read.day(read.text(one, "date"))
    return None


def _make(
    credential: Credential, base_url: str, session: aiohttp.ClientSession, clock: Clock
) -> Carrier:
    return Ups(credential, base_url, session, clock)


SPEC: Final = Spec(
    name="ups",
    title="UPS",
    fields=(
        Field("client_id", "Client ID", secret=False),
        Field("client_secret", "Client Secret", secret=True),
    ),
    per_call=1,
    budget=Budget(per_second=1.0, per_day=20_000),
    base_url="https://onlinetools.ups.com",
    page="https://www.ups.com/track?tracknum={number}",
    make=_make,
)

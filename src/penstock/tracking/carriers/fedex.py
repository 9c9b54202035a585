"""FedEx: the Track API, up to thirty numbers a call.

Source: https://developer.fedex.com/api/en-us/catalog/track/v1/docs.html and the guide to its rate
limits: 100,000 requests a day and 1,400 in ten seconds, for each project. What is wrong with one
number stands inside a 200, beside what was found of the others.
"""

from __future__ import annotations

import uuid
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
from penstock.tracking.status import Scan, Status

_PER_CALL: Final = 30
_LENGTHS: Final = range(8, 41)
_NO_ACCESS: Final = "does its project include the Track API (Basic Integrated Visibility)?"

Meaning = tuple[Status, str | None]

# Tracking status codes, complete. Those that say nothing of where the parcel is (a delivery
# option was asked for, a return label was e-mailed) stand for None.
_BY_MEANING: Final[dict[Meaning | None, str]] = {
    ("pre_transit", None): "OC MD IN OX",
    ("pre_transit", "pickup_scheduled"): "EP DS",
    ("in_transit", "picked_up"): "PU PX AP",
    ("in_transit", None): "IT IX AR DP AF FD SF LO PM PL PF TR EA EO AA OW OF AO CH SP",
    ("in_transit", "handed_over"): "AC AX",
    ("in_transit", "customs"): "CP",
    ("in_transit", "customs_cleared"): "CC",
    ("out_for_delivery", None): "OD ED AD",
    ("available_for_pickup", None): "HL HP",
    ("delivered", None): "DL",
    ("attempt_failed", None): "DE",
    ("exception", None): "SE",
    ("exception", "customs_delay"): "CD",
    ("exception", "delay"): "DY DD",
    ("exception", "pickup_delay"): "PD",
    ("return_to_sender", read.RETURNING): "RS",
    ("cancelled", None): "CA",
    None: "DR RR RM RC RP LP RG RD",
}

CODES: Final[dict[str, Meaning | None]] = {
    code: meaning for meaning, codes in _BY_MEANING.items() for code in codes.split()
}


class FedEx:
    """FedEx, with one credential: that of a project with Basic Integrated Visibility."""

    name = "fedex"
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
        """An answer for every number; thirty of them a call, one call after another."""
        return await in_batches(queries, _PER_CALL, _refused_here, self._fetch)

    async def close(self) -> None:
        """End a token call that is under way."""
        await self._tokens.close()

    async def _fetch(self, queries: Sequence[Query]) -> dict[str, Answer] | Answer | None:
        async def ask(token: str) -> Reply | Unavailable:
            return await http.call(
                self._session,
                "POST",
                f"{self._base_url}/track/v1/trackingnumbers",
                document={
                    "includeDetailedScans": True,
                    "trackingInfo": [
                        {"trackingNumberInfo": {"trackingNumber": query.number}}
                        for query in queries
                    ],
                },
                headers={
                    "Authorization": f"Bearer {token}",
                    "X-locale": "en_US",
                    "x-customer-transaction-id": uuid.uuid4().hex,
                },
            )

        reply = await oauth.with_token(self._tokens, ask)
        if not isinstance(reply, Reply):
            return reply
        common = http.refused(reply, self._clock, hint=_NO_ACCESS)
        if common is not None:
            return common
        if 200 <= reply.status < 300:
            return self._parcels(queries, reply.body)
        errors = read.items(reply.body, "errors")
        if not errors:
            return http.unexpected(reply)
        if len(queries) > 1 and "TRACKINGNUMBER" in read.text(errors[0], "code"):
            return None  # one of them spoils the call: ask for fewer
        return {query.number: self._said_no(query.number, errors[0]) for query in queries}

    def _parcels(self, queries: Sequence[Query], body: Any) -> dict[str, Answer]:
        results: dict[str, list[dict[str, Any]]] = {}
        for one in read.items(body, "output", "completeTrackResults"):
            results.setdefault(read.text(one, "trackingNumber"), []).extend(
                read.items(one, "trackResults")
            )
        return {
            query.number: http.one_parcel(
                query.number, self._parcel, query, results.get(query.number, [])
            )
            for query in queries
        }

    def _parcel(self, query: Query, results: list[dict[str, Any]]) -> Answer:
        if not results:
            return Malformed(query.number, "the answer does not mention this number")
        known = [one for one in results if not read.obj(one, "error")]
        if not known:
            return self._said_no(query.number, read.obj(results[0], "error"))
        return _found(query.number, _chosen(query, known))

    def _said_no(self, number: str, error: dict[str, Any]) -> Answer:
        code, message = read.text(error, "code"), read.text(error, "message")
        said = self._tokens.scrub(f"{code} {message}".strip())
        words = code.upper()
        if "NOTFOUND" in words or "NOT.FOUND" in words:
            return NotFound(number, said)
        if words.endswith(("TRACKINGNUMBER.INVALID", "TRACKINGNUMBER.EMPTY")):
            return Invalid(number, said)
        if any(word in words for word in ("AUTHORIZED", "FORBIDDEN", "REVOKE", "LOCKED")):
            return Forbidden(number, said)
        return Malformed(number, said or "an error without a code")

    async def _ask_token(self) -> Reply | Unavailable:
        return await http.call(
            self._session,
            "POST",
            f"{self._base_url}/oauth/token",
            form={
                "grant_type": "client_credentials",
                "client_id": self._credential.values["client_id"],
                "client_secret": self._credential.values["client_secret"],
            },
            headers={},
        )


def _refused_here(query: Query) -> Invalid | None:
    number = query.number
    if number.isascii() and number.isalnum() and len(number) in _LENGTHS:
        return None
    return Invalid(number, "a FedEx number has 8 to 40 letters and digits")


def _chosen(query: Query, results: list[dict[str, Any]]) -> dict[str, Any]:
    """The parcel that is meant, of several that had the number: FedEx uses numbers again.

    The one that was shipped nearest to the date that is known, else the latest.
    """

    def began(result: dict[str, Any]) -> int:
        times = [_dated(result, type_) for type_ in ("SHIP", "ACTUAL_PICKUP", "ACTUAL_TENDER")]
        known = [moment.at for moment in times if moment is not None]
        scanned = [scan.at for scan in _scans(result)]
        return min(known or scanned, default=0)

    ship_date = query.ship_date
    if ship_date is None:
        return max(results, key=began)
    return min(results, key=lambda result: read.days_between(began(result), ship_date))


def _found(number: str, result: dict[str, Any]) -> Found | Malformed:
    latest = read.obj(result, "latestStatusDetail")
    scans = _scans(result)
    if not latest and not scans:
        return Malformed(number, "the answer holds no status and no scan")
    newest = max(scans, key=lambda scan: scan.at, default=None)
    meaning = _meaning(latest, "derivedCode", "code")
    status, sub_status = meaning or read.told_last(scans)
    delivered = _dated(result, "ACTUAL_DELIVERY") if status == "delivered" else None
    eta = None if status == "delivered" else _eta(result)
    details = read.obj(result, "deliveryDetails")
    code = read.first((read.text(latest, "derivedCode"), read.text(latest, "code")))
    found = Found(
        number,
        status,
        sub_status,
        code or (newest.code if newest else None),
        _said(latest) or (newest.text if newest else ""),
        scans,
        eta=eta.at if eta else None,
        eta_offset=eta.offset if eta else None,
        delivered_at=delivered.at if delivered else None,
        delivered_offset=delivered.offset if delivered else None,
        signed_by=read.text(details, "receivedByName")
        or read.text(details, "signedByName")
        or None,
        service=read.text(result, "serviceDetail", "description") or None,
    )
    return read.sent_back(found)


def _said(latest: dict[str, Any]) -> str:
    """What happened and, for an exception, why."""
    what = read.text(latest, "description") or read.text(latest, "statusByLocale")
    reasons = read.items(latest, "ancillaryDetails")
    why = read.text(reasons[0], "reasonDescription") if reasons else ""
    return f"{what}: {why}"[: read.MAX_TEXT] if what and why and why != what else what or why


def _scans(result: dict[str, Any]) -> tuple[Scan, ...]:
    scans = []
    for event in read.items(result, "scanEvents"):
        moment = read.iso(read.text(event, "date"))
        if moment is None:
            continue  # without a time it has no place among the others
        happened, more = _meaning(event, "eventType", "derivedStatusCode") or (None, None)
        where = read.obj(event, "scanLocation")
        what = read.text(event, "eventDescription") or read.text(event, "derivedStatus")
        why = read.text(event, "exceptionDescription")
        scans.append(
            Scan(
                moment.at,
                moment.offset,
                happened,
                more,
                read.text(event, "eventType") or read.text(event, "derivedStatusCode") or None,
                f"{what}: {why}"[: read.MAX_TEXT] if what and why else what or why,
                read.place(
                    read.text(where, "city"),
                    read.text(where, "stateOrProvinceCode"),
                    read.text(where, "countryCode"),
                ),
            )
        )
    return tuple(scans)


def _meaning(value: dict[str, Any], *keys: str) -> Meaning | None:
    """Of the first key whose code is known."""
    for key in keys:
        code = read.text(value, key).upper()
        if code in CODES:
            return CODES[code]
    return None


def _eta(result: dict[str, Any]) -> read.Moment | None:
    """The end of the estimated window; else the estimate, the usual time, the promise."""
    for window in ("estimatedDeliveryTimeWindow", "standardTransitTimeWindow"):
        moment = read.iso(read.text(result, window, "window", "ends"))
        if moment is None and window == "estimatedDeliveryTimeWindow":
            moment = _dated(result, "ESTIMATED_DELIVERY")
        if moment is not None:
            return moment
    return _dated(result, "COMMITMENT")


def _dated(result: dict[str, Any], type_: str) -> read.Moment | None:
    for one in read.items(result, "dateAndTimes"):
        if read.text(one, "type") == type_:
            return read.iso(read.text(one, "dateTime"))
    return None


def _make(
    credential: Credential, base_url: str, session: aiohttp.ClientSession, clock: Clock
) -> Carrier:
    return FedEx(credential, base_url, session, clock)


SPEC: Final = Spec(
    name="fedex",
    title="FedEx",
    fields=(
        Field("client_id", "API Key", secret=False),
        Field("client_secret", "Secret Key", secret=True),
    ),
    per_call=_PER_CALL,
    # A tenth below the quota: a renewed token means a second call for the same numbers.
    budget=Budget(per_second=10.0, per_day=90_000),
    base_url="https://apis.fedex.com",
    page="https://www.fedex.com/fedextrack/?trknbr={number}",
    make=_make,
)

"""Royal Mail: Tracking API v2, one item a call.

Source: Royal Mail Group, "Tracking API V2 (REST) Technical User Guide" 1.3, operation ``events``,
at https://developer.royalmail.net. The guide lists no event codes; those below are the ones that
Royal Mail's own pages and its customers have written down. A code that is not among them leaves
the category of the summary to say where the item is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

import aiohttp

from penstock.clock import Clock
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

_BY_MEANING: Final[dict[Meaning, str]] = {
    ("pre_transit", None): "EVAIE EVAIP",
    ("in_transit", None): "EVBAH EVBAV EVDAC EVDAV EVIAV EVIMC EVOAC EVOCO EVODO EVORI",
    ("in_transit", "picked_up"): "EVPPA",
    ("in_transit", "misrouted"): "EVGMI EVIPI EVNMI",
    ("in_transit", "redelivery"): "EVNAR EVNSR",
    ("out_for_delivery", None): "EVGPD",
    ("available_for_pickup", None): "EVKLC EVKLS EVNPS EVPLA",
    ("attempt_failed", None): "EVKNA EVKNR EVKSU EVNDA EVNDN",
    ("attempt_failed", "address"): "EVKAA EVNAA",
    ("exception", "held"): "EVNKS EVNRT",
    ("delivered", None): "EVKOP EVKSP",
    ("delivered", "safe_place"): "EVKSF",
    ("delivered", "to_neighbour"): "EVKDN",
    ("delivered", "collected"): "EVNOC EVPLC",
    ("return_to_sender", read.RETURNING): "EVKAI EVKGA EVKRF EVNGA EVNRF",
    ("return_to_sender", RETURNED): "EVRTS",
}
CODES: Final[dict[str, Meaning]] = {
    code: meaning for meaning, codes in _BY_MEANING.items() for code in codes.split()
}

# Of the summary. "EXPIRED" is about Royal Mail's memory, not about the item.
_CATEGORIES: Final[dict[str, Meaning]] = {
    "DELIVERED": ("delivered", None),
    "IN TRANSIT": ("in_transit", None),
    "EXCEPTION": ("exception", None),
}
_UNKNOWN_CATEGORY: Final = "NOT FOUND"
_HEADERS_REFUSED: Final = frozenset({"E0004", "E0005"})


class RoyalMail:
    """Royal Mail, with one application's client id and secret."""

    name = "royal_mail"
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
            return Invalid(number, "a Royal Mail number has only letters and digits")
        reply = await http.call(
            self._session,
            "GET",
            f"{self._base_url}/mailpieces/v2/{quote(number, safe='')}/events",
            headers={
                "X-IBM-Client-Id": self._credential.values["client_id"],
                "X-IBM-Client-Secret": self._credential.values["client_secret"],
                "X-Accept-RMG-Terms": "yes",
            },
        )
        if not isinstance(reply, Reply):
            return reply
        common = http.refused(reply, self._clock)
        if common is not None:
            return common
        if 200 <= reply.status < 300:
            return http.one_parcel(number, _item, number, reply.body)
        return self._said_no(number, reply)

    def _said_no(self, number: str, reply: Reply) -> Answer:
        errors = read.items(reply.body, "errors")
        if not errors:
            return http.unexpected(reply)
        code, text = read.text(errors[0], "errorCode"), read.text(errors[0], "errorDescription")
        said = self._credential.scrub(f"{code} {text}".strip())
        if reply.status == 404:
            return NotFound(number, said)
        if reply.status == 400 and code not in _HEADERS_REFUSED:
            return Invalid(number, said)
        return Malformed(number, f"HTTP {reply.status}: {said}")


def _item(number: str, body: Any) -> Answer:
    pieces = read.items(body, "mailPieces")
    if not pieces:
        return Malformed(number, "the answer holds no item")
    piece = pieces[0]
    error = read.obj(piece, "error")
    category = read.text(piece, "summary", "statusCategory").upper()
    if error or category == _UNKNOWN_CATEGORY:
        text = read.text(error, "errorDescription") or "Royal Mail does not know it"
        return NotFound(number, f"{read.text(error, 'errorCode')} {text}".strip())
    return _found(number, piece, category)


def _found(number: str, piece: dict[str, Any], category: str) -> Found | Malformed:
    summary = read.obj(piece, "summary")
    scans = tuple(
        scan for scan in map(_scan, read.items(piece, "events")) if scan is not None
    ) or _from_summary(summary)
    if not summary and not scans:
        return Malformed(number, "the answer holds neither a summary nor events")
    code = read.text(summary, "lastEventCode")
    meaning = CODES.get(code)
    if meaning is None and category != "IN TRANSIT":
        meaning = _CATEGORIES.get(category)
    status, sub_status = meaning or read.told_last(scans)
    latest = max(scans, key=lambda scan: scan.at, default=None)
    delivered = _delivered(piece, scans) if status == "delivered" else None
    eta = None if status == "delivered" else _eta(piece)
    return Found(
        number,
        status,
        sub_status,
        code or (latest.code if latest else None),
        read.text(summary, "statusDescription")
        or read.text(summary, "lastEventName")
        or (latest.text if latest else ""),
        scans,
        eta=eta.at if eta else None,
        eta_offset=eta.offset if eta else None,
        delivered_at=delivered.at if delivered else None,
        delivered_offset=delivered.offset if delivered else None,
        signed_by=read.text(piece, "signature", "recipientName") or None,
        service=read.text(summary, "productName") or None,
    )


def _scan(event: dict[str, Any]) -> Scan | None:
    """None if it has no time that can be read: it has no place among the others."""
    return _scan_of(
        read.text(event, "eventCode"),
        read.text(event, "eventName"),
        read.text(event, "eventDateTime"),
        read.text(event, "locationName"),
    )


def _from_summary(summary: dict[str, Any]) -> tuple[Scan, ...]:
    """The latest event, which the summary tells of even where none is listed."""
    scan = _scan_of(
        read.text(summary, "lastEventCode"),
        read.text(summary, "lastEventName"),
        read.text(summary, "lastEventDateTime"),
        read.text(summary, "lastEventLocationName"),
    )
    return () if scan is None else (scan,)


def _scan_of(code: str, name: str, when: str, where: str) -> Scan | None:
    moment = read.iso(when)
    if moment is None:
        return None
    status, sub_status = CODES.get(code, (None, None))
    return Scan(moment.at, moment.offset, status, sub_status, code or None, name, where or None)


def _eta(piece: dict[str, Any]) -> read.Moment | None:
    """The end of the announced window, or of the day."""
    announced = read.obj(piece, "estimatedDelivery")
    on = read.text(announced, "date")[:10]
    return read.iso(f"{on}T{read.text(announced, 'endOfEstimatedWindow')}") or read.iso(on)


def _delivered(piece: dict[str, Any], scans: Sequence[Scan]) -> read.Moment | None:
    """The time of the event of the delivery; else that of the signature, or of the last event."""
    handed = [scan for scan in scans if scan.status == "delivered"]
    if handed:
        latest = max(handed, key=lambda scan: scan.at)
        return read.Moment(latest.at, latest.offset)
    return read.iso(read.text(piece, "signature", "signatureDateTime")) or read.iso(
        read.text(piece, "summary", "lastEventDateTime")
    )


def _make(
    credential: Credential, base_url: str, session: aiohttp.ClientSession, clock: Clock
) -> Carrier:
    return RoyalMail(credential, base_url, session, clock)


SPEC: Final = Spec(
    name="royal_mail",
    title="Royal Mail",
    fields=(
        Field("client_id", "Client ID", secret=False),
        Field("client_secret", "Client Secret", secret=True),
    ),
    per_call=1,
    budget=Budget(per_second=1.0, per_day=10_000),
    base_url="https://api.royalmail.net",
    page="https://www.royalmail.com/track-your-item#/tracking-results/{number}",
    make=_make,
)

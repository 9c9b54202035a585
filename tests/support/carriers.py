"""Carriers' APIs on a free port of loopback, in the shapes that the carriers publish.

Tokens are issued at the three carriers' own addresses; what is asked with another one is refused
as each carrier refuses it. `SPOKEN` says how each carrier is spoken, for tests that all must pass.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qsl

import aiohttp
from aiohttp import web

from penstock.tracking.carriers.http import carrier_session
from support.accepting import stop_accepting

CLIENT_ID = "client-of-penstock"
SECRET = "s3cr3t-that-nobody-may-read"  # no test may find it in a log, an error or a repr

TOKEN_PATHS = ("/security/v1/oauth/token", "/oauth/token", "/oauth2/v3/token")


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it came in."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode()))


@dataclass(frozen=True, slots=True)
class Reply:
    """How to answer: JSON unless `body` is bytes; after `delay` seconds, or once `gate` is set.

    With `cut`, the connection is closed before the body is whole.
    """

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    gate: asyncio.Event | None = None
    cut: bool = False

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


Script = Callable[[Call], Reply]


def patient_session() -> aiohttp.ClientSession:
    """The pool of connections for tests of what answers mean, however late they come."""
    return carrier_session(connect=60.0, read=60.0)


HTML = b"<!doctype html><html><body>We are down for maintenance.</body></html>"


class CarrierServer:
    """All carriers at once; everything but the token calls is answered by the script."""

    def __init__(self) -> None:
        self.calls: list[Call] = []  # but for tokens
        self.token_calls: list[Call] = []
        self.life: object = 3600  # of the tokens that are issued, as the answer says it
        self._good: str | None = None
        self._script: Script = lambda _: Reply({"errors": []}, 404)
        self._token_script: Script | None = None

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=2**23)
        application.router.add_route("*", "/{path:.*}", self._take)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, backlog=1024).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await stop_accepting(self._runner)
        await self._runner.cleanup()

    def answers(self, *script: Reply | Script) -> None:
        """Answer so, one after another, the last for ever."""
        turn = iter(script)

        def answer(call: Call) -> Reply:
            one = next(turn, script[-1])
            return one(call) if callable(one) else one

        self._script = answer

    def answers_token_calls(self, *script: Reply | Script) -> None:
        """Answer token calls so, instead of with a token."""
        turn = iter(script)

        def answer(call: Call) -> Reply:
            one = next(turn, script[-1])
            return one(call) if callable(one) else one

        self._token_script = answer

    def revoke(self) -> None:
        """No token that was issued before is good any more."""
        self._good = None

    def issue(self) -> Reply:
        """A new token, the only one that is good from now on."""
        self._good = f"token-{len(self.token_calls)}"
        return Reply({"access_token": self._good, "token_type": "Bearer", "expires_in": self.life})

    async def _take(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        call = Call(
            request.method, request.path, dict(request.query), headers, await request.read()
        )
        if call.path in TOKEN_PATHS:
            self.token_calls.append(call)
            reply = self._token_script(call) if self._token_script else self.issue()
        else:
            self.calls.append(call)
            bearer = headers.get("authorization")
            stale = bearer is not None and bearer != f"Bearer {self._good}"
            reply = _stale_token(call) if stale else self._script(call)
        if reply.gate is not None:
            await reply.gate.wait()
        if reply.delay:
            await asyncio.sleep(reply.delay)
        if not reply.cut:
            headers = {"Content-Type": "application/json", **reply.headers}
            return web.Response(status=reply.status, headers=headers, body=reply.content)
        response = web.StreamResponse(status=reply.status, headers={"Content-Length": "100000"})
        await response.prepare(request)
        await response.write(reply.content)
        assert request.transport is not None
        request.transport.close()
        return response


def _stale_token(call: Call) -> Reply:
    if call.path.startswith("/api/track/"):
        return ups_error(401, "250002", "Invalid Authentication Information.")
    if call.path.startswith("/tracking/"):
        return usps_error(401, "The access token is invalid or expired.")
    return fedex_error(401, "NOT.AUTHORIZED.ERROR", "Access token expired.")


# --- UPS ---------------------------------------------------------------------------------


def ups_status(code: str, type_: str = "I", text: str = "") -> dict[str, str]:
    return {
        "type": type_,
        "code": "XX",
        "statusCode": code,
        "description": text or f"status {code}",
        "simplifiedTextDescription": text or f"status {code}",
    }


def ups_activity(
    code: str = "005", type_: str = "I", *, local: str = "20260321 093015", **more: Any
) -> dict[str, Any]:
    """In Louisville, four hours behind Greenwich."""
    on, at = local.split()
    hour = int(at[:2]) + 4
    gmt = f"{hour % 24:02}{at[2:]}"
    gmt_on = on if hour < 24 else str(int(on) + 1)
    return {
        "location": {
            "address": {"city": "Louisville", "stateProvince": "KY", "countryCode": "US"},
            "slic": "4009",
        },
        "status": ups_status(code, type_),
        "date": on,
        "time": at,
        "gmtDate": gmt_on,
        "gmtTime": gmt,
        "gmtOffset": "-04:00",
        **more,
    }


def ups_package(number: str, code: str = "005", type_: str = "I", **more: Any) -> dict[str, Any]:
    return {
        "trackingNumber": number,
        "currentStatus": ups_status(code, type_),
        "activity": [ups_activity(code, type_)],
        "packageCount": 1,
        "service": {"code": "518", "levelCode": "011", "description": "UPS Ground"},
        **more,
    }


def ups_found(number: str, *packages: Any) -> Reply:
    shipment = {"inquiryNumber": number, "package": list(packages or [ups_package(number)])}
    return Reply({"trackResponse": {"shipment": [shipment]}})


def ups_warned(number: str) -> Reply:
    """The other way of UPS to say that it does not know a number."""
    warning = {"code": "TW0001", "message": "Tracking Information Not Found"}
    shipment = {"inquiryNumber": number, "warnings": [warning]}
    return Reply({"trackResponse": {"shipment": [shipment]}})


def ups_error(status: int, code: str, message: str, **headers: str) -> Reply:
    return Reply({"response": {"errors": [{"code": code, "message": message}]}}, status, headers)


# --- FedEx -------------------------------------------------------------------------------


def fedex_scan(
    event: str = "AR", derived: str = "IT", date: str = "2026-03-21T09:30:15-05:00", **more: Any
) -> dict[str, Any]:
    return {
        "date": date,
        "eventType": event,
        "eventDescription": f"event {event}",
        "exceptionCode": "",
        "exceptionDescription": "",
        "scanLocation": {
            "streetLines": [""],
            "city": "MEMPHIS",
            "stateOrProvinceCode": "TN",
            "countryCode": "US",
        },
        "locationType": "FEDEX_FACILITY",
        "derivedStatusCode": derived,
        "derivedStatus": f"derived {derived}",
        **more,
    }


def fedex_result(number: str, code: str = "IT", **more: Any) -> dict[str, Any]:
    return {
        "trackingNumberInfo": {
            "trackingNumber": number,
            "trackingNumberUniqueId": f"12029~{number}~FDEG",
            "carrierCode": "FDXG",
        },
        "latestStatusDetail": {
            "code": code,
            "derivedCode": code,
            "statusByLocale": f"status {code}",
            "description": f"description {code}",
            "scanLocation": {"city": "MEMPHIS"},
        },
        "dateAndTimes": [],
        "scanEvents": [fedex_scan(code, code)],
        "serviceDetail": {"type": "FEDEX_GROUND", "description": "FedEx Ground"},
        **more,
    }


def fedex_refusal(number: str, code: str, message: str = "") -> dict[str, Any]:
    return {
        "trackingNumberInfo": {"trackingNumber": number},
        "error": {"code": code, "message": message or f"About {code}."},
    }


def fedex_reply(results: Mapping[str, Sequence[Any] | Any]) -> Reply:
    complete = [
        {"trackingNumber": number, "trackResults": found if isinstance(found, list) else [found]}
        for number, found in results.items()
    ]
    output = {"completeTrackResults": complete, "alerts": []}
    return Reply({"transactionId": "624deea6-b709", "output": output})


def fedex_asked(call: Call) -> list[str]:
    return [one["trackingNumberInfo"]["trackingNumber"] for one in call.json["trackingInfo"]]


def fedex_error(status: int, code: str, message: str, **headers: str) -> Reply:
    errors = [{"code": code, "message": message}]
    return Reply({"transactionId": "624deea6-b709", "errors": errors}, status, headers)


# --- USPS --------------------------------------------------------------------------------


def usps_event(
    code: str = "10",
    text: str = "Processed Through Facility",
    *,
    local: str = "2026-03-21T09:30:15",
    gmt: str = "2026-03-21T14:30:15Z",
    **more: Any,
) -> dict[str, Any]:
    return {
        "eventType": text,
        "eventTimestamp": local,
        "GMTTimestamp": gmt,
        "GMTOffset": "-5:00",
        "eventCountry": "US",
        "eventCity": "MEMPHIS",
        "eventState": "TN",
        "eventZIPCode": "38101",
        "firm": None,
        "name": None,
        "authorizedAgent": False,
        "eventCode": code,
        "reasonCode": None,
        **more,
    }


def usps_parcel(number: str, category: str = "In Transit", **more: Any) -> dict[str, Any]:
    return {
        "trackingNumber": number,
        "statusCode": "200",
        "mailClass": "Priority Mail<SUP>&reg;</SUP>",
        "status": f"text of {category}",
        "statusCategory": category,
        "statusSummary": "A sentence about it.",
        "trackingEvents": [usps_event()],
        **more,
    }


def usps_failure(number: str, status: str = "404", message: str = "") -> dict[str, Any]:
    said = message or "Tracking is not available for this item."
    return {
        "trackingNumber": number,
        "statusCode": status,
        "error": {"code": status, "message": said, "errors": []},
    }


def usps_reply(*parcels: Any) -> Reply:
    mixed = any(isinstance(one, dict) and one.get("statusCode") != "200" for one in parcels)
    return Reply(list(parcels), 207 if mixed else 200)


def usps_asked(call: Call) -> list[str]:
    return [one["trackingNumber"] for one in call.json]


def usps_error(status: int, message: str, **headers: str) -> Reply:
    error = {"code": str(status), "message": message, "errors": []}
    return Reply({"apiVersion": "/tracking/v3r2", "error": error}, status, headers)


# --- DHL ---------------------------------------------------------------------------------


def dhl_event(
    code: str = "transit", text: str = "Processed", at: str = "2026-03-21T09:30:15+01:00"
) -> dict[str, Any]:
    return {
        "timestamp": at,
        "location": {"address": {"addressLocality": "Bonn", "countryCode": "DE"}},
        "statusCode": code,
        "status": text.upper(),
        "description": text,
    }


def dhl_shipment(number: str, *events: Any, **more: Any) -> dict[str, Any]:
    """Its newest event, which stands first, is its status."""
    told = list(events) or [dhl_event()]
    return {
        "id": number,
        "service": "express",
        "origin": {"address": {"countryCode": "DE"}},
        "destination": {"address": {"countryCode": "FR"}},
        "status": told[0],
        "events": told,
        "details": {"product": {"productName": "EXPRESS WORLDWIDE"}},
        **more,
    }


def dhl_found(*shipments: Any) -> Reply:
    return Reply({"shipments": list(shipments)})


def dhl_error(status: int, title: str = "", detail: str = "", **headers: str) -> Reply:
    problem = {"status": status, "title": title, "detail": detail, "instance": "/shipment/1"}
    return Reply(problem, status, {"Content-Type": "application/problem+json", **headers})


# --- Royal Mail --------------------------------------------------------------------------


def royal_mail_event(
    code: str = "EVDAC", name: str = "Item received", at: str = "2026-03-21T09:30:15+00:00"
) -> dict[str, Any]:
    return {
        "eventCode": code,
        "eventName": name,
        "eventDateTime": at,
        "locationName": "Stafford DO",
    }


def royal_mail_piece(
    number: str, *events: Any, category: str = "IN TRANSIT", **more: Any
) -> dict[str, Any]:
    """Its newest event, which stands first, is the last event of its summary."""
    told = list(events) or [royal_mail_event()]
    return {
        "mailPieceId": "090367574000000FE1E1B",
        "carrierShortName": "RM",
        "carrierFullName": "Royal Mail Group Ltd",
        "summary": {
            "uniqueItemId": "090367574000000FE1E1B",
            "oneDBarcode": number,
            "productName": "Special Delivery Guaranteed",
            "lastEventCode": told[0]["eventCode"],
            "lastEventName": told[0]["eventName"],
            "lastEventDateTime": told[0]["eventDateTime"],
            "lastEventLocationName": told[0]["locationName"],
            "statusDescription": "A few words about it",
            "statusCategory": category,
        },
        "events": told,
        **more,
    }


def royal_mail_found(piece: Any) -> Reply:
    return Reply({"mailPieces": piece})


def royal_mail_error(status: int, code: str, description: str, **headers: str) -> Reply:
    error = {"errorCode": code, "errorDescription": description, "errorCause": "Some cause."}
    return Reply({"httpCode": str(status), "httpMessage": "-", "errors": [error]}, status, headers)


# --- All of them -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spoken:
    """How one carrier is spoken: numbers of its own, and its answers to any question."""

    values: Mapping[str, str]  # of a credential
    numbers: tuple[str, ...]  # two of its own
    found: Script  # every number asked for is on its way
    unknown: Script  # none is known
    malformed: Script  # an answer about one number that is not what it should be
    error: Callable[..., Reply]  # (status, said, **headers): its own words around a status
    tokens: bool = True  # whether it issues tokens


def _ups_number(call: Call) -> str:
    return call.path.rpartition("/")[2]


def _royal_mail_number(call: Call) -> str:
    return call.path.split("/")[-2]


_CLIENT = {"client_id": CLIENT_ID, "client_secret": SECRET}

SPOKEN: dict[str, Spoken] = {
    "ups": Spoken(
        _CLIENT,
        ("1Z12345E0205271688", "1Z12345E6605272234"),
        lambda call: ups_found(_ups_number(call)),
        lambda _: ups_error(404, "TW0001", "Tracking Information Not Found"),
        lambda call: ups_found(_ups_number(call), {"trackingNumber": 7, "activity": "none"}),
        lambda status, said="Some error.", **headers: ups_error(status, "10429", said, **headers),
    ),
    "fedex": Spoken(
        _CLIENT,
        ("449044304137821", "039813852990618"),
        lambda call: fedex_reply({one: fedex_result(one) for one in fedex_asked(call)}),
        lambda call: fedex_reply(
            {
                one: fedex_refusal(one, "TRACKING.TRACKINGNUMBER.NOTFOUND")
                for one in fedex_asked(call)
            }
        ),
        lambda call: fedex_reply({one: [{"scanEvents": 7}] for one in fedex_asked(call)}),
        lambda status, said="Some error.", **headers: fedex_error(
            status, "SOME.ERROR", said, **headers
        ),
    ),
    "usps": Spoken(
        _CLIENT,
        ("9400111899223033005436", "9400111899560008231892"),
        lambda call: usps_reply(*(usps_parcel(one) for one in usps_asked(call))),
        lambda call: usps_reply(*(usps_failure(one) for one in usps_asked(call))),
        lambda call: usps_reply(
            *({"trackingNumber": one, "trackingEvents": 7} for one in usps_asked(call))
        ),
        lambda status, said="Some error.", **headers: usps_error(status, said, **headers),
    ),
    "dhl": Spoken(
        {"api_key": SECRET},
        ("3318810025", "8487135506"),
        lambda call: dhl_found(dhl_shipment(call.query["trackingNumber"])),
        lambda _: dhl_error(404, "No result found", "No shipment with given tracking number."),
        lambda _: dhl_found({"status": [], "events": 7}),
        lambda status, said="Some error.", **headers: dhl_error(status, "-", said, **headers),
        tokens=False,
    ),
    "royal_mail": Spoken(
        _CLIENT,
        ("FQ087430672GB", "RB123456785GB"),
        lambda call: royal_mail_found(royal_mail_piece(_royal_mail_number(call))),
        lambda _: royal_mail_error(404, "E1142", "Barcode reference is not recognised"),
        lambda _: royal_mail_found({"summary": 7, "events": 7}),
        lambda status, said="Some error.", **headers: royal_mail_error(
            status, "E0009", said, **headers
        ),
        tokens=False,
    ),
}

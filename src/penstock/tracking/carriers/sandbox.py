"""The sandbox: a carrier without a network, whose numbers say what becomes of their parcels.

``SBX`` + a script's name + digits. The script is what happens, hour by hour; the digits tell
parcels of one script apart, and where there are at least ten of them, the first ten are the
parcel's beginning in seconds since the epoch. A parcel with a beginning travels while the clock
runs; one without has its journey behind it. ``SBXFAST…`` travels ten thousand times faster: a
journey of 38 hours takes 14 seconds.

What is answered depends on the number and the clock alone: not on what was asked before, nor by
which process.

``docs/reference/sandbox-carrier.md`` tells of the scripts; its table is made from them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import aiohttp

from penstock.clock import SECOND, Clock, from_iso
from penstock.tracking.carriers import read
from penstock.tracking.carriers.base import (
    Answer,
    Budget,
    Carrier,
    Credential,
    Forbidden,
    Found,
    Invalid,
    Malformed,
    NotFound,
    Query,
    RateLimited,
    Spec,
    Unavailable,
)
from penstock.tracking.status import RETURNED, Scan, Status, in_order, is_terminal

FAST: Final = 10_000.0
_HOUR: Final = 3600 * SECOND
_LONG_AGO: Final = from_iso("2025-12-01T08:00:00Z")
_NUMBER: Final = re.compile(r"SBX(FAST)?([A-Z]+)(\d*)", re.ASCII)
_BEGINNING: Final = 10  # digits

Failure = Literal["limited", "unavailable", "timeout", "malformed", "forbidden", "no_access"]


@dataclass(frozen=True, slots=True)
class Step:
    """A scan, `at` hours after the beginning; `told` when the carrier hears of it, if later."""

    at: float
    status: Status
    text: str
    place: str = "Louisville, KY, US"
    offset: int = -300  # minutes east of UTC
    sub_status: str | None = None
    told: float | None = None

    @property
    def known_from(self) -> float:
        """The hour from which the carrier tells of it."""
        return self.at if self.told is None else self.told


@dataclass(frozen=True, slots=True)
class Script:
    """What happens to a parcel. `about` is for people.

    `fails` from and until these hours after the beginning; `eta` is announced, in hours, from the
    first step to the last. `muddled`: the scans come in no order, and some of them twice.
    """

    about: str
    steps: tuple[Step, ...] = ()
    failure: Failure | None = None
    fails: tuple[float, float] = (-math.inf, math.inf)
    eta: float | None = None
    signed_by: str | None = None
    muddled: bool = False


def _there(at: float, status: Status, text: str, sub_status: str | None = None) -> Step:
    return Step(at, status, text, "Denver, CO, US", -420, sub_status)


_LABEL = Step(0, "pre_transit", "Label created")
_PICKED_UP = Step(6, "in_transit", "Picked up", sub_status="picked_up")
_ARRIVED = _there(20, "in_transit", "Arrived at the facility")
_OUT = _there(30, "out_for_delivery", "Out for delivery")
_DELIVERED = _there(38, "delivered", "Delivered, left with the recipient")
_ON_ITS_WAY = (_LABEL, _PICKED_UP, _ARRIVED)
_USUAL = (*_ON_ITS_WAY, _OUT, _DELIVERED)
_NO_ONE = _there(38, "attempt_failed", "Delivery attempted, nobody was there")
_REFUSED = _there(38, "return_to_sender", "Refused; on its way back", read.RETURNING)

SCRIPTS: Final[dict[str, Script]] = {
    "PRETRANSIT": Script("a label is made, and no more", (_LABEL,)),
    "INTRANSIT": Script("arrives in the city and stays there", _ON_ITS_WAY, eta=38),
    "OUTFORDELIVERY": Script("stays on the van", (*_ON_ITS_WAY, _OUT), eta=38),
    "DELIVERED": Script("the usual way", _USUAL, eta=38, signed_by="A. RECIPIENT"),
    "ATTEMPTFAILED": Script("nobody was there", (*_ON_ITS_WAY, _OUT, _NO_ONE), eta=38),
    "PICKUP": Script(
        "nobody was there; waits to be collected",
        (
            *_ON_ITS_WAY,
            _OUT,
            _NO_ONE,
            _there(44, "available_for_pickup", "Ready for collection"),
        ),
        eta=38,
    ),
    "EXCEPTION": Script(
        "is damaged on its way",
        (*_ON_ITS_WAY, _there(26, "exception", "Damaged; being looked at", "damaged")),
    ),
    "RETURNING": Script("is refused, and on its way back", (*_ON_ITS_WAY, _OUT, _REFUSED)),
    "RETURNED": Script(
        "is refused, and comes back to its sender",
        (
            *_ON_ITS_WAY,
            _OUT,
            _REFUSED,
            Step(86, "return_to_sender", "Delivered to the sender", sub_status=RETURNED),
        ),
    ),
    "CANCELLED": Script(
        "the label is voided", (_LABEL, Step(12, "cancelled", "Voided by the sender"))
    ),
    "TOUR": Script(
        "every status on one way",
        (
            *_ON_ITS_WAY,
            _there(26, "exception", "Delayed by the weather", "weather"),
            _OUT,
            _NO_ONE,
            _there(44, "available_for_pickup", "Ready for collection"),
            _there(60, "delivered", "Collected", "collected"),
        ),
        signed_by="A. RECIPIENT",
    ),
    "LATESCAN": Script(
        "a scan of before is told after the delivery",
        (
            _LABEL,
            _PICKED_UP,
            Step(20, "in_transit", "Arrived at the facility", "Denver, CO, US", -420, told=41),
            _OUT,
            _DELIVERED,
        ),
    ),
    "MUDDLED": Script("its scans come in no order, some twice", _USUAL, eta=38, muddled=True),
    "OUTAGE": Script(
        "the carrier is down from hour 21 to hour 27", _USUAL, "unavailable", (21, 27)
    ),
    "BUSY": Script("the carrier asks for patience in that time", _USUAL, "limited", (21, 27)),
    "NOTFOUND": Script("is not known to the carrier, so it stays `pending`"),
    "INVALID": Script("is refused as no number of the carrier's"),
    "FORBIDDEN": Script("may not be seen with this credential", failure="forbidden"),
    "NOACCESS": Script("the credential is not accepted at all", failure="no_access"),
    "LIMITED": Script("the carrier asks to wait 30 seconds, each time", failure="limited"),
    "UNAVAILABLE": Script("the carrier answers HTTP 503, each time", failure="unavailable"),
    "TIMEOUT": Script("the carrier does not answer in time", failure="timeout"),
    "MALFORMED": Script("the answer about this parcel cannot be read", failure="malformed"),
}


@dataclass(frozen=True, slots=True)
class Journey:
    """What a number says: its script, and when it begins, in µs; None = long ago."""

    script: Script
    begins: int | None
    speed: float

    def when(self, hours: float) -> int:
        """The instant so many hours after the beginning."""
        begins = _LONG_AGO if self.begins is None else self.begins
        return begins + int(hours * _HOUR / (self.speed if self.begins is not None else 1))

    def hours(self, now: int) -> float:
        """How many hours it has been on its way; endless, if it has no beginning."""
        if self.begins is None:
            return math.inf
        return (now - self.begins) / _HOUR * self.speed


def journey(number: str) -> Journey | None:
    """What the number says; None if there is no such script."""
    match = _NUMBER.fullmatch(number)
    if match is None:
        return None
    fast, name, digits = match.groups()
    script = SCRIPTS.get(name)
    if script is None:
        return None
    begins = int(digits[:_BEGINNING]) * SECOND if len(digits) >= _BEGINNING else None
    return Journey(script, begins, FAST if fast else 1.0)


def speed(number: str) -> float:
    """How much faster than usual its parcel travels, and must be looked at."""
    found = journey(number)
    return 1.0 if found is None else found.speed


class Sandbox:
    """The carrier. Any number may be asked for by anybody."""

    name = "sandbox"
    per_call = 1

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def fetch(self, queries: Sequence[Query]) -> dict[str, Answer]:
        """What each number says, at this moment."""
        now = self._clock.now()
        return {query.number: answer(query.number, now) for query in queries}

    async def close(self) -> None:
        """Nothing is held open."""


def answer(number: str, now: int) -> Answer:
    """What the sandbox says of the number at that instant, in µs since the epoch."""
    found = journey(number)
    if found is None or found.script is SCRIPTS["INVALID"]:
        return Invalid(number, "the sandbox has no such script; see its reference page")
    script, hours = found.script, found.hours(now)
    if script.failure is not None and _failing(script, hours):
        return _failure(number, script.failure, found, hours)
    steps = [step for step in script.steps if step.known_from <= hours]
    if not steps:
        return NotFound(number, "no parcel with this number is known yet")
    return _found(number, found, steps)


def _failing(script: Script, hours: float) -> bool:
    begin, end = script.fails
    return begin <= hours < end or end == math.inf


def _failure(number: str, failure: Failure, found: Journey, hours: float) -> Answer:
    match failure:
        case "forbidden":
            return Forbidden(number, "this credential may not see the parcel")
        case "no_access":
            return Forbidden(None, "the credential is not accepted (HTTP 401)")
        case "limited":
            end = found.script.fails[1]
            left = 30.0 if end == math.inf else (end - hours) * 3600 / found.speed
            return RateLimited(round(min(left, 30.0), 3))
        case "unavailable":
            return Unavailable("HTTP 503", "http_503")
        case "timeout":
            return Unavailable("no whole answer in time", "timeout")
        case "malformed":
            return Malformed(number, "the answer holds no status")


def _found(number: str, found: Journey, steps: Sequence[Step]) -> Found:
    script = found.script
    last = max(steps, key=lambda step: step.at)
    scans = tuple(_scan(found, step) for step in steps)
    delivered = last.status == "delivered"
    # As most carriers do, it does not repeat its announcement once the parcel has arrived.
    eta = None if script.eta is None or is_terminal(last.status, last.sub_status) else script.eta
    return Found(
        number,
        last.status,
        last.sub_status,
        last.status.upper(),
        last.text,
        _muddled(scans) if script.muddled else scans,
        eta=None if eta is None else found.when(eta),
        eta_offset=None if eta is None else -420,
        delivered_at=found.when(last.at) if delivered else None,
        delivered_offset=last.offset if delivered else None,
        signed_by=script.signed_by if delivered else None,
        service="Sandbox Fast" if found.speed > 1 else "Sandbox Ground",
    )


def _scan(found: Journey, step: Step) -> Scan:
    at = found.when(step.at)
    return Scan(
        at, step.offset, step.status, step.sub_status, step.status.upper(), step.text, step.place
    )


def _muddled(scans: Sequence[Scan]) -> tuple[Scan, ...]:
    """Every other one first, the newest of them twice; always the same."""
    ordered = in_order(scans)
    return (*ordered[1::2], *ordered[::2], *ordered[1::2][-1:])


def _make(
    credential: Credential, base_url: str, session: aiohttp.ClientSession, clock: Clock
) -> Carrier:
    return Sandbox(clock)


SPEC: Final = Spec(
    name="sandbox",
    title="Sandbox",
    fields=(),
    per_call=1,
    budget=Budget(per_second=100.0, per_day=1_000_000),
    base_url="https://sandbox.invalid",
    page=None,
    make=_make,
    speed=speed,
)

"""The port that each carrier fills: numbers in, one answer for each of them out.

A new carrier is one file beside this one with a class that fits `Carrier` and a `Spec`, and
its line in `registry.py`. What an answer means for the shipment, the circuit and the budget
is decided by whoever asked; a carrier only says which of the seven it was.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Protocol

import aiohttp

from penstock.clock import Clock
from penstock.tracking.status import Scan, Status

HIDDEN = "***"


@dataclass(frozen=True, slots=True)
class Query:
    """One number to ask about, in the carrier's own spelling.

    `ship_date` and `postal_code` (of the recipient) tell apart the parcels that had the same
    number at different times; carriers that do not take them ignore them.
    """

    number: str
    ship_date: date | None = None
    postal_code: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The carrier knows the parcel.

    Instants are microseconds since the epoch, offsets minutes east of UTC, None where the
    carrier gave no zone (the instant then reads the local time as UTC). `code` and `text` are
    the carrier's own. `eta` is the end of what was announced: of the window, or of the day
    where only a day was given. `delivered_at` is when the carrier says it was delivered.
    `scans` are in no particular order and may hold some that were answered before.
    """

    number: str
    status: Status
    sub_status: str | None = None
    code: str | None = None
    text: str = ""
    scans: tuple[Scan, ...] = ()
    eta: int | None = None
    eta_offset: int | None = None
    delivered_at: int | None = None
    delivered_offset: int | None = None
    signed_by: str | None = None
    service: str | None = None


@dataclass(frozen=True, slots=True)
class NotFound:
    """The carrier knows no such parcel, or not yet: a label may be older than its first scan."""

    number: str
    text: str


@dataclass(frozen=True, slots=True)
class Invalid:
    """The carrier refuses this number as none of its own; asking again changes nothing."""

    number: str
    text: str


@dataclass(frozen=True, slots=True)
class Forbidden:
    """The credential may not: see this one number, or, where `number` is None, anything."""

    number: str | None
    text: str


@dataclass(frozen=True, slots=True)
class RateLimited:
    """Asked too often. `retry_after` in seconds, None if the carrier did not say."""

    retry_after: float | None


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The carrier did not answer, or not with anything that can be read.

    `kind` is a stable code: a `penstock.tracking.carriers.http.Kind` or ``http_503``.
    """

    reason: str
    kind: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """The carrier answered, but this one parcel cannot be read. Says nothing of its health."""

    number: str
    reason: str


Answer = Found | NotFound | Invalid | Forbidden | RateLimited | Unavailable | Malformed


@dataclass(frozen=True, slots=True)
class Credential:
    """What the carrier knows its customer by. `id` names it in lanes and logs.

    The values are secret and appear in no representation.
    """

    id: str
    values: Mapping[str, str] = field(repr=False)

    def scrub(self, text: str, *others: str) -> str:
        """`text` without any of the values, nor of `others`: servers do repeat what was sent."""
        for value in (*self.values.values(), *others):
            if len(value) >= 4:  # a shorter one would blot out half of the text
                text = text.replace(value, HIDDEN)
        return text


class Carrier(Protocol):
    """A carrier's API, asked with one credential. `fetch` may be called many times at once."""

    @property
    def name(self) -> str:
        """What shipments call it: ``ups``."""

    @property
    def per_call(self) -> int:
        """How many numbers the carrier takes in one call."""

    async def fetch(self, queries: Sequence[Query]) -> dict[str, Answer]:
        """An answer for every number, by number. Raises nothing for what a carrier does.

        More than `per_call` numbers are asked for in several calls, one after another.
        """

    async def close(self) -> None:
        """End what is under way. The session belongs to whoever made it."""


@dataclass(frozen=True, slots=True)
class Field:
    """One value of a carrier's credential. A secret one is never shown again."""

    name: str
    title: str
    secret: bool
    required: bool = True


@dataclass(frozen=True, slots=True)
class Budget:
    """How often a credential may call, unless the deployment says otherwise."""

    per_second: float
    per_day: int


Make = Callable[[Credential, str, aiohttp.ClientSession, Clock], Carrier]


def _usual(number: str) -> float:
    return 1.0


@dataclass(frozen=True, slots=True)
class Spec:
    """A carrier as the rest of Penstock sees it.

    `base_url` is of its production API, without a slash at the end. `page` is where a person
    can follow the parcel, with ``{number}`` in it; None if there is no such page. `make` takes
    the credential, a base URL, a session (see `http.carrier_session`) and a clock.
    """

    name: str
    title: str
    fields: tuple[Field, ...]
    per_call: int
    budget: Budget
    base_url: str
    page: str | None
    make: Make = field(repr=False)
    # How much faster than usual the parcel of a number travels; some of the sandbox's do.
    speed: Callable[[str], float] = _usual


async def one_by_one(
    queries: Sequence[Query], ask: Callable[[Query], Awaitable[Answer]]
) -> dict[str, Answer]:
    """`fetch` for a carrier that takes one number a call.

    An answer that is about the carrier or the credential ends it: the numbers that were not
    asked for get the same one.
    """
    answers: dict[str, Answer] = {}
    common: Answer | None = None
    for query in queries:
        if query.number in answers:
            continue
        answer = await ask(query) if common is None else common
        answers[query.number] = answer
        if concerns_all(answer):
            common = answer
    return answers


def concerns_all(answer: Answer) -> bool:
    """Whether the answer is not about one parcel, but about the carrier or the credential."""
    match answer:
        case RateLimited() | Unavailable() | Forbidden(number=None):
            return True
        case _:
            return False

"""What is known of a shipment, and how an answer of its carrier changes that.

A shipment's state is read from two things: the scans, which are a set ordered by when they
happened, and the carrier's own summary of them. Scans come late, twice and in any order, so the
rules speak of when a scan happened and never of when it was heard of:

* A terminal status stays. It gives way to another terminal status that happened later, and to
  nothing else.
* Of several terminal scans the latest counts.
* Without a terminal one, the carrier's summary counts, unless the answer is older than what is
  known already (a cache, a replica): then only its scans are kept.

Terminal are ``delivered``, ``cancelled``, ``expired``, and ``return_to_sender`` with the
sub-status ``returned``: the sender has it back. On its way there it is still in motion.
``expired`` is the only one that is not the carrier's: it says that nothing was heard. News that
happened after it, and any end that the carrier tells of, take it back.

What went wrong with a fetch is not a status: only an answer about the parcel comes in here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, get_args

from penstock.clock import SECOND

if TYPE_CHECKING:
    from penstock.tracking.carriers.base import Found

Status = Literal[
    "pending",  # registered; nothing known yet
    "pre_transit",  # the carrier has the label's data, not the parcel
    "in_transit",
    "out_for_delivery",
    "available_for_pickup",
    "attempt_failed",
    "exception",
    "delivered",
    "return_to_sender",
    "cancelled",
    "expired",
]
STATUSES: Final[tuple[Status, ...]] = get_args(Status)

RETURNED: Final = "returned"  # sub-status: the sender has it back

# Which of two terminal statuses of one instant counts.
_RANK: Final = {"expired": 0, "cancelled": 1, "delivered": 2, "return_to_sender": 3}

# A scan's time may be local without a zone, up to 14 hours ahead of UTC. What is dated beyond
# that is a mistake of the carrier's clock, and must not make all that follows look old.
_AHEAD: Final = 24 * 3600 * SECOND
_NEVER: Final = -(2**63)


@dataclass(frozen=True, slots=True)
class Scan:
    """One thing that happened to a parcel, as the carrier tells it."""

    at: int  # µs since the epoch: the instant; without a zone, the local time read as UTC
    offset: int | None  # minutes east of UTC, as the carrier gave it; None = it gave no zone
    status: Status | None  # None = says nothing about the status
    sub_status: str | None
    code: str | None  # the carrier's own
    text: str  # the carrier's own
    place: str | None  # "Louisville, KY, US"

    def fingerprint(self) -> str:
        """32 hex digits, the same each time the carrier tells of this scan.

        Of what the carrier said only: how its codes are read may improve between two fetches.
        """
        said = (str(self.at), self.code or "", _plain(self.text), _plain(self.place or ""))
        return hashlib.sha256("\x1f".join(said).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class State:
    """What a shipment is known to be.

    All times are the carrier's, in µs since the epoch, their offsets as in `Scan`; only
    ``expired`` is dated by us.
    """

    status: Status = "pending"
    sub_status: str | None = None
    code: str | None = None  # the carrier's own
    text: str = ""  # the carrier's own
    status_at: int | None = None  # when it came to be so; None = the carrier does not say
    delivered_at: int | None = None  # to the recipient; None = not, or the carrier does not say
    eta: int | None = None
    signed_by: str | None = None
    delivered_offset: int | None = None
    eta_offset: int | None = None

    @property
    def terminal(self) -> bool:
        """Nothing more is expected to happen to the parcel."""
        return is_terminal(self.status, self.sub_status)


def is_terminal(status: Status | None, sub_status: str | None) -> bool:
    """Whether a parcel of this status is at the end of its way."""
    if status == "return_to_sender":
        return sub_status == RETURNED
    return status in ("delivered", "cancelled", "expired")


def in_order(*several: Iterable[Scan]) -> tuple[Scan, ...]:
    """All of them, each once, in the order in which they happened."""
    once = {scan.fingerprint(): scan for scans in several for scan in scans}
    return tuple(sorted(once.values(), key=lambda scan: (scan.at, scan.fingerprint())))


def expired(before: State, now: int) -> State:
    """The state of a shipment of which nothing was heard for too long; an end stays an end."""
    if before.terminal:
        return before
    return replace(before, status="expired", sub_status=None, code=None, text="", status_at=now)


def fold(before: State, found: Found, known: Iterable[Scan] = (), *, now: int) -> State:
    """What is known after the carrier's answer `found`; pure, and the same if told twice.

    `known` are the scans of earlier answers, as many as are at hand. `now` only serves to
    recognise times that cannot be right.
    """
    horizon = now + _AHEAD
    known = in_order(known)
    scans = in_order(known, found.scans)
    end = _end(before, found, scans, horizon)
    if before.terminal and end is None and not _is_revived(before, found, horizon):
        return _proven(before, found, scans, horizon)
    stale = _is_stale(before, found, known, horizon)
    if end is not None:
        after = replace(end, eta=before.eta, eta_offset=before.eta_offset)
    elif stale:
        after = before
    else:
        after = _summary(before, found, _since(found, found.scans, horizon))
    if found.eta is not None and (not stale or after.eta is None):
        after = replace(after, eta=found.eta, eta_offset=found.eta_offset)
    return _proven(after, found, scans, horizon)


def _end(before: State, found: Found, scans: Sequence[Scan], horizon: int) -> State | None:
    """The latest terminal status that anything tells of, if it is not the one known already."""
    ends = [
        State(scan.status, scan.sub_status, scan.code, scan.text, scan.at)
        for scan in scans
        if scan.status is not None
        and is_terminal(scan.status, scan.sub_status)
        and scan.at <= horizon
    ]
    if is_terminal(found.status, found.sub_status):
        at = found.delivered_at if found.status == "delivered" else None
        at = _since(found, scans, horizon) if at is None else at
        ends.append(State(found.status, found.sub_status, found.code, found.text, at))
    if not ends:
        return None
    # The summary comes last: of two that are equal in time and rank it is the one to quote.
    end = max(reversed(ends), key=_lateness)
    if not before.terminal or before.status == "expired":
        return end
    if (end.status_at or _NEVER) > (before.status_at or _NEVER) and _differ(end, before):
        return end
    return None


def _lateness(end: State) -> tuple[int, int]:
    at = _NEVER if end.status_at is None else end.status_at
    return at, _RANK[end.status]


def _differ(one: State, other: State) -> bool:
    return (one.status, one.sub_status) != (other.status, other.sub_status)


def _summary(before: State, found: Found, at: int | None) -> State:
    return replace(
        before,
        status=found.status,
        sub_status=found.sub_status,
        code=found.code,
        text=found.text,
        status_at=at,
    )


def _is_revived(before: State, found: Found, horizon: int) -> bool:
    """Whether something happened after the shipment was given up."""
    at = _since(found, found.scans, horizon)
    return before.status == "expired" and at is not None and at > (before.status_at or _NEVER)


def _is_stale(before: State, found: Found, known: Sequence[Scan], horizon: int) -> bool:
    """Whether the answer knows less than is known already."""
    latest = _latest(known, horizon)
    if before.status_at is not None and before.status_at <= horizon:
        latest = before.status_at if latest is None else max(latest, before.status_at)
    if latest is None:
        return False
    told = _latest(found.scans, horizon)
    return told is None or told < latest


def _since(found: Found, scans: Sequence[Scan], horizon: int) -> int | None:
    """When the status of the summary came to be: its latest scan's time, else the latest of all."""
    same = [s for s in scans if (s.status, s.sub_status) == (found.status, found.sub_status)]
    same = same or [s for s in scans if s.status == found.status]
    at = _latest(same, horizon)
    return _latest(scans, horizon) if at is None else at


def _latest(scans: Iterable[Scan], horizon: int) -> int | None:
    return max((scan.at for scan in scans if scan.at <= horizon), default=None)


def _proven(after: State, found: Found, scans: Sequence[Scan], horizon: int) -> State:
    """With what is told of the delivery: when, by the carrier's clock, and who signed."""
    if after.status != "delivered":
        return after
    at, offset = after.delivered_at, after.delivered_offset
    if found.status == "delivered" and found.delivered_at is not None:
        at, offset = found.delivered_at, found.delivered_offset
    elif at is None:
        handed = [s for s in scans if s.status == "delivered" and s.at <= horizon]
        if handed:
            at, offset = handed[-1].at, handed[-1].offset
    signed_by = found.signed_by or after.signed_by
    return replace(after, delivered_at=at, delivered_offset=offset, signed_by=signed_by)


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()

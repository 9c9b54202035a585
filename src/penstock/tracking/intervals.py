"""When a shipment is looked at next.

Each status has an interval of its own: as often as something can be expected to have happened.
Where a carrier's budget does not allow that for all its shipments, the intervals are stretched
until it does, those of parcels that are out for delivery last. So a lane's calls are spread over
the day by what is owed, not by what happens to be refused.

Everything here is a pure function; durations are seconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from penstock.clock import SECOND
from penstock.tracking.status import Status, is_terminal

HOUR: Final = 3600.0
DAY: Final = 86_400.0

JITTER: Final = 0.1  # of the interval, either way
CONFIRM: Final = 12 * HOUR  # after a delivery: who signed is often known later
SILENCE: Final = 30 * DAY  # without news; then it is expired
LONGEST: Final = 120 * DAY  # altogether; carriers keep their data about as long

# Each status's interval, while nothing more is known.
INTERVALS: Final[Mapping[Status, float]] = {
    "pending": 6 * HOUR,
    "pre_transit": 6 * HOUR,
    "in_transit": 3 * HOUR,
    "out_for_delivery": 0.5 * HOUR,
    "available_for_pickup": 6 * HOUR,
    "attempt_failed": 3 * HOUR,
    "exception": 6 * HOUR,
    "return_to_sender": 6 * HOUR,
}
_SELDOM: Final = 12 * HOUR
_UNKNOWN_LONGEST: Final = 24 * HOUR

URGENT: Final[frozenset[Status]] = frozenset({"out_for_delivery"})

# Of what the budget allows, the part that intervals may plan with. The rest is for shipments that
# are new, for refreshes, and for what jitter heaps up: a lane planned full never catches up.
PLANNED: Final = 0.8
# Of that, what the others keep if those out for delivery could use it all.
KEPT: Final = 0.25


@dataclass(frozen=True, slots=True)
class Facts:
    """What the next look depends on. Instants are µs since the epoch, by our clock but for
    `status_at` and `eta`, which are the carrier's."""

    status: Status
    sub_status: str | None
    created_at: int
    news_at: int  # when something new was last heard; at first when it was created
    status_at: int | None = None
    eta: int | None = None
    not_found: int = 0  # how often in a row the carrier did not know the number
    confirmed: bool = False  # it was looked at once more since it ended
    speed: float = 1.0  # how much faster than other parcels this one travels (the sandbox's do)


@dataclass(frozen=True, slots=True)
class Stretch:
    """By how much a lane's intervals are lengthened so that its budget is kept."""

    urgent: float = 1.0
    others: float = 1.0

    def of(self, status: Status) -> float:
        """The factor for a shipment of this status."""
        return self.urgent if status in URGENT else self.others


NONE: Final = Stretch()


def is_expired(facts: Facts, now: int) -> bool:
    """Whether to give it up: no news for 30 days, or 120 days old, without having ended."""
    if is_terminal(facts.status, facts.sub_status):
        return False
    return _left(facts, now) <= 0


def next_check(
    facts: Facts,
    now: int,
    stretch: Stretch = NONE,
    draw: Callable[[], float] = random.random,
) -> float | None:
    """Seconds until the next look; None = no more. `draw` answers numbers from 0 to 1.

    A delivered parcel is looked at once more, one that ended otherwise not.
    """
    if is_terminal(facts.status, facts.sub_status):
        if facts.status != "delivered" or facts.confirmed:
            return None
        interval = CONFIRM
    else:
        interval = _interval(facts, now)
    interval *= stretch.of(facts.status)
    # What would fall after the end of its time is looked at then: that look may end it.
    if not is_terminal(facts.status, facts.sub_status):
        interval = min(interval, max(_left(facts, now), HOUR))
    jittered = interval * (1 + JITTER * (2 * draw() - 1))
    return max(jittered / facts.speed, 1.0)


def stretched(counts: Mapping[Status, int], rows_per_day: float) -> Stretch:
    """What keeps so many shipments within `rows_per_day` looks; `counts` by their status."""
    capacity = PLANNED * rows_per_day
    demand = {
        status: n * DAY / INTERVALS.get(status, CONFIRM) for status, n in counts.items() if n > 0
    }
    urgent = sum(looks for status, looks in demand.items() if status in URGENT)
    others = sum(looks for status, looks in demand.items() if status not in URGENT)
    if urgent + others <= capacity:
        return NONE
    for_urgent = min(urgent, max(capacity - others, (1 - KEPT) * capacity))
    return Stretch(
        urgent / for_urgent if urgent else 1.0,
        max(1.0, others / (capacity - for_urgent)) if others else 1.0,
    )


def first_check(position: int, rows_per_day: float) -> float:
    """Seconds after which the `position`-th of many new shipments is looked at first.

    Spread over half of the budget, so that those that are followed already do not wait behind
    them all.
    """
    return position * DAY / (0.5 * rows_per_day)


def _interval(facts: Facts, now: int) -> float:
    status = facts.status
    if status == "pending" and facts.not_found:
        return float(min(INTERVALS["pending"] * 2 ** min(facts.not_found - 1, 8), _UNKNOWN_LONGEST))
    if status == "pre_transit" and now - facts.news_at > 3 * DAY * SECOND:
        return _SELDOM
    if status == "in_transit" and facts.eta is not None and facts.eta - now > 3 * DAY * SECOND:
        return _SELDOM
    if status in URGENT and now - facts.news_at > DAY * SECOND:
        return INTERVALS["in_transit"]  # it came back to the depot, and nobody said so
    return INTERVALS[status]


def _left(facts: Facts, now: int) -> float:
    """Seconds of its own time until it is given up."""
    silent = (now - facts.news_at) / SECOND * facts.speed
    old = (now - facts.created_at) / SECOND * facts.speed
    return min(SILENCE - silent, LONGEST - old)

"""From what a carrier allows to what a lane lets through.

A lane has one token bucket and a carrier two limits. A bucket that holds `burst` tokens and gains
`rate` a second lets at most ``burst + rate * t`` calls pass in any `t` seconds, so the day's limit
is kept over any 24 hours, not only from midnight to midnight, and whatever was saved up before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from penstock.tracking.carriers.base import Budget

DAY: Final = 86_400  # seconds


@dataclass(frozen=True, slots=True)
class Pace:
    """A lane's bucket: `rate` tokens a second, `burst` of them at most."""

    rate: float
    burst: float


def pace(budget: Budget) -> Pace:
    """The bucket that keeps both limits of `budget`.

    A burst lets a new shipment be looked up at once although the day's limit alone would space
    calls minutes apart. It is kept small beside that limit, because it lessens the rate.
    """
    if budget.per_second <= 0 or budget.per_day < 2:
        raise ValueError("a budget needs calls a second above 0 and at least 2 a day")
    burst = max(1.0, float(min(int(budget.per_second), budget.per_day // 10)))
    # Within one second a full bucket and what it gains meanwhile must not exceed the limit.
    rate = min(budget.per_second, (budget.per_day - burst) / DAY)
    while burst > 1 and burst + rate > budget.per_second + 1:
        burst -= 1
    return Pace(rate, burst)

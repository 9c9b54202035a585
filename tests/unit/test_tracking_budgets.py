"""A carrier's two limits as one bucket: neither is ever exceeded, however it is drawn from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.tracking.budgets import DAY, pace
from penstock.tracking.carriers.base import Budget
from penstock.tracking.carriers.registry import CARRIERS

budgets = st.builds(
    Budget,
    per_second=st.one_of(st.floats(0.05, 5), st.integers(1, 1000).map(float)),
    per_day=st.integers(2, 2_000_000),
)


@given(budgets)
def test_no_24_hours_hold_more_calls_than_a_day_may(budget: Budget) -> None:
    bucket = pace(budget)
    assert bucket.rate > 0
    assert bucket.burst >= 1
    assert bucket.burst + DAY * bucket.rate <= budget.per_day + 1e-6


@given(budgets)
def test_no_second_holds_more_calls_than_it_may(budget: Budget) -> None:
    """Of a bucket drawn from as hard as can be, in any window that a limit of calls a second means:
    one second, or where less than one is allowed, the time for one."""
    bucket = pace(budget)
    window = max(1.0, 1.0 / budget.per_second)
    allowed = max(1, int(budget.per_second * window + 1e-9))
    # The n-th call within a window comes (n - burst) / rate after its first at the earliest.
    worst = int(bucket.burst)
    while (worst + 1 - bucket.burst) / bucket.rate < window - 1e-6:
        worst += 1
    assert worst <= allowed + (budget.per_second != int(budget.per_second))


@given(budgets)
def test_what_is_allowed_is_used(budget: Budget) -> None:
    bucket = pace(budget)
    day = bucket.burst + DAY * bucket.rate
    assert day >= 0.99 * min(budget.per_day, DAY * budget.per_second)


@pytest.mark.parametrize(("per_second", "per_day"), [(0.0, 100), (-1.0, 100), (1.0, 1), (1.0, 0)])
def test_a_budget_for_nothing_is_refused(per_second: float, per_day: int) -> None:
    with pytest.raises(ValueError, match="budget"):
        pace(Budget(per_second, per_day))


@pytest.mark.parametrize("carrier", sorted(CARRIERS))
def test_every_carrier_has_a_budget_that_works(carrier: str) -> None:
    assert pace(CARRIERS[carrier].budget).rate > 0

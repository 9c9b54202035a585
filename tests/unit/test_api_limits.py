from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.api.limits import RateLimiter
from penstock.api.problems import Problem
from penstock.clock import ManualClock


def admitted(limiter: RateLimiter, account: str = "a") -> dict[str, str] | None:
    try:
        return {name.decode(): value.decode() for name, value in limiter.admit(account)}
    except Problem as problem:
        if problem.code != "rate_limited":
            raise
        return None


def test_the_burst_is_let_through_and_then_the_rate() -> None:
    clock = ManualClock()
    limiter = RateLimiter(2.0, 3, clock=clock)
    assert [admitted(limiter) is not None for _ in range(4)] == [True, True, True, False]
    clock.advance(0.5)
    assert [admitted(limiter) is not None for _ in range(2)] == [True, False]
    clock.advance(60)
    assert [admitted(limiter) is not None for _ in range(4)] == [True, True, True, False]


def test_accounts_do_not_share() -> None:
    limiter = RateLimiter(1.0, 1, clock=ManualClock())
    assert admitted(limiter, "a")
    assert admitted(limiter, "b")
    assert not admitted(limiter, "a")


def test_the_header_fields() -> None:
    clock = ManualClock()
    limiter = RateLimiter(0.1, 5, clock=clock)
    assert admitted(limiter) == {
        "ratelimit-limit": "5",
        "ratelimit-policy": '"default";q=5;w=50',
        "ratelimit-remaining": "4",
        "ratelimit-reset": "10",
        "ratelimit": '"default";r=4;t=10',
    }
    for _ in range(4):
        limiter.admit("a")
    with pytest.raises(Problem) as caught:
        limiter.admit("a")
    headers = caught.value.headers
    assert headers is not None
    assert headers["Retry-After"] == headers["ratelimit-reset"] == "10"
    assert headers["ratelimit-remaining"] == "0"
    clock.advance(float(headers["Retry-After"]))
    assert admitted(limiter)


def test_a_full_bucket_is_forgotten_and_an_empty_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("penstock.api.limits._MOST_BUCKETS", 2)
    clock = ManualClock()
    limiter = RateLimiter(1.0, 2, clock=clock)
    limiter.admit("spent")
    limiter.admit("spent")
    limiter.admit("b")
    clock.advance(1)
    for n in range(10):
        limiter.admit(str(n))
    assert admitted(limiter, "spent")
    assert not admitted(limiter, "spent")


@given(
    st.floats(0.01, 100),
    st.integers(1, 50),
    st.lists(st.floats(0, 5), min_size=1, max_size=100),
)
def test_never_more_than_burst_and_rate_together(
    rate: float, burst: int, gaps: list[float]
) -> None:
    clock = ManualClock()
    limiter = RateLimiter(rate, burst, clock=clock)
    passed = 0
    for gap in gaps:
        clock.advance(gap)
        passed += admitted(limiter) is not None
    assert passed <= burst + math.floor(clock.monotonic() * rate + 1e-6)


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0), (math.inf, 1), (math.nan, 1)])
def test_a_limit_that_cannot_be(rate: float, burst: int) -> None:
    with pytest.raises(ValueError, match="rate limit"):
        RateLimiter(rate, burst)

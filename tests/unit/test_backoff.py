from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.work.backoff import exponential, jittered, schedule


@given(st.floats(0, 1e6), st.floats(0, 0.5))
def test_jitter_stays_within_its_spread(seconds: float, spread: float) -> None:
    got = jittered(seconds, spread)
    assert seconds * (1 - spread) <= got <= seconds * (1 + spread) + 1e-9


def test_jitter_differs_between_calls() -> None:
    assert len({jittered(100.0) for _ in range(20)}) > 1


def test_exponential_doubles_to_its_cap_and_then_gives_up() -> None:
    wait = exponential(first=30, cap=3600, attempts=10, spread=0)
    assert [wait(n) for n in range(1, 10)] == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert wait(10) is None
    assert wait(11) is None


def test_exponential_of_an_endless_series_does_not_overflow() -> None:
    assert exponential(first=1, cap=60, attempts=10**9, spread=0)(10**6) == 60


@given(st.integers(1, 7))
def test_exponential_is_jittered_within_bounds(n: int) -> None:
    middle = min(3600.0, 30.0 * 2 ** (n - 1))
    got = exponential()(n)
    assert got is not None
    assert middle * 0.8 <= got <= middle * 1.2


@pytest.mark.parametrize("gaps", [[5.0], [5.0, 300.0, 1800.0]])
def test_a_schedule_gives_each_gap_once(gaps: list[float]) -> None:
    wait = schedule(gaps, spread=0)
    assert [wait(n) for n in range(1, len(gaps) + 1)] == gaps
    assert wait(len(gaps) + 1) is None


def test_an_empty_schedule_allows_one_try() -> None:
    assert schedule([])(1) is None

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.clock import (
    SECOND,
    ManualClock,
    SystemClock,
    from_datetime,
    from_iso,
    to_datetime,
    to_iso,
)


def test_the_system_clock_counts_microseconds() -> None:
    clock = SystemClock()
    before, now, after = time.time_ns() // 1000, clock.now(), time.time_ns() // 1000
    assert before <= now <= after
    assert SECOND == 1_000_000
    earlier, at, later = time.monotonic(), clock.monotonic(), time.monotonic()
    assert earlier <= at <= later


def test_a_manual_clock_stands_still_until_moved() -> None:
    clock = ManualClock(start=5 * SECOND)
    assert (clock.now(), clock.monotonic()) == (5 * SECOND, 0.0)
    clock.advance(1.5)
    assert (clock.now(), clock.monotonic()) == (6_500_000, 1.5)
    clock.step(-2)
    assert (clock.now(), clock.monotonic()) == (4_500_000, 1.5)
    with pytest.raises(ValueError, match="forward"):
        clock.advance(-1)


def test_iso_is_rfc_3339_of_constant_width() -> None:
    assert to_iso(0) == "1970-01-01T00:00:00.000000Z"
    assert to_iso(1_767_322_983_678_901) == "2026-01-02T03:03:03.678901Z"


def test_iso_is_read_with_any_zone() -> None:
    expected = from_datetime(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert from_iso("2026-01-02T03:04:05Z") == expected
    assert from_iso("2026-01-02T05:04:05+02:00") == expected
    assert from_iso("2026-01-02 03:04:05.000Z") == expected


@pytest.mark.parametrize("text", ["2026-01-02T03:04:05", "2026-13-02T00:00:00Z", "soon", ""])
def test_what_is_not_an_instant_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is the standard library's
        from_iso(text)


@given(st.integers(min_value=-(10**16), max_value=2 * 10**17))
def test_iso_and_datetime_lose_nothing(us: int) -> None:
    assert from_iso(to_iso(us)) == us
    assert from_datetime(to_datetime(us).astimezone(timezone(timedelta(hours=-7)))) == us

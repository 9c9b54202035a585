from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.durations import describe, seconds


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("500ms", 0.5),
        ("2m", 120),
        ("10m", 600),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        (" 5d ", 432000),
        ("1.5h", 5400),
        ("20S", 20),
        ("20", 20),
        (20, 20),
        (0, 0),
        (0.25, 0.25),
        (timedelta(minutes=1), 60),
    ],
)
def test_durations_are_read(value: Any, expected: float) -> None:
    assert seconds(value) == pytest.approx(expected)


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "soon", "-5s", "5x", "h", "1h30", "30m1h", "5m5m", "1..5s", "1e3s", "٣s"),
        *("5 parsecs", float("nan"), float("inf"), -1, True, timedelta(seconds=-1)),
    ],
)
def test_what_is_not_a_duration_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="duration"):
        seconds(value)


@given(st.integers(min_value=0, max_value=10**12))
def test_a_description_reads_back_as_the_same_duration(milliseconds: int) -> None:
    assert round(seconds(describe(milliseconds / 1000)) * 1000) == milliseconds


def test_descriptions_are_short() -> None:
    assert describe(5400) == "1h30m"
    assert describe(0.25) == "250ms"
    assert describe(0) == "0s"

from __future__ import annotations

import pytest

from penstock.work.circuit import FIRST_OPEN, LONGEST_OPEN, open_for


@pytest.mark.parametrize("trips", [0, 1, 2, 5, 6, 7, 50, 10_000])
def test_the_cool_down_doubles_to_its_limit_and_is_jittered(trips: int) -> None:
    longest = min(LONGEST_OPEN, FIRST_OPEN * 2.0 ** min(trips, 60))
    seen = [open_for(trips) for _ in range(200)]
    assert all(longest / 2 <= seconds <= longest for seconds in seen)
    assert max(seen) - min(seen) > longest / 10

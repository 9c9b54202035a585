"""How long to wait before the next try."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

# Seconds to wait after the n-th failed attempt (n counts from 1); None = give up.
Backoff = Callable[[int], float | None]


def jittered(seconds: float, spread: float = 0.2) -> float:
    """`seconds` ± `spread`, uniformly, so that what failed together does not return together."""
    return seconds * random.uniform(1 - spread, 1 + spread)  # noqa: S311 - not a secret


def exponential(
    first: float = 30.0, cap: float = 3600.0, *, attempts: int = 8, spread: float = 0.2
) -> Backoff:
    """`first`, doubling up to `cap` seconds, jittered; gives up after `attempts` attempts."""

    def wait(n: int) -> float | None:
        if n >= attempts:
            return None
        return jittered(min(cap, first * 2.0 ** min(n - 1, 60)), spread)

    return wait


def schedule(gaps: Sequence[float], spread: float = 0.2, *, for_ever: bool = False) -> Backoff:
    """The listed gaps in seconds, each jittered; gives up when they are used up.

    `for_ever`: repeats the last one instead.
    """

    def wait(n: int) -> float | None:
        if for_ever:
            n = min(n, len(gaps))
        return jittered(gaps[n - 1], spread) if n <= len(gaps) else None

    return wait

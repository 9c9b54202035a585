"""How many requests an account may send: a token bucket each, in memory of this process.

The header fields are those of draft-ietf-httpapi-ratelimit-headers: the three of revision 06
that clients read today (``RateLimit-Limit``, ``-Remaining``, ``-Reset``) and the two of the
current form (``RateLimit-Policy: "default";q=;w=`` and ``RateLimit: "default";r=;t=``).
"""

from __future__ import annotations

import math
from typing import Final

from penstock.api.problems import Problem
from penstock.clock import Clock, SystemClock

Headers = list[tuple[bytes, bytes]]
_MOST_BUCKETS: Final = 10_000


class RateLimiter:
    """`rate` requests a second for each account, `burst` at once."""

    def __init__(self, rate: float, burst: int, *, clock: Clock | None = None) -> None:
        if not (rate > 0 and math.isfinite(rate) and burst >= 1):
            raise ValueError("a rate limit needs a rate above 0 and a burst of at least 1")
        self._rate = rate
        self._burst = burst
        self._monotonic = (clock or SystemClock()).monotonic
        self._buckets: dict[str, tuple[float, float]] = {}  # account -> tokens, as of when
        window = max(1, math.ceil(burst / rate))  # seconds in which an empty bucket fills
        self._fixed: Headers = [
            (b"ratelimit-limit", str(burst).encode()),
            (b"ratelimit-policy", f'"default";q={burst};w={window}'.encode()),
        ]

    def admit(self, account: str) -> Headers:
        """Take one token: the header fields to answer with, or the problem `rate_limited`."""
        now = self._monotonic()
        tokens, at = self._buckets.get(account, (float(self._burst), now))
        tokens = min(float(self._burst), tokens + (now - at) * self._rate)
        if tokens < 1:
            wait = max(1, math.ceil((1 - tokens) / self._rate))
            raise Problem(
                "rate_limited",
                f"The account may send {self._rate:g} requests a second, {self._burst} at once.",
                headers={
                    "Retry-After": str(wait),
                    **{name.decode(): value.decode() for name, value in self._headers(0, wait)},
                },
            )
        tokens -= 1
        if len(self._buckets) >= _MOST_BUCKETS and account not in self._buckets:
            self._drop_full(now)
        self._buckets[account] = (tokens, now)
        return self._headers(int(tokens), math.ceil((self._burst - tokens) / self._rate))

    def _headers(self, remaining: int, reset: int) -> Headers:
        return [
            *self._fixed,
            (b"ratelimit-remaining", str(remaining).encode()),
            (b"ratelimit-reset", str(reset).encode()),
            (b"ratelimit", f'"default";r={remaining};t={reset}'.encode()),
        ]

    def _drop_full(self, now: float) -> None:
        """Forget accounts whose bucket has filled up: that is how a new one starts too."""
        for account, (tokens, at) in list(self._buckets.items()):
            if tokens + (now - at) * self._rate >= self._burst:
                del self._buckets[account]

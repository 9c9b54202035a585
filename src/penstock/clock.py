"""The time, as a port, so that tests can move it.

Instants are integers: microseconds since 1970-01-01T00:00:00Z. Durations are seconds.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, Protocol

SECOND: Final = 1_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Clock(Protocol):
    """What the rest of Penstock asks of time."""

    def now(self) -> int:
        """The wall clock: microseconds since the epoch. It may jump either way."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back. Deadlines use this one."""
        ...


class SystemClock:
    """The machine's own clocks."""

    __slots__ = ()

    def now(self) -> int:
        """Microseconds since the epoch."""
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """Seconds from an arbitrary start."""
        return time.monotonic()


class ManualClock:
    """A clock that stands still until a test moves it; threads may share it."""

    __slots__ = ("_lock", "_monotonic", "_now")

    def __init__(self, start: int = 1_767_225_600 * SECOND) -> None:
        self._now = start  # 2026-01-01T00:00:00Z unless told
        self._monotonic = 0.0
        self._lock = threading.Lock()

    def now(self) -> int:
        """Microseconds since the epoch."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks; `seconds` must not be negative."""
        if seconds < 0:
            raise ValueError("time passes forward; use step() to set the wall clock back")
        with self._lock:
            self._now += round(seconds * SECOND)
            self._monotonic += seconds

    def step(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an administrator or NTP would."""
        with self._lock:
            self._now += round(seconds * SECOND)


def to_datetime(us: int) -> datetime:
    """The instant as an aware datetime in UTC."""
    return _EPOCH + timedelta(microseconds=us)


def from_datetime(moment: datetime) -> int:
    """The aware `moment` as microseconds since the epoch; ValueError if it has no zone."""
    if moment.tzinfo is None:
        raise ValueError("a time needs a zone, such as Z or +02:00")
    return (moment - _EPOCH) // _MICROSECOND


def to_iso(us: int) -> str:
    """RFC 3339 in UTC, always with six decimals: ``2026-01-02T03:04:05.678901Z``.

    The constant width makes the texts sort as the instants do.
    """
    seconds, rest = divmod(us, SECOND)
    return f"{_to_the_second(seconds)}.{rest:06d}Z"


@lru_cache(maxsize=1024)  # instants that are written out are mostly of the present second
def _to_the_second(seconds: int) -> str:
    return f"{to_datetime(seconds * SECOND):%Y-%m-%dT%H:%M:%S}"


def from_iso(text: str) -> int:
    """Microseconds since the epoch from RFC 3339 with a zone; ValueError otherwise."""
    return from_datetime(datetime.fromisoformat(text))

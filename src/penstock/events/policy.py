"""The numbers of the service that an operator may change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# 1, 2, 4, 8, 16 s, 5 min, 30 min, 2 h, 5 h, 10 h, 10 h: twelve attempts over 28 hours.
DEFAULT_SCHEDULE: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 300.0, 1800.0, 7200.0, 18e3, 36e3, 36e3)


@dataclass(frozen=True, slots=True)
class Policy:
    """Durations in seconds, sizes in bytes. `schedule` and `timeout` are endpoints' defaults."""

    schedule: Sequence[float] = DEFAULT_SCHEDULE
    timeout: float = 10.0
    # A delivery that waits behind a closed lane counts no attempt; this is what ends it.
    expiry: float = 5 * 86400.0
    max_body: int = 256 * 1024
    max_batch_body: int = 5 * 1024 * 1024
    # An endpoint of which every attempt failed for so long is disabled.
    disable_after: float = 5 * 86400.0

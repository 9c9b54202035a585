"""How many shipments a lane follows, and how far apart their checks must be for its budget."""

from __future__ import annotations

from typing import Final

from penstock.clock import Clock
from penstock.storage import Tx, sql
from penstock.tracking.intervals import NONE, Stretch, stretched

FRESH: Final = 60.0  # seconds for which a count is used
MOST_LANES: Final = 10_000  # whose counts are kept

_COUNT = sql("""
SELECT tracking_status, count(*) FROM shipments WHERE lane = :lane AND status = 'pending'
GROUP BY tracking_status
""")


class Census:
    """Counts each lane once a minute, in whatever transaction asks; for several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[str, tuple[float, Stretch]] = {}

    def stretch(self, tx: Tx, lane: str, rows_per_day: float) -> Stretch:
        """By how much the lane's intervals are lengthened."""
        now = self._clock.monotonic()
        at, known = self._known.get(lane, (0.0, NONE))
        if lane in self._known and now - at < FRESH:
            return known
        if len(self._known) > MOST_LANES:
            self._known.clear()
        found = stretched(dict(tx.rows(_COUNT, lane=lane)), rows_per_day)
        self._known[lane] = now, found
        return found

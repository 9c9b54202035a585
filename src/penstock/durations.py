"""Durations as people write them: ``500ms``, ``2m``, ``1h30m``."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Final

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*", re.ASCII)


def seconds(value: str | float | timedelta) -> float:
    """`value` in seconds. A bare number is seconds; units are ms, s, m, h and d.

    Raises ValueError for what is not a duration, is negative or is not finite.
    """
    if isinstance(value, timedelta):
        result = value.total_seconds()
    elif isinstance(value, str):
        result = _parse(value)
    elif isinstance(value, bool):
        raise ValueError(f"{value!r} is not a duration")
    else:
        result = float(value)
    if not math.isfinite(result) or result < 0:
        raise ValueError(f"{value!r} is not a duration: it must be finite and not negative")
    return result


def _parse(text: str) -> float:
    total, at, last = 0.0, 0, math.inf
    stripped = text.strip().lower()
    while at < len(stripped):
        match = _PART.match(stripped, at)
        # Each unit must be smaller than the one before it, and only a number that stands
        # alone may do without: "30m1h" and "1h30" are more likely slips than durations.
        size = _UNITS[match[2] or "s"] if match else 0.0
        alone = match is not None and at == 0 and match.end() == len(stripped)
        if match is None or size >= last or not (match[2] or alone):
            break
        total, at, last = total + float(match[1]) * size, match.end(), size
    if not stripped or at < len(stripped):
        raise ValueError(f"{text!r} is not a duration; write 500ms, 20s, 5m, 1h30m or 5d")
    return total


def describe(value: float) -> str:
    """Seconds as people write them: 5400 is ``1h30m``, 0.25 is ``250ms``."""
    rest = round(value * 1000)
    parts = []
    for unit in ("d", "h", "m", "s", "ms"):
        count, rest = divmod(rest, round(_UNITS[unit] * 1000))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"

"""Reading what carriers send: JSON of no guaranteed shape, times with and without a zone.

None of these raises for what stands in an answer: what is missing or of another type is absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final, NamedTuple

from penstock.clock import SECOND, from_datetime, to_datetime
from penstock.tracking.carriers.base import Found
from penstock.tracking.status import RETURNED, Scan, Status

MAX_TEXT: Final = 500  # characters
RETURNING: Final = "returning"  # sub-status of return_to_sender: on its way there

_OFFSET: Final = re.compile(r"([+-])(\d{1,2}):?(\d{2})", re.ASCII)
_CLOCK: Final = re.compile(
    r"(\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d+)?)?\s*([AaPp])?\.?[Mm]?\.?", re.ASCII
)
_END_OF_DAY: Final = time(23, 59, 59)
_EARLIEST: Final = 2000  # a year before this is a placeholder, such as 0001-01-01
_LATEST: Final = 2200
_WIDEST: Final = 14 * 60  # minutes; no place on earth is farther from UTC


class Moment(NamedTuple):
    """An instant in µs since the epoch, and the minutes east of UTC that came with it.

    Without an offset the carrier gave no zone, and the instant reads the local time as UTC.
    """

    at: int
    offset: int | None


def obj(value: Any, *path: str) -> dict[str, Any]:
    """The object at the path, or an empty one."""
    found = _at(value, path)
    return found if isinstance(found, dict) else {}


def items(value: Any, *path: str) -> list[dict[str, Any]]:
    """The objects in the list at the path; a single object is a list of one."""
    found = _at(value, path)
    if isinstance(found, dict):
        return [found]
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def text(value: Any, *path: str) -> str:
    """The text or number at the path as one printable line of bounded length, or nothing."""
    found = _at(value, path)
    if isinstance(found, int | float) and not isinstance(found, bool):
        found = str(found)
    if not isinstance(found, str):
        return ""
    # Lone surrogates and NUL are valid JSON, but no database takes them.
    line = " ".join(found[: 4 * MAX_TEXT].encode("utf-8", "replace").decode().split())
    return "".join(one if one.isprintable() else "?" for one in line)[:MAX_TEXT]


def first(texts: Iterable[str]) -> str:
    """The first that is not empty."""
    return next((one for one in texts if one), "")


def place(*parts: str) -> str | None:
    """``Louisville, KY, US``, of what there is."""
    return ", ".join(part for part in parts if part) or None


def iso(value: str) -> Moment | None:
    """A date and time of ISO 8601, with or without a zone; a date alone is the end of that day."""
    value = value.strip()
    try:
        if len(value) == 10:
            return joined(date.fromisoformat(value), None, None)
        # What is finer than a microsecond is cut off by fromisoformat itself.
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    if not _EARLIEST <= moment.year < _LATEST:
        return None
    offset = moment.utcoffset()
    if offset is None:
        return Moment(from_datetime(moment.replace(tzinfo=UTC)), None)
    return Moment(from_datetime(moment), round(offset / timedelta(minutes=1)))


def day(value: str) -> date | None:
    """A date written ``20260321`` or ``2026-03-21``, or beginning so."""
    digits = value.strip()[:10].replace("-", "")[:8]
    try:
        found = date.fromisoformat(digits) if len(digits) == 8 else None
    except ValueError:
        return None
    return found if found is not None and _EARLIEST <= found.year < _LATEST else None


def clock_time(value: str) -> time | None:
    """A time written ``74700``, ``074700``, ``07:47`` or ``7:47 am``."""
    value = value.strip()
    if value.isascii() and value.isdigit() and 3 <= len(value) <= 6:
        digits = value.zfill(6) if len(value) > 4 else value.zfill(4) + "00"
        parts = int(digits[:2]), int(digits[2:4]), int(digits[4:])
    else:
        match = _CLOCK.fullmatch(value)
        if match is None:
            return None
        hour, half = int(match[1]), (match[4] or "").lower()
        if half and 1 <= hour <= 12:
            hour = hour % 12 + (12 if half == "p" else 0)
        parts = hour, int(match[2]), int(match[3] or 0)
    try:
        return time(*parts)
    except ValueError:
        return None


def zone(value: str) -> int | None:
    """Minutes east of UTC, of ``-05:00``, ``-5:00``, ``-0500`` or ``Z``."""
    value = value.strip()
    if value in ("Z", "z"):
        return 0
    match = _OFFSET.fullmatch(value)
    if match is None:
        return None
    minutes = int(match[2]) * 60 + int(match[3])
    if minutes > _WIDEST:
        return None
    return minutes if match[1] == "+" else -minutes


def joined(on: date, at: time | None, offset: int | None) -> Moment:
    """The local date and time as an instant; without a time, the end of that day."""
    local = datetime.combine(on, at or _END_OF_DAY, UTC)
    return Moment(from_datetime(local) - (offset or 0) * 60 * SECOND, offset)


def placed(instant: int | None, local: int | None, offset: int | None) -> Moment | None:
    """A moment from any of: the instant, the local time read as UTC, and their distance.

    Where the distance is not given it is what lies between the two, if that can be a zone.
    """
    if instant is None:
        if local is None:
            return None
        return Moment(local - (offset or 0) * 60 * SECOND, offset)
    if offset is None and local is not None:
        minutes, rest = divmod(local - instant, 60 * SECOND)
        if not rest and minutes % 15 == 0 and abs(minutes) <= _WIDEST:
            offset = minutes
    return Moment(instant, 0 if offset is None else offset)


def told_last(scans: Iterable[Scan]) -> tuple[Status, str | None]:
    """The status that the scans tell of last; some motion, at least, where there are any."""
    scans = tuple(scans)
    for scan in sorted(scans, key=lambda scan: scan.at, reverse=True):
        if scan.status is not None:
            return scan.status, scan.sub_status
    return ("in_transit" if scans else "pending"), None


def days_between(at: int, other: date) -> int:
    """How many days lie between the instant and the date, either way."""
    return abs((to_datetime(at).date() - other).days)


def sent_back(found: Found) -> Found:
    """The same, unless what was delivered was on its way back: then the sender has it.

    For carriers that say "delivered" of both. A return that was only asked for is no proof.
    """
    if found.status != "delivered":
        return found
    turned = [
        scan.at
        for scan in found.scans
        if scan.status == "return_to_sender" and scan.sub_status == RETURNING
    ]
    if not turned or (found.delivered_at is not None and min(turned) > found.delivered_at):
        return found
    scans = tuple(
        replace(scan, status="return_to_sender", sub_status=RETURNED)
        if scan.status == "delivered" and scan.at >= min(turned)
        else scan
        for scan in found.scans
    )
    return replace(
        found,
        status="return_to_sender",
        sub_status=RETURNED,
        scans=scans,
        delivered_at=None,
        delivered_offset=None,
    )


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value

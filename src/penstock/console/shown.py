"""How values are shown: times, numbers, durations, statuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from markupsafe import Markup, escape

from penstock.clock import SECOND, from_iso, to_iso

# Status by word and by shape; the class adds the colour.
_SHAPES: Final = {
    "good": "●",
    "going": "◐",
    "idle": "○",
    "warn": "◆",
    "bad": "▲",
}
_STATUSES: Final = {
    "delivered": "good",
    "replayed": "good",
    "succeeded": "good",
    "done": "good",
    "completed": "good",
    "ready": "good",
    "live": "good",
    "closed": "good",
    "enabled": "good",
    "passing": "good",
    "pending": "going",
    "running": "going",
    "receiving": "going",
    "training": "going",
    "half_open": "going",
    "probing": "going",
    "active": "going",
    "in_transit": "going",
    "out_for_delivery": "going",
    "pre_transit": "idle",
    "cancelled": "idle",
    "disabled": "idle",
    "paused": "idle",
    "ended": "idle",
    "stopped": "idle",
    "expired": "warn",
    "some": "warn",
    "waiting": "warn",
    "attempt_failed": "warn",
    "exception": "warn",
    "return_to_sender": "warn",
    "available_for_pickup": "warn",
    "given_up": "bad",
    "failed": "bad",
    "dead": "bad",
    "large": "bad",
    "open": "bad",
    "circuit_open": "bad",
}


_INSTANT: Final = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?Z")
_LOCAL: Final = re.compile(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(?::\d\d(?:\.\d+)?)?(.*)$")
# Of what is dead, by kind of work: the page of what it belongs to.
_PAGES: Final = {
    "delivery": "/events",
    "fanout": "/events",
    "job": "/jobs",
    "shipment_check": "/shipments",
    "shipment_import": "/imports",
    "prediction": "/predictions",
    "model_training": "/models",
}


def status(word: str) -> Markup:
    """A status: shape, colour and word."""
    kind = _STATUSES.get(word, "idle")
    return Markup('<span class="status {}"><i aria-hidden="true">{}</i>{}</span>').format(
        kind, _SHAPES[kind], word.replace("_", " ")
    )


def ago(instant: int | str | None, now: int) -> Markup:
    """A time as seen from `now`, with the exact one on hover; — if there is none."""
    if instant is None:
        return Markup('<span class="none">—</span>')
    at = from_iso(instant) if isinstance(instant, str) else instant
    exact = to_iso(at)
    return Markup('<time datetime="{0}" title="{0}">{1}</time>').format(exact, relative(at - now))


def times(text: str, now: int) -> Markup:
    """A sentence of the API's with its instants to the second, and how far away they are."""

    def instant(found: re.Match[str]) -> str:
        at = from_iso(found[0])
        near = f"{found[1]} {found[2]} UTC ({relative(at - now)})"
        return str(Markup('<time datetime="{0}" title="{0}">{1}</time>').format(found[0], near))

    return Markup(_INSTANT.sub(instant, str(escape(text))))  # noqa: S704 - escaped here


def local(text: str) -> str:
    """A time as a carrier gave it: ``2026-01-31 15:00 -07:00``."""
    return _LOCAL.sub(r"\1 \2 \3", text).strip()


def beside(message: str, status: str) -> str:
    """What a message says more than the status that it stands beside."""
    first, _, rest = message.partition(" ")
    if first.lower().strip(".:") != status or (rest and not first.endswith(":")):
        return message
    return rest


def about(row: Mapping[str, Any]) -> Markup:
    """What a dead row is, with a link to the page of what it belongs to if there is one."""
    if row["kind"] not in _PAGES:
        return escape(row["title"])
    page = f"{_PAGES[row['kind']]}/{row['about']}"
    return Markup('<a href="{}">{}</a>').format(page, row["title"])


def relative(difference: int) -> str:
    """A difference in µs in words: ``3 min ago``, ``in 2 h``."""
    seconds = abs(difference) / SECOND
    if seconds < 1:
        return "now"
    text = lasting(int(seconds) if seconds >= 1 else seconds)
    return f"{text} ago" if difference < 0 else f"in {text}"


def lasting(seconds: float | None) -> str:
    """A duration in its largest unit: 12 ms, 4.2 s, 3 min, 5 h, 2 d."""
    if seconds is None:
        return "—"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.0f} s" if float(seconds).is_integer() else f"{seconds:.1f} s"
    for unit, length in (("d", 86400), ("h", 3600)):
        if seconds >= 1.5 * length:
            exact = seconds / length
            return (
                f"{exact:.0f} {unit}"
                if exact >= 10
                else f"{exact:.1f}".removesuffix(".0") + f" {unit}"
            )
    return f"{seconds / 60:.0f} min"


def number(value: float | None) -> str:
    """A number with separators; — if there is none."""
    if value is None:
        return "—"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}"


def counted(count: dict[str, Any] | None) -> str:
    """A count that may have been given up at a bound: ``10,000+``."""
    if count is None:
        return "—"
    return f"{count['count']:,}{'+' if count['more'] else ''}"


def pretty(value: Any) -> str:
    """JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def short(text: str, most: int = 60) -> str:
    """`text`, cut where it is longer."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def merged(asked: Mapping[str, str], cursor: str) -> dict[str, str]:
    """What a list was asked for, and where to go on."""
    return {name: value for name, value in asked.items() if value} | {"cursor": cursor}


FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "status": status,
    "ago": ago,
    "lasting": lasting,
    "number": number,
    "counted": counted,
    "merged": merged,
    "pretty": pretty,
    "short": short,
    "times": times,
    "local": local,
    "beside": beside,
    "about": about,
}

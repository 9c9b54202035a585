"""What USPS's status categories, event codes and texts mean.

Source: the status categories of the Tracking API, and Publication 199, appendix G-4 (domestic
tracking scan events). An event whose code is not in here is read by the words its text begins
with: the texts are longer-lived than the codes.
"""

from __future__ import annotations

from typing import Final

from penstock.tracking.carriers.read import RETURNING
from penstock.tracking.status import RETURNED, Status

Meaning = tuple[Status, str | None]

_RETURNED: Final[Meaning] = ("return_to_sender", RETURNED)
_RETURNING: Final[Meaning] = ("return_to_sender", RETURNING)

CATEGORIES: Final[dict[str, Meaning]] = {
    "pre-shipment": ("pre_transit", None),
    "accepted": ("in_transit", "picked_up"),
    "in transit": ("in_transit", None),
    "out for delivery": ("out_for_delivery", None),
    "delivery attempt": ("attempt_failed", None),
    "available for pickup": ("available_for_pickup", None),
    "delivered": ("delivered", None),
    "delivered to agent": ("delivered", "to_agent"),
    "alert": ("exception", None),
    "return to sender": _RETURNING,
}

_BY_MEANING: Final[dict[Meaning | None, str]] = {
    ("pre_transit", None): "MA GX",
    ("pre_transit", "with_partner"): "80 81 82",
    ("in_transit", "picked_up"): "03 43 OA PA TM",
    ("in_transit", None): "07 10 19 41 A1 EF L1 NT PC SF T1 U1",
    ("in_transit", "handed_over"): "42",
    ("in_transit", "forwarded"): "06",
    ("in_transit", "rescheduled"): "71",
    ("out_for_delivery", None): "OF",
    ("available_for_pickup", None): "14 16",
    ("attempt_failed", None): "02 30 51 52 53 54 55 56",
    ("delivered", None): "01",
    ("delivered", "to_agent"): "17",
    ("exception", "refused"): "04",
    ("exception", "undeliverable"): "05",
    ("exception", "misrouted"): "08 15",
    ("exception", "lost"): "11",
    ("exception", "recalled"): "44",
    _RETURNING: "09 21 22 23 24 25 26 27 28 29 31",
    None: "DX",  # delivery status not updated: the carrier does not know either
}

EVENTS: Final[dict[str, Meaning | None]] = {
    code: meaning for meaning, codes in _BY_MEANING.items() for code in codes.split()
}

# What the text of an event begins with; the first that fits counts.
_BEGINNINGS: Final[tuple[tuple[str, Meaning], ...]] = (
    ("delivered, to original sender", _RETURNED),
    ("delivered to agent", ("delivered", "to_agent")),
    ("delivered, to agent", ("delivered", "to_agent")),
    ("delivered", ("delivered", None)),
    ("out for delivery", ("out_for_delivery", None)),
    ("available for pickup", ("available_for_pickup", None)),
    ("held at post office", ("available_for_pickup", None)),
    ("ready for pickup", ("available_for_pickup", None)),
    ("notice left", ("attempt_failed", None)),
    ("delivery attempt", ("attempt_failed", None)),
    ("attempted delivery", ("attempt_failed", None)),
    ("no access to delivery", ("attempt_failed", None)),
    ("business closed", ("attempt_failed", None)),
    ("return to sender", _RETURNING),
    ("returned to sender", _RETURNING),
    ("refused", ("exception", "refused")),
    ("undeliverable", ("exception", "undeliverable")),
    ("insufficient address", ("exception", "address")),
    ("no such number", ("exception", "address")),
    ("addressee unknown", ("exception", "address")),
    ("forward expired", ("exception", "address")),
    ("moved, left no address", ("exception", "address")),
    ("vacant", ("exception", "address")),
    ("unclaimed", ("exception", "unclaimed")),
    ("missent", ("exception", "misrouted")),
    ("dead mail", ("exception", "lost")),
    ("held in customs", ("exception", "customs_delay")),
    ("customs", ("in_transit", "customs")),
    ("inbound into customs", ("in_transit", "customs")),
    ("inbound out of customs", ("in_transit", "customs_cleared")),
    ("pre-shipment", ("pre_transit", None)),
    ("shipping label created", ("pre_transit", None)),
    ("usps expects item", ("pre_transit", None)),
    ("forwarded", ("in_transit", "forwarded")),
    ("usps in possession", ("in_transit", "picked_up")),
    ("accept", ("in_transit", "picked_up")),
    ("picked up by shipping partner", ("pre_transit", "with_partner")),
    ("shipment received, package acceptance pending", ("in_transit", "picked_up")),
    ("picked up", ("in_transit", "picked_up")),
    ("arriv", ("in_transit", None)),
    ("depart", ("in_transit", None)),
    ("in transit", ("in_transit", None)),
    ("moving through", ("in_transit", None)),
    ("process", ("in_transit", None)),
    ("sorting complete", ("in_transit", None)),
    ("origin post is preparing", ("pre_transit", None)),
    ("dispatch", ("in_transit", None)),
    ("rescheduled", ("in_transit", "rescheduled")),
)


def of_event(code: str, text: str) -> Meaning | None:
    """Of one event. The sender's delivery has the code of any delivery: the text tells."""
    said = _of_text(text)
    if said == _RETURNED:
        return said
    return EVENTS.get(code, said)


def of_parcel(category: str, text: str, summary: str, newest: Meaning | None) -> Meaning | None:
    """Of the whole parcel: its category, made more precise by its text and newest event.

    An alert says only that something is amiss; the event says what. None if nothing is known.
    """
    for words in (text, summary):
        if _of_text(words) == _RETURNED or "to original sender" in words.lower():
            return _RETURNED
    key = category.lower()
    # "Delivery Attempt: Action Needed", "Delivered, Left with Individual"
    meaning = CATEGORIES.get(key) or CATEGORIES.get(key.partition(":")[0].partition(",")[0].strip())
    if meaning is None:
        return _of_text(category) or _of_text(text)
    said = _of_text(text)
    if meaning[0] == "exception" or meaning == ("in_transit", None):
        if _RETURNING in (said, newest):
            return _RETURNING
        for finer in (said, newest):
            if finer is not None and meaning[0] == "exception" and _is_amiss(finer):
                return finer
    for finer in (said, newest):
        if finer is not None and finer[0] == meaning[0] and finer[1] is not None:
            return finer if meaning[1] is None else meaning
    return meaning


def _is_amiss(meaning: Meaning) -> bool:
    return meaning[0] in ("exception", "attempt_failed", "available_for_pickup", "return_to_sender")


def _of_text(text: str) -> Meaning | None:
    lowered = text.lower()
    return next((meaning for words, meaning in _BEGINNINGS if lowered.startswith(words)), None)

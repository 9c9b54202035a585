"""What has to be right about a shipment before it is stored, whichever way it came."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from pydantic_core import to_json

from penstock.errors import Refused
from penstock.tracking import numbers
from penstock.tracking.carriers.base import Spec
from penstock.tracking.models import ShipmentIn
from penstock.tracking.numbers import NumberRefused
from penstock.tracking.shipments import NewShipment


def prepare(given: ShipmentIn, specs: Mapping[str, Spec]) -> NewShipment:
    """`given` as it is stored; Refused if the carrier is unknown or the number is none."""
    if given.carrier not in specs:
        raise Refused(
            "unknown_carrier",
            f"There is no carrier {given.carrier!r}; known are {', '.join(specs)}.",
            "/carrier",
        )
    try:
        number = numbers.normalise(given.carrier, given.tracking_number)
    except NumberRefused as exc:
        raise Refused("validation_failed", _sentence(str(exc)), "/tracking_number") from None
    if given.strict and numbers.check(given.carrier, number) is False:
        raise Refused(
            "validation_failed",
            f"The check digit of {number} is wrong for {specs[given.carrier].title}.",
            "/tracking_number",
        )
    return NewShipment(given.carrier, number, **texts(given.model_dump(include=_KEPT)))


_KEPT = {"label", "reference", "ship_date", "postal_code", "metadata"}


def texts(fields: Mapping[str, Any]) -> dict[str, str | None]:
    """Fields of a shipment as they are stored."""
    return {name: _text(value) for name, value in fields.items()}


def _text(value: Any) -> str | None:
    match value:
        case None | str():
            return value
        case date():
            return value.isoformat()
        case _:
            return to_json(value).decode()


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].removesuffix('.')}."

"""What the tracking API takes: strict models, unknown fields refused.

Texts are trimmed: people copy tracking numbers out of e-mails and spreadsheets.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import to_json

from penstock.durations import seconds

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)

MOST_METADATA: Final = 8 * 1024  # bytes, as JSON
LONGEST_OVERRIDE: Final = 7 * 86400.0  # seconds


def _without_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("a NUL character cannot be stored")
    return text


def _day_only(value: object) -> object:
    # Lax dates would also take numbers and instants.
    if isinstance(value, date) or (isinstance(value, str) and _DATE.fullmatch(value)):
        return value
    raise ValueError("write a date as 2026-01-31")


def _small(value: dict[str, Any]) -> dict[str, Any]:
    if len(to_json(value)) > MOST_METADATA:
        raise ValueError(f"metadata may have at most {MOST_METADATA} bytes as JSON")
    return value


def _duration(value: object) -> object:
    if isinstance(value, str):
        return seconds(value)
    return value


_TRIMMED: Final = AfterValidator(_without_nul)
Short = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), _TRIMMED
]
Reason = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500), _TRIMMED
]
PostalCode = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=20), _TRIMMED
]
Carrier = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$"),
    Field(description="One of `GET /v1/carriers`, such as `ups`.", examples=["ups"]),
]
Number = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=100),
    _TRIMMED,
    Field(
        description="As printed: spaces and dashes are taken out.",
        examples=["1Z 999 AA1 01 2345 6784"],
    ),
]
Value = Annotated[str, StringConstraints(max_length=4096), _TRIMMED]
Day = Annotated[date, Field(strict=False), BeforeValidator(_day_only)]
Metadata = Annotated[dict[str, Any], AfterValidator(_small)]


class _ShipmentFields(BaseModel):
    """What creation and change have in common."""

    model_config = _STRICT

    label: Annotated[Short | None, Field(description="For people: what is in the parcel.")] = None
    reference: Annotated[Short | None, Field(description="Your own: an order, a customer.")] = None
    ship_date: Annotated[
        Day | None,
        Field(description="Tells parcels apart that had the same number at different times."),
    ] = None
    postal_code: Annotated[
        PostalCode | None, Field(description="The recipient's; some carriers ask for it.")
    ] = None
    metadata: Metadata | None = None


class _Parcel(BaseModel):
    carrier: Carrier
    tracking_number: Number


class ShipmentIn(_ShipmentFields, _Parcel):
    """A parcel to be followed."""

    strict: Annotated[
        bool,
        Field(description="Refuse a number whose check digit is wrong, instead of only saying so."),
    ] = False


class ShipmentPatch(_ShipmentFields):
    """Changes to a shipment: only the fields that are given; null takes a value away."""

    @model_validator(mode="after")
    def _something(self) -> ShipmentPatch:
        if not self.model_fields_set:
            raise ValueError("give at least one field to change")
        return self

    def changes(self) -> dict[str, Any]:
        """The fields that were given, with their values."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class DetectIn(BaseModel):
    """A number whose carrier is to be guessed."""

    model_config = _STRICT

    tracking_number: Number


class CredentialsIn(BaseModel):
    """A carrier's credential: its fields are listed by `GET /v1/carriers`."""

    model_config = _STRICT

    values: Annotated[
        dict[str, Value],
        Field(
            min_length=1,
            max_length=10,
            examples=[{"client_id": "…", "client_secret": "…"}],
            json_schema_extra={"writeOnly": True},
        ),
    ]


class CircuitIn(BaseModel):
    """A circuit that a person holds open or closed for a while."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True
    )

    state: Literal["open", "closed"]
    for_: Annotated[
        float,
        BeforeValidator(_duration),
        Field(
            alias="for",
            gt=0,
            le=LONGEST_OVERRIDE,
            description="Seconds, or a duration such as `30m`; at most 7 days.",
            json_schema_extra={"type": ["number", "string"]},
        ),
    ]
    reason: Reason

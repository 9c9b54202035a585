"""What the events API takes: strict models, unknown fields refused.

Patterns are matched by pydantic's Rust engine, where ``$`` is the end of the text: a trailing
newline does not slip through.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

MAX_BATCH: Final = 100

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _text_only(value: object) -> object:
    # Lax datetimes would also take numbers; a JSON time is a string with a zone.
    if not isinstance(value, str | datetime) or (isinstance(value, str) and "T" not in value):
        raise ValueError("write a time as 2026-01-31T12:00:00Z, with a zone")
    return value


EventType = Annotated[
    str, StringConstraints(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._-]+$")
]
# One of the sender's own: a customer, an order, a parcel.
OrderingKey = Annotated[
    str, StringConstraints(min_length=1, max_length=255, pattern=r"^[\x20-\x7e]+$")
]
IdempotencyKey = Annotated[
    str, StringConstraints(min_length=1, max_length=255, pattern=r"^[\x20-\x7e]+$")
]
Moment = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_text_only)]


class EventIn(BaseModel):
    """An event to be accepted."""

    model_config = _STRICT

    event_type: EventType
    payload: dict[str, Any]
    metadata: dict[str, Any] | None = None
    idempotency_key: IdempotencyKey | None = None
    ordering_key: OrderingKey | None = None
    deliver_at: Moment | None = None


class BatchIn(BaseModel):
    """Up to 100 events; each is judged alone, so the items are looked at one by one later."""

    model_config = _STRICT

    events: Annotated[list[Any], Field(min_length=1, max_length=MAX_BATCH)]


# '*', 'order.*' or an event type as it is.
Pattern = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=100, pattern=r"^(\*|[A-Za-z0-9._-]+\.\*|[A-Za-z0-9._-]+)$"
    ),
]
Gap = Annotated[float, Field(ge=0, le=86400)]


def _without_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("a NUL character cannot be stored")
    return text


Plain = Annotated[str, AfterValidator(_without_nul)]


class _EndpointFields(BaseModel):
    """What creation and change have in common."""

    model_config = _STRICT

    event_types: Annotated[list[Pattern], Field(min_length=1, max_length=100)] = ["*"]
    filter: Annotated[
        dict[str, Any] | None,
        Field(
            description="Conditions on the contents, such as "
            '`{"payload.total": {"gte": 100}}`; see the how-to page on filters.'
        ),
    ] = None
    description: Annotated[Plain, Field(max_length=500)] = ""
    headers: Annotated[dict[str, str], Field(max_length=50)] | None = None
    timeout: Annotated[float, Field(ge=1, le=30)] | None = None
    rate_limit: Annotated[float, Field(gt=0, le=100_000)] | None = None
    max_in_flight: Annotated[int, Field(ge=1, le=256)] = 32
    schedule: Annotated[list[Gap], Field(min_length=1, max_length=50)] | None = None
    on_permanent: Literal["long", "dead"] = "long"
    on_dead: Literal["continue", "halt"] = "continue"


class EndpointIn(_EndpointFields):
    """A place that events are pushed to."""

    # Which kinds there are is for the destinations to say.
    kind: Annotated[
        str,
        StringConstraints(pattern=r"^[a-z]{1,20}$"),
        Field(description="webhook, email, sms or sqs."),
    ] = "webhook"
    target: Annotated[Plain, Field(min_length=1, max_length=2048)]


class EndpointPatch(_EndpointFields):
    """Changes to an endpoint: only the fields that are given; null takes a limit away."""

    target: Annotated[Plain, Field(min_length=1, max_length=2048)] = ""

    @model_validator(mode="after")
    def _something(self) -> EndpointPatch:
        if not self.model_fields_set:
            raise ValueError("give at least one field to change")
        return self

    def changes(self) -> dict[str, Any]:
        """The fields that were given, with their values."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class RotateIn(BaseModel):
    """How long the old secret keeps signing beside the new one, in seconds."""

    model_config = _STRICT

    overlap_seconds: Annotated[int, Field(ge=0, le=7 * 86400)] = 86400


EventIds = Annotated[
    list[Annotated[Plain, Field(min_length=1, max_length=100)]], Field(min_length=1, max_length=100)
]
LeaseId = Annotated[Plain, Field(min_length=1, max_length=100)]


class LeaseIn(BaseModel):
    """How many events to lease and for how long; durations are seconds."""

    model_config = _STRICT

    limit: Annotated[int, Field(ge=1, le=100)] = 10
    lease_seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    event_types: Annotated[list[Pattern], Field(max_length=100)] = []
    wait: Annotated[float, Field(ge=0, le=20)] = 0


class AcknowledgeIn(BaseModel):
    """Events that were handled; with `lease_id`, only if nobody else has leased them since."""

    model_config = _STRICT

    event_ids: EventIds
    lease_id: LeaseId | None = None


class ReleaseIn(BaseModel):
    """Events that shall be available again; with `lease_id`, only those it still holds."""

    model_config = _STRICT

    event_ids: EventIds
    lease_id: LeaseId | None = None

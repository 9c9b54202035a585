"""What the events API answers, for its documentation and for its readers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

DeliveryStatus = Literal["pending", "delivered", "dead", "cancelled"]
EventStatus = Literal["pending", "delivered", "failed", "replayed"]


class DeliveryBrief(BaseModel):
    """One endpoint's share of an event, in short."""

    delivery_id: str
    endpoint_id: str
    status: DeliveryStatus
    attempts: int
    next_attempt_at: str | None


class EventAccepted(BaseModel):
    """An event as the answer to its acceptance shows it."""

    event_id: str
    event_type: str
    status: EventStatus
    created_at: str
    delivered_at: str | None
    delivery_attempts: Annotated[int, Field(description="Attempts of all its deliveries.")]
    message: str
    deliveries: list[DeliveryBrief]


class BatchResult(BaseModel):
    """What became of one item: `event` if it was accepted, `problem` if not."""

    index: int
    status_code: int
    replayed: bool = False
    event: EventAccepted | None = None
    problem: dict[str, Any] | None = None


class BatchSummary(BaseModel):
    """The results counted."""

    total: int
    accepted: int
    replayed: Annotated[int, Field(description="Answered from an earlier use of their key.")]
    refused: int


class BatchOutcome(BaseModel):
    """What became of each item, in the order in which they were sent."""

    results: list[BatchResult]
    summary: BatchSummary


class EventItem(BaseModel):
    """An event in a list."""

    event_id: str
    event_type: str
    status: EventStatus
    created_at: str
    deliver_at: str | None
    delivered_at: str | None
    delivery_attempts: int
    message: str
    open_deliveries: int
    dead_deliveries: int
    inbox_lease_id: Annotated[
        str | None, Field(description="The lease of a reader of the inbox, while it holds.")
    ]
    inbox_leased_until: str | None


class InboxEvent(BaseModel):
    """An undelivered event with its contents, and who has leased it until when."""

    event_id: str
    event_type: str
    payload: dict[str, Any]
    metadata: dict[str, Any] | None
    status: Literal["pending", "failed"]
    created_at: str
    deliver_at: str | None
    delivery_attempts: int
    lease_id: str | None
    leased_until: str | None


class InboxLeased(BaseModel):
    """The events of a new lease, oldest first; there may be none."""

    lease_id: str
    leased_until: str
    events: list[InboxEvent]


class AcknowledgeResult(BaseModel):
    """What became of one event: `lease_lost` = somebody else has leased it since."""

    event_id: str
    outcome: Literal["acknowledged", "already_delivered", "lease_lost", "not_found"]


class AcknowledgeResults(BaseModel):
    """What became of each event, in the order in which they were named."""

    results: list[AcknowledgeResult]


class ReleaseResult(BaseModel):
    """What became of one event: `lease_lost` = somebody else has leased it since."""

    event_id: str
    outcome: Literal["released", "not_leased", "lease_lost", "not_found"]


class ReleaseResults(BaseModel):
    """What became of each event, in the order in which they were named."""

    results: list[ReleaseResult]


class Why(BaseModel):
    """Why a delivery has not run yet."""

    code: str
    message: str


class AttemptView(BaseModel):
    """One try: `response` is the beginning of what the endpoint answered.

    `response_base64` has the bytes where they are not UTF-8; `duration` is in seconds.
    """

    number: int
    started_at: str
    duration: float
    status_code: int | None
    error_kind: str | None
    error: str | None
    address: str | None
    response: str | None
    response_base64: str | None


class DeliveryView(DeliveryBrief):
    """One endpoint's share of an event, with its latest attempts."""

    created_at: str
    expires_at: str
    finished_at: str | None
    last_error: str | None
    why: Why | None
    attempt_log: list[AttemptView]


class EventDetail(EventAccepted):
    """An event with its contents and what became of it; of many deliveries the first 100."""

    deliver_at: str | None
    ordering_key: str | None
    payload: dict[str, Any]
    metadata: dict[str, Any] | None
    open_deliveries: int
    dead_deliveries: int
    deliveries_total: int
    inbox_lease_id: str | None
    inbox_leased_until: str | None
    deliveries: list[DeliveryView]  # type: ignore[assignment]


class EndpointView(BaseModel):
    """An endpoint. Times are seconds unless they end in `_at` or `_until`."""

    endpoint_id: str
    kind: str
    target: str
    description: str
    event_types: list[str]
    filter: dict[str, Any] | None
    header_names: list[str]
    timeout: float
    rate_limit: float | None
    max_in_flight: int
    schedule: Annotated[list[float] | None, Field(description="null = the server's default.")]
    on_permanent: str
    on_dead: str
    enabled: bool
    disabled_reason: str | None
    old_secret_until: str | None
    created_at: str
    updated_at: str


class EndpointCreated(EndpointView):
    """An endpoint with its signing secret, which is shown this once."""

    secret: Annotated[
        str | None, Field(description="null = deliveries of this kind are not signed.")
    ]


class SecretRotated(BaseModel):
    """The new signing secret, shown this once; the old one signs too until then."""

    endpoint_id: str
    secret: str
    old_secret_until: str


class TestSent(BaseModel):
    """The event that was accepted as a test."""

    event_id: str
    delivery_id: str

"""What the tracking API answers, for its documentation and for its readers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from penstock.tracking.status import Status

Checksum = Literal["valid", "invalid", "none"]
State = Literal["active", "ended", "stopped", "dead"]
Source = Literal["account", "settings", "none needed"]


class ShipmentView(BaseModel):
    """A shipment. `status` is the parcel's; `state` says whether its carrier is still asked.

    Instants are UTC; `…_local_time` is the carrier's own time, without a zone if it gave none.
    """

    shipment_id: str
    carrier: str
    tracking_number: str
    checksum: Annotated[
        Checksum, Field(description="What the number's check digit says; `none` = it has none.")
    ]
    tracking_url: Annotated[str | None, Field(description="The carrier's page, for people.")]
    label: str | None
    reference: str | None
    ship_date: str | None
    postal_code: str | None
    metadata: dict[str, Any] | None
    state: State
    status: Status
    sub_status: str | None
    carrier_code: Annotated[str | None, Field(description="The carrier's own code.")]
    carrier_text: Annotated[str, Field(description="The carrier's own words.")]
    status_at: str | None
    estimated_delivery_at: str | None
    estimated_delivery_local_time: str | None
    delivered_at: Annotated[str | None, Field(description="The carrier's time, not ours.")]
    delivered_local_time: str | None
    signed_by: str | None
    service: str | None
    last_checked_at: Annotated[str | None, Field(description="When the carrier last answered.")]
    next_check_at: str | None
    error_kind: Annotated[
        str | None,
        Field(description="What was wrong with the latest check. It never changes the status."),
    ]
    consecutive_errors: int
    created_at: str
    updated_at: str
    ended_at: str | None


class ScanView(BaseModel):
    """One thing that happened to the parcel.

    Without a zone from the carrier, `at` reads its local time as UTC.
    """

    at: str
    local_time: str
    status: Status | None
    sub_status: str | None
    code: str | None
    text: str
    place: str | None
    seen_at: Annotated[str, Field(description="When it was first heard of.")]


class Why(BaseModel):
    """Why a shipment has not been checked yet."""

    code: str
    message: str


class ShipmentDetail(ShipmentView):
    """A shipment with what happened to it, the latest first."""

    why: Why | None
    scans: list[ScanView]


class Candidate(BaseModel):
    """A carrier that a number may belong to."""

    carrier: str
    format: str
    tracking_number: Annotated[str, Field(description="As this carrier writes it.")]
    checksum: Checksum


class Candidates(BaseModel):
    """The carriers that a number may belong to, the likeliest first; there may be none."""

    candidates: list[Candidate]


class CredentialField(BaseModel):
    """One value of a carrier's credential."""

    name: str
    title: str
    secret: bool
    required: bool


class Budget(BaseModel):
    """How often one credential may call."""

    per_second: float
    per_day: int


class CarrierView(BaseModel):
    """A carrier, and how the account reaches it; `credential` null = not yet."""

    carrier: str
    title: str
    credential: Source | None
    credential_updated_at: str | None
    credential_fields: list[CredentialField]
    numbers_per_call: int
    budget: Budget


class Carriers(BaseModel):
    """All carriers."""

    items: list[CarrierView]


class CredentialStored(BaseModel):
    """That a credential is stored; its values are never shown."""

    carrier: str
    updated_at: str


class Transition(BaseModel):
    """A change of a circuit, and whose doing it was."""

    at: str
    state: str
    open_until: str | None
    reason: str
    actor: str


class CircuitView(BaseModel):
    """The circuit of an account's way to a carrier; `held` = by a person, until then."""

    carrier: str
    credential: Source | None
    state: Literal["closed", "open", "half_open"]
    open_until: str | None
    held: Literal["open", "closed"] | None
    held_until: str | None
    failures_in_a_row: int
    trips_at: Annotated[int | None, Field(description="So many failures in a row open it.")]
    trips: Annotated[int, Field(description="How often it opened since it was last closed.")]
    log: list[Transition]


class ImportView(BaseModel):
    """A CSV whose rows become shipments."""

    import_id: str
    status: Literal["receiving", "pending", "done", "dead", "cancelled"]
    filename: str | None
    bytes_total: int
    bytes_done: int
    rows_done: Annotated[int, Field(description="Rows of the file looked at, the head among them.")]
    created: int
    existing: Annotated[int, Field(description="Rows whose number is followed already.")]
    failed: Annotated[int, Field(description="Rows that could not be used: see its errors.")]
    created_at: str
    ended_at: str | None
    last_error: str | None


class RowError(BaseModel):
    """A row that could not be used. The first row of the file is 1."""

    row: int
    code: str
    message: str
    column: str | None

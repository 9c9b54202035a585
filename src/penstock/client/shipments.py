"""`/v1/shipments`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, TypedDict, Unpack

from penstock.client.calls import Call, Listing, at, nothing, reading
from penstock.client.events import Why
from penstock.client.resources import (
    AsyncResource,
    Resource,
    async_pages,
    awaited,
    blocking,
    pages,
)
from penstock.client.values import Value, moment


@dataclass(frozen=True, slots=True)
class Shipment(Value):
    """A shipment. `status` is the parcel's; `state` says whether its carrier is still asked.

    The `…_local_time` texts are the carrier's own time, without a zone if it gave none.
    """

    shipment_id: str
    carrier: str
    tracking_number: str
    state: str
    status: str
    created_at: datetime
    updated_at: datetime
    checksum: str = "none"
    tracking_url: str | None = None
    label: str | None = None
    reference: str | None = None
    ship_date: str | None = None
    postal_code: str | None = None
    metadata: dict[str, Any] | None = None
    sub_status: str | None = None
    carrier_code: str | None = None
    carrier_text: str = ""
    status_at: datetime | None = None
    estimated_delivery_at: datetime | None = None
    estimated_delivery_local_time: str | None = None
    delivered_at: datetime | None = None
    delivered_local_time: str | None = None
    signed_by: str | None = None
    service: str | None = None
    last_checked_at: datetime | None = None
    next_check_at: datetime | None = None
    error_kind: str | None = None
    consecutive_errors: int = 0
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Scan(Value):
    """One thing that happened to a parcel; `seen_at` is when it was first heard of."""

    at: datetime
    local_time: str
    status: str | None
    sub_status: str | None
    code: str | None
    text: str
    place: str | None
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class ShipmentDetail(Shipment):
    """A shipment with what happened to it, the latest first, and why it was not checked yet."""

    why: Why | None = None
    scans: tuple[Scan, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate(Value):
    """A carrier that a number may belong to; `checksum` is valid, invalid or none."""

    carrier: str
    format: str
    tracking_number: str
    checksum: str


@dataclass(frozen=True, slots=True)
class Candidates(Value):
    """The carriers that a number may belong to, the likeliest first."""

    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Import(Value):
    """A CSV whose rows become shipments; it is over when `ended_at` is set."""

    import_id: str
    status: str
    created: int
    existing: int
    failed: int
    created_at: datetime
    ended_at: datetime | None
    filename: str | None = None
    bytes_total: int = 0
    bytes_done: int = 0
    rows_done: int = 0
    last_error: str | None = None


@dataclass(frozen=True, slots=True)
class RowError(Value):
    """A row that could not be used. The first row of the file is 1."""

    row: int
    code: str
    message: str
    column: str | None = None


class ShipmentFields(TypedDict, total=False):
    """What can be said of a shipment; in a change, None takes a value away."""

    label: str | None
    reference: str | None
    ship_date: date | str | None
    postal_code: str | None
    metadata: Mapping[str, Any] | None


def create(
    carrier: str, tracking_number: str, *, strict: bool = False, **fields: Unpack[ShipmentFields]
) -> Call[Shipment]:
    """Follow a parcel; one that is followed already is answered as it is.

    `strict`: refuse a number whose check digit is wrong.
    """
    body = {"carrier": carrier, "tracking_number": tracking_number, **_given(fields)}
    if strict:
        body["strict"] = True
    # Repeatable: the second time finds the shipment that the first one made.
    return Call("POST", at("shipments"), reading(Shipment.of), body=body)


def get(shipment_id: str) -> Call[ShipmentDetail]:
    """One shipment with its scans."""
    return Call("GET", at("shipments", shipment_id), reading(ShipmentDetail.of))


def every(
    *,
    carrier: str | None = None,
    status: str | None = None,
    state: str | None = None,
    reference: str | None = None,
    since: datetime | str | None = None,
    until: datetime | str | None = None,
    search: str | None = None,
    page_size: int = 100,
) -> Listing[Shipment]:
    """Shipments, newest first; `search` looks in number, label and reference."""
    query = {
        "carrier": carrier,
        "status": status,
        "state": state,
        "reference": reference,
        "since": moment(since),
        "until": moment(until),
        "search": search,
        "limit": page_size,
    }
    return Listing(Call("GET", at("shipments"), reading(dict), query=query), Shipment.of)


def update(shipment_id: str, **changes: Unpack[ShipmentFields]) -> Call[Shipment]:
    """Change what is given."""
    path = at("shipments", shipment_id)
    return Call("PATCH", path, reading(Shipment.of), body=_given(changes))


def refresh(shipment_id: str) -> Call[Shipment]:
    """Ask the carrier as soon as its budget allows."""
    return Call("POST", at("shipments", shipment_id, "refresh"), reading(Shipment.of))


def stop(shipment_id: str) -> Call[Shipment]:
    """Follow it no more; what is known of it stays."""
    return Call("POST", at("shipments", shipment_id, "stop"), reading(Shipment.of))


def delete(shipment_id: str) -> Call[None]:
    """Delete it with its scans."""
    return Call("DELETE", at("shipments", shipment_id), nothing)


def detect(tracking_number: str) -> Call[Candidates]:
    """The carriers that a number may belong to; nothing is decided."""
    body = {"tracking_number": tracking_number}
    return Call("POST", at("carriers", "detect"), reading(Candidates.of), body=body)


def import_csv(source: str | Path | bytes, *, carrier: str | None = None) -> Call[Import]:
    """Make shipments of the rows of a CSV: a file's path, or its contents as bytes.

    `carrier`: of the rows that name none. Importing a file again makes no shipment twice.
    """
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    return Call(
        "POST",
        at("shipments", "imports"),
        reading(Import.of),
        query={"carrier": carrier},
        csv=content,
    )


def get_import(import_id: str) -> Call[Import]:
    """How far an import is."""
    return Call("GET", at("shipments", "imports", import_id), reading(Import.of))


def import_errors(import_id: str, *, page_size: int = 100) -> Listing[RowError]:
    """The rows of an import that could not be used, in the file's order."""
    path = at("shipments", "imports", import_id, "errors")
    return Listing(Call("GET", path, reading(dict), query={"limit": page_size}), RowError.of)


class Shipments(Resource):
    """Parcels that are followed."""

    create = blocking(create)
    get = blocking(get)
    list = pages(every)
    update = blocking(update)
    refresh = blocking(refresh)
    stop = blocking(stop)
    delete = blocking(delete)
    detect = blocking(detect)
    import_csv = blocking(import_csv)
    get_import = blocking(get_import)
    import_errors = pages(import_errors)


class AsyncShipments(AsyncResource):
    """Parcels that are followed."""

    create = awaited(create)
    get = awaited(get)
    list = async_pages(every)
    update = awaited(update)
    refresh = awaited(refresh)
    stop = awaited(stop)
    delete = awaited(delete)
    detect = awaited(detect)
    import_csv = awaited(import_csv)
    get_import = awaited(get_import)
    import_errors = async_pages(import_errors)


def _given(fields: ShipmentFields) -> dict[str, Any]:
    return {
        name: value.isoformat() if isinstance(value, date) else value
        for name, value in fields.items()
    }

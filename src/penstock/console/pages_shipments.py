"""Shipments: followed, listed, each with its scans; asked for now, or no more."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from penstock.console.calls import Refused, part
from penstock.console.pages import Desk, Visit

_STATUSES = (
    "pending",
    "pre_transit",
    "in_transit",
    "out_for_delivery",
    "available_for_pickup",
    "attempt_failed",
    "exception",
    "delivered",
    "return_to_sender",
    "cancelled",
    "expired",
)
_FIELDS = ("carrier", "tracking_number", "label", "reference", "postal_code")


def add(desk: Desk) -> None:
    """Add the pages."""

    async def listed(visit: Visit, status: int, **values: Any) -> Response:
        asked = {
            name: visit.query.get(name, "").strip() for name in ("carrier", "status", "search")
        }
        page = await visit.api(
            "GET", "/v1/shipments", asked | {"cursor": visit.query.get("cursor")}
        )
        carriers = (await visit.api("GET", "/v1/carriers"))["items"]
        return visit.render(
            "shipments.html",
            status,
            page=page,
            asked=asked,
            filtered=any(asked.values()),
            statuses=_STATUSES,
            carriers=carriers,
            **values,
        )

    @desk.page("/shipments")
    async def shipments(visit: Visit) -> Response:
        given = dict.fromkeys(_FIELDS, "")
        return await listed(visit, 200, given=given, errors={}, message="")

    @desk.action("/shipments")
    async def add_shipment(visit: Visit) -> Response:
        given = {name: visit.form[name] for name in _FIELDS}
        try:
            body = {name: value for name, value in given.items() if value}
            made = await visit.api("POST", "/v1/shipments", body=body)
        except Refused as refused:
            if refused.status >= 500 or refused.status == 403:
                raise
            errors = {pointer.strip("/"): text for pointer, text in refused.errors}
            return await listed(
                visit, refused.status, given=given, errors=errors, message=refused.detail
            )
        return visit.go(f"/shipments/{part(made['shipment_id'])}", "The shipment is followed.")

    @desk.page("/shipments/{shipment_id}")
    async def shipment(visit: Visit) -> Response:
        found = await visit.api("GET", f"/v1/shipments/{part(visit.path('shipment_id'))}")
        return visit.render("shipment.html", shipment=found)

    @desk.action("/shipments/{shipment_id}/{action}")
    async def move_shipment(visit: Visit) -> Response:
        id_, action = part(visit.path("shipment_id")), visit.path("action")
        if action == "delete":
            await visit.api("DELETE", f"/v1/shipments/{id_}")
            return visit.go("/shipments", "The shipment was deleted.")
        done = {"refresh": "The carrier is asked now.", "stop": "It is followed no more."}
        if action not in done:
            raise Refused(404, "not_found", "There is nothing at this address.")
        await visit.api("POST", f"/v1/shipments/{id_}/{action}")
        return visit.go(f"/shipments/{id_}", done[action])

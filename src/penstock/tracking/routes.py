"""`/v1/shipments`: parcels to be followed."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import AwareDatetime
from starlette.responses import Response

from penstock.api import paging
from penstock.api.context import Caller, requires
from penstock.api.paging import Items, Paged
from penstock.api.routing import router
from penstock.clock import from_datetime
from penstock.errors import Refused
from penstock.storage import Tx
from penstock.tracking import (
    intake,
    query,
    routes_carriers,
    routes_imports,
    shipments,
    views,
)
from penstock.tracking.deps import Deps
from penstock.tracking.models import ShipmentIn, ShipmentPatch
from penstock.tracking.problems import problem_of
from penstock.tracking.shapes import ShipmentDetail, ShipmentView, State
from penstock.tracking.status import Status


def routes(deps: Deps) -> APIRouter:
    """The routes of shipments, their imports, and carriers."""
    api = router(tags=["Shipments"])
    database, specs = deps.database, deps.credentials.specs

    def view(tx: Tx, account: str, shipment_id: str) -> dict[str, Any]:
        row = shipments.get(tx, account, shipment_id)
        return views.shipment(row, specs.get(row["carrier"]))

    # Before the routes with an id in the same place.
    routes_imports.add(api, deps)

    @api.post(
        "/v1/shipments",
        status_code=201,
        summary="Follow a parcel",
        responses={200: {"model": ShipmentView, "description": "It is followed already."}},
    )
    @requires("shipments:write")
    async def create_shipment(new: ShipmentIn, caller: Caller, response: Response) -> ShipmentView:
        """Its carrier is asked from now on, and every change of its status is told as an event.

        A number that the account follows with this carrier already is answered with 200 and that
        shipment as it is, so repeating the request is harmless.
        """

        def create(tx: Tx) -> tuple[bool, dict[str, Any]]:
            made = shipments.create(
                tx,
                caller.account,
                prepared,
                credentials=deps.credentials,
                emit=deps.emit,
            )
            return made.new, view(tx, caller.account, made.id)

        try:
            prepared = intake.prepare(new, specs)
            created, shown = await database.unit(create)
        except Refused as refused:
            raise problem_of(refused) from None
        if not created:
            response.status_code = 200
        return ShipmentView(**shown)

    @api.get("/v1/shipments", summary="List shipments")
    @requires("shipments:read")
    async def list_shipments(
        page: Paged,
        caller: Caller,
        carrier: Annotated[str | None, Query(max_length=100)] = None,
        status: Annotated[Status | None, Query(description="The parcel's.")] = None,
        state: Annotated[
            State | None, Query(description="Whether the carrier is still asked.")
        ] = None,
        reference: Annotated[str | None, Query(max_length=200)] = None,
        since: Annotated[AwareDatetime | None, Query(description="Created at or after.")] = None,
        until: Annotated[AwareDatetime | None, Query(description="Created before.")] = None,
        search: Annotated[
            str | None,
            Query(
                min_length=1,
                max_length=100,
                description="Part of the number, the label or the reference.",
            ),
        ] = None,
    ) -> Items[ShipmentView]:
        """Newest first.

        With filters a page may be short, or empty, and yet not be the last: go on by its
        `next_cursor` as long as it has one.
        """
        after = page.after(str)
        found, edge = await database.read(
            lambda tx: query.page(
                tx,
                caller.account,
                specs,
                carrier=carrier,
                status=status,
                state=state,
                reference=reference,
                since=None if since is None else from_datetime(since),
                until=None if until is None else from_datetime(until),
                search=search,
                before=after[0] if after else None,
                limit=page.limit,
            )
        )
        cursor = None if edge is None else paging.encode(edge)
        return Items(items=[ShipmentView(**item) for item in found], next_cursor=cursor)

    @api.get("/v1/shipments/{shipment_id}", summary="Read a shipment")
    @requires("shipments:read")
    async def read_shipment(shipment_id: str, caller: Caller) -> ShipmentDetail:
        """With its scans, the latest first, and why it has not been checked yet."""
        found = await database.read(lambda tx: query.detail(tx, caller.account, shipment_id, specs))
        return ShipmentDetail(**found)

    @api.patch("/v1/shipments/{shipment_id}", summary="Change a shipment")
    @requires("shipments:write")
    async def change_shipment(
        shipment_id: str, patch: ShipmentPatch, caller: Caller
    ) -> ShipmentView:
        """Only the given fields; null takes a value away.

        Its carrier is asked anew if the ship date or the postal code was changed.
        """

        def change(tx: Tx) -> dict[str, Any]:
            shipments.patch(tx, caller.account, shipment_id, intake.texts(patch.changes()))
            return view(tx, caller.account, shipment_id)

        return ShipmentView(**await database.unit(change))

    @api.post("/v1/shipments/{shipment_id}/refresh", status_code=202, summary="Refresh a shipment")
    @requires("shipments:write")
    async def refresh_shipment(shipment_id: str, caller: Caller) -> ShipmentView:
        """Asks the carrier as soon as its budget and its circuit allow, not at the next interval,
        and at the earliest a minute after its last answer.

        One that was given up is followed again. One that was stopped or has ended is not: create it
        anew.
        """

        def refresh(tx: Tx) -> dict[str, Any]:
            shipments.refresh(tx, caller.account, shipment_id)
            return view(tx, caller.account, shipment_id)

        return ShipmentView(**await database.unit(refresh))

    @api.post("/v1/shipments/{shipment_id}/stop", summary="Stop following a shipment")
    @requires("shipments:write")
    async def stop_shipment(shipment_id: str, caller: Caller) -> ShipmentView:
        """What is known of it stays. Doing it again is harmless."""

        def stop(tx: Tx) -> dict[str, Any]:
            shipments.stop(tx, caller.account, shipment_id)
            return view(tx, caller.account, shipment_id)

        return ShipmentView(**await database.unit(stop))

    @api.delete("/v1/shipments/{shipment_id}", status_code=204, summary="Delete a shipment")
    @requires("shipments:write")
    async def delete_shipment(shipment_id: str, caller: Caller) -> Response:
        """With its scans. Events that were told of it stay."""
        await database.unit(lambda tx: shipments.delete(tx, caller.account, shipment_id))
        return Response(status_code=204)

    routes_carriers.add(api, deps)
    return api

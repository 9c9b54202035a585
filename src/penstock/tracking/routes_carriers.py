"""`/v1/carriers`: who can be asked, with which credential, and whether they answer."""

from __future__ import annotations

from typing import Any, Final, cast

from fastapi import APIRouter
from starlette.responses import Response

from penstock.api.auth import DEFAULT_ACCOUNT, Principal
from penstock.api.context import Caller, requires
from penstock.api.problems import Problem
from penstock.clock import to_iso
from penstock.errors import NotFound, Refused
from penstock.storage import Tx
from penstock.tracking import circuits, numbers
from penstock.tracking.credentials import lane_of
from penstock.tracking.deps import Deps
from penstock.tracking.models import CircuitIn, CredentialsIn, DetectIn
from penstock.tracking.numbers import NumberRefused
from penstock.tracking.problems import problem_of
from penstock.tracking.shapes import (
    Budget,
    Candidate,
    Candidates,
    Carriers,
    CarrierView,
    CircuitView,
    CredentialField,
    CredentialStored,
    Source,
)
from penstock.tracking.views import iso

_TAGS: Final[list[Any]] = ["Carriers"]


def add(api: APIRouter, deps: Deps) -> None:
    """Add the routes to a router."""
    database, credentials = deps.database, deps.credentials

    def known(carrier: str) -> None:
        if carrier not in credentials.specs:
            raise NotFound("There is no such carrier.")

    @api.get("/v1/carriers", summary="List carriers", tags=_TAGS)
    @requires("shipments:read")
    async def list_carriers(caller: Caller) -> Carriers:
        """With the fields that their credentials have, and whether the account has one."""
        shown = await database.read(lambda tx: credentials.shown(tx, caller.account))
        return Carriers(
            items=[
                CarrierView(
                    carrier=name,
                    title=spec.title,
                    credential=cast("Source | None", shown[name].source),
                    credential_updated_at=iso(shown[name].updated_at),
                    credential_fields=[
                        CredentialField(
                            name=field.name,
                            title=field.title,
                            secret=field.secret,
                            required=field.required,
                        )
                        for field in spec.fields
                    ],
                    numbers_per_call=spec.per_call,
                    budget=Budget(
                        per_second=credentials.budget(name).per_second,
                        per_day=credentials.budget(name).per_day,
                    ),
                )
                for name, spec in credentials.specs.items()
            ]
        )

    @api.post("/v1/carriers/detect", summary="Detect a carrier", tags=_TAGS)
    @requires("shipments:read")
    async def detect_carrier(asked: DetectIn) -> Candidates:
        """The carriers that a number may belong to, the likeliest first. Nothing is decided.

        Several carriers use numbers of the same form, and a right check digit may be chance.
        """
        try:
            found = numbers.detect(asked.tracking_number)
        except NumberRefused as exc:
            refused = Refused("validation_failed", str(exc), "/tracking_number")
            raise problem_of(refused) from None
        return Candidates(
            candidates=[
                Candidate(
                    carrier=each.carrier,
                    format=each.format,
                    tracking_number=each.number,
                    checksum=each.checksum,
                )
                for each in found
            ]
        )

    @api.put("/v1/carriers/{carrier}/credentials", summary="Store a credential", tags=_TAGS)
    @requires("shipments:write")
    async def put_credentials(
        carrier: str, given: CredentialsIn, caller: Caller
    ) -> CredentialStored:
        """The account's own, in the place of the one before. It is encrypted and never shown.

        Shipments of the carrier are asked for with it from now on, within a budget of its own.
        """
        known(carrier)

        def put(tx: Tx) -> int:
            credentials.put(tx, caller.account, carrier, given.values)
            updated_at = credentials.shown(tx, caller.account)[carrier].updated_at
            assert updated_at is not None, "it was just stored"
            return updated_at

        try:
            updated_at = await database.unit(put)
        except Refused as refused:
            within = Refused(
                refused.code,
                refused.message,
                None if refused.pointer is None else f"/values{refused.pointer}",
            )
            raise problem_of(within) from None
        return CredentialStored(carrier=carrier, updated_at=to_iso(updated_at))

    @api.delete(
        "/v1/carriers/{carrier}/credentials",
        status_code=204,
        summary="Delete a credential",
        tags=_TAGS,
    )
    @requires("shipments:write")
    async def delete_credentials(carrier: str, caller: Caller) -> Response:
        """Shipments go on with the deployment's own credential, or wait until there is one."""
        known(carrier)
        if not await database.unit(lambda tx: credentials.remove(tx, caller.account, carrier)):
            raise NotFound("The account has no credential with this carrier.")
        return Response(status_code=204)

    # ------------------------------------------------------------------ circuits

    async def circuit_of(account: str, carrier: str) -> CircuitView:
        return CircuitView(
            **await database.read(lambda tx: circuits.shown(tx, account, carrier, credentials))
        )

    def movable(tx: Tx, caller: Principal, carrier: str) -> str:
        """The lane of the caller's way to the carrier, if they may hold its circuit."""
        lane = credentials.lane(tx, caller.account, carrier)
        if lane == lane_of(carrier, None) and caller.account != DEFAULT_ACCOUNT:
            raise Problem(
                "shared_circuit",
                "The carrier is asked with the deployment's own credential, which other accounts "
                "use as well.",
            )
        return lane

    @api.get("/v1/carriers/{carrier}/circuit", summary="Read a circuit", tags=_TAGS)
    @requires("lanes:read")
    async def read_circuit(carrier: str, caller: Caller) -> CircuitView:
        """Open: nothing is asked of the carrier for a while, then one check goes ahead as a probe.

        Shipments wait meanwhile, and keep their latest status.
        """
        known(carrier)
        return await circuit_of(caller.account, carrier)

    @api.post("/v1/carriers/{carrier}/circuit", summary="Hold a circuit", tags=_TAGS)
    @requires("lanes:write")
    async def hold_circuit(carrier: str, asked: CircuitIn, caller: Caller) -> CircuitView:
        """Opens or closes it and keeps it so for a while; then it is left to itself again.

        Held open, nothing is asked; held closed, no failure opens it. Who and why is logged.
        """
        known(carrier)

        def hold(tx: Tx) -> None:
            circuits.hold(
                tx,
                movable(tx, caller, carrier),
                asked.state,
                asked.for_,
                actor=_actor(caller),
                reason=asked.reason,
                on_change=deps.on_circuit,
            )

        try:
            await database.unit(hold)
        except Refused as refused:
            raise problem_of(refused) from None
        return await circuit_of(caller.account, carrier)

    @api.post("/v1/carriers/{carrier}/circuit/release", summary="Release a circuit", tags=_TAGS)
    @requires("lanes:write")
    async def release_circuit(carrier: str, caller: Caller) -> CircuitView:
        """Leaves it to itself before its time. Held open, a probe goes ahead now."""
        known(carrier)

        def release(tx: Tx) -> None:
            circuits.release(
                tx,
                movable(tx, caller, carrier),
                actor=_actor(caller),
                reason="released before its time",
            )

        try:
            await database.unit(release)
        except Refused as refused:
            raise problem_of(refused) from None
        return await circuit_of(caller.account, carrier)


def _actor(caller: Principal) -> str:
    """Whom the log names."""
    if caller.key_id is not None:
        return f"key {caller.key_id}"
    return f"{caller.account} {caller.subject}" if caller.subject else caller.account

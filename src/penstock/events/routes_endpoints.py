"""`/v1/endpoints`: where events are pushed to."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from penstock.api.context import Caller, requires
from penstock.api.paging import Items, Paged
from penstock.api.problems import Problem
from penstock.clock import to_iso
from penstock.errors import Refused
from penstock.events import endpoints, routes_outbox
from penstock.events.accept import Accepted, NewEvent, compact
from penstock.events.deps import Deps
from penstock.events.destinations import Destination, TargetRefused
from penstock.events.filters import FilterRefused, compile_filter
from penstock.events.http import HeaderRefused, check_headers
from penstock.events.models import EndpointIn, EndpointPatch, RotateIn
from penstock.events.shapes import EndpointCreated, EndpointView, SecretRotated, TestSent
from penstock.storage import Tx

TEST_TYPE = "penstock.test"


def problem_of(refused: Refused) -> Problem:
    """The refusal as the API tells it."""
    if refused.code == "validation_failed":
        failure = {"message": refused.message}
        if refused.pointer is not None:
            failure["pointer"] = refused.pointer
        where = f" (at {refused.pointer})" if refused.pointer else ""
        return Problem(refused.code, f"{refused.message}{where}.", errors=[failure])
    sentence = f"{refused.message[:1].upper()}{refused.message[1:].removesuffix('.')}."
    return Problem(refused.code, sentence)


def add(api: APIRouter, deps: Deps) -> None:
    """Add the routes to a router."""
    database, box = deps.database, deps.box

    async def view(account: str, endpoint_id: str) -> dict[str, Any]:
        return await database.read(lambda tx: endpoints.get(tx, account, endpoint_id, box))

    @api.post("/v1/endpoints", status_code=201, summary="Add an endpoint", tags=["Endpoints"])
    @requires("endpoints:write")
    async def create_endpoint(new: EndpointIn, caller: Caller) -> EndpointCreated:
        """The answer is the only place where the signing secret is ever shown.

        `secret` is null where the kind signs nothing: e-mails and text messages.
        """
        fields = new.model_dump()
        fields["filter_text"] = _checked_filter(fields.pop("filter"))
        if new.timeout is None:
            fields["timeout"] = deps.policy.timeout
        to = _destination(deps, new.kind)
        fields["target"] = await _checked_target(to, new.target)
        fields["headers"] = endpoints.seal_headers(box, _checked_headers(to, new.headers))
        secret, fields["secret"] = endpoints.new_secret(box) if to.signs else (None, "")

        def create(tx: Tx) -> dict[str, Any]:
            id_ = endpoints.create(tx, caller.account, **fields)
            return endpoints.get(tx, caller.account, id_, box)

        return EndpointCreated(**await database.unit(create), secret=secret)

    @api.get("/v1/endpoints", summary="List endpoints", tags=["Endpoints"])
    @requires("endpoints:read")
    async def list_endpoints(page: Paged, caller: Caller) -> Items[EndpointView]:
        """Newest first."""
        after = page.after(str)
        found = await database.read(
            lambda tx: endpoints.page(
                tx, caller.account, after[0] if after else None, page.limit + 1, box
            )
        )
        shown, cursor = page.of(found, lambda item: (item["endpoint_id"],))
        return Items(items=[EndpointView(**item) for item in shown], next_cursor=cursor)

    @api.get("/v1/endpoints/{endpoint_id}", summary="Read an endpoint", tags=["Endpoints"])
    @requires("endpoints:read")
    async def read_endpoint(endpoint_id: str, caller: Caller) -> EndpointView:
        """Without its secret and the values of its headers."""
        return EndpointView(**await view(caller.account, endpoint_id))

    @api.patch("/v1/endpoints/{endpoint_id}", summary="Change an endpoint", tags=["Endpoints"])
    @requires("endpoints:write")
    async def change_endpoint(
        endpoint_id: str, patch: EndpointPatch, caller: Caller
    ) -> EndpointView:
        """Only the given fields; pending deliveries go by the new values.

        `null` removes `filter`, `headers` and `rate_limit`; `timeout` and `schedule` become the
        server's.
        """
        changes = patch.changes()
        if changes.keys() & {"target", "headers"}:  # what the kind, which never changes, judges
            to = _destination(deps, (await view(caller.account, endpoint_id))["kind"])
        if "filter" in changes:
            changes["filter_text"] = _checked_filter(changes.pop("filter"))
        if "target" in changes:
            changes["target"] = await _checked_target(to, changes["target"])
        if "timeout" in changes and changes["timeout"] is None:
            changes["timeout"] = deps.policy.timeout
        if "headers" in changes:
            changes["headers"] = endpoints.seal_headers(
                box, _checked_headers(to, changes["headers"])
            )
        await database.unit(lambda tx: endpoints.change(tx, caller.account, endpoint_id, changes))
        return EndpointView(**await view(caller.account, endpoint_id))

    @api.delete(
        "/v1/endpoints/{endpoint_id}",
        status_code=204,
        summary="Delete an endpoint",
        tags=["Endpoints"],
    )
    @requires("endpoints:write")
    async def delete_endpoint(endpoint_id: str, caller: Caller) -> Response:
        """Its pending deliveries are cancelled; one that is being sent may still arrive."""
        await endpoints.remove(database, caller.account, endpoint_id)
        return Response(status_code=204)

    @api.post(
        "/v1/endpoints/{endpoint_id}/secret/rotate", summary="Rotate a secret", tags=["Endpoints"]
    )
    @requires("endpoints:write")
    async def rotate_secret(
        endpoint_id: str, caller: Caller, options: RotateIn | None = None
    ) -> SecretRotated:
        """Both secrets sign for `overlap_seconds`; the answer alone shows the new one.

        An endpoint whose kind signs nothing has no secret: `not_signed`.
        """
        kind = (await view(caller.account, endpoint_id))["kind"]
        if not _destination(deps, kind).signs:
            message = f"Endpoints of kind {kind} have no secret"
            raise problem_of(Refused("not_signed", message))
        overlap = (options or RotateIn()).overlap_seconds
        secret, sealed = endpoints.new_secret(box)
        until = await database.unit(
            lambda tx: endpoints.rotate(tx, caller.account, endpoint_id, sealed, overlap)
        )
        return SecretRotated(endpoint_id=endpoint_id, secret=secret, old_secret_until=to_iso(until))

    @api.post(
        "/v1/endpoints/{endpoint_id}/test",
        status_code=202,
        summary="Send a test event",
        tags=["Endpoints"],
    )
    @requires("endpoints:write")
    async def test_endpoint(endpoint_id: str, caller: Caller) -> TestSent:
        """A real, signed event of type `penstock.test`, to this endpoint alone."""
        payload = compact({"endpoint_id": endpoint_id, "message": "This is a test."})

        def send(tx: Tx) -> Accepted:
            to = endpoints.subscriber(tx, caller.account, endpoint_id)
            return deps.acceptor.accept_for(tx, caller.account, NewEvent(TEST_TYPE, payload), to)

        accepted = await database.unit(send)
        (delivery,) = json.loads(accepted.answer)["deliveries"]
        return TestSent(event_id=accepted.event_id, delivery_id=delivery["delivery_id"])

    @api.post(
        "/v1/endpoints/{endpoint_id}/enable", summary="Enable an endpoint", tags=["Endpoints"]
    )
    @requires("endpoints:write")
    async def enable_endpoint(endpoint_id: str, caller: Caller) -> EndpointView:
        """What waited for it is sent now."""
        await database.unit(
            lambda tx: endpoints.switch(tx, caller.account, endpoint_id, enabled=True)
        )
        return EndpointView(**await view(caller.account, endpoint_id))

    @api.post(
        "/v1/endpoints/{endpoint_id}/disable", summary="Disable an endpoint", tags=["Endpoints"]
    )
    @requires("endpoints:write")
    async def disable_endpoint(endpoint_id: str, caller: Caller) -> EndpointView:
        """Events keep being accepted for it; its deliveries wait until it is enabled."""
        await database.unit(
            lambda tx: endpoints.switch(tx, caller.account, endpoint_id, enabled=False)
        )
        return EndpointView(**await view(caller.account, endpoint_id))

    routes_outbox.add(api, deps)


def _destination(deps: Deps, kind: str) -> Destination:
    found = deps.destinations.get(kind)
    if found is None:
        known = ", ".join(deps.destinations)
        raise problem_of(Refused("validation_failed", f"The kinds are: {known}", "/kind"))
    return found


async def _checked_target(to: Destination, target: str) -> str:
    """The target in its canonical form, if it is one that can be sent to."""
    try:
        return await to.check(target)
    except TargetRefused as exc:
        raise problem_of(Refused(exc.code, str(exc), "/target")) from None


def _checked_headers(to: Destination, headers: dict[str, str] | None) -> dict[str, str] | None:
    try:
        if headers and not to.takes_headers:
            raise HeaderRefused(f"endpoints of kind {to.kind} have no headers of their own")
        return None if headers is None else check_headers(headers)
    except HeaderRefused as exc:
        raise problem_of(Refused("validation_failed", str(exc), "/headers")) from None


def _checked_filter(value: dict[str, Any] | None) -> str | None:
    """The filter as it is stored; a problem that points at the fault inside it."""
    if value is None:
        return None
    try:
        return compile_filter(value).text
    except FilterRefused as refused:
        raise problem_of(
            Refused("validation_failed", refused.message, f"/filter{refused.pointer}")
        ) from None

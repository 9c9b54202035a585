"""Endpoints: listed, added, tried, switched, given another secret, deleted."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from penstock.console.calls import Refused, part
from penstock.console.pages import Desk, Visit

_KINDS = ("webhook", "email", "sms", "sqs")


def add(desk: Desk) -> None:
    """Add the pages."""

    @desk.page("/endpoints")
    async def endpoints(visit: Visit) -> Response:
        page = await visit.api("GET", "/v1/endpoints", {"cursor": visit.query.get("cursor")})
        return visit.render("endpoints.html", page=page)

    @desk.page("/endpoints/new")
    async def new_endpoint(visit: Visit) -> Response:
        given = {"kind": "webhook", "target": "", "event_types": "*", "description": "", "rate": ""}
        return visit.render("endpoint_new.html", given=given, kinds=_KINDS, errors={}, message="")

    @desk.action("/endpoints")
    async def create_endpoint(visit: Visit) -> Response:
        form = visit.form
        types = [each.strip() for each in form["event_types"].replace("\n", ",").split(",")]
        body: dict[str, Any] = {
            "kind": form["kind"],
            "target": form["target"],
            "event_types": [each for each in types if each],
            "description": form["description"],
        }
        errors: dict[str, str] = {}
        if form["rate"]:
            try:
                body["rate_limit"] = float(form["rate"])
            except ValueError:
                errors["rate"] = "Write a number, such as 10 or 0.5."
        message = "The endpoint was not added."
        if not errors:
            try:
                made = await visit.api("POST", "/v1/endpoints", body=body)
            except Refused as refused:
                if refused.status >= 500 or refused.status == 403:
                    raise
                errors = {
                    pointer.strip("/").partition("/")[0].replace("rate_limit", "rate"): text
                    for pointer, text in refused.errors
                }
                message = refused.detail
            else:
                here = f"/endpoints/{part(made['endpoint_id'])}"
                if made["secret"] is None:
                    return visit.go(here, "The endpoint was added.")
                return visit.render(
                    "secret.html",
                    title="The endpoint was added",
                    what="Its signing secret",
                    secret=made["secret"],
                    hint="The receiver needs it to verify that a push is ours.",
                    on=here,
                )
        return visit.render(
            "endpoint_new.html",
            422,
            given=form.given(),
            kinds=_KINDS,
            errors=errors,
            message=message,
        )

    @desk.page("/endpoints/{endpoint_id}")
    async def endpoint(visit: Visit) -> Response:
        id_ = visit.path("endpoint_id")
        found = await visit.api("GET", f"/v1/endpoints/{part(id_)}")
        lane = None
        try:
            lane = await visit.maybe(f"/v1/lanes/{part(f'delivery:{id_}')}")
        except Refused:
            lane = None
        events = await visit.maybe("/v1/events", {"endpoint": id_, "limit": 10})
        return visit.render(
            "endpoint.html",
            endpoint=found,
            lane=lane,
            events=None if events is None else events["items"],
        )

    @desk.action("/endpoints/{endpoint_id}/{action}")
    async def move_endpoint(visit: Visit) -> Response:
        id_, action = visit.path("endpoint_id"), visit.path("action")
        here, api = f"/endpoints/{part(id_)}", f"/v1/endpoints/{part(id_)}"
        if action == "test":
            sent = await visit.api("POST", f"{api}/test")
            return visit.go(f"/events/{part(sent['event_id'])}", "A test event was sent.")
        if action in ("enable", "disable"):
            await visit.api("POST", f"{api}/{action}")
            return visit.go(here, f"The endpoint was {action}d.")
        if action == "rotate":
            made = await visit.api("POST", f"{api}/secret/rotate")
            return visit.render(
                "secret.html",
                title="The secret was rotated",
                what="The new signing secret",
                secret=made["secret"],
                hint=f"The old one signs as well until {made['old_secret_until']}.",
                on=here,
            )
        if action == "delete":
            await visit.api("DELETE", api)
            return visit.go("/endpoints", "The endpoint was deleted.")
        raise Refused(404, "not_found", "There is nothing at this address.")

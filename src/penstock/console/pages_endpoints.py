"""Endpoints: listed, added, tried, switched, given another secret, deleted."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from penstock.console.calls import Refused, part
from penstock.console.pages import Desk, Form, Visit

_KINDS = ("webhook", "email", "sms", "sqs")
_NEW = {
    "kind": "webhook",
    "target": "",
    "event_types": "*",
    "description": "",
    "rate": "",
    "on_permanent": "long",
    "on_dead": "continue",
}


def add(desk: Desk) -> None:
    """Add the pages."""

    @desk.page("/endpoints")
    async def endpoints(visit: Visit) -> Response:
        page = await visit.api("GET", "/v1/endpoints", {"cursor": visit.query.get("cursor")})
        return visit.render("endpoints.html", page=page)

    @desk.page("/endpoints/new")
    async def new_endpoint(visit: Visit) -> Response:
        return _form(visit, 200, _NEW, {}, "")

    @desk.action("/endpoints")
    async def create_endpoint(visit: Visit) -> Response:
        form = visit.form
        try:
            made = await visit.api("POST", "/v1/endpoints", body=_body(form, "kind", "target"))
        except Refused as refused:
            return _wrong(visit, refused, "")
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

    @desk.page("/endpoints/{endpoint_id}/change")
    async def changed_endpoint(visit: Visit) -> Response:
        found = await visit.api("GET", f"/v1/endpoints/{part(visit.path('endpoint_id'))}")
        given = {name: found[name] for name in _NEW if name in found}
        rate = found["rate_limit"]
        given["rate"] = "" if rate is None else f"{rate:g}"
        given["event_types"] = ", ".join(found["event_types"])
        return _form(visit, 200, given, {}, "", found["endpoint_id"])

    @desk.action("/endpoints/{endpoint_id}/change")
    async def change_endpoint(visit: Visit) -> Response:
        id_ = visit.path("endpoint_id")
        try:
            body = _body(visit.form, "target")
            await visit.api("PATCH", f"/v1/endpoints/{part(id_)}", body=body)
        except Refused as refused:
            return _wrong(visit, refused, id_)
        return visit.go(f"/endpoints/{part(id_)}", "The endpoint was changed.")

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


def _body(form: Form, *also: str) -> dict[str, Any]:
    """What a form says of an endpoint; Refused where that cannot be said in JSON."""
    types = [each.strip() for each in form["event_types"].replace("\n", ",").split(",")]
    try:
        rate = float(form["rate"]) if form["rate"] else None
    except ValueError:
        wrong = ("/rate_limit", "Write a number, such as 10 or 0.5.")
        raise Refused(422, "validation_failed", "The rate is not a number.", [wrong]) from None
    body: dict[str, Any] = {name: form[name] for name in (*also, "description")}
    body |= {"event_types": [each for each in types if each], "rate_limit": rate}
    return body | {name: form[name] for name in ("on_permanent", "on_dead") if form[name]}


def _wrong(visit: Visit, refused: Refused, endpoint_id: str) -> Response:
    """The form again, with what is wrong with it."""
    if refused.status >= 500 or refused.status in (403, 404):
        raise refused
    errors = {
        pointer.strip("/").partition("/")[0].replace("rate_limit", "rate"): text
        for pointer, text in refused.errors
    }
    return _form(visit, refused.status, visit.form.given(), errors, refused.detail, endpoint_id)


def _form(
    visit: Visit,
    status: int,
    given: dict[str, Any],
    errors: dict[str, str],
    message: str,
    endpoint_id: str = "",
) -> Response:
    return visit.render(
        "endpoint_form.html",
        status,
        given=given,
        kinds=_KINDS,
        errors=errors,
        message=message,
        endpoint_id=endpoint_id,
    )

"""API keys: made, listed, revoked."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from penstock.api.scopes import AREAS
from penstock.console.calls import Refused, part
from penstock.console.pages import Desk, Visit


def add(desk: Desk) -> None:
    """Add the pages."""

    async def listed(visit: Visit, status: int, **values: Any) -> Response:
        page = await visit.api("GET", "/v1/keys", {"cursor": visit.query.get("cursor")})
        return visit.render("keys.html", status, page=page, areas=AREAS, **values)

    @desk.page("/keys")
    async def keys(visit: Visit) -> Response:
        return await listed(visit, 200, given={"name": "", "expires_in": ""}, chosen=[], message="")

    @desk.action("/keys")
    async def create_key(visit: Visit) -> Response:
        form = visit.form
        body: dict[str, Any] = {"name": form["name"]}
        if form.all("scope"):
            body["scopes"] = form.all("scope")
        if form["expires_in"]:
            body["expires_in"] = form["expires_in"]
        try:
            made = await visit.api("POST", "/v1/keys", body=body)
        except Refused as refused:
            if refused.status != 422:
                raise
            given = {"name": form["name"], "expires_in": form["expires_in"]}
            return await listed(
                visit, 422, given=given, chosen=form.all("scope"), message=refused.detail
            )
        return visit.render(
            "secret.html",
            title="The key was made",
            what=f"The key {made['name']}",
            secret=made["key"],
            hint="Send it as Authorization: Bearer, or put it into PENSTOCK_KEY.",
            on="/keys",
        )

    @desk.action("/keys/{key_id}/revoke")
    async def revoke_key(visit: Visit) -> Response:
        await visit.api("DELETE", f"/v1/keys/{part(visit.path('key_id'))}")
        return visit.go("/keys", "The key was revoked.")

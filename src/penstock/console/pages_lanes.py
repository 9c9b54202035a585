"""Lanes: what they let through, paused, resumed, limited; their circuits, opened and closed."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from penstock.console.calls import Refused, part
from penstock.console.pages import Desk, Visit


def add(desk: Desk) -> None:
    """Add the pages."""

    @desk.page("/lanes")
    async def lanes(visit: Visit) -> Response:
        asked = {
            "kind": visit.query.get("kind", "").strip(),
            "stopped": "true" if visit.query.get("stopped") else "",
        }
        page = await visit.api("GET", "/v1/lanes", asked | {"cursor": visit.query.get("cursor")})
        work = await visit.api("GET", "/v1/figures/work")
        return visit.render(
            "lanes.html",
            page=page,
            asked=asked,
            filtered=any(asked.values()),
            kinds=[kind["kind"] for kind in work["kinds"]],
        )

    # An id may hold a slash, so it is asked for and sent as a field.
    @desk.page("/lane")
    async def lane(visit: Visit) -> Response:
        found = await visit.api("GET", f"/v1/lanes/{part(visit.query.get('id', ''))}")
        return visit.render("lane.html", lane=found, message="")

    @desk.action("/lane/{action}")
    async def move_lane(visit: Visit) -> Response:
        id_, action, form = visit.form["id"], visit.path("action"), visit.form
        api = f"/v1/lanes/{part(id_)}"
        here = f"/lane?id={part(id_)}"
        try:
            if action in ("pause", "resume"):
                await visit.api("PATCH", api, body={"paused": action == "pause"})
                return visit.back(here, f"The lane was {action}d.")
            if action == "limit":
                await visit.api("PATCH", api, body=_limits(form["rate"], form["max_in_flight"]))
                return visit.go(here, "The lane has new limits.")
            if action == "circuit":
                body = {"state": form["state"], "for": form["for"], "reason": form["reason"]}
                await visit.api("POST", f"{api}/circuit", body=body)
                return visit.go(here, f"The circuit is held {form['state']}.")
            if action == "release":
                await visit.api("POST", f"{api}/circuit/release")
                return visit.go(here, "The circuit was left to itself.")
        except Refused as refused:
            if refused.status not in (409, 422):
                raise
            found = await visit.api("GET", api)
            return visit.render("lane.html", refused.status, lane=found, message=refused.detail)
        raise Refused(404, "not_found", "There is nothing at this address.")


def _limits(rate: str, most: str) -> dict[str, Any]:
    try:
        return {"rate": float(rate) if rate else None, "max_in_flight": int(most)}
    except ValueError:
        raise Refused(422, "validation_failed", "Write limits as numbers.") from None

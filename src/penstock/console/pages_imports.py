"""Many shipments at once, from a CSV: sent, watched, its bad rows shown."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from penstock.console.calls import Refused, part
from penstock.console.pages import Desk, Visit

_API = "/v1/shipments/imports"


def add(desk: Desk) -> None:
    """Add the pages."""

    async def listed(visit: Visit, status: int, **values: Any) -> Response:
        page = await visit.api("GET", _API, {"cursor": visit.query.get("cursor")})
        carriers = (await visit.api("GET", "/v1/carriers"))["items"]
        return visit.render("imports.html", status, page=page, carriers=carriers, **values)

    @desk.page("/imports")
    async def imports(visit: Visit) -> Response:
        return await listed(visit, 200, given={}, message="")

    @desk.action("/imports")
    async def import_shipments(visit: Visit) -> Response:
        form = visit.form
        try:
            made = await visit.api(
                "POST", _API, {"carrier": form["carrier"]}, form["csv"].encode(), "text/csv"
            )
        except Refused as refused:
            if refused.status >= 500 or refused.status == 403:
                raise
            return await listed(visit, refused.status, given=form.given(), message=refused.detail)
        return visit.go(f"/imports/{part(made['import_id'])}", "The file was taken.")

    @desk.page("/imports/{import_id}")
    async def one_import(visit: Visit) -> Response:
        api = f"{_API}/{part(visit.path('import_id'))}"
        found = await visit.api("GET", api)
        faults = await visit.api("GET", f"{api}/errors", {"cursor": visit.query.get("cursor")})
        return visit.render("import.html", found=found, page=faults)

    @desk.action("/imports/{import_id}/cancel")
    async def cancel_import(visit: Visit) -> Response:
        id_ = part(visit.path("import_id"))
        await visit.api("POST", f"{_API}/{id_}/cancel")
        return visit.go(f"/imports/{id_}", "No more rows are looked at.")

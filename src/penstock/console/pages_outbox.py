"""The outbox: e-mails and text messages that were kept here instead of being sent."""

from __future__ import annotations

from starlette.responses import Response

from penstock.console.pages import Desk, Visit


def add(desk: Desk) -> None:
    """Add the page."""

    @desk.page("/outbox")
    async def outbox(visit: Visit) -> Response:
        page = await visit.api("GET", "/v1/outbox", {"cursor": visit.query.get("cursor")})
        return visit.render("outbox.html", page=page)

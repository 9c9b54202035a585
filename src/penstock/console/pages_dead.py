"""Dead work of every kind: why it gave up; sent again or put away, one, many or all that fit."""

from __future__ import annotations

import time
from typing import Any, Final

from starlette.responses import Response

from penstock.console.calls import Refused
from penstock.console.pages import Desk, Visit

LONGEST: Final = 3.0  # seconds that one form's work may take; the rest is another's
_DONE = {"redrive": "sent again", "drop": "dropped"}


def add(desk: Desk) -> None:
    """Add the pages."""

    @desk.page("/dead")
    async def dead(visit: Visit) -> Response:
        asked = {
            name: visit.query.get(name, "").strip()[:200] for name in ("kind", "lane", "reason")
        }
        page = await visit.api("GET", "/v1/dead", asked | {"cursor": visit.query.get("cursor")})
        counts = (await visit.api("GET", "/v1/dead/counts"))["kinds"]
        return visit.render(
            "dead.html", page=page, asked=asked, filtered=any(asked.values()), counts=counts
        )

    @desk.action("/dead/{action}")
    async def move_dead(visit: Visit) -> Response:
        action = visit.path("action")
        if action not in _DONE:
            raise Refused(404, "not_found", "There is nothing at this address.")
        chosen: dict[str, list[str]] = {}
        for each in visit.form.all("row"):
            kind, _, id_ = each.partition(" ")
            chosen.setdefault(kind, []).append(id_)
        if not chosen:
            return visit.back("/dead", "Nothing was chosen.")
        moved = 0
        for kind, ids in chosen.items():
            done = await visit.api("POST", f"/v1/dead/{action}", body={"kind": kind, "ids": ids})
            moved += done["moved"]
        asked = sum(len(ids) for ids in chosen.values())
        some = f"{moved}" if moved == asked else f"{moved} of {asked}"
        return visit.back("/dead", f"{some} {_DONE[action]}.")

    @desk.page("/dead-all")
    async def confirm_all(visit: Visit) -> Response:
        asked = {name: visit.query.get(name, "")[:200] for name in ("kind", "lane", "reason")}
        counts = (await visit.api("GET", "/v1/dead/counts"))["kinds"]
        if asked["kind"] not in counts:
            return visit.go("/dead", "Choose a kind of work first.")
        return visit.render(
            "dead_all.html", asked=asked, count=counts[asked["kind"]], moved=None, cursor="",
            action="",
        )  # fmt: skip

    @desk.action("/dead-all/{action}")
    async def move_all(visit: Visit) -> Response:
        action, form = visit.path("action"), visit.form
        if action not in _DONE:
            raise Refused(404, "not_found", "There is nothing at this address.")
        asked = {name: form[name] for name in ("kind", "lane", "reason")}
        body: dict[str, Any] = {"all": True, "kind": asked["kind"]}
        body |= {name: asked[name] for name in ("lane", "reason") if asked[name]}
        cursor = form["cursor"] or None
        moved = int(form["moved"]) if form["moved"].isdecimal() else 0
        until = time.monotonic() + LONGEST
        while True:
            done = await visit.api("POST", f"/v1/dead/{action}", body=body | {"cursor": cursor})
            moved += done["moved"]
            cursor = done["next_cursor"]
            if cursor is None:
                return visit.go("/dead", f"{moved:,} {_DONE[action]}.")
            if time.monotonic() > until:
                counts = (await visit.api("GET", "/v1/dead/counts"))["kinds"]
                return visit.render(
                    "dead_all.html",
                    asked=asked,
                    count=counts[asked["kind"]],
                    moved=moved,
                    cursor=cursor,
                    action=action,
                )

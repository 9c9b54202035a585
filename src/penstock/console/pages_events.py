"""Events: listed, sent, each with its timeline, replayed."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from penstock.console.calls import Refused, part
from penstock.console.pages import Desk, Visit

_STATUSES = ("pending", "delivered", "failed", "replayed")
_NONE: dict[str, Any] = {"items": [], "next_cursor": None}
_FILTERS = ("event_type", "status", "since", "until", "endpoint")


def add(desk: Desk) -> None:
    """Add the pages."""

    @desk.page("/events")
    async def events(visit: Visit) -> Response:
        asked = {name: visit.query.get(name, "").strip() for name in _FILTERS}
        message, page = "", _NONE
        sent = asked | {name: _moment(asked[name]) for name in ("since", "until")}
        try:
            page = await visit.api(
                "GET", "/v1/events", sent | {"cursor": visit.query.get("cursor")}
            )
        except Refused as refused:
            if refused.status != 422:
                raise
            message = refused.detail
        return visit.render(
            "events.html",
            400 if message else 200,
            page=page,
            asked=asked,
            filtered=any(asked.values()),
            statuses=_STATUSES,
            message=message,
        )

    @desk.page("/events/new")
    async def new_event(visit: Visit) -> Response:
        given = {"event_type": "", "payload": "{}", "ordering_key": "", "key": ""}
        return visit.render("event_new.html", given=given, errors={}, message="")

    @desk.action("/events")
    async def send_event(visit: Visit) -> Response:
        form = visit.form
        errors: dict[str, str] = {}
        body: dict[str, Any] = {"event_type": form["event_type"]}
        try:
            body["payload"] = json.loads(form["payload"] or "{}")
        except (ValueError, RecursionError) as exc:
            errors["payload"] = f"This is not JSON: {exc}."
        if form["ordering_key"]:
            body["ordering_key"] = form["ordering_key"]
        message = "The event was not sent."
        if not errors:
            try:
                made = await visit.api("POST", "/v1/events", body=body)
                return visit.go(f"/events/{part(made['event_id'])}", "The event was accepted.")
            except Refused as refused:
                if refused.status >= 500 or refused.status == 403:
                    raise
                errors = {pointer.strip("/"): text for pointer, text in refused.errors}
                message = refused.detail
        return visit.render(
            "event_new.html", 422, given=form.given(), errors=errors, message=message
        )

    @desk.page("/events/{event_id}")
    async def event(visit: Visit) -> Response:
        event_id = visit.path("event_id")
        found = await visit.api("GET", f"/v1/events/{part(event_id)}")
        names = {}
        for delivery in found["deliveries"][:20]:
            id_ = delivery["endpoint_id"]
            try:
                names[id_] = (await visit.api("GET", f"/v1/endpoints/{part(id_)}"))["target"]
            except Refused:  # deleted, or not to be seen with this key
                continue
        return visit.render("event.html", event=found, names=names)

    @desk.action("/events/{event_id}/replay")
    async def replay(visit: Visit) -> Response:
        event_id = visit.path("event_id")
        body: dict[str, Any] = {"include_missing": visit.form["missing"] == "yes"}
        if visit.form["endpoint"]:
            body["endpoint_ids"] = [visit.form["endpoint"]]
        done = await visit.api("POST", f"/v1/events/{part(event_id)}/replay", body=body)
        text = f"{done['replayed']} deliveries are sent again, {done['added']} for the first time."
        return visit.go(f"/events/{part(event_id)}", text)


def _moment(text: str) -> str:
    """What the browser's field for a time says, as UTC."""
    return f"{text}:00Z" if len(text) == 16 and text[10] == "T" else text

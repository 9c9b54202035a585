"""`/v1/outbox`: e-mails and text messages that this server kept instead of sending them."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from penstock.api.context import Caller, requires
from penstock.api.paging import Items, Paged
from penstock.events.deps import Deps
from penstock.events.destinations import outbox


class OutboxItem(BaseModel):
    """An e-mail or a text message; texts have no subject."""

    outbox_id: str
    kind: Literal["email", "sms"]
    target: str
    subject: str | None
    body: str
    event_id: str
    delivery_id: str
    created_at: str


def add(api: APIRouter, deps: Deps) -> None:
    """Add the route to a router."""

    @api.get("/v1/outbox", summary="List the outbox", tags=["Endpoints"])
    @requires("endpoints:read")
    async def list_outbox(page: Paged, caller: Caller) -> Items[OutboxItem]:
        """Newest first. What is kept here was not sent: no mail server or SNS is set up."""
        after = page.after(str)
        found = await deps.database.read(
            lambda tx: outbox.page(tx, caller.account, after[0] if after else None, page.limit + 1)
        )
        shown, cursor = page.of(found, lambda item: (item["outbox_id"],))
        return Items(items=[OutboxItem(**item) for item in shown], next_cursor=cursor)

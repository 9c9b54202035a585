"""`/v1/outbox`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from penstock.client.calls import Call, Listing, at, reading
from penstock.client.resources import AsyncResource, Resource, async_pages, pages
from penstock.client.values import Value


@dataclass(frozen=True, slots=True)
class OutboxItem(Value):
    """An e-mail or a text message (`kind`) that was kept, not sent; texts have no subject."""

    outbox_id: str
    kind: str
    target: str
    subject: str | None
    body: str
    event_id: str
    delivery_id: str
    created_at: datetime


def every(*, page_size: int = 100) -> Listing[OutboxItem]:
    """What the server kept because nothing is set up to send it, newest first."""
    query = {"limit": page_size}
    return Listing(Call("GET", at("outbox"), reading(dict), query=query), OutboxItem.of)


class Outbox(Resource):
    """E-mails and text messages that the server kept instead of sending them."""

    list = pages(every)


class AsyncOutbox(AsyncResource):
    """E-mails and text messages that the server kept instead of sending them."""

    list = async_pages(every)

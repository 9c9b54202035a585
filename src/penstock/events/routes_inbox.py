"""`/v1/inbox`: undelivered events, for readers that come and fetch them."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from penstock.api.context import Caller, requires
from penstock.api.paging import Items, Paged
from penstock.clock import to_iso
from penstock.events import inbox
from penstock.events.deps import Deps
from penstock.events.models import AcknowledgeIn, LeaseIn, Pattern, ReleaseIn
from penstock.events.settled import inbox_of
from penstock.events.shapes import (
    AcknowledgeResult,
    AcknowledgeResults,
    InboxEvent,
    InboxLeased,
    ReleaseResult,
    ReleaseResults,
)
from penstock.telemetry import INBOX_ACKNOWLEDGED, INBOX_LEASED, metrics


def add(api: APIRouter, deps: Deps) -> None:
    """Add the routes to a router."""
    database, waiters = deps.database, deps.waiters

    @api.get(
        "/v1/inbox",
        summary="List undelivered events",
        tags=["Inbox"],
        responses={200: {"model": Items[InboxEvent], "description": "One page."}},
    )
    @requires("inbox:read")
    async def list_inbox(
        page: Paged,
        caller: Caller,
        event_types: Annotated[
            list[Pattern] | None,
            Query(max_length=100, description="Only these: a type, `prefix.*` or `*`."),
        ] = None,
    ) -> Response:
        """Oldest first, leased ones among them; nothing is changed."""
        after = page.after(str)
        found = await database.read(
            lambda tx: inbox.page(
                tx,
                caller.account,
                event_types or (),
                after[0] if after else None,
                page.limit + 1,
            )
        )
        shown, cursor = page.of(found, lambda item: (item[0],))
        items = ",".join(text for _, text in shown)
        return _answer(f'{{"items":[{items}],"next_cursor":{json.dumps(cursor)}}}')

    @api.post(
        "/v1/inbox/lease",
        summary="Lease events",
        tags=["Inbox"],
        responses={200: {"model": InboxLeased, "description": "What was leased, if anything."}},
    )
    @requires("inbox:write")
    async def lease_events(
        request: Request, caller: Caller, options: LeaseIn | None = None
    ) -> Response:
        """The oldest events that nobody has leased; nothing of them is pushed meanwhile.

        With `wait`, the answer is held up to so many seconds until there is something. An event
        that is being pushed at this moment is not leased.
        """
        asked = options or LeaseIn()

        async def lease() -> inbox.Leased:
            return await database.unit(
                lambda tx: inbox.lease(
                    tx,
                    caller.account,
                    asked.event_types,
                    limit=asked.limit,
                    seconds=asked.lease_seconds,
                )
            )

        leased = await lease()

        async def over() -> bool:
            nonlocal leased
            # Nobody is to lease for a reader that has hung up.
            if await request.is_disconnected():
                return True
            if await database.read(
                lambda tx: inbox.anything(tx, caller.account, asked.event_types)
            ):
                leased = await lease()
            return bool(leased.events)

        if not leased.events and asked.wait:
            await waiters.wait(inbox_of(caller.account), asked.wait, over)
        metrics.inc(INBOX_LEASED, len(leased.events))
        return _answer(
            f'{{"lease_id":"{leased.lease_id}","leased_until":"{to_iso(leased.until)}",'
            f'"events":[{",".join(leased.events)}]}}'
        )

    @api.post("/v1/inbox/ack", summary="Acknowledge events", tags=["Inbox"])
    @requires("inbox:write")
    async def acknowledge_events(asked: AcknowledgeIn, caller: Caller) -> AcknowledgeResults:
        """They are delivered, and what was still to be pushed of them is cancelled.

        With `lease_id`, an event that somebody else has leased since is left alone. A push that is
        under way cannot be recalled.
        """
        outcomes = await database.unit(
            lambda tx: inbox.acknowledge(tx, caller.account, asked.event_ids, asked.lease_id)
        )
        taken = sum(outcome == "acknowledged" for outcome in outcomes.values())
        metrics.inc(INBOX_ACKNOWLEDGED, taken)
        return AcknowledgeResults(
            results=[
                AcknowledgeResult(event_id=id_, outcome=outcomes[id_])
                for id_ in dict.fromkeys(asked.event_ids)
            ]
        )

    @api.post("/v1/inbox/release", summary="Release leased events", tags=["Inbox"])
    @requires("inbox:write")
    async def release_events(asked: ReleaseIn, caller: Caller) -> ReleaseResults:
        """They can be leased again at once, and what was held back of them is pushed now."""
        outcomes = await database.unit(
            lambda tx: inbox.release(tx, caller.account, asked.event_ids, asked.lease_id)
        )
        return ReleaseResults(
            results=[
                ReleaseResult(event_id=id_, outcome=outcomes[id_])
                for id_ in dict.fromkeys(asked.event_ids)
            ]
        )


def _answer(text: str) -> Response:
    return Response(text, media_type="application/json")

"""Sending again, and deleting: `/v1/events/{id}/replay`, `/v1/replays`, `…/recover`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from penstock.api.context import Caller, requires
from penstock.api.paging import Items, Paged
from penstock.clock import from_datetime
from penstock.errors import Refused
from penstock.events import erase, query, replay, replays
from penstock.events.deps import Deps
from penstock.events.replay_models import (
    EventReplayed,
    EventReplayIn,
    RecoverIn,
    ReplayIn,
    ReplayView,
)
from penstock.events.routes_endpoints import problem_of
from penstock.storage import Tx


def add(api: APIRouter, deps: Deps) -> None:
    """Add the routes to a router."""
    database = deps.database

    async def view(account: str, replay_id: str) -> ReplayView:
        found = await database.read(lambda tx: replays.get(tx, account, replay_id))
        return ReplayView(**found)

    @api.post("/v1/events/{event_id}/replay", status_code=202, summary="Replay an event")
    @requires("events:write")
    async def replay_event(
        event_id: str, caller: Caller, options: EventReplayIn | None = None
    ) -> EventReplayed:
        """Its deliveries that have ended are pending again, with their schedule from the start.

        `include_missing` also makes the deliveries to endpoints that take the event's type and
        never got one. What is pending already is left alone.
        """
        asked = options or EventReplayIn()

        def send(tx: Tx) -> tuple[replay.Replayed, dict[str, Any]]:
            done = replay.replay_event(
                tx,
                caller.account,
                event_id,
                deps.acceptor,
                endpoint_ids=asked.endpoint_ids,
                include_missing=asked.include_missing,
                expiry=deps.policy.expiry,
            )
            # As it is now: it may be delivered before anybody reads it again.
            return done, query.summary(tx, caller.account, event_id)[0]

        try:
            done, event = await database.unit(send)
        except Refused as refused:
            raise problem_of(refused) from None
        return EventReplayed(
            **event, replayed=done.again, added=done.added, left_pending=done.pending
        )

    @api.delete("/v1/events/{event_id}", status_code=204, summary="Delete an event")
    @requires("events:write")
    async def delete_event(event_id: str, caller: Caller) -> Response:
        """With its deliveries and their attempts. One that is being sent may still arrive."""
        await database.unit(lambda tx: erase.delete_event(tx, caller.account, event_id))
        return Response(status_code=204)

    @api.post("/v1/replays", status_code=202, summary="Replay events", tags=["Replays"])
    @requires("events:write")
    async def start_replay(asked: ReplayIn, caller: Caller) -> ReplayView:
        """Sends the events that are there now again, oldest first, beside new ones.

        Of events with `status` `failed`, only the deliveries that were not made are sent.
        """
        _check_span(asked.since, asked.until)
        replay_id = await replays.create(
            database,
            caller.account,
            event_types=asked.event_types,
            status=asked.status,
            since=_instant(asked.since),
            until=_instant(asked.until),
            endpoint_id=asked.endpoint_id,
            include_missing=asked.include_missing,
        )
        return await view(caller.account, replay_id)

    @api.get("/v1/replays", summary="List replays", tags=["Replays"])
    @requires("events:read")
    async def list_replays(page: Paged, caller: Caller) -> Items[ReplayView]:
        """Newest first."""
        after = page.after(str)
        found = await database.read(
            lambda tx: replays.page(tx, caller.account, after[0] if after else None, page.limit + 1)
        )
        shown, cursor = page.of(found, lambda item: (item["replay_id"],))
        return Items(items=[ReplayView(**item) for item in shown], next_cursor=cursor)

    @api.get("/v1/replays/{replay_id}", summary="Read a replay", tags=["Replays"])
    @requires("events:read")
    async def read_replay(replay_id: str, caller: Caller) -> ReplayView:
        """How far it is."""
        return await view(caller.account, replay_id)

    @api.post(
        "/v1/replays/{replay_id}/cancel",
        status_code=202,
        summary="Cancel a replay",
        tags=["Replays"],
    )
    @requires("events:write")
    async def cancel_replay(replay_id: str, caller: Caller) -> ReplayView:
        """Nothing more is added. What it added and nobody tried yet is as it was before; what was
        tried goes on to its end. Doing it again is harmless.
        """
        await database.unit(lambda tx: replays.cancel(tx, caller.account, replay_id))
        found = await view(caller.account, replay_id)
        if found.status == "cancelled":
            while await database.unit(lambda tx: replay.withdraw(tx, caller.account, replay_id)):
                pass
        return await view(caller.account, replay_id)

    @api.post(
        "/v1/endpoints/{endpoint_id}/recover",
        status_code=202,
        summary="Send an endpoint what it missed",
        tags=["Endpoints"],
    )
    @requires("endpoints:write")
    async def recover_endpoint(endpoint_id: str, asked: RecoverIn, caller: Caller) -> ReplayView:
        """A replay for this endpoint of what failed since then, and of what it was never sent."""
        _check_span(asked.since, asked.until)
        replay_id = await replays.create(
            database,
            caller.account,
            since=_instant(asked.since),
            until=_instant(asked.until),
            endpoint_id=endpoint_id,
            include_missing=True,
            failed_only=True,
        )
        return await view(caller.account, replay_id)


def _instant(moment: datetime | None) -> int | None:
    return None if moment is None else from_datetime(moment)


def _check_span(since: datetime | None, until: datetime | None) -> None:
    if since is not None and until is not None and since >= until:
        raise problem_of(Refused("validation_failed", "It is not after `since`", "/until"))

"""The events service of one process, put together from settings' values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import aiohttp
from fastapi import APIRouter

from penstock.clock import Clock
from penstock.events import autodisable
from penstock.events.accept import Acceptor
from penstock.events.deps import Deps
from penstock.events.destinations import registry
from penstock.events.destinations.registry import Outlets
from penstock.events.fanout import fanout_kind
from penstock.events.gather import Gatherer
from penstock.events.guard import Guard
from penstock.events.guard_ranges import Network
from penstock.events.http import Failure, Response, outbound_session, post
from penstock.events.policy import Policy
from penstock.events.push import delivery_kind
from penstock.events.replays import replay_kind
from penstock.events.routes import routes
from penstock.events.settled import Waiters
from penstock.secretbox import SecretBox
from penstock.storage import Database
from penstock.work.kinds import AnyKind

CONNECT_TIMEOUT = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class Events:
    """What the service brings."""

    kinds: tuple[AnyKind, ...]
    routers: tuple[APIRouter, ...]
    acceptor: Acceptor  # its `emit` is the port by which other services tell
    waiters: Waiters
    on_notes: Callable[[Sequence[object]], None]  # is to be subscribed to the database
    session: aiohttp.ClientSession
    destinations: registry.Destinations

    async def close(self) -> None:
        """Close the pool that pushes go through, and what other destinations hold open."""
        await self.session.close()
        await self.destinations.close()


def build(
    *,
    database: Database,
    clock: Clock,
    box: SecretBox,
    allow: Sequence[Network],
    slots: int,
    lease: float,
    schedule: Sequence[float],
    timeout: float,
    expiry: float,
    max_body: int,
    max_batch_body: int,
    outlets: Outlets = Outlets(),  # noqa: B008 - it is a value
) -> Events:
    """The service on `database`; call it inside a running event loop, and close it."""
    policy = Policy(tuple(schedule), timeout, expiry, max_body, max_batch_body)
    guard = Guard(allow)
    session = outbound_session(guard, limit=slots)

    async def send(
        url: str, body: bytes, headers: Mapping[str, str], total: float
    ) -> Response | Failure:
        connect = min(CONNECT_TIMEOUT, total)
        return await post(session, url, body, headers, connect_timeout=connect, total_timeout=total)

    acceptor = Acceptor(expiry)
    gatherer = Gatherer(database, acceptor)
    destinations = registry.build(outlets, guard=guard, send=send, clock=clock)
    by_kind = destinations.by_kind
    deps = Deps(database, clock, box, guard, acceptor, policy, gatherer, by_kind)

    def on_notes(notes: Sequence[object]) -> None:
        deps.waiters.on_notes(notes)
        autodisable.on_notes(notes)

    return Events(
        kinds=(
            delivery_kind(
                clock=clock,
                box=box,
                destinations=by_kind,
                policy=policy,
                slots=slots,
                lease=lease,
                tell=acceptor.tell,
            ),
            fanout_kind(expiry, lease=lease),
            replay_kind(
                database=database, clock=clock, acceptor=acceptor, expiry=expiry, lease=lease
            ),
        ),
        routers=(routes(deps),),
        acceptor=deps.acceptor,
        waiters=deps.waiters,
        on_notes=on_notes,
        session=session,
        destinations=destinations,
    )

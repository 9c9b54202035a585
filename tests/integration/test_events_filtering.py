"""Filters where they act: accept, fan-out, replay of what was missing, and the API's refusals."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.events import endpoints, fanout
from penstock.events.accept import Acceptor, new_event
from penstock.events.filters import compile_filter
from penstock.events.models import EventIn
from penstock.events.replay import replay_event
from penstock.storage import Database, sql
from penstock.work.kinds import Claim

pytestmark = pytest.mark.anyio

DELIVERED_TO = sql("SELECT endpoint_id FROM deliveries WHERE event_id = :id ORDER BY endpoint_id")


async def _endpoint(database: Database, condition: dict[str, Any] | None) -> str:
    text = None if condition is None else compile_filter(condition).text
    return await database.unit(
        lambda tx: endpoints.create(
            tx,
            "acme",
            kind="webhook",
            target="https://example.com/hook",
            description="",
            event_types=["order.*"],
            filter_text=text,
            timeout=5.0,
            schedule=None,
            on_permanent="dead",
            rate_limit=None,
            max_in_flight=4,
            headers=None,
            secret="sealed",
        )
    )


async def _send(database: Database, acceptor: Acceptor, total: int, tenant: str = "a") -> str:
    event = EventIn(
        event_type="order.created", payload={"total": total}, metadata={"tenant": tenant}
    )
    new = new_event(event, now=0)
    (accepted,) = await database.unit(lambda tx: acceptor.accept(tx, "acme", [new]))
    return accepted.event_id  # type: ignore[union-attr]


async def _taken(database: Database, event_id: str) -> list[str]:
    rows = await database.read(lambda tx: tx.rows(DELIVERED_TO, id=event_id))
    return [id_ for (id_,) in rows]


async def test_accept_makes_deliveries_for_what_passes(database: Database) -> None:
    acceptor = Acceptor(3600.0)
    every = await _endpoint(database, None)
    large = await _endpoint(database, {"payload.total": {"gte": 100}})
    tenant = await _endpoint(database, {"metadata.tenant": "b"})
    assert await _taken(database, await _send(database, acceptor, 99)) == [every]
    assert await _taken(database, await _send(database, acceptor, 100)) == [every, large]
    assert await _taken(database, await _send(database, acceptor, 1, "b")) == [every, tenant]


async def test_a_changed_filter_counts_from_then_on(database: Database) -> None:
    acceptor = Acceptor(3600.0)
    one = await _endpoint(database, {"payload.total": 1})
    assert await _taken(database, await _send(database, acceptor, 2)) == []
    text = compile_filter({"payload.total": 2}).text
    await database.unit(lambda tx: endpoints.change(tx, "acme", one, {"filter_text": text}))
    assert await _taken(database, await _send(database, acceptor, 2)) == [one]
    await database.unit(lambda tx: endpoints.change(tx, "acme", one, {"filter_text": None}))
    assert await _taken(database, await _send(database, acceptor, 3)) == [one]


async def test_a_fan_out_passes_over_what_is_filtered(database: Database) -> None:
    acceptor = Acceptor(3600.0)
    for _ in range(26):
        await _endpoint(database, None)
    for _ in range(3):
        await _endpoint(database, {"payload.total": 5})
    event_id = await _send(database, acceptor, 4)
    claim = Claim("fanout", event_id, "fanout:acme", 1, 0, 0, 0)
    chunk = await database.read(lambda tx: fanout._load(tx, [claim])[event_id])
    assert len(chunk.endpoints) == 26
    matching = await _send(database, acceptor, 5)
    claim = Claim("fanout", matching, "fanout:acme", 1, 0, 0, 0)
    chunk = await database.read(lambda tx: fanout._load(tx, [claim])[matching])
    assert len(chunk.endpoints) == 29


async def test_a_replay_adds_only_endpoints_that_take_the_event(database: Database) -> None:
    acceptor = Acceptor(3600.0)
    event_id = await _send(database, acceptor, 7)
    takes = await _endpoint(database, {"payload.total": 7})
    await _endpoint(database, {"payload.total": 8})
    await database.unit(
        lambda tx: replay_event(
            tx,
            "acme",
            event_id,
            acceptor,
            endpoint_ids=None,
            include_missing=True,
            expiry=60.0,
        )
    )
    assert await _taken(database, event_id) == [takes]

"""Hooks on both databases: subscribed once, and samples of what the pattern covers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock.events import endpoints
from penstock.events.accept import Acceptor, NewEvent
from penstock.events.models import EndpointIn
from penstock.events.routes_hooks import KIND, MARK, samples, subscribe
from penstock.secretbox import SecretBox
from penstock.storage import Database

pytestmark = pytest.mark.anyio

BOX = SecretBox(["a key for the tests"])
TARGET = "https://hooks.example.com/hooks/standard/1/2/"


def fields(event: str = "order.*") -> dict[str, Any]:
    wanted = EndpointIn(kind=KIND, target=TARGET, event_types=[event], description=MARK)
    made = wanted.model_dump(exclude={"filter"}) | {"timeout": 10.0}
    made["secret"] = endpoints.new_secret(BOX)[1]
    return made


async def test_many_at_once_make_one_hook(database: Database) -> None:
    answers = await asyncio.gather(
        *(database.unit(lambda tx: subscribe(tx, "a", fields(), BOX)) for _ in range(8))
    )
    assert sorted(made for made, _ in answers) == [False] * 7 + [True]
    assert len({shown["endpoint_id"] for _, shown in answers}) == 1
    others = [("a", "order.created"), ("b", "order.*")]
    for account, event in others:
        made, _ = await database.unit(
            lambda tx, account=account, event=event: subscribe(tx, account, fields(event), BOX)
        )
        assert made


async def test_an_endpoint_that_a_person_made_is_not_taken_for_a_hook(database: Database) -> None:
    mine = fields() | {"description": "mine"}
    id_ = await database.unit(lambda tx: endpoints.create(tx, "a", **mine))
    made, shown = await database.unit(lambda tx: subscribe(tx, "a", fields(), BOX))
    assert made
    assert shown["endpoint_id"] != id_


async def test_subscribing_again_enables(database: Database) -> None:
    _, shown = await database.unit(lambda tx: subscribe(tx, "a", fields(), BOX))
    await database.unit(lambda tx: endpoints.switch(tx, "a", shown["endpoint_id"], enabled=False))
    made, again = await database.unit(lambda tx: subscribe(tx, "a", fields(), BOX))
    assert (made, again["endpoint_id"], again["enabled"]) == (False, shown["endpoint_id"], True)


async def test_samples_are_the_latest_that_the_pattern_covers(database: Database) -> None:
    acceptor = Acceptor(432_000.0)
    types = ["order.created", "orders.created", "order.paid", "order", "order.created"]
    news = [NewEvent(each, f'{{"number":{n}}}') for n, each in enumerate(types)]
    await database.unit(lambda tx: acceptor.accept(tx, "a", [*news, news[0]]))
    await database.unit(lambda tx: acceptor.accept(tx, "b", [NewEvent("order.created", "{}")]))

    async def numbers(pattern: str) -> list[int]:
        found = await database.read(lambda tx: samples(tx, "a", pattern))
        assert all(each.id == each.event_id for each in found)
        return [each.payload["number"] for each in found]

    assert await numbers("order.*") == [0, 4, 2]
    assert await numbers("order.created") == [0, 4, 0]
    assert await numbers("order") == [3]
    assert await numbers("*") == [0, 4, 3]
    assert await numbers("order.c") == []

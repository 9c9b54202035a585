from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from penstock.errors import BadData
from penstock.events.accept import Accepted, NewEvent
from penstock.events.gather import Gatherer

pytestmark = pytest.mark.anyio


class Slow:
    """A database whose units end when the test says so; a refusing one fails whole units."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.units = 0

    async def unit(self, fn: Callable[[Any], Any]) -> Any:
        self.units += 1
        await self.go.wait()
        return fn(None)


class Store:
    """Accepts everything but events of the type `bad`."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []

    def accept(self, tx: Any, account: str, events: Sequence[NewEvent]) -> list[Accepted]:
        if any(event.event_type == "bad" for event in events):
            raise BadData("no")
        self.calls.append((account, [event.event_type for event in events]))
        return [Accepted(f"{account}:{event.event_type}", "") for event in events]


def _event(name: str) -> NewEvent:
    return NewEvent(name, "{}")


async def test_what_arrives_together_or_during_a_commit_is_stored_together() -> None:
    database, store = Slow(), Store()
    gatherer = Gatherer(database, store)  # type: ignore[arg-type]
    waves = []
    for wave in range(4):
        waves += [
            asyncio.create_task(gatherer.accept("b" if n % 2 else "a", _event(f"{wave}.{n}")))
            for n in range(3)
        ]
        await asyncio.sleep(0.01)
    assert database.units == 2
    database.go.set()
    answers = await asyncio.gather(*waves)
    assert [answer.event_id for answer in answers if isinstance(answer, Accepted)] == [
        f"{'b' if n % 2 else 'a'}:{wave}.{n}" for wave in range(4) for n in range(3)
    ]
    assert database.units == 3
    assert store.calls[:2] == [("a", ["0.0", "0.2"]), ("b", ["0.1"])]
    assert store.calls[4:] == [("a", ["2.0", "2.2", "3.0", "3.2"]), ("b", ["2.1", "3.1"])]


async def test_one_that_cannot_be_stored_fails_alone() -> None:
    database = Slow()
    database.go.set()
    gatherer = Gatherer(database, Store())  # type: ignore[arg-type]
    found = await asyncio.gather(
        *(gatherer.accept("a", _event(name)) for name in ("one", "bad", "two")),
        return_exceptions=True,
    )
    assert found[0] == Accepted("a:one", "")
    assert isinstance(found[1], BadData)
    assert found[2] == Accepted("a:two", "")


async def test_a_caller_that_gives_up_stops_nobody() -> None:
    database, store = Slow(), Store()
    gatherer = Gatherer(database, store)  # type: ignore[arg-type]
    first, second = (
        asyncio.create_task(gatherer.accept("a", _event(name))) for name in ("one", "two")
    )
    await asyncio.sleep(0.01)
    first.cancel()
    database.go.set()
    assert await second == Accepted("a:two", "")
    assert store.calls == [("a", ["one", "two"])]

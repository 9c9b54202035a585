"""Endpoints that fail for days, on both databases, and what is told of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.clock import ManualClock
from penstock.events import autodisable, endpoints, sign
from penstock.events.accept import Accepted, Acceptor, NewEvent
from penstock.events.http import Failure, Response
from penstock.events.policy import Policy
from penstock.events.push import delivery_kind
from penstock.secretbox import SecretBox
from penstock.storage import Database, Tx, sql
from penstock.work import ledger
from penstock.work.kinds import Claim, Task
from penstock.work.settlement import decide
from support.destinations import webhook

pytestmark = pytest.mark.anyio

BOX = SecretBox(["a key for the tests"])
OK = Response(200, {}, b"", None, 0.0)
NEVER = Response(404, {}, b"", None, 0.0)
LATER = Response(429, {}, b"", None, 0.0)
GONE = Response(410, {}, b"", None, 0.0)
NO_ANSWER = Failure("timeout", "no answer in time", None, 10.0)
DAY = 86400.0

SINCE = sql("SELECT failing_since_at FROM endpoints WHERE id = :id")
TOLD = sql("""
SELECT event_type, payload, account FROM events WHERE event_type LIKE 'endpoint.%' ORDER BY id
""")
TO = sql("""
SELECT e.event_type, d.endpoint_id FROM deliveries d JOIN events e ON e.id = d.event_id
WHERE e.event_type LIKE 'endpoint.%' ORDER BY e.id, d.endpoint_id
""")


class World:
    """The delivery kind as the service wires it, stepped by hand."""

    def __init__(self, database: Database, clock: ManualClock) -> None:
        self.database = database
        self.clock = clock
        self.acceptor = Acceptor(30 * DAY)
        self.answers: dict[str, Any] = {}
        self.wrote: list[str] = []
        self.kind = delivery_kind(
            clock=clock,
            box=BOX,
            destinations=webhook(self._send, clock),
            policy=Policy(expiry=30 * DAY),
            tell=self.acceptor.tell,
        )

    async def _send(self, url: str, body: bytes, headers: Any, timeout: float) -> Any:
        return self.answers.get(url[-1], OK)

    async def endpoint(self, name: str, *types: str, **fields: Any) -> str:
        defaults: dict[str, Any] = {
            "kind": "webhook",
            "target": f"https://example.com/{name}",
            "description": "",
            "event_types": list(types) or ["*"],
            "timeout": 7.0,
            "schedule": [3600.0] * 50,
            "on_permanent": "dead",
            "rate_limit": None,
            "max_in_flight": 32,
            "headers": None,
            "secret": BOX.seal(sign.generate_secret()),
        }
        return await self.database.unit(
            lambda tx: endpoints.create(tx, "default", **(defaults | fields))
        )

    async def accept(self, event_type: str = "a", n: int = 1) -> None:
        events = [NewEvent(event_type, "{}")] * n
        outcomes = await self.database.unit(lambda tx: self.acceptor.accept(tx, "default", events))
        assert all(isinstance(o, Accepted) for o in outcomes)

    async def claim(self) -> list[tuple[Claim, Any]]:
        def take(tx: Tx) -> Any:
            ids = [row[0] for row in tx.rows(sql("SELECT id FROM lanes ORDER BY id"))]
            claims = ledger.claim(tx, self.kind, 256, ids).claims
            loaded = self.kind.load(tx, claims) if claims else {}
            return [(c, loaded[c.id]) for c in claims]

        return await self.database.unit(take)

    async def finish(self, claimed: list[tuple[Claim, Any]]) -> None:
        outcomes = [
            decide(self.kind, c, await self.kind.handle(Task(c, data, 60.0)), self.clock.now())
            for c, data in claimed
        ]
        await self.database.unit(lambda tx: ledger.settle(tx, self.kind, outcomes))

    async def push(self) -> int:
        total = 0
        while claimed := await self.claim():
            total += len(claimed)
            await self.finish(claimed)
        return total

    async def since(self, endpoint_id: str) -> int | None:
        row = await self.database.read(lambda tx: tx.one(SINCE, id=endpoint_id))
        assert row is not None
        return row[0]

    async def view(self, endpoint_id: str) -> tuple[bool, str | None]:
        found = await self.database.read(lambda tx: endpoints.get(tx, "default", endpoint_id, BOX))
        return found["enabled"], found["disabled_reason"]

    async def told(self) -> list[tuple[str, dict[str, Any]]]:
        rows = await self.database.read(lambda tx: tx.rows(TOLD))
        return [(type_, json.loads(payload)) for type_, payload, _ in rows]

    async def told_to(self) -> list[tuple[str, str]]:
        return await self.database.read(lambda tx: tx.rows(TO))  # type: ignore[return-value]


@pytest.fixture
def world(database: Database, clock: ManualClock) -> World:
    return World(database, clock)


async def test_failure_is_remembered_from_its_first_attempt_to_the_next_success(
    world: World, clock: ManualClock
) -> None:
    mine = await world.endpoint("a")
    await world.accept()
    await world.push()
    assert await world.since(mine) is None
    world.answers["a"] = LATER
    clock.advance(60)
    began = clock.now()
    await world.accept(n=3)
    await world.push()
    assert await world.since(mine) == began
    clock.advance(2 * DAY)
    await world.push()
    assert await world.since(mine) == began
    world.answers["a"] = OK
    clock.advance(DAY)
    await world.push()
    assert await world.since(mine) is None
    assert await world.view(mine) == (True, None)


async def test_nothing_but_failure_for_five_days_disables(world: World, clock: ManualClock) -> None:
    mine = await world.endpoint("a")
    watcher = await world.endpoint("b", "endpoint.*")
    await world.endpoint("c", "*")
    exact = await world.endpoint("d", "endpoint.disabled", "x")
    world.answers["a"] = NEVER
    await world.accept("a")
    await world.push()
    clock.advance(5 * DAY - 1)
    await world.accept("a")
    await world.push()
    assert await world.view(mine) == (True, None)
    clock.advance(2)
    await world.accept("a", n=3)
    await world.push()
    assert await world.view(mine) == (False, "failing")
    ((event_type, payload),) = await world.told()
    assert event_type == autodisable.DISABLED
    assert payload == {
        "endpoint_id": mine,
        "target": "https://example.com/a",
        "reason": "failing",
    }
    assert await world.told_to() == [(event_type, e) for e in sorted([watcher, exact])]
    await world.accept("a")
    assert await world.push() >= 1  # the others', but nothing to the disabled one
    assert len(await world.told()) == 1


async def test_a_success_in_between_starts_the_days_anew(world: World, clock: ManualClock) -> None:
    mine = await world.endpoint("a")
    for day in range(12):
        world.answers["a"] = OK if day == 4 else NEVER
        await world.accept()
        await world.push()
        expected = (True, None) if day <= 9 else (False, "failing")
        assert await world.view(mine) == expected, day
        clock.advance(DAY)


async def test_a_success_that_was_on_its_way_saves_the_endpoint(
    world: World, clock: ManualClock
) -> None:
    mine = await world.endpoint("a")
    world.answers["a"] = NEVER
    await world.accept()
    await world.push()
    clock.advance(6 * DAY)
    await world.accept(n=2)
    first, second = await world.claim()
    world.answers["a"] = OK
    await world.finish([first])
    world.answers["a"] = NEVER
    await world.finish([second])
    assert await world.view(mine) == (True, None)


async def test_enabling_or_a_new_target_starts_the_days_anew(
    world: World, clock: ManualClock
) -> None:
    mine = await world.endpoint("a")
    world.answers["a"] = NEVER
    for _ in range(2):
        await world.accept()
        await world.push()
        clock.advance(5 * DAY)
    await world.accept()
    await world.push()
    assert await world.view(mine) == (False, "failing")
    await world.database.unit(lambda tx: endpoints.switch(tx, "default", mine, enabled=True))
    await world.accept()
    await world.push()
    assert await world.view(mine) == (True, None)
    clock.advance(4 * DAY)
    target = {"target": "https://example.com/new/a"}
    await world.database.unit(lambda tx: endpoints.change(tx, "default", mine, target))
    clock.advance(2 * DAY)
    await world.accept()
    await world.push()
    assert await world.view(mine) == (True, None)
    changed = {"description": "still failing"}
    await world.database.unit(lambda tx: endpoints.change(tx, "default", mine, changed))
    clock.advance(5 * DAY)
    await world.accept()
    await world.push()
    assert await world.view(mine) == (False, "failing")
    assert len(await world.told()) == 2


class Spy:
    """A transaction that remembers what it was asked to do."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self.asked: list[str] = []
        self.ids: list[str] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._tx, name)
        if name not in ("rows", "one", "run"):
            return found

        def ask(statement: Any, **params: Any) -> Any:
            self.asked.append(repr(statement))
            self.ids.append(params.get("id", ""))
            return found(statement, **params)

        return ask


async def test_a_healthy_endpoint_is_neither_read_nor_written_to_when_it_answers(
    world: World,
) -> None:
    await world.endpoint("a")
    await world.accept(n=5)
    outcomes = [
        decide(world.kind, c, await world.kind.handle(Task(c, data, 60.0)), world.clock.now())
        for c, data in await world.claim()
    ]

    def settle(tx: Tx) -> list[str]:
        spy: Any = Spy(tx)
        assert len(ledger.settle(spy, world.kind, outcomes)) == 5
        return list(spy.asked)

    asked = await world.database.unit(settle)
    assert len(asked) > 5
    assert [statement for statement in asked if "endpoints" in statement] == []


async def test_endpoints_in_trouble_are_written_in_the_order_of_their_ids(world: World) -> None:
    # Two workers that settled deliveries of the same endpoints would else wait for each other.
    a, b = await world.endpoint("a", "a"), await world.endpoint("b", "b")
    world.answers |= {"a": NO_ANSWER, "b": NO_ANSWER}
    for event_type in ("b", "a", "b"):  # deliveries are settled in the order of theirs
        await world.accept(event_type)
    claimed = sorted(await world.claim(), key=lambda each: each[0].id)
    assert [data.receiver.id for _, data in claimed] == [b, a, b]
    outcomes = [
        decide(world.kind, c, await world.kind.handle(Task(c, data, 60.0)), world.clock.now())
        for c, data in claimed
    ]

    def settle(tx: Tx) -> list[str]:
        spy: Any = Spy(tx)
        assert len(ledger.settle(spy, world.kind, outcomes)) == 3
        return [
            id_
            for statement, id_ in zip(spy.asked, spy.ids, strict=True)
            if "UPDATE endpoints" in statement
        ]

    assert await world.database.unit(settle) == [a, b, b]


async def test_410_is_told_once(world: World) -> None:
    mine = await world.endpoint("a")
    watcher = await world.endpoint("b", "endpoint.disabled")
    world.answers["a"] = GONE
    await world.accept(n=3)
    await world.push()
    assert await world.view(mine) == (False, "gone")
    ((event_type, payload),) = await world.told()
    assert (event_type, payload["reason"]) == ("endpoint.disabled", "gone")
    assert await world.told_to() == [(event_type, watcher)]


async def test_circuits_are_told_when_they_open_and_close(world: World, clock: ManualClock) -> None:
    mine = await world.endpoint("a", "a", "endpoint.*")
    watcher = await world.endpoint("b", "endpoint.*")
    world.answers["a"] = NO_ANSWER
    await world.accept("a", n=10)
    await world.push()
    ((event_type, payload),) = await world.told()
    assert event_type == "endpoint.circuit_opened"
    assert payload["endpoint_id"] == mine
    assert payload["seconds"] > 0
    for _ in range(3):  # probes that fail are not told
        clock.advance(7200)
        await world.push()
    assert len(await world.told()) == 1
    world.answers["a"] = OK
    clock.advance(7200)
    await world.push()
    assert [type_ for type_, _ in await world.told()] == [
        "endpoint.circuit_opened",
        "endpoint.circuit_closed",
    ]
    # Never to the one that it is about, although it asked for the type.
    assert {endpoint for _, endpoint in await world.told_to()} == {watcher}


async def test_endpoints_that_fail_together_do_not_tell_each_other(
    world: World, clock: ManualClock
) -> None:
    for n in range(8):
        await world.endpoint(str(n))
        world.answers[str(n)] = NO_ANSWER
    await world.accept("a", n=10)
    await world.push()
    assert len(await world.told()) == 8
    assert await world.told_to() == []
    for _ in range(5):
        clock.advance(7200)
        await world.push()
    assert len(await world.told()) == 8


async def test_a_transition_whose_settlement_is_undone_is_not_told(world: World) -> None:
    await world.endpoint("a")
    world.answers["a"] = NO_ANSWER
    await world.accept("a", n=10)
    claimed = await world.claim()
    outcomes = [
        decide(world.kind, c, await world.kind.handle(Task(c, data, 60.0)), world.clock.now())
        for c, data in claimed
    ]

    def fail(tx: Tx) -> None:
        ledger.settle(tx, world.kind, outcomes)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await world.database.unit(fail)
    assert await world.told() == []
    await world.database.unit(lambda tx: ledger.settle(tx, world.kind, outcomes))
    assert len(await world.told()) == 1

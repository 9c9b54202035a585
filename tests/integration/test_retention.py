"""Deleting: one event, what is old, and everything of an account, on both databases."""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.clock import ManualClock, SystemClock
from penstock.errors import NotFound
from penstock.events import endpoints, erase, retention, sign
from penstock.events.accept import Accepted, Acceptor, NewEvent
from penstock.events.http import Response
from penstock.events.policy import Policy
from penstock.events.push import delivery_kind
from penstock.events.replays import create
from penstock.jobs import store
from penstock.secretbox import SecretBox
from penstock.settings import load_settings
from penstock.storage import Database, Tx, sql
from penstock.storage import retention as deleting
from penstock.storage.sqlite import SqliteDatabase
from penstock.storage.tables import metadata
from penstock.upkeep import erase as erase_account
from penstock.upkeep import prune
from penstock.work import circuit, lanes, ledger
from penstock.work.kinds import Task
from penstock.work.settlement import decide
from support import counters
from support.destinations import webhook

pytestmark = pytest.mark.anyio

BOX = SecretBox(["a key for the tests"])
OK = Response(200, {}, b"", None, 0.0)
NEVER = Response(404, {}, b"", None, 0.0)
DAY = 86400.0
KEEP = 30 * DAY

EVENTS = sql("SELECT id FROM events ORDER BY id")
JOB = sql("""
INSERT INTO jobs (id, account, name, args, status, created_at, finished_at, lane)
VALUES (:id, :account, 'n', '[]', :status, {now}, {now}, :lane)
""")
KEY = sql("""
INSERT INTO api_keys (id, account, name, hash, hint, scopes, created_at)
VALUES (:id, :account, 'k', :id, 'x', '*', {now})
""")
CIRCUIT = sql("""
INSERT INTO circuit_log (id, lane, at, state, reason, actor)
VALUES (:id, :lane, {now}, 'open', 'r', 'a')
""")
MANY_EVENTS = sql(
    sqlite="""
INSERT INTO events (id, account, event_type, payload, status, created_at, open_deliveries,
                    delivery_attempts)
SELECT 'evt_old' || printf('%08d', value), 'default', 'a', '{}', 'delivered', {now}, 0, 1
FROM (WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < :n)
      SELECT value FROM n) AS numbers
""",
    postgres="""
INSERT INTO events (id, account, event_type, payload, status, created_at, open_deliveries,
                    delivery_attempts)
SELECT 'evt_old' || lpad(value::text, 8, '0'), 'default', 'a', '{{}}', 'delivered', {now}, 0, 1
FROM generate_series(1, :n) AS numbers(value)
""".replace("{{}}", "{}"),
)
MANY_DELIVERIES = sql("""
INSERT INTO deliveries (id, account, event_id, endpoint_id, status, created_at, expires_at, lane,
                        finished_at, attempts)
SELECT 'dlv' || id, account, id, 'end_old', 'delivered', {now}, {now}, 'delivery:end_old', {now}, 1
FROM events WHERE id LIKE 'evt_old%'
""")
MANY_ATTEMPTS = sql("""
INSERT INTO attempts (delivery_id, number, started_at, duration)
SELECT id, 1, {now}, 0.1 FROM deliveries WHERE endpoint_id = 'end_old'
""")


class World:
    """Deliveries on a database, stepped by hand."""

    def __init__(self, database: Database, clock: ManualClock) -> None:
        self.database = database
        self.clock = clock
        self.acceptor = Acceptor(5 * DAY)
        self.answer: Any = OK
        self.kind = delivery_kind(
            clock=clock, box=BOX, destinations=webhook(self._send, clock), policy=Policy()
        )

    async def _send(self, url: str, body: bytes, headers: Any, timeout: float) -> Any:
        return self.answer(url) if callable(self.answer) else self.answer

    async def endpoint(self, account: str = "default", **fields: Any) -> str:
        defaults: dict[str, Any] = {
            "kind": "webhook",
            "target": "https://example.com/hook",
            "description": "",
            "event_types": ["*"],
            "timeout": 7.0,
            "schedule": None,
            "on_permanent": "dead",
            "rate_limit": None,
            "max_in_flight": 32,
            "headers": None,
            "secret": BOX.seal(sign.generate_secret()),
        }
        return await self.database.unit(
            lambda tx: endpoints.create(tx, account, **(defaults | fields))
        )

    async def accept(self, n: int = 1, account: str = "default", **fields: Any) -> list[str]:
        events = [NewEvent("a", "{}", **fields) for _ in range(n)]
        outcomes = await self.database.unit(lambda tx: self.acceptor.accept(tx, account, events))
        return [o.event_id for o in outcomes if isinstance(o, Accepted)]

    async def claim(self) -> Any:
        def take(tx: Tx) -> Any:
            ids = [row[0] for row in tx.rows(sql("SELECT id FROM lanes ORDER BY id"))]
            claims = ledger.claim(tx, self.kind, 256, ids).claims
            return claims, dict(self.kind.load(tx, claims)) if claims else {}

        return await self.database.unit(take)

    async def finish(self, claims: Any, loaded: Any) -> int:
        outcomes = [
            decide(self.kind, c, await self.kind.handle(Task(c, loaded[c.id], 60.0)), 0)
            for c in claims
        ]
        return len(await self.database.unit(lambda tx: ledger.settle(tx, self.kind, outcomes)))

    async def push(self) -> int:
        total = 0
        while (claimed := await self.claim())[0]:
            total += await self.finish(*claimed)
        return total

    async def prune(self, step: Callable[[], None] = lambda: None) -> int:
        """`step` is called as each transaction begins and ends."""
        rule = next(rule for rule in retention.rules(KEEP) if rule.name == "events")

        def delete(tx: Tx, after: Any) -> Any:
            step()
            found = rule.delete(tx, after)
            step()
            return found

        expected = await self.database.read(rule.count)
        pruned = await deleting.apply(self.database, replace(rule, delete=delete))
        assert pruned == expected
        return pruned

    async def events(self) -> list[str]:
        return [id_ for (id_,) in await self.database.read(lambda tx: tx.rows(EVENTS))]

    async def counts(self, *tables: str) -> dict[str, int]:
        def count(tx: Tx) -> dict[str, int]:
            return {
                name: tx.rows(sql(f"SELECT count(*) FROM {name}"))[0][0]
                for name in tables or metadata.tables
            }

        return await self.database.read(count)


@pytest.fixture
def world(database: Database, clock: ManualClock) -> World:
    return World(database, clock)


# ------------------------------------------------------------------ one event


async def test_an_event_is_deleted_with_all_it_has(world: World) -> None:
    await world.endpoint()
    doomed, kept = await world.accept(2)
    world.answer = Response(503, {}, b"", None, 0.0)
    await world.push()
    for account, id_ in (("other", doomed), ("default", "evt_x")):
        with pytest.raises(NotFound):
            await world.database.unit(
                lambda tx, account=account, id_=id_: erase.delete_event(tx, account, id_)
            )
    await world.database.unit(lambda tx: erase.delete_event(tx, "default", doomed))
    assert await world.events() == [kept]
    assert await world.counts("deliveries", "attempts") == {"deliveries": 1, "attempts": 1}
    await counters.check(world.database)


async def test_what_is_being_sent_when_it_is_deleted_settles_nothing(world: World) -> None:
    await world.endpoint()
    (doomed,) = await world.accept()
    claims, loaded = await world.claim()
    await world.database.unit(lambda tx: erase.delete_event(tx, "default", doomed))
    assert await world.finish(claims, loaded) == 0
    assert await world.counts("events", "deliveries", "attempts") == {
        "events": 0,
        "deliveries": 0,
        "attempts": 0,
    }


@pytest.mark.parametrize("on_dead", ["continue", "halt"])
async def test_behind_a_deleted_event_the_next_one_is_called(world: World, on_dead: str) -> None:
    await world.endpoint(on_dead=on_dead)
    first, second, third = await world.accept(3, ordering_key="k")
    if on_dead == "halt":
        world.answer = NEVER
        await world.push()
        world.answer = OK
    await world.database.unit(lambda tx: erase.delete_event(tx, "default", second))
    await world.database.unit(lambda tx: erase.delete_event(tx, "default", first))
    assert await world.push() == 1
    assert await world.events() == [third]
    await counters.check(world.database)


# ------------------------------------------------------------------ what is old


async def test_old_events_that_are_final_go_and_others_stay(
    world: World, clock: ManualClock
) -> None:
    await world.endpoint()
    await world.endpoint(target="https://example.com/dead")
    world.answer = lambda url: NEVER if url.endswith("dead") else OK
    old = await world.accept(3)
    await world.push()
    world.answer = Response(503, {}, b"", None, 0.0)
    (retried,) = await world.accept()
    await world.push()
    (nobody_has_it,) = await world.accept(account="empty")
    clock.advance(KEEP - 1)
    assert await world.prune() == 0
    clock.advance(2)
    (young,) = await world.accept()
    assert await world.prune() == 3
    left = await world.events()
    assert left == sorted([retried, nobody_has_it, young])
    assert set(old).isdisjoint(left)
    assert (await world.counts("deliveries"))["deliveries"] == 4
    assert (await world.counts("attempts"))["attempts"] == 2
    await counters.check(world.database)


async def test_an_event_that_a_queue_waits_for_stays(world: World, clock: ManualClock) -> None:
    await world.endpoint(on_dead="halt")
    head, waiting = await world.accept(2, ordering_key="k")
    world.answer = NEVER
    await world.push()
    clock.advance(KEEP * 2)
    assert await world.prune() == 0
    assert await world.events() == [head, waiting]
    await counters.check(world.database)


async def test_a_large_event_goes_in_parts(world: World, clock: ManualClock) -> None:
    for n in range(25):
        await world.endpoint(target=f"https://example.com/{n}", schedule=[0.0] * 45)
    world.answer = Response(429, {}, b"", None, 0.0)
    (big,) = await world.accept()
    for _ in range(50):
        await world.push()
        clock.advance(1)
    small = await world.accept(2)
    world.answer = OK
    await world.push()
    assert (await world.counts("attempts"))["attempts"] > 2 * deleting.BATCH
    clock.advance(KEEP + 1)
    largest = 0

    def step(tx: Tx, after: Any) -> Any:
        nonlocal largest
        before = _rows(tx)
        found = retention.prune_events(tx, KEEP, after)
        largest = max(largest, before - _rows(tx))
        return found

    rule = deleting.Rule("events", step, lambda tx: 0)
    assert await deleting.apply(world.database, rule) == 3
    assert await world.events() == []
    assert {big, *small}.isdisjoint(await world.events())
    assert largest <= 3 * deleting.BATCH


def _rows(tx: Tx) -> int:
    return sum(
        tx.rows(sql(f"SELECT count(*) FROM {name}"))[0][0]
        for name in ("events", "deliveries", "attempts")
    )


async def test_everything_else_that_is_old(world: World, clock: ManualClock) -> None:
    await world.endpoint()

    def fill(tx: Tx) -> None:
        for number, status in enumerate(("succeeded", "cancelled", "dead", "pending")):
            tx.run(JOB, id=f"job_{number}", account="default", status=status, lane="job:x")
        tx.run(CIRCUIT, id="cir_1", lane="x")

    await world.database.unit(fill)
    await world.accept(key="once")
    await world.accept(ordering_key="k")
    await world.push()
    replay = await create(world.database, "default")
    await world.database.unit(
        lambda tx: tx.run(
            sql("UPDATE replays SET status = 'done', finished_at = {now} WHERE id = :id"), id=replay
        )
    )
    rules = [
        *retention.rules(KEEP),
        deleting.Rule("jobs", deleting.batches(store.prune), store.prunable),
        deleting.Rule("circuits", deleting.batches(circuit.prune), circuit.prunable),
    ]

    async def prune() -> dict[str, int]:
        expected = {rule.name: await world.database.read(rule.count) for rule in rules}
        pruned = {rule.name: await deleting.apply(world.database, rule) for rule in rules}
        assert pruned == expected
        return {name: n for name, n in pruned.items() if n}

    assert await prune() == {"ordering keys": 1}
    clock.advance(DAY + 1)
    assert await prune() == {"idempotency keys": 1, "jobs": 2}
    clock.advance(KEEP)
    assert await prune() == {"events": 2, "replays": 1}
    clock.advance(60 * DAY)
    assert await prune() == {"circuits": 1}
    assert (await world.counts("jobs"))["jobs"] == 2  # the dead one and the one that is owed


async def test_accepts_are_not_held_up_by_a_prune_of_many(world: World, clock: ManualClock) -> None:
    def fill(tx: Tx) -> None:
        tx.run(MANY_EVENTS, n=20_000)
        tx.run(MANY_DELIVERIES)
        tx.run(MANY_ATTEMPTS)

    await world.database.unit(fill)
    clock.advance(KEEP + 1)
    await world.endpoint()
    await world.accept()

    steps = 0  # of the prune: what a busy machine holds up, it holds up as well

    def step() -> None:
        nonlocal steps
        steps += 1

    pruning = asyncio.create_task(world.prune(step))
    during: list[int] = []  # each accept: how far the prune came meanwhile
    while not pruning.done():
        before = steps
        await world.accept()
        during.append(steps - before)
        await asyncio.sleep(0.005)
    assert await pruning == 20_000
    assert steps >= 2 * 3 * 20_000 / deleting.BATCH
    # One transaction's worth of waiting, not the prune's.
    assert len(during) > 20
    assert statistics.median(during) < steps / 20
    assert max(during) < steps / 2


# ------------------------------------------------------------------ an account


async def test_everything_of_an_account_is_erased_and_nothing_of_others(
    world: World, clock: ManualClock
) -> None:
    for account in ("mine", "theirs"):
        await world.endpoint(account)
        await world.accept(3, account)
        await world.accept(1, account, key="once")
        await world.accept(2, account, ordering_key="k")
        world.answer = NEVER
        await world.push()
        await create(world.database, account)

        def fill(tx: Tx, account: str = account) -> None:
            lane = f"job:{account}:n"
            lanes.ensure(tx, lane, kind="job", account=account, max_in_flight=1)
            tx.run(JOB, id=f"job_{account}", account=account, status="dead", lane=lane)
            tx.run(KEY, id=f"key_{account}", account=account)
            tx.run(CIRCUIT, id=f"cir_{account}", lane=lane)

        await world.database.unit(fill)
    await world.accept(2, "mine")
    claims, loaded = await world.claim()
    full = await world.counts()
    found = await world.database.read(lambda tx: deleting.count(tx, "mine"))
    assert found["events"] == 8
    erased = await deleting.erase(world.database, "mine")
    assert {name: erased[name] for name in found if name != "deliveries"} == {
        name: n for name, n in found.items() if name != "deliveries"
    }
    world.answer = OK
    assert await world.finish(claims, loaded) == 0
    left = await world.counts()
    for name in ("events", "deliveries", "endpoints", "jobs", "api_keys", "lanes", "accounts",
                 "replays", "idempotency_keys", "order_heads", "circuit_log"):  # fmt: skip
        assert left[name] < full[name], name
        assert left[name] > 0, name
    dump = await world.database.read(_everything)
    assert "mine" not in dump
    assert "theirs" in dump
    await counters.check(world.database)
    assert await deleting.erase(world.database, "mine") == {}


def _everything(tx: Tx) -> str:
    return json.dumps(
        [tx.rows(sql(f"SELECT * FROM {name}")) for name in metadata.tables],
        default=repr,
    )


async def test_every_table_of_accounts_is_erased() -> None:
    """A table that is added later is found by itself; one without an account must be thought of."""
    known = {table.name for table in deleting._owned()} | set(deleting._BY_EVENT)
    indirect = {"order_heads", "circuit_log", "accounts", "scans"}
    with_imports = {"shipment_import_parts", "shipment_import_errors"}
    with_predictions = {"prediction_chunks", "prediction_outcomes", "model_promotions"}
    nobodys = {"leaders", "crons", "doomed_objects"}
    thought_of = known | indirect | with_imports | with_predictions | nobodys
    assert set(metadata.tables) - thought_of == set()


async def test_the_commands_work_beside_a_server_that_runs(sqlite_path: Path) -> None:
    clock = SystemClock()
    server = SqliteDatabase(sqlite_path, clock)
    await server.open()
    try:
        acceptor = Acceptor(5 * DAY)
        new = [NewEvent("a", "{}", key="k")]
        await server.unit(lambda tx: acceptor.accept(tx, "shop", new))
        settings = load_settings(data_dir=sqlite_path.parent)
        counted = await prune(settings, dry_run=True)
        assert counted == await prune(settings, dry_run=False)
        assert {"events", "jobs", "circuit transitions"} < set(counted)
        assert set(counted.values()) == {0}
        found = await erase_account(settings, "shop", dry_run=True)
        assert found == {"events": 1, "idempotency_keys": 1}
        assert await erase_account(settings, "shop", dry_run=False) == found
        assert await server.read(lambda tx: tx.rows(EVENTS)) == []
    finally:
        await server.close()


def test_erasing_wants_to_be_told_twice(sqlite_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_DATA_DIR", str(sqlite_path.parent))
    run = CliRunner().invoke
    assert run(app, ["erase", "--account", "shop"]).exit_code == 0  # there is nothing
    database = SqliteDatabase(sqlite_path, SystemClock())

    async def fill() -> None:
        await database.open()
        await database.unit(lambda tx: tx.run(KEY, id="key_1", account="shop"))
        await database.close()

    asyncio.run(fill())
    refused = run(app, ["erase", "--account", "shop"])
    assert refused.exit_code == 2
    assert "api_keys" in refused.stdout
    done = run(app, ["erase", "--account", "shop", "--yes", "--json"])
    assert (done.exit_code, json.loads(done.stdout)) == (
        0,
        {"account": "shop", "erased": {"api_keys": 1}},
    )
    pruned = run(app, ["prune", "--dry-run", "--json"])
    assert json.loads(pruned.stdout)["dry_run"] is True

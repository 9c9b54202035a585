"""Accepting events on both databases: one transaction, one event per key, fan-out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from penstock.clock import SECOND, ManualClock
from penstock.errors import NotFound, Refused, StorageError
from penstock.events import endpoints, fanout, query
from penstock.events.accept import Accepted, Acceptor, NewEvent
from penstock.events.dead import DEAD_FANOUTS
from penstock.events.settled import ENDPOINT_DELETED
from penstock.secretbox import SecretBox
from penstock.storage import Database, Tx, sql
from penstock.work import care, ledger
from penstock.work.care import Wanted
from penstock.work.kinds import AnyKind, Task
from penstock.work.outcomes import Dead
from penstock.work.settlement import decide
from penstock.work.wakeups import Wake

pytestmark = pytest.mark.anyio

EXPIRY = 432_000.0
BOX = SecretBox(["a key for the tests"])
DELIVERIES = sql("""
SELECT endpoint_id, status, lane, due_at, expires_at, generation, attempts
FROM deliveries WHERE event_id = :id ORDER BY endpoint_id
""")
COUNTS = sql("SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM deliveries)")
EVENT = sql("""
SELECT status, open_deliveries, dead_deliveries, delivered_at FROM events WHERE id = :id
""")


async def add(database: Database, account: str = "default", **fields: Any) -> str:
    defaults: dict[str, Any] = {
        "kind": "webhook",
        "target": "https://example.com/",
        "description": "",
        "event_types": ["*"],
        "timeout": 10.0,
        "schedule": None,
        "on_permanent": "long",
        "rate_limit": None,
        "max_in_flight": 32,
        "headers": None,
        "secret": BOX.seal("whsec_" + "A" * 43 + "="),
    }
    return await database.unit(lambda tx: endpoints.create(tx, account, **(defaults | fields)))


async def accept(
    database: Database, acceptor: Acceptor, *events: NewEvent, account: str = "default"
) -> list[Accepted | Refused]:
    return await database.unit(lambda tx: acceptor.accept(tx, account, events))


def stored(outcome: Accepted | Refused) -> Accepted:
    assert isinstance(outcome, Accepted)
    return outcome


async def rows(database: Database, statement: Any, **params: Any) -> list[tuple[Any, ...]]:
    return await database.read(lambda tx: tx.rows(statement, **params))


def keyed(key: str, body: str = "{}") -> NewEvent:
    return NewEvent("a", body, key=key, fingerprint=body)


async def test_an_event_is_stored_with_its_deliveries_and_wakes_their_lanes(
    database: Database, clock: ManualClock
) -> None:
    first = await add(database, event_types=["order.*"])
    await add(database, event_types=["user.*"])
    other = await add(database, account="other")
    disabled = await add(database)
    await database.unit(lambda tx: endpoints.switch(tx, "default", disabled, enabled=False))
    notes: list[object] = []
    database.subscribe(notes.extend)
    acceptor = Acceptor(EXPIRY)
    (outcome,) = await accept(database, acceptor, NewEvent("order.created", '{"a":1}'))
    answer = json.loads(stored(outcome).answer)
    assert [d["endpoint_id"] for d in answer["deliveries"]] == [first, disabled]
    assert (answer["status"], answer["delivery_attempts"]) == ("pending", 0)
    now = clock.now()
    assert await rows(database, DELIVERIES, id=answer["event_id"]) == [
        (e, "pending", f"delivery:{e}", now, now + int(EXPIRY) * SECOND, 0, 0)
        for e in (first, disabled)
    ]
    assert {n.lane for n in notes if isinstance(n, Wake)} == {
        f"delivery:{first}",
        f"delivery:{disabled}",
    }
    assert await rows(database, EVENT, id=answer["event_id"]) == [("pending", 2, 0, None)]
    view, tried = await database.read(lambda tx: query.summary(tx, "default", answer["event_id"]))
    assert view == answer
    assert not tried
    assert other not in str(answer)


async def test_an_event_that_nobody_wants_is_kept(database: Database) -> None:
    (outcome,) = await accept(database, Acceptor(EXPIRY), NewEvent("a", "{}"))
    view, tried = await database.read(
        lambda tx: query.summary(tx, "default", stored(outcome).event_id)
    )
    assert (view["status"], view["deliveries"], tried) == ("pending", [], True)


async def test_deliver_at_delays_the_deliveries_and_their_expiry(
    database: Database, clock: ManualClock
) -> None:
    await add(database)
    later = clock.now() + 3600 * SECOND
    notes: list[object] = []
    database.subscribe(notes.extend)
    (outcome,) = await accept(database, Acceptor(EXPIRY), NewEvent("a", "{}", deliver_at=later))
    (row,) = await rows(database, DELIVERIES, id=stored(outcome).event_id)
    assert row[3:5] == (later, later + int(EXPIRY) * SECOND)
    assert [n.delay for n in notes if isinstance(n, Wake)] == [3600.0]


async def test_every_change_to_endpoints_is_seen_by_the_next_accept(database: Database) -> None:
    acceptor = Acceptor(EXPIRY)

    async def reached() -> list[str]:
        (outcome,) = await accept(database, acceptor, NewEvent("a", "{}"))
        return [d["endpoint_id"] for d in json.loads(stored(outcome).answer)["deliveries"]]

    assert await reached() == []
    one = await add(database)
    assert await reached() == [one]
    two = await add(database, event_types=["b"])
    assert await reached() == [one]
    await database.unit(lambda tx: endpoints.change(tx, "default", two, {"event_types": ["a"]}))
    assert await reached() == [one, two]
    await database.unit(lambda tx: endpoints.delete(tx, "default", one))
    assert await reached() == [two]


async def test_a_version_seen_in_a_failed_unit_does_not_come_back_with_other_content(
    database: Database, clock: ManualClock
) -> None:
    acceptor = Acceptor(EXPIRY)

    def create_accept_and_fail(tx: Tx) -> None:
        endpoints.create(
            tx, "default", kind="webhook", target="https://lost.example/", description="",
            event_types=["*"], timeout=10.0, schedule=None, on_permanent="long",
            rate_limit=None, max_in_flight=1, headers=None, secret="",
        )  # fmt: skip
        acceptor.accept(tx, "default", [NewEvent("a", "{}")])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.unit(create_accept_and_fail)
    clock.advance(0.001)
    one = await add(database)
    (outcome,) = await accept(database, acceptor, NewEvent("a", "{}"))
    assert [d["endpoint_id"] for d in json.loads(stored(outcome).answer)["deliveries"]] == [one]


# -- idempotency


async def test_thirty_two_posts_under_one_key_make_one_event(database: Database) -> None:
    await add(database)
    acceptor = Acceptor(EXPIRY)
    outcomes = await asyncio.gather(*(accept(database, acceptor, keyed("k")) for _ in range(32)))
    answers = {stored(outcome).answer for (outcome,) in outcomes}
    assert len(answers) == 1
    assert [stored(outcome).replayed for (outcome,) in outcomes].count(False) == 1
    assert await rows(database, COUNTS) == [(1, 1)]


async def test_another_body_under_a_key_is_refused_and_stores_nothing(database: Database) -> None:
    acceptor = Acceptor(EXPIRY)
    await accept(database, acceptor, keyed("k"))
    (outcome,) = await accept(database, acceptor, keyed("k", '{"a":1}'))
    assert isinstance(outcome, Refused)
    assert outcome.code == "idempotency_key_reused"
    (elsewhere,) = await accept(database, acceptor, keyed("k", '{"a":1}'), account="other")
    assert not stored(elsewhere).replayed
    assert await rows(database, COUNTS) == [(2, 0)]


async def test_a_key_is_free_again_after_a_day(database: Database, clock: ManualClock) -> None:
    acceptor = Acceptor(EXPIRY)
    (first,) = await accept(database, acceptor, keyed("k"))
    clock.advance(24 * 3600 - 1)
    (second,) = await accept(database, acceptor, keyed("k"))
    assert stored(second).event_id == stored(first).event_id
    clock.advance(1)
    outcomes = await asyncio.gather(
        *(accept(database, acceptor, keyed("k", '{"new":1}')) for _ in range(8))
    )
    ids = {stored(outcome).event_id for (outcome,) in outcomes}
    assert len(ids) == 1
    assert stored(first).event_id not in ids


async def test_a_batch_has_an_outcome_for_each_item(database: Database) -> None:
    await add(database)
    acceptor = Acceptor(EXPIRY)
    await accept(database, acceptor, keyed("old"))
    outcomes = await accept(
        database,
        acceptor,
        NewEvent("a", "{}"),
        keyed("old", '{"other":1}'),
        keyed("old"),
        keyed("twice"),
        keyed("twice"),
        keyed("twice", '{"other":1}'),
    )
    assert [isinstance(o, Refused) for o in outcomes] == [False, True, False, False, False, True]
    assert [o.replayed for o in outcomes if isinstance(o, Accepted)] == [False, True, False, True]
    assert await rows(database, COUNTS) == [(3, 3)]


async def test_what_fails_to_be_stored_leaves_no_key_behind(database: Database) -> None:
    acceptor = Acceptor(EXPIRY)
    bad = NewEvent(None, "{}", key="k", fingerprint="{}")  # type: ignore[arg-type]
    with pytest.raises((StorageError, AttributeError, TypeError)):
        await accept(database, acceptor, bad)
    (outcome,) = await accept(database, acceptor, keyed("k"))
    assert not stored(outcome).replayed


async def test_a_fact_is_emitted_once(database: Database) -> None:
    await add(database, event_types=["shipment.*"])
    acceptor = Acceptor(EXPIRY)

    def emit(tx: Tx, payload: Mapping[str, Any], key: str = "s1:delivered") -> None:
        acceptor.emit(tx, "default", "shipment.delivered", payload, key)

    await asyncio.gather(*(database.unit(lambda tx: emit(tx, {"n": 1})) for _ in range(8)))
    await database.unit(lambda tx: emit(tx, {"n": 2}))
    assert await rows(database, COUNTS) == [(1, 1)]
    await database.unit(lambda tx: emit(tx, {"n": 1}, "s2:delivered"))
    assert await rows(database, COUNTS) == [(2, 2)]


# -- fan-out


async def work(database: Database, kind: AnyKind, lane: str) -> int:
    """Claim, handle and settle what is due in the lane once; answers how many rows."""

    def take(tx: Tx) -> tuple[Sequence[Any], Mapping[str, Any]]:
        claims = ledger.claim(tx, kind, 10, [lane]).claims
        return claims, kind.load(tx, claims) if claims else {}

    claims, loaded = await database.unit(take)
    for claim in claims:
        outcome = await kind.handle(Task(claim, loaded[claim.id], 10))
        settlement = decide(kind, claim, outcome, 0)
        settled = await database.unit(
            lambda tx, settlement=settlement: ledger.settle(tx, kind, [settlement])  # type: ignore[misc]
        )
        assert len(settled) == 1
    return len(claims)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "CHUNK", 10)


@pytest.mark.usefixtures("small_chunks")
async def test_many_endpoints_are_reached_by_work_of_its_own(
    database: Database, clock: ManualClock
) -> None:
    ids = [await add(database, event_types=["a"]) for _ in range(26)]
    await add(database, event_types=["b"])
    acceptor = Acceptor(EXPIRY)
    (outcome,) = await accept(database, acceptor, NewEvent("a", "{}"))
    event_id = stored(outcome).event_id
    assert json.loads(stored(outcome).answer)["deliveries"] == []
    assert await rows(database, EVENT, id=event_id) == [("pending", 1, 0, None)]
    clock.advance(1)
    await add(database, event_types=["a"])  # too late for this event
    kind = fanout.fanout_kind(EXPIRY)
    steps = 0
    while await work(database, kind, "fanout:default"):
        steps += 1
        view, tried = await database.read(lambda tx: query.summary(tx, "default", event_id))
        assert view["status"] == "pending"
        assert not tried
    assert steps == 3
    assert [r[0] for r in await rows(database, DELIVERIES, id=event_id)] == ids
    assert await rows(database, EVENT, id=event_id) == [("pending", 26, 0, None)]


@pytest.mark.usefixtures("small_chunks")
async def test_a_fanout_that_died_halfway_goes_on_where_it_was(
    database: Database, clock: ManualClock
) -> None:
    for _ in range(26):
        await add(database)
    (outcome,) = await accept(database, Acceptor(EXPIRY), NewEvent("a", "{}"))
    kind = fanout.fanout_kind(EXPIRY)
    await work(database, kind, "fanout:default")
    await database.unit(lambda tx: ledger.claim(tx, kind, 1, ["fanout:default"]))  # then it died
    clock.advance(61)
    assert len(await database.unit(lambda tx: ledger.sweep(tx, kind))) == 1
    while await work(database, kind, "fanout:default"):
        pass
    found = await rows(database, DELIVERIES, id=stored(outcome).event_id)
    assert len({r[0] for r in found}) == len(found) == 26
    assert await rows(database, EVENT, id=stored(outcome).event_id) == [("pending", 26, 0, None)]


async def test_a_fanout_that_gave_up_goes_on_when_somebody_says_so(
    small_chunks: None, database: Database, clock: ManualClock
) -> None:
    for _ in range(26):
        await add(database)
    kind = fanout.fanout_kind(EXPIRY)
    (outcome,) = await accept(database, Acceptor(EXPIRY), NewEvent("a", "{}"))
    event_id = stored(outcome).event_id
    await work(database, kind, "fanout:default")
    assert await rows(database, EVENT, id=event_id) == [("pending", 11, 0, None)]
    for _ in range(ledger.MAX_LAPSES):  # whoever takes it dies
        await database.unit(lambda tx: ledger.claim(tx, kind, 1, ["fanout:default"]))
        clock.advance(61)
        await database.unit(lambda tx: ledger.sweep(tx, kind))
    assert (await rows(database, EVENT, id=event_id))[0][1:3] == (10, 1)
    (dead,), _ = await database.read(
        lambda tx: care.page(tx, DEAD_FANOUTS, "default", Wanted(), None, 5)
    )
    assert (dead["id"], dead["about"], dead["title"]) == (event_id, event_id, "a → its endpoints")
    assert dead["died_at"] > dead["created_at"]
    moved = await database.unit(lambda tx: DEAD_FANOUTS.redrive(tx, "default", [event_id]))
    assert moved == 1
    assert await rows(database, EVENT, id=event_id) == [("pending", 11, 0, None)]
    while await work(database, kind, "fanout:default"):
        pass
    assert len(await rows(database, DELIVERIES, id=event_id)) == 26
    assert await rows(database, EVENT, id=event_id) == [("pending", 26, 0, None)]
    for move in (DEAD_FANOUTS.redrive, DEAD_FANOUTS.drop):  # it is dead no more
        assert await database.unit(lambda tx, move=move: move(tx, "default", [event_id])) == 0  # type: ignore[misc]


async def test_a_fanout_that_is_dropped_leaves_what_it_made(
    small_chunks: None, database: Database
) -> None:
    for _ in range(26):
        await add(database)
    kind = fanout.fanout_kind(EXPIRY)
    (outcome,) = await accept(database, Acceptor(EXPIRY), NewEvent("a", "{}"))
    event_id = stored(outcome).event_id
    await work(database, kind, "fanout:default")
    claims = await database.unit(lambda tx: ledger.claim(tx, kind, 1, ["fanout:default"]).claims)
    settlement = decide(kind, claims[0], Dead("no way"), 0)
    await database.unit(lambda tx: ledger.settle(tx, kind, [settlement]))
    assert (await rows(database, EVENT, id=event_id))[0][1:3] == (10, 1)
    for account, moved in (("other", 0), ("default", 1), ("default", 0)):
        found = await database.unit(lambda tx, a=account: DEAD_FANOUTS.drop(tx, a, [event_id]))  # type: ignore[misc]
        assert found == moved
    assert (await rows(database, EVENT, id=event_id))[0][1:3] == (10, 0)
    assert len(await rows(database, DELIVERIES, id=event_id)) == 10
    assert await work(database, kind, "fanout:default") == 0


async def test_a_fanout_to_endpoints_that_were_all_deleted_ends(database: Database) -> None:
    ids = [await add(database) for _ in range(26)]
    (outcome,) = await accept(database, Acceptor(EXPIRY), NewEvent("a", "{}"))
    for id_ in ids:
        await database.unit(lambda tx, id_=id_: endpoints.delete(tx, "default", id_))  # type: ignore[misc]
    while await work(database, fanout.fanout_kind(EXPIRY), "fanout:default"):
        pass
    assert await rows(database, EVENT, id=stored(outcome).event_id) == [("pending", 0, 0, None)]


# -- endpoints


async def test_an_endpoint_is_made_read_changed_and_its_pace_is_the_lanes(
    database: Database, clock: ManualClock
) -> None:
    id_ = await add(
        database,
        rate_limit=5.0,
        headers=endpoints.seal_headers(BOX, {"X-Token": "hunter2", "A": "1"}),
        schedule=[1.0, 2.0],
    )
    view = await database.read(lambda tx: endpoints.get(tx, "default", id_, BOX))
    assert view["header_names"] == ["A", "X-Token"]
    assert "hunter2" not in str(view)
    assert (view["rate_limit"], view["max_in_flight"], view["schedule"]) == (5.0, 32, [1.0, 2.0])
    clock.advance(1)
    changes = {"rate_limit": None, "max_in_flight": 3, "schedule": None, "headers": None,
               "description": "x", "on_permanent": "dead"}  # fmt: skip
    await database.unit(lambda tx: endpoints.change(tx, "default", id_, changes))
    view = await database.read(lambda tx: endpoints.get(tx, "default", id_, BOX))
    assert (view["rate_limit"], view["max_in_flight"], view["schedule"]) == (None, 3, None)
    assert (view["header_names"], view["description"]) == ([], "x")
    assert (view["on_permanent"], view["target"]) == ("dead", "https://example.com/")
    assert view["updated_at"] > view["created_at"]


async def test_another_accounts_endpoint_is_not_there(database: Database) -> None:
    id_ = await add(database)
    for change in (
        lambda tx: endpoints.get(tx, "other", id_, BOX),
        lambda tx: endpoints.change(tx, "other", id_, {"description": "x"}),
        lambda tx: endpoints.rotate(tx, "other", id_, "s", 1),
        lambda tx: endpoints.switch(tx, "other", id_, enabled=False),
        lambda tx: endpoints.subscriber(tx, "other", id_),
        lambda tx: endpoints.delete(tx, "other", id_),
    ):
        with pytest.raises(NotFound):
            await database.unit(change)
    assert await database.read(lambda tx: endpoints.page(tx, "other", None, 10, BOX)) == []


async def test_endpoints_are_listed_newest_first(database: Database) -> None:
    ids = [await add(database) for _ in range(5)]
    first = await database.read(lambda tx: endpoints.page(tx, "default", None, 3, BOX))
    rest = await database.read(
        lambda tx: endpoints.page(tx, "default", first[-1]["endpoint_id"], 3, BOX)
    )
    assert [e["endpoint_id"] for e in first + rest] == ids[::-1]


async def test_deleting_cancels_what_waits_and_keeps_the_counters_right(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "CANCEL_CHUNK", 2)
    doomed, other = await add(database), await add(database, event_types=["b"])
    acceptor = Acceptor(EXPIRY)
    only = [
        stored(o).event_id for o in await accept(database, acceptor, *[NewEvent("a", "{}")] * 5)
    ]
    (both,) = await accept(database, acceptor, NewEvent("b", "{}"))
    lane = await database.unit(lambda tx: endpoints.delete(tx, "default", doomed))
    while await database.unit(lambda tx: endpoints.cancel_waiting(tx, lane)):
        pass
    for event_id in only:
        assert await rows(database, EVENT, id=event_id) == [("pending", 0, 0, None)]
        detail = await database.read(
            lambda tx, event_id=event_id: query.detail(tx, "default", event_id)  # type: ignore[misc]
        )
        (delivery,) = detail["deliveries"]
        assert delivery["status"] == "cancelled"
        assert delivery["last_error"] == ENDPOINT_DELETED
        assert delivery["why"] is None
        assert delivery["finished_at"]
    event = await rows(database, EVENT, id=stored(both).event_id)
    assert event == [("pending", 1, 0, None)]
    found = await rows(database, DELIVERIES, id=stored(both).event_id)
    assert {(r[0], r[1]) for r in found} == {(doomed, "cancelled"), (other, "pending")}


# -- reading


async def test_events_are_listed_by_cursor_and_filter(
    database: Database, clock: ManualClock
) -> None:
    here, there = await add(database, event_types=["a"]), await add(database, event_types=["b"])
    acceptor = Acceptor(EXPIRY)
    made = []
    for n in range(6):
        (outcome,) = await accept(database, acceptor, NewEvent("ab"[n % 2], "{}"))
        made.append((stored(outcome).event_id, clock.now()))
        clock.advance(10)
    await accept(database, acceptor, NewEvent("a", "{}"), account="other")

    async def ids(**filters: Any) -> list[str]:
        found, _ = await database.read(lambda tx: query.page(tx, "default", **filters))
        return [item["event_id"] for item in found]

    newest = [event_id for event_id, _ in reversed(made)]
    assert await ids() == newest
    assert await ids(limit=2) + await ids(before=newest[1]) == newest
    assert await ids(event_type="a") == newest[1::2]
    assert await ids(endpoint=there) == newest[::2]
    assert await ids(endpoint=here, event_type="b") == []
    assert await ids(status="delivered") == []
    assert await ids(since=made[2][1], until=made[4][1]) == [made[3][0], made[2][0]]


async def test_the_detail_has_what_was_sent(database: Database) -> None:
    event = NewEvent("a", '{"n":1}', metadata='{"m":2}', ordering_key="customer-7")
    outcomes = await accept(database, Acceptor(EXPIRY), event, NewEvent("a", "{}"))
    ids = [stored(each).event_id for each in outcomes]
    keyed, plain = await database.read(lambda tx: [query.detail(tx, "default", id_) for id_ in ids])
    assert (keyed["payload"], keyed["metadata"]) == ({"n": 1}, {"m": 2})
    assert (keyed["ordering_key"], plain["ordering_key"]) == ("customer-7", None)


async def test_a_foreign_event_is_not_there(database: Database) -> None:
    (outcome,) = await accept(database, Acceptor(EXPIRY), NewEvent("a", "{}"))
    for read in (query.summary, query.detail):
        with pytest.raises(NotFound):
            await database.read(
                lambda tx, read=read: read(tx, "other", stored(outcome).event_id)  # type: ignore[misc]
            )

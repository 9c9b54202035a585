"""The inbox on both databases: leases, acknowledgement, and pushes that are held back."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from penstock.clock import SECOND, ManualClock
from penstock.events import endpoints, inbox, query, replay, replays, sign
from penstock.events.accept import Accepted, Acceptor, EventAvailable, NewEvent
from penstock.events.inbox import Leased
from penstock.events.policy import Policy
from penstock.events.push import delivery_kind
from penstock.storage import Database, Tx, sql
from penstock.storage.sql import compile_core
from penstock.work import ledger
from penstock.work.kinds import Claim, Task
from penstock.work.settlement import decide
from support.counters import check
from support.destinations import webhook
from support.engine import BOX, LATER, NEVER, OK, Answer, Engine, engine, until

pytestmark = pytest.mark.anyio

DELIVERY = sql("SELECT status, attempts, due_at, lease_until, last_error FROM deliveries")
HEADS = sql("SELECT head, halted FROM order_heads")


class Bench:
    """Events, readers, and a worker that is stepped by hand."""

    def __init__(self, database: Database, clock: ManualClock) -> None:
        self.database = database
        self.clock = clock
        self.acceptor = Acceptor(432_000.0)
        self.answer: Answer = OK
        self.sent: list[str] = []
        self.acknowledged: set[str] = set()

        async def send(_url: str, body: bytes, *_: Any) -> Answer:
            self.sent.append(json.loads(body)["event_id"])
            return self.answer

        self.kind = delivery_kind(
            clock=clock, box=BOX, destinations=webhook(send, clock), policy=Policy()
        )

    async def endpoint(self, **fields: Any) -> str:
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
            lambda tx: endpoints.create(tx, "default", **(defaults | fields))
        )

    async def accept(self, *events: NewEvent, account: str = "default") -> list[str]:
        outcomes = await self.database.unit(
            lambda tx: self.acceptor.accept(
                tx, account, events or [NewEvent("order.created", "{}")]
            )
        )
        return [outcome.event_id for outcome in outcomes if isinstance(outcome, Accepted)]

    async def lease(
        self, limit: int = 10, seconds: int = 60, *event_types: str, account: str = "default"
    ) -> Leased:
        return await self.database.unit(
            lambda tx: inbox.lease(tx, account, event_types, limit=limit, seconds=seconds)
        )

    async def ack(self, *ids: str, lease: str | None = None, account: str = "default") -> list[str]:
        found = await self.database.unit(lambda tx: inbox.acknowledge(tx, account, ids, lease))
        self.acknowledged |= {id_ for id_, outcome in found.items() if outcome == "acknowledged"}
        return [found[id_] for id_ in ids]

    async def release(self, *ids: str, lease: str | None = None) -> list[str]:
        found = await self.database.unit(lambda tx: inbox.release(tx, "default", ids, lease))
        return [found[id_] for id_ in ids]

    async def listed(self, *event_types: str, account: str = "default") -> list[dict[str, Any]]:
        found = await self.database.read(lambda tx: inbox.page(tx, account, event_types, None, 100))
        return [json.loads(text) for _, text in found]

    async def claim(self) -> list[tuple[Claim, Any]]:
        def take(tx: Tx) -> list[tuple[Claim, Any]]:
            lanes = [row[0] for row in tx.rows(sql("SELECT id FROM lanes"))]
            claims = ledger.claim(tx, self.kind, 100, lanes).claims
            loaded = self.kind.load(tx, claims) if claims else {}
            return [(claim, loaded[claim.id]) for claim in claims]

        return await self.database.unit(take)

    async def push(self, claim: Claim, data: Any) -> None:
        outcome = await self.kind.handle(Task(claim, data, 45.0))
        settlement = decide(self.kind, claim, outcome, self.clock.now())
        await self.database.unit(lambda tx: ledger.settle(tx, self.kind, [settlement]))

    async def step(self) -> int:
        """Claim and push all that is due; answers how many pushes were sent."""
        before = len(self.sent)
        for claim, data in await self.claim():
            await self.push(claim, data)
        return len(self.sent) - before

    async def event(self, event_id: str) -> dict[str, Any]:
        return await self.database.read(lambda tx: query.detail(tx, "default", event_id))

    async def check(self) -> None:
        await check(self.database, self.acknowledged)


@pytest.fixture
def bench(database: Database, clock: ManualClock) -> Bench:
    return Bench(database, clock)


def ids(leased: Leased) -> list[str]:
    return [json.loads(text)["event_id"] for text in leased.events]


async def test_leased_events_are_complete_and_oldest_first(
    bench: Bench, clock: ManualClock
) -> None:
    sent = await bench.accept(
        NewEvent("a.b", '{"n":1,"text":"é"}', '{"m":true}'), *(NewEvent("a", "{}"),) * 4
    )
    leased = await bench.lease(3, 30)
    assert ids(leased) == sent[:3]
    assert leased.until == clock.now() + 30 * SECOND
    first = json.loads(leased.events[0])
    created = (await bench.event(sent[0]))["created_at"]
    assert first == {
        "event_id": sent[0],
        "event_type": "a.b",
        "payload": {"n": 1, "text": "é"},
        "metadata": {"m": True},
        "status": "pending",
        "created_at": created,
        "deliver_at": None,
        "delivery_attempts": 0,
        "lease_id": leased.lease_id,
        "leased_until": first["leased_until"],
    }
    assert ids(await bench.lease(10)) == sent[3:]
    assert ids(await bench.lease(10)) == []
    assert (await bench.event(sent[0]))["inbox_lease_id"] == leased.lease_id


async def test_the_list_shows_everything_undelivered_and_changes_nothing(bench: Bench) -> None:
    await bench.endpoint(event_types=["dies", "goes"])
    bench.answer = NEVER
    died, waits = await bench.accept(NewEvent("dies", "{}"), NewEvent("waits", "{}"))
    await bench.step()
    bench.answer = OK
    await bench.accept(NewEvent("goes", "{}"))
    await bench.step()
    leased = await bench.lease(1)
    for _ in range(2):
        listed = await bench.listed()
        assert [(e["event_id"], e["status"]) for e in listed] == [
            (died, "failed"),
            (waits, "pending"),
        ]
        assert [e["lease_id"] for e in listed] == [leased.lease_id, None]
        assert listed[1]["leased_until"] is None
    await bench.check()


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ((), ["a", "a.b", "a_b", "ab", "c"]),
        (("*",), ["a", "a.b", "a_b", "ab", "c"]),
        (("a",), ["a"]),
        (("a.*",), ["a.b"]),
        (("a.*", "c", "zzz"), ["a.b", "c"]),
        (("nothing",), []),
    ],
)
async def test_event_types(bench: Bench, patterns: Sequence[str], expected: list[str]) -> None:
    await bench.accept(*(NewEvent(name, "{}") for name in ("a", "a.b", "a_b", "ab", "c")))
    assert [e["event_type"] for e in await bench.listed(*patterns)] == expected
    leased = await bench.lease(10, 60, *patterns)
    assert [json.loads(text)["event_type"] for text in leased.events] == expected


async def test_what_is_for_later_is_not_there_yet(bench: Bench, clock: ManualClock) -> None:
    (later,) = await bench.accept(NewEvent("a", "{}", deliver_at=clock.now() + 60 * SECOND))
    assert await bench.listed() == []
    assert ids(await bench.lease()) == []
    clock.advance(61)
    assert ids(await bench.lease()) == [later]


async def test_accounts_do_not_see_each_other(bench: Bench) -> None:
    (mine,) = await bench.accept(NewEvent("a", "{}"))
    assert await bench.listed(account="other") == []
    assert ids(await bench.lease(account="other")) == []
    assert await bench.ack(mine, account="other") == ["not_found"]
    assert (await bench.event(mine))["status"] == "pending"


async def test_acknowledging_delivers_and_cancels_what_was_to_be_pushed(bench: Bench) -> None:
    await bench.endpoint()
    await bench.endpoint()
    (event_id,) = await bench.accept()
    leased = await bench.lease()
    assert await bench.ack(event_id, "evt_unknown", lease=leased.lease_id) == [
        "acknowledged",
        "not_found",
    ]
    event = await bench.event(event_id)
    assert (event["status"], event["open_deliveries"]) == ("delivered", 0)
    assert event["delivered_at"] is not None
    assert event["inbox_lease_id"] is None
    assert {d["status"] for d in event["deliveries"]} == {"cancelled"}
    assert await bench.ack(event_id, lease=leased.lease_id) == ["already_delivered"]
    assert await bench.step() == 0
    assert await bench.listed() == []
    await bench.check()


async def test_a_leased_event_is_not_pushed_until_the_lease_ends(
    bench: Bench, clock: ManualClock
) -> None:
    await bench.endpoint()
    (event_id,) = await bench.accept()
    leased = await bench.lease(seconds=60)
    assert await bench.step() == 0
    event = await bench.event(event_id)
    (delivery,) = event["deliveries"]
    assert (delivery["attempts"], delivery["why"]["code"]) == (0, "inbox_leased")
    assert event["inbox_leased_until"][:19] in delivery["why"]["message"]
    clock.advance(59)
    assert await bench.step() == 0
    clock.advance(1.1)
    assert await bench.step() == 1
    event = await bench.event(event_id)
    assert (event["status"], event["delivery_attempts"]) == ("delivered", 1)
    assert await bench.ack(event_id, lease=leased.lease_id) == ["already_delivered"]
    await bench.check()


async def test_what_is_being_pushed_is_not_leased(bench: Bench, clock: ManualClock) -> None:
    await bench.endpoint()
    (event_id,) = await bench.accept()
    ((claim, data),) = await bench.claim()
    assert ids(await bench.lease()) == []
    bench.answer = LATER
    await bench.push(claim, data)
    # It failed; the retry waits, and the event is there for readers.
    assert ids(await bench.lease()) == [event_id]
    clock.advance(5)
    assert await bench.step() == 0
    await bench.check()


async def test_an_acknowledgement_during_a_push(bench: Bench) -> None:
    await bench.endpoint()
    events = [(await bench.accept())[0] for _ in range(3)]
    claims = await bench.claim()
    assert len(claims) == 3
    assert await bench.ack(*events) == ["acknowledged"] * 3
    await bench.check()
    for (claim, data), answer in zip(claims, (OK, LATER, NEVER), strict=True):
        bench.answer = answer
        await bench.push(claim, data)
    for event_id in events:
        event = await bench.event(event_id)
        assert (event["status"], event["open_deliveries"], event["dead_deliveries"]) == (
            "delivered",
            0,
            0,
        )
        assert event["delivery_attempts"] == 1
        assert event["deliveries"][0]["status"] == "cancelled"
    assert await bench.step() == 0
    await bench.check()


async def test_a_lease_that_ended_makes_the_event_available_again(
    bench: Bench, clock: ManualClock
) -> None:
    (event_id,) = await bench.accept()
    first = await bench.lease(seconds=10)
    clock.advance(10.5)
    # Nobody else has it yet: the late reader may still say that it is done.
    second = await bench.lease(seconds=10)
    assert ids(second) == [event_id]
    assert await bench.ack(event_id, lease=first.lease_id) == ["lease_lost"]
    assert await bench.release(event_id, lease=first.lease_id) == ["lease_lost"]
    clock.advance(10.5)
    assert await bench.ack(event_id, lease=second.lease_id) == ["acknowledged"]
    await bench.check()


async def test_releasing_makes_pushes_due_at_once(bench: Bench, clock: ManualClock) -> None:
    await bench.endpoint()
    (event_id,) = await bench.accept()
    notes: list[object] = []
    bench.database.subscribe(notes.extend)
    leased = await bench.lease(seconds=3600)
    assert await bench.step() == 0  # postponed for an hour
    assert await bench.release(event_id, "evt_unknown", lease=leased.lease_id) == [
        "released",
        "not_found",
    ]
    assert any(isinstance(note, EventAvailable) for note in notes)
    assert await bench.release(event_id) == ["not_leased"]
    assert ids(again := await bench.lease()) == [event_id]
    assert await bench.release(event_id, lease=again.lease_id) == ["released"]
    assert await bench.step() == 1
    assert (await bench.event(event_id))["status"] == "delivered"
    await bench.check()


async def test_releasing_does_not_shorten_a_retry(bench: Bench, clock: ManualClock) -> None:
    await bench.endpoint(schedule=[1000.0])
    (event_id,) = await bench.accept()
    bench.answer = LATER
    assert await bench.step() == 1
    await bench.lease()
    assert await bench.release(event_id) == ["released"]
    assert await bench.step() == 0
    clock.advance(1300)
    assert await bench.step() == 1


async def test_a_push_that_was_claimed_before_the_release_is_not_postponed_for_long(
    bench: Bench,
) -> None:
    await bench.endpoint()
    (event_id,) = await bench.accept()
    await bench.lease(seconds=3600)
    ((claim, data),) = await bench.claim()  # sees the lease, and is about to postpone
    assert await bench.release(event_id) == ["released"]
    await bench.push(claim, data)
    assert bench.sent == []
    assert await bench.step() == 1


async def test_a_failed_event_can_be_acknowledged(bench: Bench) -> None:
    await bench.endpoint()
    bench.answer = NEVER
    (event_id,) = await bench.accept()
    await bench.step()
    assert (await bench.event(event_id))["status"] == "failed"
    leased = await bench.lease()
    assert ids(leased) == [event_id]
    assert await bench.ack(event_id) == ["acknowledged"]
    event = await bench.event(event_id)
    assert (event["status"], event["dead_deliveries"]) == ("delivered", 1)
    await bench.check()


async def test_acknowledging_calls_the_next_under_the_ordering_key(bench: Bench) -> None:
    await bench.endpoint(on_dead="halt")
    head, second, third, fourth = await bench.accept(
        *(NewEvent("a", f'{{"n":{n}}}', ordering_key="k") for n in range(4))
    )
    assert await bench.ack(second) == ["acknowledged"]  # not its turn yet: it just falls out
    assert await bench.ack(head) == ["acknowledged"]
    bench.answer = NEVER
    assert await bench.step() == 1
    assert bench.sent == [third]
    assert await bench.step() == 0
    await bench.check()  # halted: the dead head holds up the fourth
    assert (await bench.event(fourth))["deliveries"][0]["why"]["code"] == "behind_dead"
    assert await bench.ack(third) == ["acknowledged"]
    bench.answer = OK
    assert await bench.step() == 1
    assert bench.sent == [third, fourth]
    await bench.check()


async def test_the_inbox_is_found_by_its_index(database: Database) -> None:
    seen: list[str] = []

    def look(tx: Tx) -> None:
        if tx.dialect == "postgres":
            tx.rows(sql("SELECT set_config('enable_seqscan', 'off', true)"))
        statement = inbox._available("default", ["a.*"], 5).order_by("id").limit(10)
        text, params = compile_core(statement, tx.dialect, {})
        explain = "EXPLAIN " if tx.dialect == "postgres" else "EXPLAIN QUERY PLAN "
        for name, value in params.items():
            literal = str(value) if isinstance(value, int) else f"'{value}'"
            for mark in (f":{name}", f"%({name})s"):
                text = text.replace(mark, literal)
        for extra in ("::VARCHAR", "::INTEGER", "::BIGINT"):
            text = text.replace(extra, "")
        seen.append(str(tx.rows(sql(explain + text))))

    await database.read(look)
    assert "events_inbox" in seen[0], seen
    assert "Sort" not in seen[0]
    assert "TEMP B-TREE" not in seen[0]


# ------------------------------------------------------------------ at the same time


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def where(request: pytest.FixtureRequest) -> Path | str:
    """A migrated, empty database whose time is the real one."""
    sqlite = request.param == "sqlite"
    found: Path | str = request.getfixturevalue(
        "sqlite_path" if sqlite else "postgres_database_url"
    )
    return found


LEASED = sql("SELECT CASE WHEN inbox_until_at > {now} THEN 1 ELSE 0 END FROM events WHERE id = :id")
OPEN = sql("SELECT count(*) FROM events WHERE status IN ('pending', 'failed')")


async def test_readers_and_pushes_at_the_same_time(where: Path | str) -> None:
    """No push begins while its event is leased; nothing is lost, nothing is taken twice."""
    chance = random.Random(5)
    violations: list[str] = []
    pushed: Counter[str] = Counter()
    acknowledged: Counter[str] = Counter()

    async def answers(body: bytes) -> Answer:
        event_id = json.loads(body)["event_id"]
        row = await bench.database.read(lambda tx: tx.one(LEASED, id=event_id))
        if row is None or row[0]:
            violations.append(event_id)
        await asyncio.sleep(chance.random() * 0.004)
        if chance.random() < 0.5:
            return LATER
        pushed[event_id] += 1
        return OK

    async def reader(bench: Engine) -> None:
        while not done.is_set():
            leased = await bench.database.unit(
                lambda tx: inbox.lease(tx, "default", (), limit=chance.randint(1, 8), seconds=30)
            )
            mine = ids(leased)
            assert mine == sorted(mine)
            await asyncio.sleep(chance.random() * 0.01)
            await finish(mine[::2], mine[1::2], leased.lease_id)

    async def finish(done: list[str], rest: list[str], lease_id: str) -> None:
        if done:
            outcomes = await bench.database.unit(
                lambda tx: inbox.acknowledge(tx, "default", done, lease_id)
            )
            assert set(outcomes.values()) == {"acknowledged"}, outcomes
            acknowledged.update(done)
        if rest:
            freed = await bench.database.unit(
                lambda tx: inbox.release(tx, "default", rest, lease_id)
            )
            assert set(freed.values()) == {"released"}, freed

    done = asyncio.Event()
    async with engine(where, answers) as bench:
        await bench.endpoint(schedule=[0.02] * 200)
        await bench.endpoint(schedule=[0.02] * 200)
        async with bench.working(workers=2 if isinstance(where, str) else 1):
            readers = [asyncio.create_task(reader(bench)) for _ in range(3)]
            sent: list[str] = []
            for n in range(60):
                sent += await bench.accept(
                    *(
                        NewEvent("a", "{}", ordering_key=None if n % 2 else f"k{n % 8}")
                        for _ in range(5)
                    )
                )
                await asyncio.sleep(0.002)

            async def all_taken() -> bool:
                for task in readers:
                    assert not task.done() or task.result() is None
                row = await bench.database.read(lambda tx: tx.one(OPEN))
                return row == (0,)

            await until(all_taken)
            done.set()
            await asyncio.gather(*readers)
        assert violations == []
        assert set(acknowledged.values()) == {1}
        assert set(sent) == {id_ for id_ in sent if acknowledged[id_] or pushed[id_] >= 2}
        assert len(acknowledged) > 20
        assert sum(pushed.values()) > 20
        await check(bench.database, set(acknowledged))


async def test_an_event_being_spread_over_many_endpoints(where: Path | str) -> None:
    async def answers(body: bytes) -> Answer:
        await asyncio.sleep(0.001)
        return OK

    async with engine(where, answers) as bench:
        for _ in range(30):
            await bench.endpoint()
        acknowledged: set[str] = set()
        async with bench.working():
            for n in range(12):
                (event_id,) = await bench.accept(NewEvent("a", "{}"))
                await asyncio.sleep(0.002 * (n % 6))
                outcomes = await bench.database.unit(
                    lambda tx, id_=event_id: inbox.acknowledge(tx, "default", [id_])
                )
                acknowledged |= {k for k, v in outcomes.items() if v == "acknowledged"}

            async def at_rest() -> bool:
                row = await bench.database.read(
                    lambda tx: tx.one(
                        sql(
                            "SELECT (SELECT count(*) FROM fanouts WHERE status = 'pending'"
                            "   OR lease_until IS NOT NULL)"
                            " + (SELECT count(*) FROM deliveries WHERE status = 'pending'"
                            "   OR lease_until IS NOT NULL)"
                        )
                    )
                )
                return row == (0,)

            await until(at_rest)
        assert acknowledged
        await check(bench.database, acknowledged)


async def test_acknowledging_what_a_replay_sends_again_ends_the_replay(bench: Bench) -> None:
    await bench.endpoint()
    (event_id,) = await bench.accept()
    assert await bench.step() == 1
    replay_id = await replays.create(bench.database, "default")

    def send(tx: Tx) -> None:
        ((delivery_id,),) = tx.rows(sql("SELECT id FROM deliveries"))
        again = replay.send_again(
            tx, "default", [(event_id, delivery_id)], [], expiry=10**9, replay=replay_id
        )
        assert again == (1, 0)
        tx.run(sql("UPDATE replays SET exhausted = TRUE, due_at = NULL"))

    await bench.database.unit(send)
    assert (await bench.event(event_id))["status"] == "pending"
    assert ids(leased := await bench.lease()) == [event_id]
    assert await bench.ack(event_id, lease=leased.lease_id) == ["acknowledged"]
    assert (await bench.event(event_id))["status"] == "replayed"
    (due,) = await bench.database.read(lambda tx: tx.rows(sql("SELECT due_at FROM replays")))
    assert due[0] is not None  # it looks once more, and finds that it is done
    assert await bench.step() == 0
    await bench.check()

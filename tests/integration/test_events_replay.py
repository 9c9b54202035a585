"""Sending again, on both databases: one event, many, and what an endpoint missed."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from penstock.clock import SECOND, ManualClock
from penstock.errors import NotFound, Refused
from penstock.events import drip, endpoints, erase, query, replay, replays, sign
from penstock.events.accept import Accepted, Acceptor, NewEvent
from penstock.events.http import Failure, Response
from penstock.events.policy import Policy
from penstock.events.push import delivery_kind
from penstock.secretbox import SecretBox
from penstock.storage import Database, Tx, sql
from penstock.work import lanes, ledger
from penstock.work.kinds import AnyKind, Task
from penstock.work.settlement import decide
from support import counters
from support.destinations import webhook

pytestmark = pytest.mark.anyio

BOX = SecretBox(["a key for the tests"])
OK = Response(200, {}, b"", None, 0.0)
NEVER = Response(404, {}, b"", None, 0.0)
LATER = Response(429, {}, b"", None, 0.0)
EXPIRY = 432_000.0

EVENTS = sql("SELECT id, event_type, status, replays FROM events ORDER BY id")
STATUSES = sql("""
SELECT e.event_type, d.endpoint_id, d.status, d.attempts, d.step
FROM deliveries d JOIN events e ON e.id = d.event_id ORDER BY e.id, d.endpoint_id
""")
OUTSTANDING = sql("SELECT count(*) FROM deliveries WHERE replay_id = :id AND status = 'pending'")


class World:
    """Deliveries and replays on a database, stepped by hand."""

    def __init__(self, database: Database, clock: ManualClock) -> None:
        self.database = database
        self.clock = clock
        self.acceptor = Acceptor(EXPIRY)
        self.answer: Any = OK
        self.sent: list[tuple[str, str]] = []  # (event, target)
        self.delivery = delivery_kind(
            clock=clock, box=BOX, destinations=webhook(self._send, clock), policy=Policy()
        )
        self.replay = replays.replay_kind(
            database=database, clock=clock, acceptor=self.acceptor, expiry=EXPIRY
        )

    async def _send(self, url: str, body: bytes, headers: Any, timeout: float) -> Any:
        event_id = headers["webhook-id"]
        self.sent.append((event_id, url))
        answer = self.answer(event_id, url) if callable(self.answer) else self.answer
        assert isinstance(answer, Response | Failure)
        return answer

    async def endpoint(self, name: str = "a", **fields: Any) -> str:
        defaults: dict[str, Any] = {
            "kind": "webhook",
            "target": f"https://example.com/{name}",
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

    async def accept(self, *types: str, key: str | None = None) -> list[str]:
        events = [NewEvent(type_, "{}", ordering_key=key) for type_ in types]
        outcomes = await self.database.unit(lambda tx: self.acceptor.accept(tx, "default", events))
        return [o.event_id for o in outcomes if isinstance(o, Accepted)]

    async def step(self, kind: AnyKind, *, settle: bool = True) -> int:
        """Claim, run and settle what is due of one kind; answers how many rows."""

        def take(tx: Tx) -> Any:
            ids = [row[0] for row in tx.rows(sql("SELECT id FROM lanes ORDER BY id"))]
            claims = ledger.claim(tx, kind, 256, ids).claims
            return claims, dict(kind.load(tx, claims)) if claims else {}

        claims, loaded = await self.database.unit(take)
        outcomes = [
            decide(kind, c, await kind.handle(Task(c, loaded[c.id], 60.0)), self.clock.now())
            for c in claims
        ]
        if settle and outcomes:
            await self.database.unit(lambda tx: ledger.settle(tx, kind, outcomes))
        return len(claims)

    async def push(self) -> int:
        """Push until nothing is due; answers how many pushes."""
        total = 0
        while n := await self.step(self.delivery):
            total += n
        return total

    async def run(self, replay_id: str, *, steps: int = 2000) -> dict[str, Any]:
        """Step the replay, pushing as it goes, until it has ended."""
        for _ in range(steps):
            await self.step(self.replay)
            await self.push()
            found = await self.get(replay_id)
            if found["status"] != "pending":
                return found
            self.clock.advance(drip.STEP)
        raise AssertionError(found)

    async def get(self, replay_id: str) -> dict[str, Any]:
        return await self.database.read(lambda tx: replays.get(tx, "default", replay_id))

    async def start(self, **asked: Any) -> str:
        return await replays.create(self.database, "default", **asked)

    async def again(self, event_id: str, **options: Any) -> replay.Replayed:
        given = {"endpoint_ids": None, "include_missing": False} | options
        return await self.database.unit(
            lambda tx: replay.replay_event(
                tx, "default", event_id, self.acceptor, expiry=EXPIRY, **given
            )
        )

    async def event(self, event_id: str) -> dict[str, Any]:
        return await self.database.read(lambda tx: query.detail(tx, "default", event_id))

    async def statuses(self) -> list[str]:
        return [row[2] for row in await self.database.read(lambda tx: tx.rows(EVENTS))]

    async def check(self) -> None:
        await counters.check(self.database)


@pytest.fixture
def world(database: Database, clock: ManualClock) -> World:
    return World(database, clock)


# ------------------------------------------------------------------ one event


async def test_a_delivered_event_is_delivered_again(world: World, clock: ManualClock) -> None:
    await world.endpoint()
    (event_id,) = await world.accept("a")
    await world.push()
    clock.advance(60)
    assert await world.again(event_id) == replay.Replayed(1, 0, 0)
    event = await world.event(event_id)
    assert (event["status"], event["open_deliveries"]) == ("pending", 1)
    await world.check()
    assert await world.push() == 1
    event = await world.event(event_id)
    assert (event["status"], event["message"]) == ("replayed", "Delivered again.")
    (delivery,) = event["deliveries"]
    assert [a["number"] for a in delivery["attempt_log"]] == [1, 2]
    assert event["delivery_attempts"] == 2
    assert event["delivered_at"] == delivery["finished_at"]
    assert [e for e, _ in world.sent] == [event_id] * 2
    await world.check()


async def test_a_dead_delivery_gets_its_whole_schedule_again(
    world: World, clock: ManualClock
) -> None:
    await world.endpoint(schedule=[1.0, 1.0])
    (event_id,) = await world.accept("a")
    world.answer = Failure("timeout", "no answer", None, 1.0)
    for _ in range(3):
        assert await world.push() == 1
        clock.advance(2)
    assert await world.statuses() == ["failed"]
    for n in (6, 9):  # far beyond the number of attempts that a delivery had at first
        assert await world.again(event_id) == replay.Replayed(1, 0, 0)
        clock.advance(40)
        await world.check()
        for _ in range(3):
            assert await world.push() == 1
            clock.advance(40)
        event = await world.event(event_id)
        assert (event["status"], event["delivery_attempts"]) == ("failed", n)
        await world.check()
    assert await world.again(event_id) == replay.Replayed(1, 0, 0)
    world.answer = OK
    clock.advance(2000)
    assert await world.push() == 1
    assert await world.statuses() == ["replayed"]
    await world.check()


async def test_a_fault_of_ours_does_not_kill_what_was_sent_again(
    world: World, clock: ManualClock
) -> None:
    # The number of attempts goes on over replays, so it must not decide when to give up.
    for attempts in (0, 1, 11, 12, 500):
        wait = world.delivery.backoff(attempts + 1)
        assert wait is not None
        assert wait > 0


async def test_what_is_pending_is_left_alone(world: World) -> None:
    await world.endpoint()
    (event_id,) = await world.accept("a")
    assert await world.again(event_id) == replay.Replayed(0, 0, 1)
    assert (await world.event(event_id))["status"] == "pending"
    assert await world.push() == 1
    assert await world.statuses() == ["delivered"]
    await world.check()


async def test_only_the_named_endpoints_are_sent_to(world: World) -> None:
    first, second = await world.endpoint("a"), await world.endpoint("b")
    (event_id,) = await world.accept("a")
    await world.push()
    assert await world.again(event_id, endpoint_ids=[second]) == replay.Replayed(1, 0, 0)
    await world.push()
    assert sorted(url[-1] for _, url in world.sent) == ["a", "b", "b"]
    for unknown in ([first, "end_x"], ["end_x"]):
        with pytest.raises(Refused) as refused:
            await world.again(event_id, endpoint_ids=unknown)
        assert refused.value.pointer == f"/endpoint_ids/{len(unknown) - 1}"
    with pytest.raises(NotFound):
        await world.again("evt_x")
    await world.check()


async def test_endpoints_made_later_get_it_if_asked(world: World) -> None:
    (event_id,) = await world.accept("order.created")
    await world.endpoint("a", event_types=["order.*"])
    await world.endpoint("b", event_types=["other"])
    assert await world.again(event_id) == replay.Replayed(0, 0, 0)
    assert await world.push() == 0
    assert await world.again(event_id, include_missing=True) == replay.Replayed(0, 1, 0)
    assert await world.again(event_id, include_missing=True) == replay.Replayed(0, 0, 1)
    assert await world.push() == 1
    assert [url[-1] for _, url in world.sent] == ["a"]
    await world.check()


async def test_deliveries_to_deleted_endpoints_are_left_out(world: World) -> None:
    endpoint_id = await world.endpoint()
    (event_id,) = await world.accept("a")
    await world.push()
    await world.database.unit(lambda tx: endpoints.delete(tx, "default", endpoint_id))
    assert await world.again(event_id, include_missing=True) == replay.Replayed(0, 0, 0)
    assert await world.statuses() == ["delivered"]


async def test_two_replays_of_one_event_at_once_send_it_once(world: World) -> None:
    await world.endpoint()
    (event_id,) = await world.accept("a")
    await world.push()
    done = await asyncio.gather(*(world.again(event_id) for _ in range(8)))
    assert sum(d.again for d in done) == 1
    await world.check()
    assert await world.push() == 1
    await world.check()


# ------------------------------------------------------------------ order


async def test_an_ordered_delivery_goes_to_the_end_of_its_queue(
    world: World, clock: ManualClock
) -> None:
    await world.endpoint(max_in_flight=1)
    (first,) = await world.accept("a", key="k")
    await world.push()
    second, third = await world.accept("b", "c", key="k")
    await world.again(first)
    await world.check()
    world.sent.clear()
    await world.push()
    assert [e for e, _ in world.sent] == [second, third, first]
    await world.check()


async def test_a_dead_head_that_halts_stays_the_head(world: World, clock: ManualClock) -> None:
    endpoint_id = await world.endpoint(on_dead="halt")
    first, second = await world.accept("a", "b", key="k")
    world.answer = NEVER
    assert await world.push() == 1
    assert await world.push() == 0
    await world.check()
    world.sent.clear()
    world.answer = OK
    assert await world.again(first) == replay.Replayed(1, 0, 0)
    await world.check()
    await world.push()
    assert [e for e, _ in world.sent] == [first, second]
    assert await world.statuses() == ["replayed", "delivered"]
    view = await world.database.read(lambda tx: endpoints.get(tx, "default", endpoint_id, BOX))
    assert view["on_dead"] == "halt"
    await world.check()


async def test_a_replay_keeps_the_order_of_a_key(world: World) -> None:
    await world.endpoint()
    events = [(await world.accept(f"t{n}", key=f"k{n % 3}"))[0] for n in range(30)]
    await world.push()
    world.sent.clear()
    found = await world.run(await world.start())
    assert found["delivered"] == 30
    for key in range(3):
        mine = events[key::3]
        assert [e for e, _ in world.sent if e in mine] == mine
    await world.check()


# ------------------------------------------------------------------ many


async def test_all_events_are_replayed_and_counted(world: World, clock: ManualClock) -> None:
    await world.endpoint("a")
    await world.endpoint("b", event_types=["even"])
    events = await world.accept(*("even" if n % 2 else "odd" for n in range(100)))
    await world.push()
    clock.advance(1)
    world.sent.clear()
    id_ = await world.start()
    late = await world.accept("odd")  # not among those that were there
    before = await world.get(id_)
    assert (before["status"], before["estimate"], before["replayed"]) == ("pending", 100, 0)
    world.answer = lambda event_id, url: NEVER if (event_id, url[-1]) == (events[1], "b") else OK
    found = await world.run(id_)
    assert found["status"] == "done"
    assert (found["looked_at"], found["replayed"], found["outstanding"]) == (100, 150, 0)
    assert (found["delivered"], found["dead"]) == (149, 1)
    assert found["finished_at"] is not None
    assert len(world.sent) == 151
    rows = await world.database.read(lambda tx: tx.rows(EVENTS))
    states = {id_: (status, n) for id_, _, status, n in rows}
    assert states.pop(late[0]) == ("delivered", 0)
    assert states.pop(events[1]) == ("failed", 1)
    assert set(states.values()) == {("replayed", 1)}
    # Oldest first, for each endpoint.
    for name in "ab":
        mine = [e for e, url in world.sent if url[-1] == name and e != late[0]]
        assert mine == sorted(mine)
    await world.check()


async def test_the_filters_are_those_of_the_list(world: World, clock: ManualClock) -> None:
    start = clock.now()
    only = await world.endpoint("a")
    await world.endpoint("b", event_types=["x.*"])
    sent = []
    for n in range(6):
        sent += await world.accept("x.one" if n % 2 else "y")
        clock.advance(3600 * 3)
    await world.push()
    hours = 3600 * SECOND
    for asked, expected in (
        ({"event_types": ["x.*"]}, [1, 1, 3, 3, 5, 5]),
        ({"event_types": ["y", "z"]}, [0, 2, 4]),
        ({"since": start + 6 * hours}, [2, 3, 3, 4, 5, 5]),
        ({"until": start + 6 * hours}, [0, 1, 1]),
        ({"since": start + 6 * hours, "until": start + 12 * hours}, [2, 3, 3]),
        ({"since": start + 999 * hours}, []),
        ({"until": start}, []),
        ({"endpoint_id": only, "event_types": ["x.one"]}, [1, 3, 5]),
        ({"status": "failed"}, []),
        ({"status": "pending"}, []),
    ):
        world.sent.clear()
        found = await world.run(await world.start(**asked))
        assert sorted(sent.index(e) for e, _ in world.sent) == expected, asked
        assert (found["status"], found["replayed"]) == ("done", len(expected))
    await world.check()


async def test_of_failed_events_only_what_failed_is_sent(world: World) -> None:
    await world.endpoint("a")
    await world.endpoint("b")
    await world.accept(*["x"] * 40)
    world.answer = lambda event_id, url: NEVER if url[-1] == "b" else OK
    await world.push()
    assert set(await world.statuses()) == {"failed"}
    world.answer = OK
    world.sent.clear()
    found = await world.run(await world.start(status="failed"))
    assert {url[-1] for _, url in world.sent} == {"b"}
    assert (found["replayed"], found["delivered"]) == (40, 40)
    assert set(await world.statuses()) == {"replayed"}
    await world.check()


async def test_a_status_filter_reaches_every_endpoint_of_an_event(world: World) -> None:
    # The replay itself changes an event's status between its endpoints.
    for name in "abc":
        await world.endpoint(name, max_in_flight=4)
    await world.accept(*["x"] * 30)
    await world.push()
    world.sent.clear()
    found = await world.run(await world.start(status="delivered"))
    assert (found["replayed"], len(world.sent)) == (90, 90)
    await world.check()


async def test_an_event_of_many_endpoints_is_taken_in_parts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drip, "MOST_PAIRS", 7)
    monkeypatch.setattr(drip, "NEAR", 2)
    monkeypatch.setattr(drip, "SMALL", 3)
    for n in range(10):
        await world.endpoint(str(n))
    await world.accept(*["x"] * 5)
    await world.push()
    world.sent.clear()
    await world.endpoint("z")
    found = await world.run(await world.start(include_missing=True, status="delivered"))
    assert found["replayed"] == 55
    assert len(set(world.sent)) == len(world.sent) == 55
    assert found["looked_at"] == 5
    await world.check()


async def test_at_most_a_thousand_rows_are_outstanding(
    world: World, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert drip.OUTSTANDING == 1000
    monkeypatch.setattr(drip, "OUTSTANDING", 40)
    await world.endpoint(schedule=[600.0] * 3)
    await world.accept(*["x"] * 100)
    await world.push()
    id_ = await world.start()
    world.answer = LATER
    for _ in range(40):
        await world.step(world.replay)
        await world.push()
        clock.advance(drip.STEP)
    found = await world.get(id_)
    assert (found["outstanding"], found["replayed"]) == (40, 40)
    world.answer = OK
    clock.advance(1000)
    assert (await world.run(id_))["delivered"] == 100
    await world.check()


async def test_a_lane_takes_no_more_than_a_quarter_of_its_cap(world: World) -> None:
    await world.endpoint(max_in_flight=8)
    await world.accept(*["x"] * 50)
    await world.push()
    id_ = await world.start()
    for _ in range(3):
        await world.step(world.replay)
        world.clock.advance(drip.STEP)
    assert (await world.get(id_))["outstanding"] == 2


async def test_new_work_that_waits_comes_first(world: World) -> None:
    await world.endpoint()
    await world.accept(*["x"] * 20)
    await world.push()
    await world.accept("new")
    id_ = await world.start()
    await world.step(world.replay)
    assert (await world.get(id_))["replayed"] == 0
    await world.push()
    world.clock.advance(drip.STEP)
    await world.step(world.replay)
    assert (await world.get(id_))["replayed"] == drip.SMALL


async def test_a_replay_hurries_while_nothing_is_accepted(world: World, clock: ManualClock) -> None:
    await world.endpoint(max_in_flight=256)
    await world.accept(*["x"] * 100)
    await world.push()
    id_ = await world.start()

    async def added() -> int:
        before = (await world.get(id_))["replayed"]
        await world.step(world.replay)
        await world.push()
        return int((await world.get(id_))["replayed"] - before)

    assert await added() == drip.SMALL  # who knows how new the newest event is
    clock.advance(drip.QUIET)
    assert await added() == drip.LARGE
    clock.advance(drip.HURRY)
    assert await added() == drip.LARGE
    await world.accept("new")
    await world.push()
    clock.advance(drip.HURRY)
    assert await added() == drip.SMALL
    clock.advance(drip.STEP / 2)
    assert await added() == 0
    clock.advance(drip.STEP / 2)
    assert await added() == drip.SMALL


async def test_a_replay_for_a_disabled_endpoint_says_what_it_waits_for(
    world: World, clock: ManualClock
) -> None:
    closed = await world.endpoint("a")
    await world.accept("x")
    await world.push()
    await world.database.unit(lambda tx: endpoints.switch(tx, "default", closed, enabled=False))
    id_ = await world.start(endpoint_id=closed)
    await world.step(world.replay)
    assert (await world.get(id_))["behind"] == [closed]
    listed = await world.database.read(lambda tx: replays.page(tx, "default", None, 10))
    assert [each["behind"] for each in listed] == [[closed]]
    await world.database.unit(lambda tx: endpoints.switch(tx, "default", closed, enabled=True))
    assert (await world.get(id_))["behind"] == []
    clock.advance(6)
    found = await world.run(id_)
    assert (found["status"], found["behind"], found["delivered"]) == ("done", [], 1)


async def test_a_replay_behind_a_halted_key_says_what_it_waits_for(
    world: World, clock: ManualClock
) -> None:
    halting = await world.endpoint("a", on_dead="halt", schedule=[1.0])
    await world.endpoint("b", on_dead="halt")
    first, second = await world.accept("x", "x", key="k")
    await world.push()
    world.answer = lambda event_id, url: NEVER if event_id == first and url.endswith("/a") else OK
    id_ = await world.start()
    for _ in range(40):
        await world.step(world.replay)
        await world.push()
        clock.advance(1)
    found = await world.get(id_)
    assert (found["status"], found["behind"]) == ("pending", [halting])
    assert (found["delivered"], found["dead"], found["outstanding"]) == (2, 1, 1)
    world.answer = OK
    await world.again(first)
    found = await world.run(id_)
    assert (found["status"], found["behind"], found["outstanding"]) == ("done", [], 0)
    assert (await world.event(second))["status"] == "replayed"


async def test_a_disabled_endpoint_holds_up_nobody_else(world: World, clock: ManualClock) -> None:
    closed = await world.endpoint("a")
    await world.endpoint("b")
    await world.accept(*["x"] * 60)
    await world.push()
    await world.database.unit(lambda tx: endpoints.switch(tx, "default", closed, enabled=False))
    world.sent.clear()
    id_ = await world.start()
    for _ in range(60):
        await world.step(world.replay)
        await world.push()
        clock.advance(drip.STEP)
    found = await world.get(id_)
    assert (found["status"], found["behind"], found["delivered"]) == ("pending", [closed], 60)
    assert {url[-1] for _, url in world.sent} == {"b"}
    assert found["outstanding"] == 0  # nothing was written for the one that takes nothing
    await world.check()
    await world.database.unit(lambda tx: endpoints.switch(tx, "default", closed, enabled=True))
    clock.advance(6)
    found = await world.run(id_)
    assert (found["status"], found["behind"], found["delivered"]) == ("done", [], 120)
    mine = [e for e, url in world.sent if url[-1] == "a"]
    assert mine == sorted(set(mine))
    await world.check()


async def test_a_deleted_endpoint_is_forgotten(world: World, clock: ManualClock) -> None:
    doomed = await world.endpoint("a")
    await world.accept(*["x"] * 40)
    await world.push()
    await world.database.unit(lambda tx: endpoints.switch(tx, "default", doomed, enabled=False))
    id_ = await world.start()
    await world.step(world.replay)
    clock.advance(6)
    await world.step(world.replay)
    await world.database.unit(lambda tx: endpoints.delete(tx, "default", doomed))
    clock.advance(20)
    found = await world.run(id_)
    assert (found["status"], found["replayed"]) == ("done", 0)


async def test_a_step_that_is_lost_is_done_again_and_nothing_twice(
    world: World, clock: ManualClock
) -> None:
    await world.endpoint()
    await world.accept(*["x"] * 50)
    await world.push()
    world.sent.clear()
    id_ = await world.start()
    for n in range(200):
        lost = n % 3 == 1
        await world.step(world.replay, settle=not lost)
        if lost:  # its worker died
            clock.advance(61)
            await world.database.unit(lambda tx: ledger.sweep(tx, world.replay))
        await world.push()
        clock.advance(drip.STEP)
        if (await world.get(id_))["status"] == "done":
            break
    found = await world.get(id_)
    assert (found["status"], found["looked_at"], found["delivered"]) == ("done", 50, 50)
    assert len(world.sent) == len(set(world.sent)) == 50
    await world.check()


# ------------------------------------------------------------------ cancel


async def test_a_cancelled_replay_leaves_things_as_they_were(
    world: World, clock: ManualClock
) -> None:
    await world.endpoint("a", schedule=[600.0] * 3)
    await world.endpoint("b")
    world.answer = lambda event_id, url: NEVER if url[-1] == "a" else OK
    await world.accept(*["x"] * 40)
    await world.accept(*["x"] * 10, key="k")
    await world.push()
    before = await world.database.read(lambda tx: tx.rows(STATUSES))
    await world.endpoint("c")
    id_ = await world.start(include_missing=True)
    for _ in range(8):
        await world.step(world.replay)
        clock.advance(drip.STEP)
    world.answer = LATER
    assert await world.step(world.delivery) > 0  # some were tried, and will be tried again
    tried = {(e, url) for e, url in world.sent[-100:]}
    await world.database.unit(lambda tx: replays.cancel(tx, "default", id_))
    while await world.database.unit(lambda tx: replay.withdraw(tx, "default", id_, limit=7)):
        pass
    found = await world.get(id_)
    assert found["status"] == "cancelled"
    assert 0 < found["outstanding"] < 40
    await world.check()
    clock.advance(60)
    assert await world.step(world.replay) == 0
    after = await world.database.read(lambda tx: tx.rows(STATUSES))
    pending = sum(row[2] == "pending" for row in after)
    assert pending == found["outstanding"] <= len(tried)
    old = {(row[0], row[1]) for row in before}
    untouched = [row for row in after if row[2] != "pending" and row[3] == 1]
    assert {row[2] for row in untouched if (row[0], row[1]) in old} == {"delivered", "dead"}
    await world.database.unit(lambda tx: replays.cancel(tx, "default", id_))
    world.answer = OK
    clock.advance(3600)
    await world.push()
    assert (await world.get(id_))["outstanding"] == 0
    await world.check()
    with pytest.raises(NotFound):
        await world.database.unit(lambda tx: replays.cancel(tx, "other", id_))


async def test_an_event_that_a_withdrawal_completes_was_delivered_then(
    world: World, clock: ManualClock
) -> None:
    first = await world.endpoint("a")
    await world.endpoint("b")
    world.answer = lambda event_id, url: NEVER if url[-1] == "b" else OK
    (event,) = await world.accept("x")
    await world.push()
    assert (await world.event(event))["status"] == "failed"
    id_ = await world.start()
    while (await world.get(id_))["outstanding"] < 2:
        assert await world.step(world.replay)
        clock.advance(drip.STEP)
    lane = f"delivery:{first}"
    assert await world.database.unit(lambda tx: lanes.configure(tx, lane, paused=True))
    world.answer = OK
    assert await world.push() == 1
    await world.database.unit(lambda tx: replays.cancel(tx, "default", id_))
    assert not await world.database.unit(lambda tx: replay.withdraw(tx, "default", id_))

    told = await world.event(event)
    assert told["status"] == "replayed"
    assert told["delivered_at"] is not None
    await world.check()


async def test_a_step_on_its_way_adds_nothing_to_a_cancelled_replay(world: World) -> None:
    await world.endpoint()
    await world.accept(*["x"] * 20)
    await world.push()
    id_ = await world.start()

    def take(tx: Tx) -> Any:
        claims = ledger.claim(tx, world.replay, 1, ["replay:default"]).claims
        return claims[0], world.replay.load(tx, claims)[claims[0].id]

    claim, data = await world.database.unit(take)
    outcome = await world.replay.handle(Task(claim, data, 60.0))
    await world.database.unit(lambda tx: replays.cancel(tx, "default", id_))
    settled = decide(world.replay, claim, outcome, world.clock.now())
    await world.database.unit(lambda tx: ledger.settle(tx, world.replay, [settled]))
    found = await world.get(id_)
    assert (found["status"], found["replayed"], found["outstanding"]) == ("cancelled", 0, 0)
    assert await world.push() == 0
    await world.check()


async def test_a_cancelled_replay_leaves_a_halted_queue_halted(world: World) -> None:
    await world.endpoint(on_dead="halt")
    await world.accept("a", "b", key="k")
    world.answer = NEVER
    await world.push()
    id_ = await world.start(status="failed")
    await world.step(world.replay)
    assert (await world.get(id_))["outstanding"] == 1
    await world.database.unit(lambda tx: replays.cancel(tx, "default", id_))
    await world.database.unit(lambda tx: replay.withdraw(tx, "default", id_))
    assert await world.statuses() == ["failed", "pending"]
    assert await world.push() == 0
    await world.check()


# ------------------------------------------------------------------ recovery


async def test_an_endpoint_gets_what_it_missed(world: World, clock: ManualClock) -> None:
    await world.endpoint("a")
    early = await world.accept("x", "x")  # before the endpoint was there
    clock.advance(3600 * 3)
    since = clock.now()
    missed = await world.accept("x", "y")
    mine = await world.endpoint("b", event_types=["x"])
    clock.advance(1)
    world.answer = lambda event_id, url: NEVER if url[-1] == "b" else OK
    failed = await world.accept("x")
    await world.push()
    world.answer = OK
    taken = await world.accept("x")
    await world.push()
    world.sent.clear()
    found = await world.run(
        await world.start(since=since, endpoint_id=mine, include_missing=True, failed_only=True)
    )
    assert sorted((e, url[-1]) for e, url in world.sent) == [(missed[0], "b"), (failed[0], "b")]
    assert found["replayed"] == 2
    assert {*early, *taken}.isdisjoint(e for e, _ in world.sent)
    with pytest.raises(NotFound):
        await world.start(endpoint_id="end_x")
    await world.check()


# ------------------------------------------------------------------ all at once


@pytest.mark.parametrize("seed", range(3))
async def test_counts_hold_whatever_happens(world: World, clock: ManualClock, seed: int) -> None:
    luck = random.Random(seed)
    known = [
        await world.endpoint(
            str(n), on_dead=luck.choice(["halt", "continue"]), schedule=[1.0, 2.0], max_in_flight=8
        )
        for n in range(3)
    ]
    events: list[str] = []
    running: list[str] = []
    world.answer = lambda event_id, url: luck.choice([OK, OK, NEVER, LATER])
    for _ in range(120):
        match luck.randrange(9):
            case 0 | 1:
                key = luck.choice([None, "k1", "k2"])
                events += await world.accept(*["x"] * luck.randint(1, 5), key=key)
            case 2 if events:
                await world.again(luck.choice(events), include_missing=luck.random() < 0.5)
            case 3 if len(running) < 3:
                status = luck.choice([None, "failed", "delivered"])
                running.append(
                    await world.start(status=status, include_missing=luck.random() < 0.3)
                )
            case 4 if running:
                id_ = running.pop(luck.randrange(len(running)))
                await world.database.unit(lambda tx, id_=id_: replays.cancel(tx, "default", id_))
                while await world.database.unit(
                    lambda tx, id_=id_: replay.withdraw(tx, "default", id_, limit=3)
                ):
                    pass
            case 5 if events:
                doomed = events.pop(luck.randrange(len(events)))
                await world.database.unit(
                    lambda tx, doomed=doomed: erase.delete_event(tx, "default", doomed)
                )
            case 6:
                if len(known) < 5:
                    known.append(await world.endpoint(f"n{len(known)}", schedule=[1.0]))
            case _:
                await world.step(world.replay)
                await world.step(world.delivery)
        clock.advance(luck.choice([0.05, 1.0, 3.0]))
        await world.check()
    world.answer = OK
    # A queue that halted holds a replay up until somebody lets it go on.
    for id_ in known:
        await world.database.unit(
            lambda tx, id_=id_: endpoints.change(tx, "default", id_, {"on_dead": "continue"})
        )
    for id_ in running:
        clock.advance(40)
        assert (await world.run(id_))["status"] == "done"
    clock.advance(4000)
    await world.push()
    await world.check()
    for gate in await world.database.read(
        lambda tx: lanes.gates(tx, "deliveries", [f"delivery:{id_}" for id_ in known])
    ):
        assert gate.held == 0

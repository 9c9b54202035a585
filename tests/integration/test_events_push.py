"""Deliveries through the engine on both databases, with answers made up by the test."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from penstock.clock import SECOND, ManualClock
from penstock.events import endpoints, query, sign
from penstock.events.accept import Accepted, Acceptor, NewEvent
from penstock.events.http import Failure, Response
from penstock.events.policy import Policy
from penstock.events.push import delivery_kind
from penstock.events.settled import EventSettled
from penstock.secretbox import SecretBox
from penstock.storage import Database, Tx, sql
from penstock.work import ledger
from penstock.work.kinds import Claim, Kind, Task
from penstock.work.settlement import decide
from support.destinations import webhook

pytestmark = pytest.mark.anyio

BOX = SecretBox(["a key for the tests"])
OK = Response(200, {}, b"thanks", "203.0.113.7:443", 0.05)
BUSY = Response(503, {}, b"busy", "203.0.113.7:443", 0.05)
NO_ANSWER = Failure("timeout", "no answer in time", None, 10.0)
Answer = Response | Failure

LANE = sql("SELECT paused, open_at, consecutive, circuit FROM lanes WHERE id = :id")
ROW = sql("SELECT status, attempts, due_at, step FROM deliveries WHERE id = :id")


@dataclass
class Sent:
    url: str
    body: bytes
    headers: Mapping[str, str]
    timeout: float


@dataclass
class Bench:
    """The delivery kind on a database, stepped by hand."""

    database: Database
    clock: ManualClock
    answers: list[Answer] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    acceptor: Acceptor = field(default_factory=lambda: Acceptor(432_000.0))
    before_answer: Any = None

    def __post_init__(self) -> None:
        self.kind: Kind[Any] = delivery_kind(
            clock=self.clock,
            box=BOX,
            destinations=webhook(self._send, self.clock),
            policy=Policy(),
        )

    async def _send(
        self, url: str, body: bytes, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        self.sent.append(Sent(url, body, headers, timeout))
        if self.before_answer is not None:
            await self.before_answer()
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    async def endpoint(self, **fields: Any) -> str:
        defaults: dict[str, Any] = {
            "kind": "webhook",
            "target": "https://example.com/hook",
            "description": "",
            "event_types": ["*"],
            "timeout": 7.0,
            "schedule": None,
            "on_permanent": "long",
            "rate_limit": None,
            "max_in_flight": 32,
            "headers": None,
            "secret": BOX.seal(sign.generate_secret()),
        }
        return await self.database.unit(
            lambda tx: endpoints.create(tx, "default", **(defaults | fields))
        )

    async def accept(self, event: NewEvent | None = None) -> str:
        new = event or NewEvent("order.created", '{"b":1,"a":2}')
        (outcome,) = await self.database.unit(lambda tx: self.acceptor.accept(tx, "default", [new]))
        assert isinstance(outcome, Accepted)
        return outcome.event_id

    async def claim(self) -> tuple[Sequence[Claim], Mapping[str, Any]]:
        def take(tx: Tx) -> tuple[Sequence[Claim], Mapping[str, Any]]:
            lanes = [row[0] for row in tx.rows(sql("SELECT id FROM lanes"))]
            claims = ledger.claim(tx, self.kind, 100, lanes).claims
            return claims, self.kind.load(tx, claims) if claims else {}

        return await self.database.unit(take)

    async def step(self) -> int:
        """Claim, push and settle everything that is due; answers how many pushes."""
        claims, loaded = await self.claim()
        for claim in claims:
            await self.push(claim, loaded[claim.id])
        return len(claims)

    async def push(self, claim: Claim, data: Any) -> None:
        outcome = await self.kind.handle(Task(claim, data, 45.0))
        settlement = decide(self.kind, claim, outcome, self.clock.now())
        await self.database.unit(lambda tx: ledger.settle(tx, self.kind, [settlement]))

    async def event(self, event_id: str) -> dict[str, Any]:
        return await self.database.read(lambda tx: query.detail(tx, "default", event_id))

    async def view(self, endpoint_id: str) -> dict[str, Any]:
        return await self.database.read(lambda tx: endpoints.get(tx, "default", endpoint_id, BOX))

    async def one(self, statement: Any, **params: Any) -> tuple[Any, ...]:
        row = await self.database.read(lambda tx: tx.one(statement, **params))
        assert row is not None
        return row


@pytest.fixture
def bench(database: Database, clock: ManualClock) -> Bench:
    return Bench(database, clock)


async def test_a_delivery_is_made_and_recorded(bench: Bench, clock: ManualClock) -> None:
    await bench.endpoint(headers=endpoints.seal_headers(BOX, {"X-Team": "a"}))
    event_id = await bench.accept()
    notes: list[object] = []
    bench.database.subscribe(notes.extend)
    bench.answers = [OK]
    clock.advance(0.5)
    assert await bench.step() == 1
    (sent,) = bench.sent
    assert (sent.url, sent.timeout) == ("https://example.com/hook", 7.0)
    assert sent.headers["x-team"] == "a"
    assert b'"payload":{"b":1,"a":2},"metadata":null' in sent.body
    event = await bench.event(event_id)
    assert (event["status"], event["delivery_attempts"]) == ("delivered", 1)
    assert event["delivered_at"] > event["created_at"]
    (delivery,) = event["deliveries"]
    assert (delivery["status"], delivery["attempts"], delivery["why"]) == ("delivered", 1, None)
    assert delivery["finished_at"] == event["delivered_at"]
    (attempt,) = delivery["attempt_log"]
    assert attempt["number"] == 1
    assert (attempt["status_code"], attempt["error_kind"], attempt["error"]) == (200, None, None)
    assert (attempt["response"], attempt["address"]) == ("thanks", "203.0.113.7:443")
    assert attempt["started_at"] == event["delivered_at"]
    assert [n for n in notes if isinstance(n, EventSettled)] == [
        EventSettled(event_id, "delivered")
    ]
    assert await bench.step() == 0


async def test_three_failures_then_success_keep_the_gaps_the_id_and_the_bytes(
    bench: Bench, clock: ManualClock
) -> None:
    await bench.endpoint()
    event_id = await bench.accept()
    bench.answers = [BUSY, BUSY, BUSY, OK]
    await bench.step()
    for gap in (1.0, 2.0, 4.0):
        clock.advance(gap * 0.79)
        assert await bench.step() == 0
        event = await bench.event(event_id)
        assert event["deliveries"][0]["why"]["code"] == "retry_later"
        clock.advance(gap * 0.42)
        assert await bench.step() == 1
    event = await bench.event(event_id)
    assert (event["status"], event["delivery_attempts"]) == ("delivered", 4)
    log = event["deliveries"][0]["attempt_log"]
    assert [(a["number"], a["status_code"]) for a in log] == [
        (1, 503),
        (2, 503),
        (3, 503),
        (4, 200),
    ]
    assert {s.headers["webhook-id"] for s in bench.sent} == {event_id}
    assert len({s.body for s in bench.sent}) == 1
    assert len({s.headers["webhook-timestamp"] for s in bench.sent}) > 1


async def test_a_schedule_that_is_used_up_is_death(bench: Bench, clock: ManualClock) -> None:
    await bench.endpoint(schedule=[0.0, 1.0])
    event_id = await bench.accept()
    bench.answers = [NO_ANSWER]
    for _ in range(3):
        assert await bench.step() == 1
        clock.advance(2)
    assert await bench.step() == 0
    event = await bench.event(event_id)
    assert (event["status"], event["dead_deliveries"], event["delivery_attempts"]) == (
        "failed",
        1,
        3,
    )
    assert event["delivered_at"] is None
    (delivery,) = event["deliveries"]
    assert delivery["status"] == "dead"
    assert delivery["last_error"].startswith("exhausted after 3 attempts: timeout")
    assert [a["error_kind"] for a in delivery["attempt_log"]] == ["timeout"] * 3


async def test_an_event_is_failed_if_any_of_its_deliveries_died(bench: Bench) -> None:
    await bench.endpoint(on_permanent="dead")
    await bench.endpoint(on_permanent="dead")
    event_id = await bench.accept()
    bench.answers = [Response(404, {}, b"", None, 0.1), OK]
    claims, loaded = await bench.claim()
    await bench.push(claims[0], loaded[claims[0].id])
    assert (await bench.event(event_id))["status"] == "pending"
    await bench.push(claims[1], loaded[claims[1].id])
    event = await bench.event(event_id)
    assert (event["status"], event["dead_deliveries"], event["open_deliveries"]) == ("failed", 1, 0)
    assert event["message"] == "Failed: 1 delivery gave up."


async def test_a_permanent_answer_skips_the_quick_gaps_once_and_for_all(
    bench: Bench, clock: ManualClock
) -> None:
    await bench.endpoint()
    event_id = await bench.accept()
    bench.answers = [Response(302, {}, b"", None, 0.1)]
    waits = []
    while await bench.step():
        due = (await bench.event(event_id))["deliveries"][0]["next_attempt_at"]
        if due is None:
            break
        row = await bench.one(ROW, id=(await bench.event(event_id))["deliveries"][0]["delivery_id"])
        waits.append((row[2] - clock.now()) / SECOND)
        clock.advance(waits[-1])
    expected = [300, 1800, 7200, 18000, 36000, 36000]
    assert len(waits) == len(expected)
    for wait, gap in zip(waits, expected, strict=True):
        assert 0.8 * gap <= wait <= 1.2 * gap
    assert (await bench.event(event_id))["status"] == "failed"


async def test_410_disables_the_endpoint_and_leaves_its_other_deliveries(
    bench: Bench, clock: ManualClock
) -> None:
    endpoint_id = await bench.endpoint(max_in_flight=1)
    first, second = await bench.accept(), await bench.accept()
    bench.answers = [Response(410, {}, b"gone", None, 0.1)]
    assert await bench.step() == 1
    assert await bench.step() == 0
    view = await bench.view(endpoint_id)
    assert (view["enabled"], view["disabled_reason"]) == (False, "gone")
    states = {(await bench.event(e))["status"] for e in (first, second)}
    assert states == {"failed", "pending"}
    (waiting,) = [
        e["deliveries"][0]
        for e in [await bench.event(first), await bench.event(second)]
        if e["status"] == "pending"
    ]
    assert waiting["why"]["code"] == "endpoint_disabled"
    bench.answers = [OK]
    clock.advance(1)
    await bench.database.unit(lambda tx: endpoints.switch(tx, "default", endpoint_id, enabled=True))
    assert await bench.step() == 1
    assert (await bench.view(endpoint_id))["disabled_reason"] is None


async def test_a_late_410_does_not_disable_what_was_corrected_meanwhile(
    bench: Bench, clock: ManualClock
) -> None:
    endpoint_id = await bench.endpoint()
    await bench.accept()
    bench.answers = [Response(410, {}, b"", None, 0.1)]

    async def correct() -> None:
        clock.advance(0.1)
        await bench.database.unit(
            lambda tx: endpoints.change(
                tx, "default", endpoint_id, {"target": "https://example.com/new"}
            )
        )

    bench.before_answer = correct
    await bench.step()
    assert (await bench.view(endpoint_id))["enabled"] is True


async def test_retry_after_closes_the_lane_and_costs_the_others_no_attempt(
    bench: Bench, clock: ManualClock
) -> None:
    endpoint_id = await bench.endpoint(max_in_flight=1)
    first = await bench.accept()
    clock.advance(0.001)
    second = await bench.accept()
    bench.answers = [Response(429, {"retry-after": "120"}, b"", None, 0.1), OK]
    assert await bench.step() == 1
    clock.advance(119)
    assert await bench.step() == 0
    waiting = (await bench.event(second))["deliveries"][0]
    assert (waiting["attempts"], waiting["why"]["code"]) == (0, "receiver_asked_to_wait")
    clock.advance(1.1)
    assert await bench.step() == 1
    assert await bench.step() == 1
    for event_id in (first, second):
        assert (await bench.event(event_id))["status"] == "delivered"
    assert (await bench.one(LANE, id=f"delivery:{endpoint_id}"))[2:] == (0, "closed")


async def test_ten_failures_open_the_circuit_and_one_probe_closes_it(
    bench: Bench, clock: ManualClock
) -> None:
    endpoint_id = await bench.endpoint()
    events = [await bench.accept() for _ in range(10)]
    bench.answers = [NO_ANSWER]
    assert await bench.step() == 10
    late = await bench.accept()
    assert await bench.step() == 0
    assert (await bench.event(late))["deliveries"][0]["why"]["code"] == "circuit_open"
    clock.advance(31)
    bench.answers = [OK]
    assert await bench.step() == 1
    while await bench.step():
        pass
    for event_id in (*events, late):
        assert (await bench.event(event_id))["status"] == "delivered"
    assert (await bench.one(LANE, id=f"delivery:{endpoint_id}"))[3] == "closed"


async def test_refusals_of_the_guard_say_nothing_of_the_peer(bench: Bench) -> None:
    endpoint_id = await bench.endpoint()
    for _ in range(12):
        await bench.accept()
    bench.answers = [Failure("refused_by_guard", "loopback", None, 0.0)]
    assert await bench.step() == 12
    assert (await bench.one(LANE, id=f"delivery:{endpoint_id}"))[2:] == (0, "closed")


async def test_a_delivery_expires(bench: Bench, clock: ManualClock) -> None:
    endpoint_id = await bench.endpoint()
    event_id = await bench.accept()
    await bench.database.unit(
        lambda tx: endpoints.switch(tx, "default", endpoint_id, enabled=False)
    )
    clock.advance(5 * 86400 + 1)
    assert await bench.step() == 0
    await bench.database.unit(lambda tx: endpoints.switch(tx, "default", endpoint_id, enabled=True))
    assert await bench.step() == 1
    event = await bench.event(event_id)
    assert (event["status"], event["delivery_attempts"], bench.sent) == ("failed", 0, [])
    assert event["deliveries"][0]["last_error"].startswith("expired")


async def test_changes_of_an_endpoint_count_for_what_waits(
    bench: Bench, clock: ManualClock
) -> None:
    endpoint_id = await bench.endpoint()
    await bench.accept()
    bench.answers = [BUSY]
    await bench.step()
    clock.advance(2)
    await bench.database.unit(
        lambda tx: endpoints.change(
            tx, "default", endpoint_id, {"target": "https://example.com/b", "timeout": 3.0}
        )
    )
    assert await bench.step() == 1
    assert [(s.url, s.timeout) for s in bench.sent] == [
        ("https://example.com/hook", 7.0),
        ("https://example.com/b", 3.0),
    ]


async def test_both_secrets_sign_during_the_overlap(bench: Bench, clock: ManualClock) -> None:
    endpoint_id = await bench.endpoint()
    bench.answers = [OK]
    clock.advance(1)
    _, sealed = endpoints.new_secret(BOX)
    until = await bench.database.unit(
        lambda tx: endpoints.rotate(tx, "default", endpoint_id, sealed, 60)
    )
    assert until == clock.now() + 60 * SECOND
    await bench.accept()
    await bench.step()
    clock.advance(61)
    await bench.accept()
    await bench.step()
    assert [len(s.headers["webhook-signature"].split()) for s in bench.sent] == [2, 1]


async def test_what_waits_for_a_deleted_endpoint_ends_as_cancelled(bench: Bench) -> None:
    doomed, kept = await bench.endpoint(event_types=["a"]), await bench.endpoint()
    both = await bench.accept(NewEvent("a", "{}"))
    bench.answers = [OK]
    await bench.database.unit(lambda tx: endpoints.delete(tx, "default", doomed))
    assert await bench.step() == 2
    event = await bench.event(both)
    assert {(d["endpoint_id"], d["status"]) for d in event["deliveries"]} == {
        (doomed, "cancelled"),
        (kept, "delivered"),
    }
    assert (event["status"], event["open_deliveries"], len(bench.sent)) == ("delivered", 0, 1)


@pytest.mark.parametrize("answer", [OK, BUSY])
async def test_an_endpoint_deleted_during_the_push(bench: Bench, answer: Answer) -> None:
    doomed = await bench.endpoint()
    event_id = await bench.accept()
    bench.answers = [answer]

    async def delete() -> None:
        lane = await bench.database.unit(lambda tx: endpoints.delete(tx, "default", doomed))
        await bench.database.unit(lambda tx: endpoints.cancel_waiting(tx, lane))

    bench.before_answer = delete
    await bench.step()
    bench.before_answer = None
    bench.clock.advance(2)
    await bench.step()
    event = await bench.event(event_id)
    ended = event["deliveries"][0]["status"]
    assert (event["status"], ended) == (
        ("delivered", "delivered") if answer is OK else ("pending", "cancelled")
    )
    assert event["open_deliveries"] == 0


async def test_a_secret_that_cannot_be_opened_is_tried_again_and_hurts_nobody(
    bench: Bench, clock: ManualClock
) -> None:
    endpoint_id = await bench.endpoint(secret="sealed with a key that was lost")
    await bench.endpoint()
    event_id = await bench.accept()
    bench.answers = [OK]
    claims, loaded = await bench.claim()
    for claim in claims:
        try:
            await bench.push(claim, loaded[claim.id])
        except Exception as exc:
            outcome = bench.kind.classify(exc)
            settlement = decide(bench.kind, claim, outcome, clock.now())
            await bench.database.unit(
                lambda tx, s=settlement: ledger.settle(tx, bench.kind, [s])  # type: ignore[misc]
            )
    event = await bench.event(event_id)
    states = {d["endpoint_id"]: d["status"] for d in event["deliveries"]}
    assert states.pop(endpoint_id) == "pending"
    assert list(states.values()) == ["delivered"]


async def test_hostile_bytes_in_an_answer_are_stored_and_shown(bench: Bench) -> None:
    await bench.endpoint()
    event_id = await bench.accept()
    bench.answers = [Response(500, {}, b"\x00\xff\xfe", None, 0.1)]
    await bench.step()
    attempt = (await bench.event(event_id))["deliveries"][0]["attempt_log"][0]
    assert attempt["response_base64"] == "AP/+"
    assert attempt["response"] == "\x00\ufffd\ufffd"
    json.dumps(attempt)


async def test_the_pace_of_an_endpoint_is_kept(bench: Bench, clock: ManualClock) -> None:
    await bench.endpoint(rate_limit=2.0)
    events = [await bench.accept() for _ in range(3)]
    bench.answers = [OK]
    assert await bench.step() == 1
    codes = {(await bench.event(e))["status"] for e in events}
    assert codes == {"delivered", "pending"}
    pending = [e for e in events if (await bench.event(e))["status"] == "pending"]
    assert (await bench.event(pending[0]))["deliveries"][0]["why"]["code"] == "rate_limited"
    clock.advance(0.51)
    assert await bench.step() == 1

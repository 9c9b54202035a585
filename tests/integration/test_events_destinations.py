"""Endpoints of other kinds than webhooks: stored, checked, delivered, kept in the outbox."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any

import aiohttp
import pytest
import uvicorn

from penstock.api import keys
from penstock.api.app import create_app
from penstock.api.auth import Authenticator
from penstock.clock import ManualClock
from penstock.events import endpoints, query, replay, service, sign
from penstock.events.accept import Accepted, NewEvent
from penstock.events.destinations import outbox, sqs
from penstock.secretbox import SecretBox
from penstock.storage import Database, Tx, sql
from penstock.work import ledger
from penstock.work.kinds import Claim, Kind, Task
from penstock.work.outcomes import Done, Retry
from penstock.work.settlement import decide

pytestmark = pytest.mark.anyio

BOX = SecretBox(["a key for the tests"])
LANES = sql("SELECT id FROM lanes")
SECRET = sql("SELECT secret FROM endpoints WHERE id = :id")


@asynccontextmanager
async def built(database: Database, clock: ManualClock) -> AsyncIterator[service.Events]:
    events = service.build(
        database=database,
        clock=clock,
        box=BOX,
        allow=[ip_network("127.0.0.0/8")],
        slots=8,
        lease=60.0,
        schedule=[1.0],
        timeout=5.0,
        expiry=432_000.0,
        max_body=262_144,
        max_batch_body=5_242_880,
    )
    try:
        yield events
    finally:
        await events.close()


@pytest.fixture
async def events(database: Database, clock: ManualClock) -> AsyncIterator[service.Events]:
    async with built(database, clock) as made:
        yield made


async def endpoint(database: Database, kind: str, target: str, **fields: Any) -> str:
    given: dict[str, Any] = {
        "description": "",
        "event_types": ["*"],
        "timeout": 5.0,
        "schedule": None,
        "on_permanent": "long",
        "rate_limit": None,
        "max_in_flight": 32,
        "headers": None,
        "secret": "" if kind in ("email", "sms") else BOX.seal(sign.generate_secret()),
    } | fields
    return await database.unit(
        lambda tx: endpoints.create(tx, "default", kind=kind, target=target, **given)
    )


async def accept(events: service.Events, database: Database, payload: str = '{"n":1}') -> str:
    new = NewEvent("order.created", payload)
    (outcome,) = await database.unit(lambda tx: events.acceptor.accept(tx, "default", [new]))
    assert isinstance(outcome, Accepted)
    return outcome.event_id


async def claim(database: Database, kind: Kind[Any]) -> list[tuple[Claim, Any]]:
    def take(tx: Tx) -> list[tuple[Claim, Any]]:
        lanes = [row[0] for row in tx.rows(LANES)]
        claims = ledger.claim(tx, kind, 100, lanes).claims
        loaded = kind.load(tx, claims) if claims else {}
        return [(each, loaded[each.id]) for each in claims]

    return await database.unit(take)


async def settle(database: Database, kind: Kind[Any], held: Claim, data: Any) -> None:
    outcome = await kind.handle(Task(held, data, 45.0))
    settlement = decide(kind, held, outcome, 0)
    await database.unit(lambda tx: ledger.settle(tx, kind, [settlement]))


async def kept(database: Database, account: str = "default") -> list[dict[str, Any]]:
    return await database.read(lambda tx: outbox.page(tx, account, None, 100))


async def test_mail_and_texts_are_kept_and_count_as_delivered(
    database: Database, events: service.Events
) -> None:
    await endpoint(database, "email", "ada@example.org")
    await endpoint(database, "sms", "+14155552671")
    event_id = await accept(events, database, '{"message":"It is here: ✓"}')
    for held, data in await claim(database, events.kinds[0]):
        await settle(database, events.kinds[0], held, data)
    found = await database.read(lambda tx: query.detail(tx, "default", event_id))
    assert (found["status"], found["delivery_attempts"]) == ("delivered", 2)
    for delivery in found["deliveries"]:
        (attempt,) = delivery["attempt_log"]
        assert "outbox" in attempt["response"]
    text, mail = sorted(await kept(database), key=lambda row: str(row["kind"]), reverse=True)
    assert (text["kind"], text["target"], text["subject"]) == ("sms", "+14155552671", None)
    assert text["body"] == "It is here: ✓"
    assert (mail["kind"], mail["target"], mail["subject"]) == (
        "email",
        "ada@example.org",
        "order.created",
    )
    assert '"message": "It is here: ✓"' in mail["body"]
    by_id = {delivery["delivery_id"] for delivery in found["deliveries"]}
    assert {mail["delivery_id"], text["delivery_id"]} == by_id
    assert {mail["event_id"], text["event_id"]} == {event_id}
    assert await kept(database, "other") == []


async def test_a_worker_whose_lease_was_lost_keeps_nothing(
    database: Database, events: service.Events, clock: ManualClock
) -> None:
    kind = events.kinds[0]
    await endpoint(database, "email", "ada@example.org")
    await accept(events, database)
    ((late, data),) = await claim(database, kind)
    clock.advance(kind.lease + 1)
    await database.unit(lambda tx: ledger.sweep(tx, kind))
    clock.advance(1)
    ((held, again),) = await claim(database, kind)
    await settle(database, kind, late, data)
    assert await kept(database) == []
    await settle(database, kind, held, again)
    await settle(database, kind, held, again)
    assert len(await kept(database)) == 1


async def test_a_queue_is_told_the_key_and_which_sending_it_is(
    database: Database, events: service.Events, clock: ManualClock
) -> None:
    kind = events.kinds[0]
    await endpoint(database, "sqs", "https://sqs.eu-west-1.amazonaws.com/123456789012/a.fifo")
    keyed = NewEvent("order.created", "{}", ordering_key="customer 7")
    await database.unit(
        lambda tx: events.acceptor.accept(tx, "default", [keyed, NewEvent("order.paid", "{}")])
    )
    held = await claim(database, kind)
    assert {data.event_type: data.ordering_key for _, data in held} == {
        "order.created": "customer 7",
        "order.paid": None,
    }
    ((one, data),) = [each for each in held if each[1].ordering_key]
    clock.advance(1)
    lost = decide(kind, one, Retry(1.0, "timeout: no answer in time"), 0)
    await database.unit(lambda tx: ledger.settle(tx, kind, [lost]))
    clock.advance(2)
    ((one, again),) = await claim(database, kind)
    assert sqs.deduplication(again) == sqs.deduplication(data)
    await database.unit(lambda tx: ledger.settle(tx, kind, [decide(kind, one, Done(), 0)]))
    await database.unit(
        lambda tx: replay.replay_event(
            tx,
            "default",
            data.event_id,
            events.acceptor,
            endpoint_ids=None,
            include_missing=False,
            expiry=432_000.0,
        )
    )
    ((_, replayed),) = await claim(database, kind)
    assert replayed.delivery_id == data.delivery_id
    assert sqs.deduplication(replayed) != sqs.deduplication(data)
    assert sqs.group(replayed) == sqs.group(data)


async def test_the_outbox_goes_with_its_event(database: Database, events: service.Events) -> None:
    await endpoint(database, "sms", "+14155552671")
    event_id = await accept(events, database)
    for held, data in await claim(database, events.kinds[0]):
        await settle(database, events.kinds[0], held, data)
    assert len(await kept(database)) == 1
    await database.unit(lambda tx: tx.run(sql("DELETE FROM events WHERE id = :id"), id=event_id))
    assert await kept(database) == []


async def test_a_kind_that_this_process_does_not_know_is_left_to_another(
    database: Database, events: service.Events
) -> None:
    await endpoint(database, "pigeon", "coop 7")
    event_id = await accept(events, database)
    for held, data in await claim(database, events.kinds[0]):
        await settle(database, events.kinds[0], held, data)
    found = await database.read(lambda tx: query.detail(tx, "default", event_id))
    (delivery,) = found["deliveries"]
    assert delivery["status"] == "pending"
    assert "pigeon" in delivery["attempt_log"][0]["error"]


GOOD = ("+1234567", "+14155552671", "+999999999999999")
BAD = (
    "",
    "+",
    "+12",
    "+123456",
    "+1234567890123456",
    "+04155552671",
    "14155552671",
    "+14155552671\n",
    "\n+14155552671",
    "+1415555267\u0661",
    "+1 4155552671",
    "+1415555267a",
    "+14155552671 ",
    "++4155552671",
    "https://example.com/",
)
INSERT = sql("""
INSERT INTO endpoints (id, account, kind, target, event_types, timeout, on_permanent, secret,
                       enabled, lane, version, created_at, updated_at)
VALUES (:id, 'default', :kind, :target, '["*"]', 5, 'long', '', :yes, :id, 1, 1, 1)
""")
CHANGE = sql("UPDATE endpoints SET kind = 'sms', target = :target WHERE id = 'end_1'")


async def test_the_database_itself_refuses_what_is_no_telephone_number(
    database: Database,
) -> None:
    def write(tx: Tx, id_: str, kind: str, target: str) -> None:
        tx.run(INSERT, id=id_, kind=kind, target=target, yes=True)

    for number, target in enumerate(GOOD):
        await database.unit(lambda tx, n=number, t=target: write(tx, f"good_{n}", "sms", t))
    bad = (*BAD, "+1415555\x00267") if database.dialect == "sqlite" else BAD
    await database.unit(lambda tx: write(tx, "end_1", "webhook", "+12"))
    for target in bad:
        with pytest.raises(Exception, match=r"(?i)sms_target"):
            await database.unit(lambda tx, t=target: write(tx, "bad", "sms", t))
        with pytest.raises(Exception, match=r"(?i)sms_target"):
            await database.unit(lambda tx, t=target: tx.run(CHANGE, target=t))
    stored = await database.read(lambda tx: tx.rows(sql("SELECT id, target FROM endpoints")))
    assert sorted(stored) == [("end_1", "+12"), *((f"good_{n}", t) for n, t in enumerate(GOOD))]


class Api:
    """The API with a key of an account."""

    def __init__(self, session: aiohttp.ClientSession, secret: str) -> None:
        self._session = session
        self._headers = {"Authorization": f"Bearer {secret}"}

    async def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async with self._session.request(method, path, json=body, headers=self._headers) as answer:
            raw = await answer.read()
            return answer.status, json.loads(raw) if raw else None


@pytest.fixture
async def served(database: Database, events: service.Events) -> AsyncIterator[Any]:
    app = create_app(
        routers=events.routers,
        authenticator=Authenticator(database),
        database=database,
        version="0",
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # On a machine that pauses, an idle connection must not end just as it is used again.
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_keep_alive=600)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with aiohttp.ClientSession(address) as session:

            async def as_account(account: str, *scopes: str) -> Api:
                _, secret = await database.unit(
                    lambda tx: keys.create(tx, account, "test", scopes or None)
                )
                return Api(session, secret)

            yield as_account
        server.should_exit = True
        await task


async def test_targets_over_the_api(served: Any) -> None:
    api = await served("default")
    for kind, given, stored in (
        ("email", "Ada@EXAMPLE.org", "Ada@example.org"),
        ("sms", "+1 (415) 555-2671", "+14155552671"),
        (
            "sqs",
            "arn:aws:sqs:eu-west-1:123456789012:orders",
            "https://sqs.eu-west-1.amazonaws.com/123456789012/orders",
        ),
        ("webhook", "http://127.0.0.1:9", "http://127.0.0.1:9/"),
    ):
        status, made = await api("POST", "/v1/endpoints", {"kind": kind, "target": given})
        assert (status, made["kind"], made["target"]) == (201, kind, stored)
        where = f"/v1/endpoints/{made['endpoint_id']}"
        status, problem = await api("PATCH", where, {"target": "+12"})
        assert status == 422
        assert problem["errors" if kind != "webhook" else "code"]
        status, changed = await api("PATCH", where, {"target": stored, "timeout": 7})
        assert (status, changed["target"], changed["timeout"]) == (200, stored, 7)
        status, _ = await api("PATCH", where, {"headers": {"X-Team": "a"}})
        assert status == (200 if kind == "webhook" else 422)
        assert (await api("PATCH", where, {"headers": None}))[0] == 200
        assert (await api("PATCH", where, {"kind": "sms"}))[0] == 422


@pytest.mark.parametrize(
    "target", ["+12", "+14155552671\n", "+1415555267\u0661", "+1234567890123456", "4155552671"]
)
async def test_no_telephone_numbers(served: Any, target: str) -> None:
    api = await served("default")
    status, problem = await api("POST", "/v1/endpoints", {"kind": "sms", "target": target})
    assert (status, problem["code"]) == (422, "validation_failed")
    assert problem["errors"][0]["pointer"] == "/target"
    assert (await api("GET", "/v1/endpoints"))[1]["items"] == []


async def test_only_what_is_signed_has_a_secret(served: Any, database: Database) -> None:
    api = await served("default")
    arn = "arn:aws:sqs:eu-west-1:123456789012:orders"
    for kind, target, signs in (
        ("email", "ada@example.org", False),
        ("sms", "+14155552671", False),
        ("sqs", arn, True),
        ("webhook", "http://127.0.0.1:9", True),
    ):
        _, made = await api("POST", "/v1/endpoints", {"kind": kind, "target": target})
        where = f"/v1/endpoints/{made['endpoint_id']}"
        ((stored,),) = await database.read(
            lambda tx, id_=made["endpoint_id"]: tx.rows(SECRET, id=id_)
        )
        status, answer = await api("POST", f"{where}/secret/rotate")
        if signs:
            assert made["secret"].startswith("whsec_")
            assert status == 200
        else:
            assert made["secret"] is None
            assert stored == ""
            assert (status, answer["code"]) == (409, "not_signed")
            assert f"kind {kind} have no secret" in answer["detail"]
            # Nobody learns of a foreign endpoint's kind.
            stranger = await served("other")
            assert (await stranger("POST", f"{where}/secret/rotate"))[0] == 404
    assert (await api("GET", "/v1/endpoints"))[1]["items"][-1]["old_secret_until"] is None


async def test_a_kind_that_there_is_not(served: Any) -> None:
    api = await served("default")
    status, problem = await api("POST", "/v1/endpoints", {"kind": "fax", "target": "+14155552671"})
    assert (status, problem["errors"][0]["pointer"]) == (422, "/kind")
    assert "webhook, email, sms, sqs" in problem["detail"]
    new = {"kind": "email", "target": "ada@example.org", "headers": {"X-Team": "a"}}
    status, problem = await api("POST", "/v1/endpoints", new)
    assert (status, problem["errors"][0]["pointer"]) == (422, "/headers")


async def test_the_outbox_over_the_api(
    served: Any, database: Database, events: service.Events
) -> None:
    api = await served("default")
    await api("POST", "/v1/endpoints", {"kind": "email", "target": "ada@example.org"})
    sent = [await accept(events, database) for _ in range(3)]
    for held, data in await claim(database, events.kinds[0]):
        await settle(database, events.kinds[0], held, data)
    status, first = await api("GET", "/v1/outbox?limit=2")
    assert status == 200
    status, rest = await api("GET", f"/v1/outbox?limit=2&cursor={first['next_cursor']}")
    items = [*first["items"], *rest["items"]]
    assert sorted(item["event_id"] for item in items) == sorted(sent)
    assert rest["next_cursor"] is None
    ids = [item["outbox_id"] for item in items]
    assert ids == sorted(ids, reverse=True)
    assert items[0]["created_at"].endswith("Z")
    assert (await (await served("other"))("GET", "/v1/outbox"))[1]["items"] == []
    assert (await (await served("default", "events:write"))("GET", "/v1/outbox"))[0] == 403
    assert (await (await served("default", "endpoints:read"))("GET", "/v1/outbox"))[0] == 200

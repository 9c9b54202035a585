"""The handlers as Lambda calls them: in processes of the real runtime client, with SQS's events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from penstock.backends import KINDS
from penstock.storage import migrate as schema
from support.carriers import SECRET, SPOKEN, CarrierServer
from support.house import (
    counts,
    database_down,
    dead_letters,
    late,
    moving,
    note_dues,
    pass_time,
    refusing,
    until,
)
from support.lambda_account import QUEUES, Account, Gateway, call, key_of, request_of, wake
from support.lambda_runtime import Function, event_of, map_events
from support.receiver import Receiver, Reply
from support.sqs_queue import Mischief
from support.sqs_server import running

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]

COUNTED = "support.lambda_counted"


@pytest.fixture
async def account(new_postgres: Callable[[], str], tmp_path: Path) -> AsyncIterator[Account]:
    with running(seed=3) as sqs:
        async with AsyncExitStack() as stack:
            yield Account(sqs, new_postgres(), tmp_path, stack)


@pytest.fixture
async def house(account: Account) -> tuple[Account, Gateway]:
    """Migrated, with an API that takes what others are to work off."""
    await asyncio.to_thread(schema.upgrade, account.url)
    return account, Gateway(await account.function("api"), await key_of(account))


async def test_the_whole_story(account: Account, receiver: Receiver) -> None:
    """Migrated, accepted over API Gateway, delivered by a worker after retries, swept."""
    account.env["PENSTOCK_DELIVERY_SCHEDULE"] = "500ms,1s,2s,1h"
    migrate = await account.function("migrate")
    done = await migrate.invoke({})
    assert done.error is None
    assert done.payload == {"from_revision": None, "to_revision": schema.head()}
    assert (await migrate.invoke({})).payload["from_revision"] == schema.head()

    api = Gateway(await account.function("api"), await key_of(account))
    await api.endpoint(refusing(receiver, "/hook", retries=3), "*")
    note_dues(account.url)
    event_id = await api.send("a", {"n": 1})
    # The wake had left when the answer was given: a frozen function sends nothing.
    assert counts(account.sqs, "events")[0] == 1

    worker, stop = await account.function("events_worker"), asyncio.Event()
    mapping = asyncio.create_task(map_events(account.sqs, "events", worker, stop))
    # A machine that stands still for a moment makes an event late, but not one after the other.
    for events in range(1, 7):
        told = await api.final(event_id)
        assert (told["status"], told["delivery_attempts"]) == ("delivered", 4)
        # Due in parts of a second, in about one and in about two: each wake comes within a second.
        seconds = late(account.url, receiver, "/hook", event_id)
        assert len(seconds) == 3
        assert min(seconds) >= 0
        if max(seconds) < 1.0:
            break
        assert events < 6, seconds
        event_id = await api.send("a", {"n": 1})
    stop.set()
    await mapping
    assert worker.starts == 1

    sweeper = await account.function("sweeper")
    swept = await sweeper.invoke({})
    assert {"sweep", "gauges"} < set(swept.payload["ran"])
    assert any(name.startswith("prune") for name in swept.payload["ran"])
    again = await sweeper.invoke({})
    assert not any(name.startswith("prune") for name in again.payload["ran"])  # daily
    dispatcher = await account.function("dispatcher")
    assert (await dispatcher.invoke({})).error is None
    assert counts(account.sqs, "events") == (0, 0, 0)
    assert counts(account.sqs, "events-dead") == (0, 0, 0)
    _metrics_were_sent(worker, sweeper, events)


def _metrics_were_sent(worker: Function, sweeper: Function, events: int) -> None:
    """By each invocation what happened in it: what was delivered, and what is owed."""
    assert worker.metrics("DeliverySuccess") == [({}, 1)] * events
    assert sum(value for _, value in worker.metrics("DeliveryRetry")) == 3 * events
    assert [len(latency) for _, latency in worker.metrics("DeliveryLatency")] == [1] * events
    kinds = {kind for service in ("jobs", "events", "tracking") for kind in KINDS[service]}
    for name in ("DueRows", "OldestDueAge", "DeadRows", "LanesOpen"):
        found = sweeper.metrics(name)
        assert {of["kind"] for of, _ in found} == kinds
        assert {value for _, value in found} == {0}
    depths = {of["queue"]: value for of, value in sweeper.metrics("DlqDepth")}
    assert depths == dict.fromkeys((f"{name}-dead" for name in QUEUES), 0)


async def test_answers_of_the_api(account: Account) -> None:
    """These processes are started the long way, by a Python that knows nothing yet."""
    api = await account.function("api", forked=False)
    await (await account.function("migrate", forked=False)).invoke({})
    live = await call(api, None, "GET", "/health/live")
    assert json.loads(live["body"]) == {"status": "live"}
    deadline = time.monotonic() + 60  # a check that takes more than two seconds fails
    while (ready := await call(api, None, "GET", "/health/ready"))["statusCode"] != 200:
        assert time.monotonic() < deadline, ready
    nobody = await call(api, None, "GET", "/v1/events")
    assert nobody["statusCode"] == 401
    assert nobody["headers"]["content-type"] == "application/problem+json"
    assert nobody["isBase64Encoded"] is False
    assert json.loads(nobody["body"])["code"] == "unauthenticated"
    key = await key_of(account)
    broken = await call(api, key, "POST", "/v1/events", None, body="{")
    assert json.loads(broken["body"])["code"] == "malformed_json"
    assert api.starts == 1


async def test_what_cannot_be_read_and_what_others_will(house: tuple[Account, Gateway]) -> None:
    account, _ = house
    worker = await account.function("events_worker", forked=False)
    answer = await worker.invoke(
        event_of(
            "rm -rf",
            wake("gone"),
            wake("a", "prediction"),
            json.dumps({"v": 2, "kind": "delivery", "lane": "a"}),
            wake("gone"),
        )
    )
    assert answer.error is None
    # The unknown kinds are left to a newer version; the rest has been done, though nothing was due.
    returned = [item["itemIdentifier"] for item in answer.payload["batchItemFailures"]]
    assert returned == ["m2", "m3"]
    (bad,) = worker.logged("message_validation_failed")
    assert (bad["message_id"], bad["body"], bad["queue"]) == ("m0", "rm -rf", "events")
    assert len(worker.logged("message_left")) == 2
    assert worker.logged("lane_unknown")


async def test_invocations_share_an_environment_and_leak_nothing(
    house: tuple[Account, Gateway], receiver: Receiver
) -> None:
    """500 of a worker and as many of the API: one in ten has something to deliver."""
    account, _ = house
    tests = str(Path(__file__).parents[1])
    worker = await account.function("events_worker", module=COUNTED, PYTHONPATH=tests)
    front = await account.function("api", module=COUNTED, PYTHONPATH=tests)
    api = Gateway(front, await key_of(account))
    await api.endpoint(receiver.url("/hook"), "a", max_in_flight=1)
    (lane,) = account.lanes

    async def invoke(times: int) -> list[Any]:
        for n in range(times):
            await (api.send("a") if n % 10 == 0 else api.ok("GET", "/v1/events?limit=1"))
            answer = await worker.invoke(event_of(wake(lane), wake("gone")))
            assert answer.payload == {"batchItemFailures": []}
        # What is left when the last has returned is what a frozen process would keep.
        await worker.invoke({**event_of(wake(lane)), "count": True})
        await front.invoke({**request_of(api.key, "GET", "/v1/events"), "count": True})
        ((connections,),) = account.rows(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND backend_type = 'client backend'"  # nor is PostgreSQL's own vacuum counted
        )
        held = [each.logged("counted")[-1] for each in (worker, front)]
        return [connections, *held]

    before = await invoke(30)
    after = await invoke(500)
    for held in (*before[1:], *after[1:]):
        assert (held["loops"], held["tasks"]) == (1, 0)
        assert held.pop("timers") <= 2  # of connections that are kept open for a while
    # Each process keeps up to two connections, which it may have opened by the first count or not;
    # what leaked with each invocation, or with each that delivers, would be 500 or 50.
    assert after[0] <= 5
    for earlier, later in zip(before[1:], after[1:], strict=True):
        assert all(later[name] - earlier[name] <= 2 for name in ("files", "threads")), after
    assert len(receiver.at("/hook")) == 53
    assert (worker.starts, front.starts) == (1, 1)


async def test_a_batch_that_takes_too_long_is_given_back_in_time(
    house: tuple[Account, Gateway], receiver: Receiver
) -> None:
    """Handlers are cancelled before Lambda ends the process: nothing is lost, nothing counts.

    A machine that is too busy for a function with little time has to manage it with more.
    """
    account, api = house
    receiver.script("/slow", [Reply(gate=asyncio.Event())])
    for timeout in (3.0, 6.0, 12.0, 24.0):
        topic = f"within{timeout}"
        await api.endpoint(receiver.url("/slow"), topic, max_in_flight=2, timeout=30)
        for n in range(5):
            await api.send(topic, {"n": n})
        lane = account.lanes[-1]
        account.sqs.sync(account.sqs.queue("events").purge)
        worker = await account.function("events_worker", timeout=timeout)
        await worker.invoke(event_of())  # the environment starts
        begun = receiver.begun
        answer = await worker.invoke(event_of(wake(lane)))
        if answer.error is None and not answer.payload["batchItemFailures"]:
            break
    assert answer.error is None
    assert answer.seconds < timeout
    assert answer.payload == {"batchItemFailures": []}
    assert receiver.begun == begun + 2
    owed = account.rows(
        "SELECT due_at IS NOT NULL, lease_until, attempts, lapses FROM deliveries"
        f" WHERE lane = '{lane}'"
    )
    assert owed == [(True, None, 0, 0)] * 5  # all are owed, none is held
    # Somebody will look again, and not only once the sweeper comes by.
    assert counts(account.sqs, "events")[0] >= 1


async def test_an_environment_that_is_killed_loses_nothing(
    house: tuple[Account, Gateway], receiver: Receiver
) -> None:
    account, api = house
    receiver.script("/stuck", [Reply(gate=asyncio.Event())])
    await api.endpoint(receiver.url("/stuck"), "a", timeout=30)
    event_id = await api.send("a")
    (lane,) = account.lanes
    worker = await account.function("events_worker", timeout=60.0)
    invoking = asyncio.create_task(worker.invoke(event_of(wake(lane))))
    await receiver.until(lambda: receiver.begun == 1, 60)
    await worker.kill()
    assert (await invoking).error == "Runtime.ExitError"
    ((lease,),) = account.rows(
        "SELECT (lease_until - extract(epoch FROM now()) * 1e6) / 1e6 FROM deliveries"
    )
    assert 40 < lease <= 65  # until a little after the invocation would have ended
    account.rows("UPDATE deliveries SET lease_until = 1")  # that time passes
    receiver.script("/stuck", [200])
    sweeper = await account.function("sweeper")
    assert "sweep" in (await sweeper.invoke({})).payload["ran"]
    stop = asyncio.Event()
    mapping = asyncio.create_task(map_events(account.sqs, "events", worker, stop))
    assert (await api.final(event_id))["status"] == "delivered"
    stop.set()
    await mapping
    assert worker.starts == 2


async def test_an_outage_of_the_database(account: Account, receiver: Receiver) -> None:
    """Every message comes again; when the database is back, so is the environment."""
    await (await account.function("migrate")).invoke({})
    worker, api = await account.function("events_worker"), await account.function("api")
    fine = await worker.invoke(event_of(wake("a")))
    assert fine.payload == {"batchItemFailures": []}
    key = await key_of(account)
    assert (await call(api, key, "GET", "/v1/events"))["statusCode"] == 200
    with database_down(account.url):
        down, refused = await asyncio.gather(
            worker.invoke(event_of(wake("a"), wake("b"))), call(api, key, "GET", "/v1/events")
        )
        assert down.error is None
        failed = [item["itemIdentifier"] for item in down.payload["batchItemFailures"]]
        assert failed == ["m0", "m1"]
        assert worker.logged("invocation_failed")
        assert refused["statusCode"] == 503
        assert json.loads(refused["body"])["code"] == "storage_unavailable"
    deadline = time.monotonic() + 60
    while (await worker.invoke(event_of(wake("a")))).payload["batchItemFailures"]:
        assert time.monotonic() < deadline
    assert (await call(api, key, "GET", "/v1/events"))["statusCode"] == 200
    assert (worker.starts, api.starts) == (1, 1)


async def test_messages_lost_doubled_and_shuffled(
    house: tuple[Account, Gateway], receiver: Receiver
) -> None:
    account, api = house
    account.sqs.queue("events").mischief = Mischief(lose=0.2, duplicate=0.3, reorder=True)
    hooks = [f"/hook{n}" for n in range(6)]
    for n, hook in enumerate(hooks):
        await api.endpoint(receiver.url(hook), f"topic{n}")
    sent = [await api.send(f"topic{n % 6}", {"n": n}) for n in range(30)]
    functions = [await account.function("events_worker"), await account.function("tracking_worker")]
    sweeper = await account.function("sweeper")
    stop = asyncio.Event()
    mappings = [
        asyncio.create_task(map_events(account.sqs, "events", each, stop)) for each in functions
    ]
    deadline = time.monotonic() + 90
    while {push.id for push in receiver.received} < set(sent):
        assert time.monotonic() < deadline
        account.rows("UPDATE lanes SET woken_at = woken_at - 61000000")  # a minute passes
        await sweeper.invoke({})
    stop.set()
    await asyncio.gather(*mappings)
    assert sorted(push.id for push in receiver.received) == sorted(sent)  # each once
    for id_ in sent:
        assert (await api.final(id_))["status"] == "delivered"
    assert counts(account.sqs, "events-dead") == (0, 0, 0)


async def test_half_an_hour_behind_open_circuits_makes_no_dead_letters(
    new_postgres: Callable[[], str], tmp_path: Path, receiver: Receiver
) -> None:
    """An endpoint and a carrier are down for 30 minutes; three receives would bury a message."""
    async with AsyncExitStack() as stack:
        carrier = await stack.enter_async_context(CarrierServer())
        sqs = stack.enter_context(running(seed=3))
        account = Account(sqs, new_postgres(), tmp_path, stack, receives=3)
        account.env |= {
            "PENSTOCK_SWEEP_INTERVAL": "100ms",  # each call is a minute later
            "PENSTOCK_DELIVERY_SCHEDULE": "100ms,100ms,1h",
            "PENSTOCK_DHL_API_KEY": SECRET,
            "PENSTOCK_DHL_URL": carrier.url,
            "PENSTOCK_DHL_CALLS_PER_SECOND": "100",
            "PENSTOCK_DHL_CALLS_PER_DAY": "1000000",
        }
        await asyncio.to_thread(schema.upgrade, account.url)
        api = Gateway(await account.function("api"), await key_of(account))
        dhl = SPOKEN["dhl"]
        carrier.answers(dhl.error(503))
        receiver.script("/down", [500])
        await api.endpoint(receiver.url("/down"), "a")
        sent = [await api.send("a", {"n": n}) for n in range(20)]
        for n in range(10, 20):
            body = {"carrier": "dhl", "tracking_number": f"33188100{n}"}
            await api.ok("POST", "/v1/shipments", body)
        stop = asyncio.Event()
        events, tracking, sweeper, dispatcher = [
            await account.function(name)
            for name in ("events_worker", "tracking_worker", "sweeper", "dispatcher")
        ]
        mappings = [
            asyncio.create_task(map_events(sqs, "events", events, stop)),
            asyncio.create_task(map_events(sqs, "tracking", tracking, stop)),
        ]

        async def minutes(number: int) -> None:
            for _ in range(number):
                await asyncio.to_thread(pass_time, sqs, account.url, 61)
                await sweeper.invoke({})
                await until(lambda: not moving(sqs, QUEUES))

        opened = "SELECT lane FROM circuit_log WHERE state = 'open'"
        deadline = time.monotonic() + 60
        while len(set(account.rows(opened))) < 2:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        await minutes(30)
        await dispatcher.invoke({})  # as each hour: it says again what everybody knows
        # Each is probed, and opened again for longer; on a busy machine not in each minute.
        more = 0
        while len(account.rows(opened)) < 8:
            assert more < 170
            await minutes(1)
            more += 1
        assert dead_letters(sqs, QUEUES) == 0
        assert account.rows("SELECT DISTINCT status FROM deliveries") == [("pending",)]

        receiver.script("/down", [200])
        carrier.answers(dhl.found)
        owed = (
            "SELECT id FROM deliveries WHERE status = 'pending'"
            " UNION ALL SELECT id FROM shipments WHERE tracking_status = 'pending'"
        )
        deadline = time.monotonic() + 60
        while account.rows(owed):
            assert time.monotonic() < deadline
            await minutes(5)
        stop.set()
        await asyncio.gather(*mappings)
        assert dead_letters(sqs, QUEUES) == 0
        for id_ in sent:
            assert (await api.event(id_))["status"] == "delivered"
        assert account.rows("SELECT sum(lapses) FROM deliveries") == [(0,)]


async def test_a_missing_setting_is_named(account: Account) -> None:
    await (await account.function("migrate")).invoke({})
    worker = await account.function("events_worker", PENSTOCK_SQS_EVENTS_QUEUE_URL="")
    answer = await worker.invoke(event_of(wake("a")))
    assert answer.error is not None
    assert "PENSTOCK_SQS_EVENTS_QUEUE_URL is missing" in answer.payload["errorMessage"]

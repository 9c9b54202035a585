"""The handlers as Lambda calls them: in processes of the real runtime client, with SQS's events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from penstock.storage import migrate as schema
from support.lambda_runtime import Function, event_of, map_events, open_files, threads
from support.receiver import Receiver, Reply
from support.sqs_queue import Mischief
from support.sqs_server import ENVIRONMENT, REGION, SqsServer, running

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]

HANDLERS = "penstock.aws.lambda_handlers"


class Account:
    """A database, queues, and functions on both."""

    def __init__(self, sqs: SqsServer, url: str, folder: Path, stack: AsyncExitStack) -> None:
        self.sqs = sqs
        self.url = url
        self._folder = folder
        self._stack = stack
        self.env = {
            **ENVIRONMENT,
            "PENSTOCK_DATABASE_URL": url,
            "PENSTOCK_DATABASE_THREADS": "2",
            "PENSTOCK_SECRET_KEY": "s" * 32,
            "PENSTOCK_WAKEUPS": "sqs",
            "PENSTOCK_SERVICES": "events",
            "PENSTOCK_AWS_REGION": REGION,
            "PENSTOCK_AWS_ENDPOINT_URL": sqs.url,
            "PENSTOCK_LOG_FORMAT": "json",
            "PENSTOCK_METRICS": "emf",
            "PENSTOCK_METRICS_NAMESPACE": "Penstock/test",
            "PENSTOCK_LOG_LEVEL": "debug",
            "PENSTOCK_ALLOW_PRIVATE_TARGETS": "127.0.0.0/8",
        }
        for name in ("events", "jobs"):
            self.env[f"PENSTOCK_SQS_{name.upper()}_QUEUE_URL"] = sqs.sync(
                lambda name=name: sqs.create(  # type: ignore[misc]
                    name, dlq=f"{name}-dead", receives=10, VisibilityTimeout=360
                )
            )

    async def function(self, handler: str, *, timeout: float = 60.0, **env: str) -> Function:
        made = Function(
            f"{HANDLERS}.{handler}",
            self._folder / handler,
            self.env | env,
            timeout=timeout,
        )
        return await self._stack.enter_async_context(made)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(query)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    @property
    def lanes(self) -> list[str]:
        return [lane for (lane,) in self.rows("SELECT id FROM lanes ORDER BY id")]


def wake(lane: str, kind: str = "delivery") -> str:
    return json.dumps({"v": 1, "kind": kind, "lane": lane})


@pytest.fixture
async def account(new_postgres: Callable[[], str], tmp_path: Path) -> AsyncIterator[Account]:
    with running(seed=3) as sqs:
        async with AsyncExitStack() as stack:
            yield Account(sqs, new_postgres(), tmp_path, stack)


class Gateway:
    """The HTTP API behind API Gateway, as the owner of a key."""

    def __init__(self, function: Function, key: str) -> None:
        self.function = function
        self.key = key

    async def ok(self, method: str, path: str, body: Any = None) -> Any:
        answer = await _call(self.function, self.key, method, path, body)
        assert answer["statusCode"] < 300, answer
        return json.loads(answer["body"])

    async def endpoint(self, target: str, *event_types: str, **fields: Any) -> None:
        body = {"target": target, "event_types": list(event_types), **fields}
        await self.ok("POST", "/v1/endpoints", body)

    async def send(self, event_type: str, payload: Any = None) -> str:
        body = {"event_type": event_type, "payload": payload or {}}
        return str((await self.ok("POST", "/v1/events", body))["event_id"])

    async def event(self, event_id: str) -> Any:
        return await self.ok("GET", f"/v1/events/{event_id}")

    async def final(self, event_id: str, seconds: float = 60.0) -> Any:
        deadline = time.monotonic() + seconds
        while (found := await self.event(event_id))["status"] == "pending":
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.05)
        return found


@pytest.fixture
async def house(account: Account) -> tuple[Account, Gateway]:
    """Migrated, with an API that takes what others are to work off."""
    await asyncio.to_thread(schema.upgrade, account.url)
    return account, Gateway(await account.function("api"), await _key(account))


async def test_the_whole_story(account: Account, receiver: Receiver) -> None:
    """Migrated, accepted over API Gateway, delivered by a worker after a retry, swept."""
    migrate = await account.function("migrate")
    done = await migrate.invoke({})
    assert done.error is None
    assert done.payload == {"from_revision": None, "to_revision": schema.head()}
    assert (await migrate.invoke({})).payload["from_revision"] == schema.head()

    api = Gateway(await account.function("api"), await _key(account))
    await api.endpoint(receiver.script("/hook", [500, 200]), "*")
    event_id = await api.send("a", {"n": 1})
    # The wake had left when the answer was given: a frozen function sends nothing.
    assert account.sqs.queue("events").counts()[0] == 1

    worker, stop = await account.function("events_worker"), asyncio.Event()
    mapping = asyncio.create_task(map_events(account.sqs, "events", worker, stop))
    await receiver.arrived("/hook", 2, 60)
    told = await api.final(event_id)
    stop.set()
    await mapping
    assert (told["status"], told["delivery_attempts"]) == ("delivered", 2)
    first, second = receiver.at("/hook")
    assert 0.8 <= second.at - first.at < 1.2 + 1.0
    assert worker.starts == 1

    sweeper = await account.function("sweeper")
    swept = await sweeper.invoke({})
    assert {"sweep", "gauges"} < set(swept.payload["ran"])
    assert any(name.startswith("prune") for name in swept.payload["ran"])
    again = await sweeper.invoke({})
    assert not any(name.startswith("prune") for name in again.payload["ran"])  # daily
    dispatcher = await account.function("dispatcher")
    assert (await dispatcher.invoke({})).error is None
    assert account.sqs.queue("events").counts() == (0, 0, 0)
    assert account.sqs.queue("events-dead").counts() == (0, 0, 0)
    _metrics_were_sent(worker, sweeper)


def _metrics_were_sent(worker: Function, sweeper: Function) -> None:
    """By each invocation what happened in it: what was delivered, and what is owed."""
    pushed = worker.metrics("DeliverySuccess")
    assert pushed == [({}, 1)]
    assert worker.metrics("DeliveryRetry") == [({}, 1)]
    ((_, latency),) = worker.metrics("DeliveryLatency")
    assert len(latency) == 1
    # Once in the first invocation; the second came within the same quarter of a minute.
    kinds = {"job", "delivery", "fanout", "replay"}
    for name in ("DueRows", "OldestDueAge", "DeadRows", "LanesOpen"):
        assert {of["kind"] for of, _ in sweeper.metrics(name)} == kinds
        assert [value for _, value in sweeper.metrics(name)] == [0] * len(kinds)
    depths = {of["queue"]: value for of, value in sweeper.metrics("DlqDepth")}
    assert depths == {"events-dead": 0, "jobs-dead": 0}


async def test_answers_of_the_api(account: Account) -> None:
    api = await account.function("api")
    await (await account.function("migrate")).invoke({})
    live = await _call(api, None, "GET", "/health/live")
    assert json.loads(live["body"]) == {"status": "live"}
    ready = await _call(api, None, "GET", "/health/ready")
    assert ready["statusCode"] == 200
    nobody = await _call(api, None, "GET", "/v1/events")
    assert nobody["statusCode"] == 401
    assert nobody["headers"]["content-type"] == "application/problem+json"
    assert nobody["isBase64Encoded"] is False
    assert json.loads(nobody["body"])["code"] == "unauthenticated"
    key = await _key(account)
    broken = await _call(api, key, "POST", "/v1/events", None, body="{")
    assert json.loads(broken["body"])["code"] == "malformed_json"
    assert api.starts == 1


async def test_what_cannot_be_read_and_what_others_will(house: tuple[Account, Gateway]) -> None:
    account, _ = house
    worker = await account.function("events_worker")
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
    account, api = house
    await api.endpoint(receiver.url("/hook"), "a", max_in_flight=1)
    worker = await account.function("events_worker")
    (lane,) = account.lanes
    await api.send("a")
    await worker.invoke(event_of(wake(lane)))
    await receiver.arrived("/hook")

    async def invoke(times: int) -> tuple[int, int, int]:
        for _ in range(times):
            answer = await worker.invoke(event_of(wake(lane), wake("gone")))
            assert answer.payload == {"batchItemFailures": []}
        ((connections,),) = account.rows(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        )
        return open_files(worker.pid), threads(worker.pid), connections

    before = await invoke(30)
    after = await invoke(500)
    assert worker.starts == 1
    assert after == before


async def test_a_batch_that_takes_too_long_is_given_back_in_time(
    house: tuple[Account, Gateway], receiver: Receiver
) -> None:
    """Handlers are cancelled before Lambda ends the process: nothing is lost, nothing counts."""
    account, api = house
    receiver.script("/slow", [Reply(delay=30)])
    await api.endpoint(receiver.url("/slow"), "a", max_in_flight=2, timeout=30)
    for n in range(5):
        await api.send("a", {"n": n})
    (lane,) = account.lanes
    account.sqs.queue("events").purge()
    worker = await account.function("events_worker", timeout=8.0)
    await worker.invoke(event_of())  # the environment starts
    answer = await worker.invoke(event_of(wake(lane)))
    assert answer.error is None
    assert answer.seconds < 8
    assert answer.payload == {"batchItemFailures": []}
    held = account.rows("SELECT lease_until, attempts, lapses FROM deliveries WHERE due_at IS NULL")
    assert held == []  # all are owed, none is held
    assert account.rows("SELECT DISTINCT attempts, lapses FROM deliveries") == [(0, 0)]
    # Somebody will look again, and not only once the sweeper comes by.
    assert account.sqs.queue("events").counts()[0] >= 1


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
    key = await _key(account)
    assert (await _call(api, key, "GET", "/v1/events"))["statusCode"] == 200
    name = account.url.partition("?")[0].rpartition("/")[2]
    server = account.url.replace(f"/{name}", "/postgres")
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )
        down = await worker.invoke(event_of(wake("a"), wake("b")))
        assert down.error is None
        failed = [item["itemIdentifier"] for item in down.payload["batchItemFailures"]]
        assert failed == ["m0", "m1"]
        assert worker.logged("invocation_failed")
        refused = await _call(api, key, "GET", "/v1/events")
        assert refused["statusCode"] == 503
        assert json.loads(refused["body"])["code"] == "storage_unavailable"
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
    deadline = time.monotonic() + 60
    while (await worker.invoke(event_of(wake("a")))).payload["batchItemFailures"]:
        assert time.monotonic() < deadline
    assert (await _call(api, key, "GET", "/v1/events"))["statusCode"] == 200
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
    assert account.sqs.queue("events-dead").counts() == (0, 0, 0)


async def test_a_missing_setting_is_named(account: Account) -> None:
    await (await account.function("migrate")).invoke({})
    worker = await account.function("events_worker", PENSTOCK_SQS_EVENTS_QUEUE_URL="")
    answer = await worker.invoke(event_of(wake("a")))
    assert answer.error is not None
    assert "PENSTOCK_SQS_EVENTS_QUEUE_URL is missing" in answer.payload["errorMessage"]


# ------------------------------------------------------------------ helpers


async def _key(account: Account) -> str:
    from penstock.api import keys
    from penstock.clock import SystemClock
    from penstock.storage.postgres import PostgresDatabase

    database = PostgresDatabase(account.url, SystemClock())
    await database.open()
    try:
        _, secret = await database.unit(lambda tx: keys.create(tx, "default", "k", None))
    finally:
        await database.close()
    return secret


async def _call(
    function: Function,
    key: str | None,
    method: str,
    path: str,
    document: Any = None,
    *,
    body: str | None = None,
) -> dict[str, Any]:
    """A request as API Gateway's HTTP API passes it on, in payload format 2.0."""
    headers = {"host": "api.example.com", "content-type": "application/json"}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": headers,
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "api",
            "domainName": "api.example.com",
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "203.0.113.7",
                "userAgent": "test",
            },
            "requestId": "r",
            "routeKey": "$default",
            "stage": "$default",
            "time": "01/Jan/2026:00:00:00 +0000",
            "timeEpoch": 1767225600000,
        },
        "body": json.dumps(document) if body is None and document is not None else body,
        "isBase64Encoded": False,
    }
    answer = await function.invoke(event)
    assert answer.error is None, answer
    found: dict[str, Any] = answer.payload
    return found

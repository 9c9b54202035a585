"""The whole service over HTTP: posted to the API, pushed by a worker to a receiver here."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from aiohttp import web
from standardwebhooks import Webhook

from penstock.api.app import create_app
from penstock.api.auth import Authenticator
from penstock.clock import SystemClock
from penstock.events import service
from penstock.events.policy import DEFAULT_SCHEDULE
from penstock.secretbox import SecretBox
from penstock.storage import Database
from penstock.storage.sqlite import SqliteDatabase
from penstock.work.waker import Waker
from penstock.work.wakeups.local import LocalWakeups
from penstock.work.worker import Worker

pytestmark = pytest.mark.anyio

TOKEN = "admin-token-of-the-tests-0123456789"
TIMEOUT = 30.0  # seconds that a push may take, by itself; a busy machine needs some


@dataclass
class Receiver:
    """Answers with what the test says, once `gate` is set; 200 at once unless told."""

    url: str
    gate: asyncio.Event | None = None
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answer: Callable[[], web.Response] = web.Response


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    async def take(request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        made.got.append((headers, await request.read()))
        if made.gate is not None:
            await made.gate.wait()
        return made.answer()

    app = web.Application()
    app.router.add_post("/hook", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    made = Receiver(f"http://127.0.0.1:{port}/hook")
    try:
        yield made
    finally:
        await runner.cleanup()


@dataclass
class Api:
    """The API at its address."""

    url: str
    session: aiohttp.ClientSession
    database: Database

    async def __call__(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, Any, Any]:
        """Status, document, headers. A body of bytes is sent as it is."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"Authorization": f"Bearer {TOKEN}"}
        if data is not None:
            sent["Content-Type"] = "application/json"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(method, self.url + path, data=data, headers=sent) as answer:
            raw = await answer.read()
            return answer.status, json.loads(raw) if raw else None, answer.headers

    async def endpoint(self, target: str, **fields: Any) -> dict[str, Any]:
        status, made, _ = await self("POST", "/v1/endpoints", {"target": target} | fields)
        assert status == 201, made
        return dict(made)

    async def until(self, path: str, good: Callable[[Any], bool]) -> Any:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            _, found, _ = await self("GET", path)
            if good(found):
                return found
            await asyncio.sleep(0.02)
        raise AssertionError(f"{path} stayed {found}")


@asynccontextmanager
async def serving(path: Path, *, work: bool = True) -> AsyncIterator[Api]:
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        database = SqliteDatabase(path, clock)
        await database.open()
        stack.push_async_callback(database.close)
        wakeups = LocalWakeups()
        await wakeups.open()
        stack.push_async_callback(wakeups.close)
        waker = Waker(database, wakeups)
        events = service.build(
            database=database,
            clock=clock,
            box=SecretBox(["a key for the tests"]),
            allow=[ip_network("127.0.0.0/8")],
            slots=32,
            lease=60.0,
            schedule=DEFAULT_SCHEDULE,
            timeout=TIMEOUT,
            expiry=432_000.0,
            max_body=256 * 1024,
            max_batch_body=5 * 1024 * 1024,
        )
        stack.push_async_callback(events.close)
        database.subscribe(waker.on_notes)
        database.subscribe(events.waiters.on_notes)
        if work:
            worker = Worker(database, wakeups, waker, events.kinds, clock=clock)
            working = asyncio.create_task(worker.run())
            stack.push_async_callback(lambda: working)
            stack.callback(worker.stop)
        app = create_app(
            routers=events.routers,
            authenticator=Authenticator(database, clock=clock, admin_token=TOKEN),
            database=database,
            version="0",
        )
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        # On a machine that pauses, an idle connection must not end just as it is used again.
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_keep_alive=600)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        try:
            yield Api(f"http://127.0.0.1:{listener.getsockname()[1]}", session, database)
        finally:
            server.should_exit = True
            await serving


@pytest.fixture
async def api(sqlite_path: Path) -> AsyncIterator[Api]:
    async with serving(sqlite_path) as made:
        yield made


@pytest.fixture
async def hook() -> AsyncIterator[Receiver]:
    async with receiver() as made:
        yield made


EVENT = {"event_type": "order.created", "payload": {"b": 1, "a": "é"}}


async def test_an_event_reaches_the_endpoint_signed_before_the_answer(
    api: Api, hook: Receiver
) -> None:
    made = await api.endpoint(hook.url, event_types=["order.*"], headers={"X-Team": "a"})
    assert made["secret"].startswith("whsec_")
    assert (made["header_names"], made["timeout"]) == (["X-Team"], TIMEOUT)
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    status, event, headers = await api(
        "POST", "/v1/events", EVENT, Prefer="wait=20", traceparent=trace
    )
    assert (status, event["status"], headers["Preference-Applied"]) == (202, "delivered", "wait=20")
    assert (event["delivery_attempts"], event["message"]) == (1, "Delivered.")
    ((got, body),) = hook.got
    assert got["webhook-id"] == event["event_id"]
    assert (got["x-team"], got["traceparent"]) == ("a", trace)
    told = Webhook(made["secret"]).verify(body, got)
    assert told == {
        "event_id": event["event_id"],
        "event_type": "order.created",
        "payload": EVENT["payload"],
        "metadata": None,
        "created_at": event["created_at"],
    }
    _, shown, _ = await api("GET", f"/v1/endpoints/{made['endpoint_id']}")
    assert "secret" not in shown


async def test_without_a_preference_the_answer_comes_at_once(api: Api, hook: Receiver) -> None:
    await api.endpoint(hook.url)
    status, event, headers = await api("POST", "/v1/events", EVENT, Prefer="respond-async")
    assert (status, event["status"], "Preference-Applied" in headers) == (202, "pending", False)
    detail = await api.until(
        f"/v1/events/{event['event_id']}", lambda e: e["status"] == "delivered"
    )
    assert detail["payload"] == EVENT["payload"]
    assert detail["deliveries"][0]["attempt_log"][0]["address"].startswith("127.0.0.1:")


async def test_a_wait_ends_when_every_delivery_was_tried(api: Api, hook: Receiver) -> None:
    await api.endpoint(hook.url, schedule=[3600])  # one attempt, however late it is looked at
    hook.answer = lambda: web.Response(status=503, text="busy")
    began = time.monotonic()
    _, event, _ = await api("POST", "/v1/events", EVENT, Prefer="wait=20")
    assert time.monotonic() - began < 15
    assert (event["status"], event["delivery_attempts"]) == ("pending", 1)


async def test_a_wait_is_over_after_its_seconds(sqlite_path: Path, hook: Receiver) -> None:
    async with serving(sqlite_path, work=False) as api:
        await api.endpoint(hook.url)
        began = time.monotonic()
        status, event, _ = await api("POST", "/v1/events", EVENT, Prefer="wait=1")
        assert 1 <= time.monotonic() - began < 15
        assert (status, event["status"]) == (202, "pending")


async def test_one_key_one_event(api: Api, hook: Receiver) -> None:
    await api.endpoint(hook.url)
    answers = await asyncio.gather(
        *(api("POST", "/v1/events", EVENT, Idempotency_Key="k-1") for _ in range(32))
    )
    assert {status for status, _, _ in answers} == {202}
    assert len({json.dumps(event) for _, event, _ in answers}) == 1
    replayed = [headers.get("Idempotent-Replayed") for _, _, headers in answers]
    assert replayed.count("true") == 31
    other = EVENT | {"payload": {}}
    status, problem, _ = await api("POST", "/v1/events", other, Idempotency_Key="k-1")
    assert (status, problem["code"]) == (422, "idempotency_key_reused")
    field = EVENT | {"idempotency_key": "k-1"}
    status, event, headers = await api("POST", "/v1/events", field)
    assert (status, headers["Idempotent-Replayed"]) == (202, "true")
    await api.until(f"/v1/events/{event['event_id']}", lambda e: e["status"] == "delivered")
    assert len(hook.got) == 1


async def test_a_key_in_two_places_must_be_the_same(api: Api) -> None:
    body = EVENT | {"idempotency_key": "a"}
    status, problem, _ = await api("POST", "/v1/events", body, Idempotency_Key="b")
    assert (status, problem["errors"][0]["pointer"]) == (422, "/idempotency_key")
    status, _, _ = await api("POST", "/v1/events", body, Idempotency_Key="a")
    assert status == 202
    status, problem, _ = await api("POST", "/v1/events", EVENT, Idempotency_Key="x" * 256)
    assert (status, problem["code"]) == (422, "validation_failed")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed_json"),
        (b"{", 400, "malformed_json"),
        (b"\xff", 400, "not_utf8"),
        (b"[]", 422, "validation_failed"),
        (b'{"event_type":"a"}', 422, "validation_failed"),
        (b'{"event_type":"a","payload":{},"user_id":"x"}', 422, "validation_failed"),
        (b'{"event_type":"a\\n","payload":{}}', 422, "validation_failed"),
        (b'{"event_type":"a","payload":{"x":"\\u0000"}}', 422, "nul_character"),
        (b'{"event_type":"a","payload":{"x":"\\ud800"}}', 422, "lone_surrogate"),
        (b'{"event_type":"a","payload":{"x":NaN}}', 422, "number_out_of_range"),
        (b'{"event_type":"a","payload":{"x":1e999}}', 422, "number_out_of_range"),
        (b'{"event_type":"a","payload":' + b'{"x":' * 99 + b"1" + b"}" * 100, 422, "too_deep"),
        (b'{"event_type":"a","payload":{},"deliver_at":"2099-01-01T00:00:00Z"}', 422,
         "validation_failed"),
        (b'{"event_type":"a","payload":{"x":"' + b"x" * 262_144 + b'"}}', 413, "body_too_large"),
    ],
)  # fmt: skip
async def test_hostile_bodies_get_a_problem_and_the_server_goes_on(
    api: Api, body: bytes, status: int, code: str
) -> None:
    got, problem, headers = await api("POST", "/v1/events", body)
    assert (got, problem["code"]) == (status, code)
    assert headers["Content-Type"] == "application/problem+json"
    assert (await api("POST", "/v1/events", EVENT))[0] == 202


async def test_a_batch_answers_for_each_item(api: Api, hook: Receiver) -> None:
    await api.endpoint(hook.url)
    await api("POST", "/v1/events", EVENT | {"idempotency_key": "own"})
    items = [
        EVENT,
        {"event_type": "bad type", "payload": {}},
        EVENT | {"idempotency_key": "own"},
        "not an event",
        EVENT | {"idempotency_key": "own", "payload": {}},
        EVENT | {"payload": {"x": "x" * 262_144}},
    ]
    status, answer, _ = await api(
        "POST", "/v1/events/batch", {"events": items}, Idempotency_Key="batch"
    )
    assert status == 202
    assert [r["index"] for r in answer["results"]] == list(range(6))
    assert [r["status_code"] for r in answer["results"]] == [202, 422, 202, 422, 422, 413]
    codes = [r.get("problem", {}).get("code") for r in answer["results"]]
    assert codes == [
        None, "validation_failed", None, "validation_failed", "idempotency_key_reused",
        "body_too_large",
    ]  # fmt: skip
    assert answer["results"][2]["replayed"] is True
    assert answer["summary"] == {"total": 6, "accepted": 1, "replayed": 1, "refused": 4}
    _, again, _ = await api(
        "POST", "/v1/events/batch", {"events": items[:1]}, Idempotency_Key="batch"
    )
    assert again["results"][0]["replayed"] is True
    assert again["results"][0]["event"] == answer["results"][0]["event"]
    _, listed, _ = await api("GET", "/v1/events")
    assert len(listed["items"]) == 2
    for path in [f"/v1/events/{item['event_id']}" for item in listed["items"]]:
        await api.until(path, lambda e: e["status"] == "delivered")


@pytest.mark.parametrize("events", [[], [EVENT] * 101, None, {}])
async def test_a_batch_of_the_wrong_size_is_refused_whole(api: Api, events: Any) -> None:
    status, problem, _ = await api("POST", "/v1/events/batch", {"events": events})
    assert (status, problem["code"]) == (422, "validation_failed")


async def test_listing_pages_and_filters(api: Api) -> None:
    for n in range(5):
        await api("POST", "/v1/events", EVENT | {"event_type": f"t{n % 2}"})
    _, first, _ = await api("GET", "/v1/events?limit=2")
    _, second, _ = await api("GET", f"/v1/events?limit=2&cursor={first['next_cursor']}")
    _, third, _ = await api("GET", f"/v1/events?limit=2&cursor={second['next_cursor']}")
    ids = [e["event_id"] for page in (first, second, third) for e in page["items"]]
    assert len(ids) == len(set(ids)) == 5
    assert ids == sorted(ids, reverse=True)
    assert third["next_cursor"] is None
    _, some, _ = await api("GET", "/v1/events?event_type=t1&status=pending")
    assert len(some["items"]) == 2
    _, none, _ = await api("GET", "/v1/events?until=2020-01-01T00:00:00Z")
    assert none["items"] == []
    for bad in ("status=lost", "since=yesterday", "limit=0", "limit=101"):
        status, problem, _ = await api("GET", f"/v1/events?{bad}")
        assert (status, problem["code"]) == (422, "validation_failed")
    status, _, _ = await api("GET", "/v1/events?cursor=nonsense")
    assert status == 400


@pytest.mark.parametrize(
    "target",
    [
        "http://10.0.0.1/",
        "https://169.254.169.254/latest",
        "http://2130706433.example.invalid/",
        "https://[::ffff:10.0.0.1]/",
        "ftp://example.com/",
        "https://user:pw@example.com/",
    ],
)
async def test_a_forbidden_target_is_refused_at_creation_and_at_change(
    api: Api, hook: Receiver, target: str
) -> None:
    status, problem, _ = await api("POST", "/v1/endpoints", {"target": target})
    assert (status, problem["code"]) == (422, "target_refused")
    made = await api.endpoint(hook.url)
    status, problem, _ = await api(
        "PATCH", f"/v1/endpoints/{made['endpoint_id']}", {"target": target}
    )
    assert (status, problem["code"]) == (422, "target_refused")


async def test_an_endpoints_life(api: Api, hook: Receiver) -> None:
    made = await api.endpoint(hook.url)
    path = f"/v1/endpoints/{made['endpoint_id']}"
    status, changed, _ = await api(
        "PATCH", path, {"rate_limit": 100, "schedule": [1, 2], "timeout": 3}
    )
    assert (status, changed["rate_limit"], changed["schedule"]) == (200, 100.0, [1.0, 2.0])
    _, changed, _ = await api("PATCH", path, {"rate_limit": None, "timeout": None})
    assert (changed["rate_limit"], changed["timeout"]) == (None, TIMEOUT)
    for bad in ({}, {"kind": "webhook"}, {"headers": {"Host": "x"}}, {"headers": {"A": "x\ny"}}):
        status, problem, _ = await api("PATCH", path, bad)
        assert (status, problem["code"]) == (422, "validation_failed")
    _, listed, _ = await api("GET", "/v1/endpoints")
    assert [e["endpoint_id"] for e in listed["items"]] == [made["endpoint_id"]]
    assert (await api("DELETE", path))[0] == 204
    for method in ("GET", "DELETE"):
        assert (await api(method, path))[0] == 404
    _, listed, _ = await api("GET", "/v1/endpoints")
    assert listed["items"] == []


async def test_a_test_event_goes_to_its_endpoint_alone(api: Api, hook: Receiver) -> None:
    made = await api.endpoint(hook.url, event_types=["never"])
    await api.endpoint(hook.url, event_types=["*"])
    status, sent, _ = await api("POST", f"/v1/endpoints/{made['endpoint_id']}/test")
    assert status == 202
    event = await api.until(f"/v1/events/{sent['event_id']}", lambda e: e["status"] == "delivered")
    assert event["event_type"] == "penstock.test"
    assert [d["delivery_id"] for d in event["deliveries"]] == [sent["delivery_id"]]
    ((got, body),) = hook.got
    Webhook(made["secret"]).verify(body, got)


async def test_a_rotated_secret_signs_beside_the_old_one(api: Api, hook: Receiver) -> None:
    made = await api.endpoint(hook.url)
    path = f"/v1/endpoints/{made['endpoint_id']}"
    status, rotated, _ = await api("POST", f"{path}/secret/rotate")
    assert (status, rotated["secret"] != made["secret"]) == (200, True)
    await api("POST", "/v1/events", EVENT, Prefer="wait=20")
    got, body = hook.got[-1]
    for secret in (made["secret"], rotated["secret"]):
        Webhook(secret).verify(body, got)
    _, last, _ = await api("POST", f"{path}/secret/rotate", {"overlap_seconds": 0})
    await api("POST", "/v1/events", EVENT, Prefer="wait=20")
    got, body = hook.got[-1]
    Webhook(last["secret"]).verify(body, got)
    assert len(got["webhook-signature"].split()) == 1
    _, shown, _ = await api("GET", path)
    assert shown["old_secret_until"] is None


async def test_a_disabled_endpoint_keeps_what_it_owes(api: Api, hook: Receiver) -> None:
    made = await api.endpoint(hook.url)
    path = f"/v1/endpoints/{made['endpoint_id']}"
    _, shown, _ = await api("POST", f"{path}/disable")
    assert (shown["enabled"], shown["disabled_reason"]) == (False, "manual")
    _, event, _ = await api("POST", "/v1/events", EVENT)
    _, detail, _ = await api("GET", f"/v1/events/{event['event_id']}")
    assert detail["deliveries"][0]["why"]["code"] == "endpoint_disabled"
    assert hook.got == []
    await api("POST", f"{path}/enable")
    await api.until(f"/v1/events/{event['event_id']}", lambda e: e["status"] == "delivered")


async def test_many_endpoints_are_reached(api: Api, hook: Receiver) -> None:
    for _ in range(27):
        await api.endpoint(hook.url)
    _, event, _ = await api("POST", "/v1/events", EVENT, Prefer="wait=20")
    assert (event["status"], event["delivery_attempts"]) == ("delivered", 27)
    assert len(hook.got) == 27


async def test_a_server_that_stops_keeps_what_it_accepted(
    sqlite_path: Path, hook: Receiver
) -> None:
    async with serving(sqlite_path, work=False) as api:
        await api.endpoint(hook.url)
        _, event, _ = await api("POST", "/v1/events", EVENT)
    async with serving(sqlite_path) as api:
        await api.until(f"/v1/events/{event['event_id']}", lambda e: e["status"] == "delivered")
    assert len(hook.got) == 1


async def test_an_event_is_replayed_and_deleted(api: Api, hook: Receiver) -> None:
    endpoint = await api.endpoint(hook.url, event_types=["order.*"])
    _, event, _ = await api("POST", "/v1/events", EVENT, Prefer="wait=20")
    path = f"/v1/events/{event['event_id']}"
    status, again, _ = await api("POST", f"{path}/replay")
    assert (status, again["status"], again["replayed"], again["left_pending"]) == (
        202,
        "pending",
        1,
        0,
    )
    shown = await api.until(path, lambda e: e["status"] == "replayed")
    assert (shown["delivery_attempts"], len(hook.got)) == (2, 2)
    assert hook.got[0][1] == hook.got[1][1]
    _, listed, _ = await api("GET", "/v1/events?status=replayed")
    assert [e["event_id"] for e in listed["items"]] == [event["event_id"]]
    other = await api.endpoint(hook.url)
    only = {"endpoint_ids": [other["endpoint_id"]], "include_missing": True}
    _, again, _ = await api("POST", f"{path}/replay", only)
    assert (again["replayed"], again["added"]) == (0, 1)
    wrong = {"endpoint_ids": [endpoint["endpoint_id"], "end_x"]}
    status, problem, _ = await api("POST", f"{path}/replay", wrong)
    assert (status, problem["errors"][0]["pointer"]) == (422, "/endpoint_ids/1")
    assert (await api("POST", "/v1/events/evt_x/replay"))[0] == 404
    assert (await api("DELETE", path))[0] == 204
    assert (await api("DELETE", path))[0] == 404
    assert (await api("GET", path))[0] == 404


async def test_a_replay_of_many_is_followed_and_cancelled(api: Api, hook: Receiver) -> None:
    await api.endpoint(hook.url)
    _, batch, _ = await api("POST", "/v1/events/batch", {"events": [EVENT] * 100})
    last = batch["results"][-1]["event"]["event_id"]
    await api.until(f"/v1/events/{last}", lambda e: e["status"] == "delivered")
    await api.until("/v1/events?status=pending", lambda found: found["items"] == [])
    status, made, _ = await api("POST", "/v1/replays", {"event_types": ["order.*"]})
    assert (status, made["status"], made["estimate"]) == (202, "pending", 100)
    path = f"/v1/replays/{made['replay_id']}"
    done = await api.until(path, lambda r: r["status"] == "done")
    assert (done["replayed"], done["delivered"], done["outstanding"]) == (100, 100, 0)
    assert len(hook.got) == 200
    hook.gate = asyncio.Event()  # so that it does not end before it is cancelled
    _, second, _ = await api("POST", "/v1/replays", {})
    path = f"/v1/replays/{second['replay_id']}"
    status, found, _ = await api("POST", f"{path}/cancel")
    assert (status, found["status"]) == (202, "cancelled")
    hook.gate.set()
    await api.until(path, lambda r: r["outstanding"] == 0)
    _, listed, _ = await api("GET", "/v1/replays?limit=1")
    assert [r["replay_id"] for r in listed["items"]] == [second["replay_id"]]
    _, rest, _ = await api("GET", f"/v1/replays?cursor={listed['next_cursor']}")
    assert [r["replay_id"] for r in rest["items"]] == [made["replay_id"]]
    assert (await api("GET", "/v1/replays/rpl_x"))[0] == 404
    assert (await api("POST", "/v1/replays/rpl_x/cancel"))[0] == 404
    span = {"since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"}
    status, problem, _ = await api("POST", "/v1/replays", span)
    assert (status, problem["errors"][0]["pointer"]) == (422, "/until")


async def test_an_endpoint_recovers_what_it_missed(api: Api, hook: Receiver) -> None:
    _, missed, _ = await api("POST", "/v1/events", EVENT)
    made = await api.endpoint(hook.url)
    path = f"/v1/endpoints/{made['endpoint_id']}/recover"
    assert (await api("POST", path, {}))[0] == 422
    status, replay, _ = await api("POST", path, {"since": missed["created_at"]})
    assert (status, replay["filter"]["endpoint_id"]) == (202, made["endpoint_id"])
    await api.until(f"/v1/replays/{replay['replay_id']}", lambda r: r["status"] == "done")
    ((headers, _),) = hook.got
    assert headers["webhook-id"] == missed["event_id"]
    assert (await api("POST", "/v1/endpoints/end_x/recover", {"since": missed["created_at"]}))[
        0
    ] == 404

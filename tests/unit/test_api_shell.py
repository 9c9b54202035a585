"""The shell and its routes, called as an ASGI application in this process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import APIRouter
from fastapi.exceptions import FastAPIError
from pydantic import BaseModel, ConfigDict
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from penstock import errors, telemetry
from penstock.api import bodies, context, keys
from penstock.api.app import create_app
from penstock.api.auth import Authenticator
from penstock.api.context import Caller, public, requires
from penstock.api.limits import RateLimiter
from penstock.api.paging import Paged
from penstock.api.routing import Route, router
from penstock.clock import ManualClock
from penstock.storage import Database
from penstock.storage.sqlite import SqliteDatabase
from penstock.telemetry import metrics

pytestmark = pytest.mark.anyio


class Thing(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    data: dict[str, Any] = {}


def routes() -> APIRouter:
    api = router()

    @api.post("/v1/direct", status_code=202)
    @requires("events:write", body=Thing, body_limit=2000, direct=True)
    async def direct(request: Request) -> Response:
        thing = await bodies.receive(request, Thing)
        caller = context.principal(request)
        traceparent = context.of(request).traceparent
        content = {"name": thing.name, "account": caller.account, "traceparent": traceparent}
        return Response(json.dumps(content), 202, media_type="application/json")

    @api.post("/v1/typed", status_code=202)
    @requires("events:write", body_limit=2000)
    async def typed(thing: Thing, caller: Caller) -> dict[str, str]:
        return {"name": thing.name, "account": caller.account}

    @api.get("/v1/things/{name}")
    @requires("events:read")
    async def get_thing(name: str, page: Paged, caller: Caller) -> dict[str, Any]:
        return {"name": name, "limit": page.limit}

    @api.get("/fail/{how}")
    @public
    async def fail(how: str) -> Response:
        if how == "midway":

            async def content() -> AsyncIterator[bytes]:
                yield b"begun"
                raise RuntimeError("password=hunter2")

            return StreamingResponse(content())
        raise {
            "full": errors.StorageFull(),
            "unavailable": errors.StorageUnavailable(),
            "missing": errors.NotFound("There is no such thing here."),
            "gone": ClientDisconnect(),
            "bug": RuntimeError("password=hunter2"),
        }[how]

    return api


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def is_problem(self, status: int, code: str) -> bool:
        assert self.status == status, self.body
        assert self.headers["content-type"] == "application/problem+json"
        document = self.json
        assert document["status"] == status
        assert document["request_id"] == self.headers["x-request-id"]
        assert document["type"] == f"/problems/{document['code']}"
        return bool(document["code"] == code)


class Client:
    def __init__(self, app: Any, secret: str) -> None:
        self.app = app
        self.secret = secret

    async def __call__(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        key: str | None = "",
        chunks: int = 1,
        **headers: str,
    ) -> Answer:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if body and "content-type" not in given:
            given["content-type"] = "application/json"
        if key is not None:
            given["authorization"] = f"Bearer {key or self.secret}"
        path, _, query = path.partition("?")
        size = -(-len(body) // chunks) or 1
        parts = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
        waiting = [
            {"type": "http.request", "body": part, "more_body": n < len(parts) - 1}
            for n, part in enumerate(parts)
        ]
        sent: list[Any] = []

        async def receive() -> Any:
            return waiting.pop(0) if waiting else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path.replace("%00", "\0"),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "state": {},
        }
        await self.app(scope, receive, send)
        if not sent:
            return Answer(0, {}, b"")
        return Answer(
            sent[0]["status"],
            {name.decode(): value.decode() for name, value in sent[0]["headers"]},
            b"".join(message.get("body", b"") for message in sent[1:]),
        )


@pytest.fixture
async def database(sqlite_path: Any, clock: ManualClock) -> AsyncIterator[Database]:
    opened = SqliteDatabase(sqlite_path, clock)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def make(database: Database, clock: ManualClock) -> AsyncIterator[Callable[..., Any]]:
    authenticator = Authenticator(database, clock=clock, admin_token="local")
    _, secret = await database.unit(lambda tx: keys.create(tx, "acme", "all"))

    def client(**options: Any) -> Client:
        given = {"routers": [routes()], "version": "1.2.3", "services": ["events"]} | options
        app = create_app(authenticator=authenticator, database=database, clock=clock, **given)
        return Client(app, secret)

    yield client
    await authenticator.close()


@pytest.fixture
async def call(make: Callable[..., Client]) -> Client:
    return make()


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    lines: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(
        "penstock.api.shell.log", lambda event, **fields: lines.append((event.name, fields))
    )
    return lines


BOTH = pytest.mark.parametrize("path", ["/v1/direct", "/v1/typed"])


async def test_both_ways_to_write_a_route_work(call: Client) -> None:
    for path in ("/v1/direct", "/v1/typed"):
        answer = await call("POST", path, b'{"name":"x"}')
        assert answer.status == 202
        assert answer.headers["content-type"] == "application/json"
        assert (answer.json["name"], answer.json["account"]) == ("x", "acme")
    answer = await call("GET", "/v1/things/a%20b?limit=7")
    assert answer.json["limit"] == 7


@BOTH
async def test_bodies_are_refused_alike(call: Client, path: str) -> None:
    for body, status, code in [
        (b"{", 400, "malformed_json"),
        (b'{"name":"\xff"}', 400, "not_utf8"),
        (b'{"name":"\\u0000"}', 422, "nul_character"),
        (b'{"name":"\\ud800"}', 422, "lone_surrogate"),
        (b'{"name":"x","data":{"a":NaN}}', 422, "number_out_of_range"),
        (b'{"name":"x","data":{"a":1e999}}', 422, "number_out_of_range"),
        (b'{"name":"x","data":' + b'{"a":' * 70 + b"1" + b"}" * 71, 422, "too_deep"),
        (b'{"name":7}', 422, "validation_failed"),
        (b'{"name":"x","more":1}', 422, "validation_failed"),
        (b" " * 2001, 413, "body_too_large"),
    ]:
        assert (await call("POST", path, body)).is_problem(status, code), body
    fault = await call("POST", path, b'{"name":7}')
    assert [error["pointer"] for error in fault.json["errors"]] == ["/name"]
    huge = b'{"name":"x","data":{"a":1' + b"0" * 400 + b"}}"
    assert (await call("POST", path, huge)).status == 202


@BOTH
async def test_the_body_is_counted_however_it_comes(call: Client, path: str) -> None:
    fits = b'{"name":"' + b"x" * 1989 + b'"}'
    assert len(fits) == 2000
    assert (await call("POST", path, fits, chunks=50)).status == 202
    for body in (fits + b" ", b"x" * 100_000):
        assert (await call("POST", path, body, chunks=50)).is_problem(413, "body_too_large")
    for length in ("2001", "9" * 5000):
        answer = await call("POST", path, b"{}", content_length=length)
        assert answer.is_problem(413, "body_too_large")
        assert answer.json["limit"] == 2000


@BOTH
async def test_only_json_is_taken(call: Client, path: str) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = await call("POST", path, b'{"name":"x"}', content_type=content_type)
        assert answer.is_problem(415, "unsupported_media_type")
    answer = await call(
        "POST", path, b'{"name":"x"}', content_type="application/json;charset=UTF-8"
    )
    assert answer.status == 202


@BOTH
async def test_who_may_not(call: Client, database: Database, path: str) -> None:
    _, reader = await database.unit(lambda tx: keys.create(tx, "acme", "r", ["events:read"]))
    nobody = await call("POST", path, b"rubbish", key=None)
    assert nobody.is_problem(401, "unauthenticated")
    assert nobody.headers["www-authenticate"] == 'Bearer realm="penstock"'
    wrong = await call("POST", path, b"rubbish", key="psk_wrong")
    assert wrong.is_problem(401, "invalid_token")
    assert 'error="invalid_token"' in wrong.headers["www-authenticate"]
    lacking = await call("POST", path, b"rubbish", key=reader)
    assert lacking.is_problem(403, "insufficient_scope")
    assert lacking.json["scope"] == "events:write"
    assert "events:write" in lacking.json["detail"]
    assert (await call("GET", "/v1/things/x", key=reader)).status == 200
    assert (await call("POST", path, b'{"name":"x"}', key="local")).json["account"] == "default"


@pytest.mark.parametrize(
    "given", ["abc-123", "0af7651916cd43dd8448eb211c80319c", "a" * 128, "tenant/x:1=2@z"]
)
async def test_a_sane_request_id_is_kept(call: Client, given: str) -> None:
    answer = await call("GET", "/version", x_request_id=given)
    assert answer.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a" * 129, "a b", "a\tb", 'a"b', "<script>", "ä"])
async def test_another_request_id_is_replaced(call: Client, given: str) -> None:
    seen = {(await call("GET", "/version", x_request_id=given)).headers["x-request-id"]}
    seen.add((await call("GET", "/version")).headers["x-request-id"])
    assert len(seen) == 2
    assert all(made.startswith("req_") for made in seen)


GOOD_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (GOOD_TRACE, True),
        (GOOD_TRACE.upper(), False),
        (GOOD_TRACE.replace("00-", "ff-", 1), False),
        (GOOD_TRACE + "-x", False),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", False),
        (f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01", False),
        ("rubbish", False),
    ],
)
async def test_trace_context(call: Client, given: str, kept: bool) -> None:
    answer = await call("POST", "/v1/direct", b'{"name":"x"}', traceparent=given)
    assert answer.json["traceparent"] == (given if kept else None)


async def test_addresses_that_lead_nowhere(call: Client) -> None:
    for path in ("/v1", "/v1/direct/", "/v1/nothing", "/docs", "/redoc"):
        assert (await call("GET", path, key=None)).is_problem(404, "not_found")
    wrong = await call("PUT", "/v1/direct")
    assert wrong.is_problem(405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


async def test_nul_in_an_address(call: Client) -> None:
    for path in ("/v1/things/a%00b", "/v1/things/a?cursor=%00", "/version?x=%00"):
        assert (await call("GET", path)).is_problem(422, "nul_character")


async def test_parameters_that_fail_are_named(call: Client) -> None:
    for query, parameter in (
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("limit=1" + "0" * 400, "limit"),
        ("cursor=" + "a" * 1001, "cursor"),
    ):
        answer = await call("GET", f"/v1/things/x?{query}")
        assert answer.is_problem(422, "validation_failed")
        (error,) = answer.json["errors"]
        assert (error["in"], error["parameter"]) == ("query", parameter)


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [
        ("full", 507, "storage_full"),
        ("unavailable", 503, "storage_unavailable"),
        ("missing", 404, "not_found"),
        ("bug", 500, "internal_error"),
    ],
)
async def test_failures_become_problems(
    call: Client, logged: list[tuple[str, dict[str, Any]]], how: str, status: int, code: str
) -> None:
    answer = await call("GET", f"/fail/{how}")
    assert answer.is_problem(status, code)
    assert b"hunter2" not in answer.body
    assert ("retry-after" in answer.headers) == (how == "unavailable")
    failed = [fields for name, fields in logged if name == "request_failed"]
    if how == "bug":
        (fields,) = failed
        assert isinstance(fields["exc_info"], RuntimeError)
        assert fields["route"] == "/fail/{how}"
    else:
        assert failed == []
    (line,) = [fields for name, fields in logged if name == "request"]
    assert (line["status"], line["route"]) == (status, "/fail/{how}")


async def test_the_request_id_is_in_the_log_of_a_failure(
    call: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry.configure_logging("info", "json")
    await call("GET", "/fail/bug", x_request_id="find-me")
    (line,) = capsys.readouterr().err.splitlines()
    entry = json.loads(line)
    assert (entry["event"], entry["request_id"]) == ("request_failed", "find-me")
    assert "Traceback" in entry["exception"]


async def test_an_answer_that_breaks_off_stays_broken(
    call: Client, logged: list[tuple[str, dict[str, Any]]]
) -> None:
    answer = await call("GET", "/fail/midway")
    assert (answer.status, answer.body) == (200, b"begun")
    assert [name for name, _ in logged] == ["request_failed", "request"]


async def test_a_client_that_goes_away_is_no_failure(
    call: Client, logged: list[tuple[str, dict[str, Any]]]
) -> None:
    assert (await call("GET", "/fail/gone")).status == 0
    assert [(name, fields["status"]) for name, fields in logged] == [("request", 499)]


async def test_figures_know_templates_not_addresses(call: Client) -> None:
    labels: dict[str, Any] = {"method": "GET", "route": "/v1/things/{name}", "status": 200}
    before = metrics.value(telemetry.HTTP_REQUESTS, **labels)
    for n in range(3):
        await call("GET", f"/v1/things/number-{n}")
    await call("GET", "/invented-by-a-stranger")
    await call("BREW", "/version")
    assert metrics.value(telemetry.HTTP_REQUESTS, **labels) == before + 3
    answer = await call("GET", "/metrics", key=None)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"penstock_http_requests_total" in answer.body
    for invented in (b"number-", b"invented", b"BREW"):
        assert invented not in answer.body


async def test_metrics_can_be_closed(make: Callable[..., Client]) -> None:
    call = make(metrics_public=False)
    assert (await call("GET", "/metrics", key=None)).is_problem(401, "unauthenticated")
    assert (await call("GET", "/metrics")).status == 200


async def test_secrets_are_not_logged(call: Client, capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure_logging("debug", "json")
    await call("GET", "/v1/things/x?token=hunter2")
    await call("GET", "/v1/things/x", key="psk_hunter2")
    await call("POST", "/v1/typed", b'{"name":"hunter2"')
    telemetry.configure_logging("info", "json")
    written = capsys.readouterr().err
    assert written.count('"event": "request"') == 3
    assert "hunter2" not in written
    assert call.secret not in written


async def test_rate_limits_are_each_accounts_own(
    make: Callable[..., Client], clock: ManualClock, database: Database
) -> None:
    call = make(limiter=RateLimiter(0.5, 2, clock=clock))
    first = await call("GET", "/v1/keys")
    assert first.headers["ratelimit-remaining"] == "1"
    assert first.headers["ratelimit"] == '"default";r=1;t=2'
    assert (await call("GET", "/v1/keys")).status == 200
    refused = await call("GET", "/v1/keys")
    assert refused.is_problem(429, "rate_limited")
    assert refused.headers["retry-after"] == refused.headers["ratelimit-reset"] == "2"
    assert (await call("GET", "/v1/keys", key="local")).status == 200
    assert (await call("GET", "/version")).headers.get("ratelimit-limit") is None
    clock.advance(2)
    assert (await call("GET", "/v1/keys")).status == 200


async def test_health(
    make: Callable[..., Client], clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.api.health.CHECK_SECONDS", 60.0)  # the machine may be busy
    state: dict[str, str | None] = {"wakeups": None}
    runs = 0

    async def readiness() -> dict[str, str | None]:
        nonlocal runs
        runs += 1
        return dict(state)

    call = make(readiness=readiness)
    assert (await call("GET", "/health/live", key=None)).json == {"status": "live"}
    ready = await call("GET", "/health/ready", key=None)
    assert ready.json == {"status": "ready", "checks": {"database": "ok", "wakeups": "ok"}}
    state["wakeups"] = "the queue cannot be reached"
    assert (await call("GET", "/health/ready", key=None)).status == 200
    assert runs == 1  # a verdict stands for a second
    clock.advance(1)
    answer = await call("GET", "/health/ready", key=None)
    assert answer.is_problem(503, "not_ready")
    assert answer.json["checks"] == {"database": "ok", "wakeups": "the queue cannot be reached"}
    assert (await call("GET", "/health/live", key=None)).status == 200
    version = await call("GET", "/version", key=None)
    assert version.json == {"version": "1.2.3", "services": ["events"]}


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (errors.StorageFull("/secret/path"), "The disk that holds the database is full"),
        (errors.StorageUnavailable("host=secret"), "The database cannot be reached"),
    ],
)
async def test_a_database_that_cannot_write_is_not_ready(
    make: Callable[..., Client],
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
    says: str,
) -> None:
    async def unit(fn: Any) -> Any:
        raise failure

    monkeypatch.setattr(database, "unit", unit)
    answer = await make()("GET", "/health/ready", key=None)
    assert answer.is_problem(503, "not_ready")
    assert says in answer.json["checks"]["database"]
    assert b"secret" not in answer.body


async def test_every_problem_is_explained(call: Client) -> None:
    answer = await call("GET", "/problems/nul_character", key=None)
    assert answer.json["status"] == 422
    assert (await call("GET", "/problems/invented")).is_problem(404, "not_found")


async def test_keys_over_http(call: Client, clock: ManualClock) -> None:
    made = await call(
        "POST", "/v1/keys", b'{"name":"ci","scopes":["keys:write"],"expires_in":"1h"}'
    )
    assert made.status == 201
    secret, key_id = made.json["key"], made.json["id"]
    assert made.json["scopes"] == ["keys:write"]
    assert made.json["created_at"] == "2026-01-01T00:00:00.000000Z"
    assert made.json["expires_at"] == "2026-01-01T01:00:00.000000Z"
    listed = await call("GET", "/v1/keys?limit=1", key=secret)
    (item,) = listed.json["items"]
    assert item["id"] == key_id
    assert item["hint"] == secret[-4:]
    assert "key" not in item
    rest = await call("GET", f"/v1/keys?cursor={listed.json['next_cursor']}")
    assert [key["name"] for key in rest.json["items"]] == ["all"]
    assert rest.json["next_cursor"] is None
    foreign = await call("DELETE", f"/v1/keys/{key_id}", key="local")
    assert foreign.is_problem(404, "not_found")
    gone = await call("DELETE", f"/v1/keys/{key_id}", key=secret)
    assert (gone.status, gone.body) == (204, b"")
    assert (await call("GET", "/v1/keys", key=secret)).is_problem(401, "invalid_token")
    assert (await call("DELETE", f"/v1/keys/{key_id}")).is_problem(404, "not_found")


async def test_a_key_gives_no_more_than_it_has(call: Client) -> None:
    made = await call("POST", "/v1/keys", b'{"name":"a","scopes":["keys:write","jobs:read"]}')
    weak = made.json["key"]
    for scopes in (b'["keys:read"]', b'["jobs:read","keys:write"]'):
        answer = await call("POST", "/v1/keys", b'{"name":"b","scopes":%s}' % scopes, key=weak)
        assert answer.status == 201
    for body in (
        b'{"name":"b"}',
        b'{"name":"b","scopes":null}',
        b'{"name":"b","scopes":["*"]}',
        b'{"name":"b","scopes":["jobs:write"]}',
    ):
        answer = await call("POST", "/v1/keys", body, key=weak)
        assert answer.is_problem(403, "insufficient_scope")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"{}", "/name"),
        (b'{"name":""}', "/name"),
        (b'{"name":"   "}', "/name"),
        (b'{"name":"x","scope":["*"]}', "/scope"),
        (b'{"name":"x","scopes":[]}', "/scopes"),
        (b'{"name":"x","scopes":["jobs:run"]}', "/scopes"),
        (b'{"name":"x","expires_in":"soon"}', "/expires_in"),
        (b'{"name":"x","expires_in":0}', "/expires_in"),
        (b'{"name":"x","expires_in":"9999999d"}', "/expires_in"),
        (b'{"name":"x","expires_at":"2025-01-01T00:00:00Z"}', "/expires_at"),
        (b'{"name":"x","expires_at":"2027-01-01T00:00:00"}', "/expires_at"),
        (b'{"name":"x","expires_in":1,"expires_at":"2027-01-01T00:00:00Z"}', ""),
    ],
)
async def test_keys_that_cannot_be_made(call: Client, body: bytes, pointer: str) -> None:
    answer = await call("POST", "/v1/keys", body)
    assert answer.is_problem(422, "validation_failed")
    assert answer.json["errors"][0]["pointer"].startswith(pointer)


async def test_the_openapi_document(call: Client) -> None:
    answer = await call("GET", "/openapi.json", key=None)
    document = answer.json
    assert document["openapi"].startswith("3.1")
    assert (document["info"]["title"], document["info"]["version"]) == ("Penstock", "1.2.3")
    direct = document["paths"]["/v1/direct"]["post"]
    assert direct["security"] == [{"bearer": []}]
    assert direct["x-scope"] == "events:write"
    schema = direct["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/Thing"}
    assert "4XX" in direct["responses"]
    assert document["paths"]["/health/live"]["get"]["security"] == []
    assert document["paths"]["/v1/keys"]["get"]["operationId"] == "list_keys"
    text = answer.body.decode()
    assert "HTTPValidationError" not in text
    names = [part.partition('"')[0] for part in text.split('"#/components/schemas/')[1:]]
    assert names
    assert set(names) <= set(document["components"]["schemas"])


async def test_the_lifespan_wraps_ours(make: Callable[..., Client]) -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[None]:
        seen.append("open")
        yield
        seen.append("close")

    app = make(lifespan=lifespan).app
    async with app.router.lifespan_context(app):
        assert seen == ["open"]
    assert seen == ["open", "close"]


def test_a_route_must_say_what_it_needs() -> None:
    api = router()
    with pytest.raises(TypeError, match="neither @requires nor @public"):

        @api.get("/v1/forgotten")
        async def forgotten() -> None: ...

    with pytest.raises(ValueError, match="no scope"):
        requires("events:delete")


async def test_a_router_of_another_make_is_refused(make: Callable[..., Client]) -> None:
    stranger = APIRouter()

    @stranger.get("/v1/open-to-all")
    async def open_to_all() -> None: ...

    with pytest.raises(TypeError, match="router made by"):
        make(routers=[stranger])


def test_a_routes_function_is_looked_at_when_somebody_asks() -> None:
    """That takes most of a server's start, and most processes serve few of its routes."""
    _, typed, get_thing, _ = routes().routes
    assert isinstance(typed, Route)
    assert isinstance(get_thing, Route)
    guarded = typed.app

    assert (typed.path, typed.methods, typed.name) == ("/v1/typed", {"POST"}, "typed")
    assert "dependant" not in vars(typed)
    assert [each.name for each in typed.dependant.body_params] == ["thing"]
    assert typed.status_code == 202
    assert typed.app is guarded  # who may call is still asked
    assert "dependant" not in vars(get_thing)
    with pytest.raises(AttributeError, match="nothing"):
        _ = typed.nothing


def test_a_function_that_cannot_be_a_route_is_told_of_each_time() -> None:
    api = router()

    @api.get("/v1/odd")
    @public
    async def odd(what: APIRouter) -> None: ...

    (route,) = api.routes
    assert isinstance(route, Route)
    for _ in range(2):
        with pytest.raises(FastAPIError, match="Invalid args"):
            _ = route.dependant

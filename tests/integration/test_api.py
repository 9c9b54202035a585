"""The API over real sockets: every route as nobody and with each scope missing, hostile bodies."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from penstock.api import bodies, keys
from penstock.api.app import create_app
from penstock.api.auth import Authenticator
from penstock.api.context import ANYONE, AUTHENTICATED, requires
from penstock.api.problems import PROBLEMS
from penstock.api.routing import Route, router
from penstock.api.scopes import ALL, expand
from penstock.clock import SystemClock
from penstock.events import dead, service
from penstock.jobs import store
from penstock.jobs.dead import DEAD_JOBS
from penstock.jobs.routes import routes as job_routes
from penstock.jobs.store import NewJob
from penstock.secretbox import SecretBox, generate_key
from penstock.storage import Database, Tx, sql
from penstock.storage.sqlite import SqliteDatabase
from penstock.tracking import service as tracking_service
from penstock.wiring import Service, operations
from penstock.work.emit import nobody
from support.served import served

pytestmark = pytest.mark.anyio

# Routes that nobody needs a credential for. A new one has to be added here on purpose.
OPEN = {"/health/live", "/health/ready", "/version", "/metrics", "/problems/{code}"}

# Routes that look at the body before they look the thing up: a body that is in order.
BODIES = {
    ("PATCH", "/v1/endpoints/{endpoint_id}"): {"description": "mine now"},
    ("POST", "/v1/endpoints/{endpoint_id}/recover"): {"since": "2026-01-01T00:00:00Z"},
    ("PATCH", "/v1/shipments/{shipment_id}"): {"label": "mine now"},
    ("PUT", "/v1/carriers/{carrier}/credentials"): {"values": {"api_key": "mine"}},
    ("PATCH", "/v1/lanes/{lane:path}"): {"paused": True},
    ("POST", "/v1/lanes/{lane:path}/circuit"): {"state": "open", "for": 60, "reason": "mine"},
    ("POST", "/v1/carriers/{carrier}/circuit"): {"state": "open", "for": 60, "reason": "mine"},
}


class Echo(BaseModel):
    data: Any = None


def echo() -> APIRouter:
    api = router()

    @api.post("/v1/echo")
    @requires("events:write", body=Echo, direct=True)
    async def direct(request: Request) -> Response:
        echoed = await bodies.receive(request, Echo)
        return Response(echoed.model_dump_json(), media_type="application/json")

    @api.put("/v1/echo")
    @requires("endpoints:write")
    async def typed(body: Echo) -> Echo:
        return body

    return api


@pytest.fixture
async def database(sqlite_path: Path) -> AsyncIterator[Database]:
    opened = SqliteDatabase(sqlite_path, SystemClock())
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def app(database: Database) -> AsyncIterator[FastAPI]:
    """The application whose routes are walked: the services' own, and a few for the shell."""
    events = service.build(
        database=database,
        clock=SystemClock(),
        box=SecretBox([generate_key()]),
        allow=[ip_network("127.0.0.0/8")],
        slots=1,
        lease=60.0,
        schedule=[1.0],
        timeout=1.0,
        expiry=60.0,
        max_body=262_144,
        max_batch_body=5_242_880,
    )
    tracking = tracking_service.build(
        database=database,
        clock=SystemClock(),
        box=SecretBox([generate_key()]),
        own={},
        base_urls={},
        limits={},
        emit=nobody,
        operator="default",
        lease=60.0,
        dispatch_every=3600.0,
        keep=86_400.0,
    )
    yield create_app(
        routers=[
            echo(),
            *events.routers,
            *tracking.routers,
            job_routes(database),
            *operations(
                database,
                [
                    Service(
                        kinds=(*events.kinds, *tracking.kinds),
                        dead=(dead.dead_deliveries(60.0), DEAD_JOBS),
                        lane_notes=dead.lane_notes,
                    )
                ],
            ),
        ],
        authenticator=Authenticator(database),
        database=database,
        version="0",
    )
    await tracking.close()
    await events.close()


@pytest.fixture
async def owned(app: FastAPI, database: Database) -> dict[str, str]:
    """By path parameter: the id of a thing that belongs to the account `acme`."""
    key, secret = await database.unit(lambda tx: keys.create(tx, "acme", "theirs"))
    headers = {"Authorization": f"Bearer {secret}"}
    async with served(app) as address, aiohttp.ClientSession(address, headers=headers) as session:
        new = {"target": "http://127.0.0.1:9/", "event_types": ["*"]}
        async with session.post("/v1/endpoints", json=new) as answer:
            endpoint = await answer.json()
        async with session.post("/v1/events", json={"event_type": "a", "payload": {}}) as answer:
            event = await answer.json()
        async with session.post("/v1/replays", json={}) as answer:
            replay = await answer.json()
        parcel = {"carrier": "sandbox", "tracking_number": "SBXDELIVERED1"}
        async with session.post("/v1/shipments", json=parcel) as answer:
            shipment = await answer.json()
        csv = b"carrier,tracking_number\nsandbox,SBXDELIVERED2\n"
        typed = {"Content-Type": "text/csv"}
        async with session.post("/v1/shipments/imports", data=csv, headers=typed) as answer:
            imported = await answer.json()

    def more(tx: Tx) -> tuple[str, str]:
        tx.run(sql("UPDATE deliveries SET status = 'dead' WHERE account = 'acme'"))
        new = NewJob("job_theirs", "acme", "work", "[]", store.lane_id("acme", "work"), 4)
        (delivery,) = tx.rows(sql("SELECT id FROM deliveries WHERE status = 'dead'"))
        return str(delivery[0]), store.insert(tx, [new])[0]

    dead_id, job_id = await database.unit(more)
    return {
        "key_id": key.id,
        "endpoint_id": endpoint["endpoint_id"],
        "hook_id": endpoint["endpoint_id"],
        "event_id": event["event_id"],
        "replay_id": replay["replay_id"],
        "shipment_id": shipment["shipment_id"],
        "import_id": imported["import_id"],
        "lane": f"delivery:{endpoint['endpoint_id']}",
        "dead_id": dead_id,
        "job_id": job_id,
        "carrier": "nobodys",  # carriers belong to no account
    }


@pytest.fixture
async def url(app: FastAPI) -> AsyncIterator[str]:
    async with served(app) as address:
        yield address


async def make_key(database: Database, *scopes: str, account: str = "acme") -> str:
    _, secret = await database.unit(lambda tx: keys.create(tx, account, "test", scopes or None))
    return secret


def walk(app: FastAPI) -> list[tuple[str, str, Route]]:
    """Method, an address and the route, for each operation."""
    routes = [route for route in app.routes if isinstance(route, Route)]
    # FastAPI's own document is the only one that is not ours.
    others = {getattr(route, "path", "?") for route in app.routes} - {r.path for r in routes}
    assert others == {"/openapi.json"}
    return [
        (method, re.sub(r"\{[^}]*\}", "unknown_1", route.path), route)
        for route in routes
        for method in sorted(route.methods or ())
    ]


async def problem(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    assert answer.content_type == "application/problem+json", await answer.text()
    document: dict[str, Any] = await answer.json(content_type=None)
    assert document["status"] == answer.status
    assert document["request_id"] == answer.headers["X-Request-ID"]
    assert document["code"] in PROBLEMS
    return document


async def test_every_route_as_nobody(app: FastAPI, url: str) -> None:
    async with aiohttp.ClientSession(url) as session:
        for method, address, route in walk(app):
            assert (route.needs.scope == ANYONE) == (route.path in OPEN), route.path
            for headers in ({}, {"Authorization": "Bearer psk_" + "A" * 43}):
                async with session.request(method, address, headers=headers) as answer:
                    if route.path in OPEN:
                        assert answer.status in (200, 404), (method, address)
                    else:
                        assert answer.status == 401, (method, address)
                        assert "WWW-Authenticate" in answer.headers
                        await problem(answer)


async def test_every_route_without_its_scope(app: FastAPI, url: str, database: Database) -> None:
    operations = [op for op in walk(app) if op[2].needs.scope not in (ANYONE, AUTHENTICATED)]
    assert {route.needs.scope for _, _, route in operations} <= ALL
    secrets = {
        scope: await make_key(database, *sorted(s for s in ALL if scope not in expand([s])))
        for scope in {route.needs.scope for _, _, route in operations}
    }
    async with aiohttp.ClientSession(url) as session:
        for method, address, route in operations:
            headers = {"Authorization": f"Bearer {secrets[route.needs.scope]}"}
            async with session.request(method, address, headers=headers) as answer:
                assert answer.status == 403, (method, address)
                assert (await problem(answer))["scope"] == route.needs.scope


async def test_every_route_with_its_scope_alone(app: FastAPI, url: str, database: Database) -> None:
    """Nothing but the stated scope is asked for, and what is unknown is a 404 or worse for it."""
    async with aiohttp.ClientSession(url) as session:
        for method, address, route in walk(app):
            if route.needs.scope in (ANYONE, AUTHENTICATED):
                continue
            secret = await make_key(database, route.needs.scope)
            headers = {"Authorization": f"Bearer {secret}"}
            async with session.request(method, address, headers=headers) as answer:
                assert answer.status < 500, (method, address, await answer.text())
                assert answer.status not in (401, 403, 405), (method, address)


async def test_every_route_as_another_account(
    app: FastAPI, url: str, database: Database, owned: dict[str, str]
) -> None:
    headers = {"Authorization": f"Bearer {await make_key(database, account='other')}"}
    async with aiohttp.ClientSession(url, headers=headers) as session:
        for method, _, route in walk(app):
            if route.needs.scope == ANYONE or not route.param_convertors:
                continue
            # A parameter without an example here would go unwatched.
            address = re.sub(r":\w+\}", "}", route.path).format_map(owned)
            body = BODIES.get((method, route.path))
            async with session.request(method, address, json=body) as answer:
                assert answer.status == 404, (method, address, await answer.text())
                assert (await problem(answer))["code"] == "not_found"


HOSTILE: dict[str, tuple[bytes, int]] = {
    "empty": (b"", 400),
    "cut off": (b'{"data":', 400),
    "not JSON": (b"<xml/>", 400),
    "latin-1": (b'{"data":"\xe4"}', 400),
    "raw NUL": (b'{"data":"\x00"}', 400),
    "NUL": (b'{"data":"\\u0000"}', 422),
    "NUL in a name": (b'{"data":{"\\u0000":1}}', 422),
    "surrogate": (b'{"data":"\\udead"}', 422),
    "NaN": (b'{"data":NaN}', 422),
    "infinite": (b'{"data":-1e999}', 422),
    "many digits": (b'{"data":' + b"9" * 100_000 + b"}", 422),
    "deep": (b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 422),
    "deep and open": (b'{"data":' + b'{"a":' * 40_000, 422),
    "too long": (b'{"data":"' + b"x" * 300_000 + b'"}', 413),
    "much too long": (b"[" * 20_000_000, 413),
    "a list": (b"[]", 422),
}


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_hostile_bodies_get_a_problem_and_the_server_goes_on(
    url: str, database: Database, method: str, chunked: bool
) -> None:
    secret = await make_key(database)
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}

    async def pieces(body: bytes) -> AsyncIterator[bytes]:
        for at in range(0, len(body), 65_536):
            yield body[at : at + 65_536]

    async with aiohttp.ClientSession(url, headers=headers) as session:
        for name, (body, status) in HOSTILE.items():
            if name == "empty" and method == "PUT":
                status = 422  # FastAPI calls an absent body a missing one
            data = pieces(body) if chunked else io.BytesIO(body)
            async with session.request(method, "/v1/echo", data=data) as answer:
                assert answer.status == status, (name, await answer.text())
                assert (await problem(answer))["status"] == status
            kept = {"data": {"n": 10**400, "s": "ä\U0001f600", "deep": [[[[1]]]]}}
            async with session.request(method, "/v1/echo", data=json.dumps(kept)) as answer:
                assert answer.status == 200, await answer.text()
                assert await answer.json() == kept


async def test_requests_that_are_not_http_leave_the_server_alone(url: str) -> None:
    port = int(url.rpartition(":")[2])
    for raw in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
        b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/keys HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
        b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw)
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 60)
        assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 401")), answer
        writer.close()
        await writer.wait_closed()
    async with aiohttp.ClientSession(url) as session, session.get("/health/live") as alive:
        assert alive.status == 200


async def test_a_body_that_never_ends_is_cut_off(url: str, database: Database) -> None:
    headers = {
        "Authorization": f"Bearer {await make_key(database)}",
        "Content-Type": "application/json",
    }
    sent = 0

    async def forever() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 1_000_000_000:
            sent += 65_536
            yield b" " * 65_536
            await asyncio.sleep(0)

    async with (
        aiohttp.ClientSession(url) as session,
        session.post("/v1/echo", data=forever(), headers=headers) as answer,
    ):
        assert answer.status == 413
    assert sent < 50_000_000

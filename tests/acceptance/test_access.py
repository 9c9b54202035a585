"""Every route of a real server, as nobody, as another account, and without its scope."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

from penstock.clock import SystemClock
from penstock.jobs import store
from penstock.jobs.store import NewJob
from penstock.storage.sqlite import SqliteDatabase
from support.client import Api
from support.process import Up
from support.receiver import Receiver
from support.scoring import completed, score, starter_csv

pytestmark = pytest.mark.anyio

PUBLIC = {"/health/live", "/health/ready", "/version", "/metrics", "/problems/{code}"}
BODIES: dict[str, Any] = {
    "POST /v1/events": {"event_type": "walk", "payload": {}},
    "POST /v1/events/batch": {"events": [{"event_type": "walk", "payload": {}}]},
    "POST /v1/endpoints": {"target": "http://127.0.0.1:9/"},
    "PATCH /v1/endpoints/{endpoint_id}": {"description": "walked"},
    "POST /v1/endpoints/{endpoint_id}/recover": {"since": "2026-01-01T00:00:00Z"},
    "POST /v1/keys": {"name": "walk"},
    "POST /v1/shipments": {"carrier": "sandbox", "tracking_number": "SBXDELIVERED1"},
    "PATCH /v1/shipments/{shipment_id}": {"label": "walked"},
    "POST /v1/carriers/detect": {"tracking_number": "SBXDELIVERED1"},
    "PUT /v1/carriers/{carrier}/credentials": {"values": {"api_key": "walked"}},
    "POST /v1/predictions": {"upload_id": "upl_walked"},
    "POST /v1/predictions/{prediction_id}/outcomes": {"outcomes": [{"id": "1", "churned": True}]},
    "PATCH /v1/uploads/{upload_id}": {"encoding": "utf-8"},
    "POST /v1/models": {
        "upload_id": "upl_walked",
        "label_column": "churned",
        "positive_label": "yes",
        "id_column": "customer",
    },
    "POST /v1/models/{model_id}/promote": {"version": 1},
    "POST /v1/carriers/{carrier}/circuit": {"state": "open", "for": 60, "reason": "walked"},
    "PATCH /v1/lanes/{lane}": {"paused": True},
    "POST /v1/lanes/{lane}/circuit": {"state": "open", "for": 60, "reason": "walked"},
    "POST /v1/dead/redrive": {"kind": "delivery", "ids": ["dlv_walked"]},
    "POST /v1/dead/drop": {"kind": "delivery", "ids": ["dlv_walked"]},
}
# Routes of which any key reads as much as its scopes cover.
AS_FAR_AS_SCOPES_GO = {"/v1/dead", "/v1/dead/counts", "/v1/dead/{dead_id}"}


@dataclass(frozen=True, slots=True)
class _Issuer:
    url: str
    key: rsa.RSAPrivateKey

    def token(self, account: str, **changes: Any) -> str:
        claims = {
            "iss": self.url,
            "aud": "penstock",
            "sub": account,
            "exp": int(time.time()) + 600,
            "scope": "events:write endpoints:write keys:write shipments:write lanes:write "
            "jobs:write predictions:write models:write",
        }
        return jwt.encode(claims | changes, self.key, algorithm="RS256", headers={"kid": "one"})


@asynccontextmanager
async def _issuer() -> AsyncIterator[_Issuer]:
    """An OpenID Connect issuer with one key, at a port of loopback."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    application = web.Application()
    runner = web.AppRunner(application, access_log=None)

    async def discovery(request: web.Request) -> web.Response:
        url = f"http://{request.host}"
        return web.json_response({"issuer": url, "jwks_uri": f"{url}/keys"})

    async def keys(request: web.Request) -> web.Response:
        return web.json_response({"keys": [public | {"kid": "one", "use": "sig"}]})

    application.router.add_get("/.well-known/openid-configuration", discovery)
    application.router.add_get("/keys", keys)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield _Issuer(f"http://127.0.0.1:{runner.addresses[0][1]}", key)
    finally:
        await runner.cleanup()


async def _operations(api: Api) -> list[tuple[str, str, dict[str, Any]]]:
    document = await api.ok("GET", "/openapi.json")
    assert document["openapi"].startswith("3.1")
    return [
        (method.upper(), path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in ("get", "post", "put", "patch", "delete")
    ]


async def test_nobody_gets_nowhere(server: Up, api: Api) -> None:
    operations = await _operations(api)
    guarded = [(m, p) for m, p, _ in operations if p not in PUBLIC]
    assert len(guarded) >= 15
    for token in (None, "psk_wrong", "", "x" * 5000):
        async with Api(server.url, token) as nobody:
            for method, path in guarded:
                answer = await nobody.call(method, path, BODIES.get(f"{method} {path}"))
                assert answer.status == 401, (method, path, answer.body)
                assert answer.code == ("unauthenticated" if token is None else "invalid_token")
                assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_missing_scope_is_named(server: Up, api: Api) -> None:
    keys = [
        (await api.ok("POST", "/v1/keys", {"name": "narrow", "scopes": [scope]}))["key"]
        for scope in ("jobs:read", "lanes:read")
    ]
    async with Api(server.url, keys[0]) as narrow, Api(server.url, keys[1]) as other:
        for method, path, _ in await _operations(api):
            if path in PUBLIC:
                continue
            asks = other if path.startswith("/v1/jobs") else narrow
            answer = await asks.call(method, path, BODIES.get(f"{method} {path}"))
            if path in AS_FAR_AS_SCOPES_GO:
                assert answer.json.get("items", []) == []
                assert set(answer.json.get("kinds", {})) <= {"job"}
                continue
            assert (answer.status, answer.code) == (403, "insufficient_scope"), (method, path)


async def _dead(api: Api, receiver: Receiver) -> str:
    """A delivery that has died."""
    receiver.script("/no", [404])
    await api.endpoint(receiver.url("/no"), "walked.no", on_permanent="dead")
    sent = await api.send("walked.no", wait=10)
    found = await api.final(sent["event_id"])
    return str(found["deliveries"][0]["delivery_id"])


async def _job(data: Path) -> str:
    """A job of the account `default`, put beside the server as a program of its own would."""
    database = SqliteDatabase(data / "penstock.db", SystemClock(), owner=False)
    await database.open()
    try:
        lane = store.lane_id("default", "walked")
        job = NewJob("job_walked", "default", "walked", "[]", lane, 1, delay=3600.0)
        return (await database.unit(lambda tx: store.insert(tx, [job])))[0]
    finally:
        await database.close()


async def test_another_account_sees_nothing(
    tmp_path_factory: pytest.TempPathFactory, receiver: Receiver, topic: str
) -> None:
    """The other account comes with an access token of an OpenID Connect issuer."""
    async with _issuer() as issuer:
        data = tmp_path_factory.mktemp("oidc") / "data"
        env = {"PENSTOCK_OIDC_ISSUER": issuer.url, "PENSTOCK_OIDC_AUDIENCE": "penstock"}
        with Up(data, env=env) as server:
            async with (
                Api(server.url, server.token) as mine,
                Api(server.url, issuer.token("other")) as theirs,
            ):
                endpoint = (await mine.endpoint(receiver.url("/mine"), topic))["endpoint_id"]
                event = (await mine.send(topic, wait=10))["event_id"]
                key_id = (await mine.ok("POST", "/v1/keys", {"name": "mine"}))["id"]
                ids = {"endpoint_id": endpoint, "event_id": event, "key_id": key_id}
                ids["hook_id"] = endpoint
                replay = await mine.ok("POST", "/v1/replays", {"event_types": ["no.such"]})
                ids["replay_id"] = replay["replay_id"]
                parcel = {"carrier": "sandbox", "tracking_number": "SBXINTRANSIT1"}
                ids["shipment_id"] = (await mine.ok("POST", "/v1/shipments", parcel))["shipment_id"]
                imported = await mine.ok(
                    "POST",
                    "/v1/shipments/imports",
                    data=b"carrier,tracking_number\nsandbox,SBXINTRANSIT2\n",
                    headers={"content-type": "text/csv"},
                )
                ids["import_id"] = imported["import_id"]
                scored = await score(mine, starter_csv(20))
                ids["prediction_id"] = scored["prediction_id"]
                ids["upload_id"] = scored["upload_id"]
                await completed(mine, scored["prediction_id"])
                asked = BODIES["POST /v1/models"] | {"upload_id": scored["upload_id"]}
                ids["model_id"] = (await mine.ok("POST", "/v1/models", asked))["model_id"]
                ids["number"] = "1"
                ids["lane"] = f"delivery:{endpoint}"
                ids["dead_id"] = await _dead(mine, receiver)
                ids["job_id"] = await _job(data)
                ids["carrier"] = "nobodys"  # carriers belong to no account
                for method, path, _ in await _operations(mine):
                    if path in PUBLIC or "{" not in path:
                        continue
                    answer = await theirs.call(
                        method, path.format_map(ids), BODIES.get(f"{method} {path}")
                    )
                    assert (answer.status, answer.code) == (404, "not_found"), (method, path)
                for path in (
                    "/v1/events",
                    "/v1/endpoints",
                    "/v1/keys",
                    "/v1/shipments",
                    "/v1/shipments/imports",
                    "/v1/uploads",
                    "/v1/predictions",
                    "/v1/models",
                    "/v1/jobs",
                    "/v1/lanes",
                    "/v1/dead",
                ):
                    assert (await theirs.ok("GET", path))["items"] == []
                # The same type, the same key: another account's events are not mixed up.
                sent = await theirs.send(topic, idempotency_key="one")
                assert sent["deliveries"] == []
                assert (await mine.send(topic, idempotency_key="one"))["event_id"] != sent[
                    "event_id"
                ]
                assert (await mine.ok("GET", f"/v1/endpoints/{endpoint}"))["enabled"]
                for bad in (
                    issuer.token("other", aud="else"),
                    issuer.token("other", iss="https://else.example"),
                    issuer.token("other", exp=1),
                    issuer.token("other")[:-4] + "AAAA",
                ):
                    theirs.token = bad
                    assert (await theirs.call("GET", "/v1/events")).code == "invalid_token"

"""`penstock smoke` against servers that are whole, and such that are not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from penstock import __version__
from support.client import Api
from support.process import Ran, Up, run
from support.receiver import Receiver

pytestmark = pytest.mark.anyio

# How long a check may take that fails: a machine that is busy may not answer within the first.
PATIENCE = ("500ms", "4s", "16s")
UNREACHABLE = 4
NAMES = ["live", "ready", "version", "event", "worker", "inbox", "cleanup"]


async def smoke(*arguments: str, data: Path, **env: str) -> Ran:
    return await run("smoke", *arguments, data=data, env=env)


def by_name(ran: Ran) -> dict[str, tuple[str, str]]:
    return {each["name"]: (each["status"], each["message"]) for each in ran.document["checks"]}


async def test_a_whole_server_passes_and_is_left_as_it_was(server: Up, api: Api) -> None:
    ran = await smoke("--expect-version", __version__, "--json", data=server.data)

    assert ran.code == 0, ran
    assert ran.document["url"] == server.url
    assert ran.document["ok"] is True
    checks = by_name(ran)
    assert list(checks) == NAMES
    assert {status for status, _ in checks.values()} == {"ok"}
    assert checks["worker"][1] == "it was pushed, and answered with 405"
    assert checks["inbox"][1] == "fetched and acknowledged"
    assert (await api.ok("GET", "/v1/endpoints"))["items"] == []
    assert (await api.ok("GET", "/v1/events"))["items"] == []


async def test_lines_for_people_and_a_key_with_no_more_than_it_needs(
    server: Up, api: Api, tmp_path: Path
) -> None:
    scopes = ["events:write", "endpoints:write", "inbox:write"]
    made = await api.ok("POST", "/v1/keys", {"name": "smoke", "scopes": scopes})

    ran = await smoke("--url", server.url, data=tmp_path / "none", PENSTOCK_KEY=made["key"])

    assert ran.code == 0, ran
    lines = [line.split()[:2] for line in ran.stdout.splitlines()]
    assert lines == [["ok", name] for name in NAMES]
    assert made["key"] not in ran.stdout + ran.stderr


async def test_an_endpoint_for_everything_takes_part(
    server: Up, api: Api, receiver: Receiver
) -> None:
    """The event is like any other: it goes to such an endpoint, and is fetched all the same."""
    made = await api.endpoint(receiver.url("/all"), "*")

    ran = await smoke("--json", data=server.data)

    await api.ok("DELETE", f"/v1/endpoints/{made['endpoint_id']}")
    assert ran.code == 0, ran
    assert by_name(ran)["cleanup"][0] == "ok"


async def test_without_a_key_no_event_is_sent(server: Up, tmp_path: Path) -> None:
    ran = await smoke("--url", server.url, "--json", data=tmp_path / "none")

    assert ran.code == 0, ran
    checks = by_name(ran)
    assert list(checks) == NAMES[:4]
    assert checks["event"][0] == "skipped"
    assert "PENSTOCK_KEY" in checks["event"][1]


async def test_what_is_wrong_is_named_and_the_rest_is_checked(server: Up, tmp_path: Path) -> None:
    for within in PATIENCE:
        ran = await smoke(
            *("--url", server.url, "--expect-version", "9.9", "--within", within, "--json"),
            data=tmp_path / "none",
            PENSTOCK_KEY="psk_wrong",
        )
        if ran.code != UNREACHABLE:
            break

    assert ran.code == 1
    assert ran.document["ok"] is False
    checks = by_name(ran)
    assert checks["version"] == ("failed", f"{__version__} runs, not 9.9")
    assert checks["event"][0] == "failed"
    assert "[invalid_token]" in checks["event"][1]
    assert list(checks) == NAMES[:4]


async def test_a_server_that_is_not_ready_and_has_no_worker(tmp_path: Path) -> None:
    """It fails at both, and what it made there is deleted nevertheless."""
    for within in PATIENCE:
        async with _without_worker() as (url, deleted):
            ran = await smoke(
                *("--url", url, "--within", within, "--json"),
                data=tmp_path / "none",
                PENSTOCK_KEY="psk_x",
            )
        if ran.code != UNREACHABLE:
            break
    seconds = within.replace("500ms", "0.5s").replace("s", " s")

    assert ran.code == 1, ran
    checks = by_name(ran)
    assert checks["ready"] == ("failed", "Failed: wakeups. [not_ready]")
    assert checks["worker"] == ("failed", f"no worker has tried it within {seconds}")
    assert checks["inbox"] == ("failed", f"it was not to be had within {seconds}")
    assert checks["cleanup"][0] == "ok"
    assert deleted == ["/v1/endpoints/end_1", "/v1/events/evt_1"]


async def test_nobody_there(tmp_path: Path) -> None:
    ran = await smoke(
        *("--url", "http://127.0.0.1:9", "--within", "200ms", "--json"), data=tmp_path / "none"
    )

    assert ran.code == 4
    assert list(by_name(ran)) == ["live"]
    here = await smoke(data=tmp_path / "none")
    assert here.code == 4
    bad = await smoke("--within", "soon", data=tmp_path / "none")
    assert bad.code == 2


@asynccontextmanager
async def _without_worker() -> AsyncIterator[tuple[str, list[str]]]:
    """A server that accepts, and whose queue nobody reads."""
    at, deleted = "2026-01-01T00:00:00Z", []
    event: dict[str, Any] = {
        "event_id": "evt_1",
        "event_type": "x",
        "status": "pending",
        "created_at": at,
        "deliver_at": None,
        "delivered_at": None,
        "delivery_attempts": 0,
        "message": "waits",
        "payload": {},
        "metadata": None,
        "open_deliveries": 1,
        "dead_deliveries": 0,
        "deliveries_total": 1,
        "deliveries": [],
    }
    endpoint = {
        "endpoint_id": "end_1",
        "kind": "webhook",
        "target": "t",
        "description": "d",
        "event_types": ["x"],
        "header_names": [],
        "timeout": 10,
        "rate_limit": None,
        "max_in_flight": 1,
        "schedule": None,
        "on_permanent": "long",
        "enabled": True,
        "disabled_reason": None,
        "old_secret_until": None,
        "created_at": at,
        "updated_at": at,
        "secret": "s",
    }
    problem = {"code": "not_ready", "status": 503, "title": "t", "detail": "Failed: wakeups."}
    answers: dict[tuple[str, str], tuple[int, Any]] = {
        ("GET", "/health/live"): (200, {"status": "live"}),
        ("GET", "/health/ready"): (503, problem),
        ("GET", "/version"): (200, {"version": "1", "services": ["jobs", "events"]}),
        ("GET", "/v1/endpoints"): (200, {"items": [], "next_cursor": None}),
        ("POST", "/v1/endpoints"): (201, endpoint),
        ("POST", "/v1/events"): (202, event),
        ("GET", "/v1/events/evt_1"): (200, event),
        ("POST", "/v1/inbox/lease"): (200, {"lease_id": "l", "leased_until": at, "events": []}),
    }

    async def answer(request: web.Request) -> web.Response:
        if request.method == "DELETE":
            deleted.append(request.path)
            return web.Response(status=204)
        status, body = answers[request.method, request.path]
        return web.json_response(body, status=status)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", deleted
    finally:
        await runner.cleanup()

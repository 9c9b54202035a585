"""The inbox over HTTP: leases, long polls and their end, what is refused."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from support.client import Api
from support.process import Up
from support.receiver import Receiver

pytestmark = pytest.mark.anyio


async def send(api: Api, topic: str, count: int = 1, **fields: Any) -> list[str]:
    return [(await api.send(topic, {"n": n}, **fields))["event_id"] for n in range(count)]


async def lease(api: Api, topic: str, **options: Any) -> dict[str, Any]:
    body = {"event_types": [topic]} | options
    found: dict[str, Any] = await api.ok("POST", "/v1/inbox/lease", body)
    return found


def ids(leased: dict[str, Any]) -> list[str]:
    return [event["event_id"] for event in leased["events"]]


def end_of(leased: dict[str, Any]) -> float:
    """When it ends, by the monotonic clock."""
    ahead = datetime.fromisoformat(leased["leased_until"]).timestamp() - time.time()
    return time.monotonic() + ahead


async def test_read_lease_acknowledge(api: Api, topic: str) -> None:
    sent = await send(api, topic, 5, metadata={"m": 1})
    page = await api.ok("GET", "/v1/inbox", query={"event_types": topic, "limit": "3"})
    assert [event["event_id"] for event in page["items"]] == sent[:3]
    assert page["items"][0]["payload"] == {"n": 0}
    assert page["items"][0]["metadata"] == {"m": 1}
    query = {"event_types": topic, "cursor": page["next_cursor"]}
    rest = await api.ok("GET", "/v1/inbox", query=query)
    assert [event["event_id"] for event in rest["items"]] == sent[3:]
    assert rest["next_cursor"] is None

    leased = await lease(api, topic, limit=4)
    assert ids(leased) == sent[:4]
    assert leased["events"][0]["leased_until"] == leased["leased_until"]
    assert ids(await lease(api, topic)) == sent[4:]

    body = {"event_ids": [sent[1], sent[0], "evt_none"], "lease_id": leased["lease_id"]}
    acknowledged = await api.ok("POST", "/v1/inbox/ack", body)
    assert acknowledged["results"] == [
        {"event_id": sent[1], "outcome": "acknowledged"},
        {"event_id": sent[0], "outcome": "acknowledged"},
        {"event_id": "evt_none", "outcome": "not_found"},
    ]
    again = await api.ok("POST", "/v1/inbox/ack", body)
    assert {r["outcome"] for r in again["results"]} == {"already_delivered", "not_found"}
    released = await api.ok("POST", "/v1/inbox/release", {"event_ids": sent[2:4]})
    assert {r["outcome"] for r in released["results"]} == {"released"}
    assert ids(await lease(api, topic)) == sent[2:4]

    event = await api.event(sent[0])
    assert (event["status"], event["inbox_lease_id"]) == ("delivered", None)
    held = await api.event(sent[2])
    assert held["inbox_lease_id"] is not None
    listed = await api.ok("GET", "/v1/events", query={"event_type": topic})
    assert sum(item["inbox_leased_until"] is not None for item in listed["items"]) == 3
    metrics = await api.call("GET", "/metrics")
    assert b"penstock_inbox_acknowledged_total" in metrics.body


async def test_pushes_wait_for_the_lease(api: Api, topic: str, receiver: Receiver) -> None:
    # The endpoint is disabled while the events come in, or they would be pushed at once.
    made = await api.endpoint(receiver.url("/held"), topic)
    await api.ok("POST", f"/v1/endpoints/{made['endpoint_id']}/disable")
    kept, freed, ended = await send(api, topic, 3)
    leased = await lease(api, topic, limit=2)
    short = await lease(api, topic, lease_seconds=5)
    assert (ids(leased), ids(short)) == ([kept, freed], [ended])
    await api.ok("POST", f"/v1/endpoints/{made['endpoint_id']}/enable")
    await asyncio.sleep(0.5)
    (delivery,) = (await api.event(kept))["deliveries"]
    assert delivery["why"]["code"] == "inbox_leased"
    released = time.monotonic()
    await api.ok("POST", "/v1/inbox/release", {"event_ids": [freed]})
    pushed = {push.id: push.at for push in await receiver.arrived("/held", 2)}
    assert set(pushed) == {freed, ended}
    assert released <= pushed[freed] < end_of(leased)
    assert pushed[ended] > end_of(short) - 0.01
    await api.ok("POST", "/v1/inbox/ack", {"event_ids": [kept], "lease_id": leased["lease_id"]})
    assert (await api.final(kept))["status"] == "delivered"
    assert (await api.final(ended))["delivery_attempts"] == 1
    assert len(receiver.at("/held")) == 2


async def test_a_long_poll_ends_as_soon_as_there_is_something(api: Api, topic: str) -> None:
    began = time.monotonic()
    assert ids(await lease(api, topic, wait=0.7)) == []
    assert 0.6 < time.monotonic() - began < 15
    waits = [10.0]
    # Far below the poll's half second, at least now and then on a machine that does other things.
    while min(waits) > 0.25:
        assert len(waits) < 20, waits
        waiting = asyncio.create_task(lease(api, topic, wait=20))
        await asyncio.sleep(0.15)
        began = time.monotonic()
        (event_id,) = await send(api, topic)
        assert ids(await waiting) == [event_id]
        waits.append(time.monotonic() - began)


async def test_a_lease_ends_by_its_time_and_another_reader_gets_the_event(
    api: Api, topic: str
) -> None:
    (event_id,) = await send(api, topic)
    first = await lease(api, topic, lease_seconds=1)
    second = await lease(api, topic, wait=10)
    assert (ids(first), ids(second)) == ([event_id], [event_id])
    body = {"event_ids": [event_id], "lease_id": first["lease_id"]}
    late = await api.ok("POST", "/v1/inbox/ack", body)
    assert late["results"][0]["outcome"] == "lease_lost"


async def test_a_reader_that_hung_up_is_given_nothing(api: Api, topic: str) -> None:
    waiting = asyncio.create_task(lease(api, topic, wait=20))
    await asyncio.sleep(0.3)
    await api.call("GET", "/health/live")  # what came before this has begun
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await asyncio.sleep(0.2)
    (event_id,) = await send(api, topic)
    await asyncio.sleep(1.0)
    assert ids(await lease(api, topic)) == [event_id]


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("lease", {"limit": 0}, "/limit"),
        ("lease", {"limit": 101}, "/limit"),
        ("lease", {"lease_seconds": 0}, "/lease_seconds"),
        ("lease", {"lease_seconds": 3601}, "/lease_seconds"),
        ("lease", {"wait": 20.1}, "/wait"),
        ("lease", {"event_types": ["a b"]}, "/event_types/0"),
        ("lease", {"seconds": 5}, "/seconds"),
        ("ack", {"event_ids": []}, "/event_ids"),
        ("ack", {"event_ids": ["e"] * 101}, "/event_ids"),
        ("ack", {}, "/event_ids"),
        ("release", {"event_ids": "evt"}, "/event_ids"),
    ],
)
async def test_what_is_refused(api: Api, path: str, body: Any, pointer: str) -> None:
    answer = await api.call("POST", f"/v1/inbox/{path}", body)
    assert answer.status == 422
    assert answer.code == "validation_failed"
    assert pointer in [error["pointer"] for error in answer.json["errors"]]


async def test_reading_is_one_scope_and_leasing_another(api: Api, topic: str) -> None:
    await send(api, topic)
    key = await api.ok("POST", "/v1/keys", {"name": "r", "scopes": ["inbox:read"]})
    headers = {"authorization": f"Bearer {key['key']}"}
    assert (await api.call("GET", "/v1/inbox", headers=headers)).status == 200
    for path in ("lease", "ack", "release"):
        body = {} if path == "lease" else {"event_ids": ["e"]}
        answer = await api.call("POST", f"/v1/inbox/{path}", body, headers=headers)
        assert answer.status == 403


async def test_a_long_poll_ends_when_the_server_stops(
    start: Callable[..., Up], tmp_path: Path
) -> None:
    server = start(Up, tmp_path / "data")
    async with Api(server.url, server.token) as api:
        waiting = asyncio.create_task(lease(api, "nothing", wait=20))
        await asyncio.sleep(0.5)
        await api.call("GET", "/health/live")  # what came before this has begun
        began = time.monotonic()
        stopping = asyncio.create_task(asyncio.to_thread(server.terminate))
        assert ids(await waiting) == []
        assert await stopping == 0
        assert time.monotonic() - began < 15


async def test_payloads_come_back_as_they_were_sent(api: Api, topic: str) -> None:
    payload = {"z": 1, "a": {"é": ["\u2028", 1e300, -0.0, None, '\\"\n']}, "big": 10**30}
    await api.send(topic, payload)
    (event,) = (await lease(api, topic))["events"]
    assert event["payload"] == payload
    assert list(event["payload"]) == ["z", "a", "big"]
    assert json.dumps(event["payload"]) == json.dumps(payload)

"""One idempotency key, one event: concurrently, and over two servers on one PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from support.client import Answer, Api
from support.process import Up
from support.receiver import Receiver

pytestmark = pytest.mark.anyio


async def _posted_32_times(apis: Sequence[Api], topic: str) -> list[Answer]:
    body = {"event_type": topic, "payload": {"order": 7}}
    headers = {"idempotency-key": f"order-7-{topic}"}
    return await asyncio.gather(
        *(apis[n % len(apis)].call("POST", "/v1/events", body, headers=headers) for n in range(32))
    )


async def _check(apis: Sequence[Api], receiver: Receiver, topic: str) -> None:
    """32 posts under one key, from all of `apis`: one event, pushed once."""
    await apis[0].endpoint(receiver.url(f"/{topic}"), topic)

    answers = await _posted_32_times(apis, topic)

    assert {answer.status for answer in answers} == {202}
    assert len({answer.body for answer in answers}) == 1
    replayed = [answer.headers.get("idempotent-replayed") for answer in answers]
    assert sorted(replayed, key=str) == [None] + ["true"] * 31
    event = await apis[0].final(answers[0].json["event_id"])
    assert event["deliveries_total"] == 1
    page = await apis[0].ok("GET", "/v1/events", query={"event_type": topic})
    assert [item["event_id"] for item in page["items"]] == [event["event_id"]]
    await asyncio.sleep(0.2)
    assert len(receiver.at(f"/{topic}")) == 1


async def test_32_concurrent_posts_are_one_event(api: Api, receiver: Receiver, topic: str) -> None:
    await _check([api], receiver, topic)


@pytest.mark.parametrize(
    "other",
    [
        {"payload": {"order": 8}},
        {"metadata": {"a": 1}},
        {"event_type": "another"},
        {"deliver_at": "2020-01-01T00:00:00Z"},
    ],
)
async def test_another_body_under_the_key_is_refused(
    api: Api, topic: str, other: dict[str, Any]
) -> None:
    body = {"event_type": topic, "payload": {"order": 7}}
    headers = {"idempotency-key": topic}
    await api.ok("POST", "/v1/events", body, headers=headers)

    answer = await api.call("POST", "/v1/events", body | other, headers=headers)

    assert answer.status == 422
    assert answer.code == "idempotency_key_reused"


async def test_the_same_body_written_otherwise_is_the_same(api: Api, topic: str) -> None:
    headers = {"content-type": "application/json", "idempotency-key": topic}
    texts = (
        f'{{"event_type": "{topic}", "payload": {{"a": 1, "b": [1, 2]}}}}',
        f'{{"payload":{{"b":[1,2],"a":1}},\n"event_type":"{topic}"}}',
    )

    first, second = [
        await api.call("POST", "/v1/events", data=text.encode(), headers=headers) for text in texts
    ]

    assert first.json == second.json
    assert second.headers["idempotent-replayed"] == "true"


async def test_header_and_field_are_one_key(api: Api, topic: str) -> None:
    body = {"event_type": topic, "payload": {}}
    first = await api.call("POST", "/v1/events", body | {"idempotency_key": topic})
    second = await api.call("POST", "/v1/events", body, headers={"idempotency-key": topic})
    third = await api.call(
        "POST",
        "/v1/events",
        body | {"idempotency_key": topic},
        headers={"idempotency-key": f"{topic}-other"},
    )

    assert second.json == first.json
    assert third.code == "validation_failed"


@pytest.mark.postgres
async def test_two_servers_on_postgresql_are_one(
    new_postgres: Callable[[], str],
    start: Callable[..., Up],
    tmp_path: Path,
    receiver: Receiver,
    topic: str,
) -> None:
    env = {"PENSTOCK_DATABASE_URL": new_postgres(), "PENSTOCK_SECRET_KEY": "s" * 32}
    servers = [start(Up, tmp_path / f"data{n}", env=env) for n in range(2)]
    async with (
        Api(servers[0].url, servers[0].token) as one,
        Api(servers[1].url, servers[1].token) as other,
    ):
        await _check([one, other], receiver, topic)
        headers = {"idempotency-key": f"order-7-{topic}"}
        body = {"event_type": topic, "payload": {"order": 8}}
        for api in (one, other):
            answer = await api.call("POST", "/v1/events", body, headers=headers)
            assert (answer.status, answer.code) == (422, "idempotency_key_reused")
    for server in servers:
        assert server.terminate() == 0

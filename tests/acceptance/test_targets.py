"""Where a push must not go: refused when the endpoint is made, and again when it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from support.client import Api
from support.process import Up
from support.receiver import Receiver, Reply

pytestmark = pytest.mark.anyio

REFUSED = [
    "https://10.0.0.1/",
    "https://172.16.0.1/",
    "https://192.168.1.1/",
    "https://169.254.169.254/latest/meta-data/",
    "https://[fd00:ec2::254]/latest/meta-data/",
    "https://100.64.0.1/",
    "https://0.0.0.0/",
    "https://0/",
    "https://255.255.255.255/",
    "https://224.0.0.1/",
    "https://192.0.2.1/",
    "https://198.18.0.1/",
    "https://240.0.0.1/",
    # 10.0.0.1 and 169.254.169.254 written otherwise.
    "https://167772161/",
    "https://2852039166/",
    "https://0xa9fea9fe/",
    "https://0xa9.0xfe.0xa9.0xfe/",
    "https://0251.0376.0251.0376/",
    "https://169.254.43518/",
    "https://10.1/",
    "https://[::ffff:10.0.0.1]/",
    "https://[::ffff:a9fe:a9fe]/",
    "https://[::10.0.0.1]/",
    "https://[64:ff9b::a9fe:a9fe]/",
    "https://[64:ff9b:1::a9fe:a9fe]/",
    "https://[2002:a9fe:a9fe::1]/",
    "https://[fe80::1]/",
    "https://[fe80::1%25eth0]/",
    "https://[fc00::1]/",
    "https://[ff02::1]/",
    "https://[::]/",
    "https://１６９.254.169.254/",
    "https://169。254。169。254/",
    # What is no address to push to at all.
    "https://user:password@example.com/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "//example.com/",
    "example.com",
    "https://",
    "https:///path",
    "http://93.184.216.34/",  # plain http is for private networks that are allowed
    "https://does-not-exist.invalid/",
]
LOOPBACK = [
    "https://127.0.0.1/",
    "http://127.0.0.1:9/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://017700000001/",
    "http://127.1/",
    "http://localhost/",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A server that allows no private target at all."""
    data = tmp_path_factory.mktemp("strict") / "data"
    with Up(data, env={"PENSTOCK_ALLOW_PRIVATE_TARGETS": ""}) as running:
        yield running


@pytest.fixture
async def strict_api(strict: Up) -> AsyncIterator[Api]:
    async with Api(strict.url, strict.token) as client:
        yield client


async def _codes(api: Api, targets: list[str]) -> dict[str, Any]:
    answers = await asyncio.gather(
        *(api.call("POST", "/v1/endpoints", {"target": target}) for target in targets)
    )
    return {
        target: (answer.status, answer.code if answer.status >= 400 else None)
        for target, answer in zip(targets, answers, strict=True)
    }


async def test_private_and_metadata_addresses_are_refused_at_creation(api: Api) -> None:
    codes = await _codes(api, REFUSED)

    assert {t: c for t, c in codes.items() if c != (422, "target_refused")} == {}


async def test_an_empty_setting_refuses_loopback_too(strict_api: Api) -> None:
    codes = await _codes(strict_api, LOOPBACK)

    assert {t: c for t, c in codes.items() if c != (422, "target_refused")} == {}


async def test_a_change_of_the_target_is_checked_as_well(
    api: Api, receiver: Receiver, topic: str
) -> None:
    made = await api.endpoint(receiver.url("/"), topic)

    answer = await api.call(
        "PATCH", f"/v1/endpoints/{made['endpoint_id']}", {"target": "https://169.254.169.254/"}
    )

    assert (answer.status, answer.code) == (422, "target_refused")
    shown = await api.ok("GET", f"/v1/endpoints/{made['endpoint_id']}")
    assert shown["target"] == made["target"]


async def test_a_redirect_to_a_private_address_is_not_followed(
    api: Api, receiver: Receiver, topic: str
) -> None:
    """It is not even looked at: the answer is a permanent one like any other."""
    metadata = Reply(307, {"location": "http://169.254.169.254/latest/meta-data/"})
    await api.endpoint(receiver.script("/lured", [metadata]), topic, on_permanent="dead")

    told = await api.final((await api.send(topic))["event_id"])

    assert told["deliveries"][0]["status"] == "dead"
    (attempt,) = told["deliveries"][0]["attempt_log"]
    assert attempt["status_code"] == 307
    assert attempt["address"].startswith("127.0.0.1")


async def test_what_was_allowed_once_is_refused_at_connect(
    tmp_path_factory: pytest.TempPathFactory, receiver: Receiver, topic: str
) -> None:
    """An endpoint from before the setting was tightened: the check at connect is the last."""
    data = tmp_path_factory.mktemp("tightened") / "data"
    with Up(data) as before:
        async with Api(before.url, before.token) as api:
            await api.endpoint(receiver.url("/once"), topic, on_permanent="dead")
        before.terminate()
    with Up(data, env={"PENSTOCK_ALLOW_PRIVATE_TARGETS": ""}) as after:
        async with Api(after.url, after.token) as api:
            told = await api.final((await api.send(topic))["event_id"])

    assert told["status"] == "failed"
    (attempt,) = told["deliveries"][0]["attempt_log"]
    assert attempt["error_kind"] == "refused_by_guard"
    assert receiver.received == []

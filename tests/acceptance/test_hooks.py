"""REST hooks over HTTP: subscribed, pushed, sampled and ended."""

from __future__ import annotations

import pytest

from support.client import Api
from support.receiver import Receiver, Reply

pytestmark = pytest.mark.anyio


async def _subscribe(api: Api, target: str, event: str, status: int = 201) -> str:
    answer = await api.call("POST", "/v1/hooks", {"target_url": target, "event": event})
    assert answer.status == status, answer.body
    assert answer.json["target_url"] == target
    assert answer.json["event"] == event
    return str(answer.json["id"])


async def test_a_sample_is_a_pushed_body_and_an_id(
    api: Api, receiver: Receiver, topic: str
) -> None:
    assert await api.ok("GET", f"/v1/hooks/samples?event={topic}.*") == []
    await _subscribe(api, receiver.url("/zap"), f"{topic}.*")
    payload = {"text": "naïve \u2028", "deep": [{"n": 1.5}], "none": None}
    for metadata in ({"team": "a"}, None):
        sent = await api.send(f"{topic}.made", payload, metadata=metadata, wait=10)
        pushed = receiver.at("/zap")[-1].json
        (sample, *_) = await api.ok("GET", f"/v1/hooks/samples?event={topic}.*")
        assert sample == {"id": sent["event_id"], **pushed}


async def test_it_is_subscribed_once_and_ended_once(
    api: Api, receiver: Receiver, topic: str
) -> None:
    target = receiver.url("/zap")
    hook = await _subscribe(api, target, topic)
    assert await _subscribe(api, target, topic, 200) == hook
    assert await _subscribe(api, target, f"{topic}.*") != hook
    shown = await api.ok("GET", f"/v1/endpoints/{hook}")
    assert (shown["description"], shown["event_types"]) == ("Zapier hook", [topic])
    assert (await api.call("DELETE", f"/v1/hooks/{hook}")).status == 204
    assert (await api.call("DELETE", f"/v1/hooks/{hook}")).code == "not_found"
    assert (await api.send(topic))["deliveries"] == []


async def test_gone_ends_the_pushes_until_it_is_subscribed_again(
    api: Api, receiver: Receiver, topic: str
) -> None:
    target = receiver.script(f"/{topic}", [410, Reply()])
    hook = await _subscribe(api, target, topic)
    await api.send(topic, wait=10)
    assert (await api.ok("GET", f"/v1/endpoints/{hook}"))["disabled_reason"] == "gone"
    assert await _subscribe(api, target, topic, 200) == hook
    assert (await api.send(topic, wait=10))["status"] == "delivered"


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        ({"target_url": "http://10.0.0.1/", "event": "a"}, "target_refused", None),
        ({"target_url": "ftp://example.com/", "event": "a"}, "target_refused", None),
        ({"target_url": "https://example.com/", "event": "a b"}, "validation_failed", "/event"),
        ({"target_url": "https://example.com/"}, "validation_failed", "/event"),
        ({"target_url": "", "event": "a"}, "validation_failed", "/target_url"),
    ],
)
async def test_what_cannot_be_subscribed_is_refused(
    api: Api, body: dict[str, str], code: str, pointer: str | None
) -> None:
    answer = await api.call("POST", "/v1/hooks", body)
    assert (answer.status, answer.code) == (422, code)
    if pointer is not None:
        assert answer.json["errors"][0]["pointer"] == pointer

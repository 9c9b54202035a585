"""A backlog behind one closed endpoint is nobody else's business."""

from __future__ import annotations

import statistics
from datetime import datetime

import pytest

from support.client import Api
from support.receiver import Receiver

pytestmark = pytest.mark.anyio

WAITING = 10_000


async def _latency(api: Api, receiver: Receiver, topic: str, path: str) -> float:
    """The median of the seconds from acceptance to the attempt, one event after another."""
    seconds = []
    for n in range(40):
        before = len(receiver.at(path))
        event = await api.send(topic, {"n": n}, wait=10)
        assert event["status"] == "delivered"
        push = receiver.at(path)[before]
        told = await api.event(event["event_id"])
        (attempt,) = told["deliveries"][0]["attempt_log"]
        assert push.id == event["event_id"]
        seconds.append(_seconds(attempt["started_at"]) - _seconds(told["created_at"]))
    return statistics.median(seconds)


def _seconds(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()


async def test_others_are_served_as_before(api: Api, receiver: Receiver, topic: str) -> None:
    await api.endpoint(receiver.url("/open"), f"{topic}.open")
    closed = await api.endpoint(receiver.url("/closed"), f"{topic}.closed")
    await api.ok("POST", f"/v1/endpoints/{closed['endpoint_id']}/disable")
    before = await _latency(api, receiver, f"{topic}.open", "/open")
    for number in range(WAITING // 100):
        item = {"event_type": f"{topic}.closed", "payload": {"number": number}}
        answer = await api.ok("POST", "/v1/events/batch", {"events": [item] * 100})
        assert answer["summary"]["accepted"] == 100

    after = await _latency(api, receiver, f"{topic}.open", "/open")

    # Generous: a cost for each waiting row would show as tens of milliseconds.
    assert after < 3 * before + 0.01, (before, after)
    assert receiver.at("/closed") == []
    # Deleting the endpoint ends them all, in one request.
    answer = await api.call("DELETE", f"/v1/endpoints/{closed['endpoint_id']}")
    assert answer.status == 204
    query = {"event_type": f"{topic}.closed", "limit": "1"}
    (item,) = (await api.ok("GET", "/v1/events", query=query))["items"]
    assert item["open_deliveries"] == 0

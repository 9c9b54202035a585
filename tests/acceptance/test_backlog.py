"""A backlog behind one closed endpoint is nobody else's business."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from support.client import Api
from support.process import Up
from support.receiver import Receiver

pytestmark = pytest.mark.anyio

WAITING = 10_000


async def _latency(api: Api, receiver: Receiver, topic: str, path: str) -> float:
    """The seconds from the acceptance of an event to the attempt."""
    before = len(receiver.at(path))
    event = await api.send(topic, {}, wait=10)
    assert event["status"] == "delivered"
    push = receiver.at(path)[before]
    told = await api.event(event["event_id"])
    (attempt,) = told["deliveries"][0]["attempt_log"]
    assert push.id == event["event_id"]
    return _seconds(attempt["started_at"]) - _seconds(told["created_at"])


def _seconds(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()


async def _medians(without: Api, with_: Api, receiver: Receiver, topic: str) -> tuple[float, float]:
    """The median latency of each server; in turn, so that what else runs here hits both alike."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(40):
        for api, path, found in zip((without, with_), ("/without", "/with"), seconds, strict=True):
            found.append(await _latency(api, receiver, topic, path))
    return statistics.median(seconds[0]), statistics.median(seconds[1])


async def test_others_are_served_as_before(
    api: Api, start: Callable[..., Up], tmp_path: Path, receiver: Receiver, topic: str
) -> None:
    """As by a server without any backlog."""
    other = start(Up, tmp_path / "data")
    async with Api(other.url, other.token) as burdened:
        await api.endpoint(receiver.url("/without"), f"{topic}.open")
        await burdened.endpoint(receiver.url("/with"), f"{topic}.open")
        closed = await burdened.endpoint(receiver.url("/closed"), f"{topic}.closed")
        await burdened.ok("POST", f"/v1/endpoints/{closed['endpoint_id']}/disable")
        for number in range(WAITING // 100):
            item = {"event_type": f"{topic}.closed", "payload": {"number": number}}
            answer = await burdened.ok("POST", "/v1/events/batch", {"events": [item] * 100})
            assert answer["summary"]["accepted"] == 100

        for _ in range(3):  # what costs time for each waiting row does so each time
            without, with_ = await _medians(api, burdened, receiver, f"{topic}.open")
            # Generous: a cost for each waiting row would show as tens of milliseconds.
            if with_ < 3 * without + 0.01:
                break
        else:
            pytest.fail(f"{with_} s, and {without} s without a backlog")
        assert receiver.at("/closed") == []
        # Deleting the endpoint ends them all, in one request.
        answer = await burdened.call("DELETE", f"/v1/endpoints/{closed['endpoint_id']}")
        assert answer.status == 204
        query = {"event_type": f"{topic}.closed", "limit": "1"}
        (item,) = (await burdened.ok("GET", "/v1/events", query=query))["items"]
        assert item["open_deliveries"] == 0

"""SIGTERM and SIGINT: what runs may finish, the rest is given back, nothing is lost."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.client import Api
from support.process import Up
from support.receiver import Receiver, Reply

pytestmark = pytest.mark.anyio


async def _heard(server: Up) -> None:
    """Wait until the server has taken notice of a signal: it listens no more."""
    async with asyncio.timeout(45):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            except OSError:
                return
            writer.close()
            await asyncio.sleep(0.02)


async def test_running_pushes_finish_within_the_grace_and_are_not_repeated(
    start: Callable[..., Up], tmp_path: Path, receiver: Receiver, topic: str
) -> None:
    data = tmp_path / "data"
    server = start(Up, data, env={"PENSTOCK_GRACE": "60s"})
    gate = asyncio.Event()
    receiver.script("/slow", [Reply(gate=gate)])
    async with Api(server.url, server.token) as api:
        await api.endpoint(receiver.url("/slow"), topic, max_in_flight=5, timeout=30)
        # Five are being pushed, the others wait for their turn.
        events = [(await api.send(topic, {"n": n}))["event_id"] for n in range(12)]
        await receiver.arrived("/slow", 5)

        server.signal(signal.SIGTERM)
        await _heard(server)
        assert server.popen.poll() is None
        gate.set()
        began = time.monotonic()
        code = await server.ended()

    assert code == 0
    assert time.monotonic() - began < 45  # they were not waited for in vain
    assert not (data / "run.json").exists()
    (summary,) = server.logged("worker_shutdown")
    assert summary["processed"] == 5
    assert summary["failed"] == 0
    assert summary["success_rate"] == 1.0
    assert summary["uptime"] > 0
    assert len(receiver.at("/slow")) == 5
    receiver.script("/slow", [200])
    again = start(Up, data)
    async with Api(again.url, again.token) as api:
        for event in events:
            told = await api.final(event)
            assert told["status"] == "delivered"
            assert told["delivery_attempts"] == 1
    # All twelve, each exactly once.
    assert sorted(push.id for push in receiver.at("/slow")) == sorted(events)
    assert not again.logged("row_lapsed")
    assert again.terminate() == 0


async def test_what_does_not_finish_is_given_back_at_the_deadline(
    start: Callable[..., Up], tmp_path: Path, receiver: Receiver, topic: str
) -> None:
    data = tmp_path / "data"
    server = start(Up, data, env={"PENSTOCK_GRACE": "1s"})
    never = Reply(gate=asyncio.Event())
    receiver.script("/stuck", [never])
    async with Api(server.url, server.token) as api:
        await api.endpoint(receiver.url("/stuck"), topic, max_in_flight=3, timeout=30)
        events = [(await api.send(topic, {"n": n}))["event_id"] for n in range(5)]
        await receiver.arrived("/stuck", 3)
        began = time.monotonic()

        server.signal(signal.SIGTERM)
        code = await server.ended()

    assert code == 0
    assert 0.9 < time.monotonic() - began < 25  # the receiver would be waited for for 30
    assert server.logged("worker_shutdown")[0]["processed"] == 0
    receiver.script("/stuck", [200])
    again = start(Up, data)
    async with Api(again.url, again.token) as api:
        for event in events:
            told = await api.final(event)
            assert told["status"] == "delivered"
            # What was given back counts neither as an attempt nor as a lapse.
            assert [a["number"] for a in told["deliveries"][0]["attempt_log"]] == [1]
    assert not again.logged("row_lapsed")


async def test_a_second_signal_ends_it_at_once_and_loses_nothing(
    start: Callable[..., Up], tmp_path: Path, receiver: Receiver, topic: str
) -> None:
    data = tmp_path / "data"
    server = start(Up, data, env={"PENSTOCK_GRACE": "60s"})
    receiver.script("/slow", [Reply(gate=asyncio.Event())])
    async with Api(server.url, server.token) as api:
        await api.endpoint(receiver.url("/slow"), topic, max_in_flight=3, timeout=30)
        events = [(await api.send(topic, {"n": n}))["event_id"] for n in range(6)]
        await receiver.arrived("/slow", 3)

        server.signal(signal.SIGTERM)
        await _heard(server)
        assert server.popen.poll() is None
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        code = await server.ended()

    assert code != 0
    assert time.monotonic() - began < 25  # neither the grace nor the receiver was waited for
    receiver.script("/slow", [200])
    again = start(Up, data)  # the folder is not held, its run.json is known to be stale
    async with Api(again.url, again.token) as api:
        for event in events:
            assert (await api.final(event))["status"] == "delivered"
    assert {push.id for push in receiver.at("/slow")} == set(events)


async def test_whoever_waits_is_answered_when_the_server_stops(
    start: Callable[..., Up], tmp_path: Path, receiver: Receiver, topic: str
) -> None:
    """Before the end of the grace, for which the push goes on, and of what it would wait for."""
    server = start(Up, tmp_path / "data", env={"PENSTOCK_GRACE": "60s"})
    gate = asyncio.Event()
    receiver.script("/stuck", [Reply(gate=gate)])
    async with Api(server.url, server.token) as api:
        await api.endpoint(receiver.url("/stuck"), topic, timeout=30)
        waiting = asyncio.create_task(api.send(topic, wait=20))
        await receiver.arrived("/stuck")

        server.signal(signal.SIGTERM)
        async with asyncio.timeout(15):  # 20 seconds is the longest that is waited
            event = await waiting
        gate.set()

    assert event["status"] == "pending"
    assert await server.ended() == 0


async def test_an_idle_server_stops_at_once_even_with_connections_open(
    start: Callable[..., Up], tmp_path: Path
) -> None:
    server = start(Up, tmp_path / "data", env={"PENSTOCK_GRACE": "60s"})
    async with Api(server.url, server.token) as api:
        await api.ok("GET", "/version")  # its connection is kept
        _, idle = await asyncio.open_connection("127.0.0.1", server.port)
        _, sending = await asyncio.open_connection("127.0.0.1", server.port)
        sending.write(b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Le")
        await sending.drain()
        began = time.monotonic()

        server.signal(signal.SIGINT)
        code = await server.ended()

        assert code == 0
        assert time.monotonic() - began < 45
        for writer in (idle, sending):
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    assert [line["event"] for line in server.logs][-1] == "server_stopped"

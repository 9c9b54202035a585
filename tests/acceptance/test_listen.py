"""`penstock listen` in a process of its own, beside a real server."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.client import Api
from support.ports import reserved
from support.process import START, Process, Up, run
from support.receiver import Receiver, Reply

pytestmark = pytest.mark.anyio


async def _until(
    condition: Callable[[], object], listener: Process, seconds: float = START
) -> None:
    try:
        async with asyncio.timeout(START):
            while not condition():
                assert listener.popen.poll() is None, listener.stderr
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"{listener.stdout}\n{listener.stderr}") from None


@pytest.fixture
async def listening(server: Up, start: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    async def begin(*arguments: str) -> Process:
        env = {"PENSTOCK_URL": server.url, "PENSTOCK_KEY": server.token}
        listener: Process = start(Process, "listen", *arguments, data=tmp_path / "none", env=env)
        await _until(lambda: "listening for" in listener.stderr, listener)
        return listener

    return begin


async def _end(listener: Process, number: signal.Signals = signal.SIGINT) -> None:
    listener.signal(number)
    assert await listener.ended() == 0, listener.stderr


async def _endpoints(api: Api) -> list[dict[str, Any]]:
    return list((await api.ok("GET", "/v1/endpoints"))["items"])


async def test_two_listeners_show_what_each_asked_for(
    api: Api, listening: Callable[..., Any], topic: str
) -> None:
    one = await listening("--events", f"{topic}.a, {topic}.b")
    two = await listening("--events", f"{topic}.*", "--json")
    assert len(await _endpoints(api)) == 2
    sent = await api.send(f"{topic}.a", {"order": 1042})
    assert (await api.final(sent["event_id"]))["status"] == "delivered"
    await api.final((await api.send(f"{topic}.c", {"text": "x" * 500}))["event_id"])
    assert one.stdout == f'{topic}.a  {sent["event_id"]}  {{"order": 1042}}\n'
    first, second = map(json.loads, two.stdout.splitlines())
    assert (first["event_id"], first["payload"], first["answered"]) == (
        sent["event_id"],
        {"order": 1042},
        204,
    )
    assert second["payload"] == {"text": "x" * 500}
    await _end(one)
    assert [each["event_types"] for each in await _endpoints(api)] == [[f"{topic}.*"]]
    await _end(two, signal.SIGTERM)
    assert await _endpoints(api) == []


async def test_what_is_not_signed_is_refused(
    api: Api, listening: Callable[..., Any], topic: str
) -> None:
    listener = await listening("--events", topic)
    (endpoint,) = await _endpoints(api)
    async with Api(endpoint["target"], None) as forger:
        assert (await forger.call("POST", "", {"event_type": topic})).status == 401
    async with Api(endpoint["target"].rpartition("/")[0], None) as guesser:
        assert (await guesser.call("POST", "/hooks", {})).status == 404
    assert "refused a request" in listener.stderr
    assert listener.stdout == ""
    await _end(listener)


async def test_pushes_are_forwarded_and_answered_as_the_other_side_does(
    api: Api, listening: Callable[..., Any], receiver: Receiver, topic: str
) -> None:
    target = receiver.script("/mine", [Reply(503, body=b"not yet"), Reply(200, body=b"taken")])
    listener = await listening("--events", topic, "--forward", target)
    sent = await api.send(topic, {"n": 1})
    found = await api.final(sent["event_id"])
    (delivery,) = found["deliveries"]
    answers = [(tried["status_code"], tried["response"]) for tried in delivery["attempt_log"]]
    assert answers == [(503, "not yet"), (200, "taken")]
    first, second = receiver.at("/mine")
    assert first.body == second.body
    assert first.id == second.id == sent["event_id"]
    assert first.headers["webhook-signature"].startswith("v1,")
    assert "-> 503" in listener.stdout.splitlines()[0]
    assert "-> 200" in listener.stdout.splitlines()[1]
    await _end(listener)


async def test_a_forward_that_nobody_takes_is_said(
    api: Api, listening: Callable[..., Any], topic: str
) -> None:
    with reserved() as closed:
        listener = await listening("--events", topic, "--forward", f"http://127.0.0.1:{closed}/")
        await api.send(topic)
        await _until(lambda: "does not answer" in listener.stdout, listener)
    assert "-> 502" in listener.stdout
    await _end(listener)


async def test_what_a_killed_listener_left_goes_with_the_next(
    api: Api, listening: Callable[..., Any], topic: str
) -> None:
    killed = await listening("--events", topic)
    mine = await api.endpoint("http://127.0.0.1:9/", topic, description="penstock listen on x")
    killed.kill()
    assert len(await _endpoints(api)) == 2
    listener = await listening("--events", topic)
    left = await _endpoints(api)
    assert len(left) == 2
    assert mine["endpoint_id"] in [each["endpoint_id"] for each in left]
    await _end(listener)
    await api.ok("DELETE", f"/v1/endpoints/{mine['endpoint_id']}")


async def test_a_server_that_refuses_loopback_is_explained(tmp_path: Path) -> None:
    with Up(tmp_path / "data", env={"PENSTOCK_ALLOW_PRIVATE_TARGETS": ""}) as strict:
        done = await run("listen", data=strict.data)
        assert done.code == 1
        (line,) = done.stderr.splitlines()
        assert "cannot reach this machine's loopback: run `penstock listen` where" in line
        async with Api(strict.url, strict.token) as api:
            assert await _endpoints(api) == []


async def test_a_taken_port_and_bad_options_are_said(server: Up, tmp_path: Path) -> None:
    port = str(server.port)
    cases = [
        (["--port", port], 1, f"cannot listen on port {port}"),
        (["--events", " , "], 2, "--events"),
        (["--forward", "127.0.0.1:3000"], 2, "--forward"),
    ]
    for arguments, code, text in cases:
        done = await run("listen", *arguments, data=server.data)
        assert (done.code, len(done.stderr.splitlines())) == (code, 1), done.stderr
        assert text in done.stderr
    done = await run("listen", data=tmp_path / "none")
    assert done.code == 4

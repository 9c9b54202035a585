"""Senders, receivers and readers of examples/, in Python and Node, against a real server."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from standardwebhooks import Webhook

from support.client import Api
from support.node import installed
from support.process import START, Up, run
from support.receiver import Receiver, Reply

pytestmark = pytest.mark.anyio

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass(frozen=True)
class Language:
    """How a file of the examples is run; an option without a name stands by its place."""

    folder: Path
    interpreter: str
    ending: str
    key_option: tuple[str, ...]
    port_option: tuple[str, ...]

    def command(self, name: str, *arguments: str) -> list[str]:
        return [self.interpreter, str(self.folder / f"{name}.{self.ending}"), *arguments]


@pytest.fixture(params=["python", "node"])
async def language(request: pytest.FixtureRequest, tmp_path: Path) -> Language:
    if request.param == "python":
        return Language(EXAMPLES / "python", sys.executable, "py", ("--key",), ("--port",))
    copy = await asyncio.to_thread(installed, EXAMPLES / "node", tmp_path)
    return Language(copy, "node", "js", (), ())


@contextmanager
def started(
    command: list[str], folder: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """A process whose output goes to the file `output` in its folder."""
    with (folder / "output").open("a") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait(10)


async def until_listening(port: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + START
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def test_a_sender_outlasts_a_server_that_is_down(
    language: Language, port: int, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    key = (await run("keys", "create", "--name", "sender", data=data)).stdout.splitlines()[0]
    environment = {"PENSTOCK_URL": f"http://127.0.0.1:{port}", "PENSTOCK_KEY": key}
    order = ["order.created", '{"order": 1042}', *language.key_option, "order-1042"]
    command = language.command("send", *order)
    with started(command, tmp_path, environment) as sender:
        output = tmp_path / "output"
        deadline = time.monotonic() + START
        while "again in" not in output.read_text():
            assert sender.poll() is None, output.read_text()
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        with Up(data, port=port) as server:
            assert await asyncio.to_thread(sender.wait, START) == 0
            with started(command, tmp_path, environment) as second:
                assert await asyncio.to_thread(second.wait, START) == 0
            first, again = output.read_text().splitlines()[-2:]
            assert first == again
            async with Api(server.url, server.token) as api:
                event = await api.event(first)
                assert event["payload"] == {"order": 1042}
                assert len((await api.ok("GET", "/v1/events"))["items"]) == 1


async def test_a_sender_asks_again_under_the_same_key(
    language: Language, receiver: Receiver, tmp_path: Path
) -> None:
    accepted = Reply(202, body=b'{"event_id": "evt_1"}')
    busy = Reply(429, {"Retry-After": "1"})
    dated = Reply(503, {"Retry-After": "Fri, 02 Jan 2026 03:04:05 GMT"})
    receiver.script("/v1/events", [busy, dated, accepted])
    environment = {"PENSTOCK_URL": receiver.url(""), "PENSTOCK_KEY": "psk_1"}
    with started(language.command("send", "a.b", "{}"), tmp_path, environment) as sender:
        assert await asyncio.to_thread(sender.wait, START) == 0
    tries = receiver.at("/v1/events")
    assert len(tries) == 3
    assert len({each.headers["idempotency-key"] for each in tries}) == 1
    assert tries[1].at - tries[0].at >= 1.0
    assert (tmp_path / "output").read_text().splitlines()[-1] == "evt_1"


async def test_a_sender_gives_up_what_is_refused(
    language: Language, server: Up, tmp_path: Path
) -> None:
    environment = {"PENSTOCK_URL": server.url, "PENSTOCK_KEY": server.token}
    with started(language.command("send", "no spaces", "{}"), tmp_path, environment) as sender:
        assert await asyncio.to_thread(sender.wait, START) == 1
    (line,) = (tmp_path / "output").read_text().splitlines()
    assert "/event_type" in line


async def test_a_receiver_does_each_event_once(
    language: Language, api: Api, port: int, topic: str, tmp_path: Path
) -> None:
    target = f"http://127.0.0.1:{port}/"
    secret = (await api.endpoint(target, topic))["secret"]
    command = language.command("receive", *language.port_option, str(port))
    output = tmp_path / "output"

    async def post(webhook_id: str, event: dict[str, object], signer: str) -> int:
        now, body = datetime.now(UTC), json.dumps(event)
        headers = {
            "webhook-id": webhook_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(signer).sign(webhook_id, now, body),
        }
        async with (
            aiohttp.ClientSession() as session,
            session.post(target, data=body, headers=headers) as answer,
        ):
            return answer.status

    with started(command, tmp_path, {"WEBHOOK_SECRET": secret}) as process:
        await until_listening(port, process)
        sent = await api.send(topic, {"order": 1042}, wait=15)
        assert sent["status"] == "delivered"
        event = {name: sent[name] for name in ("event_id", "event_type", "created_at")}
        event |= {"payload": {"order": 1042}, "metadata": None}
        assert await post(sent["event_id"], event, secret) == 204
        forger = "whsec_" + "A" * 44
        assert await post("evt_forged", event | {"event_id": "evt_forged"}, forger) == 401
    with started(command, tmp_path, {"WEBHOOK_SECRET": secret}) as process:  # after a kill -9
        await until_listening(port, process)
        assert await post(sent["event_id"], event, secret) == 204
        assert await post("evt_other", event | {"event_id": "evt_other"}, secret) == 204
    first, second, forged, third, other = output.read_text().splitlines()
    assert first.startswith(f"{topic} {sent['event_id']} ")
    assert "1042" in first
    assert second == third == f"{topic} {sent['event_id']} again: nothing to do"
    assert forged.startswith("refused: ")
    assert "1042" in other


def handled(output: Path) -> list[str]:
    """The ids of the events that a reader handled, in that order."""
    lines = output.read_text().splitlines() if output.exists() else []
    return [line.split()[1] for line in lines if " order " in line]


async def until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + START
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_a_reader_handles_acknowledges_and_releases(
    language: Language, server: Up, api: Api, topic: str, tmp_path: Path
) -> None:
    environment = {"PENSTOCK_URL": server.url, "PENSTOCK_KEY": server.token}
    bad = (await api.send(topic, {}))["event_id"]
    good = [(await api.send(topic, {"order": n}))["event_id"] for n in range(3)]
    other = (await api.send(f"{topic}.other", {"order": 9}))["event_id"]
    output = tmp_path / "output"
    with started(language.command("inbox", topic), tmp_path, environment) as reader:
        # The bad one comes again long before its lease of a minute has ended.
        await until(lambda: output.read_text().count(f"{bad} failed") >= 2, reader)
        good.append((await api.send(topic, {"order": 3}))["event_id"])
        await until(lambda: handled(output) == good, reader)
        for event_id in good:
            assert (await api.final(event_id))["status"] == "delivered"
        reader.terminate()
        assert await asyncio.to_thread(reader.wait, START) == 0
    assert handled(output) == good
    for event_id in (bad, other):
        left = await api.event(event_id)
        assert (left["status"], left["inbox_lease_id"]) == ("pending", None)


async def test_a_reader_that_is_ended_gives_back_what_it_has_not_done(
    language: Language, server: Up, api: Api, topic: str, tmp_path: Path
) -> None:
    environment = {"PENSTOCK_URL": server.url, "PENSTOCK_KEY": server.token}
    sent = []
    for part in range(3):
        events = [{"event_type": topic, "payload": {"order": 100 * part + n}} for n in range(100)]
        batch = await api.ok("POST", "/v1/events/batch", {"events": events})
        sent += [each["event"]["event_id"] for each in batch["results"]]
    output = tmp_path / "output"
    with started(language.command("inbox", topic), tmp_path, environment) as reader:
        await until(lambda: len(handled(output)) >= 20, reader)
        reader.terminate()
        assert await asyncio.to_thread(reader.wait, START) == 0
    done = handled(output)
    assert done == sent[: len(done)]
    for event_id in sent[:: len(sent) // 30]:
        event = await api.event(event_id)
        wanted = "delivered" if event_id in done else "pending"
        assert (event["status"], event["inbox_lease_id"]) == (wanted, None)


async def test_a_reader_outlasts_a_server_that_is_down(
    language: Language, port: int, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    key = (await run("keys", "create", "--name", "reader", data=data)).stdout.splitlines()[0]
    environment = {"PENSTOCK_URL": f"http://127.0.0.1:{port}", "PENSTOCK_KEY": key}
    output = tmp_path / "output"
    with started(language.command("inbox"), tmp_path, environment) as reader:
        await until(lambda: "again in" in output.read_text(), reader)
        with Up(data, port=port) as server:
            async with Api(server.url, server.token) as api:
                sent = await api.send("a", {"order": 1})
            await until(lambda: handled(output) == [sent["event_id"]], reader)
            reader.terminate()
            assert await asyncio.to_thread(reader.wait, START) == 0


async def test_a_reader_without_a_right_key_gives_up(
    language: Language, server: Up, tmp_path: Path
) -> None:
    environment = {"PENSTOCK_URL": server.url, "PENSTOCK_KEY": "psk_wrong"}
    with started(language.command("inbox"), tmp_path, environment) as reader:
        assert await asyncio.to_thread(reader.wait, START) == 1
    assert "invalid_token" in (tmp_path / "output").read_text()


@pytest.mark.parametrize("example", ["node", "zapier"])
def test_locks_name_no_host(example: str) -> None:
    lock = json.loads((EXAMPLES / example / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages
    for name, package in packages.items():
        assert "resolved" not in package, name
        assert package["integrity"].startswith("sha512-"), name

"""`penstock events replay` and `penstock replays`, beside real servers."""

from __future__ import annotations

import asyncio
import codecs
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from support.client import Api
from support.process import START, Up, environment, run
from support.receiver import Receiver

pytestmark = pytest.mark.anyio


class Watched:
    """A command whose stderr is a terminal; what it shows there is kept."""

    def __init__(self, *arguments: str, data: Path) -> None:
        self._terminal, theirs = os.openpty()
        self.shown = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "penstock", *arguments],
            env=environment(data),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
        )
        os.close(theirs)

    def until(self, pattern: str) -> str:
        """What the terminal shows once it shows that."""
        deadline = time.monotonic() + START
        while not re.search(pattern, self.shown):
            assert time.monotonic() < deadline, self.shown
            try:
                self._read()
            except OSError:  # the command has ended
                break
        assert re.search(pattern, self.shown), self.shown
        return self.shown

    def ended(self) -> tuple[int, str]:
        """Its exit code, and all that it printed to stdout."""
        with suppress(OSError):
            while self._read():
                pass
        assert self.popen.stdout is not None
        out = self.popen.stdout.read()
        return self.popen.wait(START), out

    def _read(self) -> bytes:
        more = os.read(self._terminal, 4096)
        self.shown += self._decoder.decode(more)  # which may end within a character
        return more

    def close(self) -> None:
        self.popen.kill()
        self.popen.wait(60)
        assert self.popen.stdout is not None
        self.popen.stdout.close()
        os.close(self._terminal)


@contextmanager
def watched(*arguments: str, data: Path) -> Iterator[Watched]:
    command = Watched(*arguments, data=data)
    try:
        yield command
    finally:
        command.close()


async def test_one_event_is_sent_again(
    server: Up, api: Api, receiver: Receiver, topic: str
) -> None:
    path = f"/{topic}"
    first = await api.endpoint(receiver.url(path), topic)
    sent = await api.send(topic, {"n": 1}, wait=10)
    await api.endpoint(receiver.url(f"{path}/second"), topic)
    id_ = sent["event_id"]

    plain = await run("events", "replay", id_, data=server.data)
    assert plain.code == 0
    assert plain.stdout.startswith(f"{id_}  pending  deliveries: 1 sent again, 0 added")
    await receiver.arrived(path, 2)
    await api.final(id_)
    only = ("--endpoint", first["endpoint_id"], "--endpoint", first["endpoint_id"], "--json")
    told = await run("events", "replay", id_, *only, data=server.data)
    assert (told.code, told.document["replayed"]) == (0, 1)
    await receiver.arrived(path, 3)
    await api.final(id_)
    missing = await run("events", "replay", id_, "--include-missing", "--json", data=server.data)
    assert (missing.document["replayed"], missing.document["added"]) == (1, 1)
    await receiver.arrived(f"{path}/second")


async def test_many_are_sent_again_and_waited_for(
    server: Up, api: Api, receiver: Receiver, topic: str
) -> None:
    made = await api.endpoint(receiver.url(f"/{topic}"), topic)
    sent = [await api.send(topic, {"n": n}, wait=10) for n in range(3)]
    chosen = ("--type", f"{topic},other.*", "--since", sent[1]["created_at"])

    again = await run("events", "replay", *chosen, data=server.data)
    assert again.code == 0, again
    (line,) = again.stdout.splitlines()
    assert re.match(r"rpl_\w+  done .* 2 deliveries: 2 delivered, 0 dead, 0 outstanding$", line)
    assert again.stderr == ""
    assert len(await receiver.arrived(f"/{topic}", 5)) == 5
    to_one = ("--endpoint", made["endpoint_id"], "--until", sent[1]["created_at"], "--json")
    told = await run("events", "replay", *to_one, data=server.data)
    assert (told.code, told.document["status"], told.document["delivered"]) == (0, "done", 1)
    started = await run("events", "replay", *chosen, "--no-wait", "--json", data=server.data)
    assert started.code == 0
    id_ = started.document["replay_id"]
    shown = await run("replays", "show", id_, "--json", data=server.data)
    assert shown.document["replay_id"] == id_
    listed = await run("replays", "list", data=server.data)
    assert listed.stdout.splitlines()[0].startswith(f"{id_}  ")
    everything = await run("replays", "list", "--json", data=server.data)
    assert len(everything.document["items"]) >= 3


async def test_ctrl_c_leaves_it_running_and_says_how_to_cancel(
    server: Up, api: Api, receiver: Receiver, topic: str
) -> None:
    made = await api.endpoint(receiver.url(f"/{topic}"), topic)
    await api.send(topic, wait=10)
    await api.ok("POST", f"/v1/endpoints/{made['endpoint_id']}/disable")

    with watched("events", "replay", "--type", topic, data=server.data) as command:
        shown = await asyncio.to_thread(command.until, "waiting for end_")
        (id_,) = set(re.findall(r"rpl_\w+", shown))
        command.popen.send_signal(signal.SIGINT)
        code, out = await asyncio.to_thread(command.ended)
        assert (code, out) == (130, "")
        assert f"`penstock replays cancel {id_}` ends it" in command.shown
    assert (await api.ok("GET", f"/v1/replays/{id_}"))["status"] == "pending"
    ended = await run("replays", "cancel", id_, data=server.data)
    assert ended.code == 0
    assert re.match(rf"{id_}  cancelled .* 0 outstanding$", ended.stdout.strip())
    unknown = await run("replays", "cancel", "rpl_none", data=server.data)
    assert (unknown.code, len(unknown.stderr.splitlines())) == (1, 1)


async def test_a_replay_that_somebody_else_cancels_has_failed(
    server: Up, api: Api, receiver: Receiver, topic: str
) -> None:
    made = await api.endpoint(receiver.url(f"/{topic}"), topic)
    await api.send(topic, wait=10)
    await api.ok("POST", f"/v1/endpoints/{made['endpoint_id']}/disable")

    with watched("events", "replay", "--type", topic, data=server.data) as command:
        shown = await asyncio.to_thread(command.until, "waiting for end_")
        (id_,) = set(re.findall(r"rpl_\w+", shown))
        await api.ok("POST", f"/v1/replays/{id_}/cancel")
        code, out = await asyncio.to_thread(command.ended)
    assert code == 1
    assert out.startswith(f"{id_}  cancelled")
    assert "it was cancelled" in command.shown


async def test_a_server_that_goes_away_meanwhile_is_4(
    start: Callable[..., Any], receiver: Receiver, tmp_path: Path
) -> None:
    server = start(Up, tmp_path / "data")
    async with Api(server.url, server.token) as api:
        made = await api.endpoint(receiver.url("/away"))
        await api.send("a", wait=10)
        await api.ok("POST", f"/v1/endpoints/{made['endpoint_id']}/disable")
    with watched("events", "replay", "--all", data=server.data) as command:
        await asyncio.to_thread(command.until, "waiting for end_")
        await asyncio.to_thread(server.kill)
        code, out = await asyncio.to_thread(command.ended)
        assert (code, out) == (4, "")
        assert "goes on when the server does" in command.shown


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "--all"),
        (("--endpoint", "ep_1", "--endpoint", "ep_2"), 2, "repeated"),
        (("evt_1", "--type", "a"), 2, "not both"),
        (("--since", "yesterday"), 2, "2026-01-31T12:00:00Z"),
        (("--until", "2026-01-31T12:00:00"), 2, "with a zone"),
        (("--status", "lost"), 2, "validation_failed"),
        (("--type", "a b"), 2, "/event_types/0"),
        (("--since", "2026-01-02T00:00:00Z", "--until", "2026-01-01T00:00:00Z"), 2, "/until"),
        (("--endpoint", "ep_none"), 1, "not_found"),
        (("evt_none",), 1, "not_found"),
        (("evt_none", "--endpoint", "ep_none"), 1, "not_found"),
    ],
)
async def test_what_is_refused(
    server: Up, arguments: tuple[str, ...], code: int, said: str
) -> None:
    ran = await run("events", "replay", *arguments, data=server.data)

    assert (ran.code, ran.stdout) == (code, "")
    (line,) = ran.stderr.splitlines()
    assert line.startswith("penstock: ")
    assert said in line


async def test_what_the_server_finds_unusable_is_2(server: Up) -> None:
    ran = await run("events", "send", "no spaces", data=server.data)

    assert (ran.code, ran.stdout) == (2, "")
    assert "/event_type" in ran.stderr

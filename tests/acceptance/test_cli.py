"""The command line: keys, migrations, events, exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from support.client import Api
from support.process import START, Process, Up, environment, run
from support.receiver import Receiver

pytestmark = pytest.mark.anyio


async def test_keys_beside_a_running_server(server: Up) -> None:
    made = await run("keys", "create", "--name", "shop", "--json", data=server.data)

    assert made.code == 0
    key = made.document
    assert re.fullmatch(r"psk_[A-Za-z0-9_-]{43,}", key["key"])
    async with Api(server.url, key["key"]) as api:
        assert (await api.call("GET", "/v1/events")).status == 200
        listed = await run("keys", "list", "--json", data=server.data)
        assert key["id"] in [item["id"] for item in listed.document["items"]]
        assert key["key"] not in listed.stdout
        plain = await run("keys", "list", data=server.data)
        assert plain.code == 0
        assert key["id"] in plain.stdout
        revoked = await run("keys", "revoke", key["id"], data=server.data)
        assert revoked.code == 0
        assert (await api.call("GET", "/v1/events")).code == "invalid_token"
    unknown = await run("keys", "revoke", "key_unknown", data=server.data)
    assert unknown.code == 1


async def test_a_key_may_do_what_its_scopes_say(server: Up) -> None:
    made = await run(
        *("keys", "create", "--name", "reader", "--scopes", "events:read", "--json"),
        data=server.data,
    )

    key = made.document
    assert key["scopes"] == ["events:read"]
    async with Api(server.url, key["key"]) as api:
        assert (await api.call("GET", "/v1/events")).status == 200
        refused = await api.call("POST", "/v1/events", {"event_type": "a", "payload": {}})
        assert (refused.status, refused.code) == (403, "insufficient_scope")
        assert (await api.call("GET", "/v1/endpoints")).code == "insufficient_scope"


async def test_a_key_is_good_until_it_expires(server: Up) -> None:
    made = await run(
        *("keys", "create", "--name", "short", "--expires-in", "3s", "--json"), data=server.data
    )

    expires_at = datetime.fromisoformat(made.document["expires_at"])
    async with Api(server.url, made.document["key"]) as api, asyncio.timeout(60):
        while (answer := await api.call("GET", "/v1/events")).status == 200:
            await asyncio.sleep(0.05)
    assert answer.code == "invalid_token"
    assert datetime.now(UTC) >= expires_at


async def test_keys_without_a_server_then_with_it(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    first = await run("keys", "create", "--name", "early", data=data)

    assert first.code == 0
    key = first.stdout.split()[0]
    listed = await run("keys", "list", "--json", data=data)
    assert [item["name"] for item in listed.document["items"]] == ["early"]
    server = start(Up, data)
    async with Api(server.url, key) as api:
        assert (await api.call("GET", "/v1/events")).status == 200
    server.kill()  # leaves a run.json of a process that is gone
    again = await run("keys", "create", "--name", "late", "--json", data=data)
    assert again.code == 0


async def test_keys_while_the_server_starts(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Process("up", "--port", "0", data=data) as server:
        # Neither loses the race for the data folder, whoever comes first.
        made = await asyncio.gather(
            *(run("keys", "create", "--name", f"k{n}", "--json", data=data) for n in range(3))
        )
        assert [ran.code for ran in made] == [0, 0, 0], made
        await asyncio.to_thread(server.wait_logged, "server_started")
        listed = await run("keys", "list", "--json", data=data)
        assert {item["name"] for item in listed.document["items"]} == {"k0", "k1", "k2"}


async def test_migrating_twice_is_migrating_once(tmp_path: Path) -> None:
    first = await run("migrate", "--json", data=tmp_path / "data")
    second = await run("migrate", "--json", data=tmp_path / "data")
    third = await run("migrate", data=tmp_path / "data")

    assert (first.code, second.code, third.code) == (0, 0, 0)
    assert first.document["from_revision"] is None
    head = first.document["to_revision"]
    assert second.document == {"from_revision": head, "to_revision": head}
    assert "up to date" in third.stdout


async def test_events_are_sent_and_followed(server: Up, receiver: Receiver, topic: str) -> None:
    async with Api(server.url, server.token) as api:
        made = await api.endpoint(receiver.url("/cli"), topic)
    sent = await run(
        *("events", "send", topic, '{"text": "Grüße"}', "--wait", "10", "--json"), data=server.data
    )

    assert sent.code == 0
    assert sent.document["status"] == "delivered"
    (push,) = receiver.at("/cli")
    assert push.verifies(made["secret"])
    assert push.json["payload"] == {"text": "Grüße"}
    plain = await run("events", "send", topic, "{}", data=server.data)
    assert plain.stdout.startswith("evt_")
    tail = await run(
        *("events", "tail", "--event-type", topic, "--since", "2020-01-01T00:00:00Z", "--once"),
        "--json",
        data=server.data,
    )
    followed = [json.loads(line) for line in tail.stdout.splitlines()]
    assert [event["event_type"] for event in followed] == [topic, topic]
    assert followed[0]["event_id"] == sent.document["event_id"]


async def test_a_remote_server_by_url_and_key(server: Up, tmp_path: Path, topic: str) -> None:
    made = await run("keys", "create", "--name", "remote", "--json", data=server.data)
    env = {"PENSTOCK_URL": server.url + "/", "PENSTOCK_KEY": made.document["key"]}

    sent = await run("events", "send", topic, "{}", "--json", data=tmp_path / "none", env=env)

    assert sent.code == 0
    assert sent.document["event_type"] == topic
    wrong = await run(
        *("events", "send", topic, "{}"),
        data=tmp_path / "none",
        env=env | {"PENSTOCK_KEY": "psk_wrong"},
    )
    assert wrong.code == 1
    assert "invalid_token" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("events", "send", "a", "{}"), 4),  # nobody there
        (("events", "tail", "--once"), 4),
        (("events", "replay", "evt_1"), 4),
        (("events", "replay", "--status", "failed"), 4),
        (("events", "replay"), 2),
        (("replays", "list"), 4),
        (("events", "send", "a", "not json"), 2),
        (("events", "send", "a", "[1]"), 2),
        (("events", "send", "a", "@missing.json"), 2),
        (("events", "send"), 2),
        (("nonsense",), 2),
        (("api",), 2),  # on SQLite one process does everything
        (("scheduler",), 2),
        (("dead", "list"), 4),
        (("lanes", "show", "a"), 4),
        (("up", "--port", "x"), 2),
        (("up", "-A", "no_such_module:app"), 2),
        (("keys", "create", "--name", "x", "--scopes", "everything:write"), 2),
        (("--version",), 0),
        (("--help",), 0),
    ],
)
async def test_exit_codes(tmp_path: Path, arguments: tuple[str, ...], code: int) -> None:
    ran = await run(*arguments, data=tmp_path / "data")

    assert ran.code == code, ran
    assert "Traceback" not in ran.stderr
    if code:
        assert ran.stdout == ""
        assert ran.stderr.strip()


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"\xff\xfe\xfd", "is not JSON"),
        (b'{"a": NaN}', "is not JSON"),
        (b'{"a": 1e999}', "is not JSON"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[1]", "must be a JSON object"),
        (None, "No such file"),
    ],
)
async def test_a_payload_that_cannot_be_sent_is_said_so(
    tmp_path: Path, payload: bytes | None, says: str
) -> None:
    if payload is not None:
        (tmp_path / "payload").write_bytes(payload)

    ran = await run("events", "send", "a", "@payload", data=tmp_path / "none", cwd=tmp_path)

    assert (ran.code, ran.stdout) == (2, "")
    assert ran.stderr.startswith("penstock: ")
    assert says in ran.stderr


@pytest.mark.parametrize("command", [("up", "--port", "0"), ("keys", "create", "--name", "a")])
async def test_a_data_folder_that_cannot_be_one_is_named(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "file").touch()

    ran = await run(*command, data=tmp_path / "file")

    assert (ran.code, ran.stdout) == (2, "")
    assert "Traceback" not in ran.stderr
    assert f"PENSTOCK_DATA_DIR is '{tmp_path / 'file'}'" in ran.stderr


@pytest.mark.parametrize("command", [("up", "--port", "0"), ("migrate",), ("keys", "list")])
async def test_a_database_that_cannot_be_used_is_said_so(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "penstock.db").write_bytes(b"what is this?" * 100)
    broken = await run(*command, data=data)

    nobody = {
        "PENSTOCK_DATABASE_URL": "postgresql://penstock:hunter2@127.0.0.1:9/penstock",
        "PENSTOCK_SECRET_KEY": "s" * 32,
    }
    away = await run(*command, data=tmp_path / "other", env=nobody)

    for ran, says in ((broken, str(data / "penstock.db")), (away, "Connection refused")):
        assert (ran.code, ran.stdout) == (1, "")
        (line,) = ran.stderr.splitlines()
        assert line.startswith("penstock: ")
        assert says in line
        assert "hunter2" not in line


async def test_an_unreachable_server_is_4(tmp_path: Path) -> None:
    env = {"PENSTOCK_URL": "http://127.0.0.1:9", "PENSTOCK_KEY": "psk_x"}

    ran = await run("events", "send", "a", "{}", data=tmp_path, env=env)

    assert (ran.code, ran.stdout) == (4, "")
    assert "http://127.0.0.1:9 does not answer" in ran.stderr


async def test_ctrl_c_while_tailing_is_quiet(
    server: Up, start: Callable[..., Process], tmp_path: Path, topic: str
) -> None:
    async with Api(server.url, server.token) as api:
        event = await api.send(topic)
    env = {"PENSTOCK_URL": server.url, "PENSTOCK_KEY": server.token}
    tail = start(
        Process,
        *("events", "tail", "--event-type", topic, "--since", "2020-01-01T00:00:00Z"),
        data=tmp_path / "none",
        env=env,
    )
    async with asyncio.timeout(START):
        while event["event_id"] not in tail.stdout:
            assert tail.popen.poll() is None, tail.stderr
            await asyncio.sleep(0.02)
    tail.signal(signal.SIGINT)

    assert await tail.ended() in (0, 130)
    assert "Traceback" not in tail.stdout + tail.stderr


async def test_output_into_a_closed_pipe_is_quiet(server: Up) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    listing = subprocess.run(
        [sys.executable, "-m", "penstock", "keys", "list"],
        env=environment(server.data),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=START,
    )
    os.close(writing)

    assert "Traceback" not in listing.stderr

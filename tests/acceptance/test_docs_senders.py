"""The senders of docs/how-to/send-events.md in four languages."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.client import Api
from support.process import Up
from support.receiver import Receiver, Reply

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "send-events.md"
SENDERS = {
    "send.py": [sys.executable, "send.py"],
    "send.mjs": ["node", "send.mjs"],
    "send.go": ["go", "run", "send.go"],
    "send.php": ["php", "send.php"],
}


@pytest.fixture(params=SENDERS, ids=["python", "node", "go", "php"])
def sender(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """How to run the page's sender, whose file is in `tmp_path`."""
    command = SENDERS[request.param]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    block = rf"^```\w+ file={re.escape(request.param)}\n(.*?)^```$"
    found = re.search(block, PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    (tmp_path / request.param).write_text(found[1])
    if command[:2] == ["go", "run"]:  # which would link it anew each time
        build = ["go", "build", "-o", "sender", *command[2:]]
        subprocess.run(build, cwd=tmp_path, env=os.environ | go(tmp_path), check=True)
        return ["./sender"]
    return command


def go(folder: Path) -> dict[str, str]:
    """Its environment: it leaves nothing outside of the folder."""
    return {"GOCACHE": str(folder / "cache"), "GOFLAGS": "-mod=mod"}


async def ran(
    command: list[str], folder: Path, url: str, key: str
) -> subprocess.CompletedProcess[str]:
    settings = {"PENSTOCK_URL": url, "PENSTOCK_KEY": key}
    return await asyncio.to_thread(
        subprocess.run,
        command,
        cwd=folder,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )


async def test_sending_twice_is_sending_once(
    sender: list[str], server: Up, api: Api, tmp_path: Path
) -> None:
    made = await api.ok("POST", "/v1/keys", {"name": "shop", "scopes": ["events:write"]})
    first, again = [await ran(sender, tmp_path, server.url, made["key"]) for _ in range(2)]

    assert first.returncode == 0, first.stderr
    assert first.stdout == again.stdout
    event = await api.event(first.stdout.strip())
    assert (event["event_type"], event["payload"]) == ("order.created", {"order": 1042})
    # The senders of all languages use the page's key.
    assert len((await api.ok("GET", "/v1/events"))["items"]) == 1


async def test_a_sender_asks_again_and_gives_up(
    sender: list[str], receiver: Receiver, tmp_path: Path
) -> None:
    accepted = (
        b'{"event_id": "evt_1", "event_type": "order.created", "status": "pending",'
        b' "created_at": "2026-01-02T03:04:05.000000Z", "delivered_at": null,'
        b' "delivery_attempts": 0, "message": "", "deliveries": []}'
    )
    receiver.script("/v1/events", [Reply(503), Reply(429), Reply(202, body=accepted)])
    sent = await ran(sender, tmp_path, receiver.url(""), "psk_1")
    assert (sent.returncode, sent.stdout) == (0, "evt_1\n"), sent.stderr
    tries = receiver.at("/v1/events")
    assert len(tries) == 3
    keys = {each.headers.get("idempotency-key") or each.json["idempotency_key"] for each in tries}
    assert keys == {"order-1042"}
    assert len({each.body for each in tries}) == 1

    problem = b'{"code": "validation_failed", "status": 422, "detail": "No."}'
    receiver.script("/v1/events", [Reply(422, body=problem)])
    refused = await ran(sender, tmp_path, receiver.url(""), "psk_1")
    assert refused.returncode != 0
    assert "No." in refused.stderr + refused.stdout
    assert len(receiver.at("/v1/events")) == 4

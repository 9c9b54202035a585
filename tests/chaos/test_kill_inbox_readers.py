"""Two readers of the inbox, killed again and again: every event is acknowledged once."""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import inbox_reader
from support.client import Api
from support.process import Up

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

EVENTS = 5000
KILLS = 8


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def test_two_readers_are_killed_while_they_read(
    kind: str,
    request: pytest.FixtureRequest,
    start: Callable[..., Up],
    tmp_path: Path,
    topic: str,
) -> None:
    env = {}
    if kind == "postgres":
        new_postgres = request.getfixturevalue("new_postgres")
        env = {"PENSTOCK_DATABASE_URL": new_postgres(), "PENSTOCK_SECRET_KEY": "s" * 32}
    server = start(Up, tmp_path / "data", env=env)
    readers: dict[int, subprocess.Popen[bytes]] = {}
    logs = [tmp_path / f"reader{number}.log" for number in range(2)]

    def begin(number: int) -> None:
        readers[number] = subprocess.Popen(
            [sys.executable, inbox_reader.__file__, server.url, server.token, topic, logs[number]],
            stdin=subprocess.DEVNULL,
        )

    async with Api(server.url, server.token) as api:
        try:
            for number in range(2):
                begin(number)
            posting = asyncio.create_task(_post(api, topic))
            chance = random.Random(6)
            for killed in range(KILLS):
                # Spread over the whole of the work, whatever its speed.
                await _acknowledged(api, EVENTS * (killed + 1) // (KILLS + 2))
                await asyncio.sleep(chance.random() * 0.05)
                victim = killed % 2
                readers[victim].kill()
                readers[victim].wait()
                begin(victim)
            sent = await posting
            await _acknowledged(api, EVENTS)
        finally:
            for reader in readers.values():
                reader.kill()
                reader.wait()

        query = {"event_type": topic, "status": "pending"}
        assert (await api.ok("GET", "/v1/events", query=query))["items"] == []
        assert (await api.ok("GET", "/v1/inbox", query={"event_types": topic}))["items"] == []
        assert await _count(api) == EVENTS
    _check(logs, sent)
    assert server.terminate() == 0


async def _post(api: Api, topic: str) -> list[str]:
    """In batches; the ids in the order in which the events were accepted."""
    sent: list[str] = []
    for first in range(0, EVENTS, 100):
        batch = [
            {"event_type": topic, "payload": {"n": n}}
            for n in range(first, min(first + 100, EVENTS))
        ]
        answer = await api.ok("POST", "/v1/events/batch", {"events": batch})
        sent += [result["event"]["event_id"] for result in answer["results"]]
    return sent


async def _count(api: Api) -> int:
    text = (await api.call("GET", "/metrics")).body.decode()
    found = re.search(r"^penstock_inbox_acknowledged_total ([0-9.]+)$", text, re.MULTILINE)
    return 0 if found is None else int(float(found[1]))


async def _acknowledged(api: Api, count: int) -> None:
    async with asyncio.timeout(240):
        while await _count(api) < count:
            await asyncio.sleep(0.05)


def _check(logs: list[Path], sent: list[str]) -> None:
    lines: list[dict[str, Any]] = []
    for log in logs:
        for line in log.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:  # the reader was killed in the middle of it
                continue
    leases = [line["leased"] for line in lines if "leased" in line]
    outcomes = [result for line in lines for result in line.get("results", [])]
    acknowledged = Counter(r["event_id"] for r in outcomes if r["outcome"] == "acknowledged")
    assert all(ids == sorted(ids) for ids in leases)
    assert set(acknowledged.values()) == {1}
    # Of what the server counted, the log lacks only what a killed reader could not write down.
    assert set(acknowledged) <= set(sent)
    assert {id_ for ids in leases for id_ in ids} <= set(sent)
    lost = len(sent) - len(acknowledged)
    assert lost <= 40 * KILLS
    # Events were leased again because their reader was killed, or was too slow; not otherwise.
    repeated = Counter(id_ for ids in leases for id_ in ids)
    slow = [line["results"] for line in lines if line.get("held", 0) >= inbox_reader.LEASE]
    assert sum(n - 1 for n in repeated.values()) <= 40 * KILLS + sum(map(len, slow))
    # Oldest first: each reader's first lease starts among the first that there were.
    assert any(ids and ids[0] == sent[0] for ids in leases)

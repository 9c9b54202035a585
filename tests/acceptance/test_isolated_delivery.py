"""A delivery whose worker died twice is made by a process of its own, with all that follows."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.client import Api
from support.process import Up
from support.receiver import Receiver

pytestmark = pytest.mark.anyio

SUSPECT = "UPDATE deliveries SET lapses = 2 WHERE event_id = ?"


async def test_what_follows_from_an_answer_is_the_same_in_a_child(
    start: Callable[..., Any], receiver: Receiver, tmp_path: Path
) -> None:
    server = start(Up, tmp_path / "data")
    async with Api(server.url, server.token) as api:
        well = await api.endpoint(receiver.script("/well", [200]), "topic")
        gone = await api.endpoint(receiver.script("/gone", [410]), "topic")
        flaky = await api.endpoint(receiver.script("/flaky", [503, 200]), "topic")
        await api.endpoint(receiver.script("/told", [200]), "endpoint.disabled")
        paths = [f"/v1/endpoints/{each['endpoint_id']}" for each in (well, gone, flaky)]
        for path in paths:
            await api.ok("POST", f"{path}/disable")
        event_id = (await api.send("topic"))["event_id"]

        def suspect() -> int:
            with closing(sqlite3.connect(server.data / "penstock.db", timeout=30)) as beside:
                changed = beside.execute(SUSPECT, [event_id]).rowcount
                beside.commit()
                return changed

        assert await asyncio.to_thread(suspect) == 3
        for path in paths:
            await api.ok("POST", f"{path}/enable")

        found = await api.final(event_id, 90)
        await receiver.until(lambda: len(receiver.at("/told")) == 1, 60)
        view = await api.ok("GET", paths[1])

    ended = {each["endpoint_id"]: each for each in found["deliveries"]}
    states = [
        (ended[each["endpoint_id"]]["status"], ended[each["endpoint_id"]]["attempts"])
        for each in (well, gone, flaky)
    ]
    assert states == [("delivered", 1), ("dead", 1), ("delivered", 2)]
    assert found["status"] == "failed"
    assert [len(receiver.at(path)) for path in ("/well", "/gone", "/flaky")] == [1, 1, 2]
    assert receiver.at("/well")[0].verifies(well["secret"])
    assert (view["enabled"], view["disabled_reason"]) == (False, "gone")
    assert receiver.at("/told")[0].json["payload"]["endpoint_id"] == gone["endpoint_id"]
    # Its log is the server's, and says no more than the server would.
    await asyncio.to_thread(server.wait_logged, "endpoint_disabled")
    assert [line["endpoint_id"] for line in server.logged("endpoint_disabled")] == [
        gone["endpoint_id"]
    ]
    assert len(server.logged("private_targets_allowed")) == 1
    assert server.logged("row_lapsed") == []

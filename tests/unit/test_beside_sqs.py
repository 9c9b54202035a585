"""What only enqueues ends, whatever its wakes are waiting for."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from typing import Any

import pytest

from penstock import _beside_sqs
from penstock._beside_sqs import SqsBeside
from penstock.work.wakeups import Wake
from support.sqs_server import ENVIRONMENT, REGION, running


class Stuck:
    """A database that takes a unit and never answers."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    async def unit(self, fn: Any) -> Any:
        self.asked.set()
        await asyncio.Event().wait()


def test_a_wake_that_waits_for_the_database_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(_beside_sqs, "PATIENCE", 0.1)
    database: Any = Stuck()
    with running() as server:
        queue = server.sync(lambda: server.create("jobs"))
        beside = SqsBeside(database, {"job": queue}, region=REGION, endpoint_url=server.url)
        beside.send([Wake("job", "a")]).result(60)
        assert database.asked.is_set()
        gc.collect()  # what other tests have left is not of interest
        caplog.clear()
        with caplog.at_level(logging.ERROR, "asyncio"):
            beside.close()
            del beside
            gc.collect()
    assert not caplog.records  # "Task was destroyed but it is pending!"

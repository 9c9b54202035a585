"""Processes for jobs: none is left to itself, whenever its job is given up."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from penstock.jobs import processes
from penstock.jobs.context import JobContext

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("turns", range(1, 6))
async def test_a_job_that_is_given_up_while_its_process_starts_leaves_none(
    turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def noted(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(start(*args, **options))
        return started[-1]

    monkeypatch.setattr(processes.subprocess, "Popen", noted)
    pool = processes.Processes(1)
    job: Any = SimpleNamespace(function=os.getpid)
    context = JobContext("job_1", "job", "acme", 1, 0.0)
    running = asyncio.create_task(pool.run(job, context, "{}", 60.0))
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await pool.close()
    await asyncio.sleep(0)  # what was closed is closed in the loop's next turn
    gc.collect()  # and what was not is told of here
    assert [each.returncode for each in started] == [-9] * len(started)

"""An API, a worker and a scheduler, each in a process of its own, on one PostgreSQL database."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from support.client import Api
from support.process import Process, Up, environment, run
from support.receiver import Receiver

pytestmark = pytest.mark.anyio


@pytest.mark.postgres
async def test_each_part_in_a_process_of_its_own(
    new_postgres: Callable[[], str],
    start: Callable[..., Any],
    receiver: Receiver,
    tmp_path: Path,
) -> None:
    env = {
        "PENSTOCK_DATABASE_URL": new_postgres(),
        "PENSTOCK_SECRET_KEY": "s" * 32,
        "PENSTOCK_ALLOW_PRIVATE_TARGETS": "127.0.0.0/8",
        "PENSTOCK_SWEEP_INTERVAL": "1s",
        "PENSTOCK_METRICS": "emf",
    }
    early = await run("api", "--port", "0", data=tmp_path / "early", env=env)
    assert (early.code, early.stdout) == (2, "")
    assert "penstock migrate" in early.stderr
    assert (await run("migrate", data=tmp_path / "m", env=env)).code == 0

    api_process: Up = start(Up, tmp_path / "api", command="api", env=env)
    scheduler: Process = start(Process, "scheduler", data=tmp_path / "scheduler", env=env)
    async with Api(api_process.url, api_process.token) as api:
        await api.endpoint(receiver.url("/r"), "*")
        waiting = await api.send("order.created")
        await asyncio.to_thread(scheduler.wait_logged, "scheduler_started")
        # Neither of the two delivers, however long one waits; the worker does.
        assert (await api.event(waiting["event_id"]))["status"] == "pending"
        worker: Process = start(Process, "worker", data=tmp_path / "worker", env=env)
        await asyncio.to_thread(worker.wait_logged, "worker_startup")
        assert (await api.final(waiting["event_id"]))["status"] == "delivered"
        # A wake that is due later is told to the worker, not kept where nobody works.
        due = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
        later = await api.send("order.created", deliver_at=due)
        assert (await api.final(later["event_id"]))["status"] == "delivered"
    for process in (api_process, scheduler, worker):
        assert process.terminate() == 0, process.stderr
        assert "Traceback" not in process.stderr
    # Each sends what it knows: who schedules what is owed, who works what was done.
    assert [line for line in scheduler.logs if "DueRows" in line]
    assert sum(line.get("DeliverySuccess", 0) for line in worker.logs) == 2


def test_the_shell_completes_commands_and_options(tmp_path: Path) -> None:
    penstock = Path(sys.executable).with_name("penstock")

    def completed(words: str) -> list[str]:
        variables = {
            "_PENSTOCK_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        }
        done = subprocess.run(
            [penstock],
            env=environment(tmp_path, variables),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.stderr == ""
        return done.stdout.split()

    assert set(completed("penstock dead re")) == {"redrive"}
    assert "--profile" in completed("penstock lanes open --")
    home = tmp_path / "home"
    home.mkdir()
    installed = subprocess.run(
        # The shell is the one it is run from, and bash must not become the command.
        ["bash", "-c", '"$0" --install-completion; exit $?', str(penstock)],
        env=environment(tmp_path) | {"HOME": str(home), "SHELL": "/bin/bash", "PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert installed.returncode == 0, installed.stderr
    assert "penstock" in (home / ".bashrc").read_text()

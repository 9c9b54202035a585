"""Processes beside the event loop: answers, refusals, deaths, limits."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from penstock.errors import NotFound
from penstock.predictions import pool as pools
from penstock.predictions.pool import Failed, Pool, ProcessDied
from penstock.predictions.refusal import Question, Unusable
from penstock.predictions.specs import ModelSpec
from penstock.storage.objects import Folder
from support.procfs import gone

pytestmark = pytest.mark.anyio

# A module of `beside` that only these tests have: it is put where the children look.
_MODULE = """
import os, time
from penstock.errors import NotFound, StorageFull
from penstock.predictions.refusal import Question, Unusable

def pid(): return os.getpid()
def nice(): return os.nice(0)
def refuse(): raise Unusable("a_code", "What it is.")
def ask(): raise Question("a_code", "What is it?", "an_option")
def lose(): raise NotFound("gone")
def break_(): raise ZeroDivisionError("no")
def leave(): os._exit(3)
def sleep(path):
    open(path, "w").write(str(os.getpid()))
    time.sleep(60)
"""


@pytest.fixture
async def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pool]:
    (tmp_path / "pooltests.py").write_text(_MODULE)
    boot = pools._BOOT.replace(
        "from penstock.predictions.beside.main",
        f"import penstock.predictions.beside as b; b.__path__.append({str(tmp_path)!r});"
        " from penstock.predictions.beside.main",
    )
    monkeypatch.setattr(pools, "_BOOT", boot)
    made = Pool(1)
    yield made
    await made.close()


async def run(pool: Pool, name: str, *args: object, within: float = 60.0) -> object:
    return await pool.run(f"pooltests:{name}", *args, within=within)


async def begun(mark: Path, running: asyncio.Task[object]) -> int:
    """The process that sleeps, once it has written there which one it is."""
    deadline = time.monotonic() + 60
    while not mark.exists() or not mark.read_text():
        assert not running.done(), running
        assert time.monotonic() < deadline, "it does not begin"
        await asyncio.sleep(0.02)
    return int(mark.read_text())


async def test_answers_and_refusals_come_back_from_one_process(pool: Pool) -> None:
    first = await run(pool, "pid")
    assert first != os.getpid()
    assert isinstance(first, int)
    with pytest.raises(Unusable, match=r"What it is\.") as refused:
        await run(pool, "refuse")
    assert refused.value.code == "a_code"
    with pytest.raises(Question) as asked:
        await run(pool, "ask")
    assert asked.value.option == "an_option"
    with pytest.raises(NotFound):
        await run(pool, "lose")
    with pytest.raises(Failed, match="ZeroDivisionError: no"):
        await run(pool, "break_")
    assert await run(pool, "pid") == first  # none of that ends it
    assert await run(pool, "nice") >= 5  # type: ignore[operator]
    await pool.close()
    await gone(first)


async def test_a_process_that_dies_is_said_and_replaced(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(ProcessDied, match="exit code 3"):
        await run(pool, "leave")
    mark = tmp_path / "mark"
    running = asyncio.create_task(run(pool, "sleep", str(mark)))
    os.kill(await begun(mark, running), signal.SIGKILL)
    with pytest.raises(ProcessDied, match="signal 9"):
        await running
    idle = await run(pool, "pid")
    os.kill(idle, signal.SIGKILL)  # type: ignore[arg-type]
    # It may or may not be dead by the time it is asked: who asks does not notice.
    assert await run(pool, "pid") != idle


async def test_one_that_takes_too_long_or_is_not_waited_for_is_killed(
    pool: Pool, tmp_path: Path
) -> None:
    late = await run(pool, "pid")
    with pytest.raises(TimeoutError):
        await run(pool, "sleep", str(tmp_path / "late"), within=1.0)
    await gone(late)  # type: ignore[arg-type]
    mark = tmp_path / "left"
    running = asyncio.create_task(run(pool, "sleep", str(mark)))
    left = await begun(mark, running)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await gone(left)
    assert isinstance(await run(pool, "pid"), int)  # its place is free again


async def test_one_that_begins_when_nobody_waits_any_more_is_ended(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    started: list[subprocess.Popen[bytes]] = []
    start = pools._start

    def slowly(end: int) -> subprocess.Popen[bytes]:
        begun.set()
        assert go_on.wait(60)
        started.append(start(end))
        return started[0]

    monkeypatch.setattr(pools, "_start", slowly)
    running = asyncio.create_task(run(pool, "pid"))
    assert await asyncio.to_thread(begun.wait, 60)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    go_on.set()
    await pool.close()  # waits for its threads
    assert started[0].returncode == -signal.SIGKILL


async def test_no_more_run_at_once_than_there_are_places(pool: Pool) -> None:
    pids = await asyncio.gather(*(run(pool, "pid") for _ in range(5)))
    assert len(set(pids)) == 1


async def test_one_that_nobody_needs_is_ended(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "IDLE", 0.05)
    first = await run(pool, "pid")
    await gone(first)  # type: ignore[arg-type]
    assert await run(pool, "pid") != first


async def test_they_end_with_their_parent_whatever_they_are_doing(tmp_path: Path) -> None:
    """Also if it is killed in the middle of a training."""
    mark = tmp_path / "mark"
    (tmp_path / "pooltests.py").write_text(_MODULE)
    program = f"""
import asyncio
from penstock.predictions import pool as pools
pools._BOOT = pools._BOOT.replace(
    "from penstock.predictions.beside.main",
    "import penstock.predictions.beside as b; b.__path__.append({str(tmp_path)!r});"
    " from penstock.predictions.beside.main")
asyncio.run(pools.Pool(1).run("pooltests:sleep", {str(mark)!r}, within=60))
"""
    parent = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 60
    while not mark.exists() or not mark.read_text():
        assert parent.poll() is None, "it ended by itself"
        assert time.monotonic() < deadline, "it does not begin"
        await asyncio.sleep(0.02)
    parent.kill()
    parent.wait()
    await gone(int(mark.read_text()))


async def test_a_model_that_is_not_what_was_registered_is_refused(tmp_path: Path) -> None:
    """By hash before it is parsed, however it came to be another file."""
    from penstock.predictions import starter
    from penstock.predictions.beside import models

    folder = Folder(tmp_path)
    for n, data in enumerate((starter.data() + b" ", b"{}", b"", starter.data()[:-9])):
        with folder.writing(f"m{n}") as out:
            out.write(data)
        with pytest.raises(Unusable) as refused:
            models.loaded(folder, ModelSpec(f"m{n}", starter.sha256()))
        assert refused.value.code == "model_damaged"
    with pytest.raises(Unusable, match="not there any more"):
        models.loaded(folder, ModelSpec("none", starter.sha256()))
    with pytest.raises(Unusable) as other:
        models.loaded(folder, ModelSpec(None, "0" * 64))
    assert other.value.code == "model_version"

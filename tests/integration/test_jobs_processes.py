from __future__ import annotations

import asyncio
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import Penstock, testing
from penstock.jobs import JobFailed
from penstock.jobs.child import LENGTH
from support.procfs import children, gone

pytestmark = pytest.mark.anyio

MODULE = """
from __future__ import annotations
import asyncio, os, signal, sys, time
from penstock import Dead, Penstock, Retry, current_job

app = Penstock()

@app.job(process=True, concurrency=4)
def whoami() -> int:
    return os.getpid()

@app.job(process=True)
async def context(n: int) -> list[object]:
    await asyncio.sleep(0)
    job = current_job()
    return [job.name, job.attempt, 0 < job.remaining <= 300, n, os.environ.get("SHOP")]

@app.job(process=True, retries=0, timeout=0.3)
def forever() -> None:
    while True:
        time.sleep(1)

@app.job(process=True, retries=0)
def until_killed(file: str) -> None:
    with open(file, "w") as out:
        out.write(str(os.getpid()))
    while True:
        time.sleep(1)

@app.job(process=True, retries=0)
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)

@app.job(process=True, retries=0)
def leave() -> None:
    os._exit(3)

@app.job(process=True, retries=0)
def stop() -> None:
    sys.exit("enough")

@app.job(process=True, dead_on=ValueError)
def final() -> None:
    raise ValueError("no")

@app.job(process=True, backoff=["1h"])
def again() -> None:
    raise KeyError("later")

@app.job(process=True)
def outcome(kind: str) -> object:
    return {"dead": Dead("never"), "retry": Retry(3600, "later"), "strange": object(),
            "apply": Dead("x", apply=print)}[kind]

@app.job(process=True, retries=0)
def signalled() -> str:
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)
    return "still here"
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A module that child processes can import too."""
    folder = tmp_path_factory.mktemp("shop")
    Path(folder, "penstock_test_shop.py").write_text(MODULE)
    sys.path.insert(0, str(folder))
    yield importlib.import_module("penstock_test_shop")
    sys.path.remove(str(folder))
    del sys.modules["penstock_test_shop"]


@pytest.fixture
async def t(shop: Any) -> AsyncIterator[testing.Testing]:
    before = children()
    app: Penstock = shop.app
    async with testing.run(app) as t:
        yield t
    assert children() <= before, "a child was left behind"


async def test_jobs_run_elsewhere_and_a_process_is_used_again(
    shop: Any, t: testing.Testing
) -> None:
    first = await shop.whoami.enqueue()
    await t.run_until_idle()
    second = await shop.whoami.enqueue()
    await t.run_until_idle()

    pids = [await first.result(), await second.result()]

    assert pids[0] == pids[1] != os.getpid()


async def test_the_context_goes_along(
    shop: Any, t: testing.Testing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP", "open")
    handle = await shop.context.enqueue(7)
    await t.run_until_idle()

    assert await handle.result() == ["context", 1, True, 7, "open"]


async def test_a_process_is_killed_at_the_timeout_and_no_other_job_notices(
    shop: Any, t: testing.Testing
) -> None:
    # The process that is idle is the next job's: `forever` may be killed before it could say
    # which one it has.
    idle = await shop.whoami.enqueue()
    await t.run_until_idle()
    stuck = await shop.forever.enqueue()
    fine = await shop.context.enqueue(1)
    await t.run_until_idle()

    with pytest.raises(JobFailed, match=r"timed out after 0.3 s$"):
        await stuck.result()
    assert (await fine.result())[0] == "context"
    await gone(await idle.result())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("die", "ended with signal 9"),
        ("leave", "ended with exit code 3"),
        ("stop", "SystemExit: enough"),
        ("final", "ValueError: no"),
    ],
)
async def test_how_a_process_ends_is_the_reason(
    shop: Any, t: testing.Testing, name: str, reason: str
) -> None:
    handle = await getattr(shop, name).enqueue()
    await t.run_until_idle()

    with pytest.raises(JobFailed, match=reason):
        await handle.result()
    after = await shop.whoami.enqueue()
    await t.run_until_idle()
    assert await after.status() == "succeeded"


async def test_errors_and_outcomes_cross_the_border(
    shop: Any, t: testing.Testing, capfd: pytest.CaptureFixture[str]
) -> None:
    await shop.again.enqueue()
    for kind in ("dead", "retry", "strange", "apply"):
        await shop.outcome.enqueue(kind)
    await t.run_until_idle()

    found = {(j.args.get("kind"), j.status, j.last_error) for j in t.jobs()}

    assert found == {
        (None, "pending", "KeyError: 'later'"),
        ("dead", "dead", "never"),
        ("retry", "pending", "later"),
        ("strange", "succeeded", None),
        ("apply", "dead", "TypeError: an outcome's apply cannot leave its process;"
         " use it without process=True"),
    }  # fmt: skip
    logged = capfd.readouterr().err
    assert "in again" in logged  # the child's traceback
    assert "job_result_dropped" in logged


async def test_children_do_not_die_of_signals_that_the_parent_drains_on(
    shop: Any, t: testing.Testing
) -> None:
    handle = await shop.signalled.enqueue()
    await t.run_until_idle()

    assert await handle.result() == "still here"


async def test_cancelling_kills_the_process(shop: Any, t: testing.Testing, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    await shop.until_killed.enqueue(str(file))
    running = asyncio.create_task(t.run_until_idle())
    while not file.exists() or not file.read_text():
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    await gone(int(file.read_text()))


async def test_an_idle_process_that_was_killed_is_replaced(shop: Any, t: testing.Testing) -> None:
    first = await shop.whoami.enqueue()
    await t.run_until_idle()
    # It may or may not be dead by the time it is asked; either way no attempt is lost to it.
    os.kill(await first.result(), signal.SIGKILL)
    second = await shop.whoami.enqueue()
    await t.run_until_idle()

    assert await second.result() != await first.result()


async def test_children_end_with_their_parent(shop: Any, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import asyncio, os, sys\n"
        f"sys.path.insert(0, {str(Path(shop.__file__).parent)!r})\n"
        "import penstock_test_shop as shop\n"
        "from penstock import testing\n"
        "async def main():\n"
        "    async with testing.run(shop.app) as t:\n"
        "        await shop.until_killed.options(delay=0).enqueue(sys.argv[1])\n"
        "        await t.run_until_idle()\n"
        "asyncio.run(main())\n"
    )
    file = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, str(script), str(file)])
    try:
        while not file.exists() or not file.read_text():
            assert parent.poll() is None
            time.sleep(0.005)
    finally:
        parent.kill()
        parent.wait()

    await gone(int(file.read_text()))


def test_a_job_of_the_main_module_runs_too(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "import asyncio, os\n"
        "from penstock import Penstock, testing\n"
        "app = Penstock()\n"
        "@app.job(process=True, retries=0)\n"
        "def whoami() -> int:\n"
        "    return os.getpid()\n"
        "async def main():\n"
        "    async with testing.run(app) as t:\n"
        "        handle = await whoami.enqueue()\n"
        "        await t.run_until_idle()\n"
        "        assert await handle.result() != os.getpid()\n"
        "        print('done')\n"
        "if __name__ == '__main__':\n"
        "    asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "done\n", done.stderr


def test_a_child_ends_with_a_parent_that_never_read_its_answer() -> None:
    serve = "from penstock.jobs.child import main; main()"
    ours, theirs = socket.socketpair()
    with theirs:
        child = subprocess.Popen(
            [sys.executable, "-c", serve, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
        )
    with ours:
        request = json.dumps({"module": "nowhere", "qualname": "f", "main": None}).encode()
        ours.sendall(LENGTH.pack(len(request)) + request)
        assert select.select([ours], [], [], 60)[0]
    try:
        assert child.wait(30) == 0
    finally:
        child.kill()
        child.wait()

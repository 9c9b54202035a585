"""`penstock worker -A module:app` as a user runs it, with a program beside it that enqueues."""

from __future__ import annotations

import importlib.util
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from penstock.settings import load_settings
from support.process import Process

MODULE = """
from __future__ import annotations
import os, sys, time
from pathlib import Path
from penstock import Penstock, current_job

app = Penstock()

@app.job
async def add(a: int, b: int) -> int:
    return a + b

@app.job
def in_thread(name: str) -> str:
    child = add.enqueue_sync(1, 1, key=name)
    return child.id

@app.job(process=True)
def in_process() -> list[str]:
    return [str(os.getpid()), add.enqueue_sync(2, 2).id]

@app.job(retries=0, process=True, timeout="300ms")
def forever() -> None:
    while True:
        pass

@app.job(backoff=["100ms"])
def flaky(folder: str) -> int:
    attempt = current_job().attempt
    Path(folder, f"attempt-{attempt}").touch()
    if attempt < 3:
        raise ValueError("not yet")
    return attempt

@app.job
def slow(folder: str) -> None:
    Path(folder, f"began-{time.time_ns()}").touch()
    while not Path(folder, "go").exists():
        time.sleep(0.01)

@app.cron("* * * * * *")
def each_second() -> None:
    Path(os.environ["SHOP_FOLDER"], f"tick-{time.time_ns()}").touch()
"""

pytestmark = pytest.mark.timeout(180)


class Shop:
    """A user's project: its module, its folder, its worker, and this process as its client."""

    def __init__(self, folder: Path, env: dict[str, str], settings: dict[str, Any]) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.env = env | {"SHOP_FOLDER": str(folder)}
        file = folder / "shop.py"
        file.write_text(MODULE)
        spec = importlib.util.spec_from_file_location("shop", file)
        assert spec is not None
        assert spec.loader is not None
        self.module: Any = importlib.util.module_from_spec(spec)
        sys.modules["shop"] = self.module
        spec.loader.exec_module(self.module)
        self.module.app._settings = load_settings(data_dir=self.data, **settings)

    def worker(self) -> Process:
        worker = Process("worker", "-A", "shop:app", data=self.data, env=self.env, cwd=self.folder)
        worker.wait_logged("worker_ready")
        return worker

    def wait(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def files(self, prefix: str) -> list[Path]:
        return sorted(self.folder.glob(f"{prefix}-*"))


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    if request.param == "sqlite":
        made = Shop(tmp_path, {"PENSTOCK_LEASE": "2s", "PENSTOCK_SWEEP_INTERVAL": "500ms"}, {})
    else:
        url = request.getfixturevalue("postgres_database_url")
        env = {
            "PENSTOCK_DATABASE_URL": url,
            "PENSTOCK_SECRET_KEY": "0123456789abcdef",
            "PENSTOCK_LEASE": "2s",
            "PENSTOCK_SWEEP_INTERVAL": "500ms",
        }
        made = Shop(tmp_path, env, {"database_url": url})
    yield made
    made.module.app.close_sync()
    del sys.modules["shop"]


def test_jobs_run_in_coroutines_threads_and_processes(shop: Shop) -> None:
    jobs = shop.module
    early = jobs.add.enqueue_sync(20, 22)  # before any worker, or table, is there
    with shop.worker() as worker:
        assert early.result_sync(timeout=30) == 42
        began = time.monotonic()
        assert jobs.add.enqueue_sync(1, 2).result_sync(timeout=30) == 3
        assert time.monotonic() - began < 5  # woken, not swept

        child = jobs.in_thread.enqueue_sync("k").result_sync(timeout=30)
        assert jobs.app.handle(child).result_sync(timeout=30) == 2
        pid, child = jobs.in_process.enqueue_sync().result_sync(timeout=60)
        assert int(pid) not in (os.getpid(), worker.pid)
        assert jobs.app.handle(child).result_sync(timeout=30) == 4

        stuck = jobs.forever.enqueue_sync()
        with pytest.raises(Exception, match=r"timed out after 0\.3 s"):
            stuck.result_sync(timeout=60)
        assert jobs.flaky.enqueue_sync(str(shop.folder)).result_sync(timeout=60) == 3
        assert len(shop.files("attempt")) == 3
        shop.wait(lambda: len(shop.files("tick")) >= 2)

        assert worker.terminate() == 0
        assert worker.logged("worker_shutdown")[0]["failed"] >= 3


def test_a_killed_workers_job_runs_again(shop: Shop) -> None:
    jobs = shop.module
    handle = jobs.slow.enqueue_sync(str(shop.folder))
    with shop.worker() as worker:
        shop.wait(lambda: len(shop.files("began")) == 1)
        assert handle.status_sync() == "running"
        worker.kill()
    with shop.worker():
        shop.wait(lambda: len(shop.files("began")) == 2)
        (shop.folder / "go").touch()
        handle.result_sync(timeout=30)
    assert len(shop.files("began")) == 2


def test_a_stopped_worker_finishes_what_runs_and_leaves_the_rest(shop: Shop) -> None:
    jobs = shop.module
    running = jobs.slow.enqueue_sync(str(shop.folder))
    with shop.worker() as worker:
        shop.wait(lambda: len(shop.files("began")) == 1)
        worker.signal(signal.SIGTERM)
        time.sleep(0.3)
        waiting = jobs.add.enqueue_sync(1, 1)
        (shop.folder / "go").touch()
        assert worker.wait() == 0
    assert running.status_sync() == "succeeded"
    assert waiting.status_sync() == "pending"
    assert len(shop.files("began")) == 1


def test_a_job_of_a_newer_version_waits_for_its_worker(shop: Shop) -> None:
    app = shop.module.app
    newer = app.job(name="newer")(lambda: None)
    with shop.worker():
        handle = newer.enqueue_sync()
        assert shop.module.add.enqueue_sync(1, 1).result_sync(timeout=30) == 2
        time.sleep(0.2)
        assert handle.status_sync() == "pending"


@pytest.mark.parametrize("shop", ["sqlite"], indirect=True)
def test_a_commit_of_the_callers_own_reaches_the_worker(shop: Shop) -> None:
    with shop.worker(), closing(sqlite3.connect(shop.data / "penstock.db")) as connection:
        with connection:
            connection.execute("CREATE TABLE orders (id INTEGER)")
            connection.execute("INSERT INTO orders VALUES (1)")
            handle = shop.module.add.enqueue_in(connection, 1, 2)
        assert handle.result_sync(timeout=10) == 3

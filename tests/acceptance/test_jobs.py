"""The user's own jobs: declared in a module, run by real workers, enqueued by other processes."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine

from penstock import JobFailed
from support.process import Process, Up

pytestmark = pytest.mark.anyio

SHOP = """
from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

from penstock import Penstock, Retry, current_job

app = Penstock()
BOOK = Path(__file__).with_name("book")


def write(*words):
    job = current_job()
    with BOOK.open("a") as book:
        book.write(" ".join(map(str, [*words, job.attempt, os.getpid(), time.time()])) + "\\n")


@app.job
async def add(a: int, b: int) -> int:
    write("add", a)
    return a + b


@app.job
def shout(text: str) -> str:
    assert threading.current_thread() is not threading.main_thread()
    write("shout")
    return text.upper()


@app.job(process=True)
def count(upto: int) -> dict[str, int]:
    write("count")
    return {"pid": os.getpid(), "sum": sum(range(upto))}


@app.job(retries=2, backoff=[0.1])
async def flaky(name: str) -> int:
    write("flaky", name)
    if current_job().attempt < 3:
        raise ValueError("not yet")
    return current_job().attempt


@app.job(retries=1, backoff=[0.1])
def hopeless() -> None:
    write("hopeless")
    raise RuntimeError("no use")


@app.job(timeout="300ms", retries=0)
async def sleepy() -> None:
    await asyncio.sleep(30)


@app.job
async def wait(name: str, seconds: float) -> str:
    write("begin", name)
    await asyncio.sleep(seconds)
    write("end", name)
    return name


@app.job
async def hold(name: str) -> str:
    write("begin", name)
    while not Path(__file__).with_name(name).exists():
        await asyncio.sleep(0.02)
    return name


@app.job
async def killer() -> None:
    write("killer")
    os._exit(9)


@app.job
async def parent(n: int) -> None:
    await add.enqueue(n, n)


@app.cron("* * * * * *")
async def tick() -> None:
    write("tick")
"""


# Which seconds the jobs of the clock were made for.
TICKS = "SELECT key FROM jobs WHERE name LIKE '%tick'"


class Shop:
    """The module, as this process sees it, and the book its jobs write into."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        (folder / "shop.py").write_text(SHOP)
        spec = importlib.util.spec_from_file_location(f"shop_{id(self)}", folder / "shop.py")
        assert spec is not None
        assert spec.loader is not None
        self.module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)

    def book(self, word: str) -> list[list[str]]:
        """The lines that begin with this word."""
        return [line.split() for line in self.text.splitlines() if line.split()[0] == word]

    @property
    def text(self) -> str:
        """All that is in the book."""
        path = self.folder / "book"
        return path.read_text() if path.exists() else ""

    async def until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.text
            await asyncio.sleep(0.02)


@contextmanager
def _shop(folder: Path, **env: str) -> Iterator[Shop]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENSTOCK_DATA_DIR", str(folder / "data"))
        for name, value in env.items():
            patch.setenv(name, value)
        opened = Shop(folder)
        yield opened
        opened.module.app.close_sync()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A shop with `penstock up -A shop:app` running, on SQLite; its sweeper has no turn."""
    folder = tmp_path_factory.mktemp("shop")
    env = {"PENSTOCK_SWEEP_INTERVAL": "1h"}
    with _shop(folder) as opened, Up(opened.data, "-A", "shop:app", cwd=folder, env=env):
        yield opened


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A shop of which nothing runs yet."""
    with _shop(tmp_path) as opened:
        yield opened


async def test_coroutines_functions_and_processes(running: Shop) -> None:
    jobs = running.module
    added = await jobs.add.enqueue(2, b=3)
    shouted = await jobs.shout.enqueue("hello")
    counted = await jobs.count.enqueue(1000)

    assert await added.result(timeout=60) == 5
    assert await shouted.result(timeout=60) == "HELLO"
    result = await counted.result(timeout=60)
    assert result["sum"] == 499500
    server = {line[-2] for line in running.book("shout")}
    assert len(server) == 1
    assert str(result["pid"]) not in server | {str(os.getpid())}


async def test_another_process_is_noticed_at_once(running: Shop) -> None:
    """Enqueued beside the owner of the SQLite file: no message passes but the commit."""
    jobs = running.module
    delays: list[float] = []
    for n in range(1000, 1040):
        handle = jobs.add.enqueue_sync(n, 0)
        committed = time.time()
        assert handle.result_sync(timeout=60) == n
        (line,) = [line for line in running.book("add") if line[1] == str(n)]
        delays.append(float(line[-1]) - committed)
        # On a machine that stands still for a while it takes some more of them.
        if len(delays) >= 8 and sorted(delays[-8:])[4] < 1.5:
            break
    else:
        pytest.fail(f"not at once: {delays}")


async def test_failures_are_retried_and_end_with_their_reason(running: Shop) -> None:
    jobs = running.module
    flaky = await jobs.flaky.enqueue("a")
    hopeless = await jobs.hopeless.enqueue()
    sleepy = await jobs.sleepy.enqueue()

    assert await flaky.result(timeout=60) == 3
    with pytest.raises(JobFailed, match="RuntimeError: no use"):
        await hopeless.result(timeout=60)
    with pytest.raises(JobFailed, match=r"timed out after 0\.3 s"):
        await sleepy.result(timeout=60)
    assert [line[1] for line in running.book("hopeless")] == ["1", "2"]


async def test_a_job_enqueues_jobs(running: Shop) -> None:
    await running.module.parent.enqueue(77)

    await running.until(lambda: [line for line in running.book("add") if line[1] == "77"])


async def test_keys_are_unique_while_pending(running: Shop) -> None:
    jobs = running.module
    # On a machine that stands still for a while, the first may have run before the second comes.
    for delay in (3, 10, 30):
        key = f"once in {delay}"
        first = await jobs.add.enqueue(1, 1, key=key, delay=delay)
        second = await jobs.add.enqueue(2, 2, key=key, delay=delay)
        if await first.status() == "pending":
            break

    assert second.id == first.id
    assert second.existing
    assert await second.result(timeout=60) == 2
    third = await jobs.add.enqueue(3, 3, key=key)
    assert await third.result(timeout=60) == 6


async def test_a_cancelled_job_does_not_run(running: Shop) -> None:
    for delay in (1, 5, 20):
        handle = await running.module.add.enqueue(666, delay, delay=delay)
        if cancelled := await handle.cancel():
            break
        # A machine that stands still for a while is too late: it has run.
        assert await handle.result(timeout=60) == 666 + delay

    assert cancelled
    ran = len(running.book("add"))
    await asyncio.sleep(delay + 0.3)
    assert await handle.status() == "cancelled"
    assert len(running.book("add")) == ran


async def test_in_the_callers_own_transaction(running: Shop) -> None:
    """Enqueued with the caller's commit, and not at all with its rollback."""
    jobs, path = running.module, running.data / "penstock.db"
    plain = sqlite3.connect(path, timeout=60)
    try:
        lost = jobs.add.enqueue_in(plain, 501, 0)
        plain.rollback()
        kept = jobs.add.enqueue_in(plain, 502, 0)
        assert not [line for line in running.book("add") if line[1] == "502"]
        plain.commit()
    finally:
        plain.close()
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 60})
    with engine.connect() as connection, connection.begin() as transaction:
        jobs.add.enqueue_in(connection, 503, 0)
        transaction.rollback()
    with engine.begin() as connection:
        core = jobs.add.enqueue_in(connection, 504, 0)
    engine.dispose()

    assert await jobs.app.handle(kept.id).result(timeout=60) == 502
    assert await jobs.app.handle(core.id).result(timeout=60) == 504
    assert not [line for line in running.book("add") if line[1] in ("501", "503")]
    with pytest.raises(Exception, match="there is no job"):
        await jobs.app.handle(lost.id).status()


async def test_by_the_clock(running: Shop) -> None:
    """Since the server started."""
    await running.until(lambda: len(running.book("tick")) >= 4)

    ran = len(running.book("tick"))
    with closing(sqlite3.connect(running.data / "penstock.db", timeout=60)) as beside:
        _once_a_second(ran, beside.execute(TICKS).fetchall())


async def test_a_worker_without_an_api(start: Callable[..., Process], shop: Shop) -> None:
    early = shop.module.add.enqueue_sync(1, 2)  # before anything runs: it makes the tables
    worker = start(Process, "worker", "-A", "shop:app", data=shop.data, cwd=shop.folder)

    assert await shop.module.app.handle(early.id).result(timeout=60) == 3
    await shop.until(lambda: shop.book("tick"))
    assert not (shop.data / "run.json").exists()
    assert await asyncio.to_thread(worker.terminate) == 0
    (summary,) = worker.logged("worker_shutdown")
    assert summary["processed"] >= 2


async def test_sigterm_gives_a_running_job_back(start: Callable[..., Process], shop: Shop) -> None:
    env = {"PENSTOCK_GRACE": "2s"}
    up = start(Up, shop.data, "-A", "shop:app", cwd=shop.folder, env=env)
    short = await shop.module.wait.enqueue("short", 0.3)
    long = await shop.module.hold.enqueue("long")
    await shop.until(lambda: len(shop.book("begin")) == 2)

    assert await asyncio.to_thread(up.terminate) == 0

    assert [line[1] for line in shop.book("end")] == ["short"]
    (shop.folder / "long").touch()
    start(Up, shop.data, "-A", "shop:app", cwd=shop.folder)
    assert await long.result(timeout=60) == "long"
    assert await short.result(timeout=60) == "short"
    # The long one ran twice, the first time without counting; the short one was not repeated.
    begun = sorted((line[1], line[2]) for line in shop.book("begin"))
    assert begun == [("long", "1"), ("long", "1"), ("short", "1")]


async def test_a_job_that_kills_its_process_dies_alone(
    start: Callable[..., Process], shop: Shop
) -> None:
    """On one machine, under a supervisor that starts the server again whenever it ends."""
    stopping = threading.Event()
    servers: list[Process] = []

    def supervise() -> None:
        while not stopping.is_set():
            with Process(
                *("up", "--port", "0", "-A", "shop:app"), data=shop.data, cwd=shop.folder
            ) as server:
                servers.append(server)
                while server.popen.poll() is None and not stopping.wait(0.02):
                    pass
                if stopping.is_set():
                    server.terminate()

    supervisor = threading.Thread(target=supervise)
    supervisor.start()
    try:
        neighbours = [await shop.module.wait.enqueue(f"n{n}", 0.5) for n in range(2)]
        killer = await shop.module.killer.enqueue()
        late = await shop.module.add.enqueue(5, 5)

        with pytest.raises(JobFailed, match="6 times in a row"):
            await killer.result(timeout=120)
        for n, neighbour in enumerate(neighbours):
            assert await neighbour.result(timeout=60) == f"n{n}"
        assert await late.result(timeout=60) == 10
    finally:
        stopping.set()
        await asyncio.to_thread(supervisor.join)

    # Twice it took the server along; from then on it ran in a process of its own.
    ran = [line[-2] for line in shop.book("killer")]
    assert len(ran) == 6
    assert len(set(ran)) == 6
    assert ran[:2] == [str(server.pid) for server in servers[:2]]
    assert len(servers) == 3
    assert servers[-1].popen.returncode == 0


@pytest.mark.postgres
async def test_on_postgresql_with_two_workers(
    new_postgres: Callable[[], str], start: Callable[..., Process], tmp_path: Path
) -> None:
    url = new_postgres()
    env = {
        "PENSTOCK_DATABASE_URL": url,
        "PENSTOCK_SECRET_KEY": "s" * 32,
        "PENSTOCK_JOB_SLOTS": "4",
        "PENSTOCK_SWEEP_INTERVAL": "1h",  # what is noticed is noticed by the commit
    }
    up = start(Up, tmp_path / "data", "-A", "shop:app", cwd=_declared(tmp_path), env=env)
    worker = start(Process, "worker", "-A", "shop:app", data=tmp_path / "w", cwd=tmp_path, env=env)
    worker.wait_logged("worker_ready")
    with _shop(tmp_path, **env) as shop:
        jobs = shop.module
        handles = await jobs.app.enqueue_many(jobs.hold.call(f"n{n}") for n in range(60))
        # As many as both have slots for: neither can take them all before the other comes.
        await shop.until(lambda: len(shop.book("begin")) >= 8)
        for n in range(60):
            (tmp_path / f"n{n}").touch()
        for n, handle in enumerate(handles):
            assert await handle.result(timeout=60) == f"n{n}"
        assert len(shop.book("begin")) == 60
        assert {line[-2] for line in shop.book("begin")} == {str(up.pid), str(worker.pid)}

        with psycopg.connect(url) as connection:
            lost = jobs.add.enqueue_in(connection, 601, 0)
            connection.rollback()
            kept = jobs.add.enqueue_in(connection, 602, 0)
            connection.commit()
        assert await jobs.app.handle(kept.id).result(timeout=60) == 602
        (line,) = shop.book("add")
        assert line[1] == "602"
        with pytest.raises(Exception, match="there is no job"):
            await jobs.app.handle(lost.id).status()
        # Ticks come once each, though two processes could make them.
        await shop.until(lambda: len(shop.book("tick")) >= 4)
        ran = len(shop.book("tick"))
        with psycopg.connect(url) as connection:
            _once_a_second(ran, connection.execute(TICKS).fetchall())
    for process in (up, worker):
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0


def _once_a_second(ran: int, ticks: list[Any]) -> None:
    """So many ran; each was for a second of its own, however late it came."""
    seconds = [key for (key,) in ticks]
    assert ran <= len(seconds)
    assert len(set(seconds)) == len(seconds)
    assert all(key.endswith(".000000Z") for key in seconds), seconds


def _declared(folder: Path) -> Path:
    (folder / "shop.py").write_text(SHOP)
    return folder

"""kill -9 while a file is scored: the same bytes come out, and one event tells of them."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from penstock.clock import SystemClock
from penstock.storage import sql
from penstock.storage.postgres import PostgresDatabase
from penstock.storage.sqlite import SqliteDatabase
from support.client import Api
from support.process import Process, Up
from support.procfs import children
from support.receiver import Receiver
from support.scoring import ONE_PROCESS, completed, fetch, score, wide_csv

pytestmark = pytest.mark.anyio

ROWS = 64_000  # some 16 chunks
KILLS = 5
# The processes that score are children of the server, as with anybody else.
CHILDREN = {"PENSTOCK_TEST_NO_FORK": "1"}
FILES = ("result", "result?format=parquet", "errors.csv", "report")
LEDGER = sql("SELECT number, sha256 FROM prediction_chunks ORDER BY number")


@pytest.fixture(scope="module")
def content() -> bytes:
    good = wide_csv(ROWS)
    middle = good.index(b"\n", len(good) // 2) + 1
    return good[:middle] + b",,,\nX1,twelve,Monthly,5,1,1,1,Card,yes,\n" + good[middle:]


async def progress(api: Api, path: str) -> dict[str, Any]:
    """The prediction, also across a server that is killed meanwhile."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return dict(await api.ok("GET", path))
        except OSError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


@dataclass
class Killed:
    """A server, and those that came after it was killed."""

    start: Callable[..., Up]
    data: Path
    chance: random.Random
    servers: list[Up] = field(default_factory=list)

    def begin(self, **options: Any) -> Up:
        env = ONE_PROCESS | CHILDREN | {"PENSTOCK_LOG_LEVEL": "debug"}
        self.servers.append(self.start(Up, self.data, env=env, **options))
        return self.servers[-1]

    async def again_and_again(self, api: Api, path: str, size: int) -> int:
        """Kill it `KILLS` times, spread over the scoring; how often that came in time."""
        seen, inside = [], 0
        for kill in range(KILLS):
            before = (await progress(api, path))["bytes_done"]
            deadline = time.monotonic() + 60
            wanted = size * (kill + self.chance.uniform(0.2, 0.8)) / KILLS
            while (now := await progress(api, path))["bytes_done"] < wanted:
                assert time.monotonic() < deadline
                assert now["status"] in ("QUEUED", "RUNNING"), now
                await asyncio.sleep(0.005)
            await asyncio.sleep(self.chance.uniform(0.0, 0.05))
            last = self.servers[-1]
            last.kill()
            api.url = (await asyncio.to_thread(self.begin, port=last.port)).url
            now = await progress(api, path)
            inside += now["status"] != "COMPLETED"
            seen.append((before, now["bytes_done"]))
        assert seen == sorted(seen)  # nothing went back
        return inside


@pytest.mark.timeout(300)
async def test_the_server_is_killed_while_it_scores(
    content: bytes, start: Callable[..., Up], tmp_path: Path, receiver: Receiver
) -> None:
    killed = Killed(start, tmp_path / "data", random.Random(5))
    first = killed.begin()
    async with Api(first.url, first.token) as api:
        api.token = (await api.ok("POST", "/v1/keys", {"name": "chaos"}))["key"]
        await api.endpoint(receiver.url("/done"), "prediction.completed")
        whole = (await score(api, content))["prediction_id"]
        found = await completed(api, whole, 120)
        assert (found["rows_scored"], found["rows_set_aside"]) == (ROWS, 2)
        undisturbed = [await fetch(api, whole, name) for name in FILES]

        disturbed: list[str] = []
        inside = 0
        # The last kill may come after the end. More of them do where this process is held up
        # itself, which is no fault of the server's: then it is all done once more.
        while inside < KILLS - 1:
            assert len(disturbed) < 3, inside
            id_ = (await score(api, content, force="true"))["prediction_id"]
            disturbed.append(id_)
            inside = await killed.again_and_again(
                api, f"/v1/predictions/{id_}", found["bytes_total"]
            )
            after = await completed(api, id_, 120)
            assert (after["rows_scored"], after["rows_set_aside"]) == (ROWS, 2)
            for name, expected in zip(FILES, undisturbed, strict=True):
                assert await fetch(api, id_, name) == expected, name

        every = [whole, *disturbed]
        await receiver.until(lambda: len({each.id for each in receiver.at("/done")}) >= len(every))
        await asyncio.sleep(1.0)
        # A push may be repeated where its answer was lost; an event is not.
        told = {(each.id, each.json["payload"]["prediction_id"]) for each in receiver.at("/done")}
        assert Counter(id_ for _, id_ in told) == dict.fromkeys(every, 1)
        events = await api.ok("GET", "/v1/events", query={"event_type": "prediction.completed"})
        assert len(events["items"]) == len(every)

    ledger = await _ledger(SqliteDatabase(killed.data / "penstock.db", SystemClock(), owner=False))
    chunks = len(ledger) // len(every)
    for id_ in disturbed:
        scored = Counter(
            line["chunk"]
            for server in killed.servers
            for line in server.logged("prediction_chunk_scored")
            if line["prediction_id"] == id_
        )
        assert sorted(scored) == list(range(chunks))
        assert sum(scored.values()) <= chunks + KILLS  # at most one is done again for each kill
    assert killed.servers[-1].terminate() == 0


async def _ledger(database: Any) -> list[Any]:
    await database.open()
    try:
        return list(await database.read(lambda tx: tx.rows(LEDGER)))
    finally:
        await database.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("shared") / "data", env=CHILDREN) as running:
        yield running


async def test_a_process_that_scores_is_killed(api: Api, tmp_path: Path, server: Up) -> None:
    """The server goes on, tries again, and the other predictions do not notice."""
    scored = await score(api, wide_csv(32_000, seed=3), model="starter")
    path = f"/v1/predictions/{scored['prediction_id']}"
    deadline = time.monotonic() + 60
    while (await api.ok("GET", path))["rows_scored"] == 0:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    running = children(server.pid)
    assert running
    for child in running:
        with suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(child, signal.SIGKILL)
    # Its next try comes after half a minute; who cannot wait cancels and asks anew.
    deadline = time.monotonic() + 60
    while (found := await api.ok("GET", path))["status"] == "RUNNING":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    if found["status"] == "QUEUED":
        assert "signal 9" in found["last_error"]
        await api.ok("POST", f"{path}/cancel")
    again = await score(api, wide_csv(32_000, seed=3), model="starter")
    assert (await completed(api, again["prediction_id"], 90))["rows_scored"] == 32_000


@pytest.mark.postgres
async def test_one_of_two_workers_is_killed_while_it_scores(
    content: bytes,
    new_postgres: Callable[[], str],
    start: Callable[..., Process],
    tmp_path: Path,
    receiver: Receiver,
) -> None:
    """Another goes on where the ledger ends, once the lease has ended."""
    chance = random.Random(8)
    url = new_postgres()
    env = ONE_PROCESS | {
        "PENSTOCK_DATABASE_URL": url,
        "PENSTOCK_SECRET_KEY": "s" * 32,
        "PENSTOCK_ALLOW_PRIVATE_TARGETS": "127.0.0.0/8",
        "PENSTOCK_LEASE": "2s",
        "PENSTOCK_SWEEP_INTERVAL": "500ms",
        "PENSTOCK_OBJECTS": str(tmp_path / "objects"),
        "PENSTOCK_LOG_LEVEL": "debug",
    }
    server = start(Up, tmp_path / "data", env=env)
    assert isinstance(server, Up)

    def worker(number: int) -> Process:
        begun = start(Process, "worker", data=tmp_path / f"worker{number}", env=env)
        begun.wait_logged("worker_ready")
        return begun

    async with Api(server.url, server.token) as api:
        await api.endpoint(receiver.url("/done"), "prediction.completed")
        whole = await score(api, content)
        await completed(api, whole["prediction_id"], 120)
        workers = [await asyncio.to_thread(worker, 0)]
        killed = await score(api, content, force="true")
        path = f"/v1/predictions/{killed['prediction_id']}"
        for number in range(1, 3):
            await asyncio.sleep(chance.uniform(0.1, 0.6))
            workers[-1].kill()
            workers.append(await asyncio.to_thread(worker, number))
        await completed(api, killed["prediction_id"], 120)
        for name in FILES:
            one, other = [await fetch(api, each["prediction_id"], name) for each in (whole, killed)]
            assert one == other, name
        await receiver.until(lambda: len({each.id for each in receiver.at("/done")}) >= 2)
        assert (await api.ok("GET", path))["rows_set_aside"] == 2
        events = await api.ok("GET", "/v1/events", query={"event_type": "prediction.completed"})
        assert len(events["items"]) == 2
    ledger = await _ledger(PostgresDatabase(url, SystemClock()))
    assert len(ledger) % 2 == 0
    half = len(ledger) // 2
    assert Counter(sha for _, sha in ledger).most_common(1)[0][1] == 2  # the same bytes, twice
    assert len({sha for _, sha in ledger}) == half
    assert workers[-1].terminate() == 0
    assert server.terminate() == 0

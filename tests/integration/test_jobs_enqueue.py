from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from penstock import JobCancelled, JobFailed, JobHandle, Penstock
from penstock.clock import SECOND, ManualClock, to_datetime
from penstock.errors import NotFound, StorageError
from penstock.jobs import JobRunner, job_kind, store
from penstock.settings import load_settings
from penstock.storage import Database, Tx, migrate, sql
from penstock.storage.sqlite import SqliteDatabase
from penstock.work import lanes, ledger
from penstock.work.kinds import Task
from penstock.work.outcomes import Dead, Done, Outcome
from penstock.work.settlement import decide
from penstock.work.wakeups import Wake

pytestmark = pytest.mark.anyio

ROWS = sql(
    "SELECT id, account, name, args, key, status, lane, created_at, due_at FROM jobs ORDER BY id"
)


@dataclass
class Size:
    width: int
    height: int


app = Penstock()


@app.job(concurrency=3)
async def resize(image_id: int, width: int = 800) -> Size:
    return Size(width, image_id)


@app.job
def other() -> None: ...


@pytest.fixture
def bound(database: Database, clock: ManualClock) -> Iterator[list[Wake]]:
    """The app on the test's database; what the commits said."""
    notes: list[Any] = []
    database.subscribe(notes.extend)
    app.bind(database)
    app.clock = clock
    yield notes
    app.unbind()


async def rows(database: Database) -> list[dict[str, Any]]:
    return await database.read(lambda tx: tx.dicts(ROWS))


async def work(database: Database, outcome: Outcome | None = None) -> int:
    """One claim of everything due and its settlement; with `outcome` in place of the handler."""
    runner = JobRunner(app.jobs)
    kind = job_kind(runner)

    def take(tx: Tx) -> list[Task[Any]]:
        claims = ledger.claim(tx, kind, 100, lanes.waiting(tx, "jobs")).claims
        loaded = kind.load(tx, claims)
        return [Task(claim, loaded[claim.id], 60.0) for claim in claims]

    tasks = await database.unit(take)
    settlements = [
        decide(kind, task.claim, outcome or await runner.handle(task), 0) for task in tasks
    ]
    await database.unit(lambda tx: ledger.settle(tx, kind, settlements))
    await runner.close()
    return len(tasks)


async def test_enqueue_stores_a_row_that_is_owed_and_wakes_its_lane(
    database: Database, bound: list[Wake], clock: ManualClock
) -> None:
    handle = await resize.enqueue(42, width=400)

    assert await rows(database) == [
        {
            "id": handle.id,
            "account": "default",
            "name": "resize",
            "args": '{"image_id":42,"width":400}',
            "key": None,
            "status": "pending",
            "lane": "job:default:resize",
            "created_at": clock.now(),
            "due_at": clock.now(),
        }
    ]
    assert bound == [Wake("job", "job:default:resize")]
    lane = sql("SELECT kind, account, max_in_flight FROM lanes")
    assert await database.read(lambda tx: tx.rows(lane)) == [("job", "default", 3)]


async def test_delays_and_instants(
    database: Database, bound: list[Wake], clock: ManualClock
) -> None:
    later = to_datetime(clock.now()) + timedelta(hours=1)
    await resize.enqueue(1, delay="10m", lane="a")
    await resize.enqueue(1, at=later, lane="b")
    await resize.enqueue(1, at=later - timedelta(days=1), lane="c")

    due = [row["due_at"] - clock.now() for row in await rows(database)]
    assert due == [600 * SECOND, 3600 * SECOND, -23 * 3600 * SECOND]
    assert bound == [
        Wake("job", "job:default:resize:a", 600.0),
        Wake("job", "job:default:resize:b", 3600.0),
        Wake("job", "job:default:resize:c", 0.0),
    ]


async def test_many_are_stored_together_or_not_at_all(
    database: Database, bound: list[Wake]
) -> None:
    handles = await resize.enqueue_many([resize.call(3, width=4), (1,), {"image_id": 2}])
    mixed = await app.enqueue_many(
        [other.call(), resize.options(key="k").call(5), resize.options(key="k").call(6)]
    )

    stored = await rows(database)
    assert [row["args"] for row in stored] == [
        '{"image_id":3,"width":4}',
        '{"image_id":1}',
        '{"image_id":2}',
        "{}",
        '{"image_id":5}',
    ]
    ids = [h.id for h in handles + mixed[:2]]
    assert [row["id"] for row in stored] == ids
    assert [h.existing for h in mixed] == [False, False, True]
    assert mixed[2].id == mixed[1].id
    assert len(bound) == 3  # one wake for each lane of a commit
    assert await app.enqueue_many([]) == []


async def test_a_key_is_unique_while_pending(database: Database, bound: list[Wake]) -> None:
    first = await resize.enqueue(1, key="k")
    second = await resize.enqueue(2, key="k")
    elsewhere = await other.enqueue(key="k")
    foreign = await resize.options(key="k", account="acme").enqueue(3)

    assert (first.existing, second.existing) == (False, True)
    assert second.id == first.id
    assert len({first.id, elsewhere.id, foreign.id}) == 3

    await first.cancel()
    third = await resize.enqueue(3, key="k")
    assert not third.existing
    await work(database)
    fourth = await resize.enqueue(4, key="k")
    assert not fourth.existing


async def test_of_concurrent_enqueues_with_one_key_one_wins(
    database: Database, bound: list[Wake]
) -> None:
    from_tasks = [resize.enqueue(n, key="k") for n in range(16)]
    from_threads = [asyncio.to_thread(resize.options(key="k").enqueue_sync, n) for n in range(16)]

    handles = await asyncio.gather(*from_tasks, *from_threads)

    assert len({h.id for h in handles}) == 1
    assert sum(not h.existing for h in handles) == 1
    assert len(await rows(database)) == 1


async def test_many_with_crossing_keys_do_not_deadlock(
    database: Database, bound: list[Wake]
) -> None:
    keys = [f"k{n}" for n in range(8)]

    async def all_of(order: list[str]) -> None:
        await app.enqueue_many([resize.options(key=key).call(1) for key in order])

    await asyncio.gather(*(all_of(keys if n % 2 else keys[::-1]) for n in range(12)))

    assert sorted(row["key"] for row in await rows(database)) == keys


async def test_results_come_back_as_annotated(database: Database, bound: list[Wake]) -> None:
    handle = await resize.enqueue(7)
    assert await handle.status() == "pending"
    await work(database)

    assert await handle.status() == "succeeded"
    assert await handle.result(timeout=60) == Size(800, 7)
    assert await app.handle(handle.id).result() == {"width": 800, "height": 7}
    ended = sql("SELECT finished_at, created_at, attempts FROM jobs")
    (row,) = await database.read(lambda tx: tx.rows(ended))
    assert row[0] == row[1]
    assert row[2] == 1


async def test_waiting_for_a_result(database: Database, bound: list[Wake]) -> None:
    handle = await resize.enqueue(7)

    with pytest.raises(TimeoutError):
        await handle.result(timeout=0.05)
    waiting = asyncio.create_task(handle.result(timeout=60))
    await asyncio.sleep(0.02)
    await work(database)
    assert await waiting == Size(800, 7)


async def test_results_of_what_failed(database: Database, bound: list[Wake]) -> None:
    dead = await resize.enqueue(1)
    await work(database, Dead("no such image"))
    cancelled = await resize.enqueue(2)
    assert await cancelled.cancel()

    with pytest.raises(JobFailed, match="no such image"):
        await dead.result()
    with pytest.raises(JobCancelled):
        await cancelled.result()
    with pytest.raises(NotFound):
        await app.handle("job_none").status()


async def test_a_cancelled_job_does_not_run(database: Database, bound: list[Wake]) -> None:
    handle = await resize.enqueue(1)

    assert await handle.cancel()
    assert not await handle.cancel()
    assert await work(database) == 0
    assert await handle.status() == "cancelled"


async def test_a_job_cancelled_while_it_runs_stays_cancelled(
    database: Database, bound: list[Wake]
) -> None:
    handle = await resize.enqueue(1)
    kind = job_kind(JobRunner(app.jobs))
    (claim,) = await database.unit(
        lambda tx: ledger.claim(tx, kind, 1, lanes.waiting(tx, "jobs")).claims
    )
    assert await handle.status() == "running"
    assert await handle.cancel()

    done = Done(apply=lambda tx: store.set_result(tx, claim.id, "1"))
    await database.unit(lambda tx: ledger.settle(tx, kind, [decide(kind, claim, done, 0)]))

    assert await handle.status() == "cancelled"
    assert await database.read(lambda tx: tx.rows(sql("SELECT result, due_at FROM jobs"))) == [
        (None, None)
    ]


async def test_enqueue_from_any_thread_with_and_without_a_loop(
    database: Database, bound: list[Wake]
) -> None:
    def in_thread() -> JobHandle[Size]:
        return resize.enqueue_sync(1)

    def with_its_own_loop() -> JobHandle[Size]:
        return asyncio.run(resize.enqueue(2))

    first = await asyncio.to_thread(in_thread)
    second = await asyncio.to_thread(with_its_own_loop)
    third = resize.enqueue_sync(3)  # on the event loop's own thread: it blocks, but works
    fourth = resize.enqueue_many_sync([(4,)])

    assert [row["id"] for row in await rows(database)] == sorted(
        [first.id, second.id, third.id, fourth[0].id]
    )
    assert first.status_sync() == "pending"
    assert first.cancel_sync()
    await work(database)
    assert second.result_sync(timeout=60) == Size(800, 2)


async def test_a_job_enqueues_for_its_own_account(database: Database, bound: list[Wake]) -> None:
    local = Penstock()
    local.bind(database)

    @local.job
    async def parent() -> None:
        await child.enqueue()

    @local.job
    def thread_parent() -> None:
        child.enqueue_sync()

    @local.job
    def child() -> None: ...

    await parent.options(account="acme").enqueue()
    await thread_parent.options(account="acme").enqueue()
    runner = JobRunner(local.jobs)
    kind = job_kind(runner)

    def take(tx: Tx) -> list[Task[Any]]:
        claims = ledger.claim(tx, kind, 100, lanes.waiting(tx, "jobs")).claims
        loaded = kind.load(tx, claims)
        return [Task(claim, loaded[claim.id], 60.0) for claim in claims]

    for task in await database.unit(take):
        assert isinstance(await runner.handle(task), Done)
    await runner.close()

    found = [(row["name"], row["account"]) for row in await rows(database)]
    assert found[2:] == [("child", "acme")] * 2


async def test_lanes_follow_the_declared_concurrency(database: Database, bound: list[Wake]) -> None:
    await resize.enqueue(1)
    await resize.enqueue(1, lane="a")
    await other.enqueue(lane="resize")

    await database.unit(lambda tx: store.set_caps(tx, "resize", 9))

    caps = sql("SELECT id, max_in_flight FROM lanes ORDER BY id")
    assert await database.read(lambda tx: tx.rows(caps)) == [
        ("job:default:other:resize", 16),
        ("job:default:resize", 9),
        ("job:default:resize:a", 9),
    ]


async def test_what_ended_well_is_kept_for_a_day(
    database: Database, bound: list[Wake], clock: ManualClock
) -> None:
    dead = await resize.enqueue(1)
    await work(database, Dead("no such image"))
    for n in range(3):
        await resize.enqueue(n)
    await work(database)
    waiting = await resize.enqueue(9, delay="3d")
    clock.advance(86_399)
    assert await database.unit(store.prune) == 0
    clock.advance(2)

    assert await database.unit(lambda tx: store.prune(tx, limit=2)) == 2
    assert await database.unit(store.prune) == 1
    assert [row["id"] for row in await rows(database)] == [dead.id, waiting.id]


async def test_the_clock_enqueues_once_however_many_ticks_were_missed(
    database: Database, clock: ManualClock
) -> None:
    local = Penstock()
    local.bind(database)

    @local.cron("0 * * * *")
    def hourly() -> None: ...

    tick = lambda: database.unit(local.cron_tick)  # noqa: E731

    assert await tick() == 0  # the first tick only takes note
    clock.advance(3599)
    assert await tick() == 0
    clock.advance(1)
    assert await asyncio.gather(tick(), tick(), tick()) in ([1, 0, 0], [0, 1, 0], [0, 0, 1])
    assert await tick() == 0
    clock.advance(10 * 3600)
    assert await tick() == 1
    assert await tick() == 0
    assert [row["key"] for row in await rows(database)] == [
        "cron:2026-01-01T01:00:00.000000Z",
        "cron:2026-01-01T02:00:00.000000Z",
    ]


async def test_a_changed_schedule_starts_anew(database: Database, clock: ManualClock) -> None:
    before, after = Penstock(), Penstock()
    before.bind(database)
    after.bind(database)

    def job() -> None: ...

    before.cron("*/5 * * * *")(job)
    after.cron("0 12 * * *")(job)
    await database.unit(before.cron_tick)
    clock.advance(600)

    assert await database.unit(after.cron_tick) == 0
    clock.advance(12 * 3600)
    assert await database.unit(after.cron_tick) == 1


# --------------------------------------------------------------------------- beside the owner


async def test_a_program_of_its_own_opens_the_database_of_the_settings(tmp_path: Path) -> None:
    async with Penstock(load_settings(data_dir=tmp_path / "data")) as client:

        @client.job
        def job(n: int) -> None: ...

        handles = await asyncio.gather(*(job.enqueue(n, key="k") for n in range(4)))
        assert len({h.id for h in handles}) == 1
        assert await handles[0].status() == "pending"

    # No loop needed, and it opens again after it was closed.
    assert job.enqueue_sync(5, key="k").existing
    client.close_sync()


async def test_beside_an_owner_the_rows_are_written_and_the_owner_can_tell(tmp_path: Path) -> None:
    path = tmp_path / "penstock.db"
    migrate.upgrade(path)
    owner = SqliteDatabase(path, ManualClock())
    await owner.open()
    client = Penstock(load_settings(data_dir=tmp_path))
    job = client.job(name="job")(lambda: None)
    try:
        before = await owner.data_version()
        await job.enqueue()
        assert await owner.data_version() != before
        assert len(await rows(owner)) == 1
    finally:
        await client.close()
        await owner.close()


async def test_a_database_that_its_owner_does_not_prepare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock._beside.PATIENCE", 0.1)
    owner = SqliteDatabase(tmp_path / "penstock.db", ManualClock())
    await owner.open()
    client = Penstock(load_settings(data_dir=tmp_path))
    job = client.job(name="job")(lambda: None)
    try:
        with pytest.raises(StorageError, match="no tables"):
            await job.enqueue()
    finally:
        await owner.close()
    await job.enqueue()  # nobody owns it now: made on the spot
    await client.close()


def test_many_threads_open_it_once(tmp_path: Path) -> None:
    client = Penstock(load_settings(data_dir=tmp_path))
    job = client.job(name="job")(lambda: None)
    start = threading.Barrier(8)
    handles: list[JobHandle[Any]] = []

    def enqueue() -> None:
        start.wait()
        handles.append(job.enqueue_sync(key="k"))

    threads = [threading.Thread(target=enqueue) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.close_sync()

    assert len({h.id for h in handles}) == 1
    assert len(handles) == 8

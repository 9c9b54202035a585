from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import select

from penstock import errors
from penstock.clock import ManualClock, SystemClock
from penstock.storage import Database, Tx, sql
from penstock.storage.checkpoint import EVERY
from penstock.storage.lock import FileLock
from penstock.storage.postgres import PostgresDatabase
from penstock.storage.sqlite import SqliteDatabase, backup
from penstock.storage.tables import leaders

pytestmark = pytest.mark.anyio

INSERT = sql("INSERT INTO leaders (name, holder, until_at) VALUES (:name, :holder, :until)")
NAMES = sql("SELECT name FROM leaders ORDER BY name")
COUNT = sql("SELECT count(*) FROM leaders")
UNTIL = sql("SELECT until_at FROM leaders WHERE name = :name")


def insert(tx: Tx, name: str, until: int = 0, holder: str = "") -> int:
    return tx.run(INSERT, name=name, holder=holder, until=until)


async def count(database: Database) -> int:
    row = await database.read(lambda tx: tx.one(COUNT))
    assert row is not None
    return int(row[0])


# -- both databases


async def test_a_units_result_is_returned_and_its_writes_are_read(database: Database) -> None:
    assert await database.unit(lambda tx: insert(tx, "a", 5)) == 1
    assert await database.read(lambda tx: tx.rows(NAMES)) == [("a",)]
    assert await database.read(lambda tx: tx.one(UNTIL, name="a")) == (5,)
    assert await database.read(lambda tx: tx.one(UNTIL, name="b")) is None


async def test_dicts_many_lists_and_row_counts(database: Database) -> None:
    def fill(tx: Tx) -> None:
        tx.many(INSERT, [{"name": n, "holder": "h", "until": i} for i, n in enumerate("abcd")])
        tx.many(INSERT, [])

    await database.unit(fill)
    chosen = sql("SELECT name, until_at FROM leaders WHERE name {in:names} ORDER BY name")
    assert await database.read(lambda tx: tx.dicts(chosen, names=("b", "d", "x"))) == [
        {"name": "b", "until_at": 1},
        {"name": "d", "until_at": 3},
    ]
    assert await database.read(lambda tx: tx.rows(chosen, names=[])) == []
    numbers = sql("SELECT name FROM leaders WHERE until_at {in:numbers}")
    assert await database.read(lambda tx: tx.rows(numbers, numbers={2})) == [("c",)]

    delete = sql("DELETE FROM leaders WHERE name {in:names}")
    assert await database.unit(lambda tx: tx.run(delete, names=["a", "b", "z"])) == 2
    returning = sql("UPDATE leaders SET until_at = 9 WHERE name >= :name RETURNING name")
    assert await database.unit(lambda tx: tx.run(returning, name="a")) == 2
    rows = await database.unit(lambda tx: tx.rows(returning, name="d"))
    assert rows == [("d",)]


async def test_rows_written_by_a_statement_that_starts_with_with_are_counted(
    database: Database,
) -> None:
    await database.unit(lambda tx: insert(tx, "a"))
    update = sql(
        "WITH x AS (SELECT name FROM leaders) UPDATE leaders SET until_at = 1"
        " WHERE name IN (SELECT name FROM x)"
    )
    assert await database.unit(lambda tx: tx.run(update)) == 1


async def test_core_statements_run_too(database: Database) -> None:
    await database.unit(lambda tx: tx.run(leaders.insert(), name="a", holder="h", until_at=1))
    query = select(leaders.c.holder).where(leaders.c.name.in_(["a", "b"])).limit(1)
    assert await database.read(lambda tx: tx.rows(query)) == [("h",)]
    assert await database.read(lambda tx: tx.dicts(query)) == [{"holder": "h"}]


async def test_numbers_are_whole_and_wide_on_both(database: Database) -> None:
    def unit(tx: Tx) -> tuple[Any, ...] | None:
        tx.run(INSERT, name="a", holder="", until=2**53)
        return tx.one(
            sql(
                "SELECT sum(until_at), {max}(:a, :b), CAST(:delay * 1000000 AS BIGINT),"
                " sum(1.5) FROM leaders"
            ),
            a=1,
            b=2,
            delay=7200,
        )

    assert await database.unit(unit) == (2**53, 2, 7_200_000_000, 1.5)


async def test_moving_the_clock_moves_now(database: Database, clock: ManualClock) -> None:
    now = sql("SELECT {now}")
    before = clock.now()
    assert await database.unit(lambda tx: (tx.one(now), tx.now())) == ((before,), before)
    clock.advance(90)
    assert await database.read(lambda tx: (tx.one(now), tx.now())) == (
        (before + 90_000_000,),
        before + 90_000_000,
    )
    clock.step(-3600)
    assert await database.unit(lambda tx: tx.now()) == before - 3_510_000_000


async def test_now_is_one_instant_within_a_unit(database: Database, clock: ManualClock) -> None:
    def unit(tx: Tx) -> bool:
        first = tx.now()
        clock.advance(1)
        return tx.now() == first

    assert await database.unit(unit)


async def test_a_failed_unit_undoes_its_own_writes_only(database: Database) -> None:
    def bad(tx: Tx) -> None:
        insert(tx, "bad")
        raise KeyError("mine")

    results = await asyncio.gather(
        *(database.unit(lambda tx, i=i: insert(tx, f"a{i}")) for i in range(10)),
        database.unit(bad),
        *(database.unit(lambda tx, i=i: insert(tx, f"b{i}")) for i in range(10)),
        return_exceptions=True,
    )
    assert [r for r in results if r != 1] == [results[10]]
    assert isinstance(results[10], KeyError)
    assert await count(database) == 20


async def test_a_failed_statement_fails_its_unit_even_when_caught(database: Database) -> None:
    def unit(tx: Tx) -> str:
        insert(tx, "a")
        try:
            insert(tx, "a")
        except errors.ConstraintViolated:
            return "never mind"
        raise AssertionError

    with pytest.raises(errors.ConstraintViolated):
        await database.unit(unit)
    assert await count(database) == 0


async def test_stop_iteration_reaches_the_awaiter_as_an_error(database: Database) -> None:
    with pytest.raises(RuntimeError):
        await database.unit(lambda tx: next(iter(())))


async def test_data_the_database_cannot_hold(database: Database) -> None:
    with pytest.raises(errors.BadData):
        await database.unit(lambda tx: insert(tx, "lone surrogate \ud800"))
    with pytest.raises(errors.BadData):
        await database.unit(lambda tx: insert(tx, "too big", until=2**63))
    if database.dialect == "postgres":
        with pytest.raises(errors.BadData, match="NUL"):
            await database.unit(lambda tx: insert(tx, "nul \0"))
    assert await database.unit(lambda tx: insert(tx, "fine")) == 1
    assert await count(database) == 1


async def test_a_mistake_in_sql_is_not_disguised(database: Database) -> None:
    with pytest.raises((sqlite3.OperationalError, psycopg.ProgrammingError)):
        await database.unit(lambda tx: tx.run(sql("INSERT INTO nowhere VALUES (1)")))


async def test_constraints(database: Database) -> None:
    await database.unit(lambda tx: insert(tx, "a"))
    with pytest.raises(errors.ConstraintViolated):
        await database.unit(lambda tx: insert(tx, "a"))
    orphan = sql("INSERT INTO fanouts (id, account, status, lane) VALUES ('e', 'a', 'x', 'l')")
    with pytest.raises(errors.ConstraintViolated):
        await database.unit(lambda tx: tx.run(orphan))


async def test_a_read_cannot_write_or_notify(database: Database) -> None:
    with pytest.raises(Exception, match=r"(?i)read-?only"):
        await database.read(lambda tx: insert(tx, "a"))
    with pytest.raises(RuntimeError, match="notify"):
        await database.read(lambda tx: tx.notify("x"))
    await database.unit(lambda tx: insert(tx, "b"))
    assert await database.read(lambda tx: tx.rows(NAMES)) == [("b",)]


async def test_a_reader_sees_committed_state_only(database: Database) -> None:
    written, release = threading.Event(), threading.Event()

    def slow(tx: Tx) -> None:
        insert(tx, "a")
        written.set()
        assert release.wait(60)

    unit = asyncio.ensure_future(database.unit(slow))
    await asyncio.to_thread(written.wait, 60)
    assert await count(database) == 0
    release.set()
    await unit
    assert await count(database) == 1


async def test_a_read_is_one_snapshot(database: Database) -> None:
    begun, written = threading.Event(), threading.Event()

    def read(tx: Tx) -> tuple[Any, Any]:
        first = tx.one(COUNT)
        begun.set()
        assert written.wait(60)
        return first, tx.one(COUNT)

    reading = asyncio.ensure_future(database.read(read))
    await asyncio.to_thread(begun.wait, 60)
    await database.unit(lambda tx: insert(tx, "a"))
    written.set()
    assert await reading == ((0,), (0,))
    assert await count(database) == 1


async def test_notes_come_after_the_commit_and_before_the_awaiter(database: Database) -> None:
    heard: list[object] = []
    seen: list[int] = []

    def subscriber(notes: list[object]) -> None:
        assert threading.current_thread() is threading.main_thread()
        heard.extend(notes)

    database.subscribe(subscriber)

    def good(tx: Tx) -> None:
        insert(tx, "a")
        tx.notify("one")
        tx.notify("two")

    def bad(tx: Tx) -> None:
        tx.notify("never")
        raise ValueError("mine")

    async def wait() -> None:
        await database.unit(good)
        seen.append(len(heard))

    async def wait_bad() -> None:
        with pytest.raises(ValueError, match="mine"):
            await database.unit(bad)

    await asyncio.gather(wait(), wait_bad())
    assert heard == ["one", "two"]
    assert seen == [2]


async def test_a_failing_subscriber_harms_nobody(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[object] = []

    def broken(notes: list[object]) -> None:
        raise ValueError("subscriber")

    database.subscribe(broken)
    database.subscribe(heard.extend)
    assert await asyncio.wait_for(database.unit(lambda tx: tx.notify(1)), 60) is None
    assert heard == [1]
    assert "subscriber failed" in caplog.text


async def test_a_cancelled_awaiter_does_not_stop_its_unit(database: Database) -> None:
    begun, release = threading.Event(), threading.Event()

    def slow(tx: Tx) -> None:
        begun.set()
        assert release.wait(60)

    first = asyncio.ensure_future(database.unit(slow))
    await asyncio.to_thread(begun.wait, 60)
    cancelled = [
        asyncio.ensure_future(database.unit(lambda tx, i=i: insert(tx, f"n{i}"))) for i in range(20)
    ]
    await asyncio.sleep(0)
    for task in cancelled:
        task.cancel()
    await asyncio.gather(*cancelled, return_exceptions=True)
    release.set()
    await first
    await database.unit(lambda tx: insert(tx, "last"))
    deadline = time.monotonic() + 60
    while (found := await count(database)) < 21:  # on PostgreSQL the last one is not the last
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.02)
    assert found == 21


async def test_units_from_threads_without_an_event_loop(database: Database) -> None:
    heard: list[object] = []
    database.subscribe(heard.extend)

    def work(number: int) -> int:
        def unit(tx: Tx) -> int:
            tx.notify(number)
            return insert(tx, f"n{number}")

        return database.unit_sync(unit)

    assert await asyncio.gather(*(asyncio.to_thread(work, i) for i in range(5))) == [1] * 5
    with pytest.raises(errors.ConstraintViolated):
        await asyncio.to_thread(work, 3)
    await asyncio.sleep(0)
    assert sorted(heard, key=str) == [0, 1, 2, 3, 4]


async def test_a_transaction_cannot_be_used_after_its_unit(database: Database) -> None:
    kept: list[Tx] = []
    await database.unit(kept.append)
    with pytest.raises(Exception, match=r"closed|_connection"):
        kept[0].rows(NAMES)


async def test_after_close_units_are_refused(database: Database) -> None:
    waiting = [
        asyncio.ensure_future(database.unit(lambda tx, i=i: insert(tx, f"n{i}"))) for i in range(50)
    ]
    await asyncio.sleep(0)
    await database.close()
    assert await asyncio.gather(*waiting) == [1] * 50  # what was handed in is finished
    with pytest.raises(errors.StorageUnavailable):
        await database.unit(lambda tx: None)
    with pytest.raises(errors.StorageUnavailable):
        await database.read(lambda tx: None)
    with pytest.raises(errors.StorageUnavailable):
        database.unit_sync(lambda tx: None)


# -- SQLite


@pytest.fixture
async def sqlite(sqlite_path: Path) -> AsyncIterator[SqliteDatabase]:
    database = SqliteDatabase(sqlite_path, SystemClock())
    await database.open()
    yield database
    await database.close()


async def test_concurrent_units_share_commits(sqlite: SqliteDatabase) -> None:
    begun, release = threading.Event(), threading.Event()

    def slow(tx: Tx) -> None:
        begun.set()
        assert release.wait(60)

    first = asyncio.ensure_future(sqlite.unit(slow))
    assert await asyncio.to_thread(begun.wait, 60)
    rest = [
        asyncio.ensure_future(sqlite.unit(lambda tx, i=i: insert(tx, str(i)))) for i in range(1000)
    ]
    await asyncio.sleep(0)  # all are handed in, while a commit is on its way
    before = sqlite.commits
    release.set()
    await asyncio.gather(first, *rest)
    assert sqlite.commits - before < 10
    assert await count(sqlite) == 1000


async def test_commits_are_flushed_to_disk(sqlite: SqliteDatabase) -> None:
    assert await sqlite.unit(lambda tx: tx.one(sql("PRAGMA synchronous"))) == (2,)  # FULL
    assert await sqlite.read(lambda tx: tx.one(sql("PRAGMA journal_mode"))) == ("wal",)


async def test_the_log_is_moved_into_the_file_beside_the_writer(
    sqlite: SqliteDatabase, sqlite_path: Path
) -> None:
    def rows_in_the_file() -> int:
        """Without the log: what the file alone holds."""
        with closing(sqlite3.connect(f"file:{sqlite_path}?immutable=1", uri=True)) as alone:
            try:
                found: int = alone.execute("SELECT count(*) FROM leaders").fetchone()[0]
            except sqlite3.DatabaseError:  # one half of the log is moved
                return -1
            return found

    assert rows_in_the_file() == 0
    for n in range(EVERY):
        await sqlite.unit(lambda tx, name=str(n): insert(tx, name))  # type: ignore[misc]

    async with asyncio.timeout(30):
        while rows_in_the_file() < EVERY:
            await asyncio.sleep(0.01)


async def test_a_new_file_has_small_pages(sqlite: SqliteDatabase) -> None:
    assert await sqlite.read(lambda tx: tx.one(sql("PRAGMA page_size"))) == (2048,)


async def limit_pages(database: SqliteDatabase, more: int) -> None:
    """Let the file grow by `more` pages only: SQLite then says that the disk is full."""

    def unit(tx: Tx) -> None:
        (pages,) = tx.one(sql("PRAGMA page_count")) or (0,)
        tx.one(sql(f"PRAGMA max_page_count = {pages + more}"))

    await database.unit(unit)


async def test_a_full_disk_is_named_and_leaves_no_half_unit(sqlite: SqliteDatabase) -> None:
    await sqlite.unit(lambda tx: insert(tx, "before"))
    await limit_pages(sqlite, 10)

    def big(tx: Tx) -> None:
        insert(tx, "half")
        insert(tx, "big", holder="x" * 1_000_000)

    small = [sqlite.unit(lambda tx, i=i: insert(tx, f"small{i}")) for i in range(5)]
    results = await asyncio.gather(*small, sqlite.unit(big), return_exceptions=True)
    assert isinstance(results[-1], errors.StorageFull)
    names = {name for (name,) in await sqlite.read(lambda tx: tx.rows(NAMES))}
    told = {f"small{i}" for i, result in enumerate(results[:-1]) if result == 1}
    assert names == {"before"} | told
    assert all(r == 1 or isinstance(r, errors.StorageFull) for r in results[:-1])
    assert await sqlite.unit(lambda tx: insert(tx, "after")) == 1


async def test_when_sqlite_undoes_everything_nothing_is_told_as_done(
    sqlite: SqliteDatabase,
) -> None:
    heard: list[object] = []
    sqlite.subscribe(heard.extend)
    begun, release = threading.Event(), threading.Event()

    def slow(tx: Tx) -> None:
        begun.set()
        assert release.wait(60)

    def good(tx: Tx) -> int:
        tx.notify("note")
        return insert(tx, "good")

    def disaster(tx: Tx) -> None:
        # What SQLite does by itself on some disk errors, in a form a test can bring about.
        tx.run(sql("INSERT OR ROLLBACK INTO leaders VALUES ('good', '', 0)"))

    first = asyncio.ensure_future(sqlite.unit(slow))
    await asyncio.to_thread(begun.wait, 60)
    rest = [asyncio.ensure_future(sqlite.unit(fn)) for fn in (good, disaster, good)]
    await asyncio.sleep(0)
    release.set()
    await first
    results = await asyncio.gather(*rest, return_exceptions=True)
    assert [type(r) for r in results] == [errors.ConstraintViolated] * 3
    assert results[0] is not results[1]
    assert heard == []
    assert await count(sqlite) == 0
    assert await sqlite.unit(good) == 1


async def test_a_commit_that_fails_fails_all_its_units(sqlite: SqliteDatabase) -> None:
    await sqlite.unit(lambda tx: tx.run(sql("CREATE TABLE parent (id INTEGER PRIMARY KEY)")))
    child = "CREATE TABLE child (p REFERENCES parent DEFERRABLE INITIALLY DEFERRED)"
    await sqlite.unit(lambda tx: tx.run(sql(child)))
    begun, release = threading.Event(), threading.Event()

    def slow(tx: Tx) -> None:
        begun.set()
        assert release.wait(60)

    first = asyncio.ensure_future(sqlite.unit(slow))
    await asyncio.to_thread(begun.wait, 60)
    good = asyncio.ensure_future(sqlite.unit(lambda tx: insert(tx, "good")))
    orphan = sql("INSERT INTO child VALUES (1)")
    bad = asyncio.ensure_future(sqlite.unit(lambda tx: tx.run(orphan)))
    await asyncio.sleep(0)
    release.set()
    await first
    results = await asyncio.gather(good, bad, return_exceptions=True)
    assert [type(r) for r in results] == [errors.ConstraintViolated] * 2
    assert await count(sqlite) == 0


async def test_a_unit_that_waits_for_itself_is_refused(sqlite: SqliteDatabase) -> None:
    with pytest.raises(RuntimeError, match="itself"):
        await sqlite.unit(lambda tx: sqlite.unit_sync(lambda tx: None))


async def test_data_version_tells_other_processes_commits_from_ours(
    sqlite: SqliteDatabase,
) -> None:
    before = await sqlite.data_version()
    await sqlite.unit(lambda tx: insert(tx, "a"))
    await count(sqlite)
    with pytest.raises(errors.ConstraintViolated):
        await sqlite.unit(lambda tx: insert(tx, "a"))
    assert await sqlite.data_version() == before

    client = SqliteDatabase(sqlite.path, SystemClock(), owner=False)
    await client.open()
    await client.unit(lambda tx: insert(tx, "b"))
    after = await sqlite.data_version()
    assert after != before
    assert await count(sqlite) == 2
    await client.close()
    await sqlite.unit(lambda tx: insert(tx, "c"))
    assert await sqlite.data_version() == after


async def test_without_an_event_loop(sqlite_path: Path) -> None:
    def script() -> list[object]:
        heard: list[object] = []
        database = SqliteDatabase(sqlite_path, SystemClock())
        database.open_sync()
        database.subscribe(heard.extend)
        database.unit_sync(lambda tx: tx.notify(insert(tx, "a")))
        database.close_sync()
        return heard

    assert await asyncio.to_thread(script) == [1]


async def test_backup_while_in_use(sqlite: SqliteDatabase, tmp_path: Path) -> None:
    await sqlite.unit(lambda tx: insert(tx, "a"))
    target = tmp_path / "copy.db"
    await sqlite.backup(target)
    assert target.stat().st_mode & 0o777 == 0o600
    copy = SqliteDatabase(target, SystemClock())
    await copy.open()
    assert await copy.read(lambda tx: tx.rows(NAMES)) == [("a",)]
    await copy.close()


def test_a_backup_that_fails_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "not.db"
    source.write_bytes(b"this is no database" * 100)
    with pytest.raises(errors.StorageUnavailable):
        backup(source, tmp_path / "copy.db")
    assert list(tmp_path.iterdir()) == [source]


async def test_a_path_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.StorageUnavailable, match="nowhere"):
        await SqliteDatabase(tmp_path / "nowhere" / "a.db", SystemClock()).open()
    with pytest.raises(errors.StorageUnavailable, match="nowhere"):
        await SqliteDatabase(tmp_path / "nowhere" / "a.db", SystemClock(), owner=False).open()


async def test_a_second_owner_is_refused_until_the_first_is_killed(sqlite_path: Path) -> None:
    script = f"""
        import sys, time
        from penstock.clock import SystemClock
        from penstock.storage.sqlite import SqliteDatabase
        SqliteDatabase({str(sqlite_path)!r}, SystemClock()).open_sync()
        print("ready", flush=True)
        time.sleep(60)
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, env=environment
    ) as owner:
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"ready\n"
            second = SqliteDatabase(sqlite_path, SystemClock())
            with pytest.raises(errors.DataDirInUse, match=rf"pid {owner.pid}\b"):
                await second.open()
            client = SqliteDatabase(sqlite_path, SystemClock(), owner=False)
            await client.open()
            await client.unit(lambda tx: insert(tx, "beside the owner"))
            await client.close()
        finally:
            owner.send_signal(signal.SIGKILL)
            owner.wait(60)
    third = SqliteDatabase(sqlite_path, SystemClock())
    await third.open()
    assert await count(third) == 1
    await third.close()


def test_an_owner_that_is_about_to_let_go_is_waited_for(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    first.acquire()
    threading.Timer(0.3, first.release).start()

    second.acquire(patience=60.0)

    with pytest.raises(errors.DataDirInUse):
        first.acquire(patience=0.1)
    second.release()


def _hold(ready: Any) -> None:
    ready.set()
    time.sleep(60)


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    lock.acquire()
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    child = context.Process(target=_hold, args=(ready,), daemon=True)
    child.start()
    try:
        assert ready.wait(60)
        with pytest.raises(errors.DataDirInUse, match=rf"pid {os.getpid()}\b"):
            FileLock(tmp_path / "lock").acquire()  # the child's copy being closed frees nothing
        lock.release()
        other = FileLock(tmp_path / "lock")
        other.acquire()
        other.release()
    finally:
        child.kill()
        child.join()


# -- PostgreSQL


@pytest.fixture
async def postgres(postgres_database_url: str) -> AsyncIterator[PostgresDatabase]:
    database = PostgresDatabase(postgres_database_url, SystemClock(), threads=4)
    await database.open()
    yield database
    await database.close()


def _swap(first: str, second: str, barrier: threading.Barrier, runs: list[str]) -> Any:
    raise_until = sql("UPDATE leaders SET until_at = until_at + 1 WHERE name = :name")

    def unit(tx: Tx) -> None:
        runs.append(first)
        tx.notify(first)
        tx.run(raise_until, name=first)
        if runs.count(first) == 1:
            barrier.wait(60)
        tx.run(raise_until, name=second)

    return unit


@pytest.mark.postgres
async def test_a_deadlocked_unit_runs_again(postgres: PostgresDatabase) -> None:
    heard: list[object] = []
    postgres.subscribe(heard.extend)
    await postgres.unit(lambda tx: (insert(tx, "a"), insert(tx, "b")))
    barrier, runs = threading.Barrier(2), list[str]()
    await asyncio.gather(
        postgres.unit(_swap("a", "b", barrier, runs)), postgres.unit(_swap("b", "a", barrier, runs))
    )
    # Whose undone run is tried again before the other one knows meets it in a deadlock once more.
    assert len(runs) >= 3
    assert await postgres.read(lambda tx: tx.one(UNTIL, name="a")) == (2,)
    assert sorted(map(str, heard)) == ["a", "b"]  # not those of the run that was undone


@pytest.mark.postgres
async def test_a_conflict_without_end_is_given_up(
    postgres: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A unit sleeps between its tries; that is not what is tested.
    monkeypatch.setattr("penstock.storage.postgres.time.sleep", lambda seconds: None)
    conflict = sql("DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$")
    runs: list[int] = []

    def unit(tx: Tx) -> None:
        runs.append(1)
        if len(runs) <= 3:
            tx.run(conflict)

    await postgres.unit(unit)
    assert len(runs) == 4

    def never(tx: Tx) -> None:
        runs.append(1)
        tx.run(conflict)

    runs.clear()
    with pytest.raises(errors.StorageUnavailable, match="conflict"):
        await postgres.unit(never)
    assert len(runs) == 11


def _hang_up(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


@pytest.mark.postgres
async def test_dead_connections_are_replaced_at_checkout(
    postgres: PostgresDatabase, postgres_database_url: str
) -> None:
    pids = sql("SELECT pg_backend_pid(), pg_sleep(0.05)")
    before = await asyncio.gather(*(postgres.unit(lambda tx: tx.one(pids)) for _ in range(4)))
    await asyncio.to_thread(_hang_up, postgres_database_url)
    runs: list[int] = []

    def unit(tx: Tx) -> Any:
        runs.append(1)
        return tx.one(pids)

    after = await asyncio.gather(*(postgres.unit(unit) for _ in range(8)))
    assert not {row[0] for row in before if row} & {row[0] for row in after if row}
    assert len(runs) == 8


@pytest.mark.postgres
async def test_a_unit_whose_connection_breaks_runs_once_more(
    postgres: PostgresDatabase, postgres_database_url: str
) -> None:
    runs: list[int] = []

    def unit(tx: Tx) -> int:
        runs.append(1)
        insert(tx, "a")
        if len(runs) == 1:
            _hang_up(postgres_database_url)
        return insert(tx, "b")

    assert await postgres.unit(unit) == 1
    assert len(runs) == 2
    assert await count(postgres) == 2

    def always(tx: Tx) -> int:
        runs.append(1)
        _hang_up(postgres_database_url)
        return insert(tx, "c")

    runs.clear()
    with pytest.raises(errors.StorageUnavailable):
        await postgres.unit(always)
    assert len(runs) == 2
    assert await postgres.unit(lambda tx: insert(tx, "d")) == 1


@pytest.mark.postgres
async def test_a_connection_lost_at_the_commit_is_not_tried_again(
    postgres: PostgresDatabase, postgres_database_url: str
) -> None:
    runs: list[int] = []

    def unit(tx: Tx) -> None:
        runs.append(1)
        insert(tx, "a")
        _hang_up(postgres_database_url)

    with pytest.raises(errors.StorageUnavailable, match="outcome unknown"):
        await postgres.unit(unit)
    assert len(runs) == 1


@pytest.mark.postgres
async def test_transactions_are_as_the_rules_need_them(postgres: PostgresDatabase) -> None:
    show = sql("SELECT current_setting(:name)")

    def setting(name: str) -> Any:
        return lambda tx: tx.one(show, name=name)

    assert await postgres.unit(setting("transaction_isolation")) == ("read committed",)
    assert await postgres.read(setting("transaction_isolation")) == ("repeatable read",)
    assert await postgres.read(setting("transaction_read_only")) == ("on",)
    assert await postgres.unit(setting("transaction_read_only")) == ("off",)
    assert await postgres.unit(setting("idle_in_transaction_session_timeout")) == ("1min",)


@pytest.mark.postgres
@pytest.mark.parametrize("prepare", [True, False])
async def test_prepared_statements_can_be_left_out(
    postgres_database_url: str, prepare: bool
) -> None:
    url = postgres_database_url.replace("postgresql://", "postgresql+psycopg://")
    database = PostgresDatabase(url, SystemClock(), threads=1, prepare=prepare)
    await database.open()
    for _ in range(10):
        await count(database)
    prepared = sql("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%leaders%'")
    assert await database.read(lambda tx: tx.one(prepared)) == (1 if prepare else 0,)
    await database.close()


@pytest.mark.postgres
async def test_the_servers_clock_is_read_in_microseconds(postgres: PostgresDatabase) -> None:
    now = await postgres.unit(lambda tx: tx.now())
    assert abs(now - time.time() * 1e6) < 60e6


@pytest.mark.postgres
async def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    database = PostgresDatabase(f"postgresql:///x?host={tmp_path}", SystemClock())
    with pytest.raises(errors.StorageUnavailable, match="connection"):
        await database.open()
    with pytest.raises(errors.StorageUnavailable, match="URL"):
        PostgresDatabase("postgresql://host:port:x/?nonsense=1", SystemClock())

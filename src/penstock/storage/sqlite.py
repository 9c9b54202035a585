"""SQLite: one writer thread whose units share commits, and readers beside it.

Everything that was handed in while the last commit was on its way to the disk goes into
the next one: with ``synchronous=FULL`` the flush is nearly all a commit costs, so sharing it
is what makes durable writes cheap. If a unit fails after it has written, all are run again,
each in a savepoint of its own, so that it fails alone.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from penstock import errors
from penstock.clock import Clock
from penstock.storage.checkpoint import Checkpointer
from penstock.storage.database import Outbox, Subscriber, Tx, Unit
from penstock.storage.lock import lock_of
from penstock.storage.sql import sql
from penstock.storage.sqlite_tx import SqliteTx, translate
from penstock.telemetry import STORAGE_FULL, UNITS_PER_COMMIT, log, metrics

T = TypeVar("T")

MAX_UNITS: Final = 256  # in one commit: bounds how long the first of them waits
BUSY_TIMEOUT: Final = 30.0  # seconds another process may hold the write lock
READERS: Final = 2
_PRAGMAS: Final = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA temp_store=MEMORY",
    "PRAGMA cache_size=-65536",  # KiB
    "PRAGMA journal_size_limit=67108864",  # bytes; the log shrinks to it after a burst
    # Pages (64 MiB): a bound, for the case that the owner's checkpointer falls behind.
    "PRAGMA wal_autocheckpoint=16384",
)


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection as Penstock uses them, with transactions left to the caller."""
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT, isolation_level=None, cached_statements=512
    )
    try:
        for pragma in _PRAGMAS:
            connection.execute(pragma)
        if read_only:
            connection.execute("PRAGMA query_only=ON")
    except BaseException:
        connection.close()
        raise
    return connection


def backup(source: Path, target: Path) -> None:
    """Copy the database, consistently, while others use it; replaces `target` at the end."""
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    part.touch(mode=0o600)
    try:
        with (
            closing(sqlite3.connect(source, timeout=BUSY_TIMEOUT)) as reader,
            closing(sqlite3.connect(part)) as writer,
        ):
            reader.backup(writer)
    except BaseException as exc:
        part.unlink(missing_ok=True)
        raise translate(exc) from exc
    part.replace(target)


class SqliteDatabase:
    """See `penstock.storage.Database`.

    `owner=True` takes the lock beside the file, so that a second owner is refused with
    `DataDirInUse` if the first has not ended after `patience` seconds. A process that only hands
    in work beside the owner sets it to False.
    The tables must exist (`penstock.storage.migrate`).
    """

    dialect: Literal["sqlite"] = "sqlite"

    def __init__(
        self, path: Path | str, clock: Clock, owner: bool = True, patience: float = 0.0
    ) -> None:
        self.path = Path(path)
        self.commits = 0  # made so far; fewer than units, which share them
        self._clock = clock
        self._lock = lock_of(self.path) if owner else None
        self._patience = patience
        self._outbox = Outbox()
        self._writes = _Queue()
        self._reads = _Queue()
        self._threads: list[threading.Thread] = []
        self._checkpointer = Checkpointer(lambda: connect(self.path)) if owner else None

    async def open(self) -> None:
        """Take the lock and connect; subscribers will be called on this event loop."""
        self._outbox.loop = asyncio.get_running_loop()
        await asyncio.to_thread(self.open_sync)

    async def close(self) -> None:
        """Commit what was handed in, disconnect, give the lock back."""
        await asyncio.to_thread(self.close_sync)

    def open_sync(self) -> None:
        """`open` without an event loop: subscribers are called on the writer's thread."""
        if self._lock is not None:
            self._lock.acquire(self._patience)
        try:
            self._start("penstock-writer", self._writer, self._writes)
            for number in range(READERS):
                self._start(f"penstock-reader-{number}", self._reader, self._reads)
            if self._checkpointer is not None:
                self._checkpointer.start()
        except BaseException:
            self.close_sync()
            raise

    def close_sync(self) -> None:
        """`close` without an event loop."""
        self._writes.close(1)
        self._reads.close(READERS)
        for thread in self._threads:
            thread.join()
        if self._checkpointer is not None:
            self._checkpointer.stop()
        if self._lock is not None:
            self._lock.release()

    async def unit(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in the next commit."""
        return await self._submit(self._writes, fn)

    async def read(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` on a snapshot."""
        return await self._submit(self._reads, fn)

    def unit_sync(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in the next commit and block until it is durable."""
        if self._threads and threading.current_thread() is self._threads[0]:
            raise RuntimeError("unit_sync() inside a unit would wait for itself")
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._writes.put(Unit(fn, None, future))
        return future.result()

    def subscribe(self, callback: Subscriber) -> None:
        """Call `callback` with the notes of each commit."""
        self._outbox.subscribers.append(callback)

    async def data_version(self) -> int:
        """A number that changes when another process has committed.

        SQLite counts for a connection the commits of all others, so only the writer's own
        can tell other processes' from ours; asked between two commits it costs no flush.
        """

        def version(tx: Tx) -> int:
            row = tx.one(_DATA_VERSION)
            assert row is not None
            return int(row[0])

        return await self.unit(version)

    async def backup(self, target: Path | str) -> None:
        """Copy the database to `target` while it is in use."""
        await asyncio.to_thread(backup, self.path, Path(target))

    async def _submit(self, waiting: _Queue, fn: Callable[[Tx], T]) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        waiting.put(Unit(fn, loop, future))
        return await future

    def _start(
        self, name: str, serve: Callable[[sqlite3.Connection, _Queue], None], waiting: _Queue
    ) -> None:
        """Start a thread with a connection of its own; returns once that is there."""
        ready: concurrent.futures.Future[None] = concurrent.futures.Future()

        def main() -> None:
            try:
                connection = connect(self.path, read_only=waiting is self._reads)
            except BaseException as exc:
                ready.set_exception(translate(exc, self.path))
                return
            ready.set_result(None)
            with closing(connection):
                serve(connection, waiting)

        thread = threading.Thread(target=main, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()
        ready.result()

    def _reader(self, connection: sqlite3.Connection, waiting: _Queue) -> None:
        while batch := waiting.take(1):
            unit = batch[0]
            try:
                connection.execute("BEGIN")
                _run(unit, connection, self._clock)
                if unit.notes:
                    unit.fail(RuntimeError("notify() in a read: there is no commit to wait for"))
                connection.execute("ROLLBACK")
            except BaseException as exc:
                _roll_back(connection, batch, exc)
            self._outbox.deliver(batch)
            del batch, unit  # nothing is kept alive while there is nothing to do

    def _writer(self, connection: sqlite3.Connection, waiting: _Queue) -> None:
        while batch := waiting.take(MAX_UNITS):
            try:
                self._commit(connection, batch)
                self.commits += 1
                if self._checkpointer is not None:
                    self._checkpointer.committed()
                metrics.observe(UNITS_PER_COMMIT, len(batch))
            except BaseException as exc:
                _roll_back(connection, batch, exc)
                if any(isinstance(unit.error, errors.StorageFull) for unit in batch):
                    log(STORAGE_FULL, path=str(self.path), error=str(exc))
            self._outbox.deliver(batch)
            del batch

    def _commit(self, connection: sqlite3.Connection, batch: list[_Unit]) -> None:
        execute = connection.execute
        execute("BEGIN IMMEDIATE")
        if self._run_all(connection, batch):
            execute("COMMIT")
            return
        execute("ROLLBACK")
        if len(batch) > 1:
            execute("BEGIN IMMEDIATE")
            self._run_each(connection, batch)
            execute("COMMIT")

    def _run_all(self, connection: sqlite3.Connection, batch: list[_Unit]) -> bool:
        """Run the units; False = one failed after it had written, and with it all are undone.

        Without savepoints: for one, SQLite copies every page that is touched next, which costs
        more than a small unit's own writes, and failing after a write is rare.
        """
        for unit in batch:
            written = connection.total_changes
            _run(unit, connection, self._clock)
            if unit.error is not None:
                _raise_if_undone(unit, connection)
                if connection.total_changes != written:
                    return False
        return True

    def _run_each(self, connection: sqlite3.Connection, batch: list[_Unit]) -> None:
        """Run the units, each in a savepoint, so that each fails alone."""
        execute = connection.execute
        for unit in batch:
            unit.begin()
            execute("SAVEPOINT unit")
            _run(unit, connection, self._clock)
            if unit.error is not None:
                _raise_if_undone(unit, connection)
                execute("ROLLBACK TO unit")
            execute("RELEASE unit")


def _raise_if_undone(unit: _Unit, connection: sqlite3.Connection) -> None:
    if unit.error is not None and not connection.in_transaction:
        # Disk full, out of memory, I/O error: SQLite may undo everything.
        raise unit.error


_Unit = Unit[SqliteTx]
_DATA_VERSION: Final = sql("PRAGMA data_version")


class _Queue:
    """Units in order; refuses more once it is closed."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[_Unit | None] = queue.SimpleQueue()
        self._gate = threading.Lock()  # nothing may follow the end marks
        self._closed = False

    def put(self, unit: Unit[Any]) -> None:
        with self._gate:
            if self._closed:
                raise errors.StorageUnavailable("the database is closed")
            self._items.put(unit)

    def take(self, limit: int) -> list[_Unit]:
        """What is there, up to `limit`; waits for the first. Empty at the end."""
        taken: list[_Unit] = []
        unit = self._items.get()
        with suppress(queue.Empty):
            while unit is not None:
                taken.append(unit)
                if len(taken) == limit:
                    return taken
                unit = self._items.get_nowait()
            if taken:
                self._items.put(None)  # the end mark, met early: for the next call
        return taken

    def close(self, readers: int) -> None:
        with self._gate:
            if not self._closed:
                self._closed = True
                for _ in range(readers):
                    self._items.put(None)


def _run(unit: _Unit, connection: sqlite3.Connection, clock: Clock) -> None:
    tx = SqliteTx(connection, clock)
    try:
        unit.result = unit.fn(tx)
        if tx.failed is not None:
            raise tx.failed
        unit.notes = tx.notes
    except BaseException as exc:
        unit.fail(exc)
    finally:
        tx.end()


def _roll_back(connection: sqlite3.Connection, batch: list[_Unit], exc: BaseException) -> None:
    """Nothing of `batch` was committed: all its units fail, each with an error of its own."""
    if connection.in_transaction:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
    cause = translate(exc)
    for unit in batch:
        if unit.error is not None:
            continue
        if isinstance(cause, errors.StorageError):
            unit.fail(type(cause)(str(cause)))
        else:
            unit.fail(errors.StorageError(f"the commit was undone: {cause}"))

"""A database used beside its owner: by a program that only enqueues."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from penstock.clock import Clock
from penstock.errors import DataDirInUse, SettingsError, StorageError
from penstock.jobs.foreign import notify_in
from penstock.jobs.store import KIND
from penstock.storage import Database, Statement, Tx, sql
from penstock.work.wakeups import Wake

if TYPE_CHECKING:
    from sqlalchemy import Executable

    from penstock._beside_sqs import SqsBeside
    from penstock.settings import Settings

T = TypeVar("T")

PATIENCE = 10.0  # seconds for the owner of a new database to make its tables
_PROBE = {
    "sqlite": sql("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'jobs'"),
    "postgres": sql("SELECT 1 WHERE to_regclass('jobs') IS NOT NULL"),
}


class Beside:
    """Runs units and lets workers know by the commit itself.

    Nobody here publishes wakes: on PostgreSQL each transaction carries its own NOTIFY, on
    SQLite the owner notices the commit. Only where workers listen to SQS, it is told after the
    commit.
    """

    def __init__(
        self, database: Database, close: Callable[[], None], sqs: SqsBeside | None = None
    ) -> None:
        self._database = database
        self._close = close
        self._sqs = sqs

    def close(self) -> None:
        """Close what was opened."""
        if self._sqs is not None:
            self._sqs.close()
        self._close()

    @classmethod
    def open(cls, settings: Settings | None, clock: Clock) -> Beside:
        """Open the database that the settings name; its tables must be there.

        An SQLite database that no process owns is made if it is missing.
        """
        from penstock.settings import load_settings

        settings = settings or load_settings()
        if settings.database_url is not None:
            return _open_postgres(settings.database_url.get_secret_value(), settings, clock)
        return _open_sqlite(settings, clock)

    async def unit(self, fn: Callable[[Tx], T]) -> T:
        """Commit what `fn` wrote."""
        if self._sqs is None:
            return await self._database.unit(lambda tx: _notifying(tx, fn))
        result, wakes = await self._database.unit(lambda tx: _recording(tx, fn))
        if wakes:
            await asyncio.wrap_future(self._sqs.send(wakes))
        return result

    async def read(self, fn: Callable[[Tx], T]) -> T:
        """As of the latest commit."""
        return await self._database.read(fn)

    def unit_sync(self, fn: Callable[[Tx], T]) -> T:
        """As `unit`, from any thread."""
        if self._sqs is None:
            return self._database.unit_sync(lambda tx: _notifying(tx, fn))
        result, wakes = self._database.unit_sync(lambda tx: _recording(tx, fn))
        if wakes:
            self._sqs.send(wakes).result()
        return result


class _Recording:
    """A `Tx` that keeps the wakes for itself."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self.dialect: Literal["sqlite", "postgres"] = tx.dialect
        self.wakes: list[Wake] = []

    def now(self) -> int:
        return self._tx.now()

    def rows(self, statement: Statement | Executable, /, **params: Any) -> list[tuple[Any, ...]]:
        return self._tx.rows(statement, **params)

    def one(self, statement: Statement | Executable, /, **params: Any) -> tuple[Any, ...] | None:
        return self._tx.one(statement, **params)

    def run(self, statement: Statement | Executable, /, **params: Any) -> int:
        return self._tx.run(statement, **params)

    def many(self, statement: Statement, params: Sequence[Mapping[str, Any]]) -> None:
        self._tx.many(statement, params)

    def dicts(self, statement: Statement | Executable, /, **params: Any) -> list[dict[str, Any]]:
        return self._tx.dicts(statement, **params)

    def notify(self, note: object) -> None:
        if isinstance(note, Wake):
            self.wakes.append(note)


def _recording(tx: Tx, fn: Callable[[Tx], T]) -> tuple[T, list[Wake]]:
    recording = _Recording(tx)
    return fn(recording), recording.wakes


def _notifying(tx: Tx, fn: Callable[[Tx], T]) -> T:
    result, wakes = _recording(tx, fn)
    notify_in(tx, wakes)
    return result


def _open_sqlite(settings: Settings, clock: Clock) -> Beside:
    from penstock.storage.sqlite import SqliteDatabase

    path = settings.sqlite_path
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = SqliteDatabase(path, clock, owner=False)
    database.open_sync()
    try:
        give_up = time.monotonic() + PATIENCE
        while not database.unit_sync(_has_tables):
            if _migrate(path):
                continue
            if time.monotonic() > give_up:
                raise StorageError(f"{path} has no tables, and its owner does not make them")
            time.sleep(0.05)
    except BaseException:
        database.close_sync()
        raise
    return Beside(database, database.close_sync)


def _migrate(path: Path) -> bool:
    """Make the tables, unless another process owns the database and is about to."""
    from penstock.storage import migrate
    from penstock.storage.lock import FileLock

    lock = FileLock(path.with_name(path.name + ".lock"))
    try:
        lock.acquire()
    except DataDirInUse:
        return False
    try:
        migrate.upgrade(path)
    finally:
        lock.release()
    return True


def _open_postgres(url: str, settings: Settings, clock: Clock) -> Beside:
    from penstock.storage.postgres import PostgresDatabase

    database = PostgresDatabase(
        url, clock, threads=settings.database_threads, prepare=settings.database_prepare
    )
    database.open_sync()
    try:
        if not database.unit_sync(_has_tables):
            raise StorageError("the database has no tables of Penstock; run: penstock migrate")
        sqs = _open_sqs(database, settings) if settings.wakeups == "sqs" else None
    except BaseException:
        database.close_sync()
        raise
    return Beside(database, database.close_sync, sqs)


def _open_sqs(database: Database, settings: Settings) -> SqsBeside:
    from penstock._beside_sqs import SqsBeside

    if settings.sqs_jobs_queue_url is None:
        raise SettingsError(
            "PENSTOCK_SQS_JOBS_QUEUE_URL is missing: PENSTOCK_WAKEUPS is sqs, and this program"
            " enqueues jobs"
        )
    return SqsBeside(
        database,
        {KIND: settings.sqs_jobs_queue_url},
        region=settings.aws_region,
        endpoint_url=settings.aws_endpoint_url,
    )


def _has_tables(tx: Tx) -> bool:
    return tx.one(_PROBE[tx.dialect]) is not None

"""Jobs in a transaction of the caller's own: its connection, seen as a `Tx`.

Nothing here commits or rolls back. On PostgreSQL the wake goes out with the caller's
commit, since NOTIFY is transactional; on SQLite the owner of the database notices the
commit by itself.
"""

from __future__ import annotations

import inspect
import json
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, TypeVar

from penstock.clock import Clock
from penstock.errors import JobError
from penstock.storage import Statement, Tx, sql
from penstock.storage.sql import POSTGRES_NOW
from penstock.work.wakeups import Wake
from penstock.work.wakeups.postgres import encode

if TYPE_CHECKING:
    from sqlalchemy import Connection as CoreConnection
    from sqlalchemy import Executable, TextClause

T = TypeVar("T")
Dialect = Literal["sqlite", "postgres"]
# Runs one statement: its rows, and how many it wrote.
Execute = Callable[[Statement, dict[str, Any]], tuple[list[tuple[Any, ...]], int]]

CHANNEL = "penstock"  # where PostgresWakeups listens
_NOW = sql("SELECT {now}")
_PSYCOPG_PARAMETER = re.compile(r"%\((\w+)\)s")
_NOTIFY = sql("SELECT pg_notify(:channel, :payload)")


class ForeignTx:
    """A `Tx` over a connection that belongs to somebody else. It takes `Statement`s only."""

    def __init__(self, dialect: Dialect, execute: Execute, clock: Clock) -> None:
        self.dialect: Dialect = dialect
        self.wakes: list[Wake] = []
        self._execute = execute
        self._clock = clock
        self._now: int | None = None

    def now(self) -> int:
        """The clock on SQLite, the server's on PostgreSQL; in µs."""
        if self._now is None:
            postgres = self.dialect == "postgres"
            self._now = self.rows(_NOW)[0][0] if postgres else self._clock.now()
        return self._now

    def rows(self, statement: Statement | Executable, /, **params: Any) -> list[tuple[Any, ...]]:
        """Every row."""
        return self._run(statement, params)[0]

    def one(self, statement: Statement | Executable, /, **params: Any) -> tuple[Any, ...] | None:
        """The first row, or None."""
        rows = self._run(statement, params)[0]
        return rows[0] if rows else None

    def run(self, statement: Statement | Executable, /, **params: Any) -> int:
        """How many rows were written."""
        return self._run(statement, params)[1]

    def many(self, statement: Statement, params: Sequence[Mapping[str, Any]]) -> None:
        """The statement once for each mapping."""
        for each in params:
            self._run(statement, dict(each))

    def dicts(self, statement: Statement | Executable, /, **params: Any) -> list[dict[str, Any]]:
        """Not available on a connection of the caller's own."""
        raise NotImplementedError("rows by name are not available here")

    def notify(self, note: object) -> None:
        """Keep wakes for the end of the enqueue; nobody else subscribes here."""
        if isinstance(note, Wake):
            self.wakes.append(note)

    def _run(
        self, statement: Statement | Executable, params: dict[str, Any]
    ) -> tuple[list[tuple[Any, ...]], int]:
        assert isinstance(statement, Statement)
        if self.dialect == "sqlite":
            if statement.uses_now:
                params["now"] = self.now()
            for name in statement.lists:
                params[name] = json.dumps(list(params[name]))
        return self._execute(statement, params)


@contextmanager
def foreign_tx(connection: Any, clock: Clock) -> Iterator[Tx]:
    """The caller's connection as a `Tx`; wakes follow the caller's commit."""
    tx = _open(connection, clock)
    try:
        yield tx
        notify_in(tx, tx.wakes)
    except Exception as exc:
        if _no_tables(exc):
            raise JobError(
                "this connection's database has no tables of Penstock; enqueue_in needs the"
                " database that the worker uses"
            ) from exc
        raise


def notify_in(tx: Tx, wakes: Sequence[Wake]) -> None:
    """Let the wakes be published by the transaction's commit (PostgreSQL)."""
    if tx.dialect != "postgres" or not wakes:
        return
    delays: dict[tuple[str, str], float] = {}
    for wake in wakes:
        key = (wake.kind, wake.lane)
        delays[key] = min(wake.delay, delays.get(key, wake.delay))
    for payload in encode(delays):
        tx.rows(_NOTIFY, channel=CHANNEL, payload=payload)


def _open(connection: Any, clock: Clock) -> ForeignTx:
    if isinstance(connection, sqlite3.Connection):
        return ForeignTx("sqlite", _sqlite3(connection), clock)
    if _is_core(connection):
        return _core(connection, clock)
    psycopg = sys.modules.get("psycopg")
    if psycopg is not None and isinstance(connection, psycopg.Connection):
        return ForeignTx("postgres", _psycopg(connection), clock)
    # A SQLAlchemy Session or scoped_session, by its method: importing the ORM to ask takes
    # longer than everything else here.
    method = getattr(connection, "connection", None)
    if callable(method) and not inspect.iscoroutinefunction(method):
        own = method()
        if _is_core(own):
            return _core(own, clock)
    name = f"{type(connection).__module__}.{type(connection).__qualname__}"
    hint = (
        "; from an AsyncSession or AsyncConnection: await session.run_sync(job.enqueue_in, …)"
        if "Async" in name
        else ""
    )
    raise JobError(
        f"enqueue_in takes a SQLAlchemy Connection or Session, or a psycopg or sqlite3"
        f" connection, not {name}{hint}"
    )


def _is_core(connection: Any) -> TypeGuard[CoreConnection]:
    # Whoever has one of SQLAlchemy's has imported it.
    sqlalchemy = sys.modules.get("sqlalchemy")
    return sqlalchemy is not None and isinstance(connection, sqlalchemy.Connection)


def _sqlite3(connection: sqlite3.Connection) -> Execute:
    def execute(statement: Statement, params: dict[str, Any]) -> tuple[list[tuple[Any, ...]], int]:
        cursor = connection.cursor()
        cursor.row_factory = None  # the caller's may not give tuples
        try:
            cursor.execute(statement.sqlite, params)
            return cursor.fetchall(), cursor.rowcount
        finally:
            cursor.close()

    return execute


def _psycopg(connection: Any) -> Execute:
    from psycopg.rows import tuple_row

    def execute(statement: Statement, params: dict[str, Any]) -> tuple[list[tuple[Any, ...]], int]:
        with connection.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(statement.postgres(POSTGRES_NOW), params)
            return (cursor.fetchall() if cursor.description else []), cursor.rowcount

    return execute


def _core(connection: CoreConnection, clock: Clock) -> ForeignTx:
    names: dict[str, Dialect] = {"sqlite": "sqlite", "postgresql": "postgres"}
    dialect = names.get(connection.dialect.name)
    if dialect is None:
        raise JobError(
            f"enqueue_in needs the database that the worker uses: SQLite or PostgreSQL, not"
            f" {connection.dialect.name}"
        )

    def execute(statement: Statement, params: dict[str, Any]) -> tuple[list[tuple[Any, ...]], int]:
        result = connection.execute(_text(statement, dialect), params)
        rows = [tuple(row) for row in result] if result.returns_rows else []
        return rows, result.rowcount

    return ForeignTx(dialect, execute, clock)


_texts: dict[tuple[Statement, Dialect], TextClause] = {}


def _text(statement: Statement, dialect: Dialect) -> TextClause:
    """The statement for any driver of SQLAlchemy's. Statements live as long as the process."""
    from sqlalchemy import text

    key = (statement, dialect)
    if key not in _texts:
        written = statement.sqlite
        if dialect == "postgres":
            written = statement.postgres(POSTGRES_NOW).decode()
            written = _PSYCOPG_PARAMETER.sub(r":\1", written).replace("%%", "%")
        _texts[key] = text(written)
    return _texts[key]


def _no_tables(exc: Exception) -> bool:
    origin = getattr(exc, "orig", None) or exc  # SQLAlchemy wraps what the driver raised
    if isinstance(origin, sqlite3.OperationalError):
        return "no such table" in str(origin)
    return getattr(origin, "sqlstate", None) == "42P01"  # undefined_table

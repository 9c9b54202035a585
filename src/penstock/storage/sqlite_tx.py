"""A transaction of SQLite as units see it, and its errors as the rest of Penstock knows them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from penstock import errors
from penstock.clock import Clock
from penstock.storage.database import Notes
from penstock.storage.sql import Statement, compile_core

if TYPE_CHECKING:
    from sqlalchemy import Executable

_REFUSED = (sqlite3.Error, UnicodeEncodeError, OverflowError)


class SqliteTx:
    """See `penstock.storage.Tx`. Valid inside its unit only."""

    __slots__ = ("_clock", "_connection", "_now", "failed", "notes")

    dialect: Literal["sqlite"] = "sqlite"

    def __init__(self, connection: sqlite3.Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._now: int | None = None
        self.notes: Notes = []
        self.failed: BaseException | None = None

    def now(self) -> int:
        """The clock when the unit first asked, in µs."""
        if self._now is None:
            self._now = self._clock.now()
        return self._now

    def rows(self, statement: Statement | Executable, /, **params: Any) -> list[tuple[Any, ...]]:
        """Every row."""
        try:
            return self._execute(statement, params).fetchall()
        except _REFUSED as exc:
            raise self._failed(exc) from exc

    def one(self, statement: Statement | Executable, /, **params: Any) -> tuple[Any, ...] | None:
        """The first row, or None."""
        try:
            row: tuple[Any, ...] | None = self._execute(statement, params).fetchone()
        except _REFUSED as exc:
            raise self._failed(exc) from exc
        return row

    def run(self, statement: Statement | Executable, /, **params: Any) -> int:
        """How many rows were written."""
        try:
            cursor = self._execute(statement, params)
            if cursor.description is not None:  # RETURNING counts as it is read
                cursor.fetchall()
            if cursor.rowcount >= 0:
                return cursor.rowcount
            # sqlite3 does not count for a statement that starts with WITH.
            count: int = self._connection.execute("SELECT changes()").fetchone()[0]
        except _REFUSED as exc:
            raise self._failed(exc) from exc
        return count

    def many(self, statement: Statement, params: Sequence[Mapping[str, Any]]) -> None:
        """The statement once for each mapping."""
        try:
            self._connection.executemany(
                statement.sqlite, [self._bind(statement, dict(each)) for each in params]
            )
        except _REFUSED as exc:
            raise self._failed(exc) from exc

    def dicts(self, statement: Statement | Executable, /, **params: Any) -> list[dict[str, Any]]:
        """Every row by column name."""
        try:
            cursor = self._execute(statement, params)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]
        except _REFUSED as exc:
            raise self._failed(exc) from exc

    def notify(self, note: object) -> None:
        """Hand `note` to the subscribers after the commit."""
        self.notes.append(note)

    def end(self) -> None:
        """Using it after its unit must fail, not slip into another's."""
        del self._connection
        self.failed = None  # an exception's frames refer back to here

    def _execute(self, statement: Statement | Executable, params: dict[str, Any]) -> sqlite3.Cursor:
        if isinstance(statement, Statement):
            if statement.uses_now or statement.lists:
                self._bind(statement, params)
            return self._connection.execute(statement.sqlite, params)
        return self._connection.execute(*compile_core(statement, "sqlite", params))

    def _bind(self, statement: Statement, params: dict[str, Any]) -> dict[str, Any]:
        if statement.uses_now:
            params["now"] = self.now()
        for name in statement.lists:
            params[name] = json.dumps(list(params[name]))
        return params

    def _failed(self, exc: BaseException) -> BaseException:
        self.failed = translate(exc)
        return self.failed


def translate(exc: BaseException, path: Path | None = None) -> BaseException:
    """The error as the rest of Penstock knows it; mistakes in SQL stay what they are."""
    if isinstance(exc, (UnicodeEncodeError, OverflowError)):
        return errors.BadData(f"the database cannot hold the value: {exc}")
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF  # the primary code
    kind = _KINDS.get(code)
    if kind is None:
        return exc
    return kind(f"{exc}: {path}" if path else str(exc))


_KINDS: Final[Mapping[int, type[errors.StorageError]]] = {
    sqlite3.SQLITE_FULL: errors.StorageFull,
    sqlite3.SQLITE_TOOBIG: errors.BadData,
    sqlite3.SQLITE_MISMATCH: errors.BadData,
    sqlite3.SQLITE_CONSTRAINT: errors.ConstraintViolated,
    **dict.fromkeys(
        (
            sqlite3.SQLITE_BUSY,
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_CORRUPT,
            sqlite3.SQLITE_IOERR,
            sqlite3.SQLITE_LOCKED,
            sqlite3.SQLITE_NOMEM,
            sqlite3.SQLITE_NOTADB,
            sqlite3.SQLITE_PERM,
            sqlite3.SQLITE_PROTOCOL,
            sqlite3.SQLITE_READONLY,
        ),
        errors.StorageUnavailable,
    ),
}

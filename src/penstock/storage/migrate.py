"""The schema's way forward and back, by Alembic, for both databases.

Every call is one transaction, also on SQLite: a migration that fails leaves the schema as
it was. Two processes that migrate at once go one after the other, by an advisory lock on
PostgreSQL and by the write lock on SQLite. These functions block; they need no event loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, NullPool, create_engine, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from penstock import errors
from penstock.storage import sqlite_tx

_SCRIPTS: Final = Path(__file__).parent / "migrations"
_LOCK: Final = 0x70656E73746F636B  # "penstock"


def upgrade(target: str | Path, revision: str = "head") -> None:
    """Bring the database at `target`, a URL or an SQLite file, up to `revision`."""
    with _connected(target) as connection:
        _refuse_newer(connection)
        command.upgrade(_config(connection), revision)
        _check_references(connection)


def downgrade(target: str | Path, revision: str = "base") -> None:
    """Take the database back to `revision`; "base" removes every table."""
    with _connected(target) as connection:
        _refuse_newer(connection)
        command.downgrade(_config(connection), revision)
        _check_references(connection)


def current(target: str | Path) -> str | None:
    """The database's revision; None = it has no tables yet. `SchemaNewer` if unknown here."""
    url = _url(target)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        return None  # and do not make the file by looking
    with _connected(url) as connection:
        return _refuse_newer(connection)


def head() -> str:
    """The revision this version of Penstock works with."""
    revision = _scripts(_SCRIPTS).get_current_head()
    assert revision is not None
    return revision


def _config(connection: Connection | None = None) -> Config:
    config = Config(attributes={"connection": connection})
    # A configparser option: % must be doubled.
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


@cache
def _scripts(folder: Path) -> ScriptDirectory:
    """The migrations, read once: each start asks for them several times."""
    return ScriptDirectory(str(folder))


def _refuse_newer(connection: Connection) -> str | None:
    revision = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in _scripts(_SCRIPTS).walk_revisions()}
    if revision is not None and revision not in known:
        raise errors.SchemaNewer(
            f"the database is at schema {revision}, which this version of Penstock (schema"
            f" {head()}) does not know; run the version that wrote it, or a newer one"
        )
    return revision


def _url(target: str | Path | URL) -> URL:
    if isinstance(target, URL):
        return target
    if isinstance(target, Path) or "://" not in target:
        return URL.create("sqlite", database=str(target))
    url = make_url(target.replace("postgres://", "postgresql://", 1))
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


@contextmanager
def _connected(target: str | Path | URL) -> Iterator[Connection]:
    url = _url(target)
    sqlite = url.get_backend_name() == "sqlite"
    try:
        engine = create_engine(
            url, poolclass=NullPool, connect_args={"timeout": 30} if sqlite else {}
        )
    except ModuleNotFoundError as exc:
        raise errors.SettingsError(
            "PENSTOCK_DATABASE_URL needs psycopg: pip install 'penstock[postgres]'"
        ) from exc
    if sqlite:
        _begin_for_real(engine)
    try:
        with engine.begin() as connection:
            if not sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            yield connection
    except DBAPIError as exc:
        cause = _translate(exc.orig, url) if exc.orig is not None else None
        if not isinstance(cause, errors.StorageError):
            raise  # a mistake of a migration's own
        raise cause from exc
    finally:
        engine.dispose()


def _translate(exc: BaseException, url: URL) -> BaseException:
    """The driver's error as the rest of Penstock knows it."""
    if url.get_backend_name() == "sqlite":
        return sqlite_tx.translate(exc, Path(url.database or ""))
    from penstock.storage import postgres

    return postgres.translate(exc)


def _begin_for_real(engine: Engine) -> None:
    """Let SQLite's DDL be part of the transaction, which the driver alone would not."""

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        # Rebuilding a table must not cascade; checked before the commit instead.
        connection.execute("PRAGMA foreign_keys=OFF")
        # Of a new file. Every page that a commit touches goes to the log whole, and an accept
        # touches some fifteen, each for a short row: half the usual size is a third less to write.
        connection.execute("PRAGMA page_size=2048")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _check_references(connection: Connection) -> None:
    if connection.dialect.name != "sqlite":
        return
    orphans = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchmany(3)
    if orphans:
        raise errors.StorageError(f"the migration would leave rows without their parent: {orphans}")

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy import create_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from penstock import Penstock, errors
from penstock.settings import load_settings
from penstock.work.wakeups import Wake
from penstock.work.wakeups.postgres import decode

app = Penstock()


@app.job
async def resize(image_id: int, width: int = 800) -> None: ...


# What a caller may have in hand: enter it to get the connection, and it commits at the end,
# or rolls back if an error passes.
Opened = Callable[[], Any]


@contextmanager
def _sqlite3(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection, connection:
        yield connection


@contextmanager
def _sqlite3_rows(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.row_factory = lambda cursor, row: {"never": "a tuple"}
        yield connection


@contextmanager
def _psycopg(url: str) -> Iterator[Any]:
    with psycopg.connect(url) as connection:
        yield connection


@contextmanager
def _psycopg_dicts(url: str) -> Iterator[Any]:
    with psycopg.connect(url, row_factory=dict_row) as connection:  # type: ignore[arg-type]
        yield connection


@contextmanager
def _core(url: str) -> Iterator[Any]:
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def _session(url: str) -> Iterator[Any]:
    engine = create_engine(url)
    try:
        with Session(engine) as session, session.begin():
            yield session
    finally:
        engine.dispose()


@contextmanager
def _scoped(url: str) -> Iterator[Any]:
    engine = create_engine(url)
    scoped = scoped_session(sessionmaker(engine))
    try:
        with scoped.begin():
            yield scoped
    finally:
        scoped.remove()
        engine.dispose()


SQLITE = {"sqlite3": _sqlite3, "sqlite3-rows": _sqlite3_rows}
POSTGRES = {"psycopg": _psycopg, "psycopg-dicts": _psycopg_dicts}
SQLALCHEMY = {"core": _core, "session": _session, "scoped": _scoped}


@pytest.fixture(params=[*SQLITE, *(f"sqlite-{name}" for name in SQLALCHEMY)])
def sqlite_caller(request: pytest.FixtureRequest, sqlite_path: Path) -> Opened:
    name = request.param
    if name in SQLITE:
        return lambda: SQLITE[name](sqlite_path)
    return lambda: SQLALCHEMY[name.removeprefix("sqlite-")](f"sqlite:///{sqlite_path}")


@pytest.fixture(params=[*POSTGRES, *(f"postgres-{name}" for name in SQLALCHEMY)])
def postgres_caller(request: pytest.FixtureRequest, postgres_database_url: str) -> Opened:
    name = request.param
    if name in POSTGRES:
        return lambda: POSTGRES[name](postgres_database_url)
    url = postgres_database_url.replace("postgresql://", "postgresql+psycopg://")
    return lambda: SQLALCHEMY[name.removeprefix("postgres-")](url)


def check(caller: Opened, stored: Callable[[], list[tuple[Any, ...]]]) -> None:
    with caller() as connection:
        handle = resize.enqueue_in(connection, 42, width=400)
        assert stored() == []  # nobody sees it before the commit
    assert stored() == [(handle.id, '{"image_id":42,"width":400}', None, 0, None)]

    with suppress(RuntimeError), caller() as connection:
        resize.enqueue_in(connection, 43)
        app.enqueue_many_in(connection, [resize.call(44), resize.call(45)])
        raise RuntimeError
    assert len(stored()) == 1

    with caller() as connection:
        first = resize.enqueue_in(connection, 46, key="k", delay="10m")
        second = resize.options(key="k").enqueue_in(connection, 47)
    assert (first.existing, second.existing, second.id) == (False, True, first.id)
    with caller() as connection:
        assert resize.enqueue_in(connection, 48, key="k").existing
        many = app.enqueue_many_in(connection, [resize.call(49), resize.options(key="m").call(50)])
    assert [row[3] for row in stored()] == [0, 600_000_000, 0, 0]
    assert [row[2] for row in stored()] == [None, "k", None, "m"]
    assert [row[0] for row in stored()][2:] == [h.id for h in many]


STORED = "SELECT id, args, key, due_at - created_at, lease_until FROM jobs ORDER BY id"


def test_sqlite(sqlite_caller: Opened, sqlite_path: Path) -> None:
    def stored() -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(sqlite_path)) as connection:
            return connection.execute(STORED).fetchall()

    check(sqlite_caller, stored)


@pytest.mark.postgres
def test_postgres(postgres_caller: Opened, postgres_database_url: str) -> None:
    def stored() -> list[tuple[Any, ...]]:
        with psycopg.connect(postgres_database_url) as connection:
            return connection.execute(STORED).fetchall()

    check(postgres_caller, stored)


@pytest.mark.postgres
def test_the_commit_carries_the_wake(postgres_caller: Opened, postgres_database_url: str) -> None:
    with psycopg.connect(postgres_database_url, autocommit=True) as listener:
        listener.execute("LISTEN penstock")
        with suppress(RuntimeError), postgres_caller() as connection:
            resize.enqueue_in(connection, 1)
            raise RuntimeError
        with postgres_caller() as connection:
            app.enqueue_many_in(
                connection,
                [resize.call(2), resize.call(3), resize.options(delay=5, lane="a").call(4)],
            )
        (heard,) = listener.notifies(timeout=60, stop_after=1)
        assert decode(heard.payload) == [
            Wake("job", "job:default:resize"),
            Wake("job", "job:default:resize:a", 5.0),
        ]
        assert list(listener.notifies(timeout=0.05)) == []


@pytest.mark.postgres
def test_a_program_beside_the_workers_wakes_them_by_its_commit(postgres_database_url: str) -> None:
    client = Penstock(load_settings(database_url=postgres_database_url))
    job = client.job(name="job")(lambda: None)
    with psycopg.connect(postgres_database_url, autocommit=True) as listener:
        listener.execute("LISTEN penstock")
        handle = job.enqueue_sync()
        (heard,) = listener.notifies(timeout=60, stop_after=1)
        assert decode(heard.payload) == [Wake("job", "job:default:job")]
    assert handle.status_sync() == "pending"
    client.close_sync()


@pytest.mark.postgres
def test_a_postgres_database_without_tables_is_named(new_postgres: Callable[[], str]) -> None:
    url = new_postgres()
    client = Penstock(load_settings(database_url=url))
    job = client.job(name="job")(lambda: None)

    with pytest.raises(errors.StorageError, match="penstock migrate"):
        job.enqueue_sync()
    with psycopg.connect(url) as connection, pytest.raises(errors.JobError, match="no tables"):
        resize.enqueue_in(connection, 1)


def test_a_sqlite_database_without_tables_is_named() -> None:
    with (
        closing(sqlite3.connect(":memory:")) as connection,
        pytest.raises(errors.JobError, match="no tables"),
    ):
        resize.enqueue_in(connection, 1)


@pytest.mark.postgres
@pytest.mark.anyio
async def test_asynchronous_connections_get_a_hint(postgres_database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(postgres_database_url) as connection:
        with pytest.raises(errors.JobError, match="run_sync"):
            resize.enqueue_in(connection, 1)


def test_anything_else_is_refused() -> None:
    with pytest.raises(errors.JobError, match=r"not builtins\.str"):
        resize.enqueue_in("postgresql://", 1)


def test_arguments_are_checked_first() -> None:
    with pytest.raises(errors.BadArguments, match="image_id"):
        resize.enqueue_in(None, "x")  # type: ignore[call-overload]

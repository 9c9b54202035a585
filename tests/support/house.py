"""Processes that share PostgreSQL and wake each other by SQS; and time that passes for both."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from support.process import Process, Up
from support.receiver import Received, Receiver, Reply
from support.sqs_queue import Mischief
from support.sqs_server import ENVIRONMENT, REGION, SqsServer, running

QUEUES = ("events", "tracking", "predictions", "jobs")
_WORK = ("deliveries", "shipments", "jobs", "predictions", "model_versions")
_LANE = ("open_at", "served_at", "woken_at", "tokens_at", "window_start_at", "override_until")


def queue_settings(
    server: SqsServer, *, receives: int, visibility: int, queues: tuple[str, ...] = QUEUES
) -> dict[str, str]:
    """Make the services' queues, each with its dead letters; the settings that name them."""
    return {
        f"PENSTOCK_SQS_{name.upper()}_QUEUE_URL": server.sync(
            lambda name=name: server.create(  # type: ignore[misc]
                name, dlq=f"{name}-dead", receives=receives, VisibilityTimeout=visibility
            )
        )
        for name in queues
    }


def counts(server: SqsServer, name: str) -> tuple[int, int, int]:
    """Visible, in flight, delayed; counted where the server runs, which is at work on them."""
    return server.sync(lambda: server.queue(name).counts())


def dead_letters(server: SqsServer, queues: tuple[str, ...] = QUEUES) -> int:
    """How many messages SQS has put aside."""
    return server.sync(lambda: sum(sum(server.queue(f"{name}-dead").counts()) for name in queues))


def moving(server: SqsServer, queues: tuple[str, ...] = QUEUES) -> int:
    """How many messages can be received now, or are held."""
    return server.sync(lambda: sum(sum(server.queue(name).counts()[:2]) for name in queues))


def pass_time(server: SqsServer, url: str, seconds: float) -> None:
    """Let time pass for the queues, and for what the database owes and keeps closed.

    Its own clock cannot be moved from outside, so everything that it is compared with is: what is
    due, and what lanes know of instants. Leases stay, as whoever holds one would have renewed it.
    """
    gone = int(seconds * 1_000_000)
    shifted = ", ".join(f"{column} = {column} - {gone}" for column in _LANE)
    statements = [f"UPDATE lanes SET {shifted}"]
    statements += [
        f"UPDATE {table} SET due_at = due_at - {gone} WHERE due_at IS NOT NULL" for table in _WORK
    ]
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            while True:
                try:
                    connection.execute(statement.encode())
                    break
                except psycopg.errors.DeadlockDetected:  # workers lock the same rows, in order
                    continue
    server.sync(lambda: server.advance(seconds))


@contextmanager
def database_down(url: str) -> Iterator[None]:
    """Nobody is connected to the database, nor can be."""
    name = url.partition("?")[0].rpartition("/")[2]
    with psycopg.connect(url.replace(f"/{name}", "/postgres"), autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        try:
            _end_all(admin, name)
            yield
        finally:
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())


# Who is connecting holds a lock on the database before it asks whether it may, and is seen in
# pg_stat_activity only later.
_CONNECTED = """
SELECT pid FROM pg_stat_activity WHERE datname = %(name)s
UNION
SELECT pid FROM pg_locks JOIN pg_database ON pg_database.oid = objid
WHERE locktype = 'object' AND classid = 'pg_database'::regclass AND datname = %(name)s
"""


def _end_all(admin: psycopg.Connection[Any], name: str) -> None:
    """End the connections to the database; on return there is none."""
    deadline = time.monotonic() + 60
    while found := admin.execute(_CONNECTED, {"name": name}).fetchall():
        assert time.monotonic() < deadline, found
        for (pid,) in found:
            admin.execute("SELECT pg_terminate_backend(%s)", (pid,))
        time.sleep(0.005)


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for it."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"nothing within {seconds:g} s"
        await asyncio.sleep(0.02)


_DUES = b"""
CREATE TABLE dues (event_id text, due_at bigint);
CREATE FUNCTION note_due() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO dues VALUES (NEW.event_id, NEW.due_at);
  RETURN NULL;
END $$;
CREATE TRIGGER note_due AFTER UPDATE ON deliveries FOR EACH ROW
  WHEN (NEW.due_at IS NOT NULL AND NEW.due_at IS DISTINCT FROM OLD.due_at)
  EXECUTE FUNCTION note_due();
"""


def note_dues(url: str) -> None:
    """Have the database keep when each retry was due."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_DUES)


def refusing(receiver: Receiver, path: str, *, retries: int) -> str:
    """A URL at which so many pushes of each event are refused, and the next is taken."""

    def answer(received: Received) -> Reply:
        return Reply(500 if len(receiver.by_id(path)[received.id]) <= retries else 200)

    return receiver.script(path, answer)


def late(url: str, receiver: Receiver, path: str, event_id: str) -> list[float]:
    """How many seconds after they were due the retries of an event came, which has ended."""
    wall = time.time() - time.monotonic()
    with psycopg.connect(url, autocommit=True) as connection:
        dues = connection.execute(
            "SELECT due_at FROM dues WHERE event_id = %s ORDER BY due_at", (event_id,)
        ).fetchall()
    pushes = receiver.by_id(path)[event_id][1:]
    assert len(pushes) == len(dues)
    return [push.at + wall - due / 1e6 for push, (due,) in zip(pushes, dues, strict=True)]


class House:
    """A database, queues, and the processes on both."""

    def __init__(
        self, server: SqsServer, url: str, start: Callable[..., Process], folder: Path
    ) -> None:
        self.sqs = server
        self.database = url
        self._start = start
        self._folder = folder
        self._names = itertools.count()
        self.env = {
            **ENVIRONMENT,
            "PENSTOCK_DATABASE_URL": url,
            "PENSTOCK_SECRET_KEY": "s" * 32,
            "PENSTOCK_OBJECTS": str(folder / "objects"),
            "PENSTOCK_PREDICTION_PROCESSES": "1",
            "PENSTOCK_WAKEUPS": "sqs",
            "PENSTOCK_AWS_REGION": REGION,
            "PENSTOCK_AWS_ENDPOINT_URL": server.url,
            "PENSTOCK_SWEEP_INTERVAL": "1s",
            "PENSTOCK_ALLOW_PRIVATE_TARGETS": "127.0.0.0/8",  # workers allow none by themselves
            **queue_settings(server, receives=3, visibility=30),
        }

    def up(self, *arguments: str, **env: str) -> Up:
        folder = self._folder / f"up{next(self._names)}"
        made = self._start(Up, folder, *arguments, env=self.env | env)
        assert isinstance(made, Up)
        return made

    def worker(self, *arguments: str, **env: str) -> Process:
        folder = self._folder / f"worker{next(self._names)}"
        made = self._start(Process, "worker", *arguments, data=folder, env=self.env | env)
        made.wait_logged("worker_ready")
        return made

    def mischief(self, mischief: Mischief) -> None:
        """What the queues do with messages from now on."""
        for name in QUEUES:
            self.sqs.queue(name).mischief = mischief

    @property
    def lost(self) -> int:
        """How many messages the queues have lost so far."""
        return sum(self.sqs.queue(name).lost for name in QUEUES)

    def a_minute_passes(self) -> None:
        """For wakes that are on their way: after a minute they are taken for lost."""
        self.rows("UPDATE lanes SET woken_at = woken_at - 61000000 WHERE woken_at > served_at")

    def pass_time(self, seconds: float) -> None:
        pass_time(self.sqs, self.database, seconds)

    def dead_letters(self) -> int:
        return dead_letters(self.sqs)

    def owed(self) -> int:
        """Deliveries that are not settled for good."""
        ((found,),) = self.rows(
            "SELECT count(*) FROM deliveries WHERE due_at IS NOT NULL OR lease_until IS NOT NULL"
        )
        return int(found)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database, autocommit=True) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def house(
    new_postgres: Callable[[], str], start: Callable[..., Process], tmp_path: Path
) -> Iterator[House]:
    with running(seed=7) as server:
        yield House(server, new_postgres(), start, tmp_path)

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

from support.looptime import lost_time
from support.process import Process, Up
from support.receiver import Receiver
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


# A look now and then would miss what is due soon, where the machine is busy.
_KEEP_DUES = """
CREATE TABLE test_dues AS SELECT due_at FROM deliveries;
CREATE FUNCTION test_keep_due() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO test_dues VALUES (new.due_at);
  RETURN NULL;
END $$;
CREATE TRIGGER test_keep_due AFTER INSERT OR UPDATE ON deliveries
  FOR EACH ROW EXECUTE FUNCTION test_keep_due();
"""


async def late(url: str, receiver: Receiver, path: str, *, retries: int) -> list[float]:
    """How many seconds after they were due the retries came to this path; of one delivery.

    Time that this process was kept from taking them does not count.
    """
    async with (
        lost_time() as lost,
        await psycopg.AsyncConnection.connect(url, autocommit=True) as connection,
    ):
        await connection.execute(_KEEP_DUES)
        await receiver.arrived(path, retries + 1)
        await asyncio.sleep(0.05)  # for what was lost last to be seen
        found = await connection.execute("SELECT DISTINCT due_at FROM test_dues ORDER BY due_at")
        dues = [due for (due,) in await found.fetchall() if due is not None]
    wall = time.time() - time.monotonic()
    pushes = receiver.at(path)[1:]
    # The first may have been seen before its claim: the latest are those of the retries.
    whens = [due / 1e6 - wall for due in dues[-retries:]]
    assert len(pushes) == len(whens) == retries
    waits = [(push.at, due) for push, due in zip(pushes, whens, strict=True)]
    return [at - due - lost.between(due, at) for at, due in waits]


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

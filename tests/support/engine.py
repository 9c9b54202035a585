"""The deliveries of events by real workers, against answers made up by the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.clock import SystemClock
from penstock.events import endpoints, sign
from penstock.events.accept import Accepted, Acceptor, NewEvent
from penstock.events.fanout import fanout_kind
from penstock.events.http import Failure, Response
from penstock.events.policy import Policy
from penstock.events.push import delivery_kind
from penstock.events.replays import replay_kind
from penstock.secretbox import SecretBox
from penstock.storage import Database
from penstock.storage.postgres import PostgresDatabase
from penstock.storage.sqlite import SqliteDatabase
from penstock.work.kinds import AnyKind
from penstock.work.schedule import Scheduler, sweeper
from penstock.work.waker import Waker
from penstock.work.wakeups import Wakeups
from penstock.work.wakeups.local import LocalWakeups
from penstock.work.wakeups.postgres import PostgresWakeups
from penstock.work.worker import Worker
from support.destinations import webhook

BOX = SecretBox(["a key for the tests"])
OK = Response(200, {}, b"", None, 0.0)
# Transient, and no trouble of the peer's: it opens no circuit.
LATER = Response(429, {}, b"", None, 0.0)
NEVER = Response(404, {}, b"", None, 0.0)
Answer = Response | Failure
# (what was sent, as JSON): the answer.
Answers = Callable[[bytes], Awaitable[Answer]]


@dataclass
class Engine:
    """Events on a database that workers of this process work off, in real time."""

    database: Database  # the first worker's
    answers: Answers
    where: Path | str
    lease: float = 60.0
    slots: int = 32
    expiry: float = 432_000.0
    acceptor: Acceptor = field(init=False)
    workers: list[Worker] = field(default_factory=list)
    kinds: list[AnyKind] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.acceptor = Acceptor(self.expiry)

    async def _send(
        self, url: str, body: bytes, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        return await self.answers(body)

    @asynccontextmanager
    async def working(self, workers: int = 1) -> AsyncIterator[None]:
        """Work until the end of the block. On PostgreSQL each worker has its own connections."""
        clock = SystemClock()
        async with AsyncExitStack() as stack:
            for number in range(workers):
                database, wakeups = self.database, LocalWakeups()
                if isinstance(self.where, str):
                    if number:
                        database = PostgresDatabase(self.where, clock)
                        await database.open()
                        stack.push_async_callback(database.close)
                    wakeups = PostgresWakeups(self.where)
                await self._start(stack, database, wakeups, clock)
            yield

    async def _start(
        self, stack: AsyncExitStack, database: Database, wakeups: Wakeups, clock: SystemClock
    ) -> None:
        await wakeups.open()
        stack.push_async_callback(wakeups.close)
        waker = Waker(database, wakeups)
        stack.push_async_callback(waker.close)
        self.kinds = [
            delivery_kind(
                clock=clock,
                box=BOX,
                destinations=webhook(self._send, clock),
                policy=Policy(expiry=self.expiry),
                slots=self.slots,
                lease=self.lease,
            ),
            fanout_kind(self.expiry, lease=self.lease),
            replay_kind(
                database=database,
                clock=clock,
                acceptor=self.acceptor,
                expiry=self.expiry,
                lease=self.lease,
            ),
        ]
        worker = Worker(database, wakeups, waker, self.kinds, clock=clock, grace=5.0)
        database.subscribe(waker.on_notes)
        sweep = sweeper(database, waker, self.kinds, every=0.5, held=worker.held)
        scheduler = asyncio.create_task(Scheduler(database, clock, [sweep]).run())
        stack.push_async_callback(_cancelled, scheduler)
        running = asyncio.create_task(worker.run())
        self.workers.append(worker)
        stack.push_async_callback(_ended, running)
        stack.callback(worker.stop)

    async def endpoint(self, **fields: Any) -> str:
        """Add an endpoint; its schedule is quick unless told otherwise."""
        defaults: dict[str, Any] = {
            "kind": "webhook",
            "target": "https://example.com/hook",
            "description": "",
            "event_types": ["*"],
            "timeout": 7.0,
            "schedule": [0.003] * 50,
            "on_permanent": "dead",
            "rate_limit": None,
            "max_in_flight": 32,
            "headers": None,
            "secret": BOX.seal(sign.generate_secret()),
        }
        return await self.database.unit(
            lambda tx: endpoints.create(tx, "default", **(defaults | fields))
        )

    async def accept(self, *events: NewEvent) -> list[str]:
        """Store the events in one transaction; their ids."""
        outcomes = await self.database.unit(lambda tx: self.acceptor.accept(tx, "default", events))
        assert all(isinstance(outcome, Accepted) for outcome in outcomes)
        return [outcome.event_id for outcome in outcomes if isinstance(outcome, Accepted)]


@asynccontextmanager
async def engine(where: Path | str, answers: Answers, **options: Any) -> AsyncIterator[Engine]:
    """An engine on a migrated database: a file, or a PostgreSQL server's URL."""
    clock = SystemClock()
    database: Database
    if isinstance(where, Path):
        database = SqliteDatabase(where, clock)
    else:
        database = PostgresDatabase(where, clock)
    await database.open()
    try:
        yield Engine(database, answers, where, **options)
    finally:
        await database.close()


async def until(
    condition: Callable[[], Awaitable[bool] | bool], seconds: float = 60.0, every: float = 0.02
) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(seconds):
        while True:
            held = condition()
            if held if isinstance(held, bool) else await held:
                return
            await asyncio.sleep(every)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _ended(task: asyncio.Task[Any]) -> None:
    await task

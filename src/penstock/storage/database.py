"""The database port: transactions as plain functions, and what both databases share.

A unit of work is a function of a `Tx` that never awaits and has no effect but through it:
it may run more than once (PostgreSQL repeats it after a deadlock), and on SQLite it shares
its commit with others. A statement that fails fails the unit, caught or not.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from penstock.storage.sql import Statement

if TYPE_CHECKING:
    from sqlalchemy import Executable

T = TypeVar("T")
R = TypeVar("R")
Notes = list[object]
Subscriber = Callable[[Notes], None]
_log = logging.getLogger(__name__)


class Tx(Protocol):
    """A transaction. Booleans read from SQLite are 0 and 1; all other values agree."""

    @property
    def dialect(self) -> Literal["sqlite", "postgres"]:
        """Which database this is."""
        ...

    def now(self) -> int:
        """The unit's instant, in µs: this clock's on SQLite, the server's on PostgreSQL."""
        ...

    def rows(self, statement: Statement | Executable, /, **params: Any) -> list[tuple[Any, ...]]:
        """Every row."""
        ...

    def one(self, statement: Statement | Executable, /, **params: Any) -> tuple[Any, ...] | None:
        """The first row, or None."""
        ...

    def run(self, statement: Statement | Executable, /, **params: Any) -> int:
        """How many rows were written."""
        ...

    def many(self, statement: Statement, params: Sequence[Mapping[str, Any]]) -> None:
        """The statement once for each mapping."""
        ...

    def dicts(self, statement: Statement | Executable, /, **params: Any) -> list[dict[str, Any]]:
        """Every row by column name."""
        ...

    def notify(self, note: object) -> None:
        """Hand `note` to the database's subscribers once this unit is committed."""
        ...


class Database(Protocol):
    """A database that runs units. Methods may be called from any thread once it is open."""

    @property
    def dialect(self) -> Literal["sqlite", "postgres"]:
        """Which database this is."""
        ...

    async def open(self) -> None:
        """Connect; subscribers will be called on this event loop."""
        ...

    async def close(self) -> None:
        """Finish what was given, then disconnect."""
        ...

    async def unit(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in a write transaction and return its result once that is durable.

        An exception undoes the writes of this `fn` only and is raised here. A unit whose
        awaiter is cancelled is still carried out.
        """
        ...

    async def read(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` on one snapshot of the latest committed state; it cannot write."""
        ...

    def unit_sync(self, fn: Callable[[Tx], T]) -> T:
        """`unit` for callers without an event loop; blocks. Never call it inside a unit."""
        ...

    def subscribe(self, callback: Subscriber) -> None:
        """Call `callback` with the notes of each commit, before its awaiters resume.

        It is called on the event loop that opened the database, or on the committing
        thread where there is none.
        """
        ...


class Unit(Generic[R]):
    """A unit on its way: who waits for it, and what came of it. `R` is the kind of Tx."""

    __slots__ = ("error", "fn", "future", "loop", "notes", "result")

    def __init__(
        self,
        fn: Callable[[R], Any],
        loop: asyncio.AbstractEventLoop | None,
        future: asyncio.Future[Any] | concurrent.futures.Future[Any],
    ) -> None:
        self.fn = fn
        self.loop = loop
        self.future = future
        self.result: Any = None
        self.error: BaseException | None = None
        self.notes: Notes = []

    def begin(self) -> None:
        """Forget an earlier run."""
        self.result = None
        self.error = None
        self.notes = []

    def fail(self, error: BaseException) -> None:
        """Not committed, whatever `fn` had returned."""
        # A future refuses StopIteration.
        self.error = RuntimeError("StopIteration") if isinstance(error, StopIteration) else error
        self.result = None
        self.notes = []

    def resolve(self) -> None:
        """Wake who waits, on their event loop (or anywhere if they block a thread)."""
        if self.future.done():  # cancelled
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)
            self.error = None  # an exception that knows its own frame is a cycle


class Outbox:
    """Brings what was committed back to the event loops: notes first, then results."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.subscribers: list[Subscriber] = []

    def deliver(self, units: Iterable[Unit[Any]]) -> None:
        """Called on the committing thread; one wake-up for each event loop concerned."""
        notes: Notes = []
        groups: dict[asyncio.AbstractEventLoop | None, list[Unit[Any]]] = {self.loop: []}
        for unit in units:
            notes += unit.notes
            groups.setdefault(unit.loop, []).append(unit)
        # The subscribers' loop comes first, so no awaiter anywhere overtakes its notes' start.
        for loop, group in groups.items():
            mine = notes if loop is self.loop else []
            if loop is None:
                self._finish(mine, group)
            elif mine or group:
                with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(self._finish, mine, group)

    def _finish(self, notes: Notes, units: Sequence[Unit[Any]]) -> None:
        if notes:
            for subscriber in self.subscribers:
                try:
                    subscriber(notes)
                except Exception:
                    # What was committed stays committed, and the others still hear of it.
                    _log.exception("a database subscriber failed")
        for unit in units:
            unit.resolve()

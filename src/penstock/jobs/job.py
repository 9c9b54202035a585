"""A job: a function of the user's that can be enqueued."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Generic, ParamSpec, Protocol, TypedDict, TypeVar, overload

from penstock import durations
from penstock.clock import Clock, from_datetime
from penstock.errors import BadArguments, JobError
from penstock.ids import new_id
from penstock.jobs import store
from penstock.jobs.arguments import Arguments
from penstock.jobs.context import running
from penstock.jobs.foreign import foreign_tx
from penstock.jobs.handle import JobHandle, Source
from penstock.jobs.options import Duration, JobOptions, checked_lane
from penstock.jobs.store import NewJob
from penstock.storage import Tx

P = ParamSpec("P")
R = TypeVar("R")

RESERVED = ("delay", "key", "lane", "at")


class Host(Source, Protocol):
    """Where a job's rows go: the app."""

    @property
    def account(self) -> str:
        """The account of jobs that are not enqueued by a job of another one."""
        ...

    @property
    def clock(self) -> Clock:
        """Gives the time to connections of the caller's own that have none (SQLite)."""
        ...


class Enqueue(TypedDict, total=False):
    """How one call is enqueued; see `Job.options`."""

    delay: Duration
    at: datetime
    key: str
    lane: str
    account: str


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """A call whose arguments were checked, ready to be enqueued."""

    job: Job[Any, R]
    new: NewJob

    def handle(self, job_id: str) -> JobHandle[R]:
        """The handle of the row that the call became, or that was there for its key."""
        return JobHandle(
            job_id,
            self.job.host,
            self.job.arguments.result,
            existing=job_id != self.new.id,
        )


class Job(Generic[P, R]):
    """A function that can be enqueued; calling it runs it here and now.

    `enqueue`, `enqueue_sync` and `enqueue_in` take the function's own arguments and, beside
    them, `delay`, `at`, `key` and `lane`. Type checkers check the arguments where none of
    the four is given; with them write `job.options(key=…).enqueue(…)` to have both checked.
    """

    def __init__(
        self,
        function: Callable[P, Any],
        options: JobOptions,
        host: Host,
        arguments: Arguments,
    ) -> None:
        taken = [name for name in arguments.names if name in RESERVED]
        if taken:
            raise JobError(
                f"{options.name}: a job's parameter cannot be called {', '.join(taken)}:"
                f" enqueue(…) takes {', '.join(RESERVED)} for itself; rename it"
            )
        if options.process and "<locals>" in function.__qualname__:
            raise JobError(
                f"{options.name}: process=True needs a function at the top of its module, where"
                " a child process can import it"
            )
        functools.update_wrapper(self, function)
        self.function = function
        self.settings = options
        self.host = host
        self.arguments = arguments
        self.is_async = inspect.iscoroutinefunction(function)

    def __repr__(self) -> str:
        return f"<job {self.name}>"

    @property
    def name(self) -> str:
        """The name under which its rows are stored."""
        return self.settings.name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Run the function here and now, as if it were no job."""
        return self.function(*args, **kwargs)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """The call as a value, for `enqueue_many`. Raises BadArguments."""
        return self._call(args, kwargs, {})

    def options(
        self,
        *,
        delay: Duration | None = None,
        at: datetime | None = None,
        key: str | None = None,
        lane: str | None = None,
        account: str | None = None,
    ) -> Prepared[P, R]:
        """How the next call is enqueued.

        `delay` from now, or not before `at` (aware). `key`: while a job of this name with
        this key is pending, enqueueing answers that one. `lane`: `concurrency` counts
        within each lane, so one lane's backlog does not hold up another's.
        """
        given: Any = {"delay": delay, "at": at, "key": key, "lane": lane, "account": account}
        how: Any = {name: value for name, value in given.items() if value is not None}
        return Prepared(self, how)

    # With any of the reserved four present no checker can tell them from the function's own
    # keyword arguments (PEP 612), hence one overload that requires each.
    @overload
    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]: ...
    @overload
    async def enqueue(self, *args: Any, delay: Duration | None, **kwargs: Any) -> JobHandle[R]: ...
    @overload
    async def enqueue(self, *args: Any, key: str | None, **kwargs: Any) -> JobHandle[R]: ...
    @overload
    async def enqueue(self, *args: Any, lane: str | None, **kwargs: Any) -> JobHandle[R]: ...
    @overload
    async def enqueue(self, *args: Any, at: datetime | None, **kwargs: Any) -> JobHandle[R]: ...
    async def enqueue(self, *args: Any, **kwargs: Any) -> JobHandle[R]:
        """Store the call; it runs in a worker. Durable once this returns."""
        return await self._split(kwargs).enqueue(*args, **kwargs)

    @overload
    def enqueue_sync(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]: ...
    @overload
    def enqueue_sync(self, *args: Any, delay: Duration | None, **kwargs: Any) -> JobHandle[R]: ...
    @overload
    def enqueue_sync(self, *args: Any, key: str | None, **kwargs: Any) -> JobHandle[R]: ...
    @overload
    def enqueue_sync(self, *args: Any, lane: str | None, **kwargs: Any) -> JobHandle[R]: ...
    @overload
    def enqueue_sync(self, *args: Any, at: datetime | None, **kwargs: Any) -> JobHandle[R]: ...
    def enqueue_sync(self, *args: Any, **kwargs: Any) -> JobHandle[R]:
        """As `enqueue`, from code without an event loop; it waits for the commit."""
        return self._split(kwargs).enqueue_sync(*args, **kwargs)

    @overload
    def enqueue_in(self, connection: Any, /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]: ...
    @overload
    def enqueue_in(
        self, connection: Any, /, *args: Any, delay: Duration | None, **kwargs: Any
    ) -> JobHandle[R]: ...
    @overload
    def enqueue_in(
        self, connection: Any, /, *args: Any, key: str | None, **kwargs: Any
    ) -> JobHandle[R]: ...
    @overload
    def enqueue_in(
        self, connection: Any, /, *args: Any, lane: str | None, **kwargs: Any
    ) -> JobHandle[R]: ...
    @overload
    def enqueue_in(
        self, connection: Any, /, *args: Any, at: datetime | None, **kwargs: Any
    ) -> JobHandle[R]: ...
    def enqueue_in(self, connection: Any, /, *args: Any, **kwargs: Any) -> JobHandle[R]:
        """Store the call in the caller's own transaction, on the same database.

        It is enqueued if that transaction commits, and never if it rolls back. `connection`
        is a SQLAlchemy Connection or Session, or a psycopg or sqlite3 connection; from an
        AsyncSession: ``await session.run_sync(resize.enqueue_in, 42)``.
        """
        return self._split(kwargs).enqueue_in(connection, *args, **kwargs)

    async def enqueue_many(
        self, calls: Iterable[Call[R] | tuple[Any, ...] | Mapping[str, Any]]
    ) -> list[JobHandle[R]]:
        """Store many calls in one transaction: all of them or none.

        Each is `job.call(…)`, a tuple of positional or a mapping of keyword arguments.
        """
        return await enqueue_many(self.host, [self._as_call(call) for call in calls])

    def enqueue_many_sync(
        self, calls: Iterable[Call[R] | tuple[Any, ...] | Mapping[str, Any]]
    ) -> list[JobHandle[R]]:
        """As `enqueue_many`, without an event loop."""
        return enqueue_many_sync(self.host, [self._as_call(call) for call in calls])

    def _as_call(self, call: Call[R] | tuple[Any, ...] | Mapping[str, Any]) -> Call[R]:
        if isinstance(call, Call):
            return call
        if isinstance(call, Mapping):
            return self._call((), dict(call), {})
        if isinstance(call, tuple):
            return self._call(call, {}, {})
        raise BadArguments(
            f"{self.name}: enqueue_many takes calls, tuples or mappings of arguments, not"
            f" {type(call).__name__}"
        )

    def _split(self, kwargs: dict[str, Any]) -> Prepared[..., R]:
        """Take the reserved four out of `kwargs`."""
        given: Any = {
            name: value for name in RESERVED if (value := kwargs.pop(name, None)) is not None
        }
        return Prepared(self, given)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any], how: Enqueue) -> Call[R]:
        encoded = self.arguments.dump(args, kwargs)
        account = how.get("account")
        if account is None:
            # What a job enqueues belongs to the account that the job belongs to.
            context = running.get()
            account = self.host.account if context is None else context.account
        lane = how.get("lane", self.settings.lane)
        new = NewJob(
            new_id("job"),
            account,
            self.name,
            encoded,
            store.lane_id(account, self.name, None if lane is None else checked_lane(lane)),
            self.settings.concurrency,
        )
        if not how:
            return Call(self, new)
        key = how.get("key")
        if key is not None and not 0 < len(key) <= 200:
            raise BadArguments(f"{self.name}: key={key!r}: 1 to 200 characters")
        return Call(self, replace(new, key=key, **_when(self.name, how)))


class Prepared(Generic[P, R]):
    """A job with the options of its next call; see `Job.options`."""

    __slots__ = ("_how", "_job")

    def __init__(self, job: Job[P, R], how: Enqueue) -> None:
        self._job = job
        self._how = how

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """The call as a value, for `enqueue_many`."""
        return self._job._call(args, kwargs, self._how)

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """As `Job.enqueue`."""
        call = self._job._call(args, kwargs, self._how)
        units = await self._job.host.ready()
        ids = await units.unit(functools.partial(_insert, [call]))
        return call.handle(ids[0])

    def enqueue_sync(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """As `Job.enqueue_sync`."""
        call = self._job._call(args, kwargs, self._how)
        return call.handle(self._job.host.units.unit_sync(functools.partial(_insert, [call]))[0])

    def enqueue_in(self, connection: Any, /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """As `Job.enqueue_in`."""
        call = self._job._call(args, kwargs, self._how)
        with foreign_tx(connection, self._job.host.clock) as tx:
            return call.handle(_insert([call], tx)[0])


async def enqueue_many(host: Host, calls: Iterable[Call[R]]) -> list[JobHandle[R]]:
    """Store calls of any jobs in one transaction: all of them or none."""
    listed = list(calls)
    if not listed:
        return []
    units = await host.ready()
    ids = await units.unit(functools.partial(_insert, listed))
    return [call.handle(id_) for call, id_ in zip(listed, ids, strict=True)]


def enqueue_many_sync(host: Host, calls: Iterable[Call[R]]) -> list[JobHandle[R]]:
    """As `enqueue_many`, without an event loop."""
    listed = list(calls)
    if not listed:
        return []
    ids = host.units.unit_sync(functools.partial(_insert, listed))
    return [call.handle(id_) for call, id_ in zip(listed, ids, strict=True)]


def enqueue_many_in(host: Host, connection: Any, calls: Iterable[Call[R]]) -> list[JobHandle[R]]:
    """As `enqueue_many`, in the caller's own transaction."""
    listed = list(calls)
    with foreign_tx(connection, host.clock) as tx:
        ids = _insert(listed, tx)
    return [call.handle(id_) for call, id_ in zip(listed, ids, strict=True)]


def _insert(calls: list[Call[Any]], tx: Tx) -> list[str]:
    return store.insert(tx, [call.new for call in calls])


def _when(name: str, how: Enqueue) -> dict[str, Any]:
    delay, at = how.get("delay"), how.get("at")
    if delay is not None and at is not None:
        raise BadArguments(f"{name}: give delay= or at=, not both")
    try:
        if at is not None:
            return {"at": from_datetime(at)}
        return {"delay": durations.seconds(delay)} if delay is not None else {}
    except (ValueError, TypeError) as exc:
        raise BadArguments(f"{name}: {exc}") from None

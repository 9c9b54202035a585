"""What an enqueue answers: the job's id, and ways to ask after it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar, cast

from pydantic import ValidationError
from pydantic_core import SchemaValidator

from penstock.errors import PenstockError
from penstock.jobs import store
from penstock.jobs.store import JobState, Status
from penstock.storage import Tx

R = TypeVar("R", covariant=True)
T = TypeVar("T")

_POLL_FIRST, _POLL_CAP = 0.01, 1.0  # seconds


class JobFailed(PenstockError):
    """The job failed for good."""


class JobCancelled(PenstockError):
    """The job was cancelled."""


class Units(Protocol):
    """Runs functions of a transaction, with and without an event loop."""

    async def unit(self, fn: Callable[[Tx], T]) -> T:
        """Commit what `fn` wrote."""
        ...

    async def read(self, fn: Callable[[Tx], T]) -> T:
        """As of the latest commit."""
        ...

    def unit_sync(self, fn: Callable[[Tx], T]) -> T:
        """As `unit`, from any thread."""
        ...


class Source(Protocol):
    """Has a database, which may still have to be opened."""

    @property
    def units(self) -> Units:
        """The database, opened if need be."""
        ...

    async def ready(self) -> Units:
        """The same, opened without holding up the event loop."""
        ...


class JobHandle(Generic[R]):
    """One enqueued job.

    `existing` is True if a job with the same key was pending already and nothing new was
    enqueued.
    """

    __slots__ = ("_result", "_source", "existing", "id")

    def __init__(
        self,
        job_id: str,
        source: Source,
        result: SchemaValidator | None = None,
        *,
        existing: bool = False,
    ) -> None:
        self.id = job_id
        self.existing = existing
        # Not opened before it is asked: a handle may be made inside a transaction of the
        # caller's own, which on SQLite would keep it from opening.
        self._source = source
        self._result = result

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r}, existing={self.existing})"

    async def status(self) -> Status:
        """`pending`, `running`, `succeeded`, `dead` or `cancelled`; NotFound once removed."""
        return (await (await self._source.ready()).read(self._state)).status

    def status_sync(self) -> Status:
        """As `status`, without an event loop."""
        return self._source.units.unit_sync(self._state).status

    async def cancel(self) -> bool:
        """Never run the job (again); False if it had ended.

        A function that runs right now is not interrupted, but its result is discarded.
        """
        units = await self._source.ready()
        return await units.unit(lambda tx: store.cancel(tx, self.id))

    def cancel_sync(self) -> bool:
        """As `cancel`, without an event loop."""
        return self._source.units.unit_sync(lambda tx: store.cancel(tx, self.id))

    async def result(self, timeout: float | None = None) -> R:  # noqa: ASYNC109 - it polls
        """What the function returned, as its return annotation says; waits for the end.

        Raises JobFailed with the last error, JobCancelled, or TimeoutError after `timeout`
        seconds.
        """
        units = await self._source.ready()
        for pause in _pauses(timeout):
            state = await units.read(self._state)
            if state.status not in ("pending", "running"):
                return self._returned(state)
            await asyncio.sleep(pause)
        raise TimeoutError(f"job {self.id} has not ended within {timeout:g} s")

    def result_sync(self, timeout: float | None = None) -> R:
        """As `result`, without an event loop."""
        for pause in _pauses(timeout):
            state = self._source.units.unit_sync(self._state)
            if state.status not in ("pending", "running"):
                return self._returned(state)
            time.sleep(pause)
        raise TimeoutError(f"job {self.id} has not ended within {timeout:g} s")

    def _state(self, tx: Tx) -> JobState:
        return store.state(tx, self.id)

    def _returned(self, state: JobState) -> R:
        if state.status == "cancelled":
            raise JobCancelled(f"job {self.id} was cancelled")
        if state.status == "dead":
            raise JobFailed(f"job {self.id} failed: {state.last_error or 'no reason kept'}")
        if state.result is None:
            return cast(R, None)
        if self._result is not None:
            try:
                return cast(R, self._result.validate_json(state.result))
            except ValidationError:
                pass  # the function returned something else than it was annotated with
        return cast(R, json.loads(state.result))


def _pauses(timeout: float | None) -> Iterator[float]:
    """Seconds to wait between looks: short at first, and once more right at the deadline."""
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = _POLL_FIRST
    while True:
        if deadline is None:
            yield pause
        else:
            left = deadline - time.monotonic()
            yield max(0.0, min(pause, left))
            if left <= 0:
                return
        pause = min(_POLL_CAP, pause * 1.5)

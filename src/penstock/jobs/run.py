"""Running jobs: the handler behind the kind "job"."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from penstock.errors import BadArguments
from penstock.jobs import child, store
from penstock.jobs.arguments import dump_result
from penstock.jobs.context import JobContext, running
from penstock.jobs.job import Job
from penstock.jobs.processes import START, WAIT, ProcessDied, Processes
from penstock.jobs.store import JobRow
from penstock.jobs.threads import NoRoom, Threads
from penstock.storage import Tx
from penstock.telemetry import (
    JOB_DEAD,
    JOB_DURATION,
    JOB_RESULT_DROPPED,
    JOB_RETRIED,
    JOB_SUCCEEDED,
    log,
    metrics,
)
from penstock.work.kinds import Claim, Kind, Task
from penstock.work.outcomes import Dead, Done, Outcome, Postpone, Retry

UNKNOWN_AGAIN = 60.0  # seconds until a job that this worker does not know is looked at again
NO_ROOM_AGAIN = 5.0
_MARGIN = 5.0  # seconds by which the engine's own timeout comes after ours
_OUTCOMES = (Done, Retry, Postpone, Dead)


class JobTimeout(TimeoutError):
    """The job ran longer than its timeout."""


@dataclass(frozen=True, slots=True)
class _Fault:
    """Why a job did not succeed; `retry` is its own error table's verdict."""

    error: str
    retry: bool
    cause: BaseException | None = None
    traceback: str = ""


class JobRunner:
    """Runs the jobs of `jobs`: coroutines here, functions in threads or processes.

    `slots` jobs at once, of which `processes` (default: one for each core) in processes;
    `environment` is added to theirs. One event loop; close it when the worker has stopped.
    """

    def __init__(
        self,
        jobs: Mapping[str, Job[..., Any]],
        *,
        slots: int = 16,
        processes: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.jobs = jobs
        self.slots = slots
        self._threads = Threads(slots)
        self._processes = Processes(processes or os.cpu_count() or 1, environment)

    async def close(self) -> None:
        """End idle threads and all processes."""
        self._threads.close()
        await self._processes.close()

    def timeout_of(self, row: JobRow) -> float | None:
        """When the engine steps in, in case that this handler did not: after our own timeout."""
        job = self.jobs.get(row.name)
        if job is None:
            return None
        waiting = WAIT + START if job.settings.process else 0.0
        return job.settings.timeout + waiting + _MARGIN

    async def handle(self, task: Task[JobRow]) -> Outcome:
        """Run one job; never raises but when it is cancelled."""
        row = task.data
        job = self.jobs.get(row.name)
        if job is None:
            # Perhaps a newer version enqueued it, and its workers are about to start.
            reason = f"this worker has no job named {row.name!r}; another may have"
            return Postpone(UNKNOWN_AGAIN, reason)
        attempt = task.claim.attempts + 1
        deadline = time.monotonic() + job.settings.timeout
        context = JobContext(row.id, row.name, row.account, attempt, deadline)
        began = time.perf_counter()
        try:
            found = await self._call(job, context, row.args)
        except NoRoom as exc:
            return Postpone(NO_ROOM_AGAIN, str(exc))
        except asyncio.CancelledError as exc:
            if _cancelled_from_outside():
                raise
            found = _fault(job, exc)  # something within the job was cancelled
        except (Exception, SystemExit, KeyboardInterrupt) as exc:
            found = _fault(job, exc)
        seconds = time.perf_counter() - began
        metrics.observe(JOB_DURATION, seconds, job=job.name)
        return self._outcome(job, context, found, seconds)

    async def _call(self, job: Job[..., Any], context: JobContext, args: str) -> Any:
        """What the function returned, or a _Fault, or what it raised."""
        limit = job.settings.timeout
        try:
            if job.settings.process:
                try:
                    reply = await self._processes.run(job, context, args, limit)
                except TimeoutError:
                    raise JobTimeout from None
                return _reply(reply, context)
            try:
                positional, keywords = job.arguments.load(args)
            except BadArguments as exc:
                # Enqueued by another version of the code: the next worker may understand.
                return _Fault(f"the stored arguments do not fit: {exc}", retry=True)
            token = running.set(context)
            try:
                async with asyncio.timeout(limit) as deadline:
                    if job.is_async:
                        return await job.function(*positional, **keywords)
                    inside = contextvars.copy_context()
                    return await self._threads.run(
                        functools.partial(inside.run, job.function, *positional, **keywords)
                    )
            except TimeoutError:
                if deadline.expired():
                    raise JobTimeout from None
                raise
            finally:
                running.reset(token)
        except JobTimeout:
            left = (
                ""
                if job.is_async or job.settings.process
                else "; its thread runs on, it cannot be stopped"
            )
            return _Fault(f"timed out after {limit:g} s{left}", retry=True)

    def _outcome(
        self, job: Job[..., Any], context: JobContext, found: Any, seconds: float
    ) -> Outcome:
        if isinstance(found, _Fault):
            return _failed(job, context, found, Retry(), seconds)
        if isinstance(found, Retry):
            fault = _Fault(found.reason or "the job asked to be retried", retry=True)
            return _failed(job, context, fault, found, seconds)
        if isinstance(found, Dead):
            fault = _Fault(found.reason, retry=False)
            return _failed(job, context, fault, Retry(apply=found.apply), seconds)
        if isinstance(found, Postpone):
            return found
        log(
            JOB_SUCCEEDED,
            job_id=context.id,
            job=job.name,
            attempt=context.attempt,
            seconds=round(seconds, 3),
        )
        if isinstance(found, Done):
            return found
        result = found.text if isinstance(found, _Encoded) else _encoded(context, found)
        if result is None:
            return Done()
        return Done(apply=functools.partial(_set_result, context.id, result))


def job_kind(runner: JobRunner, *, lease: float = 60.0) -> Kind[JobRow]:
    """The kind "job" for the engine; `lease` in seconds."""
    return Kind(
        name=store.KIND,
        table="jobs",
        load=_load,
        handle=runner.handle,
        done="succeeded",
        dead="dead",
        terminal=frozenset({"succeeded", "dead", "cancelled"}),
        lease=lease,
        timeout=UNKNOWN_AGAIN,  # for rows without a job here, which take no time at all
        timeout_of=runner.timeout_of,
        slots=runner.slots,
        ended="finished_at",
    )


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A result that a child process made JSON of."""

    text: str | None


def _reply(reply: dict[str, Any], context: JobContext) -> Any:
    if "error" in reply:
        return _Fault(reply["error"], reply["retry"], traceback=reply["traceback"])
    if "outcome" in reply:
        return child.decode(reply)
    if "dropped" in reply:
        log(JOB_RESULT_DROPPED, job_id=context.id, job=context.name, error=reply["dropped"])
    return _Encoded(reply["result"])


def _encoded(context: JobContext, value: object) -> str | None:
    # What succeeded must not be repeated for the sake of its result: that is dropped.
    try:
        return dump_result(value)
    except ValueError as exc:
        log(JOB_RESULT_DROPPED, job_id=context.id, job=context.name, error=str(exc))
        return None


def _fault(job: Job[..., Any], exc: BaseException) -> _Fault:
    if isinstance(exc, ProcessDied):
        return _Fault(str(exc), retry=True)
    return _Fault(f"{type(exc).__name__}: {exc}", job.settings.retryable(exc), exc)


def _failed(
    job: Job[..., Any], context: JobContext, fault: _Fault, asked: Retry, seconds: float
) -> Outcome:
    """Retry while the job has attempts left and its error allows it, else dead.

    `asked` is what the job itself returned, if it did.
    """
    fields: dict[str, Any] = {
        "job_id": context.id,
        "job": job.name,
        "attempt": context.attempt,
        "seconds": round(seconds, 3),
        "error": fault.error + ("\n" + fault.traceback if fault.traceback else ""),
    }
    wait: float | None = None
    if fault.retry and context.attempt < job.settings.attempts:
        wait = job.settings.backoff(context.attempt) if asked.after is None else asked.after
    if wait is not None:
        log(JOB_RETRIED, exc_info=fault.cause, retry_in=round(wait, 3), **fields)
        return replace(asked, after=wait, reason=fault.error)
    log(JOB_DEAD, exc_info=fault.cause, **fields)
    gave_up = fault.retry and context.attempt > 1
    reason = f"gave up after {context.attempt} attempts: {fault.error}" if gave_up else fault.error
    return Dead(reason, asked.apply, asked.health, asked.pause)


def _cancelled_from_outside() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _load(tx: Tx, claims: Sequence[Claim]) -> Mapping[str, JobRow]:
    return store.load(tx, [claim.id for claim in claims])


def _set_result(job_id: str, result: str, tx: Tx) -> None:
    store.set_result(tx, job_id, result)

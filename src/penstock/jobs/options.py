"""What a job is declared with, checked once."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from penstock import durations
from penstock.errors import JobError
from penstock.work.backoff import Backoff, exponential, jittered

Duration = str | float | timedelta
Errors = type[Exception] | tuple[type[Exception], ...]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_LANE = re.compile(r"[!-~]{1,200}")  # visible ASCII: it becomes part of an identifier
# A job of its own process keeps a whole core busy, a thread or coroutine mostly waits.
DEFAULT_CONCURRENCY = 16


@dataclass(frozen=True, slots=True)
class JobOptions:
    """How a job runs. Durations are seconds.

    `attempts` is the first try and all retries. `backoff` says how long to wait after the
    n-th failed attempt. An error of `dead_on` ends the job at once; with `retry_on` every
    error that is not of it does.
    """

    name: str
    attempts: int = 8
    timeout: float = 300.0
    concurrency: int = DEFAULT_CONCURRENCY
    process: bool = False
    lane: str | None = None
    backoff: Backoff = field(default_factory=exponential)
    retry_on: tuple[type[Exception], ...] | None = None
    dead_on: tuple[type[Exception], ...] = ()

    def retryable(self, error: BaseException) -> bool:
        """Whether a job that raised `error` should be tried again."""
        if isinstance(error, self.dead_on):
            return False
        return self.retry_on is None or isinstance(error, (*self.retry_on, TimeoutError))


def job_options(
    name: str,
    *,
    retries: int,
    timeout: Duration,
    concurrency: int | None,
    process: bool,
    lane: str | None,
    backoff: Backoff | Sequence[Duration] | None,
    retry_on: Errors | None,
    dead_on: Errors,
) -> JobOptions:
    """The options as a value. Raises JobError that names the one which cannot be."""
    if not _NAME.fullmatch(name):
        raise JobError(
            f"{name!r} cannot name a job: 1 to 100 of letters, digits, dot, underscore and"
            " hyphen; give another with name="
        )
    if retries < 0:
        raise JobError(f"{name}: retries={retries}: it must be 0 or more")
    if concurrency is None:
        concurrency = (os.cpu_count() or 1) if process else DEFAULT_CONCURRENCY
    if concurrency < 1:
        raise JobError(f"{name}: concurrency={concurrency}: it must be 1 or more")
    try:
        limit = durations.seconds(timeout)
        wait = _backoff(backoff, retries + 1)
    except ValueError as exc:
        raise JobError(f"{name}: {exc}") from None
    if limit <= 0:
        raise JobError(f"{name}: timeout={timeout!r}: it must be more than nothing")
    return JobOptions(
        name=name,
        attempts=retries + 1,
        timeout=limit,
        concurrency=concurrency,
        process=process,
        lane=None if lane is None else checked_lane(lane),
        backoff=wait,
        retry_on=None if retry_on is None else _types(retry_on),
        dead_on=_types(dead_on),
    )


def checked_lane(lane: str) -> str:
    """The lane as given. Raises JobError if it cannot be part of an identifier."""
    if not _LANE.fullmatch(lane):
        raise JobError(f"lane={lane!r}: 1 to 200 visible ASCII characters, no spaces")
    return lane


def _backoff(given: Backoff | Sequence[Duration] | None, attempts: int) -> Backoff:
    if given is None:
        return exponential(attempts=attempts)
    if callable(given):
        return given
    gaps = [durations.seconds(gap) for gap in ([given] if isinstance(given, str) else given)]
    if not gaps:
        raise ValueError("backoff: an empty list; give at least one duration")
    # The last gap holds for all later attempts.
    return lambda n: jittered(gaps[min(n, len(gaps)) - 1])


def _types(errors: Errors) -> tuple[type[Exception], ...]:
    return errors if isinstance(errors, tuple) else (errors,)

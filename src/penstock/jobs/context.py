"""Which job is running here: a context variable, also set in threads and pool children."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JobContext:
    """The job that is running.

    `attempt` counts from 1. `deadline` is the reading of `time.monotonic()` at which the
    job is stopped for taking too long.
    """

    id: str
    name: str
    account: str
    attempt: int
    deadline: float

    @property
    def remaining(self) -> float:
        """Seconds left until the deadline; negative once it has passed."""
        return self.deadline - time.monotonic()


running: ContextVar[JobContext | None] = ContextVar("penstock_job", default=None)


def current_job() -> JobContext | None:
    """The job that this code runs in; None outside of one."""
    return running.get()

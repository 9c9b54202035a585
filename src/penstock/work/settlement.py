"""From what a handler said to what is written: a pure function, so that it can be tested whole."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from penstock.clock import SECOND
from penstock.work.kinds import AnyKind, Claim
from penstock.work.outcomes import Apply, Dead, Done, Health, Outcome, Postpone, Retry

ERROR_LIMIT = 2000  # characters of an error that are kept
LONGEST_DELAY = 100 * 365 * 86_400.0  # seconds; instants beyond would not fit their column


@dataclass(frozen=True, slots=True)
class Settlement:
    """What one settled row becomes. `status` None = it stays as it is; `delay_us` None = not
    owed again, unless somebody asked for it meanwhile."""

    claim: Claim
    result: Literal["done", "retry", "postpone", "dead"]
    status: str | None
    delay_us: int | None
    attempts: int
    error: str | None
    apply: Apply | None = None
    health: Health | None = None
    pause: float | None = None


def decide(kind: AnyKind, claim: Claim, outcome: Outcome, now_us: int) -> Settlement:
    """What `outcome` means for the row. `now_us` is read only for a Postpone to an instant."""
    result: Literal["done", "retry", "postpone", "dead"] = "done"
    status: str | None = None
    delay: float | None = None
    attempts = claim.attempts + 1
    error: str | None = None
    match outcome:
        case Done(again=None):
            status = kind.done
        case Done(again=again):
            delay, attempts = again, 0
        case Postpone(until=until, reason=reason):
            result = "postpone"
            delay, attempts, error = _seconds_until(until, now_us), claim.attempts, reason
        case Dead(reason=reason):
            result, status, error = "dead", kind.dead, reason
        case Retry(after=after, reason=reason):
            result, error = "retry", reason
            delay = kind.backoff(attempts) if after is None else after
            if delay is None or (kind.max_attempts is not None and attempts >= kind.max_attempts):
                result, status, delay = "dead", kind.dead, None
                error = f"gave up after {attempts} attempts: {reason}"
    return Settlement(
        claim,
        result,
        status,
        None if delay is None else int(max(0.0, min(delay, LONGEST_DELAY)) * SECOND),
        attempts,
        None if error is None else clean(error),
        outcome.apply,
        outcome.health,
        outcome.pause,
    )


def clean(text: str) -> str:
    """Text as both databases can hold it: no NUL, no lone surrogate, not endless."""
    encodable = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return encodable.replace("\x00", "\\x00")[:ERROR_LIMIT]


def _seconds_until(until: datetime | float, now_us: int) -> float:
    if isinstance(until, datetime):
        return until.timestamp() - now_us / SECOND
    return until

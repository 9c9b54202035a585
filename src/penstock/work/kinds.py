"""What the engine must know of one kind of work: its table, its handler, its numbers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from penstock.storage import Tx
from penstock.work import circuit
from penstock.work.backoff import Backoff, exponential
from penstock.work.outcomes import Outcome, Retry

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Claim:
    """A row that is held: the handler works under it, the settlement is fenced by it."""

    kind: str
    id: str
    lane: str
    generation: int
    attempts: int  # settled attempts that counted, before this one
    lapses: int
    circuit: int  # the lane's circuit generation at claim


@dataclass(frozen=True, slots=True)
class Task(Generic[T]):
    """What a handler is given."""

    claim: Claim
    data: T
    timeout: float  # seconds; the engine cancels the handler then


def _retry(exc: BaseException) -> Outcome:
    return Retry(reason=f"{type(exc).__name__}: {exc}")


def _nothing(tx: Tx, claim: Claim, status: str, reason: str) -> None:
    return None


def _no_locks(tx: Tx, claims: Sequence[Claim]) -> None:
    return None


@dataclass(frozen=True, slots=True, eq=False)  # by identity: statements are cached by kind
class Kind(Generic[T]):
    """One kind of work. All durations are seconds."""

    name: str
    table: str
    # Rows' contents by id, read in the claiming transaction. A claimed row that is missing
    # from the answer is settled as dead: what it belonged to is gone.
    load: Callable[[Tx, Sequence[Claim]], Mapping[str, T]]
    handle: Callable[[Task[T]], Awaitable[Outcome]]
    done: str = "done"
    dead: str = "dead"
    terminal: frozenset[str] = frozenset({"done", "dead", "cancelled"})
    # A column that keeps when the row became `done` or `dead`; None = the table has none.
    ended: str | None = None
    lease: float = 60.0
    timeout: float = 60.0
    # A row may set its own hard timeout; the default is the kind's.
    timeout_of: Callable[[T], float | None] = field(default=lambda _data: None)
    slots: int = 16  # handlers at once in one worker process
    max_attempts: int | None = None  # None = the handler or the back-off decides
    backoff: Backoff = field(default_factory=exponential)
    # An exception as an outcome: the kind's error table.
    classify: Callable[[BaseException], Outcome] = _retry
    # Runs in the settling (or sweeping) transaction when a row reached `done` or `dead`,
    # exactly once per transition, after the outcome's own `apply`.
    on_end: Callable[[Tx, Claim, str, str], None] = _nothing
    # Runs in the transaction in which a circuit of its lanes opened or closed.
    on_circuit: circuit.OnChange = circuit.unheard
    # Runs first in the settling transaction: for locks that must be had before the rows' own.
    lock: Callable[[Tx, Sequence[Claim]], None] = _no_locks


AnyKind = Kind[Any]

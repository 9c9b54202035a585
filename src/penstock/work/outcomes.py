"""What a handler says should happen to the row it was given, as data.

The engine carries an outcome out in one transaction that is fenced by the claim's
generation. `apply(tx)` runs inside that transaction after the fence matched, and never
otherwise; so a status, its event and the settlement are one commit. It may answer what it leaves
to the end of the transaction (`Later`).

`health` reports to the lane's circuit breaker: ``"ok"`` the peer answered, ``"bad"`` it is
in trouble (timeout, connection error, 5xx), ``None`` says nothing about the peer. `pause`
closes the lane for so many seconds without counting as trouble (429 with Retry-After).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from penstock.storage import Tx

Health = Literal["ok", "bad"]


@dataclass(frozen=True, slots=True)
class Later:
    """What is left to do once every row of the transaction is settled, in the order of keys.

    For writes to what many rows have in common: transactions that write in one order do not
    deadlock.
    """

    key: str
    do: Callable[[Tx], None]


Apply = Callable[[Tx], Later | None]


@dataclass(frozen=True, slots=True)
class Done:
    """The work is done. `again`: seconds until it is owed once more (polling work)."""

    again: float | None = None
    apply: Apply | None = None
    health: Health | None = None
    pause: float | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """It failed and should be tried again; the attempt counts.

    `after`: seconds from now; None = by the kind's back-off, which also decides when to
    give up. With a number given, the kind's `max_attempts` alone decides.
    """

    after: float | None = None
    reason: str = ""
    apply: Apply | None = None
    health: Health | None = None
    pause: float | None = None


@dataclass(frozen=True, slots=True)
class Postpone:
    """Not now; the attempt does not count. `until` is an aware datetime or seconds from now."""

    until: datetime | float
    reason: str = ""
    apply: Apply | None = None
    health: Health | None = None
    pause: float | None = None


@dataclass(frozen=True, slots=True)
class Dead:
    """It cannot succeed; keep the row, visible and redrivable, and stop trying."""

    reason: str
    apply: Apply | None = None
    health: Health | None = None
    pause: float | None = None


Outcome = Done | Retry | Postpone | Dead

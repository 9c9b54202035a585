"""Wake-ups: how a worker learns that a lane has work.

A wake-up says only "look at this lane now". Lost, doubled or late it does no harm: the row
in the database decides what is owed, a worker that finds nothing acknowledges, and the
sweeper wakes lanes that have due rows. So every implementation may forget and repeat, and
none may be trusted with more than the name of a kind and of a lane.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from penstock.errors import PenstockError

EVERYTHING: Final = "*"
"""As kind and lane of a message: wake-ups may have been missed, look at every lane."""


class WakeupsError(PenstockError):
    """The queue of wake-ups could not be used."""


class WakeupsUnavailable(WakeupsError):
    """The queue of wake-ups cannot be reached; some wake-ups were not published."""


class WakeupsClosed(WakeupsError):
    """The queue of wake-ups was closed."""


@dataclass(frozen=True, slots=True)
class Wake:
    """Asks that a lane be looked at, `delay` seconds from now.

    `account` is whose lane it is, as far as that is known: queues that share their capacity
    between accounts are told.
    """

    kind: str
    lane: str
    delay: float = 0.0
    account: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Message:
    """A wake-up that was received; `handle` means something only to where it came from."""

    kind: str
    lane: str
    handle: object = None


@dataclass(frozen=True, slots=True)
class WakeupStats:
    """How many wake-ups can be received now, later, and are held by receivers."""

    visible: int
    delayed: int
    in_flight: int


class Wakeups(Protocol):
    """A queue of wake-ups. Used from one event loop."""

    @property
    def shared(self) -> bool:
        """Several processes share it: publish only what `lanes.woken_at` lets through."""
        ...

    @property
    def competing(self) -> bool:
        """Receivers compete: each message goes to one, so none may take what it has no room for.

        Otherwise everybody hears every wake.
        """
        ...

    async def open(self) -> None:
        """Start receiving. An unreachable queue is no error here: it is tried again."""
        ...

    async def close(self) -> None:
        """Stop; receivers that wait raise WakeupsClosed. Closing twice is harmless."""
        ...

    async def publish(self, wakes: Sequence[Wake]) -> None:
        """Send the wakes; WakeupsUnavailable if others may not have been told."""
        ...

    async def receive(self, limit: int, room: Mapping[str, int] | None = None) -> list[Message]:
        """From 1 to `limit` messages, waiting for the first. A cancelled call loses none.

        `room` says of which kinds the caller can use how many; only where receivers compete does
        it matter. Raises WakeupsClosed once the queue is closed.
        """
        ...

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """The lanes were looked at. Messages acknowledged or released before are ignored."""
        ...

    async def release(self, messages: Sequence[Message]) -> None:
        """Nobody looked: whoever receives next should."""
        ...

    async def stats(self) -> WakeupStats:
        """What is in the queue, approximately."""
        ...

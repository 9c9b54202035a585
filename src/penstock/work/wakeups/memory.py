"""A queue of wake-ups whose clock tests move: it behaves as SQS does, and worse on demand."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from penstock.clock import SECOND, ManualClock
from penstock.work.wakeups import Message, Wake, WakeupsClosed, WakeupStats, WakeupsUnavailable


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof of one receipt: the message's id, and how often it had been received by then."""

    id: int
    receives: int


@dataclass(slots=True)
class _Entry:
    kind: str
    lane: str
    visible_at: int = 0  # microseconds on the clock's monotonic scale
    receives: int = 0
    held: bool = False  # the latest receipt still counts


class MemoryWakeups:
    """The twin of a remote queue.

    A message that is received stays invisible for `visibility` seconds and then comes back
    unless it was acknowledged; a receipt counts until the message is received again.
    Nothing is coalesced. Of what goes wrong with remote queues, `lose` is the share of
    wakes that vanish, `duplicate` the share of receipts that leave a second copy behind,
    `shuffle` gives up the order of arrival, and `reachable = False` makes `publish` raise
    and receivers wait. All of it follows from `seed`.

    Time passes only by `advance`, or by moving the clock and calling `advanced`.
    """

    def __init__(
        self,
        clock: ManualClock,
        *,
        visibility: float = 30.0,
        lose: float = 0.0,
        duplicate: float = 0.0,
        shuffle: bool = False,
        seed: int = 0,
        shared: bool = True,
    ) -> None:
        if not 0 <= duplicate < 1:
            raise ValueError("duplicate must be below 1, or a message would never end")
        self.shared = shared
        self.competing = True
        self.reachable = True
        self._clock = clock
        self._visibility = visibility
        self._lose = lose
        self._duplicate = duplicate
        self._shuffle = shuffle
        self._random = random.Random(seed)  # noqa: S311 - not a secret
        self._entries: dict[int, _Entry] = {}
        self._visible: OrderedDict[int, None] = OrderedDict()
        # May hold entries that were acknowledged or released; `visible_at` tells them apart.
        self._hidden: list[tuple[int, int]] = []
        self._last_id = 0
        self._changed = asyncio.Event()
        self._closed = False

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Wake the receivers, which raise WakeupsClosed."""
        self._closed = True
        self._changed.set()

    async def advance(self, seconds: float) -> None:
        """Move the clock and let what came due be received."""
        self._clock.advance(seconds)
        await self.advanced()

    async def advanced(self) -> None:
        """Somebody moved the clock: let what came due be received."""
        self._come_due()
        # The receivers run before the caller looks at what they did.
        await asyncio.sleep(0)

    async def publish(self, wakes: Sequence[Wake]) -> None:
        """As `publish_nowait`."""
        self.publish_nowait(wakes)

    def publish_nowait(self, wakes: Iterable[Wake]) -> None:
        """Queue the wakes; WakeupsUnavailable while unreachable or after `close`."""
        if self._closed or not self.reachable:
            raise WakeupsUnavailable
        for wake in wakes:
            if self._random.random() >= self._lose:
                self._add(wake.kind, wake.lane, wake.delay)
        self._come_due()

    async def receive(self, limit: int, room: Mapping[str, int] | None = None) -> list[Message]:
        """From 1 to `limit` messages, waiting for the first; their handle is a Receipt."""
        if limit < 1:
            raise ValueError("limit must be at least 1")
        while not self._closed:
            self._come_due()
            if self.reachable and (taken := self._take_some(limit, room)):
                return taken
            self._changed.clear()
            await self._changed.wait()
        raise WakeupsClosed

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """Delete the messages, except those that were received again since."""
        for message in messages:
            found = self._held_by(message)
            if found is not None:
                del self._entries[found]
                self._visible.pop(found, None)

    async def release(self, messages: Sequence[Message]) -> None:
        """Make the messages visible now, except those that were received again since."""
        for message in messages:
            found = self._held_by(message)
            if found is not None:
                self._entries[found].held = False
                self._hide(found, 0.0)
        self._come_due()

    async def stats(self) -> WakeupStats:
        """Exact, as of now."""
        self._come_due()
        hidden = [e for i, e in self._entries.items() if i not in self._visible]
        delayed = sum(1 for entry in hidden if entry.receives == 0)
        return WakeupStats(len(self._visible), delayed, len(hidden) - delayed)

    def _add(self, kind: str, lane: str, delay: float) -> None:
        self._last_id += 1
        self._entries[self._last_id] = _Entry(kind, lane)
        self._hide(self._last_id, delay)

    def _hide(self, entry_id: int, seconds: float) -> None:
        at = self._now() + round(max(0.0, seconds) * SECOND)
        self._entries[entry_id].visible_at = at
        heappush(self._hidden, (at, entry_id))

    def _now(self) -> int:
        # Whole microseconds: eight advances of 0.1 s must add up to 0.8 s.
        return round(self._clock.monotonic() * SECOND)

    def _come_due(self) -> None:
        now = self._now()
        while self._hidden and self._hidden[0][0] <= now:
            at, entry_id = heappop(self._hidden)
            entry = self._entries.get(entry_id)
            if entry is not None and entry.visible_at == at:
                self._visible[entry_id] = None
        if self._visible:
            self._changed.set()

    def _take_some(self, limit: int, room: Mapping[str, int] | None) -> list[Message]:
        left = None if room is None else Counter(room)
        taken: list[Message] = []
        passed: list[int] = []
        while self._visible and len(taken) < limit:
            entry_id = self._next()
            kind = self._entries[entry_id].kind
            if left is None or left[kind] > 0:
                taken.append(self._take(entry_id))
                if left is not None:
                    left[kind] -= 1
            else:
                passed.append(entry_id)
        for entry_id in reversed(passed):
            self._visible[entry_id] = None
            self._visible.move_to_end(entry_id, last=False)
        return taken

    def _next(self) -> int:
        if self._shuffle:
            entry_id = self._random.choice(list(self._visible))
            del self._visible[entry_id]
            return entry_id
        return self._visible.popitem(last=False)[0]

    def _take(self, entry_id: int) -> Message:
        entry = self._entries[entry_id]
        entry.receives += 1
        entry.held = True
        self._hide(entry_id, self._visibility)
        if self._random.random() < self._duplicate:
            self._add(entry.kind, entry.lane, 0.0)
        return Message(entry.kind, entry.lane, Receipt(entry_id, entry.receives))

    def _held_by(self, message: Message) -> int | None:
        receipt = message.handle
        if not isinstance(receipt, Receipt):
            return None
        entry = self._entries.get(receipt.id)
        if entry is None or not entry.held or entry.receives != receipt.receives:
            return None
        return receipt.id

"""Wake-ups within one process, for SQLite and as the near end of PostgreSQL's."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Final

from penstock.telemetry import WORKER_LOOP_ERROR, log
from penstock.work.wakeups import EVERYTHING, Message, Wake, WakeupsClosed, WakeupStats

Key = tuple[str, str]  # kind, lane

# Seconds. A timer that fires a hair early (uvloop counts in milliseconds) is set again, no
# sooner than the first; the second keeps absurd delays within what event loops can count.
_SHORTEST_TIMER: Final = 0.001
_LONGEST_TIMER: Final = 3600.0
_STALE_ALLOWED: Final = 64


class LocalWakeups:
    """Lanes to look at, in order of arrival, on one event loop.

    A lane that already waits is not queued twice; of a lane's later wakes only the earliest
    is kept. So memory is bounded by the number of lanes. A message that is held does not
    hide its lane: a wake that arrives meanwhile may stand for a row the holder did not see.

    `watch` finds out whether other processes may have committed work since the last call
    (SQLite's data_version); it is asked every `watch_every` seconds, and a yes becomes a
    message for EVERYTHING.
    """

    shared = False
    competing = False

    def __init__(
        self, watch: Callable[[], Awaitable[bool]] | None = None, *, watch_every: float = 0.1
    ) -> None:
        self._watch = watch
        self._watch_every = watch_every
        self._watcher: asyncio.Task[None] | None = None
        self._visible: OrderedDict[Key, None] = OrderedDict()
        self._held: dict[int, Message] = {}
        self._handle = 0
        # The heap may hold entries that an earlier wake of the same lane replaced; `_later`
        # says which are meant.
        self._heap: list[tuple[float, Key]] = []
        self._later: dict[Key, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._arrived = asyncio.Event()
        self._closed = False

    async def open(self) -> None:
        """Start watching for other processes, if there is something to watch."""
        if self._watch is not None and self._watcher is None:
            self._watcher = asyncio.create_task(
                self._watch_others(self._watch), name="penstock-wakeups-watch"
            )

    async def close(self) -> None:
        """Forget everything and wake the receivers, which raise WakeupsClosed."""
        self._closed = True
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait([watcher])
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._visible.clear()
        self._held.clear()
        self._heap.clear()
        self._later.clear()
        self._arrived.set()

    async def publish(self, wakes: Sequence[Wake]) -> None:
        """As `publish_nowait`."""
        self.publish_nowait(wakes)

    def publish_nowait(self, wakes: Iterable[Wake]) -> None:
        """Queue the wakes; call it on the event loop. After `close` it does nothing.

        That makes it fit to be called from a database's subscriber while shutting down: the
        rows remember what this forgets.
        """
        if self._closed:
            return
        visible = self._visible
        for wake in wakes:
            if wake.delay > 0:
                self._publish_later((wake.kind, wake.lane), wake.delay)
            else:
                visible[wake.kind, wake.lane] = None  # one that waits keeps its place
        if visible:
            self._arrived.set()

    async def receive(self, limit: int, room: Mapping[str, int] | None = None) -> list[Message]:
        """From 1 to `limit` messages in order of arrival, waiting for the first."""
        if limit < 1:
            raise ValueError("limit must be at least 1")
        # Nothing is taken before the last await, so a cancelled call has nothing to lose.
        while not self._visible:
            if self._closed:
                raise WakeupsClosed
            self._arrived.clear()
            await self._arrived.wait()
        messages = []
        for _ in range(min(limit, len(self._visible))):
            (kind, lane), _none = self._visible.popitem(last=False)
            self._handle += 1
            message = Message(kind, lane, self._handle)
            self._held[self._handle] = message
            messages.append(message)
        return messages

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """Let go of the messages."""
        for message in messages:
            self._let_go(message)

    async def release(self, messages: Sequence[Message]) -> None:
        """Queue the lanes of the messages again, unless they were acknowledged before."""
        for message in messages:
            if self._let_go(message):
                self._visible[message.kind, message.lane] = None
        if self._visible:
            self._arrived.set()

    async def stats(self) -> WakeupStats:
        """Exact, as of now."""
        return WakeupStats(len(self._visible), len(self._later), len(self._held))

    def _let_go(self, message: Message) -> bool:
        handle = message.handle
        return isinstance(handle, int) and self._held.pop(handle, None) is not None

    def _publish_later(self, key: Key, delay: float) -> None:
        at = asyncio.get_running_loop().time() + delay
        known = self._later.get(key)
        if known is not None and known <= at:
            return
        self._later[key] = at
        heappush(self._heap, (at, key))
        if len(self._heap) > 2 * len(self._later) + _STALE_ALLOWED:
            self._heap = [(when, lane) for lane, when in self._later.items()]
            heapify(self._heap)
        self._set_timer()

    def _set_timer(self) -> None:
        if not self._heap:
            return
        at = self._heap[0][0]
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        wait = min(max(at - loop.time(), _SHORTEST_TIMER), _LONGEST_TIMER)
        self._timer_at = at
        self._timer = loop.call_later(wait, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._heap and self._heap[0][0] <= now:
            at, key = heappop(self._heap)
            if self._later.get(key) == at:
                del self._later[key]
                self._visible[key] = None
        if self._visible:
            self._arrived.set()
        self._set_timer()

    async def _watch_others(self, changed: Callable[[], Awaitable[bool]]) -> None:
        everything = (Wake(EVERYTHING, EVERYTHING),)
        wait = self._watch_every
        while True:
            await asyncio.sleep(wait)
            try:
                found = await changed()
                wait = self._watch_every
            except Exception as error:
                # Until it can be asked again the sweeper finds what others commit.
                wait = min(max(1.0, wait * 2), 30.0)
                log(WORKER_LOOP_ERROR, loop="wakeups", error=repr(error), retry_in=wait)
                continue
            if found:
                self.publish_nowait(everything)

"""One burst of work, for processes that live only while they are asked to do something.

Lanes that are named are worked off until nothing in them is due, or until time is over. Afterwards
nothing is left running: what could not be started or finished was given back, and the lanes that
have something left were woken through the queue. Only what could not even be written down is
answered as unsettled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from penstock.clock import Clock
from penstock.errors import PenstockError
from penstock.storage import Database
from penstock.telemetry import WORKER_LOOP_ERROR, log
from penstock.work import lanes
from penstock.work.kinds import AnyKind
from penstock.work.line import Line
from penstock.work.waker import Waker
from penstock.work.wakeups import Wake, Wakeups

Key = tuple[str, str]  # kind, lane


@dataclass(frozen=True, slots=True)
class Burst:
    """What came of it."""

    processed: int
    failed: int
    unsettled: frozenset[Key]


class _Near:
    """Passes wakes on, except for what is due within the second: that is waited for here."""

    def __init__(self, waker: Waker) -> None:
        self._waker = waker
        self.lines: dict[str, Line] = {}
        self.timers: dict[Key, asyncio.TimerHandle] = {}

    def publish(self, wakes: Iterable[Wake]) -> None:
        later = []
        for wake in wakes:
            if 0 < wake.delay < 1 and wake.kind in self.lines:
                self._wait(wake)
            else:
                later.append(wake)
        if later:
            self._waker.publish(later)

    def share(self, wakes: Iterable[Wake]) -> None:
        self._waker.share(wakes)

    def _wait(self, wake: Wake) -> None:
        key = (wake.kind, wake.lane)
        loop = asyncio.get_running_loop()
        known = self.timers.get(key)
        if known is None or loop.time() + wake.delay < known.when():
            if known is not None:
                known.cancel()
            self.timers[key] = loop.call_later(wake.delay, self._on_time, key)

    def _on_time(self, key: Key) -> None:
        del self.timers[key]
        self.lines[key[0]].look(key[1])

    def stop(self) -> list[Wake]:
        """Wait no more; answers what was waited for."""
        loop = asyncio.get_running_loop()
        left = [
            Wake(kind, lane, max(0.0, timer.when() - loop.time()))
            for (kind, lane), timer in self.timers.items()
        ]
        for timer in self.timers.values():
            timer.cancel()
        self.timers.clear()
        return left


async def burst(
    database: Database,
    wakeups: Wakeups,
    waker: Waker,
    kinds: Sequence[AnyKind],
    named: Iterable[Key],
    *,
    clock: Clock,
    seconds: float,
    grace: float,
) -> Burst:
    """Work off the named lanes for at most `seconds`; handlers then have `grace` seconds to end."""
    near = _Near(waker)
    rested = asyncio.Event()
    lines = {kind.name: Line(kind, database, clock, near, rested=rested) for kind in kinds}
    near.lines = lines
    for kind, lane in named:
        lines[kind].look(lane)
    serving = [asyncio.create_task(line.serve()) for line in lines.values()]
    beside = [asyncio.create_task(line.settle()) for line in lines.values()]
    beside += [asyncio.create_task(line.renew()) for line in lines.values()]
    resting = asyncio.create_task(_rest(near, rested))
    try:
        await asyncio.wait(
            [resting, *serving, *beside], timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        later = near.stop()
        await _end([resting, *serving])
        await asyncio.gather(*(line.drain(grace) for line in lines.values()))
    finally:
        near.stop()
        await _end([resting, *serving, *beside])
    waker.publish(later)
    unsettled = {(name, lane) for name, line in lines.items() for lane in line.unsettled}
    unsettled -= await _wake(database, wakeups, unsettled, lines)
    await waker.close()
    return Burst(
        sum(line.counts.processed for line in lines.values()),
        sum(line.counts.failed for line in lines.values()),
        frozenset(unsettled),
    )


async def _rest(near: _Near, rested: asyncio.Event) -> None:
    """Return when there is nothing to do, nor will be within the second."""
    while near.timers or not all(line.idle for line in near.lines.values()):
        rested.clear()
        await rested.wait()


async def _wake(
    database: Database, wakeups: Wakeups, keys: Iterable[Key], lines: dict[str, Line]
) -> set[Key]:
    """Have others look at lanes for which there was no time; answers those they will look at."""
    keys = {key for key in keys if not lines[key[0]].holds(key[1])}
    if not keys:
        return set()
    try:
        ids = sorted({lane for _, lane in keys})
        # Whatever it answers: the wake that is on its way to a lane may be the one that named it.
        await database.unit(lambda tx: lanes.mark_woken(tx, ids))
        await wakeups.publish([Wake(kind, lane) for kind, lane in keys])
    except PenstockError as exc:
        log(WORKER_LOOP_ERROR, loop="burst", error=str(exc))
        return set()
    return keys


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            log(WORKER_LOOP_ERROR, loop="burst", error=f"{type(result).__name__}: {result}")

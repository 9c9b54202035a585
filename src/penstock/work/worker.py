"""The worker: receives wakes, runs a line for each kind of work, and stops without losing any."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from penstock.clock import Clock
from penstock.errors import StorageError
from penstock.storage import Database
from penstock.telemetry import WORKER_LOOP_ERROR, WORKER_READY, WORKER_SHUTDOWN, log
from penstock.work import lanes
from penstock.work.kinds import AnyKind
from penstock.work.line import Isolate, Line
from penstock.work.waker import Waker
from penstock.work.wakeups import EVERYTHING, Message, Wake, Wakeups, WakeupsClosed

RECEIVE_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Summary:
    """What a worker did between its start and its end. `uptime` is in seconds."""

    uptime: float
    processed: int
    failed: int

    @property
    def success_rate(self) -> float:
        """The share of settled tries that succeeded; 1.0 where nothing was tried."""
        return 1.0 if not self.processed else max(0.0, 1 - self.failed / self.processed)


class Worker:
    """Works off the rows of `kinds` until `stop` is called.

    `grace`: seconds that running handlers have to finish after `stop`; then they are cancelled and
    their rows given back, due now, with no attempt counted. `isolate` runs a row that has lost its
    lease repeatedly in a process of its own; None = rows always run here.
    """

    def __init__(
        self,
        database: Database,
        wakeups: Wakeups,
        waker: Waker,
        kinds: Sequence[AnyKind],
        *,
        clock: Clock,
        grace: float = 20.0,
        isolate: Isolate | None = None,
    ) -> None:
        self._database = database
        self._wakeups = wakeups
        self._clock = clock
        self._grace = grace
        self._stop = asyncio.Event()
        self._room_made = asyncio.Event()
        self.lines = {kind.name: Line(kind, database, clock, waker, isolate) for kind in kinds}

    def stop(self) -> None:
        """Begin to stop; `run` returns once everything is settled or given back."""
        self._stop.set()

    def held(self, kind: str) -> list[str]:
        """The ids of the rows of this kind that this worker holds."""
        line = self.lines.get(kind)
        return line.held if line else []

    async def run(self) -> Summary:
        """Work until `stop`; answers what was done."""
        began = self._clock.monotonic()
        lines = list(self.lines.values())
        loops = [asyncio.create_task(self._listen(), name="listen")]
        loops += [
            asyncio.create_task(line.serve(), name=f"{line.kind.name}.serve") for line in lines
        ]
        background = [asyncio.create_task(line.settle()) for line in lines]
        background += [asyncio.create_task(line.renew()) for line in lines]
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await self._look_everywhere()
            log(WORKER_READY, seconds=round(self._clock.monotonic() - began, 3))
            done, _ = await asyncio.wait(
                [stopping, *loops, *background], return_when=asyncio.FIRST_COMPLETED
            )
            await _cancel(loops)
            await asyncio.gather(*(line.drain(self._grace) for line in lines))
        finally:
            await _cancel([stopping, *loops, *background])
        for task in done - {stopping}:
            task.result()  # a loop never ends by itself: this raises what ended it
        summary = Summary(
            self._clock.monotonic() - began,
            sum(line.counts.processed for line in lines),
            sum(line.counts.failed for line in lines),
        )
        log(
            WORKER_SHUTDOWN,
            uptime=round(summary.uptime, 3),
            processed=summary.processed,
            failed=summary.failed,
            success_rate=round(summary.success_rate, 4),
        )
        return summary

    async def _listen(self) -> None:
        while True:
            try:
                messages = await self._receive()
            except WakeupsClosed:
                await self._stop.wait()
                return
            await self._take(messages)

    async def _receive(self) -> list[Message]:
        """Messages, where receivers compete only of kinds that there is room for here.

        What a busy process took would wait here while an idle one looks for work.
        """
        if not self._wakeups.competing:
            return await self._wakeups.receive(RECEIVE_AT_ONCE)
        while True:
            self._room_made.clear()
            room = {}
            for line in self.lines.values():
                if line.room > 0:
                    room[line.kind.name] = line.room
                    line.room_made = None
                else:
                    line.room_made = self._room_made
            if not room:
                await self._room_made.wait()
                continue
            receiving = asyncio.create_task(self._wakeups.receive(sum(room.values()), room))
            more_room = asyncio.create_task(self._room_made.wait())
            try:
                await asyncio.wait((receiving, more_room), return_when=asyncio.FIRST_COMPLETED)
                if receiving.done():
                    return receiving.result()
            finally:
                receiving.cancel()
                more_room.cancel()
                await asyncio.wait((receiving, more_room))

    async def _take(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if message.kind == EVERYTHING:
                await self._look_everywhere()
            elif (line := self.lines.get(message.kind)) is not None:
                line.look(message.lane)
        await self._wakeups.acknowledge(messages)

    async def _look_everywhere(self) -> None:
        for line in self.lines.values():
            kind = line.kind
            with contextlib.suppress(StorageError):  # the sweeper looks again
                wakes: list[Wake] = await self._database.read(
                    lambda tx, kind=kind: lanes.survey(tx, kind.name, kind.table, within=60.0)  # type: ignore[misc]
                )
                line.look_all(wakes)


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            log(WORKER_LOOP_ERROR, loop="worker", error=f"{type(result).__name__}: {result}")

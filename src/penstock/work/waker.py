"""From what a commit said to a published wake.

Units of work call `lanes.wake`; the database hands those notes over after the commit, and the
waker publishes them. Where several processes share the wake-ups, a wake that is due now is
published only if none is on its way to that lane already (``lanes.woken_at``); what arrives while
one publication runs goes out with the next. Where receivers compete, each wake is told whose lane
it is for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import replace

from penstock.errors import PenstockError, StorageError
from penstock.storage import Database, Tx
from penstock.telemetry import WORKER_LOOP_ERROR, log
from penstock.work import lanes
from penstock.work.wakeups import Wake, Wakeups
from penstock.work.wakeups.local import LocalWakeups

ACCOUNTS_KEPT = 50_000  # lanes whose account is remembered


class Waker:
    """Publishes wakes; `on_notes` is given to the database's `subscribe`."""

    def __init__(self, database: Database, wakeups: Wakeups) -> None:
        self._database = database
        self._wakeups = wakeups
        self._pending: dict[tuple[str, str], Wake] = {}
        self._flush: asyncio.Task[None] | None = None
        self._publishing: set[asyncio.Task[None]] = set()
        self._accounts: dict[str, str] = {}

    def on_notes(self, notes: list[object]) -> None:
        """Publish the wakes among a commit's notes."""
        wakes = [note for note in notes if isinstance(note, Wake)]
        if wakes:
            self.publish(wakes)

    def publish(self, wakes: Iterable[Wake]) -> None:
        """Publish soon; never waits and never fails: the sweeper makes up for what is lost."""
        if isinstance(self._wakeups, LocalWakeups):  # nothing to wait for, nothing to fail
            self._wakeups.publish_nowait(wakes)
            return
        for wake in wakes:
            known = self._pending.get((wake.kind, wake.lane))
            if known is None or wake.delay < known.delay:
                self._pending[wake.kind, wake.lane] = wake
        if self._pending and (self._flush is None or self._flush.done()):
            self._flush = asyncio.get_running_loop().create_task(self._run())

    def share(self, wakes: Iterable[Wake]) -> None:
        """Let other processes look at lanes for which this one has no slot."""
        if self._wakeups.shared:
            self.publish(wakes)

    async def settled(self) -> None:
        """Wait until what was to be published by now has been."""
        if self._flush is not None:
            await asyncio.wait([self._flush])
        if self._publishing:
            await asyncio.wait(self._publishing)

    async def close(self) -> None:
        """Wait for what is being published."""
        while self._publishing or (self._flush is not None and not self._flush.done()):
            await self.settled()

    async def _run(self) -> None:
        while self._pending:
            wakes = list(self._pending.values())
            self._pending.clear()
            now = {wake.lane: wake for wake in wakes if wake.delay <= 0}
            # A delayed wake must not mark its lane as woken: it would hold back an earlier one.
            later = [wake for wake in wakes if wake.delay > 0]
            try:
                chosen = await self._choose(now, later)
            except StorageError as exc:
                log(WORKER_LOOP_ERROR, loop="waker", error=str(exc))
                continue
            if chosen:
                # Not awaited: the next wakes must not wait for this batch's way to the others.
                task = asyncio.get_running_loop().create_task(self._publish(chosen))
                self._publishing.add(task)
                task.add_done_callback(self._publishing.discard)

    async def _choose(self, now: dict[str, Wake], later: list[Wake]) -> list[Wake]:
        """Those of `now` that no wake is on its way for, and `later`."""
        strange: set[str] = set()
        if self._wakeups.competing:
            if len(self._accounts) > ACCOUNTS_KEPT:
                self._accounts.clear()
            strange = {*now, *(wake.lane for wake in later)}.difference(self._accounts)

        def choose(tx: Tx) -> tuple[list[Wake], dict[str, str]]:
            marked = lanes.mark_woken(tx, list(now)) if now else set()
            found = lanes.accounts(tx, sorted(strange)) if strange else {}
            return [*later, *(now[lane] for lane in marked)], found

        if not (now or strange):
            return self._told(later)
        chosen, found = await self._database.unit(choose)
        self._accounts |= found
        return self._told(chosen)

    def _told(self, wakes: list[Wake]) -> list[Wake]:
        known = self._accounts
        return [replace(w, account=known[w.lane]) if w.lane in known else w for w in wakes]

    async def _publish(self, wakes: list[Wake]) -> None:
        try:
            await self._wakeups.publish(wakes)
        except PenstockError as exc:
            log(WORKER_LOOP_ERROR, loop="waker", error=str(exc))
            marked = [wake.lane for wake in wakes if wake.delay <= 0]
            with contextlib.suppress(StorageError):  # taken for lost after a minute
                await self._database.unit(lambda tx: lanes.unmark_woken(tx, marked))

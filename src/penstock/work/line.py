"""A line of work inside one worker: the rows of one kind, from claim to settlement.

Three loops share the line's state, all on one event loop: `serve` claims rows of lanes that were
named by a wake and starts their handlers, `settle` writes down what handlers decided, all that
finished while the last commit was on its way sharing the next, and `renew` keeps the leases. A
row occupies a slot from its claim until its settlement is durable.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from penstock.clock import Clock
from penstock.errors import StorageError, StorageFull, StorageUnavailable
from penstock.storage import Database, Tx
from penstock.telemetry import (
    CLAIM_TO_START,
    LANE_UNKNOWN,
    LEASE_LOST,
    LEASES_LOST,
    ROW_LAPSED,
    WORK_FAILED,
    WORK_SETTLED,
    WORKER_LOOP_ERROR,
    log,
    metrics,
)
from penstock.work import lanes, ledger
from penstock.work.kinds import AnyKind, Claim, Task
from penstock.work.outcomes import Dead, Outcome, Retry
from penstock.work.settlement import Settlement, decide
from penstock.work.wakeups import Wake

T = TypeVar("T")

LANES_AT_ONCE = (16, 64)  # lanes that share one claim: at least, and with a slot for each
SETTLE_AT_ONCE = 256  # rows that share one settlement
CHILDREN = 4  # rows in processes of their own at once; each takes about a second to start
LAST_SETTLE = 10.0  # seconds that a database in trouble may hold up the end of a shutdown
CANCEL_WAIT = 5.0  # seconds that a cancelled handler may take to end
LANE_SHOWN = 200  # characters of a lane's name that are logged: anybody may have sent it
LOCKED_WAIT = 0.02  # seconds until a lane is tried again whose due rows could not be had
SHARE_EVERY = 1.0  # seconds between two messages to others that a lane has more than we can take

# Runs one claimed row in a process of its own; answers what went wrong, None = it settled.
Isolate = Callable[[Claim, float], Awaitable[str | None]]


class Publisher(Protocol):
    """Who passes wakes on: the `Waker`, in one way or another."""

    def publish(self, wakes: Iterable[Wake]) -> None:
        """Have the lanes looked at when it is time, by anybody."""
        ...

    def share(self, wakes: Iterable[Wake]) -> None:
        """Let others look at lanes for which there is no slot here."""
        ...


@dataclass(slots=True)
class _Running:
    claim: Claim
    task: asyncio.Task[None] | None = None
    started: bool = False
    finished: bool = False  # decided; its settlement is on its way
    alone: bool = False  # it runs in a process of its own, which settles it


@dataclass(frozen=True, slots=True)
class _Taken:
    claims: list[Claim]
    loaded: dict[str, Any]
    wakes: list[Wake]
    visited: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Counts:
    """What a line has done since it began."""

    processed: int = 0
    failed: int = 0

    def add(self, *, failed: bool) -> None:
        """One more row was settled."""
        self.processed += 1
        self.failed += failed


@dataclass(slots=True)
class Line:
    """One kind's rows in one worker."""

    kind: AnyKind
    database: Database
    clock: Clock
    waker: Publisher
    isolate: Isolate | None = None
    counts: Counts = field(default_factory=Counts)
    room_made: asyncio.Event | None = None  # set, once, when a line that was full has room
    rested: asyncio.Event | None = None  # set whenever the line has become idle
    _ready: dict[str, None] = field(default_factory=dict)
    _shared: dict[str, float] = field(default_factory=dict)  # lanes others were told of, and when
    _running: dict[tuple[str, int], _Running] = field(default_factory=dict)
    _finished: list[Settlement] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _settleable: asyncio.Event = field(default_factory=asyncio.Event)
    _idle: asyncio.Event = field(default_factory=asyncio.Event)
    _alone: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CHILDREN))
    _stopping: bool = False
    _claiming: bool = False

    # ------------------------------------------------------------------ wakes

    def look(self, lane: str) -> None:
        """The lane was named by a wake."""
        self._ready[lane] = None
        self._changed.set()

    def look_all(self, wakes: Iterable[Wake]) -> None:
        """Keep what can be looked at now, publish what is for later."""
        later = []
        for wake in wakes:
            if wake.delay <= 0:
                self.look(wake.lane)
            else:
                later.append(wake)
        if later:
            self.waker.publish(later)

    @property
    def held(self) -> list[str]:
        """The ids of the rows this line holds."""
        return [id_ for id_, _ in self._running]

    @property
    def room(self) -> int:
        """How many more lanes this line can look into: each needs a slot at least."""
        return self.kind.slots - len(self._running) - len(self._ready)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to look into, to run or to settle."""
        return not (self._ready or self._running or self._claiming)

    def holds(self, lane: str) -> bool:
        """Whether rows of the lane are held: claimed, and not settled."""
        return any(running.claim.lane == lane for running in self._running.values())

    @property
    def unsettled(self) -> set[str]:
        """The lanes that have not been looked into, or whose rows are still held."""
        return {*self._ready, *(running.claim.lane for running in self._running.values())}

    def _tell(self) -> None:
        if self.room_made is not None and self.room > 0:
            self.room_made.set()
            self.room_made = None
        if self.rested is not None and self.idle:
            self.rested.set()

    # ------------------------------------------------------------------ claim and run

    async def serve(self) -> None:
        """Claim and start, for ever."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._ready and (slots := self.kind.slots - len(self._running)) > 0:
                named = self._next_lanes(slots)
                for lane in named:
                    del self._ready[lane]
                self._claiming = True
                try:
                    await self._claim(slots, named)
                except Exception as exc:
                    # The rows wait; so does this line, a little, before it asks again.
                    self._trouble("claim", exc)
                    for lane in named:
                        self.look(lane)
                    await asyncio.sleep(1.0)
                finally:
                    self._claiming = False
            self._tell()
            self._share()

    def _share(self) -> None:
        """No slot is free for lanes that have work: let other processes have them.

        Whoever is told goes on by itself until the lane is empty: once in a while is enough.
        """
        if not self._ready:
            return
        now = self.clock.monotonic()
        told = {lane: at for lane, at in self._shared.items() if now - at < SHARE_EVERY}
        if untold := [lane for lane in self._ready if lane not in told]:
            self.waker.share([Wake(self.kind.name, lane) for lane in untold])
            told |= dict.fromkeys(untold, now)
        self._shared = told

    def _next_lanes(self, slots: int) -> list[str]:
        least, most = LANES_AT_ONCE
        return list(self._ready)[: min(most, max(least, slots))]

    async def _claim(self, slots: int, named: Sequence[str]) -> None:
        def take(tx: Tx) -> _Taken:
            return self._take(tx, slots, named)

        # Shielded: once sent, a claim is taken whether or not anybody waits for the answer, and
        # its rows must be handled or given back.
        taking = asyncio.ensure_future(self.database.unit(take))
        try:
            taken = await asyncio.shield(taking)
        except asyncio.CancelledError:
            for lane in named:  # nobody has looked what else is due there
                self.look(lane)
            try:
                taken = await taking
            except Exception as exc:  # in its place the cancellation would be lost
                self._trouble("claim", exc)
            else:
                await self._give_back(taken.claims)
            raise
        self._start_all(taken)
        for lane in set(named).difference(taken.visited):
            log(LANE_UNKNOWN, kind=self.kind.name, lane=lane[:LANE_SHOWN])
        wakes = taken.wakes
        if self.database.dialect != "sqlite":
            try:
                wakes = await self.database.read(lambda tx: self._looks(tx, named))
            except asyncio.CancelledError:
                for lane in named:  # more may be due there
                    self.look(lane)
                raise
        if not taken.claims:
            # Due, yet not to be had: an open transaction has locked the rows.
            wakes = [replace(wake, delay=max(wake.delay, LOCKED_WAIT)) for wake in wakes]
        self.look_all(wakes)

    def _take(self, tx: Tx, slots: int, named: Sequence[str]) -> _Taken:
        claimed = ledger.claim(tx, self.kind, slots, named)
        loaded = _load(tx, self.kind, claimed.claims)
        # On SQLite no accept can commit between this look and the claim's commit.
        wakes = self._looks(tx, claimed.visited) if tx.dialect == "sqlite" else []
        return _Taken(claimed.claims, loaded, wakes, claimed.visited)

    def _looks(self, tx: Tx, ids: Iterable[str]) -> list[Wake]:
        return lanes.look(tx, self.kind.name, self.kind.table, ids)

    def _start_all(self, taken: _Taken) -> None:
        began = self.clock.monotonic()
        for claim in taken.claims:
            self._start(claim, taken.loaded, began)

    def _start(self, claim: Claim, loaded: dict[str, Any], began: float) -> None:
        running = self._running[_key(claim)] = _Running(claim)
        if claim.id not in loaded:
            self._finish(running, Dead("what it belonged to is gone"))
            return
        if isinstance(loaded[claim.id], _Unreadable):
            fault = loaded[claim.id].fault
            log(WORK_FAILED, kind=self.kind.name, id=claim.id, error=_describe(fault))
            self._finish(running, Retry(reason=f"it could not be read: {_describe(fault)}"))
            return
        running.task = asyncio.get_running_loop().create_task(
            self._run(running, loaded[claim.id], began), name=f"{self.kind.name} {claim.id}"
        )

    async def _run(self, running: _Running, data: Any, began: float) -> None:
        claim, kind = running.claim, self.kind
        running.started = True
        metrics.observe(CLAIM_TO_START, self.clock.monotonic() - began, kind=kind.name)
        if self.isolate is not None and claim.lapses >= ledger.ISOLATE_AFTER:
            running.alone = True
            try:
                await self._run_alone(self.isolate, claim, kind.timeout_of(data) or kind.timeout)
            except Exception as exc:
                self._trouble("isolate", exc)  # its lease lapses
                self._release_slots([claim])
            return
        try:
            outcome = await self._handle(claim, data)
        except Exception as exc:  # the kind's own functions; its row must not be held for ever
            self._trouble("handle", exc)
            outcome = Retry(reason=_describe(exc))
        self._finish(running, outcome)

    async def _handle(self, claim: Claim, data: Any) -> Outcome:
        kind = self.kind
        limit = kind.timeout_of(data) or kind.timeout
        fault: BaseException
        try:
            async with asyncio.timeout(limit) as deadline:
                return await kind.handle(Task(claim, data, limit))
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise  # the lease was lost, or the worker stops: whoever cancelled sees to the row
            fault = exc  # something that the handler waited for was cancelled
        except (Exception, SystemExit) as exc:  # a handler that exits must not end the worker
            if isinstance(exc, TimeoutError) and deadline.expired():
                return Retry(reason=f"timed out after {limit:g} s")
            fault = exc
        log(WORK_FAILED, kind=kind.name, id=claim.id, error=_describe(fault), exc_info=fault)
        return kind.classify(fault)

    async def _run_alone(self, isolate: Isolate, claim: Claim, limit: float) -> None:
        """A row that lost its lease twice may kill its process: it gets one of its own."""
        async with self._alone:
            try:
                fault = await isolate(claim, limit)
            except Exception as exc:  # it could not even be started
                fault = _describe(exc)

        def close(tx: Tx) -> tuple[bool, list[Wake]]:
            lapsed = ledger.lapse(tx, self.kind, claim, fault or "its process did not settle it")
            return lapsed is not None, self._looks(tx, [claim.lane])

        lapsed, wakes = await self._persist(close)
        if lapsed:
            log(ROW_LAPSED, kind=self.kind.name, id=claim.id, error=fault or "")
        self._release_slots([claim])
        self.counts.add(failed=lapsed)
        self.look_all(wakes)

    def _finish(self, running: _Running, outcome: Outcome) -> None:
        running.finished = True
        self._finished.append(self._decide(running.claim, outcome))
        self._settleable.set()

    def _decide(self, claim: Claim, outcome: Outcome) -> Settlement:
        now = self.clock.now()
        try:
            return decide(self.kind, claim, outcome, now)
        except Exception as exc:  # not an outcome, or one with a delay that is no number
            self._trouble("decide", exc)
            return decide(self.kind, claim, Dead(f"the handler returned {outcome!r}"), now)

    # ------------------------------------------------------------------ settle

    async def settle(self) -> None:
        """Settle what has finished, for ever."""
        while True:
            await self._settleable.wait()
            self._settleable.clear()
            while self._finished:
                batch = self._finished[:SETTLE_AT_ONCE]
                del self._finished[:SETTLE_AT_ONCE]
                await self._settle(batch)

    async def _settle(self, batch: list[Settlement]) -> None:
        try:
            settled = await self._settle_rows(batch)
        except Exception as exc:
            # Not even a bare settlement can be written: the sweeper will find the rows.
            self._trouble("settle", exc)
            settled = set()
        for settlement in batch:
            if settlement.claim in settled:
                self.counts.add(failed=settlement.result in ("retry", "dead"))
                metrics.inc(WORK_SETTLED, kind=self.kind.name, outcome=settlement.result)
            else:
                self._lost(settlement.claim)
        self._release_slots([settlement.claim for settlement in batch])

    async def _settle_rows(self, batch: list[Settlement], *, refill: bool = True) -> set[Claim]:
        """Settle the batch; where it cannot be written, halve it: one bad row fails alone.

        On SQLite the slots and places that become free are filled in the same commit: a commit
        is mostly waiting for the disk, and a lane at its cap would wait for two of them.
        """
        touched = {settlement.claim.lane for settlement in batch}
        # Those whose lease was lost have given up their slots before.
        freed = sum(_key(settlement.claim) in self._running for settlement in batch)
        refill = refill and freed > 0 and not self._stopping and self.database.dialect == "sqlite"
        if refill:  # lanes that wait for a slot have a turn like the others
            ready = self._next_lanes(freed)
            for lane in ready:
                del self._ready[lane]
            touched.update(ready)

        def write(tx: Tx) -> tuple[set[Claim], _Taken]:
            settled = ledger.settle(tx, self.kind, batch)
            if tx.dialect != "sqlite":
                return settled, _Taken([], {}, [])
            wakes = self._looks(tx, touched)
            due = [wake.lane for wake in wakes if wake.delay <= 0]
            if not (refill and due):
                return settled, _Taken([], {}, wakes)
            taken = self._take(tx, freed, due)
            later = [wake for wake in wakes if wake.delay > 0]
            return settled, replace(taken, wakes=[*taken.wakes, *later])

        try:
            settled, taken = await self._persist(write)
        except Exception as exc:
            if refill:
                for lane in touched:
                    self.look(lane)
                return await self._settle_rows(batch, refill=False)
            log(WORK_FAILED, kind=self.kind.name, id=batch[0].claim.id, error=_describe(exc))
            if len(batch) == 1:
                try:
                    return await self._settle_bare(batch[0].claim, exc)
                except Exception as worse:
                    self._trouble("settle", worse)  # its lease lapses; the others go on
                    return set()
            half = len(batch) // 2
            return await self._settle_rows(batch[:half], refill=False) | await self._settle_rows(
                batch[half:], refill=False
            )
        wakes = taken.wakes
        if self.database.dialect != "sqlite":
            wakes = await self._persist_read(lambda tx: self._looks(tx, touched))
        if self._stopping:
            await self._give_back(taken.claims)
        else:
            self._start_all(taken)
        self.look_all(wakes)
        return settled

    async def _settle_bare(self, claim: Claim, exc: Exception) -> set[Claim]:
        """The settlement itself is at fault: count a failed attempt and nothing more."""
        reason = f"what it led to could not be stored: {_describe(exc)}"
        bare = self._decide(claim, Retry(reason=reason))

        def write(tx: Tx) -> tuple[set[Claim], list[Wake]]:
            return ledger.settle(tx, self.kind, [bare]), self._looks(tx, [claim.lane])

        settled, wakes = await self._persist(write)
        self.look_all(wakes)
        return settled

    async def _persist(self, fn: Callable[[Tx], T]) -> T:
        """Run a unit that must happen: while the database cannot be written, try again."""
        return await self._insist(lambda: self.database.unit(fn))

    async def _persist_read(self, fn: Callable[[Tx], T]) -> T:
        return await self._insist(lambda: self.database.read(fn))

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        wait = 0.5
        while True:
            try:
                return await call()
            except (StorageFull, StorageUnavailable) as exc:
                self._trouble("settle", exc)
                await asyncio.sleep(wait)
                wait = min(30.0, wait * 2)

    def _trouble(self, loop: str, exc: Exception) -> None:
        known = isinstance(exc, StorageError)  # anything else is a bug: show where
        log(
            WORKER_LOOP_ERROR,
            loop=f"{self.kind.name}.{loop}",
            error=_describe(exc),
            exc_info=None if known else exc,
        )

    def _release_slots(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            self._running.pop(_key(claim), None)
        if not self._running:
            self._idle.set()
        self._tell()
        if self._ready:
            self._changed.set()

    def _lost(self, claim: Claim) -> None:
        log(LEASE_LOST, kind=self.kind.name, id=claim.id)
        metrics.inc(LEASES_LOST, kind=self.kind.name)

    # ------------------------------------------------------------------ renew

    async def renew(self) -> None:
        """Extend the leases of everything held, every third of a lease, for ever."""
        while True:
            await asyncio.sleep(self.kind.lease / 3)
            held = list(self._running.values())
            if not held:
                continue
            claims = [r.claim for r in held]
            try:
                kept = await self.database.unit(
                    lambda tx, claims=claims: ledger.renew(tx, self.kind, claims)  # type: ignore[misc]
                )
            except Exception as exc:
                self._trouble("renew", exc)
                continue
            for r in held:
                # A row that is gone because it settled meanwhile is not lost.
                settled = r.finished or r.alone or _key(r.claim) not in self._running
                if r.claim not in kept and not settled:
                    self._cancel_lost(r)

    def _cancel_lost(self, running: _Running) -> None:
        if running.task is not None:
            running.task.cancel()
        self._lost(running.claim)
        self._release_slots([running.claim])

    # ------------------------------------------------------------------ stop

    async def drain(self, grace: float) -> None:
        """Let running handlers finish for up to `grace` seconds, cancel and give back the rest.

        Nothing new is claimed any more (`serve` was cancelled before), and `settle` still runs.
        """
        self._stopping = True
        unstarted = [r for r in self._running.values() if not r.started and r.task is not None]
        for r in unstarted:
            r.task.cancel()  # type: ignore[union-attr]
        await self._give_back([r.claim for r in unstarted])
        self._release_slots([r.claim for r in unstarted])
        if self._running:
            self._idle.clear()
            try:
                async with asyncio.timeout(grace):
                    await self._idle.wait()
            except TimeoutError:
                await self._abandon()

    async def _abandon(self) -> None:
        tasks = [r.task for r in self._running.values() if r.task is not None and not r.task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_WAIT)
        # What has finished, be it while it was being cancelled, is settled as it said.
        rest = [r.claim for r in self._running.values() if not r.finished]
        await self._give_back(rest)
        self._release_slots(rest)
        if self._running:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_SETTLE):
                    await self._idle.wait()

    async def _give_back(self, claims: Sequence[Claim]) -> None:
        if not claims:
            return
        try:
            async with asyncio.timeout(LAST_SETTLE):
                await self._persist(lambda tx: ledger.give_back(tx, self.kind, claims))
        except Exception as exc:  # their leases lapse
            self._trouble("give_back", exc)


@dataclass(frozen=True, slots=True)
class _Unreadable:
    fault: Exception


def _load(tx: Tx, kind: AnyKind, claims: Sequence[Claim]) -> dict[str, Any]:
    """The claims' data by id; where the kind cannot read them together, each for itself."""
    if not claims:
        return {}
    try:
        return dict(kind.load(tx, claims))
    except StorageError:
        raise
    except Exception as exc:
        if len(claims) == 1:
            return {claims[0].id: _Unreadable(exc)}
        return {id_: data for c in claims for id_, data in _load(tx, kind, [c]).items()}


def _key(claim: Claim) -> tuple[str, int]:
    return claim.id, claim.generation


def _describe(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}"

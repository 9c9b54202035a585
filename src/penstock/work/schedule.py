"""What is done again and again, by one process at a time.

Processes that share a database elect a leader by a lease in `leaders`: whoever finds it expired
takes it, the holder renews it. A leader that dies is followed within `LEASE` seconds; one that is
only slow may overlap with its follower, so everything scheduled here must be safe to do twice.

Only processes that would do the same elect one among them, by what their `group` is called: a
process without predictions cannot sweep those of the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from penstock.clock import SECOND, Clock
from penstock.errors import StorageError, StorageUnavailable
from penstock.ids import new_id
from penstock.storage import Database, Statement, Tx, sql
from penstock.telemetry import (
    DEAD_LETTERS,
    DEAD_LETTERS_UNSEEN,
    DEAD_ROWS,
    DUE_ROWS,
    LANES_OPEN,
    OLDEST_DUE_AGE,
    ROW_LAPSED,
    ROWS_LAPSED,
    WORK_FAILED,
    WORKER_LOOP_ERROR,
    log,
    metrics,
)
from penstock.work import lanes, ledger
from penstock.work.kinds import AnyKind
from penstock.work.waker import Waker
from penstock.work.wakeups import WakeupsError, WakeupsUnavailable

LEASE = 30.0  # seconds
OFFICE = "scheduler of "  # how the names of leaderships begin

_ACQUIRE = sql("""
INSERT INTO leaders (name, holder, until_at) VALUES (:name, :holder, {now} + :lease)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until_at = excluded.until_at
WHERE leaders.holder = excluded.holder OR leaders.until_at < {now}
RETURNING holder
""")
_TURN = sql("""
INSERT INTO leaders (name, holder, until_at) VALUES (:name, :holder, {now} + :every)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until_at = excluded.until_at
WHERE leaders.until_at <= {now}
RETURNING holder
""")
_RESIGN = sql("DELETE FROM leaders WHERE name = :name AND holder = :holder")


@dataclass(frozen=True, slots=True)
class Periodic:
    """Something to do every so many seconds, while this process leads."""

    name: str
    every: float
    run: Callable[[], Awaitable[None]]


class Scheduler:
    """Runs the periodic tasks of a group of processes, in whichever of them leads.

    `group`: what the tasks are of, the same in all processes of the group. `alone`: there is no
    other process to elect, as on SQLite.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        tasks: Sequence[Periodic],
        *,
        group: str = "",
        alone: bool = False,
    ) -> None:
        self._database = database
        self._office = f"{OFFICE}{group}"
        self._clock = clock
        self.tasks = tasks
        self._alone = alone
        self._holder = new_id("wrk")
        self._running: dict[str, asyncio.Task[None]] = {}
        self.leads = alone

    async def run(self) -> None:
        """Lead when it can, for ever; resigns when cancelled.

        Each task runs beside the others, and not again before it has ended: one that takes long
        holds up neither the rest nor the leader's lease.
        """
        due = {task.name: 0.0 for task in self.tasks}
        election = 0.0
        step = min([LEASE / 3, *(task.every for task in self.tasks)])
        try:
            while True:
                now = self._clock.monotonic()
                if not self._alone and now >= election:
                    election = now + LEASE / 3
                    await self._elect()
                for task in self.tasks if self.leads else ():
                    if now >= due[task.name] and task.name not in self._running:
                        due[task.name] = now + task.every
                        self._start(task)
                await asyncio.sleep(step)
        finally:
            await self._stop()

    async def turn(
        self, names: Collection[str], *, due: bool = True
    ) -> tuple[list[str], list[str]]:
        """Run these tasks once, one after another; answers the names of those that ran and failed.

        For processes that are called now and then and know nothing of the time before: when a task
        ran last is kept in the database. With `due=False` it does not matter.
        """
        ran, failed = [], []
        for task in self.tasks:
            if task.name not in names:
                continue
            if due and not await self._database.unit(lambda tx, task=task: self._take(tx, task)):  # type: ignore[misc]
                continue
            ran.append(task.name)
            if not await self._once(task):
                failed.append(task.name)
        return ran, failed

    def _take(self, tx: Tx, task: Periodic) -> bool:
        every = int(task.every * SECOND)
        return tx.one(_TURN, name=_turn(task), holder=self._holder, every=every) is not None

    async def _once(self, task: Periodic) -> bool:
        """Whether it succeeded; if not, its next turn is not put off."""
        done = False
        try:
            await task.run()
            done = True
        except Exception as exc:
            log(WORKER_LOOP_ERROR, loop=task.name, error=f"{type(exc).__name__}: {exc}")
        finally:
            if not done:
                with contextlib.suppress(StorageError):
                    await self._database.unit(
                        lambda tx: tx.run(_RESIGN, name=_turn(task), holder=self._holder)
                    )
        return done

    def _start(self, task: Periodic) -> None:
        running = asyncio.get_running_loop().create_task(self._run(task), name=task.name)
        self._running[task.name] = running
        running.add_done_callback(lambda _: self._running.pop(task.name, None))

    async def _stop(self) -> None:
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._alone:
            return
        self.leads = False
        # Also if it does not know that it leads: the last election may have been cut short.
        with contextlib.suppress(StorageError):  # its lease runs out
            await self._database.unit(
                lambda tx: tx.run(_RESIGN, name=self._office, holder=self._holder)
            )

    async def _elect(self) -> None:
        electing = asyncio.ensure_future(self._database.unit(self._acquire))
        try:
            self.leads = await asyncio.shield(electing)
        except asyncio.CancelledError:
            with contextlib.suppress(StorageError):
                await electing  # it is carried out all the same; only then can it be undone
            raise
        except StorageError as exc:
            self.leads = False
            log(WORKER_LOOP_ERROR, loop="scheduler", error=str(exc))

    def _acquire(self, tx: Tx) -> bool:
        lease = int(LEASE * SECOND)
        return tx.one(_ACQUIRE, name=self._office, holder=self._holder, lease=lease) is not None

    async def _run(self, task: Periodic) -> None:
        try:
            await task.run()
        except Exception as exc:
            # The next turn may do better, and the other tasks must not wait for it.
            log(WORKER_LOOP_ERROR, loop=task.name, error=f"{type(exc).__name__}: {exc}")


def _turn(task: Periodic) -> str:
    return f"turn of {task.name}"


def sweeper(
    database: Database,
    waker: Waker,
    kinds: Sequence[AnyKind],
    *,
    every: float,
    held: Callable[[str], Collection[str]],
) -> Periodic:
    """Returns expired leases and wakes every lane in which something is or will soon be due.

    `held(kind)` names the rows this process holds. On SQLite it is the only one, so they are alive
    whatever a wall clock that jumped may say.
    """

    async def sweep() -> None:
        for kind in kinds:
            mine = held(kind.name) if database.dialect == "sqlite" else ()
            report(kind, await _sweep(database, kind, held=mine))
            waker.publish(
                await database.read(
                    lambda tx, kind=kind: lanes.survey(  # type: ignore[misc]
                        tx, kind.name, kind.table, within=2 * every
                    )
                )
            )

    return Periodic("sweep", every, sweep)


async def release_all(database: Database, kinds: Sequence[AnyKind]) -> None:
    """Return every lease there is, with a lapse each: at the start of a database's only owner."""
    for kind in kinds:
        while lapsed := await _sweep(database, kind, everything=True):
            report(kind, lapsed)


async def _sweep(
    database: Database, kind: AnyKind, *, held: Collection[str] = (), everything: bool = False
) -> list[ledger.Lapsed]:
    """Return leases together, or where that fails each for itself: one bad row fails alone."""
    try:
        return await database.unit(
            lambda tx: ledger.sweep(tx, kind, held=held, everything=everything)
        )
    except StorageUnavailable:
        raise
    except Exception as exc:
        log(WORKER_LOOP_ERROR, loop=f"{kind.name}.sweep", error=str(exc), exc_info=exc)
    lapsed = []
    for claim in await database.read(
        lambda tx: ledger.expired(tx, kind, held=held, everything=everything)
    ):
        try:
            row = await database.unit(
                lambda tx, claim=claim: ledger.lapse(tx, kind, claim, ledger.STOPPED)  # type: ignore[misc]
            )
        except Exception as exc:
            log(WORK_FAILED, kind=kind.name, id=claim.id, error=str(exc), exc_info=exc)
        else:
            lapsed += [row] if row else []
    return lapsed


def report(kind: AnyKind, lapsed: Sequence[ledger.Lapsed]) -> None:
    """Log and count leases that were lost."""
    for row in lapsed:
        log(
            ROW_LAPSED,
            kind=kind.name,
            id=row.id,
            lane=row.lane,
            lapses=row.lapses,
            dead=row.dead,
        )
    if lapsed:
        metrics.inc(ROWS_LAPSED, len(lapsed), kind=kind.name)


def gauges(database: Database, kinds: Sequence[AnyKind], *, every: float) -> Periodic:
    """Keeps the gauges of what is owed, dead and open."""

    async def measure() -> None:
        for kind in kinds:
            due, oldest, dead, open_ = await database.read(
                lambda tx, kind=kind: _measure(tx, kind)  # type: ignore[misc]
            )
            metrics.set(DUE_ROWS, due, kind=kind.name)
            metrics.set(OLDEST_DUE_AGE, oldest, kind=kind.name)
            metrics.set(DEAD_ROWS, dead, kind=kind.name)
            metrics.set(LANES_OPEN, open_, kind=kind.name)

    return Periodic("gauges", every, measure)


def dead_letters(ask: Callable[[], Awaitable[Mapping[str, int]]], *, every: float) -> Periodic:
    """Keeps the gauge of dead letters, as long as whoever is asked tells them."""
    told = True

    async def measure() -> None:
        nonlocal told
        if not told:
            return
        try:
            found = await ask()
        except WakeupsUnavailable:
            raise
        except WakeupsError as exc:  # a permission is missing; asking again changes nothing
            told = False
            log(DEAD_LETTERS_UNSEEN, error=str(exc))
            return
        for queue, n in found.items():
            metrics.set(DEAD_LETTERS, n, queue=queue)

    return Periodic("dead letters", every, measure)


_OPEN = sql("SELECT count(*) FROM lanes WHERE kind = :kind AND circuit <> 'closed'")


@cache
def _due(table: str) -> Statement:
    return sql(f"""
SELECT count(*), coalesce(({{now}} - min(due_at)) / 1e6, 0) FROM {table}
WHERE due_at IS NOT NULL AND lease_until IS NULL AND due_at <= {{now}}
""")  # noqa: S608


@cache
def _dead(kind: AnyKind) -> Statement:
    return sql(f"SELECT count(*) FROM {kind.table} WHERE status = '{kind.dead}'")  # noqa: S608


def _measure(tx: Tx, kind: AnyKind) -> tuple[int, float, int, int]:
    ((due, oldest),) = tx.rows(_due(kind.table))
    ((dead,),) = tx.rows(_dead(kind))
    ((open_,),) = tx.rows(_OPEN, kind=kind.name)
    return due, float(oldest), dead, open_

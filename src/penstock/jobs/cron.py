"""Jobs by the clock: schedules, and the tick that enqueues what is due.

A schedule's next instant is stored. The tick that finds it past enqueues the job once,
however many instants were missed, and moves it to the next one in the future; two ticks at
the same time are told apart by who moved it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from penstock.clock import from_datetime, to_datetime, to_iso
from penstock.errors import JobError
from penstock.jobs import store
from penstock.jobs.job import Job
from penstock.storage import Tx, sql
from penstock.telemetry import CRON_ENQUEUED, log


@dataclass(frozen=True, slots=True)
class Cron:
    """A job and when it is enqueued.

    `schedule` has the five fields of cron(5), or six with seconds first. In a zone with
    daylight saving, jobs of a fixed hour that would be skipped in spring run right after
    the gap, and those that would run twice in autumn run once, as Debian's cron does it.
    """

    name: str
    schedule: str
    zone: str
    job: Job[..., Any]

    def next_after(self, us: int) -> int:
        """The first instant of the schedule after `us`, both in µs."""
        start = to_datetime(us).astimezone(_zone(self.zone))
        found: datetime = next(CronSim(self.schedule, start))
        return from_datetime(found)

    @property
    def text(self) -> str:
        """The schedule as stored: if it changes, the next instant is computed anew."""
        return f"{self.schedule} {self.zone}"


def cron(name: str, schedule: str, zone: str, job: Job[..., Any]) -> Cron:
    """The schedule as a value. Raises JobError if it cannot be."""
    if job.arguments.required:
        raise JobError(
            f"{name}: a scheduled job is called without arguments, but"
            f" {', '.join(job.arguments.required)} has no default"
        )
    found = Cron(name, " ".join(schedule.split()), zone, job)
    try:
        found.next_after(0)
    except CronSimError as exc:
        raise JobError(f"{name}: {schedule!r} is not a cron schedule: {exc}") from None
    except StopIteration:
        raise JobError(f"{name}: {schedule!r} has no next time") from None
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise JobError(f"{name}: {zone!r} is not a time zone known here: {exc}") from None
    return found


def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)  # UTC needs no zone files


_KNOWN = sql("SELECT name, schedule, next_at FROM crons")
_ADD = sql("""
INSERT INTO crons (name, schedule, next_at) VALUES (:name, :schedule, :next_at)
ON CONFLICT (name) DO NOTHING
""")
_MOVE = sql("""
UPDATE crons SET schedule = :schedule, next_at = :next_at
WHERE name = :name AND schedule = :was AND next_at = :was_at
""")


def cron_tick(tx: Tx, crons: Iterable[Cron]) -> int:
    """Enqueue what is due, once each; answers how many jobs that was."""
    listed = list(crons)
    if not listed:
        return 0
    now = tx.now()
    known = {name: (schedule, next_at) for name, schedule, next_at in tx.rows(_KNOWN)}
    count = 0
    for each in listed:
        if each.name not in known:
            tx.run(_ADD, name=each.name, schedule=each.text, next_at=each.next_after(now))
            continue
        schedule, next_at = known[each.name]
        if schedule == each.text and next_at > now:
            continue
        moved = tx.run(
            _MOVE,
            name=each.name,
            schedule=each.text,
            next_at=each.next_after(now),
            was=schedule,
            was_at=next_at,
        )
        # A schedule that was changed begins with its next instant.
        if moved and schedule == each.text:
            _enqueue(tx, each.job, next_at)
            count += 1
    return count


def next_tick(tx: Tx, crons: Iterable[Cron]) -> int | None:
    """The earliest instant (µs) at which `cron_tick` has something to do."""
    names = {each.name for each in crons}
    due = [next_at for name, _, next_at in tx.rows(_KNOWN) if name in names]
    return min(due, default=None)


def _enqueue(tx: Tx, job: Job[..., Any], due: int) -> None:
    call = job.options(key=f"cron:{to_iso(due)}").call()
    store.insert(tx, [call.new])
    log(CRON_ENQUEUED, job_id=call.new.id, job=job.name, due=to_iso(due))

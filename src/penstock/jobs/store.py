"""The jobs table: inserting, looking, cancelling. Every function is part of a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from penstock.clock import SECOND
from penstock.errors import Conflict, NotFound
from penstock.storage import Tx, sql
from penstock.work import lanes

KIND = "job"
Status = Literal["pending", "running", "succeeded", "dead", "cancelled"]


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be inserted. It is due at `at` (µs), or `delay` seconds from now."""

    id: str
    account: str
    name: str
    args: str
    lane: str
    cap: int
    key: str | None = None
    delay: float = 0.0
    at: int | None = None


@dataclass(frozen=True, slots=True)
class JobRow:
    """What a worker must know of a job to run it."""

    id: str
    account: str
    name: str
    args: str


@dataclass(frozen=True, slots=True)
class JobState:
    """What a caller may know of a job."""

    status: Status
    result: str | None
    last_error: str | None


def lane_id(account: str, name: str, lane: str | None = None) -> str:
    """The lane of a job's rows; `lane` gives them one of their own within the job."""
    base = f"{KIND}:{account}:{name}"
    return base if lane is None else f"{base}:{lane}"


_COLUMNS = """
INSERT INTO jobs (id, account, name, args, key, status, created_at, lane, due_at)
VALUES (:id, :account, :name, :args, :key, 'pending', {now}, :lane,
        coalesce(CAST(:at AS bigint), {now} + CAST(:delay AS bigint)))
"""
_INSERT = sql(_COLUMNS)
_INSERT_KEYED = sql(
    _COLUMNS + "ON CONFLICT (account, name, key) WHERE key IS NOT NULL AND status = 'pending'"
    " DO NOTHING RETURNING id"
)
_BY_KEY = sql("""
SELECT id FROM jobs WHERE account = :account AND name = :name AND key = :key AND status = 'pending'
""")


def insert(tx: Tx, jobs: Sequence[NewJob]) -> list[str]:
    """Insert the jobs; the ids they have, which for a key that is pending is the earlier job's."""
    for lane, job in sorted({job.lane: job for job in jobs}.items()):
        lanes.ensure(tx, lane, kind=KIND, account=job.account, max_in_flight=job.cap)
    if len(jobs) == 1 and jobs[0].key is None:
        tx.run(_INSERT, **_parameters(jobs[0]))
        _wake(tx, jobs)
        return [jobs[0].id]
    plain = [_parameters(job) for job in jobs if job.key is None]
    if plain:
        tx.many(_INSERT, plain)
    # By key: two transactions that insert the same keys wait for each other in one order.
    keyed = sorted((job for job in jobs if job.key is not None), key=lambda j: (j.name, j.key))
    known = {job.id: _insert_keyed(tx, job) for job in keyed}
    ids = [known.get(job.id, job.id) for job in jobs]
    _wake(tx, [job for job, id_ in zip(jobs, ids, strict=True) if job.id == id_])
    return ids


def _parameters(job: NewJob) -> dict[str, str | int | None]:
    return {
        "id": job.id,
        "account": job.account,
        "name": job.name,
        "args": job.args,
        "key": job.key,
        "lane": job.lane,
        "at": job.at,
        "delay": int(job.delay * SECOND),
    }


def _insert_keyed(tx: Tx, job: NewJob) -> str:
    # The row that was in the way may have ended before we could read it: then try again.
    for _ in range(5):
        if tx.one(_INSERT_KEYED, **_parameters(job)) is not None:
            return job.id
        found = tx.one(_BY_KEY, account=job.account, name=job.name, key=job.key)
        if found is not None:
            return cast(str, found[0])
    raise Conflict(f"another job of the name {job.name!r} keeps taking the key {job.key!r}")


def _wake(tx: Tx, jobs: Sequence[NewJob]) -> None:
    delays: dict[str, float] = {}
    for job in jobs:
        delay = job.delay if job.at is None else max(0.0, (job.at - tx.now()) / SECOND)
        delays[job.lane] = min(delay, delays.get(job.lane, delay))
    for lane, delay in delays.items():
        lanes.wake(tx, KIND, lane, delay)


_LOAD = sql("SELECT id, account, name, args FROM jobs WHERE id {in:ids}")


def load(tx: Tx, ids: Sequence[str]) -> dict[str, JobRow]:
    """The jobs by id."""
    return {row[0]: JobRow(*row) for row in tx.rows(_LOAD, ids=list(ids))}


_STATE = sql("SELECT status, lease_until, result, last_error FROM jobs WHERE id = :id")


def state(tx: Tx, job_id: str) -> JobState:
    """How the job is doing. Raises NotFound once it was removed."""
    row = tx.one(_STATE, id=job_id)
    if row is None:
        raise NotFound(f"there is no job {job_id}; ended ones are kept for a day")
    status, lease_until, result, last_error = row
    if status == "pending" and lease_until is not None:
        status = "running"
    return JobState(status, result, last_error)


_CANCEL = sql("""
UPDATE jobs SET status = 'cancelled', due_at = NULL, finished_at = {now}
WHERE id = :id AND status = 'pending'
""")


def cancel(tx: Tx, job_id: str) -> bool:
    """Never run it (again); False if it had ended. One that runs now is not interrupted."""
    return tx.run(_CANCEL, id=job_id) == 1


_RESULT = sql("UPDATE jobs SET result = :result WHERE id = :id AND status = 'succeeded'")


def set_result(tx: Tx, job_id: str, result: str) -> None:
    """Keep the result of a job that has just succeeded."""
    tx.run(_RESULT, id=job_id, result=result)


# A lane's id is 'job:' account ':' name, or with ':' and a lane of the caller's after it.
_CAPS = sql("""
SELECT id, max_in_flight FROM lanes
WHERE kind = 'job' AND max_in_flight <> :cap
  AND (substr(id, length(account) + 6) = :name
       OR substr(id, length(account) + 6, length(:name) + 1) = :name || ':')
""")


def set_caps(tx: Tx, name: str, cap: int) -> None:
    """Bring the lanes of a job to the concurrency that its code asks for now."""
    for lane, _ in tx.rows(_CAPS, name=name, cap=cap):
        lanes.configure(tx, lane, max_in_flight=cap)


_OLD = """
FROM jobs WHERE finished_at < {now} - CAST(:age AS bigint)
  AND status IN ('succeeded', 'cancelled') AND lease_until IS NULL
"""
_PRUNE = sql(f"""
DELETE FROM jobs WHERE id IN (SELECT id {_OLD} ORDER BY finished_at LIMIT :limit)
""")  # noqa: S608 - no input in it
_PRUNABLE = sql(f"SELECT count(*) {_OLD}")


def prune(tx: Tx, *, age: float = 86_400.0, limit: int = 1000) -> int:
    """Delete up to `limit` jobs that ended more than `age` seconds ago; answers how many.

    Dead ones stay until somebody redrives or drops them.
    """
    return tx.run(_PRUNE, age=int(age * SECOND), limit=limit)


def prunable(tx: Tx, *, age: float = 86_400.0) -> int:
    """How many `prune` would delete in all."""
    ((n,),) = tx.rows(_PRUNABLE, age=int(age * SECOND))
    return int(n)

"""Jobs that gave up: running them again, or putting them away for good."""

from __future__ import annotations

from typing import Final

from penstock.jobs.store import KIND
from penstock.storage import sql
from penstock.work.care import DeadWork, by, dropping, redriving

# Not beside another job that is pending under the same key: that one has its place.
_REDRIVE = sql("""
UPDATE jobs SET status = 'pending', due_at = {now}, attempts = 0, lapses = 0, finished_at = NULL
WHERE id = :id AND account = :account AND status = 'dead' AND lease_until IS NULL
  AND (key IS NULL OR NOT EXISTS (SELECT 1 FROM jobs j WHERE j.account = jobs.account
    AND j.name = jobs.name AND j.key = jobs.key AND j.status = 'pending'))
RETURNING lane
""")
# The day for which ended jobs are kept begins now.
_DROP = sql("""
UPDATE jobs SET status = 'cancelled', due_at = NULL, finished_at = {now}
WHERE id {in:ids} AND account = :account AND status = 'dead'
""")

DEAD_JOBS: Final = DeadWork(
    kind=KIND,
    area="jobs",
    table="jobs",
    prefix="job",
    title="w.name",
    about="w.id",
    ended="finished_at",
    redrive=redriving(KIND, by(_REDRIVE)),
    drop=dropping(_DROP),
)

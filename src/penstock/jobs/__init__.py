"""The user's own jobs: functions that run in a worker, and are not lost."""

from __future__ import annotations

from penstock.jobs.context import JobContext, current_job
from penstock.jobs.cron import Cron, cron, cron_tick, next_tick
from penstock.jobs.handle import JobCancelled, JobFailed, JobHandle
from penstock.jobs.job import Call, Job
from penstock.jobs.run import JobRunner, job_kind
from penstock.jobs.store import prunable, prune, set_caps

__all__ = [
    "Call",
    "Cron",
    "Job",
    "JobCancelled",
    "JobContext",
    "JobFailed",
    "JobHandle",
    "JobRunner",
    "cron",
    "cron_tick",
    "current_job",
    "job_kind",
    "next_tick",
    "prunable",
    "prune",
    "set_caps",
]

"""`/v1/jobs`: the user's own jobs, read and cancelled. They are enqueued from code."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from penstock.api import paging
from penstock.api.context import Caller, requires
from penstock.api.paging import Items, Paged
from penstock.api.routing import router
from penstock.jobs import query
from penstock.storage import Database, Tx

Status = Literal["pending", "running", "succeeded", "dead", "cancelled"]


class JobView(BaseModel):
    """A job. `lapses`: how often in a row its worker died."""

    job_id: str
    name: str
    key: Annotated[str | None, Field(description="Unique while the job is pending.")]
    status: Status
    attempts: int
    lapses: int
    lane: str
    last_error: str | None
    created_at: str
    due_at: str | None
    finished_at: str | None


class Why(BaseModel):
    """Why a job has not run yet."""

    code: str
    message: str


class JobDetail(JobView):
    """A job with what it was given and what it answered."""

    arguments: Any
    result: Any
    why: Why | None


def routes(database: Database) -> APIRouter:
    """The routes, on `database`."""
    api = router(tags=["Jobs"])

    @api.get("/v1/jobs", summary="List jobs")
    @requires("jobs:read")
    async def list_jobs(
        page: Paged,
        caller: Caller,
        name: Annotated[str | None, Query(max_length=200)] = None,
        status: Literal["pending", "succeeded", "dead", "cancelled"] | None = None,
    ) -> Items[JobView]:
        """Newest first; ended ones are kept for a day, dead ones until they are moved.

        With a filter a page may be short, or empty, while there is a next one.
        """
        after = page.after(str)
        rows, edge = await database.read(
            lambda tx: query.page(
                tx,
                caller.account,
                name=name,
                status=status,
                before=after[0] if after else None,
                limit=page.limit,
            )
        )
        cursor = None if edge is None else paging.encode(edge)
        return Items(items=[JobView(**row) for row in rows], next_cursor=cursor)

    @api.get("/v1/jobs/{job_id}", summary="Read a job")
    @requires("jobs:read")
    async def read_job(job_id: str, caller: Caller) -> JobDetail:
        """With its arguments, its result, and why it has not run yet."""
        return JobDetail(**await database.read(lambda tx: query.detail(tx, caller.account, job_id)))

    @api.post("/v1/jobs/{job_id}/cancel", summary="Cancel a job")
    @requires("jobs:write")
    async def cancel_job(job_id: str, caller: Caller) -> JobDetail:
        """It never runs (again); one that runs now is not interrupted."""

        def cancel(tx: Tx) -> dict[str, Any]:
            query.end(tx, caller.account, job_id)
            return query.detail(tx, caller.account, job_id)

        return JobDetail(**await database.unit(cancel))

    return api

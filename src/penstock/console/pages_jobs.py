"""Jobs: listed, each with its arguments, cancelled."""

from __future__ import annotations

from starlette.responses import Response

from penstock.console.calls import part
from penstock.console.pages import Desk, Visit

_STATUSES = ("pending", "succeeded", "dead", "cancelled")


def add(desk: Desk) -> None:
    """Add the pages."""

    @desk.page("/jobs")
    async def jobs(visit: Visit) -> Response:
        asked = {name: visit.query.get(name, "").strip() for name in ("name", "status")}
        page = await visit.api("GET", "/v1/jobs", asked | {"cursor": visit.query.get("cursor")})
        return visit.render(
            "jobs.html",
            page=page,
            asked=asked,
            filtered=any(asked.values()),
            statuses=_STATUSES,
        )

    @desk.page("/jobs/{job_id}")
    async def job(visit: Visit) -> Response:
        found = await visit.api("GET", f"/v1/jobs/{part(visit.path('job_id'))}")
        return visit.render("job.html", job=found)

    @desk.action("/jobs/{job_id}/cancel")
    async def cancel_job(visit: Visit) -> Response:
        job_id = part(visit.path("job_id"))
        await visit.api("POST", f"/v1/jobs/{job_id}/cancel")
        return visit.go(f"/jobs/{job_id}", "The job was cancelled.")

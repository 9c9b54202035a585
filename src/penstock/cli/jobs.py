"""`penstock jobs`: the jobs of your own code. They are enqueued from code."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from penstock.cli.output import JsonOption, columns, document, fields, shown_all
from penstock.cli.remote import LimitOption, listed, with_server
from penstock.client import Client
from penstock.client.calls import at

app = typer.Typer(help="Your own jobs: see them, cancel them.", no_args_is_help=True)

JobArgument = Annotated[str, typer.Argument(metavar="JOB_ID")]


@app.command("list")
@with_server
def list_(
    server: Client,
    name: Annotated[str | None, typer.Option(help="Of this function alone.")] = None,
    status: Annotated[
        str | None, typer.Option(help="pending, succeeded, dead or cancelled.")
    ] = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first; ended ones are kept for a day."""
    items, more = listed(server, "/v1/jobs", limit, name=name, status=status)
    nothing = "No jobs. How to write one: docs/how-to/write-jobs.md"
    if shown_all(items, more, as_json, nothing):
        columns(
            (
                each["job_id"],
                each["status"],
                each["name"],
                f"attempts {each['attempts']}",
                each["created_at"],
                each["last_error"],
            )
            for each in items
        )


@app.command()
@with_server
def show(server: Client, job_id: JobArgument, as_json: JsonOption = False) -> None:
    """Show a job with its arguments, its result, and why it has not run yet."""
    _tell(server.call("GET", at("jobs", job_id)), as_json)


@app.command()
@with_server
def cancel(server: Client, job_id: JobArgument, as_json: JsonOption = False) -> None:
    """Cancel a job: it never runs (again); one that runs now is not interrupted."""
    _tell(server.call("POST", at("jobs", job_id, "cancel")), as_json)


def _tell(job: dict[str, Any], as_json: bool) -> None:
    if as_json:
        document(job)
        return
    written = {"arguments": json.dumps(job["arguments"], ensure_ascii=False)}
    if job["status"] == "succeeded":
        written["result"] = json.dumps(job["result"], ensure_ascii=False)
    why = job["why"]["message"] if job["why"] else None
    fields({**job, "result": None, **written, "why": why})

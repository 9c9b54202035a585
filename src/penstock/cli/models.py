"""`penstock models`: what a server scores files by. Without a server: `penstock train`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from penstock.cli.local import bar
from penstock.cli.output import JsonOption, columns, document, fail, fields, note, say, shown_all
from penstock.cli.remote import LimitOption, listed, with_server
from penstock.client import Client
from penstock.client.calls import at

app = typer.Typer(
    help="Models of the server: train, promote, roll back; `penstock train` needs no server.",
    no_args_is_help=True,
)

# What answers a question; those without an option here are answered over HTTP.
_OPTIONS: Final = {"positive_label": "--positive", "drop": "--drop", "keep": "--keep"}

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL_ID")]


@app.command("train")
@with_server
def train_(
    server: Client,
    file: Annotated[Path, typer.Argument(help="The CSV of past customers; .csv.gz is unpacked.")],
    label: Annotated[str, typer.Option(help="The column that says who churned.")],
    id_: Annotated[str, typer.Option("--id", help="The column that identifies a customer.")],
    name: Annotated[str, typer.Option(help="The model's; its next version is trained.")] = "churn",
    positive: Annotated[
        list[str] | None, typer.Option(help="The label's value for churned; may be repeated.")
    ] = None,
    drop: Annotated[list[str] | None, typer.Option(help="A column to leave out.")] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="A column to keep that looks like an id or too good to be true."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Upload a CSV and have the server train a model from it; the first version is live at once.

    With --wait it ends with 1 when the training failed, with 2 when it has a question.
    """
    try:
        content = file.read_bytes()
    except OSError as exc:
        fail(f"{file}: {exc.strerror}", code=2)
    upload = server.uploads.create(content)
    if upload.question is not None:
        fail(f"{upload.question.message} Use `penstock train`, which can be told", code=2)
    body: dict[str, Any] = {
        "upload_id": upload.upload_id,
        "name": name,
        "label_column": label,
        "id_column": id_,
    }
    given = {"positive_label": positive, "drop": drop, "keep": keep}
    made = server.call("POST", "/v1/models", body | {k: v for k, v in given.items() if v})
    if wait:
        made = _trained(server, made)
    _tell(made, as_json)
    if made["status"] == "FAILED":
        raise typer.Exit(2 if made["question"] else 1)


@app.command("list")
@with_server
def list_(server: Client, limit: LimitOption = 50, as_json: JsonOption = False) -> None:
    """List the models, newest first; every server has the demonstration `starter` besides."""
    items, more = listed(server, "/v1/models", limit)
    nothing = "No models yet. Train one: penstock models train past.csv --label … --id …"
    if shown_all(items, more, as_json, nothing):
        columns(
            (
                each["model_id"],
                each["name"],
                f"live: {each['live_version'] or 'none'}",
                f"latest: {each['latest_version']}",
                each["created_at"],
            )
            for each in items
        )


@app.command()
@with_server
def show(server: Client, model_id: ModelArgument, as_json: JsonOption = False) -> None:
    """Show a model with its versions, the newest first."""
    _tell_model(server.call("GET", at("models", model_id)), as_json)


@app.command()
@with_server
def promote(
    server: Client,
    model_id: ModelArgument,
    version: Annotated[int, typer.Argument(min=1, help="The version's number.")],
    as_json: JsonOption = False,
) -> None:
    """Make a version live: files are scored by it from now on."""
    body = {"version": version}
    _tell_model(server.call("POST", at("models", model_id, "promote"), body), as_json)


@app.command()
@with_server
def rollback(server: Client, model_id: ModelArgument, as_json: JsonOption = False) -> None:
    """Make live again what was live before."""
    _tell_model(server.call("POST", at("models", model_id, "rollback")), as_json)


@app.command()
@with_server
def delete(server: Client, model_id: ModelArgument, as_json: JsonOption = False) -> None:
    """Delete a model with all its versions; what it has scored stays."""
    server.models.delete(model_id)
    if as_json:
        document({"deleted": model_id})
    else:
        say(f"Deleted {model_id}.")


def _trained(server: Client, made: dict[str, Any]) -> dict[str, Any]:
    path = at("models", made["model_id"], "versions", str(made["version"]))
    try:
        with bar() as show:
            while made["status"] == "TRAINING":
                show("Training", 0, 0)
                time.sleep(0.5)
                made = server.call("GET", path)
    except KeyboardInterrupt:
        note(f"it goes on in the server: `penstock models show {made['model_id']}`")
        raise
    return made


def _tell(version: dict[str, Any], as_json: bool) -> None:
    if as_json:
        document(version)
        return
    error = version["error"]
    fields(
        {
            "model": f"{version['model_id']} ({version['model']})",
            "version": f"{version['version']}{', live' if version['live'] else ''}",
            "status": version["status"],
            "message": version["message"] or None,
            "error": error["message"] if error else None,
            "answer it by": _OPTIONS.get(version["question"] or "", version["question"]),
        }
    )


def _tell_model(model: dict[str, Any], as_json: bool) -> None:
    if as_json:
        document(model)
        return
    fields({"model": f"{model['model_id']} ({model['name']})", "live": model["live_version"]})
    columns(
        (
            f"  {each['version']}",
            each["status"],
            "live" if each["live"] else None,
            each["created_at"],
            each["message"],
        )
        for each in model["versions"]
    )

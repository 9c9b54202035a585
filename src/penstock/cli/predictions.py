"""`penstock predictions`: files that a server scores. Without a server: `penstock predict`."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from penstock.cli.local import bar, day
from penstock.cli.output import JsonOption, columns, document, fail, fields, note, say, shown_all
from penstock.cli.remote import LimitOption, listed, with_server
from penstock.client import ApiError, Client, UploadDetail
from penstock.client.calls import at

app = typer.Typer(
    help="Files of customers that the server scores; `penstock predict` needs none.",
    no_args_is_help=True,
)

PredictionArgument = Annotated[str, typer.Argument(metavar="PREDICTION_ID")]
SURE: Final = 0.95  # below it a column of the file is asked for
_UNMAPPED: Final = ("unclear_mapping", "missing_column", "duplicate_column", "unknown_column")
LONGEST_PAUSE: Final = 2.0  # seconds between looks at how far it is


@app.command()
@with_server
def create(
    server: Client,
    file: Annotated[Path, typer.Argument(help="The CSV of customers; .csv.gz is unpacked.")],
    model: Annotated[
        str | None, typer.Option(help="A model's id or name; the only one, or the demonstration.")
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="MODEL'S=FILE'S",
            help="Which column of the file (a name, or a number such as #3) is the model's.",
        ),
    ] = None,
    allow_missing: Annotated[
        list[str] | None, typer.Option(help="A column of the model's that the file may lack.")
    ] = None,
    as_of: Annotated[
        str | None, typer.Option(metavar="DATE", help="The day from which dates are counted.")
    ] = None,
    on_bad_row: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="quarantine sets bad rows aside and scores the others, reject refuses the file.",
        ),
    ] = "quarantine",
    encoding: Annotated[str | None, typer.Option(help="The file's encoding, if asked.")] = None,
    delimiter: Annotated[str | None, typer.Option(help="The delimiter, if asked.")] = None,
    header_row: Annotated[
        int | None, typer.Option(help="The row of the column names, if asked.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Wait, and write the result: CSV, or Parquet if it ends in .parquet."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Upload a CSV and have the server score it.

    With --wait it ends with 3 when rows were set aside, with 1 when it failed. The server remembers
    what --map says for files with the same header.
    """
    mapping, today = dict(map(_pair, map_ or [])), day("--as-of", as_of)
    upload = server.uploads.create(
        _read(file), model=model, encoding=encoding, delimiter=delimiter, header_row=header_row
    )
    if upload.question is not None:
        option = upload.question.option.replace("_", "-")
        fail(f"{upload.question.message} (--{option})", code=2)
    body: dict[str, Any] = {
        "upload_id": upload.upload_id,
        "mapping": mapping,
        "allow_missing": allow_missing or [],
        "on_bad_row": on_bad_row,
    }
    body |= {"model": model} if model is not None else {}
    body |= {"as_of": today.isoformat()} if today is not None else {}
    try:
        made = server.call("POST", "/v1/predictions", body)
    except ApiError as exc:
        if exc.code not in _UNMAPPED:
            raise
        fail(f"{exc.detail.partition('. ')[0]}: {_proposals(upload, mapping)}", code=2)
    found: dict[str, Any] = server.call("GET", at("predictions", made["prediction_id"]))
    if wait or out is not None:
        found = _ended(server, found)
    if out is not None and found["status"] == "COMPLETED":
        _write(server, found["prediction_id"], out)
    _tell(found, as_json)
    if found["status"] in ("FAILED", "CANCELLED"):
        raise typer.Exit(1)
    if found["ended_at"] is not None and found["rows_set_aside"]:
        note(f"the rows set aside: penstock predictions errors {found['prediction_id']}")
        raise typer.Exit(3)


@app.command("list")
@with_server
def list_(
    server: Client,
    status: Annotated[
        str | None, typer.Option(help="Such as PROCESSING, COMPLETED or FAILED.")
    ] = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """List predictions, newest first."""
    items, more = listed(server, "/v1/predictions", limit, status=status)
    nothing = "No predictions. Have a file scored: penstock predictions create customers.csv"
    if shown_all(items, more, as_json, nothing):
        columns(
            (
                each["prediction_id"],
                each["status"],
                each["created_at"],
                each["filename"],
                each["message"],
            )
            for each in items
        )


@app.command()
@with_server
def show(server: Client, prediction_id: PredictionArgument, as_json: JsonOption = False) -> None:
    """Show how far a prediction is, or what it found."""
    _tell(server.call("GET", at("predictions", prediction_id)), as_json)


@app.command()
@with_server
def result(
    server: Client,
    prediction_id: PredictionArgument,
    out: Annotated[
        Path, typer.Option(help="The file to write: CSV, or Parquet if it ends in .parquet.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Write the result into a file."""
    size = _write(server, prediction_id, out)
    if as_json:
        document({"prediction_id": prediction_id, "out": str(out), "bytes": size})
    else:
        say(f"{out}: {size:,} bytes")


@app.command()
@with_server
def errors(
    server: Client,
    prediction_id: PredictionArgument,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("errors.csv"),
    as_json: JsonOption = False,
) -> None:
    """Write the rows that were set aside, and why, into a file."""
    content = server.predictions.errors(prediction_id)
    _save(out, content)
    if as_json:
        document({"prediction_id": prediction_id, "out": str(out), "bytes": len(content)})
    else:
        say(f"{out}: {len(content):,} bytes")


@app.command()
@with_server
def cancel(server: Client, prediction_id: PredictionArgument, as_json: JsonOption = False) -> None:
    """Score no further."""
    _tell(server.call("POST", at("predictions", prediction_id, "cancel")), as_json)


@app.command()
@with_server
def delete(server: Client, prediction_id: PredictionArgument, as_json: JsonOption = False) -> None:
    """Delete a prediction with its files."""
    server.predictions.delete(prediction_id)
    if as_json:
        document({"deleted": prediction_id})
    else:
        say(f"Deleted {prediction_id}.")


def _proposals(upload: UploadDetail, mapping: dict[str, str]) -> str:
    """What to say of the columns that the server is not sure of."""
    known = upload.mapping.columns if upload.mapping is not None else ()
    open_ = [each for each in known if each.confidence < SURE and each.model_column not in mapping]
    pairs = [f"{each.model_column}={each.column or 'COLUMN'}" for each in open_]
    told = " ".join(f"--map {shlex.quote(pair)}" for pair in pairs)
    return f"say which column is which, such as {told}" if told else "see --help for --map"


def _pair(text: str) -> tuple[str, str]:
    wanted, equals, name = text.partition("=")
    if not equals or not wanted or not name:
        fail(f"--map {text}: it is the model's name, =, and the file's", code=2)
    return wanted, name


def _ended(server: Client, found: dict[str, Any]) -> dict[str, Any]:
    id_, pause = found["prediction_id"], 0.1
    try:
        with bar() as show:
            while found["ended_at"] is None:
                show("Scoring", found["bytes_done"], found["bytes_total"])
                time.sleep(pause)
                pause = min(LONGEST_PAUSE, pause * 1.5)
                found = server.call("GET", at("predictions", id_))
    except KeyboardInterrupt:
        note(f"{id_} goes on in the server: `penstock predictions show {id_}`")
        raise
    return found


def _tell(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        document(found)
        return
    error = found["error"]
    fields(
        {
            "prediction": found["prediction_id"],
            "status": found["status"],
            "message": found["message"],
            "error": error["message"] if error else None,
            "file": found["filename"],
            "scored": f"{found['rows_scored']:,}",
            "set aside": f"{found['rows_set_aside']:,}",
        }
    )


def _write(server: Client, prediction_id: str, out: Path) -> int:
    parquet = out.suffix.lower() == ".parquet"
    content = server.predictions.result(prediction_id, format="parquet" if parquet else "csv")
    _save(out, content)
    return len(content)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as exc:
        fail(f"{file}: {exc.strerror}", code=2)


def _save(out: Path, content: bytes) -> None:
    try:
        out.write_bytes(content)
    except OSError as exc:
        fail(f"{out}: {exc.strerror}", code=2)

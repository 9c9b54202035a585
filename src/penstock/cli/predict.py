"""`penstock predict`: a CSV of customers in, their risk with reasons out. It needs no server."""

from __future__ import annotations

import datetime
import errno
import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.local import bar, day, needed, note
from penstock.cli.output import JsonOption, document, fail, say
from penstock.cli.panels import ALONE

if TYPE_CHECKING:
    from penstock.predictions.files import Summary, Targets


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command(rich_help_panel=ALONE)(predict)


def predict(
    file: Annotated[Path, typer.Argument(help="The CSV of customers; .csv.gz is unpacked.")],
    out: Annotated[
        Path, typer.Option(help="The result to write: CSV, or Parquet if it ends in .parquet.")
    ],
    model: Annotated[
        Path | None,
        typer.Option(help="The model file that `penstock train` wrote; a demonstration if absent."),
    ] = None,
    errors: Annotated[
        Path | None, typer.Option(help="Write the rows that were set aside here, and why, as CSV.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a report here, as an HTML page.")
    ] = None,
    id: Annotated[
        str | None, typer.Option("--id", help="The id column, if it is not called as at training.")
    ] = None,
    map: Annotated[
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
        str | None,
        typer.Option(metavar="DATE", help="The day from which dates are counted; else today."),
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
    max_rows: Annotated[
        int | None, typer.Option(min=1, help="Refuse a file with more rows than this.")
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, max=64, help="How many processes score; each takes some 120 MB.")
    ] = 1,
    as_json: JsonOption = False,
) -> None:
    """Score a CSV of customers: probability of churn, level of risk, three reasons.

    Ends with 0 when all rows were scored, 3 when some were set aside, 2 when the file or the model
    cannot be used.
    """
    # numpy's linear algebra would start threads that spin and are not used here; and nothing here
    # makes cycles that grow with the file. Both together are a tenth of what a million rows cost.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.disable()
    needed("predictions")
    from penstock.predictions import files
    from penstock.predictions.sniff import Given

    if on_bad_row not in ("quarantine", "reject"):
        fail(f"--on-bad-row: it is quarantine or reject, not {on_bad_row}", code=2)
    answers = files.Answers(
        Given(encoding, delimiter, header_row),
        id,
        _pairs(map or []),
        tuple(allow_missing or ()),
        day("--as-of", as_of),
        on_bad_row == "reject",
        max_rows,
    )
    targets = files.Targets(out, errors, report)
    try:
        with bar() as show:
            summary = files.predict(
                file,
                _model(model),
                targets,
                answers,
                today=datetime.date.today(),
                processes=processes,
                progress=lambda done, size: show("Scoring", done, size),
            )
    except OSError as exc:
        where = exc.filename or out.parent
        fail(f"{where}: {exc.strerror or exc}", code=1 if exc.errno == errno.ENOSPC else 2)
    _tell(summary, targets, as_json)


def _model(path: Path | None) -> Any:
    from penstock.predictions import starter
    from penstock.predictions.model import MAX_BYTES, load

    if path is None:
        return load(starter.data())
    try:
        with path.open("rb") as file:
            return load(file.read(MAX_BYTES + 1))
    except OSError as exc:
        fail(f"{path} cannot be read: {exc.strerror or exc}", code=2)


def _pairs(texts: list[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        wanted, equals, name = text.partition("=")
        if not equals or not wanted or not name:
            fail(f"--map {text}: it is the model's name, =, and the file's", code=2)
        found[wanted] = name
    return found


def _columns(summary: Summary) -> list[dict[str, Any]]:
    from penstock.predictions import drift
    from penstock.predictions.pipeline import FLAGS

    counts = summary.counts
    return [
        {
            "name": each.name,
            **dict(zip(FLAGS, flags, strict=True)),
            "psi": round(each.psi, 6) if counts.rows else None,
        }
        for each, flags in zip(
            drift.features(summary.job.model, counts.slots), counts.flags.tolist(), strict=True
        )
    ]


def _tell(summary: Summary, targets: Targets, as_json: bool) -> None:
    counts = summary.counts
    low, medium, high = (int(count) for count in counts.levels)
    if as_json:
        document(
            {
                "rows": counts.rows,
                "set_aside": counts.bad,
                "risk": {"high": high, "medium": medium, "low": low},
                "mean_probability": counts.probability / counts.rows if counts.rows else None,
                "first_error": summary.first_error or None,
                "errors": [
                    {"column": column or None, "code": code, "count": count}
                    for (column, code), count in sorted(counts.faults.items())
                ],
                "columns": _columns(summary),
                "notes": [{"code": each.code, "message": each.message} for each in summary.notes],
                "out": str(targets.out),
                "errors_file": None if targets.errors is None else str(targets.errors),
                "report": None if targets.report is None else str(targets.report),
            }
        )
    else:
        for each in summary.notes:
            note(each.message)
        aside = f"{counts.bad:,} set aside ({summary.first_error}), " if counts.bad else ""
        say(
            f"{targets.out}: {counts.rows:,} customers scored, {aside}"
            f"{high:,} of high risk, {medium:,} medium, {low:,} low"
        )
    if counts.bad:
        if targets.errors is None and not as_json:
            note("--errors FILE lists the rows that were set aside.")
        raise typer.Exit(3)

"""`penstock train`: a CSV of past customers in, a model file out. It needs no server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.local import bar, day, needed, note
from penstock.cli.output import JsonOption, document, fail, say
from penstock.cli.panels import ALONE

if TYPE_CHECKING:
    from penstock.predictions.model import Model
    from penstock.predictions.training.options import Options


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command(rich_help_panel=ALONE)(train)


def train(
    file: Annotated[Path, typer.Argument(help="The CSV of past customers; .csv.gz is unpacked.")],
    label: Annotated[str, typer.Option(help="The column that says who churned.")],
    id: Annotated[str, typer.Option("--id", help="The column that identifies a customer.")],
    out: Annotated[Path, typer.Option(help="The model file to write, JSON.")],
    positive: Annotated[
        list[str] | None, typer.Option(help="The label's value for churned; may be repeated.")
    ] = None,
    negative: Annotated[
        list[str] | None, typer.Option(help="The label's value for stayed, if there are several.")
    ] = None,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            metavar="COLUMN=TYPE",
            help="What a column is: number, category, boolean, date, or ymd, dmy, mdy, excel for "
            "dates of that order.",
        ),
    ] = None,
    drop: Annotated[list[str] | None, typer.Option(help="A column to leave out.")] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="A column to keep that looks like an id or too good to be true."),
    ] = None,
    require: Annotated[
        list[str] | None, typer.Option(help="A column that must not be blank in later files.")
    ] = None,
    decimal: Annotated[
        str | None, typer.Option(metavar="point|comma", help="What separates decimals.")
    ] = None,
    date_order: Annotated[
        str | None, typer.Option(metavar="dmy|mdy", help="The order of dates such as 01/02/2026.")
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="The day up to which the file knew; dates need it."),
    ] = None,
    medium: Annotated[float, typer.Option(help="Probability of medium risk.")] = 0.3,
    high: Annotated[float, typer.Option(help="Probability of high risk.")] = 0.6,
    name: Annotated[str | None, typer.Option(help="What the model is called.")] = None,
    card: Annotated[
        Path | None, typer.Option(help="Write the model's card here, as an HTML page.")
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="The file's encoding, if asked.")] = None,
    delimiter: Annotated[str | None, typer.Option(help="The delimiter, if asked.")] = None,
    header_row: Annotated[
        int | None, typer.Option(help="The row of the column names, if asked.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a churn model from a CSV of past customers."""
    needed("train")
    from penstock.predictions.model import Risk, dump
    from penstock.predictions.training.options import Options

    if not 0 < medium <= high < 1:
        fail("--medium and --high: 0 < medium <= high < 1", code=2)
    for target in (out, card):
        if target is not None:
            _refuse_target(target, file)
    options = Options(
        label=label,
        id=id,
        positive=tuple(positive or ()),
        negative=tuple(negative or ()),
        types=_types(types or []),
        drop=tuple(drop or ()),
        keep=tuple(keep or ()),
        required=tuple(require or ()),
        decimal=_one_of("--decimal", decimal, ("point", "comma")),
        date_order=_one_of("--date-order", date_order, ("dmy", "mdy")),
        as_of=day("--as-of", as_of),
        risk=Risk(medium, high),
        name=name or out.stem,
    )
    model, notes = _train(file, out, options, encoding, delimiter, header_row)
    _write(out, dump(model))
    if card is not None:
        from penstock.predictions.card import html

        _write(card, html(model).encode())
    if as_json:
        from penstock.predictions.card import card as as_document

        document({**as_document(model), "notes": list(notes)})
        return
    from penstock.predictions.refusal import quoted

    for line in (*notes, *model.warnings):
        note(line)
    for left in model.left:
        note(f"{quoted(left.name)} is left out: {left.reason}.")
    found = model.metrics
    say(
        f"{out}: {model.training.rows:,} customers, "
        f"{model.training.positives / model.training.rows:.1%} churned, "
        f"{len(model.features)} columns used; AUC {found.auc:.3f}, log loss {found.log_loss:.3f} "
        f"(base rate {found.base_log_loss:.3f}), calibration error {found.ece:.3f}"
    )


def _train(
    file: Path,
    out: Path,
    options: Options,
    encoding: Any,
    delimiter: str | None,
    header_row: int | None,
) -> tuple[Model, tuple[str, ...]]:
    from penstock.clock import SystemClock, to_iso
    from penstock.predictions.sniff import Given
    from penstock.predictions.training.fit import train as fit
    from penstock.predictions.training.sheet import read_sheet
    from penstock.predictions.unpack import opened

    try:
        with opened(file, out.parent) as readable, bar() as show:
            size = os.fstat(readable.fileno()).st_size
            sheet, notes = read_sheet(
                readable,
                options,
                Given(encoding, delimiter, header_row),
                progress=lambda read: show("Reading", read, size),
            )
            model = fit(
                sheet,
                options,
                created_at=to_iso(SystemClock().now()),
                progress=lambda done, of: show("Training", done, of),
            )
    except OSError as exc:
        fail(f"{file} cannot be read: {exc.strerror or exc}", code=2)
    return model, notes


def _types(pairs: list[str]) -> dict[str, str]:
    from penstock.predictions.training.options import AS_TYPES

    found = {}
    for pair in pairs:
        name, equals, kind = pair.rpartition("=")
        if not equals or kind not in AS_TYPES:
            fail(f"--type {pair}: it is COLUMN=TYPE with one of {', '.join(AS_TYPES)}", code=2)
        found[name] = kind
    return found


def _one_of(option: str, value: str | None, allowed: tuple[str, ...]) -> Any:
    if value is not None and value not in allowed:
        fail(f"{option}: it is {' or '.join(allowed)}, not {value}", code=2)
    return value


def _refuse_target(target: Path, source: Path) -> None:
    """Say now what would go wrong after the training."""
    if target.resolve() == source.resolve():
        fail(f"{target} is the file to read; name another one to write", code=2)
    if not target.parent.is_dir():
        fail(f"{target} cannot be written: there is no folder {target.parent}", code=2)
    if target.is_dir():
        fail(f"{target} cannot be written: it is a folder", code=2)


def _write(path: Path, data: bytes) -> None:
    """Write the whole file or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        temporary.replace(path)
    except OSError as exc:
        temporary.unlink(missing_ok=True)
        fail(f"{path} cannot be written: {exc.strerror or exc}", code=2)

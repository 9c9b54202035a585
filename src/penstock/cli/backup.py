"""`penstock backup` and `penstock restore`: everything of a server on SQLite, in one file."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.output import JsonOption, document, fail, note, say
from penstock.cli.panels import CARE
from penstock.cli.serve import DataOption
from penstock.errors import BackupRefused


def register(cli: typer.Typer) -> None:
    """Add the commands."""
    cli.command(rich_help_panel=CARE)(backup)
    cli.command(rich_help_panel=CARE)(restore)


def backup(
    file: Annotated[
        Path | None,
        typer.Argument(help="The file to write; .gz is compressed. Named by the time if absent."),
    ] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write everything of a server on SQLite into one file, while it runs.

    The file holds the key that opens stored secrets, if the data folder does: keep it as safe.
    """
    from penstock.backup import backup as make
    from penstock.settings import load_settings

    settings = load_settings(data_dir=data)
    path = file or Path(f"penstock-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar")
    try:
        made = asyncio.run(make(settings, path))
    except BackupRefused as exc:
        fail(str(exc), code=2)
    if as_json:
        document(
            {
                "file": str(made.path),
                "bytes": made.size,
                "objects": made.objects,
                "secret_key": made.secret_key,
                "bucket": made.bucket,
            }
        )
    else:
        say(f"{made.path}: {made.size:,} bytes, the database and {made.objects:,} objects")
    if made.bucket:
        note("the objects are in a bucket and not in it: keep versions there, or copy it too")
    if not made.secret_key:
        note("the secret key is not in it: keep PENSTOCK_SECRET_KEY, without it secrets are lost")


def restore(
    file: Annotated[Path, typer.Argument(help="What `penstock backup` wrote.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Put aside what is in the data folder.")
    ] = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a data folder of a backup; no server may run on it.

    What was delivered after the backup was made is delivered again, with the same webhook-id.
    """
    from penstock.backup import restore as put_back
    from penstock.settings import load_settings

    settings = load_settings(data_dir=data)
    try:
        done = put_back(settings, file, replace=replace)
    except BackupRefused as exc:
        fail(str(exc), code=2)
    if as_json:
        document(
            {
                "data_dir": str(done.data_dir),
                "created_at": done.created_at,
                "objects": done.objects,
                "secret_key": done.secret_key,
                "aside": None if done.aside is None else str(done.aside),
            }
        )
    else:
        say(f"{done.data_dir}: as it was at {done.created_at}, with {done.objects:,} objects")
    if done.aside is not None:
        note(f"what was there before is in {done.aside}")
    if not done.secret_key and not settings.secret_key:
        note("the backup has no secret key: set PENSTOCK_SECRET_KEY to the one it was made with")

"""`penstock prune` and `penstock erase`: deleting what is old, and what is one account's.

Both work on the database itself, beside a server that runs or without one.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from penstock.cli.output import JsonOption, document, fail, say
from penstock.cli.panels import CARE
from penstock.cli.serve import DataOption


def register(cli: typer.Typer) -> None:
    """Add the commands."""
    cli.command(rich_help_panel=CARE)(prune)
    cli.command(rich_help_panel=CARE)(erase)


def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, delete nothing.")] = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete what is past its time, as the scheduler does by itself every day."""
    from penstock import upkeep
    from penstock.settings import load_settings

    counts = asyncio.run(upkeep.prune(load_settings(data_dir=data), dry_run=dry_run))
    if as_json:
        document({"dry_run": dry_run, "pruned": counts})
        return
    for name, n in counts.items():
        say(f"{n:10,}  {name}")
    if dry_run:
        say("Nothing was deleted.")


def erase(
    account: Annotated[str, typer.Option(help="The account whose rows are to be deleted.")],
    yes: Annotated[bool, typer.Option("--yes", help="Really delete them.")] = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete everything there is of an account, its keys first. This cannot be undone."""
    from penstock import upkeep
    from penstock.settings import load_settings

    counts = asyncio.run(upkeep.erase(load_settings(data_dir=data), account, dry_run=not yes))
    if as_json:
        document({"account": account, "erased" if yes else "found": counts})
    for name, n in counts.items() if not as_json else ():
        say(f"{n:10,}  {name}")
    if not counts and not as_json:
        say(f"There is nothing of the account {account!r}.")
    if counts and not yes:
        fail("nothing was deleted: say --yes to delete all of this for good", code=2)

"""The child's end of `penstock.work.isolate`; not for people."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def register(cli: typer.Typer) -> None:
    """Add the command, hidden."""
    cli.command("run-claimed-row", hidden=True)(run_claimed_row)


def run_claimed_row(app: Annotated[str | None, typer.Option("--app")] = None) -> None:
    """Run one claimed row, given as JSON on standard input, and settle it."""
    from penstock import server
    from penstock.settings import load_settings
    from penstock.work.isolate import claim_from

    claim = claim_from(sys.stdin.read())
    server.run(lambda: server.run_claimed_row(load_settings(), claim, app_path=app))

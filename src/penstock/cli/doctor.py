"""`penstock doctor`: what is well, what is not, and the cure."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import typer

from penstock.cli.output import JsonOption, document, one_line, say
from penstock.cli.panels import CARE
from penstock.cli.serve import DataOption
from penstock.errors import SettingsError


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command(rich_help_panel=CARE)(doctor)


def doctor(data: DataOption = None, as_json: JsonOption = False) -> None:
    """Check the settings and all that they name, beside a server or without one.

    Ends with 1 if something fails. Nothing is changed, and no secret is shown.
    """
    from penstock.doctor import Finding, examine
    from penstock.settings import load_settings
    from penstock.telemetry import configure_logging

    configure_logging("error")  # what is wrong is told below
    try:
        settings = load_settings(data_dir=data)
    except SettingsError as exc:
        cure = "correct it in the environment, .env or penstock.toml"
        found = [Finding("settings", "fail", str(exc), cure)]
    else:
        found = asyncio.run(examine(settings))
        found.insert(0, Finding("settings", "ok", "every value can be used"))
    worst = next(
        (status for status in ("fail", "warn") if any(each.status == status for each in found)),
        "ok",
    )
    if as_json:
        document({"status": worst, "checks": [asdict(each) for each in found]})
    else:
        for each in found:
            say(f"{each.status:4}  {each.name:10}  {one_line(each.message)}")
            if each.cure is not None:
                say(f"{'':18}-> {one_line(each.cure)}")
    if worst == "fail":
        raise typer.Exit(1)

"""`penstock up`, `api`, `worker`, `scheduler`, `console` and `migrate`: the processes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.output import document, say
from penstock.cli.panels import CARE, RUN

AppOption = Annotated[
    str | None,
    typer.Option("--app", "-A", metavar="MODULE:NAME", help="Where your jobs are declared."),
]
DataOption = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="The data folder. [PENSTOCK_DATA_DIR]")
]


def register(cli: typer.Typer) -> None:
    """Add the commands."""
    cli.command(rich_help_panel=RUN)(up)
    cli.command(rich_help_panel=RUN)(api)
    cli.command(rich_help_panel=RUN)(worker)
    cli.command(rich_help_panel=RUN)(scheduler)
    cli.command(rich_help_panel=RUN)(console)
    cli.command(rich_help_panel=CARE)(migrate)


def up(
    host: Annotated[
        str | None, typer.Option(help="The address to listen on. [PENSTOCK_HOST]")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="The port; a taken one is passed over. [PENSTOCK_PORT]")
    ] = None,
    data: DataOption = None,
    app: AppOption = None,
) -> None:
    """Run everything in one process: API, workers, scheduler."""
    from penstock import server
    from penstock.settings import load_settings

    settings = load_settings(host=host, port=port, data_dir=data)
    server.run(lambda: server.up(settings, app_path=app, announce=say))


def api(
    host: Annotated[
        str | None, typer.Option(help="The address to listen on. [PENSTOCK_HOST]")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="The port; a taken one is passed over. [PENSTOCK_PORT]")
    ] = None,
    data: DataOption = None,
) -> None:
    """Run the API and the console without workers; with PostgreSQL."""
    from penstock import server
    from penstock.settings import load_settings

    settings = load_settings(host=host, port=port, data_dir=data)
    server.run(lambda: server.up(settings, announce=say, working=False))


def console(
    data: DataOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print a link that signs in to the console of the server that runs here, once."""
    from penstock.cli.output import fail
    from penstock.client import Client
    from penstock.settings import load_settings

    settings = load_settings(data_dir=data)
    if settings.url:
        fail(f"sign in at {settings.url} with an API key; only a local server prints links", code=2)
    server = Client(data_dir=settings.data_dir, retries=0)
    url = server.url + server.call("POST", "/sign-in/link")["path"]
    if as_json:
        document({"url": url})
    else:
        say(url)


def worker(app: AppOption = None, data: DataOption = None) -> None:
    """Run workers and scheduler without the API."""
    from penstock import server
    from penstock.settings import load_settings

    settings = load_settings(data_dir=data)
    server.run(lambda: server.work(settings, app_path=app))


def scheduler(app: AppOption = None, data: DataOption = None) -> None:
    """Run the scheduler alone: crons, sweeps, pruning; with PostgreSQL.

    `up` and `worker` have one too; of all that run, one at a time is at work.
    """
    from penstock import server
    from penstock.settings import load_settings

    settings = load_settings(data_dir=data)
    server.run(lambda: server.schedule(settings, app_path=app))


def migrate(
    data: DataOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Create the database's tables, or bring them up to date."""
    from penstock import schema
    from penstock.settings import load_settings

    before, after = schema.migrate(load_settings(data_dir=data))
    if as_json:
        document({"from_revision": before, "to_revision": after})
    elif before == after:
        say(f"The tables are up to date (revision {after}).")
    else:
        say(f"The tables were brought from revision {before or 'none'} to {after}.")

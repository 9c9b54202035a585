"""The command `penstock`: parses, calls, prints.

Exit codes: 0 done, 1 failed, 2 unusable command line or settings, 3 done in part, 4 the server
cannot be reached. Results go to stdout (with ``--json`` one document), everything else to stderr.
"""

from __future__ import annotations

import sys

import typer

from penstock import __version__
from penstock.cli import data, isolated, listen, serve
from penstock.cli import demo as demo_command
from penstock.cli import events as events_commands
from penstock.cli import keys as keys_commands
from penstock.cli import queue as queue_commands
from penstock.cli.output import fail
from penstock.client import Unreachable
from penstock.errors import PenstockError, SettingsError

app = typer.Typer(
    name="penstock",
    help="Background work that is not lost: jobs and signed webhooks.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"penstock {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    pass


serve.register(app)
demo_command.register(app)
isolated.register(app)
data.register(app)
listen.register(app)
app.add_typer(keys_commands.app, name="keys")
app.add_typer(events_commands.app, name="events")
app.add_typer(queue_commands.app, name="queue")


def main() -> None:
    """Run the command line; errors made on purpose become one line and an exit code."""
    try:
        app()
    except SettingsError as exc:
        fail(str(exc), code=2)
    except Unreachable as exc:
        fail(str(exc), code=4)
    except PenstockError as exc:
        fail(str(exc))
    except KeyboardInterrupt:
        sys.exit(130)

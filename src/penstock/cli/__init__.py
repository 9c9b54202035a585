"""The command `penstock`: parses, calls, prints.

Exit codes: 0 done, 1 failed, 2 unusable command line, input or settings, 4 the server cannot be
reached. Results go to stdout (with ``--json`` one document), everything else to stderr.
"""

from __future__ import annotations

import sys

import typer

from penstock import __version__
from penstock.cli import data, isolated, listen, serve
from penstock.cli import demo as demo_command
from penstock.cli import events as events_commands
from penstock.cli import keys as keys_commands
from penstock.cli import replays as replays_commands
from penstock.cli import track as track_command
from penstock.cli.output import fail
from penstock.client import ApiError, Unreachable
from penstock.errors import PenstockError, SettingsError

app = typer.Typer(
    name="penstock",
    help="Background work that is not lost: jobs, signed webhooks, parcels.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_UNUSABLE = frozenset({400, 413, 422})  # the server's words for what is wrong with the input


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
track_command.register(app)
app.add_typer(keys_commands.app, name="keys")
app.add_typer(events_commands.app, name="events")
app.add_typer(replays_commands.app, name="replays")


def main() -> None:
    """Run the command line; errors made on purpose become one line and an exit code."""
    try:
        app()
    except SettingsError as exc:
        fail(str(exc), code=2)
    except Unreachable as exc:
        fail(str(exc), code=4)
    except ApiError as exc:
        fail(str(exc), code=2 if exc.status in _UNUSABLE else 1)
    except PenstockError as exc:
        fail(str(exc))
    except KeyboardInterrupt:
        sys.exit(130)

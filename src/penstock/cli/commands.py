"""Every command, put together."""

from __future__ import annotations

import typer

from penstock import __version__
from penstock.cli import backup, data, doctor, isolated, listen, predict, serve, smoke, train
from penstock.cli import dead as dead_commands
from penstock.cli import demo as demo_command
from penstock.cli import endpoints as endpoints_commands
from penstock.cli import events as events_commands
from penstock.cli import jobs as jobs_commands
from penstock.cli import keys as keys_commands
from penstock.cli import lanes as lanes_commands
from penstock.cli import models as models_commands
from penstock.cli import predictions as predictions_commands
from penstock.cli import profiles as profiles_commands
from penstock.cli import queue as queue_commands
from penstock.cli import replays as replays_commands
from penstock.cli import shipments as shipments_commands
from penstock.cli import track as track_command
from penstock.cli.panels import CARE, WORK

app = typer.Typer(
    name="penstock",
    help="Background work that is not lost: jobs, signed webhooks, parcels, predictions.",
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
train.register(app)
predict.register(app)
data.register(app)
doctor.register(app)
backup.register(app)
listen.register(app)
smoke.register(app)
track_command.register(app)
app.add_typer(keys_commands.app, name="keys", rich_help_panel=CARE)
app.add_typer(profiles_commands.app, name="profiles", rich_help_panel=CARE)
app.add_typer(events_commands.app, name="events", rich_help_panel=WORK)
app.add_typer(replays_commands.app, name="replays", rich_help_panel=WORK)
app.add_typer(endpoints_commands.app, name="endpoints", rich_help_panel=WORK)
app.add_typer(dead_commands.app, name="dead", rich_help_panel=WORK)
app.add_typer(lanes_commands.app, name="lanes", rich_help_panel=WORK)
app.add_typer(jobs_commands.app, name="jobs", rich_help_panel=WORK)
app.add_typer(shipments_commands.app, name="shipments", rich_help_panel=WORK)
app.add_typer(predictions_commands.app, name="predictions", rich_help_panel=WORK)
app.add_typer(models_commands.app, name="models", rich_help_panel=WORK)
app.add_typer(queue_commands.app, name="queue", rich_help_panel=CARE)

"""`penstock predict` and `penstock train`, without the commands that need a server."""

from __future__ import annotations

import typer

from penstock.cli import predict, train

app = typer.Typer(
    name="penstock",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
predict.register(app)
train.register(app)

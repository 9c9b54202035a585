"""`penstock profiles`: servers elsewhere, by a name."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from penstock.cli import stored
from penstock.cli.output import JsonOption, columns, document, fail, say
from penstock.client import Client

app = typer.Typer(help="Servers elsewhere, by a name: --profile NAME.", no_args_is_help=True)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What to call it, such as production.")],
    url: Annotated[str, typer.Option(metavar="URL", help="Such as https://penstock.example.com.")],
    key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Its API key; - reads it from standard input, which nobody else can see.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Store a server's address and key, in the place of what had that name."""
    stored.check_name(name)
    if key == "-":
        key = sys.stdin.readline().strip()
    elif key is None and sys.stdin.isatty():
        key = typer.prompt("API key", hide_input=True, err=True)
    if not key:
        fail("the API key is missing: give --key, or --key - and the key on standard input", code=2)
    with Client(url, key) as server:  # which checks both
        profile = stored.Profile(server.url, key.strip())
    stored.write({**stored.read(), name: profile})
    if as_json:
        document({"name": name, "url": profile.url, "file": str(stored.path())})
    else:
        say(f"Stored in {stored.path()}. Use it: --profile {name}")


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the profiles, without their keys."""
    found = stored.read()
    if as_json:
        document({"items": [{"name": name, "url": each.url} for name, each in found.items()]})
        return
    columns((name, each.url, f"…{each.key[-4:]}") for name, each in found.items())
    if not found:
        say("No profiles yet. Add one: penstock profiles add production --url https://…")


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="Its name.")], as_json: JsonOption = False
) -> None:
    """Forget a server and its key; the key itself stays valid."""
    stored.get(name)
    stored.write({each: profile for each, profile in stored.read().items() if each != name})
    if as_json:
        document({"removed": name})
    else:
        say(f"Removed {name}. Its key stays valid until it is revoked.")

"""`penstock keys`: API keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from penstock.cli.output import JsonOption, document, fail, say
from penstock.cli.remote import Target, with_target
from penstock.client import Client
from penstock.errors import DataDirInUse
from penstock.settings import Settings

if TYPE_CHECKING:
    from penstock.storage import Tx

T = TypeVar("T")
DEFAULT_ACCOUNT = "default"
STARTING: Final = 30.0  # seconds that a server, which owns the data folder, may take to listen

app = typer.Typer(help="API keys.", no_args_is_help=True)


@app.command()
@with_target
def create(
    target: Target,
    name: Annotated[str, typer.Option(help="What the key is for.")],
    scopes: Annotated[
        str | None,
        typer.Option(help="Comma-separated, such as events:write,endpoints:read; all if absent."),
    ] = None,
    expires_in: Annotated[
        str | None, typer.Option(help="How long it is valid, such as 90d; for ever if absent.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Create a key. It is shown once."""
    from penstock.durations import seconds

    body: dict[str, Any] = {"name": name}
    if scopes is not None:
        body["scopes"] = [part.strip() for part in scopes.split(",") if part.strip()]
    if expires_in is not None:
        try:
            body["expires_in"] = seconds(expires_in)
        except ValueError as exc:
            fail(f"--expires-in: {exc}", code=2)
    made = _either(
        target,
        lambda server: server.call("POST", "/v1/keys", body),
        lambda: _create(target.settings, body),
    )
    if as_json:
        document(made)
    else:
        say(made["key"])
        say(f"Shown once. Scopes: {', '.join(made['scopes'])}. Id: {made['id']}.")


@app.command("list")
@with_target
def list_(target: Target, as_json: JsonOption = False) -> None:
    """List the keys; the keys themselves are not stored."""
    items = _either(target, _pages, lambda: _list(target.settings))
    if as_json:
        document({"items": items})
        return
    for item in items:
        until = f"until {item['expires_at']}" if item["expires_at"] else "for ever"
        scopes = ",".join(item["scopes"])
        say(f"{item['id']}  …{item['hint']}  {until:33}  {item['name']}  {scopes}")
    if not items:
        say("No keys yet. Make one: penstock keys create --name first")


@app.command()
@with_target
def revoke(target: Target, key_id: str, as_json: JsonOption = False) -> None:
    """Revoke a key by its id; it stops working at once."""
    _either(
        target,
        lambda server: server.keys.revoke(key_id),
        lambda: _revoke(target.settings, key_id),
    )
    if as_json:
        document({"revoked": key_id})
    else:
        say(f"Revoked {key_id}.")


def _either(
    target: Target, ask: Callable[[Client], T], alone: Callable[[], Coroutine[Any, Any, T]]
) -> T:
    """By the server, if one runs, else on the database; a server that is starting is waited for."""
    give_up = time.monotonic() + STARTING
    while True:
        if server := target.running():
            return ask(server)
        try:
            return asyncio.run(alone())
        except DataDirInUse:
            if time.monotonic() >= give_up:
                raise


def _pages(server: Client) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = server.call("GET", "/v1/keys", query={"cursor": cursor, "limit": 100})
        items += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return items


# Without a running server the commands work on the database itself.


async def _create(settings: Settings, body: dict[str, Any]) -> dict[str, Any]:
    from penstock.api import keys
    from penstock.clock import SECOND

    def create(tx: Tx) -> tuple[keys.Key, str]:
        lifetime = body.get("expires_in")
        expires_at = None if lifetime is None else tx.now() + round(lifetime * SECOND)
        return keys.create(
            tx, DEFAULT_ACCOUNT, body["name"], body.get("scopes"), expires_at=expires_at
        )

    try:
        key, secret = await _unit(settings, create)
    except ValueError as exc:
        fail(str(exc), code=2)
    return {**keys.view(key), "key": secret}


async def _list(settings: Settings) -> list[dict[str, Any]]:
    from penstock.api import keys

    found = await _unit(settings, lambda tx: keys.page(tx, DEFAULT_ACCOUNT, limit=10_000))
    return [keys.view(key) for key in found]


async def _revoke(settings: Settings, key_id: str) -> None:
    from penstock.api import keys

    if not await _unit(settings, lambda tx: keys.revoke(tx, DEFAULT_ACCOUNT, key_id)):
        fail(f"there is no key {key_id}")


async def _unit(settings: Settings, fn: Callable[[Tx], T]) -> T:
    from penstock import backends, schema
    from penstock.clock import SystemClock

    await asyncio.to_thread(schema.migrate, settings)
    database = backends.make_database(settings, SystemClock(), owner=True)
    await database.open()
    try:
        return await database.unit(fn)
    finally:
        await database.close()

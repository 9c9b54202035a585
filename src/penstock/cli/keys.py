"""`penstock keys`: API keys."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from penstock.cli.output import JsonOption, document, fail, say
from penstock.cli.remote import running
from penstock.cli.serve import DataOption
from penstock.settings import Settings, load_settings
from penstock.storage import Tx

T = TypeVar("T")
DEFAULT_ACCOUNT = "default"

app = typer.Typer(help="API keys.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Option(help="What the key is for.")],
    scopes: Annotated[
        str | None,
        typer.Option(help="Comma-separated, such as events:write,endpoints:read; all if absent."),
    ] = None,
    expires_in: Annotated[
        str | None, typer.Option(help="How long it is valid, such as 90d; for ever if absent.")
    ] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a key. It is shown once."""
    from penstock.durations import seconds

    settings = load_settings(data_dir=data)
    body: dict[str, Any] = {"name": name}
    if scopes is not None:
        body["scopes"] = [part.strip() for part in scopes.split(",") if part.strip()]
    if expires_in is not None:
        try:
            body["expires_in"] = seconds(expires_in)
        except ValueError as exc:
            fail(f"--expires-in: {exc}", code=2)
    server = running(settings)
    made = server.call("POST", "/v1/keys", body) if server else asyncio.run(_create(settings, body))
    if as_json:
        document(made)
    else:
        say(made["key"])
        say(f"Shown once. Scopes: {', '.join(made['scopes'])}. Id: {made['id']}.")


@app.command("list")
def list_(data: DataOption = None, as_json: JsonOption = False) -> None:
    """List the keys; the keys themselves are not stored."""
    settings = load_settings(data_dir=data)
    server = running(settings)
    items = _pages(server) if server else asyncio.run(_list(settings))
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
def revoke(key_id: str, data: DataOption = None) -> None:
    """Revoke a key by its id; it stops working at once."""
    settings = load_settings(data_dir=data)
    if server := running(settings):
        server.call("DELETE", f"/v1/keys/{key_id}")
    elif not asyncio.run(_revoke(settings, key_id)):
        fail(f"there is no key {key_id}")
    say(f"Revoked {key_id}.")


def _pages(server: Any) -> list[dict[str, Any]]:
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


async def _revoke(settings: Settings, key_id: str) -> bool:
    from penstock.api import keys

    return await _unit(settings, lambda tx: keys.revoke(tx, DEFAULT_ACCOUNT, key_id))


async def _unit(settings: Settings, fn: Callable[[Tx], T]) -> T:
    from penstock import runtime
    from penstock.clock import SystemClock

    await asyncio.to_thread(runtime.migrate, settings)
    database = runtime.make_database(settings, SystemClock(), owner=True)
    await database.open()
    try:
        return await database.unit(fn)
    finally:
        await database.close()

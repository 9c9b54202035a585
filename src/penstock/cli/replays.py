"""`penstock events replay` and `penstock replays`: sending events again."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Final

import typer

from penstock.cli.output import JsonOption, document, fail, say
from penstock.cli.remote import Target, with_server, with_target
from penstock.client import ApiError, Client, Replay, Unreachable
from penstock.clock import from_iso, to_iso

LONGEST_PAUSE: Final = 2.0  # seconds between looks at how far it is

app = typer.Typer(help="Replays: how far they are, and ending them.", no_args_is_help=True)

_SHOW = "penstock replays show"
_CANCEL = "penstock replays cancel"


@with_target
def replay(
    target: Target,
    event_id: Annotated[
        str | None, typer.Argument(help="One event; leave it out to choose many by options.")
    ] = None,
    type_: Annotated[
        str | None,
        typer.Option("--type", help="Comma-separated event types, such as 'order.*,cart.left'."),
    ] = None,
    status: Annotated[
        str | None, typer.Option(help="pending, delivered, failed or replayed.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Accepted at this time (RFC 3339) or later.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Accepted before this time (RFC 3339).")] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="To this endpoint alone; of one event, may be repeated."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every event that there is.")] = False,
    include_missing: Annotated[
        bool, typer.Option("--include-missing", help="Also to endpoints that never had it.")
    ] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Start it and leave; it runs in the server.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Send an event again, or all that match, and show how far that is.

    Ctrl-C leaves the replay of many running. Of events with --status failed only the deliveries
    that were not made are sent.
    """
    types = [part.strip() for part in (type_ or "").split(",") if part.strip()]
    endpoints = endpoint or []
    filtered = bool(types or status or since or until)
    if event_id is not None:
        if filtered or every:
            fail("name an event or choose by --type, --status, --since, --until: not both", code=2)
        _replay_one(target.server(), event_id, endpoints, include_missing, as_json)
        return
    if not (filtered or endpoints or every):
        fail(
            "name an event, or choose by --type, --status, --since, --until or --endpoint;"
            " --all takes every event",
            code=2,
        )
    if len(endpoints) > 1:
        fail("--endpoint: only of one event may it be repeated", code=2)
    after, before = _instant("--since", since), _instant("--until", until)
    server = target.server()
    found = server.replays.create(
        event_types=types or None,
        status=status,
        since=after,
        until=before,
        endpoint_id=endpoints[0] if endpoints else None,
        include_missing=include_missing,
    )
    if not no_wait:
        found = _follow(server, found, as_json)
    _tell(found, as_json)
    if found.status in ("cancelled", "dead"):
        fail(f"{found.replay_id} ended before its time: {found.last_error or 'it was cancelled'}")


@app.command("list")
@with_server
def list_(server: Client, as_json: JsonOption = False) -> None:
    """List the replays, newest first."""
    items = list(server.replays.list())
    if as_json:
        document({"items": [item.to_json() for item in items]})
        return
    for item in items:
        say(_line(item))
    if not items:
        say("No replays yet. Begin one: penstock events replay --status failed")


@app.command()
@with_server
def show(server: Client, replay_id: str, as_json: JsonOption = False) -> None:
    """Show how far a replay is."""
    _tell(server.replays.get(replay_id), as_json)


@app.command()
@with_server
def cancel(server: Client, replay_id: str, as_json: JsonOption = False) -> None:
    """End a replay: what it added and nobody tried yet is as it was before."""
    _tell(server.replays.cancel(replay_id), as_json)


def _replay_one(
    server: Client, event_id: str, endpoints: list[str], include_missing: bool, as_json: bool
) -> None:
    event = server.events.replay(
        event_id, endpoint_ids=endpoints or None, include_missing=include_missing
    )
    if as_json:
        document(event.to_json())
        return
    say(
        f"{event.event_id}  {event.status}  deliveries: {event.replayed} sent again,"
        f" {event.added} added, {event.left_pending} under way already"
    )


def _follow(server: Client, found: Replay, as_json: bool) -> Replay:
    """The replay at its end; how far it is meanwhile is shown where somebody watches."""
    id_, pause = found.replay_id, 0.2
    try:
        while found.status == "pending":
            _progress(_line(found))
            time.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 1.5)
            found = server.replays.get(id_)
        _progress("")
    except KeyboardInterrupt:
        _progress("")
        if as_json:
            document(found.to_json())
        _note(f"{id_} goes on in the server: `{_SHOW} {id_}` shows it, `{_CANCEL} {id_}` ends it")
        raise
    except (ApiError, Unreachable) as exc:
        _progress("")
        code = 4 if isinstance(exc, Unreachable) else 1
        fail(f"{exc}; {id_} goes on when the server does: `{_SHOW} {id_}`", code=code)
    return found


def _tell(found: Replay, as_json: bool) -> None:
    if as_json:
        document(found.to_json())
    else:
        say(_line(found))


def _line(found: Replay) -> str:
    most = "over a million" if found.estimate is None else f"{found.estimate:,}"
    text = (
        f"{found.replay_id}  {found.status:9}  {found.looked_at:,} of {most} events,"
        f" {found.replayed:,} deliveries: {found.delivered:,} delivered, {found.dead:,} dead,"
        f" {found.outstanding:,} outstanding"
    )
    if found.behind and found.status == "pending":
        text += f"; waiting for {', '.join(found.behind)}"
    return text


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)  # over the line before


def _note(line: str) -> None:
    print(f"penstock: {line}", file=sys.stderr, flush=True)


def _instant(option: str, text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return to_iso(from_iso(text))
    except ValueError:
        fail(f"{option}: write a time as 2026-01-31T12:00:00Z, with a zone", code=2)

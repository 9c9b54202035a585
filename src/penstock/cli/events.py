"""`penstock events`: send, watch, send again."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from penstock.cli.output import JsonOption, document, fail, say
from penstock.cli.remote import required
from penstock.cli.replays import replay
from penstock.cli.serve import DataOption
from penstock.client import Client
from penstock.settings import load_settings

app = typer.Typer(help="Send events, watch them, send them again.", no_args_is_help=True)


@app.command()
def send(
    event_type: Annotated[str, typer.Argument(help="Such as order.created.")],
    payload: Annotated[
        str, typer.Argument(help="A JSON object; @FILE reads a file, - standard input.")
    ] = "{}",
    idempotency_key: Annotated[
        str | None, typer.Option(help="Makes sending it again harmless.")
    ] = None,
    wait: Annotated[
        int, typer.Option(min=0, max=20, help="Wait so many seconds for it to be delivered.")
    ] = 0,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send one event."""
    settings = load_settings(data_dir=data)
    body: dict[str, Any] = {"event_type": event_type, "payload": _payload(payload)}
    if idempotency_key is not None:
        body["idempotency_key"] = idempotency_key
    headers = {"Prefer": f"wait={wait}"} if wait else {}
    event = required(settings).call("POST", "/v1/events", body, headers=headers)
    if as_json:
        document(event)
    else:
        say(f"{event['event_id']}  {event['status']}  {event['message']}")


@app.command()
def tail(
    event_type: Annotated[str | None, typer.Option(help="Only this type.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Begin with events from this time on (RFC 3339).")
    ] = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 1.0,
    once: Annotated[bool, typer.Option(help="Stop after the first look.")] = False,
    data: DataOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line.")] = False,
) -> None:
    """Print events as they are accepted, and again when their status changes."""
    server = required(load_settings(data_dir=data))
    known: dict[str, str] = {}
    newest = None if since else _newest(server, event_type)
    while True:
        found = _fresh(server, event_type, since, newest)
        for event in found:
            if known.get(event["event_id"]) == event["status"]:
                continue
            known[event["event_id"]] = event["status"]
            if as_json:
                document(event)
            else:
                say(
                    f"{event['created_at']}  {event['status']:10} {event['event_type']:30}"
                    f" {event['event_id']}"
                )
        if once:
            return
        # What has come to its end before the first event that has not need not be read again.
        for event in found:
            if event["status"] == "pending":
                break
            newest = event["event_id"]
            known.pop(newest, None)
        time.sleep(every)


app.command()(replay)


def _payload(text: str) -> Any:
    read: str | bytes = text
    if text == "-":
        read = sys.stdin.buffer.read()
    elif text.startswith("@"):
        try:
            read = Path(text[1:]).read_bytes()
        except OSError as exc:
            fail(f"{text[1:]}: {exc.strerror}", code=2)
    try:
        payload = json.loads(read)
        json.dumps(payload, allow_nan=False)  # NaN, 1e999: Python reads what is no JSON
    except RecursionError:
        fail("the payload is nested too deeply", code=2)
    except ValueError as exc:
        fail(f"the payload is not JSON: {exc}", code=2)
    if not isinstance(payload, dict):
        fail("the payload must be a JSON object, such as '{\"order\": 1042}'", code=2)
    return payload


def _newest(server: Client, event_type: str | None) -> str | None:
    page = server.call("GET", "/v1/events", query={"limit": 1, "event_type": event_type})
    return page["items"][0]["event_id"] if page["items"] else None


def _fresh(
    server: Client, event_type: str | None, since: str | None, newest: str | None
) -> list[dict[str, Any]]:
    """Events after `newest`, or from `since` on, oldest first."""
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        query = {"limit": 100, "event_type": event_type, "since": since, "cursor": cursor}
        page = server.call("GET", "/v1/events", query=query)
        for event in page["items"]:
            # Ids are ordered by time.
            if newest is not None and event["event_id"] <= newest:
                return found[::-1]
            found.append(event)
        cursor = page["next_cursor"]
        if cursor is None or len(found) >= 1000:
            return found[::-1]

"""`penstock events`: send, see, watch, send again."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from penstock.cli.output import JsonOption, columns, document, fail, fields, say, shown_all
from penstock.cli.remote import LimitOption, Target, listed, with_server, with_target
from penstock.cli.replays import replay
from penstock.client import Client
from penstock.client.calls import at

app = typer.Typer(help="Send events, watch them, send them again.", no_args_is_help=True)


@app.command()
@with_target
def send(
    target: Target,
    event_type: Annotated[str, typer.Argument(help="Such as order.created.")],
    payload: Annotated[
        str, typer.Argument(help="A JSON object; @FILE reads a file, - standard input.")
    ] = "{}",
    idempotency_key: Annotated[
        str | None, typer.Option(help="Makes sending it again harmless.")
    ] = None,
    ordering_key: Annotated[
        str | None, typer.Option(help="Events with the same one go to an endpoint in their order.")
    ] = None,
    deliver_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="Not before this time (RFC 3339).")
    ] = None,
    wait: Annotated[
        int, typer.Option(min=0, max=20, help="Wait so many seconds for it to be delivered.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Send one event."""
    body: dict[str, Any] = {"event_type": event_type, "payload": _payload(payload)}
    given = {
        "idempotency_key": idempotency_key,
        "ordering_key": ordering_key,
        "deliver_at": deliver_at,
    }
    body |= {name: value for name, value in given.items() if value is not None}
    headers = {"Prefer": f"wait={wait}"} if wait else {}
    event = target.server().call("POST", "/v1/events", body, headers=headers)
    if as_json:
        document(event)
    else:
        say(f"{event['event_id']}  {event['status']}  {event['message']}")


@app.command("list")
@with_server
def list_(
    server: Client,
    event_type: Annotated[str | None, typer.Option(help="Only this type.")] = None,
    status: Annotated[
        str | None, typer.Option(help="pending, delivered, failed or replayed.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Accepted then (RFC 3339) or later.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Accepted before this time (RFC 3339).")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="ID", help="With a delivery to this endpoint.")
    ] = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """List events, newest first."""
    items, more = listed(
        server,
        "/v1/events",
        limit,
        event_type=event_type,
        status=status,
        since=since,
        until=until,
        endpoint=endpoint,
    )
    nothing = "No events. Send one: penstock events send order.created '{\"order\": 1042}'"
    if shown_all(items, more, as_json, nothing):
        columns(
            (
                each["event_id"],
                each["status"],
                each["created_at"],
                each["event_type"],
                each["message"],
            )
            for each in items
        )


@app.command()
@with_server
def show(
    server: Client,
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID")],
    as_json: JsonOption = False,
) -> None:
    """Show an event with its deliveries, their attempts, and what they wait for."""
    event = server.call("GET", at("events", event_id))
    if as_json:
        document(event)
        return
    written = json.dumps(event["payload"], ensure_ascii=False)
    deliveries = event.pop("deliveries")
    fields({**event, "payload": written, "metadata": None})
    for delivery in deliveries:
        say()
        why = delivery["why"]["message"] if delivery["why"] else delivery["last_error"]
        fields(
            {
                "delivery": f"{delivery['delivery_id']} to {delivery['endpoint_id']}",
                "status": delivery["status"],
                "why": why,
            }
        )
        columns(
            (
                f"  {attempt['number']}.",
                attempt["started_at"],
                f"{attempt['duration'] * 1000:.0f} ms",
                attempt["status_code"] or attempt["error_kind"],
                attempt["error"],
            )
            for attempt in delivery["attempt_log"]
        )


@app.command()
@with_server
def delete(
    server: Client,
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID")],
    as_json: JsonOption = False,
) -> None:
    """Delete an event with its deliveries; what is pending of it is not sent."""
    server.events.delete(event_id)
    if as_json:
        document({"deleted": event_id})
    else:
        say(f"Deleted {event_id}.")


@app.command()
@with_server
def tail(
    server: Client,
    event_type: Annotated[str | None, typer.Option(help="Only this type.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Begin with events from this time on (RFC 3339).")
    ] = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 1.0,
    once: Annotated[bool, typer.Option(help="Stop after the first look.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line.")] = False,
) -> None:
    """Print events as they are accepted, and again when their status changes."""
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

"""`penstock endpoints`: where events are pushed to."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from penstock.cli.output import JsonOption, columns, document, fail, fields, say, shown_all
from penstock.cli.remote import LimitOption, listed, with_server
from penstock.client import Client
from penstock.client.calls import at
from penstock.durations import seconds

app = typer.Typer(help="Endpoints: where events are pushed to.", no_args_is_help=True)

EndpointArgument = Annotated[str, typer.Argument(metavar="ENDPOINT_ID")]
EventsOption = Annotated[
    str | None,
    typer.Option("--events", help="Comma-separated event types, such as 'order.*,cart.left'."),
]
FilterOption = Annotated[
    str | None,
    typer.Option(
        "--filter",
        metavar="JSON",
        help='Conditions on the contents, such as \'{"payload.total": {"gte": 100}}\'.',
    ),
]
DescriptionOption = Annotated[str | None, typer.Option("--description", help="For people.")]
HeaderOption = Annotated[
    list[str] | None,
    typer.Option(
        "--header", metavar="NAME=VALUE", help="Sent with each push; may be repeated. Kept secret."
    ),
]
TimeoutOption = Annotated[
    str | None, typer.Option("--timeout", metavar="DURATION", help="For its answer; 30s at most.")
]
RateOption = Annotated[
    str | None, typer.Option("--rate-limit", metavar="N", help="Pushes a second.")
]
InFlightOption = Annotated[
    int | None, typer.Option("--max-in-flight", min=1, help="Pushes under way at once.")
]
ScheduleOption = Annotated[
    str | None,
    typer.Option("--schedule", metavar="DURATIONS", help="Waits between attempts, as 1s,30s,5m."),
]
PermanentOption = Annotated[
    str | None,
    typer.Option(
        "--on-permanent",
        metavar="WHAT",
        help="After an answer such as 404: long waits much longer, dead gives up.",
    ),
]
DeadOption = Annotated[
    str | None,
    typer.Option(
        "--on-dead",
        metavar="WHAT",
        help="What has the same ordering key as a dead delivery may continue, or must halt.",
    ),
]


@app.command()
@with_server
def create(
    server: Client,
    target: Annotated[
        str, typer.Argument(help="A URL; for other kinds an address, a number, a queue's URL.")
    ],
    kind: Annotated[str, typer.Option(help="webhook, email, sms or sqs.")] = "webhook",
    events: EventsOption = None,
    filter_: FilterOption = None,
    description: DescriptionOption = None,
    header: HeaderOption = None,
    timeout: TimeoutOption = None,
    rate_limit: RateOption = None,
    max_in_flight: InFlightOption = None,
    schedule: ScheduleOption = None,
    on_permanent: PermanentOption = None,
    on_dead: DeadOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add an endpoint. Its signing secret is shown once."""
    body = _body(
        events=events,
        filter=filter_,
        description=description,
        header=header,
        timeout=timeout,
        rate_limit=rate_limit,
        max_in_flight=max_in_flight,
        schedule=schedule,
        on_permanent=on_permanent,
        on_dead=on_dead,
    )
    made = server.call("POST", "/v1/endpoints", {"kind": kind, "target": target, **body})
    if as_json:
        document(made)
        return
    say(made["endpoint_id"])
    if made["secret"] is not None:
        say(f"Signing secret, shown once: {made['secret']}")
    say(f"Try it: penstock endpoints test {made['endpoint_id']}")


@app.command("list")
@with_server
def list_(server: Client, limit: LimitOption = 50, as_json: JsonOption = False) -> None:
    """List the endpoints, newest first."""
    items, more = listed(server, "/v1/endpoints", limit)
    nothing = "No endpoints yet. Add one: penstock endpoints create https://… --events 'order.*'"
    if shown_all(items, more, as_json, nothing):
        columns(
            (
                each["endpoint_id"],
                each["kind"],
                "enabled" if each["enabled"] else f"disabled ({each['disabled_reason']})",
                each["target"],
                ",".join(each["event_types"]),
                each["description"],
            )
            for each in items
        )


@app.command()
@with_server
def show(server: Client, endpoint_id: EndpointArgument, as_json: JsonOption = False) -> None:
    """Show an endpoint; its secret is not shown again."""
    _tell(server.call("GET", at("endpoints", endpoint_id)), as_json)


@app.command()
@with_server
def update(
    server: Client,
    endpoint_id: EndpointArgument,
    target: Annotated[str | None, typer.Option(help="Another place of the same kind.")] = None,
    events: EventsOption = None,
    filter_: FilterOption = None,
    description: DescriptionOption = None,
    header: HeaderOption = None,
    timeout: TimeoutOption = None,
    rate_limit: RateOption = None,
    max_in_flight: InFlightOption = None,
    schedule: ScheduleOption = None,
    on_permanent: PermanentOption = None,
    on_dead: DeadOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change what is given; `none` takes a filter, a header list or a limit away."""
    body = _body(
        events=events,
        filter=filter_,
        description=description,
        header=header,
        timeout=timeout,
        rate_limit=rate_limit,
        max_in_flight=max_in_flight,
        schedule=schedule,
        on_permanent=on_permanent,
        on_dead=on_dead,
    )
    if target is not None:
        body["target"] = target
    if not body:
        fail("give at least one option to change; --help lists them", code=2)
    _tell(server.call("PATCH", at("endpoints", endpoint_id), body), as_json)


@app.command()
@with_server
def delete(server: Client, endpoint_id: EndpointArgument, as_json: JsonOption = False) -> None:
    """Delete an endpoint and cancel its pending deliveries."""
    server.endpoints.delete(endpoint_id)
    if as_json:
        document({"deleted": endpoint_id})
    else:
        say(f"Deleted {endpoint_id}.")


@app.command()
@with_server
def rotate(
    server: Client,
    endpoint_id: EndpointArgument,
    overlap: Annotated[
        str, typer.Option(metavar="DURATION", help="How long the old secret signs too; 7d at most.")
    ] = "24h",
    as_json: JsonOption = False,
) -> None:
    """Make a new signing secret, shown once; the old one signs too for a while."""
    made = server.call(
        "POST",
        at("endpoints", endpoint_id, "secret", "rotate"),
        {"overlap_seconds": round(_seconds("--overlap", overlap))},
    )
    if as_json:
        document(made)
        return
    say(f"New signing secret, shown once: {made['secret']}")
    say(f"The old one signs too until {made['old_secret_until']}.")


@app.command("test")
@with_server
def send_test(server: Client, endpoint_id: EndpointArgument, as_json: JsonOption = False) -> None:
    """Send an event of type penstock.test to this endpoint alone."""
    made = server.call("POST", at("endpoints", endpoint_id, "test"))
    if as_json:
        document(made)
    else:
        say(f"{made['event_id']}  See what became of it: penstock events show {made['event_id']}")


@app.command()
@with_server
def enable(server: Client, endpoint_id: EndpointArgument, as_json: JsonOption = False) -> None:
    """Send what waits for an endpoint, and what comes."""
    _tell(server.call("POST", at("endpoints", endpoint_id, "enable")), as_json)


@app.command()
@with_server
def disable(server: Client, endpoint_id: EndpointArgument, as_json: JsonOption = False) -> None:
    """Let an endpoint's deliveries wait until it is enabled."""
    _tell(server.call("POST", at("endpoints", endpoint_id, "disable")), as_json)


@app.command()
@with_server
def recover(
    server: Client,
    endpoint_id: EndpointArgument,
    since: Annotated[str, typer.Option(metavar="TIME", help="Accepted then (RFC 3339) or later.")],
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Accepted before this time (RFC 3339).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Send an endpoint what failed since then, and what it was never sent, as a replay."""
    body = {"since": since} | ({"until": until} if until else {})
    made = server.call("POST", at("endpoints", endpoint_id, "recover"), body)
    if as_json:
        document(made)
    else:
        say(f"{made['replay_id']}  See how far it is: penstock replays show {made['replay_id']}")


def _tell(endpoint: dict[str, Any], as_json: bool) -> None:
    if as_json:
        document(endpoint)
        return
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in endpoint.items()
        if value not in (None, "", [])
    }
    fields(texts)


def _body(**given: Any) -> dict[str, Any]:
    """The request's fields of the options that were given."""
    body: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        match name:
            case "events":
                body["event_types"] = [part.strip() for part in value.split(",") if part.strip()]
            case "filter":
                body["filter"] = None if value == "none" else _object(value)
            case "header":
                body["headers"] = None if value == ["none"] else dict(map(_pair, value))
            case "timeout":
                body["timeout"] = None if value == "none" else _seconds("--timeout", value)
            case "rate_limit":
                body["rate_limit"] = None if value == "none" else _number(value)
            case "schedule":
                body["schedule"] = None if value == "none" else _waits(value)
            case _:
                body[name] = value
    return body


def _waits(text: str) -> list[float]:
    return [_seconds("--schedule", part.strip()) for part in text.split(",") if part.strip()]


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        fail(f"--filter: it is not JSON: {exc}", code=2)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        # Without the text: it may be a credential.
        fail("--header: it is NAME=VALUE, such as 'Authorization=Bearer …'", code=2)
    return name, value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        fail(f"--rate-limit: it is a number such as 2.5, or none, not {text}", code=2)


def _seconds(option: str, text: str) -> float:
    try:
        return seconds(text)
    except ValueError as exc:
        fail(f"{option}: {exc}", code=2)

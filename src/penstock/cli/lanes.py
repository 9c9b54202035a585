"""`penstock lanes`: the gates that work passes through."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from penstock.cli.output import JsonOption, columns, document, fail, fields, say, shown_all
from penstock.cli.remote import LimitOption, listed, with_server
from penstock.client import Client
from penstock.client.calls import at
from penstock.durations import describe

app = typer.Typer(
    help="Lanes, the gates that work passes through: pause, limit, hold their circuits.",
    no_args_is_help=True,
)

LaneArgument = Annotated[str, typer.Argument(metavar="LANE", help="Its id, as `list` shows it.")]
ForOption = Annotated[
    str,
    typer.Option("--for", metavar="DURATION", help="How long, such as 30m or 2h; 7d at most."),
]
WhyOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is logged.")]


@app.command("list")
@with_server
def list_(
    server: Client,
    kind: Annotated[str | None, typer.Option(help="Of this kind of work alone.")] = None,
    stopped: Annotated[
        bool, typer.Option("--stopped", help="Only what lets nothing through, or only a probe.")
    ] = False,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """List lanes: what they let through, and what waits behind them."""
    query = {"kind": kind, "stopped": "true" if stopped else None}
    items, more = listed(server, "/v1/lanes", limit, **query)
    nothing = "No lane is stopped." if stopped else "No lanes yet: work makes them."
    if shown_all(items, more, as_json, nothing):
        columns(
            (
                each["lane"],
                each["state"],
                f"{_count(each['waiting'])} waiting",
                f"{each['in_flight']} of {each['max_in_flight']} in flight",
                f"{each['rate']:g}/s" if each["rate"] else None,
                each["title"],
            )
            for each in items
        )


@app.command()
@with_server
def show(server: Client, lane: LaneArgument, as_json: JsonOption = False) -> None:
    """Show a lane and the latest changes of its circuit."""
    _tell(server.call("GET", at("lanes", lane)), as_json)


@app.command()
@with_server
def pause(server: Client, lane: LaneArgument, as_json: JsonOption = False) -> None:
    """Let nothing more through; what runs goes on, the rest waits."""
    _tell(server.call("PATCH", at("lanes", lane), {"paused": True}), as_json)


@app.command()
@with_server
def resume(server: Client, lane: LaneArgument, as_json: JsonOption = False) -> None:
    """Let what waits through again."""
    _tell(server.call("PATCH", at("lanes", lane), {"paused": False}), as_json)


@app.command("set")
@with_server
def set_(
    server: Client,
    lane: LaneArgument,
    rate: Annotated[
        str | None, typer.Option(metavar="N", help="Rows a second; none takes the limit away.")
    ] = None,
    max_in_flight: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Rows under way at once.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Give a lane other limits.

    Those of jobs are their code's and those of carriers the settings': they are back at the next
    start.
    """
    body: dict[str, Any] = {}
    if rate is not None:
        try:
            body["rate"] = None if rate == "none" else float(rate)
        except ValueError:
            fail(f"--rate: it is a number such as 2.5, or none, not {rate}", code=2)
    if max_in_flight is not None:
        body["max_in_flight"] = max_in_flight
    if not body:
        fail("give --rate or --max-in-flight", code=2)
    _tell(server.call("PATCH", at("lanes", lane), body), as_json)


@app.command("open")
@with_server
def open_(
    server: Client,
    lane: LaneArgument,
    for_: ForOption,
    reason: WhyOption,
    as_json: JsonOption = False,
) -> None:
    """Hold a lane's circuit open for a while: nothing passes."""
    _hold(server, lane, "open", for_, reason, as_json)


@app.command()
@with_server
def close(
    server: Client,
    lane: LaneArgument,
    for_: ForOption,
    reason: WhyOption,
    as_json: JsonOption = False,
) -> None:
    """Hold a lane's circuit closed for a while: no failure opens it."""
    _hold(server, lane, "closed", for_, reason, as_json)


@app.command()
@with_server
def release(server: Client, lane: LaneArgument, as_json: JsonOption = False) -> None:
    """Leave a lane's circuit to itself again, before its time."""
    _tell(server.call("POST", at("lanes", lane) + "/circuit/release"), as_json)


def _hold(server: Client, lane: str, state: str, for_: str, reason: str, as_json: bool) -> None:
    body = {"state": state, "for": for_, "reason": reason}
    _tell(server.call("POST", at("lanes", lane) + "/circuit", body), as_json)


def _tell(lane: dict[str, Any], as_json: bool) -> None:
    if as_json:
        document(lane)
        return
    held = f", held {lane['held']} until {lane['held_until']}" if lane["held"] else ""
    fields(
        {
            "lane": lane["lane"],
            "leads to": lane["title"],
            "state": lane["state"],
            "paused because": lane["paused_because"],
            "opens at": lane["opens_at"],
            "circuit": lane["circuit"] + held,
            "failures": f"{lane['failures_in_a_row']} in a row"
            + (f", opens at {lane['trips_at']}" if lane["trips_at"] else ""),
            "rate": f"{lane['rate']:g} a second" if lane["rate"] else None,
            "in flight": f"{lane['in_flight']} of {lane['max_in_flight']}",
            "waiting": _count(lane["waiting"]),
            "late": describe(round(lane["late"])) if lane["late"] >= 1 else None,
        }
    )
    for change in lane["log"]:
        say(f"{change['at']}  {change['state']}  {change['actor']}: {change['reason']}")


def _count(counted: dict[str, Any]) -> str:
    return f"{counted['count']:,}{'+' if counted['more'] else ''}"

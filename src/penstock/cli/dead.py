"""`penstock dead`: work that gave up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer

from penstock.cli.output import (
    JsonOption,
    YesOption,
    columns,
    confirm,
    document,
    fail,
    fields,
    note,
    say,
    shown_all,
)
from penstock.cli.remote import LimitOption, listed, with_server
from penstock.client import ApiError, Client
from penstock.client.calls import at

app = typer.Typer(
    help="Work that gave up: see why, send it again, put it away.", no_args_is_help=True
)

KindOption = Annotated[
    str | None, typer.Option(help="Of this kind of work alone, such as delivery or job.")
]
LaneOption = Annotated[str | None, typer.Option(help="In this lane alone.")]
ReasonOption = Annotated[
    str | None, typer.Option(metavar="TEXT", help="With this in its reason, whatever its case.")
]
IdsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="ID", help="Dead rows; leave them out to choose by options."),
]
AllOption = Annotated[bool, typer.Option("--all", help="Everything that is dead.")]


@app.command("list")
@with_server
def list_(
    server: Client,
    kind: KindOption = None,
    lane: LaneOption = None,
    reason: ReasonOption = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """List what is dead, with the reason, the latest accepted first."""
    items, more = listed(server, "/v1/dead", limit, kind=kind, lane=lane, reason=reason)
    if shown_all(items, more, as_json, "Nothing is dead."):
        columns(
            (each["id"], each["kind"], each["died_at"], each["title"], each["reason"])
            for each in items
        )


@app.command()
@with_server
def counts(server: Client, as_json: JsonOption = False) -> None:
    """Count what is dead, by kind of work."""
    found = server.call("GET", "/v1/dead/counts")
    if as_json:
        document(found)
        return
    columns(
        (f"{each['count']:,}{'+' if each['more'] else ''}", kind)
        for kind, each in found["kinds"].items()
    )


@app.command()
@with_server
def show(
    server: Client,
    dead_id: Annotated[str, typer.Argument(metavar="ID")],
    as_json: JsonOption = False,
) -> None:
    """Show a dead row: what it is, and why it gave up."""
    found = server.call("GET", at("dead", dead_id))
    if as_json:
        document(found)
    else:
        fields(found)


@app.command()
@with_server
def redrive(
    server: Client,
    ids: IdsArgument = None,
    kind: KindOption = None,
    lane: LaneOption = None,
    reason: ReasonOption = None,
    every: AllOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Send dead work again, with its attempts from the start.

    What is alive by now, or in the way of another of its kind, is left alone: then it ends with 3,
    or with 1 if nothing could be moved.
    """
    _move(server, "redrive", ids or [], _Filter(kind, lane, reason, every), yes, as_json)


@app.command()
@with_server
def drop(
    server: Client,
    ids: IdsArgument = None,
    kind: KindOption = None,
    lane: LaneOption = None,
    reason: ReasonOption = None,
    every: AllOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put dead work away for good: it is cancelled, and deleted when its time is over."""
    _move(server, "drop", ids or [], _Filter(kind, lane, reason, every), yes, as_json)


@dataclass(frozen=True, slots=True)
class _Filter:
    """Which dead rows, if they are not named."""

    kind: str | None
    lane: str | None
    reason: str | None
    every: bool

    @property
    def empty(self) -> bool:
        """Whether it chooses nothing."""
        return not (self.every or self.narrow or self.kind)

    @property
    def narrow(self) -> dict[str, str]:
        """What is asked beside the kind."""
        given = {"lane": self.lane, "reason": self.reason}
        return {name: value for name, value in given.items() if value}

    def __str__(self) -> str:
        said = [f"of the kind {self.kind}"] if self.kind else []
        said += [f"of the lane {self.lane}"] if self.lane else []
        said += [f"with {self.reason!r} in its reason"] if self.reason else []
        return " ".join(["everything dead", *said])


def _move(
    server: Client,
    how: Literal["redrive", "drop"],
    ids: list[str],
    wanted: _Filter,
    yes: bool,
    as_json: bool,
) -> None:
    if ids and (wanted.every or wanted.narrow):
        fail("name rows, or choose by --lane, --reason or --all: not both", code=2)
    if not ids and wanted.empty:
        fail("name rows, or choose by --kind, --lane or --reason; --all takes every one", code=2)
    if ids:
        moved = _named(server, how, ids, wanted.kind)
    else:
        verb = "Send again" if how == "redrive" else "Put away for good"
        confirm(f"{verb} {wanted}?", yes)
        moved = _fitting(server, how, wanted)
    total = sum(moved.values())
    if as_json:
        document({"moved": total, "kinds": moved})
    else:
        done = "Sent again" if how == "redrive" else "Put away"
        each = ", ".join(f"{n:,} of {kind}" for kind, n in moved.items() if n)
        say(f"{done}: {total:,}" + (f" ({each})" if each else ""))
    if ids and total < len(ids):
        note(f"{len(ids) - total} of {len(ids)} are not dead: `penstock dead list` shows what is")
        raise typer.Exit(3 if total else 1)


def _named(server: Client, how: str, ids: list[str], kind: str | None) -> dict[str, int]:
    by_kind: dict[str, list[str]] = {}
    for id_ in dict.fromkeys(ids):
        try:
            found = kind or server.call("GET", at("dead", id_))["kind"]
        except ApiError as exc:
            if exc.status != 404:
                raise
            note(f"{id_}: {exc.detail}")
            continue
        by_kind.setdefault(found, []).append(id_)
    moved = {}
    for found, some in by_kind.items():
        body = {"kind": found, "ids": some}
        moved[found] = server.call("POST", f"/v1/dead/{how}", body)["moved"]
    return moved


def _fitting(server: Client, how: str, wanted: _Filter) -> dict[str, int]:
    kinds = [wanted.kind]
    if wanted.kind is None:
        counts = server.call("GET", "/v1/dead/counts")["kinds"]
        kinds = [kind for kind, each in counts.items() if each["count"]]
    moved: dict[str, int] = {}
    for kind in kinds:
        body: dict[str, Any] = {"kind": kind, "all": True, **wanted.narrow}
        while True:
            answer = server.call("POST", f"/v1/dead/{how}", body)
            moved[str(kind)] = moved.get(str(kind), 0) + answer["moved"]
            if answer["next_cursor"] is None:
                break
            body["cursor"] = answer["next_cursor"]
    return moved

"""`penstock smoke`: is a deployment whole? An event goes all the way through it, and is removed."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal, TypeVar

import typer

from penstock.cli.output import JsonOption, document, fail, say
from penstock.cli.panels import CARE
from penstock.cli.remote import Target, with_target
from penstock.client import ApiError, Client, Unreachable
from penstock.durations import seconds
from penstock.errors import PenstockError

T = TypeVar("T")

MARK: Final = "penstock smoke"  # how its endpoints are described
LEFT_BEHIND: Final = timedelta(minutes=15)  # after which a run's endpoint is nobody's
PAUSE: Final = 0.5  # seconds between looks
# Public routes look at no credential, and the client does not do without.
NOBODY: Final = "none"


class _Failed(PenstockError):
    """A check found something wrong."""


class _Skipped(PenstockError):
    """A check could not be made."""


@dataclass(frozen=True, slots=True)
class Check:
    """What came of one check; `seconds` it took."""

    name: str
    status: Literal["ok", "failed", "skipped"]
    message: str
    seconds: float


@dataclass(slots=True)
class _Report:
    """The checks so far, each told as soon as it is known."""

    as_json: bool
    checks: list[Check] = field(default_factory=list)
    unreachable: bool = False

    def run(self, name: str, check: Callable[[], str]) -> bool:
        """Make a check, which answers what it found; whether nothing is wrong."""
        began = time.monotonic()
        status: Literal["ok", "failed", "skipped"] = "ok"
        try:
            message = check()
        except _Skipped as exc:
            status, message = "skipped", str(exc)
        except PenstockError as exc:
            status, message = "failed", str(exc)
            self.unreachable |= isinstance(exc, Unreachable)
        found = Check(name, status, message, round(time.monotonic() - began, 3))
        self.checks.append(found)
        if not self.as_json:
            say(f"{found.status:8}{found.name:9}{found.seconds:6.1f} s  {found.message}")
        return status != "failed"

    @property
    def failed(self) -> bool:
        return any(check.status == "failed" for check in self.checks)


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command(rich_help_panel=CARE)(smoke)


@with_target
def smoke(
    target: Target,
    expect_version: Annotated[
        str | None, typer.Option(metavar="VERSION", help="The version that must answer.")
    ] = None,
    within: Annotated[str, typer.Option(help="How long each check may take.")] = "60s",
    as_json: JsonOption = False,
) -> None:
    """Check a deployment: alive, ready, the right version, an event worked on and fetched.

    The event is of a type of its own, goes to an endpoint of its own (the server's own address,
    which refuses it) and is fetched from the inbox; both are deleted again. Without a key no event
    is sent. Exits with 0 if nothing is wrong, 1 if something is, 4 if nothing answers.
    """
    try:
        patience = seconds(within)
    except ValueError as exc:
        fail(f"--within: {exc}", code=2)
    report = _Report(as_json)
    with _client(target, patience) as server:
        if report.run("live", lambda: _live(server, patience)):
            report.run("ready", lambda: _ready(server, patience))
            report.run("version", lambda: _version(server, expect_version, patience))
            if target.url is not None and target.key is None:
                report.run("event", _no_key)
            else:
                _event(report, server, patience)
    if as_json:
        found = [asdict(check) for check in report.checks]
        document({"url": server.url, "ok": not report.failed, "checks": found})
    if report.failed:
        sys.exit(4 if report.unreachable else 1)


def _client(target: Target, patience: float) -> Client:
    return Client(
        target.url,
        target.key or (NOBODY if target.url else None),
        data_dir=target.settings.data_dir,
        timeout=min(30.0, patience),
        retries=0,
    )


def _until(patience: float, look: Callable[[], T | None], otherwise: Callable[[], str]) -> T:
    """What `look` finds, which is asked again and again; fails with what is then to be said."""
    deadline = time.monotonic() + patience
    trouble = None
    while True:
        try:
            found = look()
            trouble = None
        except (ApiError, Unreachable) as exc:
            # What the server refuses now it will refuse again, except while it starts.
            if isinstance(exc, ApiError) and exc.status < 500 and exc.status != 429:
                raise
            found, trouble = None, exc
        if found is not None:
            return found
        if time.monotonic() >= deadline:
            raise trouble or _Failed(otherwise())
        time.sleep(min(PAUSE, patience / 10))


# ------------------------------------------------------------------ without a credential


def _live(server: Client, patience: float) -> str:
    _until(patience, lambda: server.call("GET", "/health/live"), str)
    return f"{server.url} answers"


def _ready(server: Client, patience: float) -> str:
    found = _until(patience, lambda: server.call("GET", "/health/ready"), str)
    return ", ".join(f"{name}: {said}" for name, said in found["checks"].items())


def _version(server: Client, expected: str | None, patience: float) -> str:
    seen = {"version": "nothing", "services": []}

    def look() -> str | None:
        seen.update(server.call("GET", "/version"))
        if expected is not None and seen["version"] != expected:
            return None  # just after a deployment the version before may answer once more
        return f"{seen['version']} with {', '.join(seen['services'])}"

    return _until(patience, look, lambda: f"{seen['version']} runs, not {expected}")


def _no_key() -> str:
    raise _Skipped("no event was sent: there is no API key, set PENSTOCK_KEY")


# ------------------------------------------------------------------ an event all the way


def _event(report: _Report, server: Client, patience: float) -> None:
    """Accepted, tried by a worker, fetched from the inbox, removed."""
    event_type = f"penstock.smoke.{secrets.token_hex(8)}"
    made: dict[str, str] = {}

    def accept() -> str:
        if "events" not in server.call("GET", "/version")["services"]:
            raise _Skipped("no event was sent: the service events does not run there")
        _tidy(server)
        # Nothing can be delivered there, but it shows whether a worker tries.
        with _no_target(made):
            endpoint = server.endpoints.create(
                f"{server.url}/health/live",
                event_types=[event_type],
                description=MARK,
                on_permanent="long",
            )
            made["endpoint"] = endpoint.endpoint_id
        sent = _until(patience, lambda: server.events.send(event_type, {"smoke": True}), str)
        made["event"] = sent.event_id
        return f"{sent.event_id} accepted"

    report.run("event", accept)
    if "event" in made:
        report.run("worker", lambda: _worked(server, made, patience))
        report.run("inbox", lambda: _fetched(server, event_type, made["event"], patience))
    if made:
        report.run("cleanup", lambda: _removed(server, made))


@contextmanager
def _no_target(made: dict[str, str]) -> Iterator[None]:
    try:
        yield
    except ApiError as exc:
        if exc.code != "target_refused":
            raise
        made["refused"] = exc.detail


def _worked(server: Client, made: dict[str, str], patience: float) -> str:
    if "endpoint" not in made:
        raise _Skipped(f"the server may not push to its own address: {made['refused']}")

    def look() -> str | None:
        for delivery in server.events.get(made["event"]).deliveries:
            if delivery.endpoint_id == made["endpoint"] and delivery.attempt_log:
                first = delivery.attempt_log[0]
                if first.status_code is None:  # nothing but AWS may be reachable from there
                    return f"it was tried, and got nowhere: {first.error_kind}, {first.error}"
                # 405: a health check is there to be read. That a push got so far is enough.
                return f"it was pushed, and answered with {first.status_code}"
        return None

    return _until(patience, look, lambda: f"no worker has tried it within {patience:g} s")


def _fetched(server: Client, event_type: str, event_id: str, patience: float) -> str:
    def look() -> str | None:
        lease = server.inbox.lease(event_types=[event_type], limit=1, lease_seconds=10, wait=1)
        if lease.events:
            (outcome,) = server.inbox.ack([event_id], lease.lease_id)
            if outcome.outcome != "acknowledged":
                raise _Failed(f"its acknowledgement was refused: {outcome.outcome}")
        elif server.events.get(event_id).status == "pending":
            return None
        status = server.events.get(event_id).status
        if status != "delivered":
            raise _Failed(f"it is {status}, not delivered")
        # Endpoints that take every event take this one too.
        return "fetched and acknowledged" if lease.events else "an endpoint took it before"

    return _until(patience, look, lambda: f"it was not to be had within {patience:g} s")


def _removed(server: Client, made: dict[str, str]) -> str:
    if "endpoint" in made:
        server.endpoints.delete(made["endpoint"])
    if "event" in made:
        server.events.delete(made["event"])
    return "the event and its endpoint are deleted"


def _tidy(server: Client) -> None:
    """Delete the endpoints of runs that were killed."""
    for endpoint in server.endpoints.list():
        old = endpoint.created_at < datetime.now(UTC) - LEFT_BEHIND
        if endpoint.description == MARK and old:
            server.endpoints.delete(endpoint.endpoint_id)

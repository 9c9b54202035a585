"""`penstock demo`: everything at work on real input, on one machine."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import random
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from penstock.cli.output import say
from penstock.cli.panels import RUN
from penstock.cli.serve import AppOption, DataOption
from penstock.client import Client

if TYPE_CHECKING:
    from penstock.cli.demo_receiver import Receiver

# What each endpoint of the demo is called, by its path; and what it wants.
ENDPOINTS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "takes": (
        "Demo: takes everything",
        {"event_types": ["demo.order_created", "shipment.*", "prediction.*"]},
    ),
    "falters": ("Demo: fails twice", {"event_types": ["demo.order_paid"]}),
    "fails": ("Demo: fails each time", {"event_types": ["demo.invoice_sent"]}),
    "refuses": (
        "Demo: refuses at first",
        {"event_types": ["demo.order_lost"], "on_permanent": "dead"},
    ),
    "away": ("Demo: its circuit is held open", {"event_types": ["demo.stock_changed"]}),
}
EVENTS: Final = {
    "order_created": {"order": 1042, "total": "19.90"},
    "order_paid": {"order": 1042, "method": "card"},
    "invoice_sent": {"order": 1042, "invoice": "2026-17"},
    "order_lost": {"order": 1041, "reason": "parcel lost"},
    "stock_changed": {"article": "kettle", "left": 3},
}
CUSTOMERS: Final = 400
SECONDS: Final = 20.0  # for what the demo waits for; usually it takes four


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command(rich_help_panel=RUN)(demo)


def demo(
    host: str | None = typer.Option(None, help="The address to listen on. [PENSTOCK_HOST]"),
    port: int | None = typer.Option(None, help="The port to listen on. [PENSTOCK_PORT]"),
    data: DataOption = None,
    app: AppOption = None,
) -> None:
    """Start everything, show it at work on real input, and stay up."""
    from penstock import server
    from penstock.cli.demo_receiver import receiving
    from penstock.settings import load_settings

    settings = load_settings(host=host, port=port, data_dir=data)
    if "log_level" not in settings.model_fields_set:
        # What fails here fails on purpose, and is told by the demo itself.
        settings = settings.model_copy(update={"log_level": "error"})

    async def play(runtime: Any, run_file: Any) -> None:
        async with receiving() as receiver:
            given = f" --data {shlex.quote(str(data))}" if data else ""
            with Client(run_file.url, run_file.token) as local:
                await asyncio.to_thread(_play, local, receiver, _command(), given)
            await asyncio.Event().wait()  # the receiver stays up as long as the server

    server.run(lambda: server.up(settings, app_path=app, announce=say, companion=play))


def _play(server: Client, receiver: Receiver, command: str, data: str) -> None:
    """Give the server work of every kind, then say what became of it."""
    running = server.call("GET", "/version")["services"]
    say()
    endpoints: dict[str, str] = {}
    sent: dict[str, str] = {}
    shipments: list[str] = []
    with ThreadPoolExecutor(1) as beside:
        # The first file is looked at by a process that has to start: nothing else waits for it.
        scoring = beside.submit(_prediction, server) if "predictions" in running else None
        if "events" in running:
            endpoints = _endpoints(server, receiver)
            _hold(server, endpoints["away"])
            sent = {name: _send(server, name) for name in EVENTS}
        if "tracking" in running:
            shipments = _shipments(server)
        if sent:
            _tell_events(server, receiver, sent, endpoints)
        if shipments:
            _tell_shipments(server, shipments)
        _tell_prediction(server, None if scoring is None else scoring.result())
    _tell_next(server, command, data, dead=bool(sent))


# ------------------------------------------------------------------ events


def _endpoints(server: Client, receiver: Receiver) -> dict[str, str]:
    from urllib.parse import urlsplit

    from penstock.events import sign

    names = {description for description, _ in ENDPOINTS.values()}
    for old in server.endpoints.list():
        if old.description in names:
            server.endpoints.delete(old.endpoint_id)
    made = {}
    for path, (description, options) in ENDPOINTS.items():
        endpoint = server.endpoints.create(
            f"{receiver.url}/{path}", description=description, **options
        )
        assert endpoint.secret is not None, "pushes are signed"
        receiver.keys[urlsplit(endpoint.target).path] = sign.decode_secret(endpoint.secret)
        made[path] = endpoint.endpoint_id
    return made


def _hold(server: Client, endpoint_id: str) -> None:
    reason = "the receiver is being moved (this is the demo)"
    body = {"state": "open", "for": "1h", "reason": reason}
    server.call("POST", f"/v1/lanes/delivery:{endpoint_id}/circuit", body)


def _send(server: Client, name: str) -> str:
    return server.events.send(f"demo.{name}", EVENTS[name]).event_id


def _tell_events(
    server: Client, receiver: Receiver, sent: dict[str, str], endpoints: dict[str, str]
) -> None:
    say("Events, to a built-in receiver:")
    names = {endpoint_id: path for path, endpoint_id in endpoints.items()}
    tried = {"invoice_sent": 2, "stock_changed": 0}  # these do not come to an end
    for name, event_id in sent.items():
        wanted = tried.get(name)
        event = _until(
            lambda event_id=event_id: server.call("GET", f"/v1/events/{event_id}"),  # type: ignore[misc]
            lambda event, wanted=wanted: (  # type: ignore[misc]
                event["status"] != "pending"
                if wanted is None
                else event["delivery_attempts"] >= wanted
            ),
        )
        say(f"  demo.{name:14} {event['status']:10} {event_id}")
        for delivery in event["deliveries"]:
            log = delivery["attempt_log"]
            answers = ", ".join(str(a["status_code"] or a["error_kind"]) for a in log) or "none"
            to = names.get(delivery["endpoint_id"], delivery["endpoint_id"])
            why = f"  {delivery['why']['message']}" if delivery["why"] else ""
            say(f"    to {to:8} {delivery['status']:10} answers: {answers}{why}")
    say(f"  The receiver verified {receiver.verified} signatures.")


# ------------------------------------------------------------------ parcels


def _shipments(server: Client) -> list[str]:
    now = int(time.time())
    parcels = {
        # Ten thousand times faster than life: 38 hours in 14 seconds.
        f"SBXFASTDELIVERED{now}": "The kettle, order 1042",
        f"SBXFASTTOUR{now}": "Everything that can happen",
        f"SBXOUTFORDELIVERY{now - 31 * 3600}": "On the van",
        f"SBXEXCEPTION{now - 28 * 3600}": "Damaged",
    }
    return [
        server.shipments.create("sandbox", number, label=label).shipment_id
        for number, label in parcels.items()
    ]


def _tell_shipments(server: Client, shipments: list[str]) -> None:
    say()
    say("Parcels of the sandbox carrier; the first two are moving:")
    for shipment_id in shipments:
        found = _until(
            lambda id_=shipment_id: server.call("GET", f"/v1/shipments/{id_}"),  # type: ignore[misc]
            lambda shipment: shipment["status"] != "pending",
        )
        say(f"  {found['status']:20} {found['label']:28} {shipment_id}")


# ------------------------------------------------------------------ predictions


def _prediction(server: Client) -> str:
    return server.predictions.score(_customers(), model="starter").prediction_id


def _customers() -> bytes:
    """Invented customers as the starter model knows them; one row cannot be used."""
    chance = random.Random(1042)  # noqa: S311 - the same file each time, and no secret
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(
        [
            *("customer_id", "tenure_months", "plan", "monthly_charge", "support_tickets"),
            *("logins_last_month", "days_since_login", "payment_method", "auto_renew"),
        ]
    )
    for number in range(1, CUSTOMERS + 1):
        rows.writerow(
            [
                f"D{number:04}",
                "soon" if number == 17 else int(chance.gammavariate(1.6, 14)),
                chance.choice(["Monthly", "Monthly", "Annual", "Two years"]),
                f"{chance.lognormvariate(4.0, 0.5):.2f}",
                min(9, int(chance.expovariate(0.7))),
                int(chance.gammavariate(2.0, 6.0)),
                min(90, int(chance.expovariate(0.11))),
                chance.choice(["Card", "Direct debit", "Invoice"]),
                chance.choice(["yes", "no"]),
            ]
        )
    return text.getvalue().encode()


def _tell_prediction(server: Client, prediction: str | None) -> None:
    say()
    if prediction is None:
        say("Predictions are off here: pip install 'penstock[predictions]' turns them on.")
        return
    found = _until(
        lambda: server.call("GET", f"/v1/predictions/{prediction}"),
        lambda each: each["ended_at"] is not None,
    )
    say(f"A CSV of {CUSTOMERS} invented customers, {found['status'].lower()}: {prediction}")
    say(f"  {found['message']}")


# ------------------------------------------------------------------ and now


def _tell_next(server: Client, command: str, data: str, *, dead: bool) -> None:
    link = server.url + server.call("POST", "/sign-in/link")["path"]
    say()
    say(f"Look:      {link}")
    say(f'Send one:  {command} events send demo.hello \'{{"text": "hello"}}\'{data}')
    if dead:
        say(f"Dead work: {command} dead list{data}")
        say(f"Redrive:   {command} dead redrive --all --yes{data}")
    say(f"Watch:     {command} events tail{data}")
    say(f"A key:     {command} keys create --name first{data}")
    say("Stop:      Ctrl-C (what was accepted is kept)")


def _until(look: Callable[[], dict[str, Any]], done: Callable[[dict[str, Any]], bool]) -> Any:
    deadline = time.monotonic() + SECONDS
    while True:
        found = look()
        if done(found) or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def _command() -> str:
    """How this command was called, so that the lines to copy work where they are read."""
    called = Path(sys.argv[0])
    if shutil.which("penstock") and Path(shutil.which("penstock") or "").samefile(called):
        return "penstock"
    if called.name == "__main__.py":
        return f"{Path(sys.executable).name} -m penstock"
    return os.path.relpath(called)

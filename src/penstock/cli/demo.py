"""`penstock demo`: everything at work on real input, on one machine."""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from penstock.cli.output import say
from penstock.cli.serve import AppOption, DataOption
from penstock.client import Client

TAKES, FALTERS, REFUSES = "Demo: takes everything", "Demo: fails twice", "Demo: refuses"
SECONDS = 20.0  # for the demo's events to come to their ends


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command()(demo)


def demo(
    host: str | None = typer.Option(None, help="The address to listen on. [PENSTOCK_HOST]"),
    port: int | None = typer.Option(None, help="The port to listen on. [PENSTOCK_PORT]"),
    data: DataOption = None,
    app: AppOption = None,
) -> None:
    """Start everything, send real events to a built-in receiver, and stay up."""
    from penstock import server
    from penstock.settings import load_settings

    settings = load_settings(host=host, port=port, data_dir=data)
    if "log_level" not in settings.model_fields_set:
        # What fails here fails on purpose, and is told by the demo itself.
        settings = settings.model_copy(update={"log_level": "error"})

    async def play(runtime: Any, run_file: Any) -> None:
        async with _receiver() as receiver:
            local = Client(run_file.url, run_file.token)
            given = f" --data {shlex.quote(str(data))}" if data else ""
            await asyncio.to_thread(_play, local, receiver, _command(), given)
            await asyncio.Event().wait()  # the receiver stays up as long as the server

    server.run(lambda: server.up(settings, app_path=app, announce=say, companion=play))


@dataclass(slots=True)
class _Receiver:
    """A webhook receiver: verifies signatures, and fails as its paths say."""

    url: str = ""
    secrets: dict[str, bytes] = field(default_factory=dict)  # path -> signing key
    verified: int = 0
    seen: dict[tuple[str, str], int] = field(default_factory=dict)


class _receiver:
    """The built-in receiver, on a free port of loopback."""

    async def __aenter__(self) -> _Receiver:
        from aiohttp import web

        self.state = state = _Receiver()

        async def take(request: web.Request) -> web.Response:
            from penstock.events import sign

            body = await request.read()
            key = state.secrets.get(request.path)
            if key is None:
                return web.Response(status=503)
            sign.verify(request.headers, body, [key])
            state.verified += 1
            tries = request.path, request.headers["webhook-id"]
            state.seen[tries] = state.seen.get(tries, 0) + 1
            if request.path.endswith("/falters") and state.seen[tries] <= 2:
                return web.Response(status=503, text="not yet")
            if request.path.endswith("/refuses"):
                return web.Response(status=422, text="this receiver does not want it")
            return web.Response(text="thank you")

        server = web.Application()
        server.router.add_post("/{path:.*}", take)
        self.runner = web.AppRunner(server, access_log=None)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        port = self.runner.addresses[0][1]
        # A path nobody else can guess: other demos on this machine have their own.
        state.url = f"http://127.0.0.1:{port}/{secrets.token_hex(4)}"
        return state

    async def __aexit__(self, *_: object) -> None:
        await self.runner.cleanup()


def _play(server: Client, receiver: _Receiver, command: str, data: str) -> None:
    _remove_earlier(server)
    endpoints = {
        "takes": _endpoint(server, receiver, "takes", TAKES, ["demo.*"]),
        "falters": _endpoint(server, receiver, "falters", FALTERS, ["demo.order_paid"]),
        "refuses": _endpoint(
            server, receiver, "refuses", REFUSES, ["demo.order_lost"], on_permanent="dead"
        ),
    }
    sent = {
        name: server.call(
            "POST",
            "/v1/events",
            {"event_type": f"demo.{name}", "payload": payload},
        )["event_id"]
        for name, payload in {
            "order_created": {"order": 1042, "total": "19.90"},
            "order_paid": {"order": 1042, "method": "card"},
            "order_lost": {"order": 1041, "reason": "parcel lost"},
        }.items()
    }
    say("Sending three events to a built-in receiver; one answer fails twice, one for good:")
    names = {made["endpoint_id"]: name for name, made in endpoints.items()}
    for name, event_id in sent.items():
        _report(name, _ended(server, event_id), names)
    say(f"The receiver verified {receiver.verified} signatures.")
    say()
    say(f"Look:      {server.url}/")
    say(f'Send one:  {command} events send demo.hello \'{{"text": "hello"}}\'{data}')
    say(f"Watch:     {command} events tail{data}")
    say(f"A key:     {command} keys create --name first{data}")
    say("Stop:      Ctrl-C (what was accepted is kept)")


def _command() -> str:
    """How this command was called, so that the lines to copy work where they are read."""
    called = Path(sys.argv[0])
    if shutil.which("penstock") and Path(shutil.which("penstock") or "").samefile(called):
        return "penstock"
    if called.name == "__main__.py":
        return f"{Path(sys.executable).name} -m penstock"
    return os.path.relpath(called)


def _remove_earlier(server: Client) -> None:
    cursor = None
    while True:
        page = server.call("GET", "/v1/endpoints", query={"limit": 100, "cursor": cursor})
        for endpoint in page["items"]:
            if endpoint["description"] in (TAKES, FALTERS, REFUSES):
                server.call("DELETE", f"/v1/endpoints/{endpoint['endpoint_id']}")
        cursor = page["next_cursor"]
        if cursor is None:
            return


def _endpoint(
    server: Client,
    receiver: _Receiver,
    path: str,
    description: str,
    event_types: list[str],
    **more: Any,
) -> dict[str, Any]:
    from urllib.parse import urlsplit

    from penstock.events import sign

    made: dict[str, Any] = server.call(
        "POST",
        "/v1/endpoints",
        {
            "kind": "webhook",
            "target": f"{receiver.url}/{path}",
            "description": description,
            "event_types": event_types,
            **more,
        },
    )
    receiver.secrets[urlsplit(made["target"]).path] = sign.decode_secret(made["secret"])
    return made


def _ended(server: Client, event_id: str) -> dict[str, Any]:
    import time

    deadline = time.monotonic() + SECONDS
    while True:
        event: dict[str, Any] = server.call("GET", f"/v1/events/{event_id}")
        if event["status"] != "pending" or time.monotonic() > deadline:
            return event
        time.sleep(0.05)


def _report(name: str, event: dict[str, Any], names: dict[str, str]) -> None:
    say(f"  demo.{name:14} {event['status']:10} {event['event_id']}")
    for delivery in event["deliveries"]:
        log = delivery["attempt_log"]
        answers = ", ".join(str(a["status_code"] or a["error_kind"]) for a in log)
        to = names.get(delivery["endpoint_id"], delivery["endpoint_id"])
        say(f"    to {to:8} {delivery['status']:10} answers: {answers}")

"""`penstock listen`: an endpoint on this machine that shows what is pushed to it."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit

import typer

from penstock.cli.output import JsonOption, document, fail, say
from penstock.cli.panels import RUN
from penstock.cli.remote import Target, with_target
from penstock.client import ApiError, Client, CreatedEndpoint, Unreachable

if TYPE_CHECKING:
    import aiohttp
    from aiohttp import web

TIMEOUT: Final = 30.0  # seconds: the most an endpoint may have, so that a debugger may hold it
FORWARDED: Final = ("content-type", "user-agent", "traceparent", "tracestate")
_WIDTH: Final = 100  # characters of a payload that are shown


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command(rich_help_panel=RUN)(listen)


@with_target
def listen(
    target: Target,
    events: Annotated[
        str, typer.Option(help="Comma-separated event types, such as 'order.*,cart.left'.")
    ] = "*",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 0,
    forward: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Pass each push on to this URL; its answer is ours."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print events as they are pushed to a temporary endpoint, until Ctrl-C removes it.

    With --json each push is one JSON document on a line of its own.
    """
    patterns = [part.strip() for part in events.split(",") if part.strip()]
    if not patterns:
        fail("--events: give at least one event type, or leave it out", code=2)
    if forward is not None and urlsplit(forward).scheme not in ("http", "https"):
        fail("--forward: give a URL such as http://127.0.0.1:3000/webhooks", code=2)
    asyncio.run(_listen(target.server(), patterns, port, _Printer(as_json), forward))


@dataclass(frozen=True, slots=True)
class _Push:
    """A push, the answer to it, and what else is to be said of it."""

    event: dict[str, Any]
    status: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Printer:
    """Pushes go to stdout, everything else to stderr."""

    as_json: bool

    def push(self, push: _Push) -> None:
        """One push, on one line."""
        if self.as_json:
            document({**push.event, "answered": push.status})
            sys.stdout.flush()
            return
        event = push.event
        payload = json.dumps(event["payload"], ensure_ascii=False)
        if len(payload) > _WIDTH:
            payload = payload[: _WIDTH - 1] + "…"
        answer = f"  -> {push.status} {push.note}".rstrip() if push.status != 204 else ""
        say(f"{event['event_type']}  {event['event_id']}  {payload}{answer}")

    def note(self, line: str) -> None:
        """Something about the listening itself."""
        print(f"penstock: {line}", file=sys.stderr, flush=True)


async def _listen(
    server: Client, patterns: list[str], port: int, printer: _Printer, forward: str | None
) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        stopped.set()
        loop.remove_signal_handler(number)  # a second Ctrl-C ends it at once

    # A terminal that is closed, too, must not leave an endpoint behind.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    key: asyncio.Future[bytes] = loop.create_future()
    async with _receiver(port, key, printer, forward) as target:
        endpoint = await asyncio.to_thread(_create, server, target, patterns)
        try:
            from penstock.events import sign

            key.set_result(sign.decode_secret(endpoint.secret or ""))  # webhooks have one
            if not _loopback(server.url):
                printer.note(
                    f"{server.url} took 127.0.0.1 as an address of its own: if it runs on another"
                    " machine, nothing arrives here; run `penstock listen` there"
                )
            to = f", forwarding to {forward}" if forward else ""
            printer.note(f"listening for {', '.join(patterns)} at {target}{to}; Ctrl-C ends it")
            await stopped.wait()
        finally:
            try:
                await asyncio.to_thread(_remove, server, endpoint.endpoint_id)
                printer.note("the temporary endpoint is removed")
            except Unreachable as exc:
                printer.note(
                    f"{endpoint.endpoint_id} stays until the next `penstock listen`: {exc}"
                )


@asynccontextmanager
async def _receiver(
    port: int, key: asyncio.Future[bytes], printer: _Printer, forward: str | None
) -> AsyncIterator[str]:
    """Takes pushes on loopback; its URL."""
    from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, web

    from penstock.events import sign

    path = f"/{secrets.token_hex(8)}"  # two listeners never have the same address
    timeout = ClientTimeout(total=TIMEOUT - 1)
    async with ClientSession(timeout=timeout, cookie_jar=DummyCookieJar()) as session:

        async def take(request: web.Request) -> web.Response:
            body = await request.read()
            try:
                # A push may be here before the answer that brings the secret.
                sign.verify(request.headers, body, [await asyncio.shield(key)])
                event = json.loads(body)
            except (sign.BadSignature, ValueError) as exc:
                printer.note(f"refused a request: {str(exc).removesuffix('.')}")
                return web.Response(status=401)
            if forward is None:
                response, note = web.Response(status=204), ""
            else:
                response, note = await _forward(session, forward, request, body)
            printer.push(_Push(event, response.status, note))
            return response

        application = web.Application()
        application.router.add_post(path, take)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, "127.0.0.1", port).start()
            except OSError as exc:
                fail(f"cannot listen on port {port}: {exc.strerror or exc}; leave --port out")
            yield f"http://127.0.0.1:{runner.addresses[0][1]}{path}"
        finally:
            await runner.cleanup()


async def _forward(
    session: aiohttp.ClientSession, url: str, request: web.Request, body: bytes
) -> tuple[web.Response, str]:
    """The answer of `url` to the same body with the same signature, and what to say of it."""
    import aiohttp
    from aiohttp import web

    headers = {
        name: value
        for name, value in request.headers.items()
        if name.lower() in FORWARDED or name.lower().startswith("webhook-")
    }
    try:
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
            excerpt = await answer.content.read(16 * 1024)
            kept = {
                name: answer.headers[name]
                for name in ("Content-Type", "Retry-After")
                if name in answer.headers
            }
            return web.Response(status=answer.status, body=excerpt, headers=kept), ""
    except (aiohttp.ClientError, OSError, TimeoutError) as exc:
        note = f"{url} does not answer: {str(exc) or type(exc).__name__}"
        return web.Response(status=502, text=note), note


def _create(server: Client, target: str, patterns: list[str]) -> CreatedEndpoint:
    mark = f"penstock listen on {socket.gethostname()}, process "
    # What a listener left behind that was killed, or whose server was down at its end.
    for old in server.endpoints.list():
        pid = old.description.removeprefix(mark)
        if pid != old.description and pid.isdecimal() and not _runs(int(pid)):
            _remove(server, old.endpoint_id)
    try:
        return server.endpoints.create(
            target, event_types=patterns, description=f"{mark}{os.getpid()}", timeout=TIMEOUT
        )
    except ApiError as exc:
        if exc.code != "target_refused":
            raise
        fail(
            f"{server.url} cannot reach this machine's loopback: run `penstock listen` where the"
            " server runs, or give a tunnel's https URL to POST /v1/endpoints"
        )


def _remove(server: Client, endpoint_id: str) -> None:
    try:
        server.endpoints.delete(endpoint_id)
    except ApiError as exc:
        if exc.status != 404:
            raise


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # as somebody else
    return True


def _loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

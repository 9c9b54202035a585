"""The receiver of `penstock demo`: it verifies what it is sent, and fails as its paths say."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Receiver:
    """Where it is, the keys of those who push to it, and what it has seen."""

    url: str = ""
    keys: dict[str, bytes] = field(default_factory=dict)  # path -> signing key
    verified: int = 0
    seen: dict[tuple[str, str], int] = field(default_factory=dict)  # (path, event) -> tries

    def answer(self, path: str, event: str) -> tuple[int, str]:
        """Status and body for one more try at an event."""
        key = path, event
        self.seen[key] = tries = self.seen.get(key, 0) + 1
        match path.rpartition("/")[2]:
            case "falters" if tries <= 2:
                return 503, "not yet"
            case "fails":
                return 503, "down for maintenance"
            # What is sent again after somebody looked into it is taken.
            case "refuses" if tries == 1:
                return 422, "order 1041 is not known here yet"
            case _:
                return 200, "thank you"


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver on a free port of loopback."""
    from aiohttp import web

    from penstock.events import sign

    state = Receiver()

    async def take(request: web.Request) -> web.Response:
        body = await request.read()
        key = state.keys.get(request.path)
        if key is None:
            return web.Response(status=503)
        try:
            sign.verify(request.headers, body, [key])
        except sign.BadSignature:
            return web.Response(status=401)
        state.verified += 1
        status, text = state.answer(request.path, request.headers["webhook-id"])
        return web.Response(status=status, text=text)

    server = web.Application()
    server.router.add_post("/{path:.*}", take)
    runner = web.AppRunner(server, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        # A path nobody else can guess: other demos on this machine have their own.
        state.url = f"http://127.0.0.1:{runner.addresses[0][1]}/{secrets.token_hex(4)}"
        yield state
    finally:
        await runner.cleanup()

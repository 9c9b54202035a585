"""A webhook receiver that records what it gets and answers from a script for each path."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from support.accepting import stop_accepting


@dataclass(frozen=True, slots=True)
class Reply:
    """How to answer: after `delay` seconds, or once `gate` is set."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"thank you"
    delay: float = 0.0
    gate: asyncio.Event | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """One push as it came in; `at` is monotonic, in seconds."""

    path: str
    id: str
    headers: Mapping[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def verifies(self, secret: str) -> bool:
        """Whether the official package takes the signature."""
        try:
            Webhook(secret).verify(self.body, dict(self.headers))
        except WebhookVerificationError:
            return False
        return True


Script = Callable[[Received], Reply]


class Receiver:
    """An HTTP server on a free port of loopback; every path answers 200 until told otherwise."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.begun = 0  # requests that arrived, answered or not
        self.in_flight: Counter[str] = Counter()  # by path: those not answered yet
        self._scripts: dict[str, Script] = {}
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=2**23)
        application.router.add_route("*", "/{path:.*}", self._take)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, backlog=1024).start()
        self.port: int = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await stop_accepting(self._runner)  # servers that live on may be trying again just now
        await self._runner.cleanup()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def script(self, path: str, replies: Iterable[Reply | int] | Script) -> str:
        """Answer requests to `path` so, one after another, the last for ever; its URL."""
        if callable(replies):
            self._scripts[path] = replies
            return self.url(path)
        listed = [Reply(each) if isinstance(each, int) else each for each in replies]
        turn = iter(listed)
        self._scripts[path] = lambda _: next(turn, listed[-1])
        return self.url(path)

    def at(self, path: str) -> list[Received]:
        """What came to this path."""
        return [each for each in self.received if each.path == path]

    def by_id(self, path: str) -> dict[str, list[Received]]:
        """What came to this path, by webhook-id."""
        found: dict[str, list[Received]] = defaultdict(list)
        for each in self.at(path):
            found[each.id].append(each)
        return found

    async def until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        """Wait until `condition`, which is asked again after each request."""
        deadline = time.monotonic() + seconds
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, f"{len(self.received)} received: {self.received[-3:]}"
            self._changed.clear()
            try:
                async with asyncio.timeout(min(left, 0.5)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def arrived(self, path: str, count: int = 1, seconds: float = 60.0) -> list[Received]:
        """The requests to `path` once there are `count`."""
        await self.until(lambda: len(self.at(path)) >= count, seconds)
        return self.at(path)

    async def _take(self, request: web.Request) -> web.Response:
        self.begun += 1
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        received = Received(
            request.path, headers.get("webhook-id", ""), headers, body, time.monotonic()
        )
        self.received.append(received)
        self._changed.set()
        script = self._scripts.get(request.path)
        self.in_flight[request.path] += 1
        try:
            reply = Reply() if script is None else script(received)
            if reply.gate is not None:
                await reply.gate.wait()
            if reply.delay:
                await asyncio.sleep(reply.delay)
            return web.Response(status=reply.status, headers=reply.headers, body=reply.body)
        finally:
            self.in_flight[request.path] -= 1

"""One execution environment of Lambda: what stays open from one invocation to the next.

Lambda freezes the process between invocations, for minutes or for ever. So everything runs on one
event loop, nothing is left pending when an invocation returns, and the connection to the database
is tried before it is relied on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from penstock.aws.secrets import Secrets
from penstock.errors import StorageUnavailable
from penstock.runtime import Runtime, open_runtime
from penstock.settings import Settings, load_settings
from penstock.storage import sql
from penstock.storage.postgres import PostgresDatabase
from penstock.telemetry import Emf, configure_logging, metrics_to_cloudwatch
from penstock.wiring import listening_nowhere

T = TypeVar("T")

LEASE_BEYOND: Final = 5.0  # seconds that a row is held for after the invocation must have ended
PING: Final = 2.0  # seconds in which what is connected answers
PATIENCE: Final = 5.0  # seconds in which it is connected anew, and answers
_PING = sql("SELECT 1")
_TEXT: Final = ["text/", "application/json", "application/problem+json"]  # others go as base64

Http = Callable[[Any, Any], Any]


class Environment:
    """Opened by the first invocation that needs it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)  # Mangum asks for it
        self._secrets: Secrets | None = None
        self._stack = contextlib.AsyncExitStack()
        self._runtime: Runtime | None = None
        self._emf: Emf | None = None
        self._http: Http | None = None

    def run(self, what: Coroutine[Any, Any, T]) -> T:
        """Run it to its end, on the one loop."""
        return self._loop.run_until_complete(what)

    async def settings(self, **overrides: Any) -> Settings:
        """The settings, with the secrets that the environment names."""
        if self._secrets is None:
            self._secrets = Secrets(os.environ.get("PENSTOCK_AWS_ENDPOINT_URL") or None)
        await self._secrets.read()
        settings = listening_nowhere(load_settings(**overrides))
        configure_logging(settings.log_level, settings.log_format)
        if settings.metrics == "emf" and self._emf is None:
            self._emf = metrics_to_cloudwatch(settings.metrics_namespace)
        return settings

    async def runtime(self, remaining: float) -> Runtime:
        """The services on the database, which answers; `remaining` seconds are there for work.

        StorageError if it does not answer: nothing has been done yet. The first call says for how
        long rows are held: a little longer than any invocation can last.
        """
        if self._runtime is None:
            settings = await self.settings(lease=remaining + LEASE_BEYOND)
            try:
                self._runtime = await self._open(settings)
            except StorageUnavailable:
                if not await self._password_was_rotated():
                    raise
                self._runtime = await self._open(settings)
        try:
            await self._ping(self._runtime, PING)
        except StorageUnavailable:
            # What was connected may be gone, and a new connection takes the password as it is now.
            await self._password_was_rotated()
            await self._knock(self._runtime)
            await self._ping(self._runtime, PATIENCE)
        return self._runtime

    async def http(self, remaining: float) -> Http:
        """What answers requests of API Gateway; it runs this environment's loop itself."""
        runtime = await self.runtime(remaining)
        if self._http is None:
            from mangum import Mangum

            self._http = Mangum(runtime.http(), lifespan="off", text_mime_types=_TEXT)
        return self._http

    async def settle(self) -> None:
        """Return when every wake has been sent: a frozen process sends nothing."""
        if self._runtime is not None:
            await self._runtime.waker.close()

    def flush_metrics(self) -> None:
        """Write what was counted: a frozen process may never run again."""
        if self._emf is not None:
            self._emf.flush()

    async def _open(self, settings: Settings) -> Runtime:
        async with contextlib.AsyncExitStack() as stack:
            opened = await stack.enter_async_context(
                open_runtime(settings, isolate=False, listen=False)
            )
            self._stack = stack.pop_all()
        return opened

    async def _ping(self, runtime: Runtime, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await runtime.database.read(lambda tx: tx.one(_PING))
        except TimeoutError:
            raise StorageUnavailable(f"no answer in {seconds:g} s") from None

    async def _knock(self, runtime: Runtime) -> None:
        """Nobody is kept waiting while the database refuses."""
        if isinstance(runtime.database, PostgresDatabase):
            await asyncio.to_thread(runtime.database.knock, PATIENCE)

    async def _password_was_rotated(self) -> bool:
        assert self._secrets is not None
        return await self._secrets.read_password_again()

    def close(self) -> None:
        """For tests: Lambda never says when it is over."""
        self._loop.run_until_complete(self._stack.aclose())
        self._loop.close()

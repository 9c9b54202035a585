"""Is it alive, is it ready, which version is it, what are its figures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from penstock.api.context import AUTHENTICATED, public, requires
from penstock.api.problems import PROBLEMS, Problem
from penstock.api.routing import router
from penstock.clock import Clock, SystemClock
from penstock.errors import StorageError
from penstock.storage import Database, Tx, sql
from penstock.telemetry import metrics

# What besides the database must be well: a name for each, and what is wrong with it or None.
# The texts are shown to anybody: no addresses, no internals.
Readiness = Callable[[], Awaitable[Mapping[str, str | None]]]

CHECK_SECONDS: Final = 2.0  # a check that takes longer has failed
_KEEP_SECONDS: Final = 1.0  # a verdict stands so long: the route is open to anybody

# A real write: only that notices a full disk, or a server that has become a replica.
_PROBE: Final = sql(
    "INSERT INTO leaders (name, holder, until_at) VALUES ('readiness', 'readiness', :until)"
    " ON CONFLICT (name) DO UPDATE SET until_at = :until"
)


class Live(BaseModel):
    """The process answers."""

    status: str = "live"


class Ready(BaseModel):
    """Every check passed."""

    status: str = "ready"
    checks: dict[str, str]


class Version(BaseModel):
    """What is running."""

    version: str
    services: list[str]


def routes(
    *, check: Check, version: str, services: Sequence[str], metrics_public: bool
) -> APIRouter:
    """`/health/live`, `/health/ready`, `/version`, `/metrics` and `/problems/{code}`."""
    api = router(tags=["Operation"])

    @api.get("/health/live", summary="Is the process alive?")
    @public
    async def live() -> Live:
        return Live()

    @api.get("/health/ready", summary="Can it take work?")
    @public
    async def ready() -> Ready:
        failures = await check.run()
        checks = {name: failure or "ok" for name, failure in failures.items()}
        if any(failures.values()):
            failed = ", ".join(name for name, failure in failures.items() if failure)
            raise Problem("not_ready", f"Failed: {failed}.", checks=checks)
        return Ready(checks=checks)

    @api.get("/version", summary="Version and services")
    @public
    async def get_version() -> Version:
        return Version(version=version, services=list(services))

    @api.get("/metrics", summary="Figures for Prometheus", response_class=Response)
    @(public if metrics_public else requires(AUTHENTICATED))
    async def get_metrics(request: Request) -> Response:
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @api.get("/problems/{code}", summary="What a problem's code means")
    @public
    async def get_problem(code: str) -> dict[str, Any]:
        kind = PROBLEMS.get(code)
        if kind is None:
            raise Problem("not_found", f"There is no problem code {code!r}.")
        return {"code": code, "title": kind.title, "status": kind.status, "advice": kind.advice}

    return api


class Check:
    """Runs the checks, at most once a second however often it is asked."""

    def __init__(
        self, database: Database, readiness: Readiness | None, clock: Clock | None = None
    ) -> None:
        self._database = database
        self._readiness = readiness
        self._clock = clock or SystemClock()
        self._lock = asyncio.Lock()
        self._verdict: dict[str, str | None] = {}
        self._until = float("-inf")

    async def run(self) -> dict[str, str | None]:
        """What is wrong with each thing that was checked; None = nothing."""
        async with self._lock:
            if self._clock.monotonic() >= self._until:
                verdict: dict[str, str | None] = {"database": await self._write()}
                verdict.update(await self._others())
                self._verdict = verdict
                self._until = self._clock.monotonic() + _KEEP_SECONDS
            return self._verdict

    async def _write(self) -> str | None:
        def probe(tx: Tx) -> None:
            tx.run(_PROBE, until=tx.now())

        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self._database.unit(probe)
        except StorageError as exc:
            return (type(exc).__doc__ or "failed").partition("\n")[0]
        except TimeoutError:
            return f"no answer in {CHECK_SECONDS:g} s"
        return None

    async def _others(self) -> Mapping[str, str | None]:
        if self._readiness is None:
            return {}
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                return await self._readiness()
        except TimeoutError:
            return {"checks": f"no answer in {CHECK_SECONDS:g} s"}

"""The application: routers put under one shell."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from penstock.api import health, openapi, problems, routes_keys
from penstock.api.auth import Authenticator
from penstock.api.health import Check, Readiness
from penstock.api.limits import RateLimiter
from penstock.api.routing import Route
from penstock.api.shell import Shell
from penstock.clock import Clock
from penstock.storage import Database

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[Any]]


class _Application(FastAPI):
    """FastAPI, with a way past its layers for the routes in `straight`.

    Those bring what the layers would do for them, and passing through costs as much as a hot
    route's own work.
    """

    straight: Mapping[tuple[str, str], Route]
    shell: Shell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "http" and (scope["method"], scope["path"]) in self.straight:
            await self.shell(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


_DESCRIPTION = (
    "Background work that is not lost. Every refusal is a problem (RFC 9457) with a stable "
    "`code`; `GET /problems/{code}` says what to do about it."
)


def create_app(
    *,
    routers: Sequence[APIRouter],
    authenticator: Authenticator,
    database: Database,
    version: str,
    services: Sequence[str] = (),
    readiness: Readiness | None = None,
    limiter: RateLimiter | None = None,
    metrics_public: bool = True,
    lifespan: Lifespan | None = None,
    clock: Clock | None = None,
) -> FastAPI:
    """The ASGI application of these routers, plus keys, health, version and metrics.

    Routers come from `penstock.api.routing.router`; a route of another class is refused,
    for nothing would ask its callers who they are.
    """

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        async with lifespan(app) if lifespan is not None else nullcontext():
            try:
                yield
            finally:
                await authenticator.close()

    app = _Application(
        title="Penstock",
        version=version,
        description=_DESCRIPTION,
        openapi_url="/openapi.json",
        docs_url=None,  # both pages load their scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: _answer, RequestValidationError: _answer},
        lifespan=life,
    )
    check = Check(database, readiness, clock)
    own = [
        health.routes(
            check=check, version=version, services=services, metrics_public=metrics_public
        ),
        routes_keys.routes(database),
    ]
    straight: dict[tuple[str, str], Route] = {}
    for router in (*routers, *own):
        for route in router.routes:
            if not isinstance(route, Route):
                raise TypeError(f"{route!r} is not of a router made by penstock.api.routing")
            # Not include_router: it nests routers, and each level is matched by itself.
            app.router.routes.append(route)
            if route.needs.direct and "{" not in route.path:
                straight.update({(method, route.path): route for method in route.methods or ()})
    app.add_middleware(Shell, authenticator=authenticator, limiter=limiter)
    app.straight = straight
    app.shell = Shell(app, authenticator=authenticator, limiter=limiter, straight=straight)
    document: dict[str, Any] = {}

    def describe() -> dict[str, Any]:
        if not document:
            document.update(openapi.build(app))
        return document

    app.openapi = describe  # type: ignore[method-assign]
    return app


async def _answer(request: Request, exc: Exception) -> Response:
    return problems.response(problems.from_exception(exc), request.scope)

"""The route class: who may call, how much they may send, and a straight way to hot functions.

A router is made by `router()`. Each of its functions states what it needs::

    @routes.post("/v1/events", status_code=202)
    @requires("events:write", body=NewEvent, body_limit=256 * 1024, direct=True)
    async def accept(request: Request) -> Response: ...

A function that states nothing is an error at import, so no route is open by omission.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from penstock.api import bodies
from penstock.api.auth import forbidden
from penstock.api.context import ANYONE, AUTHENTICATED, Context, Needs, needs_of
from penstock.api.problems import Problem


class Route(APIRoute):
    """A route that admits callers by what its function needs.

    FastAPI looks at the function's parameters once somebody asks for the route or for its
    description: at start that would be half of what a server computes, and most of a cold start
    is for one route.
    """

    needs: Needs

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        needs = needs_of(endpoint)
        if needs is None:
            raise TypeError(f"{path}: {endpoint!r} says neither @requires nor @public")
        self.needs = needs
        names = ("methods", "name", "include_in_schema")
        known = {name: options[name] for name in names if name in options}
        StarletteRoute.__init__(self, path, endpoint, **known)
        # As FastAPI has them: without the HEAD that Starlette adds.
        self.methods = {method.upper() for method in options.get("methods") or ["GET"]}
        self.app = _guard(_direct(endpoint) if needs.direct else self._looked_at, needs)
        self._options: dict[str, Any] | None = options

    def __getattr__(self, name: str) -> Any:
        """What is missing is FastAPI's."""
        options = self.__dict__.get("_options")
        if options is None:
            raise AttributeError(name)
        self._options = None  # what FastAPI looks for meanwhile is missing indeed
        guarded = self.app
        try:
            super().__init__(self.path, self.endpoint, **options)
        except BaseException:
            self._options = options  # the same error each time
            raise
        self.handled, self.app = self.app, guarded
        return getattr(self, name)

    async def _looked_at(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.handled(scope, receive, send)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, reading JSON by our rules."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_JsonRequest(request.scope, request.receive))

        return handle


def router(**options: Any) -> APIRouter:
    """A router whose routes state what they need."""
    return APIRouter(
        route_class=Route, generate_unique_id_function=lambda route: route.name, **options
    )


class _JsonRequest(Request):
    """A request whose body FastAPI reads under the route's limit and by our JSON rules."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            context: Context = self.scope["penstock"]
            raw = await bodies.read(self, context.body_limit)
            if raw:
                bodies.check_type(context.headers.get(b"content-type"))
            self._body = raw
        return self._body

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = bodies.loads(await self.body())
        return self._json


def _direct(endpoint: Callable[[Request], Coroutine[Any, Any, Response]]) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await endpoint(Request(scope, receive, send))
        await response(scope, receive, send)

    return app


def _guard(inner: ASGIApp, needs: Needs) -> ASGIApp:
    needed, limit = needs.scope, needs.body_limit

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        context: Context = scope["penstock"]
        context.body_limit = limit
        if needed != ANYONE:
            principal = context.principal  # known already where a page of ours asks
            if principal is None:
                header = context.headers.get(b"authorization")
                authenticator = context.authenticator
                principal = authenticator.remembered(header)
                if principal is None:
                    principal = await authenticator.authenticate(header)
                context.principal = principal
            if needed != AUTHENTICATED and needed not in principal.scopes:
                raise forbidden(needed)
            if context.limiter is not None:
                context.limit_headers = context.limiter.admit(principal.account)
        # No database text can hold NUL, whether it comes in a body or in an address.
        if b"%00" in scope["query_string"] or "\0" in scope["path"]:
            raise Problem("nul_character", "The address holds the character %00.")
        if limit is not None:
            length = context.headers.get(b"content-length")
            if length is not None and (len(length) > 18 or int(length) > limit):
                raise bodies.too_large(limit)
        await inner(scope, receive, send)

    return app

"""The one ASGI wrapper around every request: its id, its log line, its figures, its failures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from time import perf_counter
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penstock import telemetry
from penstock.api import problems
from penstock.api.auth import Authenticator
from penstock.api.context import Context
from penstock.api.limits import RateLimiter
from penstock.api.routing import Route
from penstock.ids import new_id
from penstock.telemetry import log, metrics

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
# W3C Trace Context, section 3.2: version 0xff and all-zero ids are invalid.
_TRACEPARENT: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_GONE: Final = 499  # the client closed the connection before it was answered


class Shell:
    """Wraps the application; the context it makes is ``scope["penstock"]``.

    `straight`: routes by method and path that are called without looking further; matching
    the path against each route in turn would cost more than all else that is done here.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        authenticator: Authenticator,
        limiter: RateLimiter | None,
        straight: Mapping[tuple[str, str], Route] | None = None,
    ) -> None:
        self._app = app
        self._straight = straight or {}
        self._authenticator = authenticator
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; exceptions end here, as a problem."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if "penstock" in scope:  # asked within the request that a page of ours is served by
            inner = self._straight.get((scope["method"], scope["path"]))
            await (self._app if inner is None else inner.app)(scope, receive, send)
            return
        started = perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id")
        if given is None or not _REQUEST_ID.fullmatch(given):
            given = new_id("req").encode()
        trace = headers.get(b"traceparent")
        if trace is not None and not _TRACEPARENT.fullmatch(trace):
            trace = None
        context = Context(
            given.decode("ascii"),
            trace.decode("ascii") if trace is not None else None,
            headers,
            self._authenticator,
            self._limiter,
        )
        scope["penstock"] = context
        echo = (b"x-request-id", given)
        status = 0

        async def reply(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # A new list: the one in the message belongs to the Response.
                extra = context.limit_headers
                own = (echo,) if extra is None or status == 429 else (echo, *extra)
                message["headers"] = [*message["headers"], *own]
            await send(message)

        with telemetry.bind(request_id=context.request_id):
            try:
                route = self._straight.get((scope["method"], scope["path"]))
                if route is None:
                    await self._app(scope, receive, reply)
                else:
                    scope["route"] = route
                    await route.app(scope, receive, reply)
            except ClientDisconnect:
                status = status or _GONE
            except Exception as exc:
                problem = problems.from_exception(exc)
                if problem.code == "internal_error":
                    log(
                        telemetry.REQUEST_FAILED,
                        exc_info=exc,
                        method=scope["method"],
                        route=_route(scope),
                        error=f"{type(exc).__name__}: {exc}",
                    )
                # Once an answer has begun nothing can be added; the server sees that it was
                # left unfinished and closes the connection.
                if status == 0:
                    await problems.response(problem, scope)(scope, receive, reply)
            finally:
                _record(scope, context, status, perf_counter() - started)


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", None) or "none"


def _record(scope: Scope, context: Context, status: int, seconds: float) -> None:
    # What a client can invent must not become a label: each value is kept for good.
    method = scope["method"] if scope["method"] in _METHODS else "other"
    route = _route(scope)
    metrics.inc(telemetry.HTTP_REQUESTS, method=method, route=route, status=status)
    metrics.observe(telemetry.HTTP_REQUEST_DURATION, seconds, method=method, route=route)
    caller = context.principal
    log(
        telemetry.REQUEST,
        method=method,
        route=route,
        status=status,
        seconds=round(seconds, 6),
        account=caller.account if caller is not None else None,
    )

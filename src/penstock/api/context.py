"""What is known of the request that is being served, and what its route asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar, cast

from fastapi import Depends
from pydantic import BaseModel
from starlette.requests import Request

from penstock.api.auth import Authenticator, Principal
from penstock.api.bodies import DEFAULT_LIMIT
from penstock.api.limits import Headers, RateLimiter
from penstock.api.scopes import ALL

F = TypeVar("F", bound=Callable[..., Any])

ANYONE: Final = ""  # no credential needed
AUTHENTICATED: Final = "*"  # any valid credential, whatever its scopes


@dataclass(slots=True)
class Context:
    """One request; kept in the ASGI scope as ``scope["penstock"]``."""

    request_id: str
    traceparent: str | None  # W3C Trace Context, as it came in; None if absent or malformed
    headers: dict[bytes, bytes]
    authenticator: Authenticator
    limiter: RateLimiter | None
    principal: Principal | None = None
    body_limit: int | None = DEFAULT_LIMIT
    limit_headers: Headers | None = None


@dataclass(frozen=True, slots=True)
class Needs:
    """What a route asks for, attached to its function by `requires` or `public`.

    `body`: model of the JSON body, for the documentation of routes that read it themselves.
    `direct`: call the function with the request alone, past FastAPI's parameters; it returns
    a Response. `body_limit`: bytes, None = the route counts for itself.
    """

    scope: str
    body: type[BaseModel] | None = None
    body_limit: int | None = DEFAULT_LIMIT
    direct: bool = False


def requires(
    scope: str,
    *,
    body: type[BaseModel] | None = None,
    body_limit: int | None = DEFAULT_LIMIT,
    direct: bool = False,
) -> Callable[[F], F]:
    """State below the route's decorator which scope it needs, such as ``events:write``."""
    if scope not in ALL and scope != AUTHENTICATED:
        raise ValueError(f"there is no scope {scope!r}")
    return _attach(Needs(scope, body, body_limit, direct))


def public(function: F) -> F:
    """Let a route be called without a credential."""
    return _attach(Needs(ANYONE))(function)


def needs_of(function: Callable[..., Any]) -> Needs | None:
    """What `requires` or `public` attached to `function`."""
    return cast("Needs | None", getattr(function, "__penstock_needs__", None))


def of(request: Request) -> Context:
    """The context of a request."""
    return cast(Context, request.scope["penstock"])


def principal(request: Request) -> Principal:
    """Who sent the request; only for routes that require a credential."""
    caller = of(request).principal
    assert caller is not None, "the route is public"
    return caller


async def _caller(request: Request) -> Principal:
    return principal(request)


# A parameter of a route that goes through FastAPI: `caller: Caller`.
Caller = Annotated[Principal, Depends(_caller)]


def _attach(needs: Needs) -> Callable[[F], F]:
    def attach(function: F) -> F:
        function.__penstock_needs__ = needs  # type: ignore[attr-defined]
        return function

    return attach

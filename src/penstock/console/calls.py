"""Asking the API from within a page: the same routes, in the same process, no socket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote, urlencode

from pydantic_core import from_json, to_json
from starlette.requests import Request
from starlette.types import Message

from penstock.api import problems
from penstock.api.auth import Principal
from penstock.api.context import Context, of
from penstock.api.problems import Problem


class Refused(Exception):
    """The API's refusal, to be shown. `errors`: JSON pointers, each with its message."""

    def __init__(
        self, status: int, code: str, detail: str, errors: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)


def part(text: str) -> str:
    """`text` as one part of an address."""
    return quote(text, safe="")


async def call(
    request: Request,
    principal: Principal,
    method: str,
    path: str,
    *,
    query: Mapping[str, Any] | None = None,
    body: Any = None,
    media: str = "application/json",
) -> Any:
    """The answer's document, None if it has none; Refused if it is not a 2xx.

    `path` is as it would be sent, its parts quoted. Values of `query` that are None or empty are
    left out. A `body` of bytes is sent as it is, as `media`; any other as JSON. An unexpected
    error is raised as it is.
    """
    sent = b"" if body is None else body if isinstance(body, bytes) else to_json(body)
    outer = of(request)
    headers = {
        b"content-type": media.encode("ascii"),
        b"content-length": str(len(sent)).encode(),
    }
    context = Context(
        outer.request_id, outer.traceparent, headers, outer.authenticator, None, principal
    )
    given = {name: value for name, value in (query or {}).items() if value not in (None, "")}
    scope = {
        "type": "http",
        "asgi": request.scope["asgi"],
        "http_version": "1.1",
        "method": method,
        "scheme": request.scope["scheme"],
        "path": unquote(path),
        "raw_path": path.encode("ascii"),
        "query_string": urlencode(given).encode("ascii"),
        "root_path": "",
        "headers": list(headers.items()),
        "client": request.scope.get("client"),
        "server": request.scope.get("server"),
        "state": {},
        "penstock": context,
    }
    waiting = [{"type": "http.request", "body": sent, "more_body": False}]
    status, chunks = 0, []

    async def receive() -> Message:
        return waiting.pop() if waiting else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body":
            chunks.append(message.get("body", b""))

    try:
        await request.app(scope, receive, send)
    except Exception as exc:
        problem = problems.from_exception(exc)
        if problem.code == "internal_error":
            raise
        raise refusal_of(problem) from None
    raw = b"".join(chunks)
    document = from_json(raw) if raw else None
    if 200 <= status < 300:
        return document
    return _refuse(status, document)


def refusal_of(problem: Problem) -> Refused:
    """The same, as pages show it."""
    errors = problem.extra.get("errors", ())
    return Refused(problem.status_code, problem.code, str(problem.detail), _errors(errors))


def _refuse(status: int, document: Any) -> None:
    if not isinstance(document, dict):
        raise RuntimeError(f"the API answered {status} without a problem")
    raise Refused(
        status,
        document.get("code", ""),
        document.get("detail", ""),
        _errors(document.get("errors", ())),
    )


def _errors(listed: Any) -> tuple[tuple[str, str], ...]:
    return tuple(
        (each.get("pointer") or each.get("parameter") or "", each["message"]) for each in listed
    )

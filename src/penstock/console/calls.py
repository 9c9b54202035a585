"""Asking the API from within a page: the same routes, in the same process, no socket."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode

from pydantic_core import from_json, to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from penstock.api import problems
from penstock.api.auth import Principal
from penstock.api.context import Context, of
from penstock.api.problems import Problem


class Refused(Exception):
    """The API's refusal, to be shown. `errors`: JSON pointers, each with its message.

    `option` is the field that answers it, where the refusal is a question.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: Sequence[tuple[str, str]] = (),
        option: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.option = option


@dataclass(frozen=True, slots=True)
class Sent:
    """A body that is passed on as it comes in, with its own headers."""

    headers: Mapping[bytes, bytes]
    receive: Receive


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
    sent: Sent | None = None,
) -> Any:
    """The answer's document, None if it has none; Refused if it is not a 2xx.

    `path` is as it would be sent, its parts quoted. Values of `query` that are None or empty are
    left out. A `body` of bytes is sent as it is, as `media`; any other as JSON; or what was `sent`
    is passed on. An unexpected error is raised as it is.
    """
    sent = _sent(body, media) if sent is None else sent
    scope = _scope(request, principal, method, path, query, sent.headers)
    status, chunks = 0, []

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body":
            chunks.append(message.get("body", b""))

    try:
        await request.app(scope, sent.receive, send)
    except Exception as exc:
        raise _refused(exc) from None
    raw = b"".join(chunks)
    document = from_json(raw) if raw else None
    if 200 <= status < 300:
        return document
    raise _refusal(status, document)


# The file, or where it is: objects in S3 are fetched from there.
_PASSED_ON: Final = (200, 307)


class Fetched(Response):
    """A file of the API's, or where it is, passed on; if it refuses, what `stopped` makes of that.

    `headers` take the place of the API's of the same name.
    """

    def __init__(
        self,
        request: Request,
        principal: Principal,
        path: str,
        query: Mapping[str, Any],
        headers: Mapping[str, str],
        stopped: Callable[[Refused], Response],
    ) -> None:
        super().__init__()
        self._request = request
        self._principal = principal
        self._path = path
        self._query = query
        self._own = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        self._stopped = stopped

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, or the page that says why not."""
        status, problem = 0, bytearray()

        async def pass_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if status in _PASSED_ON:
                    own = {name for name, _ in self._own}
                    kept = [each for each in message["headers"] if each[0].lower() not in own]
                    message = {**message, "headers": [*kept, *self._own]}
            if status in _PASSED_ON:
                await send(message)
            elif message["type"] == "http.response.body":
                problem.extend(message.get("body", b""))

        inner = _scope(self._request, self._principal, "GET", self._path, self._query, {})
        try:
            await self._request.app(inner, receive, pass_on)
        except Exception as exc:
            if status:  # it has begun: that it breaks off is all that can be told
                raise
            await self._stopped(_refused(exc))(scope, receive, send)
            return
        if status not in _PASSED_ON:
            await self._stopped(_refusal(status, from_json(problem)))(scope, receive, send)


def _sent(body: Any, media: str) -> Sent:
    raw = b"" if body is None else body if isinstance(body, bytes) else to_json(body)
    headers = {
        b"content-type": media.encode("ascii"),
        b"content-length": str(len(raw)).encode(),
    }
    waiting = [{"type": "http.request", "body": raw, "more_body": False}]

    async def receive() -> Message:
        return waiting.pop() if waiting else {"type": "http.disconnect"}

    return Sent(headers, receive)


def _scope(
    request: Request,
    principal: Principal,
    method: str,
    path: str,
    query: Mapping[str, Any] | None,
    headers: Mapping[bytes, bytes],
) -> Scope:
    outer = of(request)
    context = Context(
        outer.request_id, outer.traceparent, dict(headers), outer.authenticator, None, principal
    )
    given = {name: value for name, value in (query or {}).items() if value not in (None, "")}
    return {
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


def _refused(exc: Exception) -> Refused:
    """An exception as the refusal that it is; the exception itself if it is none."""
    problem = problems.from_exception(exc)
    if problem.code == "internal_error":
        raise exc
    return refusal_of(problem)


def refusal_of(problem: Problem) -> Refused:
    """The same, as pages show it."""
    return Refused(
        problem.status_code,
        problem.code,
        str(problem.detail),
        _errors(problem.extra.get("errors", ())),
        problem.extra.get("option"),
    )


def _refusal(status: int, document: Any) -> Refused:
    if not isinstance(document, dict):
        raise RuntimeError(f"the API answered {status} without a problem")
    return Refused(
        status,
        document.get("code", ""),
        document.get("detail", ""),
        _errors(document.get("errors", ())),
        document.get("option"),
    )


def _errors(listed: Any) -> tuple[tuple[str, str], ...]:
    return tuple(
        (each.get("pointer") or each.get("parameter") or "", each["message"]) for each in listed
    )

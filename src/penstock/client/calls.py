"""A call as data, and what to do with its outcome: neither knows how requests travel."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, Generic, NoReturn, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

from penstock._version import __version__
from penstock.client.values import Failure, Problem
from penstock.errors import PenstockError

T = TypeVar("T")
# None leaves a parameter out, several values repeat it.
Query: TypeAlias = Mapping[str, str | int | Sequence[str] | None]

# Repeating may help. 429 came before anything was done, so it is safe for every call.
_PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})
_FIRST_WAIT: Final = 0.25  # seconds, doubling
_LONGEST_WAIT: Final = 8.0
_PATIENCE: Final = 60.0  # seconds that a Retry-After may ask for


class ApiError(PenstockError):
    """The server refused the request.

    `code` is stable, `detail` a sentence; `errors` lists what is wrong with the body, if that
    is it; `retry_after` is in seconds. An answer that is not Penstock's has the code
    ``unexpected_answer``.
    """

    def __init__(
        self,
        code: str,
        status: int,
        detail: str,
        request_id: str | None = None,
        *,
        errors: tuple[Failure, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{detail} [{code}]" if detail else code)
        self.code = code
        self.status = status
        self.detail = detail
        self.request_id = request_id
        self.errors = errors
        self.retry_after = retry_after


class Unreachable(PenstockError):
    """No server answers."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, read to its end; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def document(self) -> Any:
        """The JSON of a success; None when there is no body."""
        try:
            return json.loads(self.body) if self.body else None
        except ValueError:
            self.unexpected("something that is not JSON")

    def unexpected(self, what: str) -> NoReturn:
        """Refuse an answer that no Penstock gives."""
        request_id = self.headers.get("x-request-id")
        raise ApiError("unexpected_answer", self.status, f"The server sent {what}.", request_id)


@dataclass(frozen=True, slots=True)
class Lost:
    """There was no answer; `sent` is whether the request may have reached the server."""

    reason: str
    sent: bool


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request, and how to read its answer.

    `body` is sent as JSON, `csv` as it is; at most one of them. `repeatable`: doing it twice is
    doing it once. `held`: seconds that the server may take for its answer on purpose.
    """

    method: str
    path: str
    read: Callable[[Answer], T]
    query: Query = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    csv: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    held: float = 0.0

    def target(self) -> str:
        """Path and query."""
        given = {name: value for name, value in self.query.items() if value is not None}
        return f"{self.path}?{urlencode(given, doseq=True)}" if given else self.path

    def content(self) -> bytes | None:
        """The body as it is sent; ValueError or TypeError if it is no JSON."""
        if self.body is None:
            return self.csv
        return json.dumps(self.body, separators=(",", ":"), allow_nan=False).encode()


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A list that is read page by page, `first` being the call for the first one."""

    first: Call[Any]
    item: Callable[[Mapping[str, Any]], T]

    def page(self, cursor: str | None) -> Call[tuple[list[T], str | None]]:
        """The call for the page at `cursor`: its items, and the cursor of the next."""
        return replace(self.first, query={**self.first.query, "cursor": cursor}, read=self._read)

    def _read(self, answer: Answer) -> tuple[list[T], str | None]:
        return reading(
            lambda page: ([self.item(each) for each in page["items"]], page["next_cursor"])
        )(answer)


def reading(build: Callable[[Any], T]) -> Callable[[Answer], T]:
    """How to read an answer whose JSON `build` understands."""

    def read(answer: Answer) -> T:
        document = answer.document()
        try:
            return build(document)
        except (AttributeError, KeyError, TypeError, ValueError):
            answer.unexpected("JSON of another shape than this client knows")

    return read


def nothing(_: Answer) -> None:
    """How to read an answer that says nothing."""


def at(*parts: str) -> str:
    """A path below /v1; each part is escaped."""
    return "/".join(("/v1", *(quote(part, safe="") for part in parts)))


def describe(
    method: str,
    path: str,
    body: Any = None,
    *,
    query: Query | None = None,
    headers: Mapping[str, str] | None = None,
    repeatable: bool | None = None,
    held: float = 0.0,
) -> Call[Any]:
    """A call of any route; it is repeatable unless its method is POST."""
    if repeatable is None:
        repeatable = method != "POST"
    return Call(
        method,
        path,
        Answer.document,
        query or {},
        body,
        headers=headers or {},
        repeatable=repeatable,
        held=held,
    )


def headers(call: Call[Any], key: str) -> dict[str, str]:
    """The header fields that a call is sent with."""
    sent = {
        "accept": "application/json",
        "authorization": f"Bearer {key}",
        "user-agent": f"penstock/{__version__}",
        **call.headers,
    }
    if call.body is not None:
        sent["content-type"] = "application/json"
    elif call.csv is not None:
        sent["content-type"] = "text/csv"
    return sent


def moved(call: Call[Any], answer: Answer) -> str | None:
    """Where what was asked for is to be fetched, if the server says so: files are in S3."""
    if call.method != "GET" or answer.status != 307:
        return None
    location = answer.headers.get("location", "")
    return location if location.startswith(("https://", "http://")) else None


class Tries:
    """The tries of one call: what to do after each of them."""

    def __init__(self, call: Call[Any], url: str, retries: int) -> None:
        self._call = call
        self._url = url
        self._left = retries
        self._wait = _FIRST_WAIT
        self._may_be_done = False  # a try without an answer may have reached the server

    def after(self, outcome: Answer | Lost) -> float | None:
        """Seconds to wait before the next try; None = it is answered. Raises when it is over."""
        if isinstance(outcome, Lost):
            if self._left < 1 or (outcome.sent and not self._call.repeatable):
                raise Unreachable(f"{self._url} does not answer: {outcome.reason}")
            self._may_be_done |= outcome.sent
            return self._pause()
        if outcome.status < 300:
            return None
        if outcome.status == 404 and self._call.method == "DELETE" and self._may_be_done:
            return None  # the try before did it
        pause = _retry_after(outcome.headers.get("retry-after"))
        passing = outcome.status in _PASSING and (self._call.repeatable or outcome.status == 429)
        if not passing or self._left < 1 or (pause or 0) > _PATIENCE:
            raise _refusal(outcome, pause)
        self._may_be_done |= outcome.status != 429
        return max(pause or 0, self._pause())

    def _pause(self) -> float:
        # Jittered, so that clients which failed together do not return together.
        pause = self._wait * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
        self._left -= 1
        self._wait = min(_LONGEST_WAIT, self._wait * 2)
        return pause


def _refusal(answer: Answer, pause: float | None) -> ApiError:
    try:
        problem = Problem.of(json.loads(answer.body))
    except (AttributeError, KeyError, TypeError, ValueError):
        says = f"The server answered {answer.status}, and not as Penstock does."
        problem = Problem("unexpected_answer", answer.status, detail=says)
    return ApiError(
        problem.code,
        answer.status,
        problem.detail or problem.title,
        problem.request_id or answer.headers.get("x-request-id"),
        errors=problem.errors,
        retry_after=pause,
    )


def _retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After (RFC 9110 §10.2.3) asks for; None = nothing useful."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return float(text)
    try:
        then = parsedate_to_datetime(text)
    except ValueError:
        return None
    if then.tzinfo is None:  # an obsolete form, which means UTC too
        then = then.replace(tzinfo=UTC)
    return max(0.0, (then - datetime.now(UTC)).total_seconds())

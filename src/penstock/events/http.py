"""The outbound side of a push: one shared connection pool, one POST, one classified answer.

The guard stands at two places of the pool. The resolver refuses a name that leads to a
forbidden address, and the socket factory judges the very address that is about to be
connected to; it alone sees addresses written into the URL, and its verdict is final. A
connection that is reused was judged when it was made.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import AddrInfoType, Connection
from yarl import URL

from penstock._version import __version__
from penstock.errors import PenstockError
from penstock.events.guard import Guard, GuardRefused, Resolve, parse_url, system_resolve

FailureKind = Literal[
    "timeout_connect",  # no connection in time: DNS, TCP and TLS together
    "timeout",  # connected, but no status line and headers in time
    "dns",
    "refused_by_guard",
    "connection_refused",
    "connection_reset",  # closed by the other side before it answered
    "tls",
    "protocol",  # what came back is not HTTP
    "connection",  # anything else: no route, network down, …
]

MAX_HEADERS = 32
MAX_HEADER_VALUE = 4096  # characters
MAX_HEADER_BYTES = 8192  # all names and values; many servers take no more

_CLOSED = frozenset((errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE))
_KEPT_HEADERS = ("retry-after", "content-type", "location")
_MAX_KEPT = 512  # characters of each
_MAX_TEXT = 500

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}", re.ASCII)  # RFC 9110, 5.6.2
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*", re.ASCII)
# Headers that frame the message, belong to the connection, or say what Penstock says itself.
_OWNED_HEADERS = frozenset(
    (
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
_OWNED_PREFIXES = ("webhook-", "proxy-")


class HeaderRefused(PenstockError):
    """The header must not be set on a push."""


@dataclass(frozen=True, slots=True)
class Response:
    """The receiver answered. `headers` holds retry-after, content-type and location, if sent.

    `excerpt` is the beginning of the body, as it came; `address` is ``ip:port``, `duration`
    in seconds.
    """

    status: int
    headers: Mapping[str, str]
    excerpt: bytes
    address: str | None
    duration: float


@dataclass(frozen=True, slots=True)
class Failure:
    """The receiver did not answer. `address`: the last one connected to or tried, if any."""

    kind: FailureKind
    text: str
    address: str | None
    duration: float


class _Attempt:
    """What the pool's callbacks need to know of one post, and what they tell it."""

    __slots__ = ("address", "connected", "plain", "refusal")

    def __init__(self, plain: bool) -> None:
        self.plain = plain
        self.address: str | None = None
        self.connected = False
        self.refusal: GuardRefused | None = None


# aiohttp hands nothing of a request to resolver and socket factory, but the tasks it makes
# for them inherit the context.
_attempt: ContextVar[_Attempt | None] = ContextVar("penstock_push_attempt", default=None)


class _GuardedResolver(AbstractResolver):
    def __init__(self, guard: Guard, resolve: Resolve) -> None:
        self._guard = guard
        self._resolve = resolve

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._guard.addresses(host, port, self._resolve)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in found
        ]

    async def close(self) -> None:
        """Nothing is held open."""


class _PushResponse(aiohttp.ClientResponse):
    """Notes the peer's address while the connection is still known.

    A short answer arrives whole, and aiohttp has taken its connection back by the time the
    caller sees the response.
    """

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Begin to read the response."""
        attempt = _attempt.get()
        if attempt is not None:
            attempt.connected = True
            if connection.transport is not None:
                attempt.address = _printed(connection.transport.get_extra_info("peername"))
        return await super().start(connection)


def outbound_session(
    guard: Guard,
    *,
    limit: int = 256,
    resolve: Resolve = system_resolve,
    ssl_context: ssl.SSLContext | None = None,
) -> aiohttp.ClientSession:
    """The pool that all pushes share; call it inside a running loop, and close it.

    `limit` bounds the connections in use at once. Keep it at or above the number of pushes
    that run at once: waiting for a free one counts against the connect timeout. One endpoint
    is bounded by its lane, not here. `ssl_context` replaces the default trust store.
    """

    def guarded_socket(info: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, sockaddr = info
        attempt = _attempt.get()
        try:
            guard.check_address(str(sockaddr[0]), plain=attempt is not None and attempt.plain)
        except GuardRefused as refusal:
            if attempt is not None:
                attempt.refusal = refusal
            # An OSError, because that is what aiohttp takes for "this address did not work".
            raise PermissionError(errno.EACCES, str(refusal)) from refusal
        if attempt is not None:
            attempt.address = _printed(sockaddr)
        return socket.socket(family, kind, protocol)

    connector = aiohttp.TCPConnector(
        resolver=_GuardedResolver(guard, resolve),
        socket_factory=guarded_socket,
        ttl_dns_cache=10,  # seconds; the socket factory's check does not depend on it
        limit=limit,
        ssl=True if ssl_context is None else ssl_context,
    )
    return aiohttp.ClientSession(
        connector=connector,
        response_class=_PushResponse,
        headers={
            "User-Agent": f"Penstock/{__version__}",
            "Content-Type": "application/json",
            "Accept": "*/*",
            "Accept-Encoding": "identity",  # leaving it out would permit any (RFC 9110, 12.5.3)
        },
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,  # a proxy would connect for us, past the guard
        auto_decompress=False,  # a small gzip body may hold gigabytes
        read_bufsize=16384,
    )


async def post(
    session: aiohttp.ClientSession,
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    connect_timeout: float = 5.0,
    total_timeout: float = 10.0,
    excerpt_limit_ok: int = 1024,
    excerpt_limit_bad: int = 16384,
) -> Response | Failure:
    """POST `body` once, follow nothing, and say what came of it. Timeouts are in seconds.

    The status line is the answer: once it is there, a body that is cut off or still trickling
    when `total_timeout` ends changes nothing but the excerpt. (Only if its framing is found
    broken in the very read that brought the status is there no answer.) Of the body at
    most the larger limit is read, of which a 2xx keeps `excerpt_limit_ok` bytes and any
    other status `excerpt_limit_bad`; if there is more, the connection is closed, otherwise
    it is used again.
    """
    began = time.monotonic()
    try:
        target, plain = _prepared(url)
    except GuardRefused as refusal:
        return Failure("refused_by_guard", str(refusal), None, 0.0)
    attempt = _Attempt(plain)
    token = _attempt.set(attempt)
    try:
        response = await session.post(
            target,
            data=body,
            headers=headers,
            allow_redirects=False,
            timeout=_timeout(connect_timeout, total_timeout),
        )
        status = response.status
        kept = _kept(response)
        limit = excerpt_limit_ok if 200 <= status < 300 else excerpt_limit_bad
        excerpt = await _read(response, max(excerpt_limit_ok, excerpt_limit_bad))
    except (GuardRefused, TimeoutError, aiohttp.ClientError, OSError) as error:
        kind, text = _classified(error, attempt)
        address = None if kind == "refused_by_guard" else attempt.address
        return Failure(kind, text, address, time.monotonic() - began)
    finally:
        _attempt.reset(token)
    return Response(status, kept, excerpt[:limit], attempt.address, time.monotonic() - began)


def check_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The endpoint's own headers, values stripped; HeaderRefused says what is wrong.

    Refused are headers that Penstock or HTTP itself sets, names that are not tokens, values
    with anything but printable ASCII and tabs (so no CR, LF or NUL), and too many or too much.
    """
    if len(headers) > MAX_HEADERS:
        raise HeaderRefused(f"more than {MAX_HEADERS} headers")
    checked: dict[str, str] = {}
    seen: set[str] = set()
    for name, raw in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise HeaderRefused(f"{name[:128]!r} is not a header name")
        lowered = name.lower()
        if lowered in _OWNED_HEADERS or lowered.startswith(_OWNED_PREFIXES):
            raise HeaderRefused(f"the header {name} is set by Penstock")
        if lowered in seen:
            raise HeaderRefused(f"the header {name} is given twice")
        value = raw.strip(" \t")
        if not _HEADER_VALUE.fullmatch(value):
            raise HeaderRefused(f"the value of {name} has characters other than printable ASCII")
        if len(value) > MAX_HEADER_VALUE:
            raise HeaderRefused(f"the value of {name} is longer than {MAX_HEADER_VALUE}")
        seen.add(lowered)
        checked[name] = value
    if sum(len(name) + len(value) for name, value in checked.items()) > MAX_HEADER_BYTES:
        raise HeaderRefused(f"the headers are longer than {MAX_HEADER_BYTES} bytes together")
    return checked


@lru_cache(maxsize=4096)
def _prepared(url: str) -> tuple[URL, bool]:
    """The URL as aiohttp wants it, from our own parse, so that the two cannot differ."""
    target = parse_url(url)
    return URL(target.url, encoded=True), target.plain


@lru_cache(maxsize=256)
def _timeout(connect: float, total: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=total, connect=connect)


def _kept(response: aiohttp.ClientResponse) -> dict[str, str]:
    kept: dict[str, str] = {}
    for name in _KEPT_HEADERS:
        value = response.headers.get(name)
        if value is not None:
            # Bytes that are not UTF-8 arrive as surrogates, which no database takes.
            kept[name] = value[:_MAX_KEPT].encode("utf-8", "replace").decode()
    return kept


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The first `limit` bytes of the body, or as many as come; then the connection is let go."""
    content = response.content
    chunks: list[bytes] = []
    left = limit
    try:
        while left > 0 and not content.at_eof():
            chunk = await content.read(left)
            chunks.append(chunk)
            left -= len(chunk)
    except (TimeoutError, aiohttp.ClientError, OSError):
        response.close()
    except BaseException:
        response.close()
        raise
    else:
        if content.at_eof():
            response.release()
        else:
            response.close()
    return b"".join(chunks)


def _classified(error: Exception, attempt: _Attempt) -> tuple[FailureKind, str]:
    if isinstance(error, GuardRefused):
        return "refused_by_guard", str(error)
    if attempt.refusal is not None and not attempt.connected:
        return "refused_by_guard", str(attempt.refusal)
    # The reason behind an error of the connector is an OSError of its own.
    cause: BaseException = error
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
    where = f" ({attempt.address})" if attempt.address else ""
    if isinstance(error, TimeoutError) or isinstance(cause, TimeoutError):
        if attempt.connected:
            return "timeout", f"no answer in time{where}"
        return "timeout_connect", f"no connection in time{where}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "dns", _short(f"the host does not resolve: {_reason(cause)}")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "tls", _short(f"the certificate is not accepted: {error.certificate_error}")
    if isinstance(error, ssl.SSLError) or isinstance(cause, ssl.SSLError):
        return "tls", _short(f"TLS failed: {_reason(cause)}")
    if isinstance(cause, ConnectionRefusedError):
        return "connection_refused", f"the connection was refused{where}"
    # aiohttp's ClientOSError keeps the number but not the class of what went wrong.
    if isinstance(cause, ConnectionError | aiohttp.ServerDisconnectedError) or (
        isinstance(cause, OSError) and cause.errno in _CLOSED
    ):
        return "connection_reset", f"the connection was closed without an answer{where}"
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.ClientPayloadError):
        return "protocol", _short(f"the answer is not HTTP: {_reason(error)}")
    return "connection", _short(_reason(cause))


def _reason(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientResponseError):
        return error.message
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _short(text: str) -> str:
    """One line of bounded length, with nothing in it that a log or a database minds."""
    line = " ".join(text.encode("utf-8", "replace").decode().split())
    return "".join(one if one.isprintable() else "?" for one in line[:_MAX_TEXT])


@lru_cache(maxsize=4096)
def _printed(sockaddr: object) -> str | None:
    match sockaddr:
        case (str(host), int(port), *_):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case _:
            return None

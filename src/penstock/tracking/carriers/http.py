"""One call to a carrier's API: JSON back, or a typed reason why not.

No redirects (a bearer token would follow them), no proxies, certificates verified, the body
bounded, the time too.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import aiohttp
from yarl import URL

from penstock._version import __version__
from penstock.clock import Clock, to_datetime
from penstock.tracking.carriers.base import (
    Answer,
    Forbidden,
    Malformed,
    RateLimited,
    Unavailable,
)

Kind = Literal[
    "timeout_connect",  # no connection in time: DNS, TCP and TLS together
    "timeout",  # connected, but no whole answer in time
    "dns",
    "connection_refused",
    "connection",  # reset, no route, network down, …
    "tls",
    "protocol",  # what came back is not HTTP
    "redirect",
    "too_large",
    "not_json",  # HTML, or JSON that is cut off
]

CONNECT = 3.0  # seconds
READ = 10.0  # seconds
MAX_BODY = 4 * 2**20  # bytes; thirty parcels with all their scans are some hundred kilobytes
MAX_RETRY_AFTER = 86_400.0  # seconds; the longest quota of any carrier is a day

_MAX_TEXT = 300


@dataclass(frozen=True, slots=True)
class Reply:
    """The carrier answered with JSON, or with a status that needs none.

    `body` is None where it was not JSON; statuses of 200 to 299 always have one.
    """

    status: int
    body: Any
    retry_after: str | None = None


def carrier_session(
    *,
    connect: float = CONNECT,
    read: float = READ,
    limit: int = 256,
    ssl_context: ssl.SSLContext | None = None,
) -> aiohttp.ClientSession:
    """The pool that all carriers may share; call it inside a running loop, and close it.

    `connect` is how long a connection may take, `read` how long each part of the answer, both
    in seconds; together they bound a call. Keep `limit` at or above the calls that run at once:
    waiting for a free connection counts as connecting. `ssl_context` replaces the default trust
    store.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=limit, ssl=True if ssl_context is None else ssl_context
        ),
        headers={
            "User-Agent": f"Penstock/{__version__}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",  # a small gzip body may hold gigabytes
        },
        timeout=aiohttp.ClientTimeout(total=connect + read, connect=connect, sock_read=read),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
    )


async def call(
    session: aiohttp.ClientSession,
    method: Literal["GET", "POST"],
    url: str,
    *,
    headers: Mapping[str, str],
    query: Mapping[str, str] | None = None,
    document: object = None,
    form: Mapping[str, str] | None = None,
    limit: int = MAX_BODY,
) -> Reply | Unavailable:
    """Ask once. `document` is sent as JSON, `form` URL-encoded; at most one of them.

    The session says how long it may take. A path in `url` must be encoded already. A status that
    says no is a `Reply` all the same: what it means is for the carrier to say, see `refused`.
    """
    target = URL(url, encoded=True)
    if query:
        target = target.update_query(query)
    connected = False
    try:
        response = await session.request(
            method,
            target,
            headers=headers,
            json=document,
            data=form,
            allow_redirects=False,
        )
        connected = True
        async with response:
            content = await _read(response, limit)
    except aiohttp.ConnectionTimeoutError:
        return Unavailable("no connection in time", "timeout_connect")
    except TimeoutError:
        return Unavailable("no whole answer in time", "timeout")
    except (aiohttp.ClientError, OSError) as error:
        return _failure(error, connected)
    status = response.status
    if 300 <= status < 400:
        return Unavailable(f"answered with a redirect ({status}), not followed", "redirect")
    good = 200 <= status < 300
    if content is None and good:
        return Unavailable(f"answered with more than {limit} bytes", "too_large")
    try:
        body = json.loads(content or b"")
    except (ValueError, RecursionError):
        if good:
            return Unavailable(f"answered with {status} and a body that is no JSON", "not_json")
        body = None
    return Reply(status, body, response.headers.get("Retry-After"))


def refused(
    reply: Reply, clock: Clock, *, hint: str = ""
) -> Forbidden | RateLimited | Unavailable | None:
    """What a status means with every carrier; None where it depends on which one it is.

    408 and 5xx are the carrier's trouble, 429 asks for patience, 401 and 403 are about the
    credential: `hint` says what to look at then. (A 401 comes here only after the token was
    renewed.)
    """
    match reply.status:
        case 401 | 403:
            said = f"the credential is not accepted (HTTP {reply.status})"
            return Forbidden(None, f"{said}; {hint}" if hint else said)
        case 429:
            return RateLimited(retry_after(reply.retry_after, clock))
        case 408 | 500 | 501 | 502 | 503 | 504 | 505:
            return Unavailable(f"HTTP {reply.status}", f"http_{reply.status}")
        case status if status >= 500:
            return Unavailable(f"HTTP {status}", f"http_{status}")
        case _:
            return None


def unexpected(reply: Reply) -> Unavailable:
    """What an answer is that the carrier does not document: another server, most likely."""
    return Unavailable(
        f"an unexpected HTTP {reply.status}; is the base URL right?", f"http_{reply.status}"
    )


def one_parcel(number: str, read: Callable[..., Answer], *about: object) -> Answer:
    """What `read` makes of `about`; a parcel that it stumbles over must not spoil the others."""
    try:
        return read(*about)
    except Exception as error:  # whatever it is, it is about the shape of this one parcel
        return Malformed(number, f"the answer cannot be read ({type(error).__name__})")


def retry_after(value: str | None, clock: Clock) -> float | None:
    """Seconds to wait, from Retry-After (RFC 9110, 10.2.3): a number of them, or a date.

    None if there is none or it cannot be read; never below zero or above a day.
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        seconds = float(value[:12])
    else:
        try:
            moment = parsedate_to_datetime(value)
        except (ValueError, TypeError, OverflowError):
            return None
        if moment.tzinfo is None:  # the form of ANSI C has no zone, and means UTC
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - _now(clock)).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def _now(clock: Clock) -> datetime:
    return to_datetime(clock.now())


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    """The body, or None if it is longer than `limit`; then the connection is given up."""
    chunks: list[bytes] = []
    left = limit
    async for chunk in response.content.iter_chunked(65_536):
        left -= len(chunk)
        if left < 0:
            response.close()
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _failure(error: Exception, connected: bool) -> Unavailable:
    cause: BaseException = error
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Unavailable("the host does not resolve", "dns")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return Unavailable("the certificate is not accepted", "tls")
    if isinstance(error, ssl.SSLError) or isinstance(cause, ssl.SSLError):
        return Unavailable("TLS failed", "tls")
    if isinstance(cause, ConnectionRefusedError):
        return Unavailable("the connection was refused", "connection_refused")
    if isinstance(error, aiohttp.ClientPayloadError):
        return Unavailable("the answer ended too early", "protocol")
    if isinstance(error, aiohttp.ClientResponseError):
        return Unavailable("the answer is not HTTP", "protocol")
    where = "before the answer was whole" if connected else "without an answer"
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else ""
    return Unavailable(f"the connection was lost {where} {text}".strip()[:_MAX_TEXT], "connection")

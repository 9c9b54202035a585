"""One call to a carrier, and the tokens that go with it: what must not happen on the way."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from penstock.clock import ManualClock
from penstock.tracking.carriers.base import Credential, Forbidden, RateLimited, Unavailable
from penstock.tracking.carriers.http import Reply, call, carrier_session
from penstock.tracking.carriers.oauth import Token, Tokens, with_token
from support.carriers import CarrierServer
from support.carriers import Reply as Said

pytestmark = pytest.mark.anyio


@pytest.fixture
async def server() -> AsyncIterator[CarrierServer]:
    async with CarrierServer() as started:
        yield started


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with carrier_session(connect=60.0, read=60.0) as opened:
        yield opened


async def get(session: aiohttp.ClientSession, url: str, **more: Any) -> Reply | Unavailable:
    return await call(session, "GET", url, headers={}, **more)


def kind(answer: object) -> str:
    assert isinstance(answer, Unavailable), answer
    return answer.kind


async def test_what_is_sent(server: CarrierServer, session: aiohttp.ClientSession) -> None:
    server.answers(Said({"a": 1}, 200, {"Set-Cookie": "a=b"}))
    reply = await get(session, f"{server.url}/x%2Fy?kept=1", query={"a": "b c&d"})
    assert reply == Reply(200, {"a": 1}, None)
    await call(session, "POST", server.url, headers={}, document=[{"ä": 1}])
    await call(session, "POST", server.url, headers={}, form={"a": "b&c"})
    first, second, third = server.calls
    assert dict(first.query) == {"kept": "1", "a": "b c&d"}
    assert first.path == "/x/y"
    assert first.headers["accept"] == "application/json"
    assert first.headers["accept-encoding"] == "identity"
    assert first.headers["user-agent"].startswith("Penstock/")
    assert second.json == [{"ä": 1}]
    assert second.headers["content-type"] == "application/json"
    assert third.form == {"a": "b&c"}
    assert not any("cookie" in each.headers for each in server.calls)


async def test_a_status_that_says_no_needs_no_json(
    server: CarrierServer, session: aiohttp.ClientSession
) -> None:
    server.answers(Said(b"<html>", 429, {"Retry-After": "7"}))
    assert await get(session, server.url) == Reply(429, None, "7")
    server.answers(Said(b"x" * 200, 503))
    assert await get(session, server.url, limit=100) == Reply(503, None, None)


async def test_a_body_is_read_up_to_its_limit(
    server: CarrierServer, session: aiohttp.ClientSession
) -> None:
    server.answers(Said(b'"' + b"x" * 98 + b'"'))
    assert await get(session, server.url, limit=100) == Reply(200, "x" * 98, None)
    assert kind(await get(session, server.url, limit=99)) == "too_large"


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"\xff\xfe{}x", b"nope"])
async def test_what_is_no_json(
    server: CarrierServer, session: aiohttp.ClientSession, content: bytes
) -> None:
    server.answers(Said(content))
    assert kind(await get(session, server.url)) == "not_json"


async def test_a_certificate_that_nobody_vouches_for_is_not_accepted(
    session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Secrets go to the carrier, or to nobody."""
    certificate = self_signed(tmp_path)
    heard: list[web.Request] = []

    async def hear(request: web.Request) -> web.Response:
        heard.append(request)
        return web.json_response({})

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", hear)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    url = f"https://127.0.0.1:{runner.addresses[0][1]}/"
    assert kind(await get(session, url)) == "tls"
    assert heard == []
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with carrier_session(connect=60.0, ssl_context=trusting) as other:
        assert isinstance(await get(other, url), Reply)
    await runner.cleanup()


def self_signed(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "carrier.example")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "carrier.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


async def test_no_proxy_of_the_environment_sees_a_call(
    server: CarrierServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server.answers(Said({}))
    async with carrier_session(connect=60.0) as session:
        assert isinstance(await get(session, server.url), Reply)


async def test_what_is_not_http(session: aiohttp.ClientSession) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        await writer.drain()
        writer.close()

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        assert kind(await get(session, f"http://127.0.0.1:{port}/")) == "protocol"
    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        assert kind(await get(session, f"http://127.0.0.1:{port}/")) == "connection"


async def test_a_body_that_trickles_for_ever_ends_with_the_calls_time() -> None:
    over = asyncio.Event()

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the first call at once, the next one never to its end."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            try:
                while not writer.is_closing():
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.sleep(0.05)
            finally:
                over.set()
        writer.close()

    async with (
        await asyncio.start_server(trickle, "127.0.0.1", 0) as listening,
        carrier_session(connect=0.2, read=0.5) as session,
    ):
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
        # To connect may take a busy machine all of the time: that is done before.
        while not isinstance(await get(session, url), Reply):
            continue
        assert kind(await get(session, url)) == "timeout"
        await over.wait()


class _Silent(AbstractResolver):
    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        await asyncio.Event().wait()
        raise AssertionError

    async def close(self) -> None:
        """Nothing is held open."""


class _Unknown(_Silent):
    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        raise OSError(None, "Name or service not known")


@pytest.mark.parametrize(
    ("resolver", "found", "seconds"), [(_Silent, "timeout_connect", 0.1), (_Unknown, "dns", 60.0)]
)
async def test_a_host_that_cannot_be_reached(
    resolver: type[AbstractResolver], found: str, seconds: float
) -> None:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=resolver()),
        timeout=aiohttp.ClientTimeout(total=90, connect=seconds),
    ) as session:
        assert kind(await get(session, "http://carrier.example/")) == found


# --- Tokens ------------------------------------------------------------------------------


def tokens(*replies: Reply | Unavailable, clock: ManualClock | None = None) -> Tokens:
    turn = iter(replies)

    async def ask() -> Reply | Unavailable:
        return next(turn, replies[-1])

    return Tokens(ask, Credential("settings", {"client_secret": "hidden"}), clock or ManualClock())


def issued(value: object = "abc", **more: object) -> Reply:
    return Reply(200, {"access_token": value, **more})


@pytest.mark.parametrize(
    ("expires_in", "life"),
    [
        (3600, 2880.0),
        ("14399", 11519.2),
        (None, 240.0),
        ("soon", 240.0),
        (0, 240.0),
        (-5, 240.0),
        (float("nan"), 240.0),
        (10**400, 240.0),
        (10**9, 69120.0),
    ],
)
async def test_how_long_a_token_is_used(expires_in: object, life: float) -> None:
    token = await tokens(issued(expires_in=expires_in)).get()
    assert isinstance(token, Token)
    assert token.until == pytest.approx(life)


@pytest.mark.parametrize("value", [None, 7, "", "two words", "a\r\nX-Evil: 1", "ä"])
async def test_what_is_no_token_is_never_put_into_a_header(value: object) -> None:
    assert kind(await tokens(issued(value)).get()) == "not_json"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"error": "invalid_client"}, "invalid_client"),
        ({"error": {"code": 401}}, "401"),
        ({"response": {"errors": [{"code": "250003", "message": "hidden"}]}}, "250003"),
        ({"errors": [{"code": "NOT.AUTHORIZED.ERROR"}]}, "NOT.AUTHORIZED.ERROR"),
        ({"error": "Bearer hidden thing"}, "no reason given"),
        ({"error": "hidden"}, "***"),
        (["?"], "no reason given"),
        (None, "no reason given"),
    ],
)
async def test_why_there_is_no_token(body: object, code: str) -> None:
    refusal = await tokens(Reply(401, body)).get()
    assert isinstance(refusal, Forbidden)
    assert refusal.number is None
    assert refusal.text == f"no token for these credentials (HTTP 401, {code})"


async def test_a_token_call_that_fails_is_made_again_for_the_next_who_asks() -> None:
    several = tokens(Unavailable("down", "http_503"), Reply(429, None, "9"), issued())
    assert kind(await several.get()) == "http_503"
    assert await several.get() == RateLimited(9.0)
    assert isinstance(await several.get(), Token)


async def test_a_token_is_not_shown() -> None:
    token = await tokens(issued("very-secret")).get()
    assert "very-secret" not in repr(token)


async def test_only_the_token_that_was_refused_is_given_up() -> None:
    several = tokens(issued("one"), issued("two"))
    first = await several.get()
    assert isinstance(first, Token)
    several.spoil(first)
    second = await several.get()
    several.spoil(first)  # late news of the first one
    assert await several.get() is second


async def test_a_401_is_answered_with_one_new_token_not_with_many() -> None:
    used: list[str] = []

    async def ask(token: str) -> Reply:
        used.append(token)
        return Reply(401, None)

    several = tokens(issued("one"), issued("two"), issued("three"))
    assert await with_token(several, ask) == Reply(401, None)
    assert used == ["one", "two"]


async def test_closing_ends_a_token_call_under_way() -> None:
    started = asyncio.Event()

    async def ask() -> Reply:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    waiting = Tokens(ask, Credential("settings", {}), ManualClock())
    getting = asyncio.create_task(waiting.get())
    await started.wait()
    await waiting.close()
    with pytest.raises(asyncio.CancelledError):
        await getting

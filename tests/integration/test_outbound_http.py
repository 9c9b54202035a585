from __future__ import annotations

import asyncio
import gzip
import ipaddress
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from penstock.events import http
from penstock.events.guard import Guard
from penstock.events.http import (
    Failure,
    HeaderRefused,
    Response,
    check_headers,
    outbound_session,
)
from support.ports import reserved

pytestmark = pytest.mark.anyio

LOOPBACK = Guard([ip_network("127.0.0.0/8")])
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


class Receiver:
    """A server on 127.0.0.1 that answers each request with a script."""

    def __init__(self, answer: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> None:
        self.answer = answer
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.connections = 0
        self.closed = asyncio.Event()  # the last connection is gone
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    def url(self, path: str = "/hook", *, scheme: str = "http", host: str = "127.0.0.1") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.closed.clear()
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *fields = head.decode().split("\r\n")[:-2]
                headers = dict(field.split(": ", 1) for field in fields)
                body = await reader.readexactly(int(headers.get("Content-Length", "0")))
                self.requests.append((line, headers, body))
                await self.answer(writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        except RuntimeError:  # what uvloop raises for a connection that is closed
            if not writer.is_closing():
                raise
        finally:
            self._tasks.discard(task)
            self.closed.set()
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def receiver(
    answer: bytes | Callable[[asyncio.StreamWriter], Awaitable[None]] = OK,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Receiver]:
    async def scripted(writer: asyncio.StreamWriter) -> None:
        assert isinstance(answer, bytes)
        writer.write(answer)

    one = Receiver(scripted if isinstance(answer, bytes) else answer)
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0, ssl=tls)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        server.close()
        await one.stop()


async def post(
    session: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str], **options: Any
) -> Response | Failure:
    """Whatever is no test of the timeouts has time enough on a busy machine."""
    options = {"connect_timeout": 60.0, "total_timeout": 60.0} | options
    return await http.post(session, url, body, headers, **options)


async def push(url: str, guard: Guard = LOOPBACK, **options: Any) -> Response | Failure:
    resolve = options.pop("resolve", answers())
    context = options.pop("ssl_context", None)
    async with outbound_session(guard, resolve=resolve, ssl_context=context) as session:
        return await post(session, url, b"{}", {}, **options)


async def answered(session: aiohttp.ClientSession, url: str, within: float) -> Response:
    """What a push comes to whose status arrives at once, and its end not within the timeout.

    The timeout counts from before the connection is made: where a busy machine let it pass
    without even a status, a longer one decides.
    """
    while True:
        got = await post(session, url, b"{}", {}, total_timeout=within)
        if isinstance(got, Response) or within > 20:
            return response(got)
        assert got.kind in ("timeout", "timeout_connect"), got
        within *= 5


async def on_open_connection(
    one: Receiver, then: Callable[[asyncio.StreamWriter], Awaitable[None]], within: float
) -> Response | Failure:
    """What comes of a push whose connection is there already, and which is answered by `then`."""
    async with outbound_session(LOOPBACK) as session:
        response(await post(session, one.url(), b"{}", {}))
        one.answer = then
        got = await post(session, one.url(), b"{}", {}, total_timeout=within)
        assert one.connections == 1
        return got


def answers(*rounds: tuple[str, ...]) -> Callable[[str, int], Awaitable[tuple[str, ...]]]:
    """A resolver that gives one answer after the other, the last one for ever."""
    left = list(rounds)

    async def resolve(host: str, port: int) -> tuple[str, ...]:
        if not left:
            raise AssertionError(f"DNS was asked for {host}")
        return left.pop(0) if len(left) > 1 else left[0]

    return resolve


def response(outcome: Response | Failure) -> Response:
    assert isinstance(outcome, Response), outcome
    return outcome


def failure(outcome: Response | Failure, kind: str) -> Failure:
    assert isinstance(outcome, Failure), outcome
    assert outcome.kind == kind, outcome
    assert outcome.text
    assert outcome.text.isprintable()
    return outcome


# --- what is sent and what comes back ----------------------------------------------------


async def test_a_push_and_its_answer() -> None:
    async with receiver(
        b"HTTP/1.1 429 Slow down\r\nRetry-After: 7\r\nX-Other: 1\r\nSet-Cookie: a=b\r\n"
        b"Content-Type: text/plain\r\nContent-Length: 4\r\n\r\nwait"
    ) as one:
        async with outbound_session(LOOPBACK) as session:
            got = response(
                await post(session, one.url("/a%20b?c=ü"), b'{"x":1}', {"webhook-id": "evt_1"})
            )
            again = response(await post(session, one.url(), b"2", {}))
        assert got.status == 429
        assert got.headers == {"retry-after": "7", "content-type": "text/plain"}
        assert got.excerpt == b"wait"
        assert got.address == again.address == f"127.0.0.1:{one.port}"
        assert 0 < got.duration < 60
        line, headers, body = one.requests[0]
        assert line == "POST /a%20b?c=%C3%BC HTTP/1.1"
        assert body == b'{"x":1}'
        assert headers.pop("User-Agent").startswith("Penstock/")
        assert headers == {
            "Host": f"127.0.0.1:{one.port}",
            "Content-Type": "application/json",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Content-Length": "7",
            "webhook-id": "evt_1",
        }
        assert "Cookie" not in one.requests[1][1]
        assert one.connections == 1  # kept alive


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_answers_and_are_not_followed(status: int) -> None:
    async with receiver() as other:
        answer = f"HTTP/1.1 {status} x\r\nLocation: {other.url()}\r\nContent-Length: 0\r\n\r\n"
        async with receiver(answer.encode()) as one:
            got = response(await push(one.url()))
        assert got.status == status
        assert got.headers["location"] == other.url()
        assert other.requests == []


async def test_informational_answers_are_passed_over() -> None:
    async with receiver(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK) as one:
        assert response(await push(one.url())).status == 200


async def test_proxies_in_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        receiver(b"HTTP/1.1 502 proxy\r\nContent-Length: 0\r\n\r\n") as proxy,
        receiver() as one,
    ):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url("/"))
        assert response(await push(one.url())).status == 200
        assert proxy.connections == 0


async def test_excerpts_are_bounded_and_small_surplus_keeps_the_connection() -> None:
    body = bytes(range(256)) * 16
    for status, expected in ((200, 1024), (500, 4096)):
        head = f"HTTP/1.1 {status} x\r\nContent-Length: 4096\r\n\r\n"
        async with receiver(head.encode() + body) as one:
            async with outbound_session(LOOPBACK) as session:
                for _ in range(3):
                    got = response(await post(session, one.url(), b"{}", {}))
                    assert got.excerpt == body[:expected]
            assert one.connections == 1


async def test_a_huge_body_is_cut_and_the_connection_closed() -> None:
    sent = 0

    async def flood(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 500 x\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            sent += 65536
            await writer.drain()

    async with receiver(flood) as one, outbound_session(LOOPBACK) as session:
        got = response(await post(session, one.url(), b"{}", {}))
        assert (got.status, got.excerpt) == (500, b"x" * 16384)
        await asyncio.wait_for(one.closed.wait(), 60)
        assert sent < 50_000_000
        await post(session, one.url(), b"{}", {})
        assert one.connections == 2


async def test_a_gzip_bomb_stays_small() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    async with receiver(head + bomb) as one:
        assert response(await push(one.url())).excerpt == bomb[:1024]


@pytest.mark.parametrize("status", [200, 503])
async def test_a_trickling_body_ends_with_the_timeout_and_the_status_counts(status: int) -> None:
    async def trickle(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status} x\r\nContent-Length: 1000\r\n\r\n".encode())
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with receiver(trickle) as one, outbound_session(LOOPBACK) as session:
        got = await answered(session, one.url(), within=1.0)
        assert got.status == status
        assert set(got.excerpt) == {ord(".")}
        assert 0.9 < got.duration < 60
        await asyncio.wait_for(one.closed.wait(), 60)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 201 x\r\nContent-Length: 100\r\n\r\npart",
        b"HTTP/1.1 201 x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n|zz\r\n",
        b"HTTP/1.1 201 x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npa",
        b"HTTP/1.1 201 x\r\n\r\nuntil the end",
    ],
    ids=["truncated", "bad chunk", "truncated chunk", "until close"],
)
async def test_a_broken_body_does_not_undo_the_status(answer: bytes) -> None:
    async def cut(writer: asyncio.StreamWriter) -> None:
        for part in answer.split(b"|"):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.05)
        writer.close()

    async with receiver(cut) as one, outbound_session(LOOPBACK) as session:
        assert (await answered(session, one.url(), within=1.5)).status == 201


async def test_a_cancelled_push_closes_its_connection() -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        await asyncio.sleep(60)

    async with receiver(silent) as one, outbound_session(LOOPBACK) as session:
        task = asyncio.create_task(post(session, one.url(), b"{}", {}))
        while not one.requests:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        async def at_once(writer: asyncio.StreamWriter) -> None:
            writer.write(OK)

        one.answer = at_once
        response(await post(session, one.url(), b"{}", {}))
        assert one.connections == 2


# --- failures and their kinds ------------------------------------------------------------


async def test_silence_is_a_timeout() -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async with receiver() as one:
        got = failure(await on_open_connection(one, silent, within=0.5), "timeout")
        assert got.address == f"127.0.0.1:{one.port}"
        assert 0.45 < got.duration < 60


async def test_headers_that_trickle_are_a_timeout() -> None:
    async def trickle(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-A: b\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with receiver() as one:
        failure(await on_open_connection(one, trickle, within=0.5), "timeout")


async def test_a_peer_that_does_not_accept_is_a_connect_timeout() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        # Fill the backlog, so that the next SYN is not answered.
        fillers = [socket.create_connection(("127.0.0.1", port), timeout=60)]
        try:
            for _ in range(3):
                filler = socket.socket()
                filler.setblocking(False)
                fillers.append(filler)
                filler.connect_ex(("127.0.0.1", port))
            outcome = await push(f"http://127.0.0.1:{port}/", connect_timeout=0.2)
        finally:
            for filler in fillers:
                filler.close()
    got = failure(outcome, "timeout_connect")
    assert got.address == f"127.0.0.1:{port}"
    assert 0.15 < got.duration < 60


async def test_a_tls_handshake_that_hangs_is_a_connect_timeout() -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async with receiver(silent) as one:
        url = one.url(scheme="https")
        failure(await push(url, connect_timeout=0.2), "timeout_connect")
        failure(await push(url, total_timeout=0.2), "timeout_connect")


async def test_dns_that_hangs_is_a_connect_timeout() -> None:
    async def hang(host: str, port: int) -> tuple[str, ...]:
        await asyncio.sleep(60)
        return ()

    got = failure(
        await push("https://example.com/", resolve=hang, connect_timeout=0.1), "timeout_connect"
    )
    assert got.address is None


async def test_a_name_without_address() -> None:
    async def unknown(host: str, port: int) -> tuple[str, ...]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    got = failure(await push("https://example.com/", resolve=unknown), "dns")
    assert "Name or service not known" in got.text
    failure(await push("https://example.com/", resolve=answers(())), "dns")


async def test_a_closed_port() -> None:
    with reserved() as port:
        got = failure(await push(f"http://127.0.0.1:{port}/"), "connection_refused")
    assert got.address == f"127.0.0.1:{port}"


@pytest.mark.parametrize("abrupt", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 200 OK\r\nConte"], ids=["nothing", "part"])
async def test_a_connection_that_breaks_before_the_answer(abrupt: bool, part: bytes) -> None:
    async def leave(writer: asyncio.StreamWriter) -> None:
        writer.write(part)
        await writer.drain()
        if abrupt:
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.close()

    async with receiver(leave) as one:
        got = failure(await push(one.url()), "connection_reset")
        assert got.address == f"127.0.0.1:{one.port}"


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00\xff\x16\x03garbage\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBad Header\x00: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 10_000 + b"\r\n",
    ],
    ids=["bytes", "ssh", "status", "header", "length", "chunk", "long header", "many headers"],
)
async def test_what_is_not_http(answer: bytes) -> None:
    async with receiver(answer) as one:
        failure(await push(one.url()), "protocol")


async def test_surrogates_and_long_headers_do_not_get_through() -> None:
    value = b"\xff\xfe" + b"x" * 4000
    async with receiver(
        b"HTTP/1.1 503 x\r\nRetry-After: " + value + b"\r\nContent-Length: 0\r\n\r\n"
    ) as one:
        kept = response(await push(one.url())).headers["retry-after"]
        kept.encode()
        assert len(kept) == 512


# --- TLS ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hooks.example")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.DNSName("hooks.example"),
                    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
                ]
            ),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def serving(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def test_a_self_signed_certificate_is_not_accepted(serving: ssl.SSLContext) -> None:
    async with receiver(tls=serving) as one:
        got = failure(await push(one.url(scheme="https")), "tls")
        assert "certificate" in got.text
        assert one.requests == []


async def test_a_trusted_certificate_is_accepted_for_its_names_only(
    serving: ssl.SSLContext, certificate: Path
) -> None:
    trusting = ssl.create_default_context(cafile=certificate)
    dns = answers(("127.0.0.1",))
    async with receiver(tls=serving) as one:
        for host in ("127.0.0.1", "hooks.example"):
            url = one.url(scheme="https", host=host)
            got = response(await push(url, resolve=dns, ssl_context=trusting))
            assert got.address == f"127.0.0.1:{one.port}"
        url = one.url(scheme="https", host="other.example")
        failure(await push(url, resolve=dns, ssl_context=trusting), "tls")


async def test_plain_text_where_tls_is_expected() -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(rude, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    failure(await push(f"https://127.0.0.1:{port}/"), "tls")
    server.close()


# --- the guard at connect ----------------------------------------------------------------


async def test_addresses_are_judged_when_connecting() -> None:
    async with receiver() as one:
        for url in (
            one.url(scheme="https"),
            one.url(),
            f"https://2130706433:{one.port}/",
            f"https://0x7f.1:{one.port}/",
            f"https://[::ffff:127.0.0.1]:{one.port}/",
            f"https://[::1]:{one.port}/",
            f"https://localhost:{one.port}/",
            "https://169.254.169.254/latest/meta-data/",
            "https://[64:ff9b::a9fe:a9fe]/",
            "ftp://127.0.0.1/",
            "https://user@127.0.0.1/",
        ):
            assert failure(await push(url, Guard()), "refused_by_guard").address is None
        assert one.connections == 0


async def test_dns_that_answers_differently_the_second_time() -> None:
    """Rebinding: public at creation, internal when the push is made."""
    guard = Guard()
    async with receiver() as one:
        url = one.url(scheme="https", host="rebind.example")
        dns = answers(("93.184.215.14",), ("127.0.0.1",))
        assert await guard.resolve_and_check(guard.check_url(url), dns) == ("93.184.215.14",)
        got = failure(await push(url, guard, resolve=dns), "refused_by_guard")
        assert "loopback" in got.text
        assert one.connections == 0


async def test_one_internal_address_among_public_ones_is_refused() -> None:
    async with receiver() as one:
        dns = answers(("93.184.215.14", "127.0.0.1"))
        url = one.url(scheme="https", host="mixed.example")
        failure(await push(url, Guard(), resolve=dns), "refused_by_guard")
        assert one.connections == 0


async def test_the_socket_is_judged_even_if_the_resolver_let_it_pass() -> None:
    """What is connected to decides, with one address and with several (happy eyeballs)."""

    class Blind(Guard):
        async def addresses(self, host: str, port: int, resolve: Any, **_: Any) -> tuple[str, ...]:
            return tuple(await resolve(host, port))

    async with receiver() as one:
        url = one.url(scheme="https", host="blind.example")
        for found in (("127.0.0.1",), ("127.0.0.1", "::1", "127.0.0.2")):
            failure(await push(url, Blind(), resolve=answers(found)), "refused_by_guard")
        assert one.connections == 0


async def test_plain_http_to_a_public_address_is_refused_when_connecting() -> None:
    """The name was internal when the endpoint was made, and plain http was fine then."""
    dns = answers(("93.184.215.14",))
    got = failure(await push("http://inside.example/", resolve=dns), "refused_by_guard")
    assert "https" in got.text
    both = answers(("93.184.215.14", "93.184.215.15"))
    failure(await push("http://inside.example/", resolve=both), "refused_by_guard")


async def test_localhost_needs_no_dns() -> None:
    async with receiver() as one:
        got = response(await push(one.url(host="app.localhost"), resolve=answers()))
        assert got.address == f"127.0.0.1:{one.port}"
        assert one.requests[0][1]["Host"] == f"app.localhost:{one.port}"


async def test_a_session_used_without_post_is_guarded_too() -> None:
    async with receiver() as one, outbound_session(Guard()) as session:
        with pytest.raises(aiohttp.ClientConnectorError, match="may not be reached"):
            await session.get(one.url())
        assert one.connections == 0


async def test_concurrent_pushes_do_not_mix_up_their_answers() -> None:
    async with receiver() as one, outbound_session(LOOPBACK) as session:
        outcomes = await asyncio.gather(
            *(post(session, one.url(f"/{n}"), b"%d" % n, {}) for n in range(20)),
            *(post(session, "https://10.0.0.1/", b"", {}) for _ in range(20)),
        )
        assert [response(got).address for got in outcomes[:20]] == [f"127.0.0.1:{one.port}"] * 20
        for got in outcomes[20:]:
            failure(got, "refused_by_guard")
        assert {body for _, _, body in one.requests} == {b"%d" % n for n in range(20)}


# --- an endpoint's own headers -----------------------------------------------------------


def test_headers_of_an_endpoint() -> None:
    given = {"Authorization": " Bearer x.y ", "X-Tenant": "7", "Cookie": "a=b", "User-Agent": "me"}
    assert check_headers(given) == given | {"Authorization": "Bearer x.y"}
    assert check_headers({f"x-{n}": "" for n in range(32)})


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"Host": "x"}, "set by Penstock"),
        ({"CONTENT-LENGTH": "0"}, "set by Penstock"),
        ({"Transfer-Encoding": "chunked"}, "set by Penstock"),
        ({"Connection": "close"}, "set by Penstock"),
        ({"Content-Type": "text/plain"}, "set by Penstock"),
        ({"Accept-Encoding": "gzip"}, "set by Penstock"),
        ({"Expect": "100-continue"}, "set by Penstock"),
        ({"Webhook-Id": "x"}, "set by Penstock"),
        ({"webhook-signature": "x"}, "set by Penstock"),
        ({"Proxy-Authorization": "x"}, "set by Penstock"),
        ({"": "x"}, "not a header name"),
        ({"a b": "x"}, "not a header name"),
        ({"a:": "x"}, "not a header name"),
        ({"a\r\nb": "x"}, "not a header name"),
        ({"ä": "x"}, "not a header name"),
        ({"a\n": "x"}, "not a header name"),
        ({"a" * 129: "x"}, "not a header name"),
        ({"a": "x\r\nb: c"}, "printable ASCII"),
        ({"a": "x\n"}, "printable ASCII"),
        ({"a": "x\x00"}, "printable ASCII"),
        ({"a": "x\x7f"}, "printable ASCII"),
        ({"a": "ü"}, "printable ASCII"),
        ({"X-A": "1", "x-a": "2"}, "twice"),
        ({"a": "x" * 4097}, "longer than 4096"),
        ({"a": "x" * 4096, "b": "x" * 4096}, "8192 bytes"),
        ({f"x-{n}": "" for n in range(33)}, "more than 32"),
    ],
)
def test_headers_that_are_refused(headers: dict[str, str], says: str) -> None:
    with pytest.raises(HeaderRefused, match=says):
        check_headers(headers)

"""Connections of clients that take their time, against the real HTTP server."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from penstock.api import connection
from penstock.api.connection import Connection
from penstock.server import HttpServer

pytestmark = pytest.mark.anyio

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"


async def _application(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the size of the body; says nothing to a client that went away."""
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


SHORT = 0.3
LONG = 3600.0  # no test sees its end: `over` says that it is there


@pytest.fixture
def window() -> float:
    """How long a window is, in seconds."""
    return SHORT


# Where what the client sends has to come before the end of a window: the machine may be busy.
by_hand = pytest.mark.parametrize("window", [LONG])


@pytest.fixture
async def server(window: float, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[uvicorn.Server]:
    monkeypatch.setattr(connection, "WINDOW", window)
    server = uvicorn.Server(
        uvicorn.Config(
            _application, port=0, http=Connection, log_config=None, lifespan="off", ws="none"
        )
    )
    config = server.config
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    yield server
    server.should_exit = True
    await server.shutdown()


class Client:
    """Reads all the while, so that an answer is not lost to what is sent meanwhile."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.received = b""
        self.ended = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                self.received += data

    async def drip(self, data: bytes, times: int, pause: float = 0.0) -> None:
        """Send `data` again and again, until the other side answers."""
        with suppress(ConnectionError):
            for _ in range(times):
                if self.received or self.ended.done():
                    return
                self.writer.write(data)
                await self.writer.drain()
                await asyncio.sleep(pause)

    async def reply(self) -> bytes:
        """All that came until the other side closed the connection."""
        async with asyncio.timeout(20):
            await self.ended
        return self.received

    async def until(self, end: bytes) -> None:
        async with asyncio.timeout(20):
            while not self.received.endswith(end):
                await asyncio.sleep(0.01)
        self.received = b""


@pytest.fixture
async def client(server: uvicorn.Server) -> AsyncIterator[Client]:
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    made = Client(reader, writer)
    yield made
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    await made.ended


async def watched(server: uvicorn.Server, least: int) -> Connection:
    """The server's side, once it has so many bytes in this window."""
    async with asyncio.timeout(20):
        while True:
            for found in server.server_state.connections:
                assert isinstance(found, Connection)
                if found._in_window >= least:
                    return found
            await asyncio.sleep(0.001)


def over(made: Connection) -> None:
    """Its window is over: what its timer does, now."""
    timer = made._timer
    assert timer is not None
    assert timer.when() - made.loop.time() < connection.WINDOW + 1
    timer.cancel()
    made._judge()


async def test_one_that_says_nothing_is_let_go(client: Client) -> None:
    assert await client.reply() == b""


@by_hand
async def test_a_head_that_drips_is_cut_off(server: uvicorn.Server, client: Client) -> None:
    await client.drip(b"GET / HTTP/1.1\r\n", 1)
    await client.drip(b"X-A: b\r\n", 12)
    made = await watched(server, 16 + 12 * 8)
    assert client.received == b""
    over(made)

    head, _, body = (await client.reply()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["code"] == "too_slow"


async def test_a_body_that_drips_is_cut_off(client: Client) -> None:
    client.writer.write(HEAD)
    await client.drip(b"x", 12, 0.05)

    assert await client.reply() == b""


@by_hand
async def test_a_body_that_comes_at_a_fair_pace_is_taken(
    server: uvicorn.Server, client: Client
) -> None:
    client.writer.write(HEAD.replace(b"Host", b"Connection: close\r\nHost"))
    for _ in range(7):
        await client.drip(b"x" * 12_500, 1)
        over(await watched(server, connection.LEAST))
    assert client.received == b""
    await client.drip(b"x" * 12_500, 1)

    assert b"\r\n100000\r\n" in await client.reply()


@by_hand
async def test_a_body_at_less_than_a_fair_pace_is_cut_off(
    server: uvicorn.Server, client: Client
) -> None:
    client.writer.write(HEAD)
    await client.drip(b"x" * 12_500, 1)
    over(await watched(server, len(HEAD) + 12_500))
    await client.drip(b"x" * (connection.LEAST - 1), 1)
    over(await watched(server, connection.LEAST - 1))

    assert await client.reply() == b""


@by_hand
async def test_a_head_without_end_is_cut_off(client: Client) -> None:
    client.writer.write(b"GET / HTTP/1.1\r\n")
    await client.drip(b"X-A: " + b"b" * 4000 + b"\r\n", 40)

    head, _, body = (await client.reply()).partition(b"\r\n\r\n")
    assert client.ended.done()
    if head:  # the kernel throws it away if more came after it was sent
        assert head.startswith(b"HTTP/1.1 431 ")
        assert json.loads(body)["code"] == "head_too_large"


@by_hand
async def test_requests_one_after_another_on_one_connection(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        client.writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        await client.until(b"\r\n3\r\n0\r\n\r\n")
        monkeypatch.setattr(connection, "WINDOW", SHORT)  # from the second request on
        await asyncio.sleep(SHORT + 0.1)  # an idle connection is not judged


async def test_between_requests_it_is_kept_longer_than_load_balancers_keep_it() -> None:
    # AWS's and nginx's keep a connection idle for 60 s and send the next request on it.
    async with asyncio.timeout(60):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = HttpServer(FastAPI(), grace=1.0)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            await server.listening.wait()
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            (idle,) = server.server_state.connections
            assert isinstance(idle, Connection)
            while (end := idle.timeout_keep_alive_task) is None:
                await asyncio.sleep(0)
            assert end.when() - asyncio.get_running_loop().time() > 60
            writer.close()
            await writer.wait_closed()
            server.should_exit = True
            await serving

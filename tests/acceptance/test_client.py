"""Both clients against a real server, straight and through a proxy that loses answers."""

from __future__ import annotations

import asyncio
import inspect
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
from aiohttp import web

from penstock.client import ApiError, AsyncClient, Client, NewEvent, Unreachable
from support.process import Up
from support.receiver import Receiver

pytestmark = pytest.mark.anyio


class Driver:
    """One way to call both: `await driver("events.send", …)`; lists are read to their end."""

    def __init__(self, kind: type[Client] | type[AsyncClient], **options: Any) -> None:
        self.client: Any = kind(**options)

    async def __call__(self, name: str, *arguments: Any, **options: Any) -> Any:
        method: Any = self.client
        for part in name.split("."):
            method = getattr(method, part)
        if isinstance(self.client, Client):

            def call() -> Any:
                result = method(*arguments, **options)
                return list(result) if inspect.isgenerator(result) else result

            return await asyncio.to_thread(call)
        result = method(*arguments, **options)
        return [each async for each in result] if inspect.isasyncgen(result) else await result

    async def close(self) -> None:
        closing = self.client.close()
        if closing is not None:
            await closing


Dial = Callable[..., Driver]


@pytest.fixture(params=[Client, AsyncClient])
async def dial(request: pytest.FixtureRequest) -> AsyncIterator[Dial]:
    """Makes clients of one kind, and closes them."""
    made: list[Driver] = []

    def make(url: str, key: str, **options: Any) -> Driver:
        made.append(Driver(request.param, url=url, key=key, **options))
        return made[-1]

    yield make
    for driver in made:
        await driver.close()


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def do(dial: Dial, server: Up) -> Driver:
    """A client of the shared server."""
    return dial(server.url, server.token)


class Proxy:
    """Passes requests on; each may be answered otherwise by the next of `plans`."""

    def __init__(self, to: str) -> None:
        self.to = to
        self.plans: list[Any] = []  # "cut", "hang", a Response; what comes after is passed on
        self.seen: list[tuple[str, str]] = []

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        application = web.Application(client_max_size=2**24)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        assert self._runner.addresses
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/prefix"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        path = request.path_qs.removeprefix("/prefix")
        self.seen.append((request.method, path))
        plan = self.plans.pop(0) if self.plans else None
        if isinstance(plan, web.Response):
            return plan
        if plan == "hang":
            await asyncio.sleep(30)
        sent = {k: v for k, v in request.headers.items() if k.lower() != "host"}
        async with self._session.request(
            request.method, self.to + path, data=body, headers=sent
        ) as answer:
            content = await answer.read()
        if plan == "cut":
            assert request.transport is not None
            request.transport.abort()
        kept = ("content-type", "idempotent-replayed", "x-request-id", "retry-after")
        headers = {k: v for k, v in answer.headers.items() if k.lower() in kept}
        return web.Response(status=answer.status, body=content, headers=headers)


@pytest.fixture
async def proxy(server: Up) -> AsyncIterator[Proxy]:
    async with Proxy(server.url) as running:
        yield running


@pytest.fixture
def through(dial: Dial, server: Up, proxy: Proxy) -> Driver:
    """A client of the proxy."""
    return dial(proxy.url, server.token)


async def test_events(do: Driver, receiver: Receiver, topic: str) -> None:
    url = receiver.url(f"/{topic}")
    endpoint = await do("endpoints.create", url, event_types=[topic])

    sent = await do("events.send", topic, {"n": 1}, metadata={"m": 1}, wait=10)

    assert sent.status == "delivered"
    assert not sent.replayed
    assert [delivery.endpoint_id for delivery in sent.deliveries] == [endpoint.endpoint_id]
    assert sent.created_at <= sent.delivered_at
    found = await do("events.get", sent.event_id)
    assert (found.payload, found.metadata) == ({"n": 1}, {"m": 1})
    assert found.deliveries[0].attempt_log[0].status_code == 200
    # Nothing that the API says is left out, and nothing is changed on the way.
    assert found.to_json() == await do("call", "GET", f"/v1/events/{sent.event_id}")

    again = [await do("events.send", topic, {"n": 2}, idempotency_key=topic) for _ in range(2)]
    assert again[0].event_id == again[1].event_id
    assert [each.replayed for each in again] == [False, True]
    batch = await do(
        "events.send_batch", [NewEvent(topic, {"n": 3}), NewEvent("!", {}), NewEvent(topic, {})]
    )
    assert (batch.summary.accepted, batch.summary.refused) == (2, 1)
    assert batch.results[1].problem.code == "validation_failed"
    assert batch.results[1].problem.errors[0].pointer == "/event_type"

    listed = await do("events.list", event_type=topic, page_size=2)
    assert [e.event_id for e in listed] == [
        batch.results[2].event.event_id,
        batch.results[0].event.event_id,
        again[0].event_id,
        sent.event_id,
    ]
    raw = await do("call", "GET", "/v1/events", query={"event_type": topic, "limit": 9})
    # The oldest, for the others may still change.
    assert (await do("events.list", event_type=topic))[-1].to_json() == raw["items"][-1]
    since = await do("events.list", event_type=topic, since=again[0].created_at)
    assert len(since) == 3
    assert await do("events.list", event_type=topic, until=sent.created_at) == []


async def test_endpoints(do: Driver, receiver: Receiver, topic: str) -> None:
    url = receiver.url(f"/{topic}")
    made = await do("endpoints.create", url, event_types=[topic], rate_limit=50, schedule=[1, 2.5])
    id_ = made.endpoint_id
    assert made.secret.startswith("whsec_")
    assert (made.rate_limit, made.schedule, made.event_types) == (50, (1, 2.5), (topic,))
    got = await do("endpoints.get", id_)
    assert got.to_json() == await do("call", "GET", f"/v1/endpoints/{id_}")
    assert got in await do("endpoints.list", page_size=1)

    changed = await do(
        "endpoints.update", id_, rate_limit=None, description="d", headers={"x": "y"}
    )
    assert (changed.rate_limit, changed.description) == (None, "d")
    assert changed.header_names == ("x",)
    assert (await do("endpoints.disable", id_)).enabled is False
    assert (await do("endpoints.enable", id_)).enabled is True
    rotated = await do("endpoints.rotate_secret", id_, overlap_seconds=60)
    assert rotated.secret not in ("", made.secret)
    test = await do("endpoints.test", id_)
    (arrived,) = await receiver.arrived(f"/{topic}")
    assert arrived.json["event_id"] == test.event_id
    assert arrived.verifies(rotated.secret)

    assert await do("endpoints.delete", id_) is None
    with pytest.raises(ApiError) as refused:
        await do("endpoints.get", id_)
    error = refused.value
    assert (error.code, error.status) == ("not_found", 404)
    assert error.request_id
    assert error.detail
    with pytest.raises(ApiError) as refused:
        await do("endpoints.create", "nowhere", max_in_flight=0)
    assert [each.pointer for each in refused.value.errors] == ["/max_in_flight"]


async def test_keys(do: Driver, dial: Dial, server: Up) -> None:
    made = await do("keys.create", "reader", ["events:read"], expires_in="1h")
    listed = next(key for key in await do("keys.list", page_size=1) if key.id == made.id)
    assert listed.hint == made.key[-4:]
    assert listed.expires_at == made.expires_at
    reader = dial(server.url, made.key)
    await reader("events.list")
    with pytest.raises(ApiError) as refused:
        await reader("events.send", "a")
    assert refused.value.code == "insufficient_scope"

    await do("keys.revoke", made.id)
    with pytest.raises(ApiError) as refused:
        await reader("events.list")
    assert refused.value.status == 401
    with pytest.raises(ApiError) as refused:
        await do("keys.revoke", made.id)
    assert refused.value.code == "not_found"


async def test_a_lost_answer_duplicates_no_event(
    do: Driver, through: Driver, proxy: Proxy, receiver: Receiver, topic: str
) -> None:
    await do("endpoints.create", receiver.url(f"/{topic}"), event_types=[topic])
    proxy.plans = ["cut", "cut"]
    sent = await through("events.send", topic, {"n": 1})
    proxy.plans = ["cut"]
    batch = await through("events.send_batch", [NewEvent(topic, {"n": n}) for n in (2, 3)])

    assert sent.replayed
    assert batch.summary.replayed == 2
    assert [path for _, path in proxy.seen] == ["/v1/events"] * 3 + ["/v1/events/batch"] * 2
    assert len(await do("events.list", event_type=topic)) == 3
    pushed = await receiver.arrived(f"/{topic}", 3)
    await asyncio.sleep(0.3)
    assert len(pushed) == len({push.id for push in receiver.at(f"/{topic}")}) == 3


async def test_what_cannot_be_repeated_is_not(
    do: Driver, through: Driver, proxy: Proxy, receiver: Receiver, topic: str
) -> None:
    url = receiver.url(f"/{topic}")
    await through("events.list")  # leaves an idle connection, which must make no difference
    proxy.plans, proxy.seen = ["cut"], []
    with pytest.raises(Unreachable, match="does not answer"):
        await through("endpoints.create", url, event_types=[topic])
    assert proxy.seen == [("POST", "/v1/endpoints")]
    (made,) = [e for e in await do("endpoints.list") if e.event_types == (topic,)]

    proxy.plans = ["cut"]
    await through("endpoints.delete", made.endpoint_id)
    with pytest.raises(ApiError, match="not_found"):
        await through("endpoints.delete", made.endpoint_id)


async def test_retry_after_is_waited_for(through: Driver, proxy: Proxy, topic: str) -> None:
    def busy(status: int, seconds: int) -> web.Response:
        return web.Response(status=status, headers={"Retry-After": str(seconds)}, body=b"{}")

    proxy.plans = [busy(429, 1)]
    began = time.monotonic()
    await through("keys.create", topic)  # not repeatable, but nothing was done
    assert 1 <= time.monotonic() - began < 10

    proxy.plans = [busy(503, 1)]
    began = time.monotonic()
    await through("events.send", topic)
    assert 1 <= time.monotonic() - began < 10

    proxy.plans = [busy(429, 3600)]
    with pytest.raises(ApiError) as refused:
        await through("events.list")
    assert refused.value.retry_after == 3600


async def test_a_server_that_hangs_or_is_not_there(
    dial: Dial, server: Up, proxy: Proxy, free_port: int
) -> None:
    impatient = dial(proxy.url, server.token, timeout=1.0, retries=1)
    proxy.plans = ["hang", "hang"]
    began = time.monotonic()
    with pytest.raises(Unreachable):
        await impatient("events.list")
    assert 2 <= time.monotonic() - began < 15
    assert len(proxy.seen) == 2

    nobody = dial(f"http://127.0.0.1:{free_port}", "k", retries=0)
    with pytest.raises(Unreachable, match="does not answer"):
        await nobody("keys.create", "never")


async def test_answers_that_are_not_penstocks(through: Driver, proxy: Proxy) -> None:
    proxy.plans = [web.Response(text="<html>Sign in</html>", content_type="text/html")]
    with pytest.raises(ApiError, match="unexpected_answer"):
        await through("events.list")

    proxy.plans = [web.Response(status=302, headers={"Location": f"{proxy.url}/elsewhere"})]
    with pytest.raises(ApiError) as refused:
        await through("events.list")
    assert refused.value.status == 302
    assert not any("elsewhere" in path for _, path in proxy.seen)


async def test_a_server_that_was_restarted(
    dial: Dial, start: Callable[..., Any], tmp_path: Path, free_port: int
) -> None:
    data = tmp_path / "data"
    first = start(Up, data, port=free_port)
    key = (await dial(first.url, first.token)("keys.create", "stays")).key
    client = dial(first.url, key, retries=9)
    await client("events.send", "restart")
    await asyncio.to_thread(first.kill)
    early = asyncio.ensure_future(client("events.send", "restart"))  # nobody listens yet
    await asyncio.to_thread(start, Up, data, port=free_port)

    await early
    await client("keys.create", "after")
    assert len(await client("events.list", event_type="restart")) == 2


async def test_a_client_is_shared(do: Driver, topic: str) -> None:
    await asyncio.gather(*(do("events.send", topic, {"n": n}) for n in range(60)))

    assert len(await do("events.list", event_type=topic)) == 60


async def test_the_local_server_is_found(server: Up) -> None:
    def local() -> bool:
        with Client(data_dir=server.data) as client:
            return client.url == server.url and bool(client.events.send("local").event_id)

    assert await asyncio.to_thread(local)
    async with AsyncClient(data_dir=server.data) as client:
        assert (await client.events.send("local")).event_id

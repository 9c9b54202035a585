"""Both clients against a real server, straight and through a proxy that loses answers."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
from aiohttp import web

from penstock.client import (
    ApiError,
    AsyncClient,
    Client,
    InboxOutcome,
    NewEvent,
    Unreachable,
)
from support.accepting import stop_accepting
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
        await stop_accepting(self._runner)
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

    sent = await do("events.send", topic, {"n": 1}, metadata={"m": 1}, ordering_key="k", wait=10)

    assert sent.status == "delivered"
    assert not sent.replayed
    assert [delivery.endpoint_id for delivery in sent.deliveries] == [endpoint.endpoint_id]
    assert sent.created_at <= sent.delivered_at
    found = await do("events.get", sent.event_id)
    assert (found.payload, found.metadata, found.ordering_key) == ({"n": 1}, {"m": 1}, "k")
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


async def test_inbox(do: Driver, topic: str) -> None:
    sent = [(await do("events.send", topic, {"n": n}, metadata={"m": n})).event_id for n in (1, 2)]
    listed = await do("inbox.list", event_types=[topic, "other.*"], page_size=1)
    assert [event.event_id for event in listed] == sent
    raw = await do("call", "GET", "/v1/inbox", query={"event_types": topic})
    assert [event.to_json() for event in listed] == raw["items"]

    lease = await do("inbox.lease", event_types=[topic], lease_seconds=30)
    assert [event.event_id for event in lease.events] == sent
    assert [event.payload for event in lease.events] == [{"n": 1}, {"n": 2}]
    assert lease.events[0].lease_id == lease.lease_id
    assert lease.events[0].leased_until == lease.leased_until
    done = await do("inbox.ack", [sent[0], "evt_none"], lease.lease_id)
    assert [each.outcome for each in done] == ["acknowledged", "not_found"]
    (freed,) = await do("inbox.release", sent[1:], lease.lease_id)
    assert freed == InboxOutcome(sent[1], "released")
    again = await do("inbox.lease", event_types=[topic], limit=1)
    assert [event.event_id for event in again.events] == sent[1:]
    (lost,) = await do("inbox.ack", sent[1:], lease.lease_id)
    assert lost.outcome == "lease_lost"
    assert (await do("events.get", sent[1])).inbox_lease_id == again.lease_id
    (anyway,) = await do("inbox.ack", sent[1:])
    assert anyway.outcome == "acknowledged"
    assert await do("inbox.list", event_types=[topic]) == []
    with pytest.raises(ApiError) as refused:
        await do("inbox.lease", limit=101)
    assert [each.pointer for each in refused.value.errors] == ["/limit"]


async def test_a_reader_of_the_inbox_waits(dial: Dial, server: Up, topic: str) -> None:
    # The wait is on purpose: it does not count against the timeout, or none of the tries would do.
    do = dial(server.url, server.token, timeout=0.5, retries=9)
    assert (await do("inbox.lease", event_types=[topic], wait=1)).events == ()
    waiting = asyncio.create_task(do("inbox.lease", event_types=[topic], wait=20))
    await asyncio.sleep(0.3)
    sent = await dial(server.url, server.token)("events.send", topic)
    assert [event.event_id for event in (await waiting).events] == [sent.event_id]


async def test_lost_answers_of_the_inbox(
    do: Driver, through: Driver, proxy: Proxy, topic: str
) -> None:
    sent = await do("events.send", topic)
    proxy.plans = ["cut"]
    began = time.monotonic()
    lease = await through("inbox.lease", event_types=[topic], lease_seconds=1)
    # The lost answer has them, and not for long.
    assert lease.events == () or time.monotonic() - began >= 1
    if not lease.events:
        lease = await through("inbox.lease", event_types=[topic], wait=10)
    assert [event.event_id for event in lease.events] == [sent.event_id]
    proxy.plans = ["cut"]
    (done,) = await through("inbox.ack", [sent.event_id], lease.lease_id)
    assert done.outcome == "already_delivered"


async def test_replaying_and_deleting_one_event(do: Driver, receiver: Receiver, topic: str) -> None:
    path = f"/{topic}"
    first = await do("endpoints.create", receiver.url(path), event_types=[topic])
    sent = await do("events.send", topic, {"n": 1}, wait=10)
    assert await final(do, "events.get", sent.event_id) == "delivered"
    second = await do("endpoints.create", receiver.url(f"{path}/second"), event_types=[topic])

    again = await do("events.replay", sent.event_id, endpoint_ids=[first.endpoint_id])
    assert (again.event_id, again.status) == (sent.event_id, "pending")
    assert (again.replayed, again.added, again.left_pending) == (1, 0, 0)
    assert len({push.id for push in await receiver.arrived(path, 2)}) == 1
    assert receiver.at(f"{path}/second") == []
    assert await final(do, "events.get", sent.event_id) == "replayed"
    again = await do("events.replay", sent.event_id, include_missing=True)
    assert (again.replayed, again.added) == (1, 1)
    assert {each.endpoint_id for each in again.deliveries} == {
        first.endpoint_id,
        second.endpoint_id,
    }
    await receiver.arrived(f"{path}/second")

    assert await do("events.delete", sent.event_id) is None
    for name in ("events.get", "events.replay", "events.delete"):
        with pytest.raises(ApiError) as refused:
            await do(name, sent.event_id)
        assert refused.value.code == "not_found"


async def test_replays(do: Driver, receiver: Receiver, topic: str) -> None:
    path = f"/{topic}"
    sent = [await do("events.send", topic, {"n": n}) for n in range(3)]
    made = await do("endpoints.create", receiver.url(path), event_types=[topic])

    recovery = await do("endpoints.recover", made.endpoint_id, sent[0].created_at)
    assert recovery.filter.since == sent[0].created_at
    assert (recovery.filter.endpoint_id, recovery.filter.failed_only) == (made.endpoint_id, True)
    assert len({push.id for push in await receiver.arrived(path, 3)}) == 3
    assert await final(do, "replays.get", recovery.replay_id) == "done"
    done = await do("replays.get", recovery.replay_id)
    assert (done.replayed, done.delivered, done.dead, done.outstanding) == (3, 3, 0, 0)
    assert done.finished_at > done.created_at
    assert done.to_json() == await do("call", "GET", f"/v1/replays/{done.replay_id}")

    await do("endpoints.disable", made.endpoint_id)
    started = await do(
        "replays.create",
        event_types=[topic],
        status="replayed",
        since=sent[1].created_at,
        until=datetime.now(UTC),
        endpoint_id=made.endpoint_id,
    )
    assert started.filter.event_types == (topic,)
    assert started.filter.status == "replayed"
    deadline = time.monotonic() + 60
    while (now := await do("replays.get", started.replay_id)).behind != (made.endpoint_id,):
        assert time.monotonic() < deadline, now
        await asyncio.sleep(0.05)
    ended = await do("replays.cancel", started.replay_id)
    assert (ended.status, ended.outstanding) == ("cancelled", 0)
    assert await do("replays.cancel", started.replay_id) == ended
    assert (await do("events.get", sent[2].event_id)).status == "replayed"
    listed = await do("replays.list", page_size=1)
    assert ended in listed
    assert done in listed
    with pytest.raises(ApiError) as refused:
        await do("replays.create", endpoint_id="ep_none")
    assert refused.value.code == "not_found"


async def final(do: Driver, name: str, id_: str) -> str:
    """The status of an event or a replay once it is not pending any more."""
    deadline = time.monotonic() + 60
    while (status := (await do(name, id_)).status) == "pending":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.03)
    return str(status)


async def test_outbox(do: Driver, topic: str) -> None:
    await do("endpoints.create", "ops@example.com", kind="email", event_types=[topic])
    await do("endpoints.create", "+14155552671", kind="sms", event_types=[topic])
    sent = await do("events.send", topic, {"message": "Pump 3 has stopped."}, wait=10)
    assert sent.status == "delivered"

    kept = [each for each in await do("outbox.list", page_size=1) if each.event_id == sent.event_id]
    assert {each.kind: each.target for each in kept} == {
        "email": "ops@example.com",
        "sms": "+14155552671",
    }
    assert all("Pump 3 has stopped." in each.body for each in kept)
    raw = await do("call", "GET", "/v1/outbox")
    assert [each.to_json() for each in kept] == raw["items"][:2]


async def test_shipments(do: Driver, topic: str, tmp_path: Path) -> None:
    made = await do(
        "shipments.create",
        "sandbox",
        f"SBXDELIVERED{topic[5:]}",
        label="chair",
        reference=topic,
        ship_date=date(2026, 1, 31),
        metadata={"order": 7},
    )
    assert (made.label, made.ship_date, made.metadata) == ("chair", "2026-01-31", {"order": 7})
    again = await do("shipments.create", "sandbox", made.tracking_number)
    assert again.shipment_id == made.shipment_id
    deadline = time.monotonic() + 60
    while (detail := await do("shipments.get", made.shipment_id)).status != "delivered":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert detail.delivered_at == detail.scans[0].at
    assert detail.scans[-1].status == "pre_transit"
    assert detail.why.code == "not_due"
    (listed,) = await do("shipments.list", reference=topic, page_size=1)
    assert listed.status == "delivered"
    changed = await do("shipments.update", made.shipment_id, label=None)
    assert changed.label is None
    await do("shipments.refresh", made.shipment_id)
    stopped = await do("shipments.stop", made.shipment_id)
    assert stopped.ended_at is not None
    with pytest.raises(ApiError) as refused:
        await do("shipments.refresh", made.shipment_id)
    assert refused.value.code == "conflict"
    await do("shipments.delete", made.shipment_id)
    assert await do("shipments.list", reference=topic) == []

    (candidate,) = (await do("shipments.detect", "1Z999AA10123456784")).candidates
    assert (candidate.carrier, candidate.checksum) == ("ups", "valid")

    file = tmp_path / "parcels.csv"
    file.write_text(f"tracking_number,reference\nSBXTOUR1,{topic}\n?,{topic}\n")
    imported = await do("shipments.import_csv", file, carrier="sandbox")
    while imported.ended_at is None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
        imported = await do("shipments.get_import", imported.import_id)
    assert imported.created + imported.existing == imported.failed == 1
    (error,) = await do("shipments.import_errors", imported.import_id)
    assert (error.row, error.code, error.column) == (3, "bad_number", "tracking_number")
    with pytest.raises(ApiError) as refused:
        await do("shipments.import_csv", b"x" * 2**21)  # longer than what is sent in one go
    assert refused.value.code == "validation_failed"


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
    assert 1 <= time.monotonic() - began < 30

    proxy.plans = [busy(503, 1)]
    began = time.monotonic()
    await through("events.send", topic)
    assert 1 <= time.monotonic() - began < 30

    proxy.plans = [busy(429, 3600)]
    with pytest.raises(ApiError) as refused:
        await through("events.list")
    assert refused.value.retry_after == 3600


async def test_a_server_that_hangs_or_is_not_there(
    dial: Dial, server: Up, proxy: Proxy, port: int
) -> None:
    impatient = dial(proxy.url, server.token, timeout=1.0, retries=1)
    proxy.plans = ["hang", "hang"]
    began = time.monotonic()
    with pytest.raises(Unreachable):
        await impatient("events.list")
    assert 2 <= time.monotonic() - began < 25
    assert len(proxy.seen) == 2

    nobody = dial(f"http://127.0.0.1:{port}", "k", retries=0)
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
    dial: Dial, start: Callable[..., Any], tmp_path: Path, port: int
) -> None:
    data = tmp_path / "data"
    first = start(Up, data, port=port)
    key = (await dial(first.url, first.token)("keys.create", "stays")).key
    client = dial(first.url, key, retries=15)
    await client("events.send", "restart")
    await asyncio.to_thread(first.kill)
    early = asyncio.ensure_future(client("events.send", "restart"))  # nobody listens yet
    await asyncio.to_thread(start, Up, data, port=port)

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

"""What only PostgreSQL's wake-ups promise: other processes, lost connections, bad payloads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from penstock.telemetry import LogEvent
from penstock.work.wakeups import EVERYTHING, Wake, WakeupsUnavailable
from penstock.work.wakeups.postgres import PostgresWakeups
from support.looptime import pass_time

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


class Site:
    """One channel of one database, and what may happen to it."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self.name = f"test_{uuid4().hex}"
        self.url = psycopg.conninfo.make_conninfo(url, application_name=self.name)
        self._stack = stack

    async def open(self, **options: Any) -> PostgresWakeups:
        wakeups = PostgresWakeups(self.url, **{"channel": self.name, "gap": 0.02, **options})
        self._stack.push_async_callback(wakeups.close)
        await wakeups.open()
        if options.get("listen", True):
            assert await lanes(wakeups) == [EVERYTHING]
        return wakeups

    async def admin(self) -> psycopg.AsyncConnection[Any]:
        connection = await psycopg.AsyncConnection.connect(
            self.url, application_name="admin", autocommit=True
        )
        self._stack.push_async_callback(connection.close)
        return connection

    async def hang_up(self) -> None:
        """The server ends every connection of the wake-ups."""
        await (await self.admin()).execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            (self.name,),
        )

    async def send(self, payload: str) -> None:
        await (await self.admin()).execute("SELECT pg_notify(%s, %s)", (self.name, payload))


@pytest.fixture
async def site(postgres_url: str) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        yield Site(postgres_url, stack)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []

    def log(event: LogEvent, **fields: object) -> None:
        assert fields.keys() <= event.fields
        lines.append({"event": event.name, **fields})

    monkeypatch.setattr("penstock.work.wakeups.postgres.log", log)
    return lines


async def lanes(wakeups: PostgresWakeups, limit: int = 100) -> list[str]:
    async with asyncio.timeout(60):
        messages = await wakeups.receive(limit)
    await wakeups.acknowledge(messages)
    return [message.lane for message in messages]


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def test_every_process_hears_a_wake_once(site: Site) -> None:
    one, two = await site.open(), await site.open()
    await one.publish([Wake("job", "a")])
    await two.publish([Wake("job", "end")])
    assert await lanes(one, 1) == ["a"]
    assert await lanes(one, 1) == ["end"]
    assert sorted(await lanes(two, 1) + await lanes(two, 1)) == ["a", "end"]
    await asyncio.sleep(0.05)
    # Neither heard its own wake a second time.
    assert (await one.stats()).visible == (await two.stats()).visible == 0


async def test_the_publishing_process_does_not_wait_for_the_database(site: Site) -> None:
    wakeups = await site.open(gap=5.0)
    await wakeups.publish([Wake("job", "first")])
    waiting = asyncio.create_task(wakeups.publish([Wake("job", "second")]))
    await asyncio.sleep(0)
    assert (await wakeups.stats()).visible == 2
    assert not waiting.done()
    await wakeups.close()  # sends what was gathered
    await waiting


async def test_the_first_leaves_at_once_and_those_that_follow_leave_together(site: Site) -> None:
    listener = await site.admin()
    await listener.execute(f"LISTEN {site.name}")
    wakeups = await site.open(gap=0.3)
    await wakeups.publish([Wake("job", "0")])
    await asyncio.gather(*(wakeups.publish([Wake("job", str(n))]) for n in range(1, 200)))
    heard = [
        json.loads(notification.payload)
        async for notification in listener.notifies(timeout=60, stop_after=2)
    ]
    assert heard == [[["job", "0"]], [["job", str(n)] for n in range(1, 200)]]


async def test_more_than_one_payload_holds(site: Site) -> None:
    sender, receiver = await site.open(listen=False), await site.open()
    sent = [f"{'long' * 50}-{n}" for n in range(500)]
    await sender.publish([Wake("job", lane) for lane in sent])
    got: list[str] = []
    while len(got) < len(sent):
        got += await lanes(receiver)
    assert got == sent


async def test_a_malformed_payload_is_ignored(site: Site, logged: list[dict[str, Any]]) -> None:
    receiver = await site.open()
    for payload in ("", "hello", '{"kind": "job"}', '[["job", 7]]', "[" * 7000):
        await site.send(payload)
    await site.send('[["job", "a"]]')
    assert await lanes(receiver) == ["a"]
    assert receiver.healthy
    assert len(logged) == 5
    assert all("ignored" in line["error"] for line in logged)


async def test_a_lost_connection_comes_back_and_wakes_everything(site: Site) -> None:
    receiver = await site.open(retry_first=0.01)
    sender = await site.open(listen=False)
    await sender.publish([Wake("job", "a")])
    assert await lanes(receiver) == ["a"]
    await site.hang_up()
    assert await lanes(receiver) == [EVERYTHING]
    assert receiver.healthy
    await sender.publish([Wake("job", "b")])  # on a new connection, nobody notices
    assert await lanes(receiver) == ["b"]


async def test_what_is_held_and_delayed_outlives_the_connection(site: Site) -> None:
    receiver = await site.open(retry_first=0.01)
    for delay in (0.3, 3.0, 30.0):  # longer where a busy machine takes as long to connect again
        await receiver.publish([Wake("job", "held"), Wake("job", "later", delay)])
        (held,) = await receiver.receive(1)
        assert held.lane == "held"
        await site.hang_up()
        seen = await lanes(receiver)
        if outlived := seen == [EVERYTHING]:
            assert (await receiver.stats()).in_flight == 1
        while len(seen) < 2:
            seen += await lanes(receiver)
        assert sorted(seen) == sorted([EVERYTHING, "later"])
        await receiver.release([held])
        assert await lanes(receiver) == ["held"]
        if outlived:
            return
    pytest.fail("the machine is too busy to connect again within half a minute")


async def test_an_unreachable_server_is_tried_again_ever_less_often(
    logged: list[dict[str, Any]],
) -> None:
    wakeups = PostgresWakeups(NOWHERE, retry_first=0.01, retry_cap=0.04)
    await wakeups.open()
    assert not wakeups.healthy
    await eventually(lambda: len(logged) >= 4)
    await wakeups.close()
    assert {line["event"] for line in logged} == {"queue_unreachable"}
    assert [line["retry_in"] for line in logged[:4]] == [0.01, 0.02, 0.04, 0.04]


@pytest.mark.parametrize("listen", [True, False])
async def test_publishing_to_an_unreachable_server_raises(listen: bool) -> None:
    wakeups = PostgresWakeups(NOWHERE, listen=listen)
    await wakeups.open()
    for _ in range(2):
        with pytest.raises(WakeupsUnavailable):
            await wakeups.publish([Wake("job", "a")])
    assert not wakeups.healthy
    # This process could be told all the same.
    assert (await wakeups.stats()).visible == (1 if listen else 0)
    await wakeups.close()


async def test_publishing_works_again_after_an_outage(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = await site.open(listen=False, retry_first=100.0, gap=0.0)
    good, sender._conninfo = sender._conninfo, NOWHERE
    with pytest.raises(WakeupsUnavailable):
        await sender.publish([Wake("job", "a")])
    assert not sender.healthy
    sender._conninfo = good
    with pytest.raises(WakeupsUnavailable):  # it does not knock for every wake
        await sender.publish([Wake("job", "a")])
    pass_time(monkeypatch, 101)
    await sender.publish([Wake("job", "a")])
    assert sender.healthy


async def test_a_cancelled_publisher_takes_nobody_along(site: Site) -> None:
    sender, receiver = await site.open(listen=False), await site.open()
    one = asyncio.create_task(sender.publish([Wake("job", "one")]))
    two = asyncio.create_task(sender.publish([Wake("job", "two")]))
    await asyncio.sleep(0)
    one.cancel()
    await two
    assert one.cancelled()
    assert sorted(await lanes(receiver)) == ["one", "two"]


async def test_publishing_after_close_is_an_error(site: Site) -> None:
    sender = await site.open(listen=False)
    await sender.publish([Wake("job", "a")])
    await sender.close()
    with pytest.raises(WakeupsUnavailable):
        await sender.publish([Wake("job", "a")])


async def test_closing_while_the_server_is_away_does_not_wait() -> None:
    wakeups = PostgresWakeups(NOWHERE, retry_first=600.0)
    await wakeups.open()
    async with asyncio.timeout(30):
        await wakeups.close()

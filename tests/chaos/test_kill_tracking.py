"""kill -9 while parcels move: each change of a status is told by exactly one event."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from support.client import Api
from support.parcels import begun, check_story, follow, told, until
from support.process import Process, Up
from support.receiver import Receiver

pytestmark = pytest.mark.anyio


def _numbers() -> list[str]:
    """Parcels of which some have just been labelled and some are about to arrive.

    So every part of their way is under way while processes are killed, and the last one arrives
    not long after that.
    """
    now = time.time() + 1
    young = [begun("FASTDELIVERED", now - n, n) for n in range(4)]
    return young + [begun("FASTTOUR", now - 8 - 2 * n, n) for n in range(4)]


async def _followed(api: Api, number: str) -> str:
    """Follow a parcel, also across a server that is killed meanwhile; its id."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return str((await follow(api, number))["shipment_id"])
        except (aiohttp.ClientError, OSError):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


async def _check(api: Api, receiver: Receiver, ids: list[str]) -> None:
    """All were delivered, and each one's story was told change by change."""
    for id_ in ids:
        await until(api, id_, 90, status="delivered")
    await receiver.until(
        lambda: all(
            any(event["event_type"] == "shipment.delivered" for event in told(receiver, "/s")[id_])
            for id_ in ids
        ),
        60,
    )
    # What was stored is what was pushed: a push may be repeated, an event not. One that a killed
    # process had in hand may come after those that followed it.
    stored = await _stored(api)

    def pushed() -> set[str]:
        stories = told(receiver, "/s").values()
        return {event["event_id"] for story in stories for event in story}

    await receiver.until(lambda: pushed() >= stored, 60)
    assert pushed() == stored
    stories = told(receiver, "/s")
    assert set(stories) == set(ids)  # no shipment was made twice
    for id_ in ids:
        check_story(stories[id_], "delivered")


async def _stored(api: Api) -> set[str]:
    """The ids of all events."""
    found: set[str] = set()
    query = {"limit": "100"}
    while True:
        page = await api.ok("GET", "/v1/events", query=query)
        found |= {event["event_id"] for event in page["items"]}
        if page["next_cursor"] is None:
            return found
        query["cursor"] = page["next_cursor"]


async def test_the_server_is_killed_while_parcels_move(
    start: Callable[..., Up], tmp_path: Path, receiver: Receiver
) -> None:
    chance = random.Random(20261122)
    data = tmp_path / "data"
    servers = [start(Up, data)]
    async with Api(servers[0].url, servers[0].token) as api:
        # The token of run.json is good for one run; a key outlives the server.
        api.token = (await api.ok("POST", "/v1/keys", {"name": "chaos"}))["key"]
        await api.endpoint(receiver.url("/s"), "shipment.*")
        making = asyncio.gather(*(_followed(api, number) for number in _numbers()))

        for _ in range(5):
            await asyncio.sleep(chance.uniform(0.1, 3.0))
            servers[-1].kill()
            servers.append(await asyncio.to_thread(start, Up, data, port=servers[-1].port))
            api.url = servers[-1].url

        await _check(api, receiver, list(await making))
    assert servers[-1].terminate() == 0


@pytest.mark.postgres
async def test_one_of_two_workers_is_killed_while_parcels_move(
    new_postgres: Callable[[], str],
    start: Callable[..., Process],
    tmp_path: Path,
    receiver: Receiver,
) -> None:
    """The other takes over what it held, once its lease has ended."""
    chance = random.Random(7)
    env = {
        "PENSTOCK_DATABASE_URL": new_postgres(),
        "PENSTOCK_SECRET_KEY": "s" * 32,
        "PENSTOCK_ALLOW_PRIVATE_TARGETS": "127.0.0.0/8",
        "PENSTOCK_LEASE": "2s",
        "PENSTOCK_SWEEP_INTERVAL": "500ms",
    }
    server = start(Up, tmp_path / "data", env=env)
    assert isinstance(server, Up)

    def worker(number: int) -> Process:
        begun_ = start(Process, "worker", data=tmp_path / f"worker{number}", env=env)
        begun_.wait_logged("worker_ready")
        return begun_

    async with Api(server.url, server.token) as api:
        await api.endpoint(receiver.url("/s"), "shipment.*")
        workers = [await asyncio.to_thread(worker, 0)]
        ids = [await _followed(api, number) for number in _numbers()]
        for n in range(1, 4):
            await asyncio.sleep(chance.uniform(0.5, 3.0))
            workers[-1].kill()
            workers.append(await asyncio.to_thread(worker, n))
        await _check(api, receiver, ids)
    assert workers[-1].terminate() == 0
    assert server.terminate() == 0


async def test_the_server_is_killed_while_it_imports(
    start: Callable[..., Up], tmp_path: Path, receiver: Receiver
) -> None:
    """No row is done twice, none is left out, and each shipment is told of once."""
    chance = random.Random(3)
    rows = 2500
    data = tmp_path / "data"
    servers = [start(Up, data)]
    lines = "".join(f'sandbox,SBXPRETRANSIT{n},"parcel\r\n{n}"\r\n' for n in range(rows))
    async with Api(servers[0].url, servers[0].token) as api:
        api.token = (await api.ok("POST", "/v1/keys", {"name": "chaos"}))["key"]
        taken = await api.ok(
            "POST",
            "/v1/shipments/imports",
            data=f"carrier,tracking_number,label\r\n{lines}".encode(),
            headers={"content-type": "text/csv"},
        )
        path = f"/v1/shipments/imports/{taken['import_id']}"
        seen = []
        for _ in range(4):
            await asyncio.sleep(chance.uniform(0.0, 0.6))
            servers[-1].kill()
            servers.append(await asyncio.to_thread(start, Up, data, port=servers[-1].port))
            api.url = servers[-1].url
            seen.append((await api.ok("GET", path))["rows_done"])
        deadline = time.monotonic() + 60
        while (view := await api.ok("GET", path))["status"] != "done":
            assert time.monotonic() < deadline, view
            await asyncio.sleep(0.1)
        assert (view["created"], view["existing"], view["failed"]) == (rows, 0, 0)
        assert view["rows_done"] == rows + 1
        assert seen == sorted(seen)

        async def count(route: str, **query: str) -> int:
            n, cursor = 0, None
            while True:
                asked = query | {"limit": "100"} | ({"cursor": cursor} if cursor else {})
                page = await api.ok("GET", route, query=asked)
                n, cursor = n + len(page["items"]), page["next_cursor"]
                if cursor is None:
                    return n

        assert await count("/v1/shipments") == rows
        assert await count("/v1/events", event_type="shipment.created") == rows
    assert servers[-1].terminate() == 0

"""kill -9 in the middle of everything: what was answered 202 is delivered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from support.client import Api
from support.load import Poster
from support.process import Process, Up
from support.receiver import Receiver, Reply

pytestmark = pytest.mark.anyio

EVENTS = 600
CAP = 32  # pushes in flight at once, of an endpoint that says nothing else


async def _delivered(api: Api, poster: Poster) -> None:
    """Every event that was accepted is delivered."""
    async with asyncio.timeout(60):
        while True:
            query = {"event_type": poster.topic, "status": "pending", "limit": "1"}
            if not (await api.ok("GET", "/v1/events", query=query))["items"]:
                break
            await asyncio.sleep(0.1)
    seen: set[str] = set()
    query = {"event_type": poster.topic, "status": "delivered", "limit": "100"}
    while True:
        page = await api.ok("GET", "/v1/events", query=query)
        seen |= {item["event_id"] for item in page["items"]}
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    # No more than was accepted, either: a repeated post made no second event.
    assert seen == set(poster.accepted.values())


async def _check_pushes(
    api: Api, receiver: Receiver, poster: Poster, lapsed: set[str], secret: str
) -> None:
    pushes = receiver.by_id("/chaos")
    assert set(pushes) == set(poster.accepted.values())
    repeated = {id_: each for id_, each in pushes.items() if len(each) > 1}
    for each in repeated.values():
        assert len({push.body for push in each}) == 1
    assert all(push.verifies(secret) for each in list(pushes.values())[:20] for push in each)
    # Only what a killed process held is repeated: it counts as a lapse, not as an attempt.
    owners = {}
    for id_ in repeated:
        event = await api.event(id_)
        (delivery,) = event["deliveries"]
        owners[id_] = delivery["delivery_id"]
        assert [a["status_code"] for a in delivery["attempt_log"]] == [200]
    assert set(owners.values()) <= lapsed


async def test_the_server_is_killed_twice_while_600_events_are_posted(
    start: Callable[..., Up], tmp_path: Path, receiver: Receiver, topic: str
) -> None:
    data = tmp_path / "data"
    servers = [start(Up, data)]
    receiver.script("/chaos", lambda _: Reply(delay=0.02))
    async with Api(servers[0].url, servers[0].token) as api:
        # The token of run.json is good for one run; a key outlives the server.
        api.token = (await api.ok("POST", "/v1/keys", {"name": "chaos"}))["key"]
        made = await api.endpoint(receiver.url("/chaos"), topic)
        poster = Poster(api, topic)
        async with asyncio.TaskGroup() as tasks:
            posting = tasks.create_task(poster.post(range(EVENTS)))
            for accepted in (200, 500):
                await poster.until_accepted(accepted, posting)
                servers[-1].kill()
                restarted = await asyncio.to_thread(start, Up, data, port=servers[-1].port)
                servers.append(restarted)
                api.url = restarted.url
        await _delivered(api, poster)

        assert poster.retried > 0
        lapses = [{line["id"] for line in s.logged("row_lapsed")} for s in servers]
        assert lapses[0] == set()
        assert all(len(each) <= CAP for each in lapses)
        await _check_pushes(api, receiver, poster, lapses[1] | lapses[2], made["secret"])
    assert servers[-1].terminate() == 0


@pytest.mark.postgres
async def test_a_worker_beside_the_server_is_killed_twice(
    new_postgres: Callable[[], str],
    start: Callable[..., Process],
    tmp_path: Path,
    receiver: Receiver,
    topic: str,
) -> None:
    env = {
        "PENSTOCK_DATABASE_URL": new_postgres(),
        "PENSTOCK_SECRET_KEY": "s" * 32,
        "PENSTOCK_ALLOW_PRIVATE_TARGETS": "127.0.0.0/8",
        "PENSTOCK_LEASE": "3s",
        "PENSTOCK_SWEEP_INTERVAL": "500ms",
    }
    # The server itself has hardly any hands: most of the pushes are the worker's.
    server = start(Up, tmp_path / "data", env=env | {"PENSTOCK_DELIVERY_SLOTS": "1"})
    assert isinstance(server, Up)
    receiver.script("/chaos", lambda _: Reply(delay=0.05))

    def worker(number: int) -> Process:
        begun = start(Process, "worker", data=tmp_path / f"worker{number}", env=env)
        begun.wait_logged("worker_ready")
        return begun

    async with Api(server.url, server.token) as api:
        made = await api.endpoint(receiver.url("/chaos"), topic)
        poster = Poster(api, topic)
        workers = [await asyncio.to_thread(worker, 0)]
        last = EVENTS - 50
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(poster.post(range(last), pause=0.05))
            for number, received in ((1, 150), (2, 350)):
                await receiver.arrived("/chaos", received)
                workers[-1].kill()
                workers.append(await asyncio.to_thread(worker, number))
        # However long its start took, there is something to do for the one that is left.
        await poster.post(range(last, EVENTS), at_once=50)
        await _delivered(api, poster)

        lapsed = {line["id"] for each in (server, *workers) for line in each.logged("row_lapsed")}
        assert 1 <= len(lapsed) <= 2 * CAP
        await _check_pushes(api, receiver, poster, lapsed, made["secret"])
    assert workers[-1].terminate() == 0
    (summary,) = workers[-1].logged("worker_shutdown")
    assert summary["processed"] > 0
    assert server.terminate() == 0

"""What `make package` built, started as Lambda starts it: its own Python, nothing but the zip.

Skips where there is no Python 3.13 or no package; `make test-infra` brings both.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from penstock.storage import migrate as schema
from support import lambda_packages
from support.house import database_down
from support.lambda_account import Gateway, key_of, wake
from support.lambda_packages import SETS, Built
from support.lambda_runtime import event_of, map_events, peak_memory
from support.receiver import Receiver, Reply
from support.sqs_server import running

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    lambda_packages.python()
    return lambda_packages.unpacked(tmp_path_factory.mktemp("task"))


@pytest.fixture
async def account(
    tasks: dict[str, Path], new_postgres: Callable[[], str], tmp_path: Path
) -> AsyncIterator[Built]:
    with running(seed=5) as sqs:
        async with AsyncExitStack() as stack:
            made = Built(sqs, new_postgres(), tmp_path, stack)
            made.tasks = tasks
            yield made


@pytest.mark.parametrize("name", SETS)
def test_a_package_is_small(tasks: dict[str, Path], name: str) -> None:
    assert lambda_packages.size(tasks[name]) < 60 * MIB
    # Lambda has none of these, and would say so only when somebody calls.
    assert not list(tasks[name].rglob("*.so.debug"))
    assert not (tasks[name] / "penstock" / "cli").exists()


async def test_the_whole_story_from_the_packages(account: Built) -> None:
    """Migrated, accepted, delivered after a retry, a parcel followed; each in one environment."""
    migrate = await account.function("migrate")
    done = await migrate.invoke({})
    assert done.payload == {"from_revision": None, "to_revision": schema.head()}, done
    front = await account.function("api")
    api = Gateway(front, await key_of(account))
    async with Receiver() as receiver:
        await api.endpoint(receiver.script("/hook", [500, 200]), "a", "shipment.*")
        sent = [await api.send("a", {"n": n}) for n in range(2)]
        body = {"carrier": "sandbox", "tracking_number": "SBXDELIVERED1"}
        shipment = await api.ok("POST", "/v1/shipments", body)
        events, tracking = [
            await account.function(name) for name in ("events_worker", "tracking_worker")
        ]
        stop = asyncio.Event()
        mappings = [
            asyncio.create_task(map_events(account.sqs, "events", events, stop)),
            asyncio.create_task(map_events(account.sqs, "tracking", tracking, stop)),
        ]
        for id_ in sent:
            assert (await api.final(id_))["status"] == "delivered"
        told = {"shipment.created", "shipment.delivered"}
        await receiver.until(
            lambda: told <= {push.json["event_type"] for push in receiver.at("/hook")}
        )
        stop.set()
        await asyncio.gather(*mappings)
    found = await api.ok("GET", f"/v1/shipments/{shipment['shipment_id']}")
    assert found["status"] == "delivered"
    for name, ran in (("sweeper", "sweep"), ("dispatcher", "dispatch")):
        function = await account.function(name)
        first, second = await function.invoke({}), await function.invoke({})
        assert (first.error, second.error, function.starts) == (None, None, 1), first
        assert any(ran in each for each in first.payload["ran"])
    for function in (events, tracking):  # again, in the environment there is
        answer = await function.invoke(event_of(wake(account.lanes[0])))
        assert answer.payload == {"batchItemFailures": []}
    assert (events.starts, tracking.starts, front.starts) == (1, 1, 1)
    for function in (events, tracking, front):
        assert peak_memory(function.pid) < 256  # the least that a function is given
    assert account.sqs.queue("events-dead").counts() == (0, 0, 0)


async def test_a_timeout_and_an_outage_of_the_database(account: Built) -> None:
    await (await account.function("migrate")).invoke({})
    front, worker = await account.function("api"), await account.function("events_worker")
    api = Gateway(front, await key_of(account))
    async with Receiver() as receiver:
        gate = asyncio.Event()
        receiver.script("/slow", [Reply(gate=gate), Reply()])
        await api.endpoint(receiver.url("/slow"), "a", timeout=30)
        (lane,) = account.lanes
        id_ = await api.send("a")

        with database_down(account.url):
            down = await worker.invoke(event_of(wake(lane), wake("b")))
            failed = [item["itemIdentifier"] for item in down.payload["batchItemFailures"]]
            assert failed == ["m0", "m1"]
        deadline = time.monotonic() + 60
        while (await worker.invoke(event_of())).payload["batchItemFailures"]:
            assert time.monotonic() < deadline
        assert worker.starts == 1

        worker.timeout = 4.0
        answer = await worker.invoke(event_of(wake(lane)))  # ends by itself, before its time
        assert answer.error is None
        assert answer.seconds < 4
        gate.set()
        receiver.script("/slow", [Reply(gate=asyncio.Event())])
        invoking = asyncio.create_task(worker.invoke(event_of(wake(lane))))
        await receiver.until(lambda: receiver.begun == 2)
        os.kill(worker.pid, signal.SIGSTOP)  # it cannot even end
        assert (await invoking).error == "Sandbox.Timedout"
        receiver.script("/slow", [200])
        worker.timeout = 60.0
        account.rows("UPDATE deliveries SET lease_until = 1")  # its lease ends
        await (await account.function("sweeper")).invoke({})
        answer = await worker.invoke(event_of(wake(lane)))
        assert (answer.error, worker.starts) == (None, 2)
        assert (await api.event(id_))["status"] == "delivered"

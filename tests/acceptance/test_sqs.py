"""Processes that share PostgreSQL and wake each other by SQS, through everything SQS may do."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.carriers import SECRET, SPOKEN, CarrierServer
from support.client import Api
from support.house import House, counts, late, moving, note_dues, refusing, until
from support.parcels import follow
from support.process import Process, run
from support.receiver import Receiver, Reply
from support.sqs_queue import Mischief
from support.sqs_server import ENVIRONMENT, REGION, SqsServer, running

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]


async def _readiness(api: Api, status: int) -> Any:
    """The verdict once it is this one: it is kept for a second, and made within two."""
    deadline = time.monotonic() + 60
    while (answer := await api.call("GET", "/health/ready")).status != status:
        assert time.monotonic() < deadline, answer.body
        await asyncio.sleep(0.2)
    return answer


async def test_accepted_woken_worked_and_settled(house: House, receiver: Receiver) -> None:
    """Only the queue tells of work: the sweeper has no turn."""
    server = house.up(PENSTOCK_SWEEP_INTERVAL="1h", PENSTOCK_DELIVERY_SCHEDULE="500ms,1300ms,2s,1h")
    note_dues(house.database)
    async with Api(server.url, server.token) as api:
        await api.endpoint(refusing(receiver, "/hook", retries=3), "a")
        await _readiness(api, 200)
        # A machine that stands still for a moment makes an event late, but not one after the other.
        for left in reversed(range(6)):
            event_id = (await api.send("a"))["event_id"]
            told = await api.final(event_id)
            assert (told["status"], told["delivery_attempts"]) == ("delivered", 4)
            # Due in parts of a second, in more than one and in about two: each wake comes within
            # a second.
            seconds = late(house.database, receiver, "/hook", event_id)
            assert len(seconds) == 3
            assert min(seconds) >= 0
            if max(seconds) < 1.0:
                break
            assert left, seconds
    # A wait of less than a second is a timer of the process, any other a message of its own.
    assert house.sqs.calls["SendMessageBatch"] >= 3
    await until(lambda: counts(house.sqs, "events") == (0, 0, 0))
    assert server.terminate() == 0
    assert counts(house.sqs, "events") == (0, 0, 0)
    assert house.dead_letters() == 0


async def test_messages_lost_doubled_and_shuffled_change_nothing(
    house: House, receiver: Receiver
) -> None:
    one, two = house.up(), house.worker()
    house.mischief(Mischief(lose=0.3, duplicate=0.3, reorder=True))
    house.sqs.faults.partial = 0.1
    house.sqs.faults.error = 0.05
    house.sqs.faults.hang_up = 0.05
    hooks = [f"/hook{n}" for n in range(10)]
    seen: dict[str, int] = {}

    def flaky(received: Any) -> Reply:
        # Every third event is taken at the second attempt only.
        seen[received.id] = seen.get(received.id, 0) + 1
        fails = received.json["payload"]["n"] % 3 == 0 and seen[received.id] == 1
        return Reply(500 if fails else 200)

    async with Api(one.url, one.token) as api:
        for n, hook in enumerate(hooks):
            await api.endpoint(receiver.script(hook, flaky), f"topic{n}")
        sent = {}
        for n in range(60):
            event = await api.send(f"topic{n % 10}", {"n": n})
            sent[event["event_id"]] = 2 if n % 3 == 0 else 1
        deadline = time.monotonic() + 60
        while house.owed():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
            house.a_minute_passes()
        for id_, attempts in sent.items():
            told = await api.final(id_)
            assert (told["status"], told["delivery_attempts"]) == ("delivered", attempts)
    pushes = [push.id for push in receiver.received]
    assert {id_: pushes.count(id_) for id_ in sent} == sent  # none twice, whatever was doubled
    assert house.lost > 0
    assert house.dead_letters() == 0
    for process in (one, two):
        assert not process.logged("lease_lost")
        assert not process.logged("row_lapsed")


async def test_work_goes_on_while_the_queue_is_out_of_reach(
    house: House, receiver: Receiver
) -> None:
    server = house.up()
    async with Api(server.url, server.token) as api:
        await api.endpoint(receiver.url("/hook"), "a")
        await api.final((await api.send("a"))["event_id"])
        house.sqs.sync_shut()
        lost = [(await api.send("a", {"n": n}))["event_id"] for n in range(20)]
        await until(lambda: server.logged("queue_unreachable"))
        unwell = await _readiness(api, 503)
        assert unwell.json["checks"]["wakeups"] == "wake-ups cannot be received or sent"
        assert str(house.sqs.url) not in unwell.body.decode()
        for id_ in lost:  # the sweeper finds them, and tells its own process
            assert (await api.final(id_, 40))["status"] == "delivered"
        house.sqs.sync_listen()
        await _readiness(api, 200)
        assert (await api.final((await api.send("a"))["event_id"], 40))["status"] == "delivered"
    waits = [line["retry_in"] for line in server.logged("queue_unreachable")]
    assert waits[0] == 1.0
    assert max(waits) <= 30.0
    assert "amazonaws" not in server.stderr
    assert len(receiver.at("/hook")) == 22
    assert house.dead_letters() == 0
    assert server.terminate() == 0


async def test_half_an_hour_behind_open_circuits_makes_no_dead_letters(
    house: House, receiver: Receiver
) -> None:
    """An endpoint and a carrier are down; time is moved on for the queues and the database."""

    async def passes(seconds: float) -> None:
        house.pass_time(seconds)
        await asyncio.sleep(0.1)
        # Or what is held would be hidden no longer, and received once more.
        await until(lambda: not moving(house.sqs))

    async with CarrierServer() as carrier:
        dhl = SPOKEN["dhl"]
        carrier.answers(dhl.error(503))
        server = house.up(
            PENSTOCK_DELIVERY_SCHEDULE="100ms,100ms,1h",
            PENSTOCK_DHL_API_KEY=SECRET,
            PENSTOCK_DHL_URL=carrier.url,
            PENSTOCK_DHL_CALLS_PER_SECOND="100",
            PENSTOCK_DHL_CALLS_PER_DAY="1000000",
        )
        async with Api(server.url, server.token) as api:
            await api.endpoint(receiver.script("/down", [500]), "a")
            sent = [(await api.send("a", {"n": n}))["event_id"] for n in range(20)]
            parcels = [
                (await follow(api, f"33188100{n}", carrier="dhl"))["shipment_id"]
                for n in range(10, 20)
            ]
            await until(lambda: len({line["lane"] for line in _opened(server)}) == 2)
            minutes = 0
            # Each is probed, and opened again for longer; on a busy machine not in each minute.
            while minutes < 30 or len(_opened(server)) < 8:
                await passes(60)
                minutes += 1
                assert minutes < 200
            assert house.dead_letters() == 0
            assert house.owed() == 20
            for id_ in sent:
                assert (await api.event(id_))["status"] == "pending"

            receiver.script("/down", [200])
            carrier.answers(dhl.found)
            deadline = time.monotonic() + 60
            while house.owed() or house.rows(
                "SELECT 1 FROM shipments WHERE tracking_status = 'pending'"
            ):
                assert time.monotonic() < deadline
                await passes(600)
            for id_ in sent:
                assert (await api.event(id_))["status"] == "delivered"
            for id_ in parcels:
                assert (await api.ok("GET", f"/v1/shipments/{id_}"))["status"] == "in_transit"
    assert house.dead_letters() == 0
    assert not server.logged("row_lapsed")


def _opened(server: Process) -> list[Any]:
    return server.logged("circuit_opened")


async def test_a_stopped_worker_holds_no_message(house: House, receiver: Receiver) -> None:
    server = house.up(PENSTOCK_GRACE="1s", PENSTOCK_DELIVERY_SLOTS="2")
    receiver.script("/stuck", [Reply(gate=asyncio.Event())])
    async with Api(server.url, server.token) as api:
        for n in range(30):
            await api.endpoint(receiver.url("/stuck"), f"topic{n}")
        for n in range(30):
            await api.send(f"topic{n}")
        await receiver.until(lambda: receiver.begun >= 2)
        server.signal(signal.SIGTERM)
        assert await server.ended() == 0
    assert counts(house.sqs, "events")[1] == 0
    assert house.owed() == 30
    receiver.script("/stuck", [200])
    again = house.up()
    await until(lambda: len({push.id for push in receiver.at("/stuck")}) == 30, 60)
    await until(lambda: house.owed() == 0)
    assert not again.logged("row_lapsed")
    assert house.dead_letters() == 0


JOBS = """
from __future__ import annotations

from penstock import Penstock

app = Penstock()


@app.job
async def double(n: int) -> int:
    return 2 * n
"""


async def test_jobs_that_another_program_enqueues_are_woken_by_the_queue(
    house: House, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(JOBS)
    assert (await run("migrate", data=tmp_path / "client", env=house.env)).code == 0
    worker = house.worker("-A", "shop:app", PENSTOCK_SWEEP_INTERVAL="1h")
    program = (
        "import asyncio; from shop import app, double\n"
        "print(double.enqueue_sync(1).result_sync(timeout=60))\n"
        "async def main():\n"
        "    one, two = await double.enqueue(2), await double.enqueue(3, delay=1)\n"
        "    print(await one.result(timeout=60), await two.result(timeout=60))\n"
        "    await app.close()\n"
        "asyncio.run(main())\n"
    )
    ran = await run(
        data=tmp_path / "client", cwd=tmp_path, env=house.env, program=("-Wd", "-c", program)
    )
    assert ran.stdout.split() == ["2", "4", "6"], ran.stderr
    assert ran.stderr == ""
    assert house.sqs.calls["SendMessageBatch"] >= 3
    assert worker.terminate() == 0
    del house.env["PENSTOCK_SQS_JOBS_QUEUE_URL"]
    refused = await run(
        *("-c", "from shop import double; double.enqueue_sync(1)"),
        data=tmp_path / "client",
        cwd=tmp_path,
        env=house.env,
        program=(),
    )
    assert refused.code == 1
    assert "PENSTOCK_SQS_JOBS_QUEUE_URL is missing" in refused.stderr


async def test_a_bad_message_is_told_of_and_gone(house: House, receiver: Receiver) -> None:
    server = house.up()
    house.sqs.sync(lambda: house.sqs.queue("events").send({"MessageBody": "rm -rf"}))
    house.sqs.sync(lambda: house.sqs.advance(0))
    await until(lambda: server.logged("message_validation_failed"))
    (line,) = server.logged("message_validation_failed")
    assert (line["queue"], line["body"]) == ("events", "rm -rf")
    await until(lambda: counts(house.sqs, "events") == (0, 0, 0))
    async with Api(server.url, server.token) as api:
        figures = (await api.call("GET", "/metrics")).body.decode()
    assert 'penstock_messages_refused_total{queue="events"} 1.0' in figures


async def test_what_is_missing_is_named(house: House, tmp_path: Path) -> None:
    without = {name: v for name, v in house.env.items() if "EVENTS_QUEUE" not in name}
    ran = await run("worker", data=tmp_path / "w", env=without)
    assert ran.code == 2
    assert "penstock migrate" in ran.stderr
    migrated = await run("migrate", data=tmp_path / "w", env=without)
    assert migrated.code == 0
    ran = await run("worker", data=tmp_path / "w", env=without)
    assert ran.code == 2
    assert "PENSTOCK_SQS_EVENTS_QUEUE_URL is missing" in ran.stderr
    alone = await run("up", data=tmp_path / "x", env={"PENSTOCK_WAKEUPS": "sqs"})
    assert alone.code == 2
    assert "PENSTOCK_DATABASE_URL" in alone.stderr


# ------------------------------------------------------------------ the command


@pytest.fixture
def shop() -> Iterator[tuple[SqsServer, dict[str, str]]]:
    with running() as server:
        env = {
            **ENVIRONMENT,
            "PENSTOCK_AWS_REGION": REGION,
            "PENSTOCK_AWS_ENDPOINT_URL": server.url,
            "PENSTOCK_SQS_EVENTS_QUEUE_URL": server.sync(
                lambda: server.create("events", dlq="dead", receives=3)
            ),
            "PENSTOCK_SQS_JOBS_QUEUE_URL": server.sync(
                lambda: server.create("jobs", dlq="dead", receives=3)
            ),
        }
        yield server, env


def _die(server: SqsServer, name: str, count: int) -> None:
    """Messages that are received three times and deleted by nobody."""
    queue = server.queue(name)
    for n in range(count):
        queue.send({"MessageBody": str(n)})
    for _ in range(3):
        queue.receive(10, 0)
    queue.receive(10, 0)


async def test_queue_stats(shop: tuple[SqsServer, dict[str, str]], tmp_path: Path) -> None:
    server, env = shop
    server.sync(lambda: _die(server, "events", 2))
    server.sync(lambda: server.queue("jobs").send({"MessageBody": "x", "DelaySeconds": 60}))
    ran = await run("queue", "stats", "--json", data=tmp_path, env=env)
    assert ran.code == 0, ran.stderr
    assert ran.document == {
        "queues": [
            {
                "queue": name,
                "visible": 0,
                "delayed": delayed,
                "in_flight": 0,
                "dead_letter_queue": "dead",
                "dead_letters": 2,
                "max_receives": 3,
            }
            for name, delayed in (("events", 0), ("jobs", 1))
        ]
    }
    plain = await run("queue", "stats", data=tmp_path, env=env)
    assert "events: 0 visible, 0 delayed, 0 in flight" in plain.stdout
    assert "2 in dead (after 3 receives)" in plain.stdout


async def test_queue_redrive(shop: tuple[SqsServer, dict[str, str]], tmp_path: Path) -> None:
    server, env = shop
    nothing = await run("queue", "redrive", data=tmp_path, env=env)
    assert (nothing.code, nothing.stdout) == (0, "There are no dead letters.\n")
    server.sync(lambda: (_die(server, "events", 3), _die(server, "jobs", 2)))
    ran = await run("queue", "redrive", "--json", data=tmp_path, env=env)
    assert ran.code == 0, ran.stderr
    (move,) = ran.document["moves"]  # they share a dead-letter queue
    assert (move["source"], move["status"], move["moved"]) == ("dead", "COMPLETED", 5)
    assert [counts(server, name)[0] for name in ("events", "jobs", "dead")] == [3, 2, 0]

    env["PENSTOCK_SQS_TRACKING_QUEUE_URL"] = server.sync(lambda: server.create("tracking"))
    server.sync(lambda: server.queue("dead").send({"MessageBody": "of nobody"}))
    failed = await run("queue", "redrive", "events", data=tmp_path, env=env)
    assert failed.code == 1
    assert "CouldNotDetermineMessageSource" in failed.stderr
    without = await run("queue", "redrive", "tracking", data=tmp_path, env=env)
    assert without.code == 1
    assert "tracking has no dead-letter queue" in without.stderr


@pytest.mark.parametrize(
    ("changes", "arguments", "code", "text"),
    [
        ({}, ("redrive", "mail"), 2, "only of: events, jobs"),
        (
            {"PENSTOCK_SQS_EVENTS_QUEUE_URL": "", "PENSTOCK_SQS_JOBS_QUEUE_URL": ""},
            ("stats",),
            2,
            "PENSTOCK_SQS_EVENTS_QUEUE_URL",
        ),
        ({"PENSTOCK_AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, ("stats",), 4, "cannot be asked"),
        (
            {"PENSTOCK_SQS_EVENTS_QUEUE_URL": "http://127.0.0.1:1/123456789012/none"},
            ("stats",),
            1,
            "NonExistentQueue",
        ),
    ],
)
async def test_queue_commands_say_what_is_wrong(
    shop: tuple[SqsServer, dict[str, str]],
    tmp_path: Path,
    changes: dict[str, str],
    arguments: tuple[str, ...],
    code: int,
    text: str,
) -> None:
    ran = await run("queue", *arguments, data=tmp_path, env=shop[1] | changes)
    assert ran.code == code, ran.stderr
    assert text in ran.stderr
    assert "Traceback" not in ran.stderr

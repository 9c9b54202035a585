"""Every service on PostgreSQL, SQS and S3 at once, in two processes, through bad weather.

The outage is of OUTAGE seconds (PENSTOCK_TEST_OUTAGE=60 plays it at full length). What it has to
outlast is in proportion: several calls that are put off for longer each time (1, 2, 4 seconds), and
several sweeps (1 second instead of 15). That a call is put off by no more than 30 seconds, however
long the outage, is a test of the wake-ups' contract.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.client import Api
from support.house import House, until
from support.parcels import begun, check_story, follow, told
from support.process import run
from support.receiver import Receiver
from support.s3_server import S3Server
from support.s3_server import running as s3_running
from support.scoring import ended, fetch, score, starter_csv
from support.sqs_queue import Mischief

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]

OUTAGE = float(os.environ.get("PENSTOCK_TEST_OUTAGE", "5"))  # seconds
ROWS = 60_000  # some three chunks
JOBS = 80

SHOP = """
from __future__ import annotations

from pathlib import Path

from penstock import Penstock, current_job

app = Penstock()
BOOK = Path(__file__).with_name("book")


@app.job(backoff=["300ms"])
def pack(n: int) -> int:
    attempt = current_job().attempt
    with BOOK.open("a") as book:
        book.write(f"{n} {attempt}\\n")
    if n % 5 == 0 and attempt == 1:
        raise ValueError("out of paper")
    return n
"""
ENQUEUE = """
import sys
from shop import app, pack
first, last = map(int, sys.argv[1:])
for n in range(first, last):
    if n % 2:
        pack.enqueue_sync(n)
    else:
        pack.enqueue_sync(n, lane=f"shelf-{n % 7}", delay=n % 3)
app.close_sync()
"""


@pytest.fixture
def s3() -> Iterator[S3Server]:
    with s3_running(seed=9) as server:
        yield server


async def test_every_service_through_a_queue_at_its_worst(
    house: House, s3: S3Server, receiver: Receiver, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    house.env |= {"PENSTOCK_OBJECTS": "s3://penstock/objects", "PENSTOCK_S3_ENDPOINT_URL": s3.url}
    s3.faults.slow_down, s3.faults.cut = 0.05, 0.1
    one = house.up("-A", "shop:app")
    two = house.worker("-A", "shop:app")
    house.mischief(Mischief(lose=0.3, duplicate=0.3, reorder=True))
    house.sqs.faults.partial = 0.1
    house.sqs.faults.error = 0.05
    house.sqs.faults.hang_up = 0.05

    async def enqueue(first: int, last: int) -> None:
        ran = await run(
            *(str(first), str(last)),
            data=tmp_path / "client",
            cwd=tmp_path,
            env=house.env,
            program=("-c", ENQUEUE),
        )
        assert ran.code == 0, ran.stderr

    async with Api(one.url, one.token) as api:
        await api.endpoint(receiver.url("/parcels"), "shipment.*")
        await api.endpoint(receiver.url("/scores"), "prediction.*")
        await api.endpoint(receiver.url("/orders"), "order")
        enqueueing = [asyncio.create_task(enqueue(0, JOBS // 2))]
        begins = time.time() + 1
        parcels = [
            (await follow(api, begun("FASTDELIVERED", begins, n)))["shipment_id"] for n in range(4)
        ]
        predictions = [(await score(api, starter_csv(ROWS)))["prediction_id"]]
        events = [(await api.send("order", {"n": n}))["event_id"] for n in range(20)]

        house.sqs.sync_shut()
        gone = time.monotonic()
        enqueueing.append(asyncio.create_task(enqueue(JOBS // 2, JOBS)))
        events += [(await api.send("order", {"n": n}))["event_id"] for n in range(20, 40)]
        parcels.append((await follow(api, begun("FASTDELIVERED", begins, 4)))["shipment_id"])
        predictions.append((await score(api, starter_csv(ROWS, 2)))["prediction_id"])
        await until(lambda: one.logged("queue_unreachable"))
        verdict = time.monotonic() + 30  # it is kept for a second
        while (await api.call("GET", "/health/ready")).status != 503:
            assert time.monotonic() < verdict
            await asyncio.sleep(0.1)
        await asyncio.sleep(max(0.0, gone + OUTAGE - time.monotonic()))
        house.sqs.sync_listen()

        await asyncio.gather(*enqueueing)
        deadline = time.monotonic() + 60
        while _unfinished(house):
            assert time.monotonic() < deadline, _unfinished(house)
            await asyncio.sleep(0.5)
            house.a_minute_passes()

        s3.faults.slow_down = s3.faults.cut = 0.0  # what is read now is read by this test itself
        for id_ in events:
            assert (await api.final(id_))["delivery_attempts"] == 1
        for id_ in predictions:
            found = await ended(api, id_)
            assert (found["status"], found["rows_scored"]) == ("COMPLETED", ROWS)
            digest = hashlib.sha256(await fetch(api, id_)).hexdigest()
            assert digest == found["summary"]["files"]["result.csv"]["sha256"]

    assert sorted(push.id for push in receiver.at("/orders")) == sorted(events)  # each once
    stories = told(receiver, "/parcels")
    assert set(stories) == set(parcels)
    for id_ in parcels:
        check_story(stories[id_], "delivered")
    scored = [push.json["payload"]["prediction_id"] for push in receiver.at("/scores")]
    assert sorted(scored) == sorted(predictions)
    ran = Counter((tmp_path / "book").read_text().splitlines())
    again = {f"{n} 2" for n in range(0, JOBS, 5)}
    assert ran == Counter({f"{n} 1" for n in range(JOBS)} | again)
    assert house.lost > 0
    assert s3.calls["SlowDown"] > 0
    assert house.dead_letters() == 0
    for process in (one, two):
        assert len(process.logged("queue_unreachable")) >= 3
        assert not process.logged("row_lapsed")
        assert not process.logged("lease_lost")
    assert one.terminate() == 0
    assert two.terminate() == 0


def _unfinished(house: House) -> list[tuple[str, int]]:
    """What is not at its end yet, by kind."""
    return house.rows(
        "SELECT 'deliveries', count(*) FROM deliveries WHERE status = 'pending' HAVING count(*) > 0"
        " UNION ALL SELECT 'shipments', count(*) FROM shipments WHERE ended_at IS NULL"
        " HAVING count(*) > 0"
        " UNION ALL SELECT 'predictions', count(*) FROM predictions WHERE due_at IS NOT NULL"
        " OR lease_until IS NOT NULL HAVING count(*) > 0"
        " UNION ALL SELECT 'jobs', count(*) FROM jobs WHERE status = 'pending' HAVING count(*) > 0"
    )

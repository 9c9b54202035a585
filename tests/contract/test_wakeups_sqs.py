"""What only SQS's wake-ups promise: batches, delays, room, bad bodies, outages, a clean end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from penstock.errors import SettingsError
from penstock.telemetry import MESSAGES_REFUSED, LogEvent, metrics
from penstock.work.wakeups import (
    EVERYTHING,
    Message,
    Wake,
    WakeupsClosed,
    WakeupsError,
    WakeupStats,
    WakeupsUnavailable,
)
from penstock.work.wakeups.sqs import SqsWakeups
from support.looptime import lost_time, pass_time
from support.sqs_server import ENVIRONMENT, REGION, SqsServer

pytestmark = pytest.mark.anyio


class Site:
    """A queue for two kinds, one for a third, and those who use them."""

    def __init__(self, server: SqsServer, stack: AsyncExitStack) -> None:
        self.server = server
        self._stack = stack
        self.events = server.create("events", dlq="events-dead", receives=3, VisibilityTimeout=360)
        self.jobs = server.create("jobs", dlq="jobs-dead", receives=3, VisibilityTimeout=360)
        self.queues = {"delivery": self.events, "fanout": self.events, "job": self.jobs}

    async def open(self, **options: Any) -> SqsWakeups:
        queues = options.pop("queues", self.queues)
        more = {"region": REGION, "endpoint_url": self.server.url, **options}
        wakeups = SqsWakeups(queues, **more)
        self._stack.push_async_callback(wakeups.close)
        await wakeups.open()
        return wakeups

    def bodies(self, name: str = "events") -> list[str]:
        return [stored.body for stored in self.server.queue(name).messages()]

    async def put(self, body: str, name: str = "events") -> None:
        self.server.queue(name).send({"MessageBody": body})
        self.server.advance(0)


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(SqsServer())
        yield Site(server, stack)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []

    def log(event: LogEvent, **fields: object) -> None:
        assert fields.keys() <= event.fields
        lines.append({"event": event.name, **fields})

    monkeypatch.setattr("penstock.work.wakeups.sqs_source.log", log)
    return lines


async def lanes(wakeups: SqsWakeups, limit: int = 100, **options: Any) -> list[str]:
    async with asyncio.timeout(20):
        messages = await wakeups.receive(limit, **options)
    await wakeups.acknowledge(messages)
    return [message.lane for message in messages]


async def eventually(condition: Callable[[], object], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


# ------------------------------------------------------------------ batches


async def test_wakes_leave_ten_a_call_with_their_account_as_group(site: Site) -> None:
    wakeups = await site.open()
    site.server.keep = True
    wakes = [Wake("delivery", f"lane-{n}", account="acme") for n in range(25)]
    await wakeups.publish([*wakes, Wake("job", "j", account="who knows@example")])
    calls = [p for name, p in site.server.log if name == "SendMessageBatch"]
    assert sorted(len(call["Entries"]) for call in calls) == [1, 5, 10, 10]
    groups = {entry["MessageGroupId"] for call in calls for entry in call["Entries"]}
    assert "acme" in groups
    (other,) = groups - {"acme"}
    assert len(other) == 64  # a space is no character of a group: it is hashed


async def test_what_is_published_while_calls_are_under_way_shares_the_next(site: Site) -> None:
    wakeups = await site.open()
    site.server.faults.latency = 0.1
    await asyncio.gather(*(wakeups.publish([Wake("job", f"lane-{n}")]) for n in range(40)))
    # Four at once with one wake each; the others waited for those and left together.
    assert site.server.calls["SendMessageBatch"] <= 10
    assert len(site.bodies("jobs")) == 40


async def test_received_and_acknowledged_in_batches(site: Site) -> None:
    wakeups = await site.open()
    await wakeups.publish([Wake("job", f"lane-{n}") for n in range(100)])
    got: list[str] = []
    while len(got) < 100:
        got += await lanes(wakeups)
    await wakeups.stats()
    assert site.bodies("jobs") == []
    assert site.server.calls["DeleteMessageBatch"] <= 20


async def test_entries_that_fail_are_sent_again(site: Site) -> None:
    wakeups = await site.open()
    site.server.faults.partial = 0.5
    publishing = asyncio.create_task(wakeups.publish([Wake("job", f"lane-{n}") for n in range(60)]))
    # Six calls send them all once. For ever it may not go on: after the fourth try they are told.
    await eventually(lambda: site.server.calls["SendMessageBatch"] >= 6)
    site.server.faults.partial = 0.0
    await publishing
    assert site.server.calls["SendMessageBatch"] > 6
    assert sorted(site.bodies("jobs")) == sorted(
        f'{{"v":1,"kind":"job","lane":"lane-{n}"}}' for n in range(60)
    )


async def test_a_wake_that_is_not_taken_is_told_and_heard_here(site: Site) -> None:
    wakeups, other = await site.open(), await site.open(listen=False)
    site.server.faults.partial = 1.0

    async def refused(publisher: SqsWakeups) -> None:
        with pytest.raises(WakeupsUnavailable, match="InternalError"):
            await publisher.publish([Wake("job", "a"), Wake("job", "later", 30.0)])

    await asyncio.gather(refused(wakeups), refused(other))
    assert await lanes(wakeups) == ["a"]
    assert wakeups.healthy  # the queue answers
    site.server.faults.partial = 0.0
    await wakeups.publish([Wake("job", "later", 30.0)])  # it is not taken for sent
    assert len(site.bodies("jobs")) == 1


async def test_deletes_that_fail_are_tried_again(site: Site) -> None:
    wakeups = await site.open()
    await wakeups.publish([Wake("job", f"lane-{n}") for n in range(30)])
    site.server.faults.partial = 0.5
    got: list[str] = []
    while len(got) < 30:
        got += await lanes(wakeups)
    await eventually(lambda: site.server.calls["DeleteMessageBatch"] >= 3)
    site.server.faults.partial = 0.0  # as above
    await eventually(lambda: not site.bodies("jobs"))
    assert site.server.calls["DeleteMessageBatch"] > 3


async def test_a_call_whose_answer_was_lost_is_made_again(site: Site) -> None:
    wakeups = await site.open()
    site.server.faults.hang_up = 0.5
    site.server.faults.only = frozenset({"SendMessageBatch", "DeleteMessageBatch"})
    await wakeups.publish([Wake("job", "a")])
    assert set(site.bodies("jobs")) == {'{"v":1,"kind":"job","lane":"a"}'}


async def test_a_kind_without_a_queue_is_told_of(site: Site) -> None:
    wakeups = await site.open()
    with pytest.raises(WakeupsError, match="no queue for prediction"):
        await wakeups.publish([Wake("job", "a"), Wake("prediction", "p")])


# ------------------------------------------------------------------ delays


async def test_a_retry_wakes_within_a_second_of_its_time(site: Site) -> None:
    """A worker that is woken too early looks, and waits for the rest itself."""
    wakeups = await site.open()
    async with lost_time() as lost:
        due = {f"{delay}": time.monotonic() + delay for delay in (1.0, 1.4, 2.9)}
        await wakeups.publish([Wake("job", lane, float(lane)) for lane in due])
        while due:
            for lane in await lanes(wakeups):
                left = due[lane] - time.monotonic()
                if left <= 0:
                    assert -left < 1.0 + lost.seconds
                    del due[lane]
                else:
                    assert left < 1.0
                    await wakeups.publish([Wake("job", lane, left)])
    assert site.server.calls["SendMessageBatch"] == 1


async def test_delays_are_whole_seconds_rounded_down(site: Site) -> None:
    wakeups = await site.open()
    site.server.keep = True
    await wakeups.publish([Wake("job", "a", 1.9), Wake("job", "b", 900.0), Wake("job", "c", 900.1)])
    ((_, call),) = [each for each in site.server.log if each[0] == "SendMessageBatch"]
    # The last is beyond what SQS can wait for: the sweeper finds it.
    assert [entry["DelaySeconds"] for entry in call["Entries"]] == [1, 900]


async def test_looks_that_say_the_same_send_one_message(site: Site) -> None:
    wakeups = await site.open()
    for _ in range(20):
        await wakeups.publish([Wake("job", "a", 300.0), Wake("job", "b", 300.0)])
    assert len(site.bodies("jobs")) == 2
    await wakeups.publish([Wake("job", "a", 30.0)])
    assert len(site.bodies("jobs")) == 3


# ------------------------------------------------------------------ room


async def test_only_what_there_is_room_for_is_received(site: Site) -> None:
    wakeups = await site.open()
    await wakeups.publish([Wake("job", f"j{n}") for n in range(30)])
    await wakeups.publish([Wake("delivery", f"d{n}") for n in range(30)])
    got = []
    async with asyncio.timeout(20):
        while len(got) < 5:
            got += await wakeups.receive(35, {"delivery": 5 - len(got)})
    assert {message.kind for message in got} == {"delivery"}
    assert site.server.queue("jobs").counts() == (30, 0, 0)
    assert site.server.queue("events").counts() == (25, 5, 0)


async def test_what_nobody_takes_is_given_back(site: Site) -> None:
    wakeups, other = await site.open(), await site.open()
    waiting = asyncio.create_task(wakeups.receive(10))
    await eventually(lambda: site.server.calls["ReceiveMessage"] == 2)
    waiting.cancel()
    await asyncio.wait([waiting])
    # Its long polls go on; what they bring, nobody here wants.
    await other.publish([Wake("job", "a")])
    await eventually(lambda: site.server.queue("jobs").counts()[1] == 1)
    assert await lanes(other) == ["a"]


async def test_an_idle_queue_costs_one_call_at_a_time(site: Site) -> None:
    wakeups = await site.open()
    waiting = asyncio.create_task(wakeups.receive(200))
    await eventually(lambda: site.server.calls["ReceiveMessage"] == 2)  # one for each queue
    await asyncio.sleep(0.5)
    assert site.server.calls["ReceiveMessage"] == 2
    waiting.cancel()
    await asyncio.wait([waiting])


async def test_a_full_queue_is_received_from_by_several_calls(site: Site) -> None:
    wakeups = await site.open(queues={"job": site.jobs})
    await wakeups.publish([Wake("job", f"lane-{n}") for n in range(400)])
    site.server.faults.latency = 0.05
    got = 0
    while got < 400:
        got += len(await lanes(wakeups, 256))
    assert site.server.most["ReceiveMessage"] == 4


async def test_connections_are_bounded(site: Site) -> None:
    wakeups = await site.open()
    site.server.faults.latency = 0.05
    publishing = [
        wakeups.publish([Wake(kind, f"{kind}-{n}")]) for n in range(100) for kind in site.queues
    ]
    await asyncio.gather(*publishing)
    got = 0
    while got < 300:
        got += len(await lanes(wakeups))
    assert site.server.connections <= 32


# ------------------------------------------------------------------ bodies


async def test_a_bad_body_is_logged_with_its_reason_and_deleted(
    site: Site, logged: list[dict[str, Any]]
) -> None:
    wakeups = await site.open()
    before = metrics.value(MESSAGES_REFUSED, queue="events")
    for body in ("hello", '{"v":1,"kind":"delivery","lane":"a","extra":1}', "x" * 5000):
        await site.put(body)
    await wakeups.publish([Wake("delivery", "good")])
    assert await lanes(wakeups) == ["good"]
    await wakeups.stats()
    assert site.bodies() == []
    told = [line for line in logged if line["event"] == "message_validation_failed"]
    assert [line["queue"] for line in told] == ["events"] * 3
    assert "not JSON" in told[0]["reason"]
    assert "'extra'" in told[1]["reason"]
    assert told[0]["body"] == "hello"
    assert len(told[2]["body"]) == 500
    assert metrics.value(MESSAGES_REFUSED, queue="events") == before + 3
    assert site.bodies("events-dead") == []


@pytest.mark.parametrize(
    "body", ['{"v":1,"kind":"shipment","lane":"a"}', '{"v":2,"kind":"delivery","lanes":["a"]}']
)
async def test_what_a_newer_process_understands_is_left_to_it(
    site: Site, logged: list[dict[str, Any]], body: str
) -> None:
    wakeups = await site.open()
    await site.put(body)
    await wakeups.publish([Wake("delivery", "good")])
    assert await lanes(wakeups) == ["good"]
    await eventually(lambda: site.server.calls["ChangeMessageVisibilityBatch"])
    await wakeups.stats()
    assert site.bodies() == [body]
    assert [line["event"] for line in logged] == ["message_left"]
    assert site.server.queue("events").counts() == (0, 1, 0)
    site.server.advance(301)  # then others may have it, sooner than by the queue's own visibility
    assert site.server.queue("events").counts() == (1, 0, 0)


async def test_age_is_no_reason_to_refuse(site: Site) -> None:
    wakeups = await site.open()
    await wakeups.publish([Wake("delivery", "old")])
    site.server.advance(3 * 86400)
    assert await lanes(wakeups) == ["old"]


# ------------------------------------------------------------------ outages


async def test_an_unreachable_queue_is_tried_again_ever_less_often(
    site: Site, logged: list[dict[str, Any]]
) -> None:
    wakeups = await site.open(queues={"job": site.jobs}, retry_first=0.05, retry_cap=0.4)
    assert wakeups.healthy
    await site.server.shut()
    waiting = asyncio.create_task(wakeups.receive(10))
    await eventually(lambda: len(logged) >= 5)
    assert not wakeups.healthy
    assert [line["retry_in"] for line in logged[:5]] == [0.05, 0.1, 0.2, 0.4, 0.4]
    assert {line["event"] for line in logged} == {"queue_unreachable"}
    assert {line["queue"] for line in logged} == {"jobs"}  # not its URL
    assert not waiting.done()
    await site.server.listen()
    async with asyncio.timeout(20):
        (first,) = await waiting
    assert (first.kind, first.lane) == (EVERYTHING, EVERYTHING)  # wakes were missed
    assert wakeups.healthy


async def test_wakes_that_cannot_be_sent_are_heard_here(
    site: Site, logged: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    wakeups = await site.open(retry_first=100.0, retry_cap=100.0)
    site.server.cut()
    with pytest.raises(WakeupsUnavailable):
        await wakeups.publish([Wake("job", "a"), Wake("job", "b")])
    assert not wakeups.healthy
    calls = site.server.calls["SendMessageBatch"]
    with pytest.raises(WakeupsUnavailable):
        await wakeups.publish([Wake("job", "b"), Wake("job", "c")])
    assert site.server.calls["SendMessageBatch"] == calls  # it is not even tried for a while
    assert sorted(await lanes(wakeups)) == ["a", "b", "c"]
    assert logged[0]["event"] == "queue_unreachable"
    site.server.faults.unreachable = False
    pass_time(monkeypatch, 101)
    await wakeups.publish([Wake("job", "d")])
    assert site.bodies("jobs") == ['{"v":1,"kind":"job","lane":"d"}']


async def test_a_process_that_only_publishes_is_well_again_by_itself(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken out of service for being unwell it would never publish, and never be well."""
    wakeups = await site.open(listen=False, retry_first=100.0, retry_cap=100.0)
    site.server.cut()
    with pytest.raises(WakeupsUnavailable):
        await wakeups.publish([Wake("job", "a")])
    assert not wakeups.healthy
    pass_time(monkeypatch, 101)
    assert wakeups.healthy


@pytest.mark.parametrize("fault", ["error", "throttle"])
async def test_refusals_of_every_call_are_as_an_outage(
    site: Site, logged: list[dict[str, Any]], fault: str
) -> None:
    wakeups = await site.open(queues={"job": site.jobs}, retry_first=0.05)
    setattr(site.server.faults, fault, 1.0)
    waiting = asyncio.create_task(wakeups.receive(10))
    await eventually(lambda: logged)
    assert ("RequestThrottled" if fault == "throttle" else "InternalError") in logged[0]["error"]
    setattr(site.server.faults, fault, 0.0)
    async with asyncio.timeout(20):
        assert [message.lane for message in await waiting] == [EVERYTHING]


async def test_one_queue_in_trouble_does_not_hold_up_the_other(
    site: Site, logged: list[dict[str, Any]]
) -> None:
    queues = {**site.queues, "job": f"{site.server.url}/123456789012/missing"}
    wakeups = await site.open(queues=queues, retry_first=5.0)
    await wakeups.publish([Wake("delivery", f"lane-{n}") for n in range(3)])
    got: list[str] = []
    while len(got) < 3:
        got += await lanes(wakeups)
    await eventually(lambda: logged)
    assert "NonExistentQueue" in logged[0]["error"]
    assert not wakeups.healthy
    assert EVERYTHING not in got


async def test_stats_of_a_queue_out_of_reach(site: Site) -> None:
    wakeups = await site.open()
    site.server.cut()
    with pytest.raises(WakeupsUnavailable):
        await wakeups.stats()


# ------------------------------------------------------------------ the end


async def test_closing_gives_back_deletes_and_leaves_nothing_open(site: Site) -> None:
    # Tasks that belong to nobody and sockets that stay open would fail this test by a warning.
    wakeups = await site.open()
    await wakeups.publish([Wake("job", f"lane-{n}") for n in range(4)])
    taken: list[Message] = []
    async with asyncio.timeout(20):
        while len(taken) < 2:
            taken += await wakeups.receive(2 - len(taken))
    await wakeups.acknowledge(taken)
    waiting = asyncio.create_task(wakeups.receive(10, {"delivery": 1}))
    await eventually(lambda: site.server.calls["ReceiveMessage"] >= 2)
    before = asyncio.all_tasks()
    await wakeups.close()
    with pytest.raises(WakeupsClosed):
        await waiting
    assert len(site.bodies("jobs")) == 2
    assert site.server.queue("jobs").counts() == (2, 0, 0)
    assert not [t for t in asyncio.all_tasks() - before if "Batches" in repr(t)]
    with pytest.raises(WakeupsUnavailable):
        await wakeups.publish([Wake("job", "late")])


async def test_closing_does_not_wait_for_a_dead_queue(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.work.wakeups.sqs._CLOSE", 0.5)  # seconds
    wakeups = await site.open()
    await wakeups.publish([Wake("job", "a")])
    messages = await wakeups.receive(1)
    site.server.faults.latency = 60.0
    await wakeups.acknowledge(messages)
    began = time.monotonic()
    await wakeups.close()
    assert time.monotonic() - began < 10


async def test_closing_what_was_never_opened_is_harmless(site: Site) -> None:
    wakeups = SqsWakeups(site.queues, region=REGION)
    await wakeups.close()
    assert await SqsWakeups({}).stats() == WakeupStats(0, 0, 0)


# ------------------------------------------------------------------ settings


async def test_what_cannot_be_a_queue_of_wake_ups(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="FIFO"):
        SqsWakeups({"job": "https://sqs.eu-west-1.amazonaws.com/123456789012/jobs.fifo"})
    with pytest.raises(SettingsError, match="several regions"):
        SqsWakeups(
            {
                "job": "https://sqs.eu-west-1.amazonaws.com/123456789012/jobs",
                "delivery": "https://sqs.us-east-1.amazonaws.com/123456789012/events",
            }
        )
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    nowhere = SqsWakeups({"job": "http://127.0.0.1:1/123456789012/jobs"})
    with pytest.raises(SettingsError, match="PENSTOCK_AWS_REGION"):
        await nowhere.open()
    await nowhere.close()


async def test_the_region_is_that_of_the_url(site: Site) -> None:
    url = "https://sqs.ap-southeast-2.amazonaws.com/123456789012/jobs"
    wakeups = await site.open(queues={"job": url}, region="eu-west-1")
    site.server.create("jobs")
    site.server.keep = True
    await wakeups.publish([Wake("job", "a")])
    assert site.server.log[0][1]["QueueUrl"] == url

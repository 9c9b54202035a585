"""The story of an event, over HTTP: accepted, pushed, signed, retried, told."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from support.client import Api
from support.receiver import Receiver, Reply

pytestmark = pytest.mark.anyio


async def test_an_event_is_accepted_pushed_and_signed(
    api: Api, receiver: Receiver, topic: str
) -> None:
    made = await api.endpoint(receiver.url("/story"), topic)
    assert len(base64.b64decode(made["secret"].removeprefix("whsec_"))) == 32
    shown = await api.ok("GET", f"/v1/endpoints/{made['endpoint_id']}")
    assert made["secret"] not in json.dumps(shown)
    assert "secret" not in shown

    answer = await api.call(
        "POST",
        "/v1/events",
        {"event_type": topic, "payload": {"order": 1042, "name": "Zoë"}, "metadata": {"a": 1}},
    )

    assert answer.status == 202
    event = answer.json
    assert event["event_id"].startswith("evt_")
    assert event["status"] == "pending"
    assert event["delivered_at"] is None
    assert [d["endpoint_id"] for d in event["deliveries"]] == [made["endpoint_id"]]
    (push,) = await receiver.arrived("/story")
    assert push.verifies(made["secret"])
    assert not push.verifies("whsec_" + base64.b64encode(bytes(32)).decode())
    assert push.id == event["event_id"]
    assert push.headers["content-type"] == "application/json"
    assert push.json == {
        "event_id": event["event_id"],
        "event_type": topic,
        "payload": {"order": 1042, "name": "Zoë"},
        "metadata": {"a": 1},
        "created_at": event["created_at"],
    }
    told = await api.final(event["event_id"])
    assert told["status"] == "delivered"
    assert told["delivered_at"] >= event["created_at"]
    (delivery,) = told["deliveries"]
    assert delivery["status"] == "delivered"
    (attempt,) = delivery["attempt_log"]
    assert (attempt["number"], attempt["status_code"]) == (1, 200)
    assert attempt["address"].startswith("127.0.0.1")
    assert attempt["response"] == "thank you"
    assert attempt["error_kind"] is None
    assert 0 < attempt["duration"] < 10


async def test_both_secrets_verify_while_one_is_rotated(
    api: Api, receiver: Receiver, topic: str
) -> None:
    made = await api.endpoint(receiver.url("/rotated"), topic)
    path = f"/v1/endpoints/{made['endpoint_id']}/secret/rotate"

    rotated = await api.ok("POST", path, {"overlap_seconds": 600})
    await api.send(topic, wait=10)

    (during,) = await receiver.arrived("/rotated")
    assert during.verifies(rotated["secret"])
    assert during.verifies(made["secret"])
    latest = await api.ok("POST", path, {"overlap_seconds": 1})
    overlap = datetime.fromisoformat(latest["old_secret_until"]) - datetime.now(UTC)
    await asyncio.sleep(max(0.0, overlap.total_seconds()) + 0.05)
    await api.send(topic, wait=10)
    after = (await receiver.arrived("/rotated", 2))[1]
    assert after.verifies(latest["secret"])
    assert not after.verifies(rotated["secret"])
    assert not after.verifies(made["secret"])


async def test_an_overlap_of_nothing_takes_the_old_secret_at_once(
    api: Api, receiver: Receiver, topic: str
) -> None:
    made = await api.endpoint(receiver.url("/leaked"), topic)
    path = f"/v1/endpoints/{made['endpoint_id']}/secret/rotate"

    rotated = await api.ok("POST", path, {"overlap_seconds": 0})
    await api.send(topic, wait=10)

    (push,) = receiver.at("/leaked")
    assert push.verifies(rotated["secret"])
    assert not push.verifies(made["secret"])


async def test_prefer_wait_answers_with_what_became_of_it(
    api: Api, receiver: Receiver, topic: str
) -> None:
    await api.endpoint(receiver.url("/waited"), topic)

    event = await api.send(topic, wait=10)

    assert event["status"] == "delivered"
    assert event["delivery_attempts"] == 1


async def test_prefer_wait_ends_with_the_first_try(
    api: Api, receiver: Receiver, topic: str
) -> None:
    await api.endpoint(receiver.script("/failing", [503]), topic, schedule=[60])

    event = await api.send(topic, wait=15)

    assert event["status"] == "pending"
    assert event["delivery_attempts"] == 1


async def test_prefer_wait_gives_up_in_time(api: Api, receiver: Receiver, topic: str) -> None:
    gate = asyncio.Event()
    await api.endpoint(receiver.script("/slow", [Reply(gate=gate)]), topic, timeout=30)
    loop = asyncio.get_running_loop()
    began = loop.time()

    event = await api.send(topic, wait=1)

    assert event["status"] == "pending"
    assert 0.9 < loop.time() - began < 15
    gate.set()


async def test_deliver_at_holds_a_delivery_back(api: Api, receiver: Receiver, topic: str) -> None:
    await api.endpoint(receiver.url("/later"), topic)
    hour = datetime.now(UTC) + timedelta(hours=1)
    event = await api.send(topic, deliver_at=hour.isoformat())
    assert event["deliveries"][0]["next_attempt_at"][:19] == hour.isoformat()[:19]
    told = await api.event(event["event_id"])
    assert told["deliveries"][0]["why"]["code"] == "not_due"

    late: list[float] = []
    # In time, at least now and then on a machine that does other things.
    while not late or min(late) > 2.0:
        assert len(late) < 10, late
        moment = datetime.now(UTC) + timedelta(seconds=2.5)
        await api.send(topic, deliver_at=moment.isoformat())
        await receiver.arrived("/later", len(late) + 1)
        late.append((datetime.now(UTC) - moment).total_seconds())
        assert late[-1] > -0.01


async def test_a_batch_has_an_outcome_for_each_item(
    api: Api, receiver: Receiver, topic: str
) -> None:
    await api.endpoint(receiver.url("/batch"), topic)
    items = [{"event_type": topic, "payload": {"n": n}} for n in range(98)]
    items.insert(1, {"event_type": "not allowed!", "payload": {}})
    items.insert(2, {"event_type": topic, "payload": {}, "unknown": 1})

    answer = await api.ok(
        "POST", "/v1/events/batch", {"events": items}, headers={"idempotency-key": topic}
    )

    assert answer["summary"] == {"total": 100, "accepted": 98, "replayed": 0, "refused": 2}
    assert [r["index"] for r in answer["results"]] == list(range(100))
    refused = [r for r in answer["results"] if r["status_code"] != 202]
    assert [(r["index"], r["problem"]["code"]) for r in refused] == [
        (1, "validation_failed"),
        (2, "validation_failed"),
    ]
    await receiver.until(lambda: len(receiver.by_id("/batch")) >= 98)
    assert {push.json["payload"]["n"] for push in receiver.at("/batch")} == set(range(98))
    again = await api.ok(
        "POST", "/v1/events/batch", {"events": items}, headers={"idempotency-key": topic}
    )
    assert again["summary"]["replayed"] == 98
    assert len(receiver.at("/batch")) == 98


async def test_an_event_fans_out_over_thirty_endpoints(
    api: Api, receiver: Receiver, topic: str
) -> None:
    made = await asyncio.gather(
        *(api.endpoint(receiver.url(f"/fan/{n}"), topic) for n in range(30))
    )

    event = await api.send(topic, {"n": 1}, wait=15)

    assert event["status"] == "delivered"
    told = await api.event(event["event_id"])
    assert told["deliveries_total"] == 30
    assert {d["endpoint_id"] for d in told["deliveries"]} == {m["endpoint_id"] for m in made}
    assert sorted(push.path for push in receiver.received) == sorted(f"/fan/{n}" for n in range(30))
    assert {push.id for push in receiver.received} == {event["event_id"]}
    assert len({push.body for push in receiver.received}) == 1


async def test_an_event_nobody_subscribed_to_waits(api: Api, topic: str) -> None:
    event = await api.send(topic)

    assert event["status"] == "pending"
    assert event["deliveries"] == []


async def test_a_disabled_endpoint_keeps_its_deliveries(
    api: Api, receiver: Receiver, topic: str
) -> None:
    made = await api.endpoint(receiver.url("/disabled"), topic)
    path = f"/v1/endpoints/{made['endpoint_id']}"
    await api.ok("POST", f"{path}/disable")

    events = [await api.send(topic, {"n": n}) for n in range(5)]
    await asyncio.sleep(0.3)

    assert receiver.at("/disabled") == []
    told = await api.event(events[0]["event_id"])
    assert told["deliveries"][0]["why"]["code"] == "endpoint_disabled"
    await api.ok("POST", f"{path}/enable")
    for event in events:
        assert (await api.final(event["event_id"]))["status"] == "delivered"
    assert len(receiver.at("/disabled")) == 5


async def test_deleting_an_endpoint_cancels_what_waits_for_it(
    api: Api, receiver: Receiver, topic: str
) -> None:
    made = await api.endpoint(receiver.url("/deleted"), topic)
    path = f"/v1/endpoints/{made['endpoint_id']}"
    await api.ok("POST", f"{path}/disable")
    events = [await api.send(topic) for _ in range(3)]

    answer = await api.call("DELETE", path)

    assert (answer.status, answer.body) == (204, b"")
    for event in events:
        told = await api.event(event["event_id"])
        assert [d["status"] for d in told["deliveries"]] == ["cancelled"]
        assert told["open_deliveries"] == 0
    assert (await api.call("GET", path)).code == "not_found"
    assert receiver.at("/deleted") == []


async def test_a_test_event_goes_to_one_endpoint_alone(
    api: Api, receiver: Receiver, topic: str
) -> None:
    made = await api.endpoint(receiver.url("/tested"), topic)
    await api.endpoint(receiver.url("/other"), topic)

    sent = await api.ok("POST", f"/v1/endpoints/{made['endpoint_id']}/test")

    (push,) = await receiver.arrived("/tested")
    assert push.verifies(made["secret"])
    assert push.id == sent["event_id"]
    assert push.json["event_type"] == "penstock.test"
    assert (await api.final(sent["event_id"]))["status"] == "delivered"
    assert receiver.at("/other") == []


async def test_410_disables_the_endpoint(api: Api, receiver: Receiver, topic: str) -> None:
    made = await api.endpoint(receiver.script("/gone", [410]), topic)

    event = await api.send(topic)
    told = await api.final(event["event_id"])

    assert told["status"] == "failed"
    assert "410" in told["deliveries"][0]["last_error"]
    shown = await api.ok("GET", f"/v1/endpoints/{made['endpoint_id']}")
    assert (shown["enabled"], shown["disabled_reason"]) == (False, "gone")
    await api.send(topic)
    await asyncio.sleep(0.3)
    assert len(receiver.at("/gone")) == 1


async def test_a_permanent_answer_is_the_end_or_skips_the_quick_retries(
    api: Api, receiver: Receiver, topic: str
) -> None:
    await api.endpoint(
        receiver.script("/dead", [422]), f"{topic}.dead", on_permanent="dead", schedule=[0.1]
    )
    await api.endpoint(
        receiver.script("/long", [422]), f"{topic}.long", schedule=[0.1, 0.1, 0.1, 3600]
    )

    dead = await api.send(f"{topic}.dead")
    long = await api.send(f"{topic}.long", wait=10)

    told = await api.final(dead["event_id"])
    assert told["status"] == "failed"
    assert told["deliveries"][0]["status"] == "dead"
    assert told["deliveries"][0]["attempts"] == 1
    (delivery,) = (await api.event(long["event_id"]))["deliveries"]
    assert delivery["status"] == "pending"
    due = datetime.fromisoformat(delivery["next_attempt_at"]) - datetime.now(UTC)
    assert 0.75 * 3600 < due.total_seconds() < 1.25 * 3600
    await asyncio.sleep(0.4)
    assert len(receiver.at("/long")) == 1


async def test_an_exhausted_schedule_is_dead_with_its_reason(
    api: Api, receiver: Receiver, topic: str
) -> None:
    await api.endpoint(receiver.script("/never", [500]), topic, schedule=[0.05, 0.05])

    told = await api.final((await api.send(topic))["event_id"])

    assert told["status"] == "failed"
    (delivery,) = told["deliveries"]
    assert delivery["status"] == "dead"
    assert "500" in delivery["last_error"]
    assert [a["status_code"] for a in delivery["attempt_log"]] == [500, 500, 500]


async def test_retry_after_closes_the_lane_then_everything_is_delivered(
    api: Api, receiver: Receiver, topic: str
) -> None:
    # One that asks for longer than this takes says why nothing comes.
    closed = Reply(429, {"retry-after": "600"})
    await api.endpoint(receiver.script("/closed", [closed]), f"{topic}.closed", schedule=[0.05])
    await api.send(f"{topic}.closed", wait=10)
    told = await api.event((await api.send(f"{topic}.closed"))["event_id"])
    assert told["deliveries"][0]["why"]["code"] == "receiver_asked_to_wait"
    assert told["deliveries"][0]["attempts"] == 0

    busy = Reply(429, {"retry-after": "3"})
    await api.endpoint(
        receiver.script("/busy", [busy, 200]), topic, schedule=[0.05], max_in_flight=1
    )
    first = await api.send(topic, wait=10)
    paused_at = receiver.at("/busy")[0].at

    others = [await api.send(topic) for _ in range(3)]

    for event in (first, *others):
        assert (await api.final(event["event_id"]))["status"] == "delivered"
    pushes = receiver.at("/busy")
    assert len(pushes) == 5
    assert all(push.at - paused_at > 2.9 for push in pushes[1:])


async def test_redirects_are_not_followed(api: Api, receiver: Receiver, topic: str) -> None:
    away = Reply(302, {"location": receiver.url("/elsewhere")})
    await api.endpoint(receiver.script("/moved", [away]), topic, on_permanent="dead")

    told = await api.final((await api.send(topic))["event_id"])

    assert told["status"] == "failed"
    assert "redirects are not followed" in told["deliveries"][0]["last_error"]
    assert receiver.at("/elsewhere") == []


async def test_the_rate_limit_paces_the_pushes(api: Api, receiver: Receiver, topic: str) -> None:
    await api.endpoint(receiver.url("/paced"), topic, rate_limit=20)

    began = time.monotonic()
    await asyncio.gather(*(api.send(topic, {"n": n}) for n in range(30)))
    pushes = await receiver.arrived("/paced", 30)

    assert pushes[-1].at - began > (30 - 3) / 20 - 0.01  # three at once, then 20 a second


async def test_lists_are_read_page_by_page(api: Api, topic: str) -> None:
    sent = [(await api.send(topic, {"n": n}))["event_id"] for n in range(7)]

    seen: list[str] = []
    query = {"event_type": topic, "limit": "3"}
    while True:
        page = await api.ok("GET", "/v1/events", query=query)
        seen += [item["event_id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]

    assert seen == sent[::-1]


async def test_503_thrice_then_200_is_delivered_at_the_fourth_try(
    api: Api, receiver: Receiver, topic: str
) -> None:
    """With the schedule that an endpoint has when it names none: 1, 2, 4 s, each ±20 %."""
    made = await api.endpoint(receiver.script("/flaky", [503, 503, 503, 200]), topic)

    event = await api.send(topic, {"order": 1})
    told = await api.final(event["event_id"])

    assert told["status"] == "delivered"
    assert told["delivery_attempts"] == 4
    (delivery,) = told["deliveries"]
    assert [a["status_code"] for a in delivery["attempt_log"]] == [503, 503, 503, 200]
    assert [a["number"] for a in delivery["attempt_log"]] == [1, 2, 3, 4]
    pushes = receiver.at("/flaky")
    assert {push.id for push in pushes} == {event["event_id"]}
    assert len({push.body for push in pushes}) == 1
    assert all(push.verifies(made["secret"]) for push in pushes)
    gaps = [b.at - a.at for a, b in pairwise(pushes)]
    for gap, planned in zip(gaps, (1, 2, 4), strict=True):
        assert 0.78 * planned < gap < 1.2 * planned + 15.0, gaps

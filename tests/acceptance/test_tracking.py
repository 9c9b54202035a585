"""Parcels followed by a real server: API to carrier to webhook, with the sandbox as carrier."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from support.client import Api
from support.command import cli
from support.parcels import begun, follow, story, told, until
from support.process import Ran, Up
from support.receiver import Receiver

pytestmark = pytest.mark.anyio


async def test_parcels_are_followed_to_their_delivery(api: Api, receiver: Receiver) -> None:
    """They go through their statuses; each change is told once; the times are the carrier's.

    Scans in no order, told twice and late change nothing. All are on their way at once: it takes
    as long as it takes.
    """
    endpoint = await api.endpoint(receiver.url("/way"), "shipment.*")
    start = int(time.time()) + 1

    made = await follow(api, begun("FASTTOUR", start), label="chair", metadata={"order": 7})
    id_ = made["shipment_id"]
    assert made["status"] == "pending"
    muddled = [
        (await follow(api, begun(script, start)))["shipment_id"]
        for script in ("FASTMUDDLED", "FASTLATESCAN")
    ]
    statuses = await story(receiver, "/way", id_, "delivered")
    assert len(statuses) >= 4, statuses  # not every one lasts long enough to be seen
    found = await until(api, id_, state="ended")  # after a look for the proof of delivery
    assert (found["status"], found["sub_status"]) == ("delivered", "collected")
    assert found["signed_by"] == "A. RECIPIENT"
    delivered_at = datetime.fromisoformat(found["delivered_at"])
    assert delivered_at.timestamp() == pytest.approx(start + 60 * 3600 / 10_000, abs=0.01)
    assert found["delivered_local_time"].endswith("-07:00")
    assert [scan["status"] for scan in found["scans"]][::-1] == [
        "pre_transit",
        "in_transit",
        "in_transit",
        "exception",
        "out_for_delivery",
        "attempt_failed",
        "available_for_pickup",
        "delivered",
    ]
    assert found["scans"][-1]["place"] == "Louisville, KY, US"
    assert found["why"] is None
    (delivery,) = [
        push
        for push in receiver.at("/way")
        if push.json["event_type"] == "shipment.delivered"
        and push.json["payload"]["shipment_id"] == id_
    ]
    assert delivery.verifies(endpoint["secret"])
    payload = delivery.json["payload"]
    assert payload["delivered_at"] == found["delivered_at"]
    assert (payload["label"], payload["metadata"]) == ("chair", {"order": 7})
    await asyncio.sleep(0.3)
    assert len(told(receiver, "/way")[id_]) == len(statuses)  # nothing more was told

    for each in muddled:
        found = await until(api, each, state="ended")
        assert found["status"] == "delivered"
        await story(receiver, "/way", each, "delivered")
        times = [scan["at"] for scan in found["scans"]]
        assert times == sorted(times, reverse=True)
        assert len(set(times)) == len(times) == 5


async def test_what_a_carrier_does_not_know_stays_pending(api: Api) -> None:
    """What goes wrong with a question is never a status."""
    for script, kind in (
        ("NOTFOUND", None),
        ("INVALID", "invalid"),
        ("FORBIDDEN", "forbidden"),
        ("MALFORMED", "malformed"),
    ):
        made = await follow(api, f"SBX{script}1")
        deadline = time.monotonic() + 30
        while True:
            found = await api.ok("GET", f"/v1/shipments/{made['shipment_id']}")
            if found["why"]["code"] in ("not_found_yet", "retry_later"):
                break
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.1)
        assert (found["status"], found["state"], found["scans"]) == ("pending", "active", [])
        if kind is not None:
            assert found["error_kind"] == kind


async def test_refresh_stop_and_delete(api: Api, receiver: Receiver) -> None:
    await api.endpoint(receiver.url("/stopped"), "shipment.*")
    made = await follow(api, "SBXINTRANSIT1")
    path = f"/v1/shipments/{made['shipment_id']}"
    before = await until(api, made["shipment_id"], status="in_transit")
    assert before["next_check_at"] > before["last_checked_at"]

    await api.ok("POST", f"{path}/refresh")

    deadline = time.monotonic() + 30
    while (found := await api.ok("GET", path))["last_checked_at"] == before["last_checked_at"]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert found["status"] == "in_transit"

    stopped = await api.ok("POST", f"{path}/stop")
    assert (stopped["state"], stopped["status"]) == ("stopped", "in_transit")
    assert (await api.call("POST", f"{path}/refresh")).code == "conflict"

    # In transit for two more seconds, and delivered in six.
    moving = await follow(api, begun("FASTDELIVERED", time.time() - 8))
    assert (await api.call("DELETE", f"/v1/shipments/{moving['shipment_id']}")).status == 204
    deleted = datetime.now(UTC)
    answer = await api.call("GET", f"/v1/shipments/{moving['shipment_id']}")
    assert (answer.status, answer.code) == (404, "not_found")
    again = await follow(api, moving["tracking_number"])
    assert again["shipment_id"] != moving["shipment_id"]
    await until(api, again["shipment_id"], status="delivered")
    await story(receiver, "/stopped", again["shipment_id"], "delivered")
    # Of the deleted one nothing was told but that it was made, and what came before the deletion.
    of_deleted = told(receiver, "/stopped")[moving["shipment_id"]]
    assert all(datetime.fromisoformat(event["created_at"]) <= deleted for event in of_deleted)


async def test_an_outage_opens_the_circuit_and_leaves_what_is_known(
    tmp_path: Path, receiver: Receiver
) -> None:
    """Nothing is asked while it is open, nobody dies of it, and a person can close it."""
    with Up(tmp_path / "data") as server:
        async with Api(server.url, server.token) as api:
            await api.endpoint(receiver.url("/circuit"), "*")
            known = await follow(api, "SBXINTRANSIT1")
            await until(api, known["shipment_id"], status="in_transit")
            failing = [(await follow(api, f"SBXUNAVAILABLE{n}"))["shipment_id"] for n in range(3)]
            deadline = time.monotonic() + 30
            while (circuit := await api.ok("GET", "/v1/carriers/sandbox/circuit"))[
                "state"
            ] == "closed":
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            assert "3 failures" in circuit["log"][0]["reason"]

            waiting = await follow(api, "SBXDELIVERED1")
            await api.ok("POST", f"/v1/shipments/{known['shipment_id']}/refresh")
            for id_ in (waiting["shipment_id"], known["shipment_id"]):
                found = await api.ok("GET", f"/v1/shipments/{id_}")
                assert found["why"]["code"] in ("circuit_open", "circuit_probing")
            assert (await api.ok("GET", f"/v1/shipments/{known['shipment_id']}"))[
                "status"
            ] == "in_transit"
            body = {"state": "closed", "for": "10m", "reason": "they are back"}
            held = await api.ok("POST", "/v1/carriers/sandbox/circuit", body)
            assert (held["state"], held["held"]) == ("closed", "closed")

            await until(api, waiting["shipment_id"], status="delivered")
            for id_ in failing:
                found = await api.ok("GET", f"/v1/shipments/{id_}")
                assert (found["state"], found["status"]) == ("active", "pending")
                assert found["error_kind"] == "http_503"
            await receiver.until(
                lambda: (
                    {"carrier.circuit_opened", "carrier.circuit_closed"}
                    <= {received.json["event_type"] for received in receiver.at("/circuit")}
                )
            )
        assert server.logged("circuit_opened")
        assert server.terminate() == 0


async def test_a_file_of_parcels_is_imported(api: Api, receiver: Receiver) -> None:
    await api.endpoint(receiver.url("/import"), "shipment.created")
    rows = [f"sandbox,SBXINTRANSIT{n},parcel {n}" for n in range(100, 350)]
    rows[40] = "sandbox,?,what is this"
    rows[90] = "hermes,123456,who is this"
    text = "carrier,tracking_number,label\r\n" + "\r\n".join(rows)

    taken = await api.call(
        "POST",
        "/v1/shipments/imports",
        data=text.encode("utf-16"),
        headers={"content-type": "text/csv"},
    )

    assert taken.status == 202
    path = f"/v1/shipments/imports/{taken.json['import_id']}"
    deadline = time.monotonic() + 60
    while (view := await api.ok("GET", path))["status"] != "done":
        assert time.monotonic() < deadline, view
        await asyncio.sleep(0.1)
    assert (view["created"], view["existing"], view["failed"]) == (248, 0, 2)
    errors = (await api.ok("GET", f"{path}/errors"))["items"]
    assert [(error["row"], error["code"]) for error in errors] == [
        (42, "bad_number"),
        (92, "unknown_carrier"),
    ]
    await receiver.until(lambda: len(told(receiver, "/import")) >= 248, 60)
    assert len(told(receiver, "/import")) == 248


# ------------------------------------------------------------------ the command


def track(tmp_path: Path, *arguments: str, env: dict[str, str] | None = None) -> Ran:
    """Run `penstock track …` without a server."""
    return cli("track", *arguments, data=tmp_path / "data", env=env)


def test_a_parcel_can_be_asked_for_without_a_server(tmp_path: Path) -> None:
    shown = track(tmp_path, "sandbox", "sbx delivered-7")
    assert shown.code == 0, shown.stderr
    head, *rest = shown.stdout.splitlines()
    assert head == "Sandbox SBXDELIVERED7  delivered: Delivered, left with the recipient"
    assert "Signed by           A. RECIPIENT" in rest
    assert rest[-1].endswith("Label created  [Louisville, KY, US]")
    assert not (tmp_path / "data").exists()  # nothing is stored

    found = track(tmp_path, "sandbox", "SBXDELIVERED7", "--json").document
    assert (found["outcome"], found["status"]) == ("found", "delivered")
    delivered = datetime.fromisoformat(found["delivered_local_time"])
    assert delivered.utcoffset() == -timedelta(hours=7)
    assert found["scans"][0]["local_time"] == found["delivered_local_time"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("sandbox", "SBXNOTFOUND1"), 1, "no parcel with this number"),
        (("sandbox", "SBXINVALID1"), 2, "no such script"),
        (("sandbox", "1Z999AA10123456784"), 2, "It may be one of UPS"),
        (("sandbox", "SBXFORBIDDEN1"), 1, "may not see"),
        (("sandbox", "SBXNOACCESS1"), 2, "not accepted"),
        (("sandbox", "SBXLIMITED1"), 1, "try again in 30 seconds"),
        (("sandbox", "SBXUNAVAILABLE1"), 4, "HTTP 503"),
        (("hermes", "1234567"), 2, "known are ups"),
        (("sandbox", "?"), 2, "letters A-Z and digits"),
        (("sandbox", "SBXTOUR1", "--ship-date", "tomorrow"), 2, "2026-01-31"),
        (("ups", "1Z999AA10123456784"), 2, "PENSTOCK_UPS_CLIENT_ID"),
    ],
)
def test_what_came_of_it_is_said_and_is_the_exit_code(
    tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = track(tmp_path, *arguments)
    assert done.code == code, done.stderr
    assert says in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_carrier_that_cannot_be_reached_is_exit_code_4(tmp_path: Path) -> None:
    """Its credential comes from the settings, and appears nowhere."""
    env = {"PENSTOCK_DHL_API_KEY": "s3cret-0123456789", "PENSTOCK_DHL_URL": "http://127.0.0.1:9"}
    done = track(tmp_path, "dhl", "1234567890", "--json", env=env)
    assert done.code == 4
    assert done.document["kind"] == "connection_refused"
    assert "s3cret" not in done.stdout + done.stderr

"""Shipments, carriers, circuits and imports over HTTP; nobody works, so nothing happens."""

from __future__ import annotations

import asyncio
import codecs
import csv
import io
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from penstock.api import keys
from penstock.api.app import create_app
from penstock.api.auth import Authenticator
from penstock.clock import SystemClock
from penstock.secretbox import SecretBox
from penstock.storage import Database, sql
from penstock.storage.sqlite import SqliteDatabase
from penstock.tracking import imports, service
from penstock.tracking.carriers.registry import CARRIERS
from penstock.work.emit import nobody
from support.client import Answer, Api

pytestmark = pytest.mark.anyio

ADMIN = "admin-token-of-the-tests-0123456789"
UPS = "1Z999AA10123456784"
CSV = {"content-type": "text/csv"}
PARTS = sql("SELECT count(*) FROM shipment_import_parts")


@dataclass
class House:
    """The API of the tracking service, UPS being set up for everybody."""

    url: str
    database: Database
    path: Path

    async def api(self, account: str = "acme", *scopes: str) -> Api:
        _, secret = await self.database.unit(
            lambda tx: keys.create(tx, account, "test", scopes or None)
        )
        return Api(self.url, secret)


@pytest.fixture
async def house(sqlite_path: Path) -> AsyncIterator[House]:
    clock = SystemClock()
    database = SqliteDatabase(sqlite_path, clock)
    await database.open()
    tracking = service.build(
        database=database,
        clock=clock,
        box=SecretBox(["a key for the tests"]),
        own={"ups": {"client_id": "a", "client_secret": "b"}},
        base_urls={},
        limits={},
        emit=nobody,
        operator="default",
        lease=60.0,
        dispatch_every=3600.0,
        keep=86_400.0,
    )
    app = create_app(
        routers=tracking.routers,
        authenticator=Authenticator(database, clock=clock, admin_token=ADMIN),
        database=database,
        version="0",
    )
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    yield House(f"http://127.0.0.1:{listener.getsockname()[1]}", database, sqlite_path)
    server.should_exit = True
    await task
    listener.close()
    await tracking.close()
    await database.close()


@pytest.fixture
async def api(house: House) -> AsyncIterator[Api]:
    async with await house.api() as client:
        yield client


def parcel(number: str = UPS, carrier: str = "ups", **fields: Any) -> dict[str, Any]:
    return {"carrier": carrier, "tracking_number": number, **fields}


async def made(api: Api, *arguments: Any, **fields: Any) -> dict[str, Any]:
    shipment: dict[str, Any] = await api.ok("POST", "/v1/shipments", parcel(*arguments, **fields))
    return shipment


def pointers(answer: Answer) -> list[str]:
    return [failure.get("pointer") for failure in answer.json["errors"]]


# ------------------------------------------------------------------ making


async def test_a_shipment_is_stored_as_it_was_meant(api: Api) -> None:
    answer = await api.call(
        "POST",
        "/v1/shipments",
        parcel(
            " 1z 999-aa1 01 2345 6784 ",
            label=" A chair ",
            reference="order 7",
            ship_date="2026-01-31",
            postal_code="40202",
            metadata={"customer": {"id": 7}},
        ),
    )
    assert answer.status == 201
    shipment = answer.json
    assert shipment["tracking_number"] == UPS
    assert (shipment["label"], shipment["reference"]) == ("A chair", "order 7")
    assert (shipment["ship_date"], shipment["postal_code"]) == ("2026-01-31", "40202")
    assert shipment["metadata"] == {"customer": {"id": 7}}
    assert (shipment["status"], shipment["state"]) == ("pending", "active")
    assert shipment["checksum"] == "valid"
    assert UPS in shipment["tracking_url"]
    detail = await api.ok("GET", f"/v1/shipments/{shipment['shipment_id']}")
    assert detail["scans"] == []
    assert detail["why"]["code"] == "due"
    assert {name: detail[name] for name in shipment} == shipment


async def test_repeating_a_creation_finds_the_same_shipment(api: Api) -> None:
    answers = await asyncio.gather(
        *(api.call("POST", "/v1/shipments", parcel(label=str(n))) for n in range(20))
    )
    assert sorted(answer.status for answer in answers) == [200] * 19 + [201]
    assert len({answer.json["shipment_id"] for answer in answers}) == 1
    assert len({answer.json["label"] for answer in answers}) == 1  # the first one's stays
    page = await api.ok("GET", "/v1/shipments")
    assert len(page["items"]) == 1


async def test_a_number_that_is_followed_no_more_may_come_again(api: Api) -> None:
    """Carriers use numbers anew, so only those that are followed must differ."""
    first = await made(api)
    await api.ok("POST", f"/v1/shipments/{first['shipment_id']}/stop")
    second = await api.call("POST", "/v1/shipments", parcel())
    assert second.status == 201
    assert second.json["shipment_id"] != first["shipment_id"]


async def test_accounts_follow_the_same_number_each_for_itself(house: House, api: Api) -> None:
    mine = await made(api)
    async with await house.api("other") as other:
        theirs = await made(other)
        assert theirs["shipment_id"] != mine["shipment_id"]
        answer = await other.call("GET", f"/v1/shipments/{mine['shipment_id']}")
        assert (answer.status, answer.code) == (404, "not_found")


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        (parcel(carrier="hermes"), "unknown_carrier", "/carrier"),
        (parcel(carrier="UPS"), "validation_failed", "/carrier"),
        (parcel(carrier="dhl"), "carrier_not_configured", "/carrier"),
        ({"tracking_number": UPS}, "validation_failed", "/carrier"),
        ({"carrier": "ups"}, "validation_failed", "/tracking_number"),
        (parcel(""), "validation_failed", "/tracking_number"),
        (parcel("n/a"), "validation_failed", "/tracking_number"),
        (parcel("1Z" + "9" * 90), "validation_failed", "/tracking_number"),
        (parcel(ship_date="31.1.2026"), "validation_failed", "/ship_date"),
        (parcel(ship_date="2026-02-30"), "validation_failed", "/ship_date"),
        (parcel(ship_date=1767225600), "validation_failed", "/ship_date"),
        (parcel(label="x" * 201), "validation_failed", "/label"),
        (parcel(metadata={"a": "x" * 9000}), "validation_failed", "/metadata"),
        (parcel(status="delivered"), "validation_failed", "/status"),
        (parcel(tracking_status="delivered"), "validation_failed", "/tracking_status"),
        (parcel("1Z999AA10123456785", strict=True), "validation_failed", "/tracking_number"),
    ],
)
async def test_what_cannot_be_followed_is_refused(
    api: Api, body: dict[str, Any], code: str, pointer: str
) -> None:
    """A status cannot be forged, and a carrier is never guessed."""
    answer = await api.call("POST", "/v1/shipments", body)
    assert (answer.status, answer.code) == (422, code)
    assert pointers(answer) == [pointer]
    assert (await api.ok("GET", "/v1/shipments"))["items"] == []


async def test_a_wrong_check_digit_is_said_and_not_refused(api: Api) -> None:
    assert (await made(api, "1Z999AA10123456785"))["checksum"] == "invalid"
    assert (await made(api, "SBXDELIVERED", "sandbox"))["checksum"] == "none"


# ------------------------------------------------------------------ finding


async def test_lists_are_filtered_searched_and_paged(api: Api) -> None:
    for n in range(5):
        await made(api, f"SBXTOUR{n}", "sandbox", label=f"Chair {n}", reference="A_1")
    await made(api, "SBXDELIVERED1", "sandbox", label="100% wool", reference="AB1")
    ups = await made(api, reference="A%1")
    await api.ok("POST", f"/v1/shipments/{ups['shipment_id']}/stop")

    async def found(**query: str) -> list[str]:
        page = await api.ok("GET", "/v1/shipments", query=query)
        return [item["tracking_number"] for item in page["items"]]

    tours = [f"SBXTOUR{n}" for n in (4, 3, 2, 1, 0)]
    assert await found() == [UPS, "SBXDELIVERED1", *tours]
    assert await found(carrier="ups") == [UPS]
    assert await found(carrier="none") == []
    assert await found(state="stopped") == [UPS]
    assert await found(state="active") == ["SBXDELIVERED1", *tours]
    assert await found(status="pending", state="stopped") == [UPS]
    assert await found(status="delivered") == []
    assert await found(reference="A_1") == tours  # and not what LIKE would take it for
    assert await found(search="a_1") == tours
    assert await found(search="%") == [UPS, "SBXDELIVERED1"]
    assert await found(search="1z999 aa1-012") == [UPS]
    assert await found(search="WOOL") == ["SBXDELIVERED1"]
    assert await found(search="chair 3") == ["SBXTOUR3"]
    assert await found(since="2100-01-01T00:00:00Z") == []
    assert await found(until="2100-01-01T00:00:00Z", search="chair 3") == ["SBXTOUR3"]

    seen: list[str] = []
    cursor = None
    for _ in range(10):
        query = {"limit": "2", "carrier": "sandbox"} | ({"cursor": cursor} if cursor else {})
        page = await api.ok("GET", "/v1/shipments", query=query)
        seen += [item["tracking_number"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        await made(api, f"SBXPICKUP{len(seen)}", "sandbox")  # comes in before, and is not seen
    assert seen == ["SBXDELIVERED1", *tours]


@pytest.mark.parametrize(
    "query",
    [
        {"status": "lost"},
        {"state": "pending"},
        {"since": "yesterday"},
        {"search": ""},
        {"search": "x" * 101},
        {"limit": "0"},
    ],
)
async def test_filters_that_are_none_are_refused(api: Api, query: dict[str, str]) -> None:
    answer = await api.call("GET", "/v1/shipments", query=query)
    assert (answer.status, answer.code) == (422, "validation_failed")
    assert answer.json["errors"][0]["parameter"] == next(iter(query))


# ------------------------------------------------------------------ changing


async def test_changes_are_of_what_is_given(api: Api) -> None:
    shipment = await made(api, label="a", reference="b", metadata={"c": 1})
    path = f"/v1/shipments/{shipment['shipment_id']}"
    changed = await api.ok("PATCH", path, {"label": "z", "reference": None})
    assert (changed["label"], changed["reference"], changed["metadata"]) == ("z", None, {"c": 1})
    changed = await api.ok(
        "PATCH", path, {"ship_date": "2026-01-31", "postal_code": "1", "metadata": None}
    )
    assert changed["ship_date"] == "2026-01-31"
    assert changed["metadata"] is None
    for body in ({}, {"label": ""}, {"carrier": "dhl"}, {"status": "delivered"}):
        answer = await api.call("PATCH", path, body)
        assert (answer.status, answer.code) == (422, "validation_failed"), body


async def test_stop_refresh_and_delete(api: Api) -> None:
    shipment = await made(api)
    path = f"/v1/shipments/{shipment['shipment_id']}"
    refreshed = await api.call("POST", f"{path}/refresh")
    assert (refreshed.status, refreshed.json["state"]) == (202, "active")
    for _ in range(2):
        stopped = await api.ok("POST", f"{path}/stop")
        assert (stopped["state"], stopped["next_check_at"]) == ("stopped", None)
    assert stopped["ended_at"] is not None
    assert (await api.ok("GET", path))["why"] is None
    refused = await api.call("POST", f"{path}/refresh")
    assert (refused.status, refused.code) == (409, "conflict")
    assert (await api.call("DELETE", path)).status == 204
    for method, target in (
        ("GET", path),
        ("DELETE", path),
        ("POST", f"{path}/stop"),
        ("POST", f"{path}/refresh"),
    ):
        answer = await api.call(method, target)
        assert (answer.status, answer.code) == (404, "not_found"), (method, target)


# ------------------------------------------------------------------ carriers


async def test_carriers_say_what_they_need_and_what_there_is(api: Api) -> None:
    listed = {item["carrier"]: item for item in (await api.ok("GET", "/v1/carriers"))["items"]}
    assert list(listed) == list(CARRIERS)
    sources = {name: item["credential"] for name, item in listed.items()}
    assert sources == {
        "ups": "settings",
        "usps": None,
        "fedex": None,
        "dhl": None,
        "royal_mail": None,
        "sandbox": "none needed",
    }
    assert listed["fedex"]["numbers_per_call"] == 30
    assert [field["name"] for field in listed["dhl"]["credential_fields"]] == ["api_key"]
    assert listed["ups"]["budget"]["per_day"] > 0


async def test_a_credential_is_stored_used_and_never_shown(house: House, api: Api) -> None:
    secret = "s3cret-of-the-carrier-0123456789"
    path = "/v1/carriers/dhl/credentials"
    answers = [await api.call("PUT", path, {"values": {"api_key": secret}})]
    assert answers[0].status == 200
    shipment = await made(api, "1234567890", "dhl")
    answers += [
        await api.call("GET", "/v1/carriers"),
        await api.call("GET", path),
        await api.call("GET", f"/v1/shipments/{shipment['shipment_id']}"),
        await api.call("PUT", path, {"values": {"api_key": secret, "more": secret}}),
        await api.call("PUT", path, {"values": {"api_key": [secret]}}),
        await api.call("PUT", path, {"values": {"api_key": "\u00e9" + secret}}),
    ]
    assert [answer.status for answer in answers] == [200, 200, 405, 200, 422, 422, 422]
    assert pointers(answers[4]) == ["/values/more"]
    assert all(secret not in answer.body.decode() for answer in answers)
    stored = b"".join(file.read_bytes() for file in house.path.parent.glob(f"{house.path.name}*"))
    assert shipment["shipment_id"].encode() in stored
    assert secret.encode() not in stored
    # Other accounts do not get to use it.
    async with await house.api("other") as other:
        answer = await other.call("POST", "/v1/shipments", parcel("1234567890", "dhl"))
        assert answer.code == "carrier_not_configured"
        assert (await other.call("DELETE", path)).status == 404

    assert (await api.call("DELETE", path)).status == 204
    assert (await api.call("DELETE", path)).code == "not_found"
    detail = await api.ok("GET", f"/v1/shipments/{shipment['shipment_id']}")
    assert (detail["state"], detail["why"]["code"]) == ("active", "no_credential")
    assert (await api.call("POST", "/v1/shipments", parcel("9876543210", "dhl"))).code == (
        "carrier_not_configured"
    )
    await api.ok("PUT", path, {"values": {"api_key": secret}})
    detail = await api.ok("GET", f"/v1/shipments/{shipment['shipment_id']}")
    assert detail["why"]["code"] == "due"


@pytest.mark.parametrize(
    ("carrier", "values", "status"),
    [
        ("dhl", {}, 422),
        ("dhl", {"api_key": ""}, 422),
        ("dhl", {"api_key": "a\nb"}, 422),
        ("dhl", {"api_key": "x" * 5000}, 422),
        ("ups", {"client_id": "only"}, 422),
        ("sandbox", {"api_key": "a"}, 422),
        ("hermes", {"api_key": "a"}, 404),
    ],
)
async def test_credentials_that_cannot_be_are_refused(
    api: Api, carrier: str, values: dict[str, str], status: int
) -> None:
    path = f"/v1/carriers/{carrier}/credentials"
    answer = await api.call("PUT", path, {"values": values})
    assert answer.status == status, answer.body


async def test_detection_offers_and_does_not_decide(api: Api) -> None:
    async def found(number: str) -> list[tuple[str, str]]:
        answer = await api.ok("POST", "/v1/carriers/detect", {"tracking_number": number})
        return [(each["carrier"], each["checksum"]) for each in answer["candidates"]]

    assert await found(" 1z 999aa1 01 2345 6784") == [("ups", "valid")]
    several = await found("986578788855")
    assert several[0] == ("fedex", "valid")
    assert await found("ABCDEFG") == []
    answer = await api.call("POST", "/v1/carriers/detect", {"tracking_number": "?"})
    assert (answer.code, pointers(answer)) == ("validation_failed", ["/tracking_number"])


# ------------------------------------------------------------------ circuits


async def test_a_circuit_is_held_open_shown_and_released(api: Api) -> None:
    shipment = await made(api, "SBXTOUR1", "sandbox")
    path = "/v1/carriers/sandbox/circuit"
    before = await api.ok("GET", path)
    assert (before["state"], before["held"], before["log"]) == ("closed", None, [])

    body = {"state": "open", "for": "30m", "reason": "the carrier asked us to"}
    held = await api.ok("POST", path, body)

    assert (held["state"], held["held"]) == ("open", "open")
    assert held["open_until"] == held["held_until"]
    (entry,) = held["log"]
    assert (entry["state"], entry["reason"]) == ("open", "the carrier asked us to")
    assert entry["actor"].startswith("key key_")
    why = (await api.ok("GET", f"/v1/shipments/{shipment['shipment_id']}"))["why"]
    assert why["code"] == "circuit_open"
    assert held["open_until"][:16] in why["message"]

    released = await api.ok("POST", f"{path}/release")
    assert released["held"] is None
    assert released["log"][0]["actor"].startswith("key key_")
    why = (await api.ok("GET", f"/v1/shipments/{shipment['shipment_id']}"))["why"]
    assert why["code"] == "due"  # as a probe
    again = await api.ok("POST", f"{path}/release")  # nobody holds it: no harm
    assert len(again["log"]) == len(released["log"])


async def test_a_held_circuit_is_left_to_itself_after_its_time(api: Api) -> None:
    await made(api, "SBXTOUR1", "sandbox")
    path = "/v1/carriers/sandbox/circuit"
    for state in ("open", "closed"):
        held = await api.ok("POST", path, {"state": state, "for": 0.3, "reason": "short"})
        assert held["state"] == state
        deadline = time.monotonic() + 60
        while (await api.ok("GET", path))["held"] is not None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def test_a_circuit_can_be_held_before_the_first_shipment(api: Api) -> None:
    path = "/v1/carriers/sandbox/circuit"
    await api.ok("POST", path, {"state": "open", "for": 60, "reason": "not yet"})
    shipment = await made(api, "SBXTOUR1", "sandbox")
    detail = await api.ok("GET", f"/v1/shipments/{shipment['shipment_id']}")
    assert detail["why"]["code"] == "circuit_open"


async def test_a_circuit_that_others_share_is_the_operators(house: House, api: Api) -> None:
    """UPS is asked with the deployment's own credential, sandbox by each account for itself."""
    path = "/v1/carriers/ups/circuit"
    body = {"state": "open", "for": 60, "reason": "mischief"}
    for target, sent in ((path, body), (f"{path}/release", None)):
        answer = await api.call("POST", target, sent)
        assert (answer.status, answer.code) == (403, "shared_circuit")
    async with Api(house.url, ADMIN) as operator:
        assert (await operator.ok("POST", path, body))["held"] == "open"
    assert (await api.ok("GET", path))["state"] == "open"  # it can be seen
    await api.ok(
        "PUT",
        "/v1/carriers/ups/credentials",
        {"values": {"client_id": "own", "client_secret": "own"}},
    )
    assert (await api.ok("GET", path))["state"] == "closed"
    assert (await api.ok("POST", path, body))["held"] == "open"
    await api.ok("POST", "/v1/carriers/sandbox/circuit", body)
    async with await house.api("other") as other:
        assert (await other.ok("GET", "/v1/carriers/sandbox/circuit"))["state"] == "closed"


@pytest.mark.parametrize(
    ("carrier", "body", "code"),
    [
        ("hermes", {"state": "open", "for": 60, "reason": "x"}, "not_found"),
        ("dhl", {"state": "open", "for": 60, "reason": "x"}, "carrier_not_configured"),
        ("sandbox", {"state": "half_open", "for": 60, "reason": "x"}, "validation_failed"),
        ("sandbox", {"state": "open", "for": 0, "reason": "x"}, "validation_failed"),
        ("sandbox", {"state": "open", "for": 700_000, "reason": "x"}, "validation_failed"),
        ("sandbox", {"state": "open", "for": "soon", "reason": "x"}, "validation_failed"),
        ("sandbox", {"state": "open", "for": True, "reason": "x"}, "validation_failed"),
        ("sandbox", {"state": "open", "for": 60}, "validation_failed"),
        ("sandbox", {"state": "open", "for": 60, "reason": " "}, "validation_failed"),
        ("sandbox", {"state": "open", "reason": "x"}, "validation_failed"),
    ],
)
async def test_a_circuit_is_held_for_a_time_and_a_reason(
    api: Api, carrier: str, body: dict[str, Any], code: str
) -> None:
    answer = await api.call("POST", f"/v1/carriers/{carrier}/circuit", body)
    assert answer.code == code


async def test_circuits_are_of_the_scope_of_lanes(house: House) -> None:
    path = "/v1/carriers/sandbox/circuit"
    body = {"state": "open", "for": 60, "reason": "x"}
    async with await house.api("acme", "shipments:write") as sender:
        assert (await sender.call("GET", path)).code == "insufficient_scope"
    async with await house.api("acme", "lanes:read") as reader:
        assert (await reader.call("GET", path)).status == 200
        assert (await reader.call("POST", path, body)).code == "insufficient_scope"


# ------------------------------------------------------------------ imports


def sheet(*numbers: str) -> bytes:
    rows = "".join(f"sandbox,{number},Gr\u00f6\u00dfe\r\n" for number in numbers)
    return f"carrier,tracking_number,label\r\n{rows}".encode()


async def test_a_file_is_taken_in_whichever_way_it_comes(api: Api) -> None:
    text = sheet("SBXTOUR1")
    form = (
        (
            '--edge\r\nContent-Disposition: form-data; name="note"\r\n\r\nnot the file\r\n'
            '--edge\r\nContent-Disposition: form-data; name="file"; '
            'filename="C:\\post\\Gr\u00f6\u00dfe.csv"\r\n\r\n'
        ).encode()
        + text
        + b"\r\n--edge--\r\n"
    )
    utf16 = codecs.BOM_UTF16_LE + text.decode().encode("utf-16-le")
    answers = [
        await api.call("POST", "/v1/shipments/imports", data=text, headers=CSV),
        await api.call(
            "POST",
            "/v1/shipments/imports",
            data=form,
            headers={"content-type": "multipart/form-data; boundary=edge"},
        ),
        await api.call(
            "POST",
            "/v1/shipments/imports",
            data=utf16,
            headers={"content-type": "text/csv; charset=UTF-16"},
        ),
    ]
    assert [answer.status for answer in answers] == [202] * 3
    assert answers[1].json["filename"] == "Gr\u00f6\u00dfe.csv"
    sizes = {answer.json["bytes_total"] for answer in answers}
    assert sizes == {len(text)}  # stored as UTF-8, all three
    for answer in answers:
        view = await api.ok("GET", f"/v1/shipments/imports/{answer.json['import_id']}")
        assert (view["status"], view["rows_done"]) == ("pending", 1)
    listed = await api.ok("GET", "/v1/shipments/imports", query={"limit": "2"})
    newest = [answer.json["import_id"] for answer in reversed(answers)]
    assert [item["import_id"] for item in listed["items"]] == newest[:2]
    rest = await api.ok("GET", "/v1/shipments/imports", query={"cursor": listed["next_cursor"]})
    assert [item["import_id"] for item in rest["items"]] == newest[2:]
    path = f"/v1/shipments/imports/{newest[0]}"
    cancelled = await api.call("POST", f"{path}/cancel")
    assert (cancelled.status, cancelled.json["status"]) == (202, "cancelled")


@pytest.mark.parametrize(
    ("data", "query", "row", "code"),
    [
        (b"", {}, 1, "empty_file"),
        (b"SBXTOUR1,sandbox\n", {}, 1, "missing_header"),
        (b"\r\ncarrier,label\r\n", {}, 2, "missing_column"),
        (b"carrier,tracking_number,weight\r\n", {}, 1, "unknown_column"),
        (b"\xff\xfe\x00", {}, 1, "not_utf8"),
        (b"x" * 300_000, {}, 1, "row_too_long"),
    ],
)
async def test_a_head_that_cannot_be_read_is_refused_at_once(
    api: Api, house: House, data: bytes, query: dict[str, str], row: int, code: str
) -> None:
    answer = await api.call("POST", "/v1/shipments/imports", data=data, headers=CSV, query=query)
    assert (answer.status, answer.code) == (422, "validation_failed"), answer.body
    (first, *_) = answer.json["errors"]
    assert (first["row"], first["code"]) == (row, code)
    assert first["message"] in answer.json["detail"]
    assert (await api.ok("GET", "/v1/shipments/imports"))["items"] == []
    assert await house.database.read(lambda tx: tx.one(PARTS)) == (0,)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"content-type": "application/json"}, "not_csv"),
        ({"content-type": "text/csv; charset=windows-1252"}, "not_csv"),
        ({"content-type": "multipart/form-data"}, "bad_request"),
        ({"content-type": "multipart/form-data; boundary=x"}, "bad_request"),
    ],
)
async def test_a_body_that_is_no_file_is_refused(
    api: Api, headers: dict[str, str], code: str
) -> None:
    answer = await api.call(
        "POST", "/v1/shipments/imports", data=sheet("SBXTOUR1"), headers=headers
    )
    assert answer.code == code
    unknown = await api.call(
        "POST",
        "/v1/shipments/imports",
        data=sheet("SBXTOUR1"),
        headers=CSV,
        query={"carrier": "hermes"},
    )
    assert unknown.code == "unknown_carrier"


async def test_a_file_that_is_too_long_leaves_nothing_behind(api: Api, house: House) -> None:
    """Whether it says how long it is or not."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"carrier,tracking_number\r\n"
        for _ in range(imports.MOST // 2**20 + 1):
            yield b"sandbox,SBXTOUR1\r\n" * (2**20 // 18)
            await asyncio.sleep(0)

    stored = await api.call("POST", "/v1/shipments/imports", data=pieces(), headers=CSV)
    assert (stored.status, stored.code) == (413, "body_too_large")
    said = await api.call(
        "POST", "/v1/shipments/imports", data=b"x" * (imports.MOST + 100_000), headers=CSV
    )
    assert said.code == "body_too_large"
    assert (await api.ok("GET", "/v1/shipments/imports"))["items"] == []
    assert await house.database.read(lambda tx: tx.one(PARTS)) == (0,)


async def test_a_sender_who_hangs_up_leaves_nothing_behind(api: Api, house: House) -> None:
    port = int(house.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /v1/shipments/imports HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\n"
        b"Authorization: Bearer " + str(api.token).encode() + b"\r\n"
        b"Content-Length: 1000000\r\n\r\ncarrier,tracking_number\r\n"
        + b"sandbox,SBXTOUR1\r\n"
        * 30_000
    )
    await writer.drain()
    deadline = time.monotonic() + 60
    while await house.database.read(lambda tx: tx.one(PARTS)) == (0,):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    (shown,) = (await api.ok("GET", "/v1/shipments/imports"))["items"]
    assert shown["status"] == "receiving"
    writer.close()
    while (await api.ok("GET", "/v1/shipments/imports"))["items"]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert await house.database.read(lambda tx: tx.one(PARTS)) == (0,)
    reader.feed_eof()


async def test_the_template_is_a_csv(api: Api) -> None:
    answer = await api.call("GET", "/v1/templates/shipments.csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    head, row = csv.reader(io.StringIO(answer.body.decode()))
    assert head[:2] == ["carrier", "tracking_number"]
    assert len(row) == len(head)
    taken = await api.call("POST", "/v1/shipments/imports", data=answer.body, headers=CSV)
    assert taken.status == 202

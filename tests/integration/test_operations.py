"""Looking after work over HTTP, on both databases: lanes, dead work, jobs, figures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

import pytest

from penstock import jobs
from penstock.api import keys
from penstock.api.app import create_app
from penstock.api.auth import Authenticator
from penstock.clock import SECOND, ManualClock
from penstock.events import accept, dead, service
from penstock.events.figures import id_at
from penstock.jobs import store
from penstock.jobs.dead import DEAD_JOBS
from penstock.jobs.routes import routes as job_routes
from penstock.jobs.store import NewJob
from penstock.secretbox import SecretBox
from penstock.storage import Database, Tx, sql
from penstock.tracking import dead as tracking_dead
from penstock.tracking import service as tracking_service
from penstock.wiring import Service, operations
from penstock.work import ledger
from penstock.work.kinds import AnyKind, Claim
from penstock.work.outcomes import Dead, Done, Outcome, Retry
from penstock.work.settlement import decide
from support.client import Answer, Api
from support.served import served

pytestmark = pytest.mark.anyio

ME = "default"  # looks after the deployment's own lanes
OTHER = "acme"
_PLACE = sql("""
UPDATE events SET id = :id, created_at = :at, delivered_at = :done, status = :status
WHERE id = :event
""")


@dataclass
class House:
    """The API of everything but predictions; nobody works unless the test does."""

    database: Database
    clock: ManualClock
    kinds: dict[str, AnyKind]
    url: str = ""
    jobs_made: int = 0
    open: list[Api] = field(default_factory=list)

    async def api(self, account: str = ME, *scopes: str) -> Api:
        _, secret = await self.database.unit(
            lambda tx: keys.create(tx, account, "test", scopes or None)
        )
        self.open.append(Api(self.url, secret))
        return self.open[-1]

    async def claim(self, kind: str) -> list[Claim]:
        """Take what is due of a kind, as a worker would."""

        def take(tx: Tx) -> list[Claim]:
            lanes = [id_ for (id_,) in tx.rows(sql("SELECT id FROM lanes ORDER BY id"))]
            return ledger.claim(tx, self.kinds[kind], 256, lanes).claims

        return await self.database.unit(take)

    async def settle(self, kind: str, claims: list[Claim], outcome: Outcome) -> int:
        decided = [decide(self.kinds[kind], c, outcome, self.clock.now()) for c in claims]
        await self.database.unit(lambda tx: ledger.settle(tx, self.kinds[kind], decided))
        return len(decided)

    async def work(self, kind: str, outcome: Outcome) -> int:
        """Carry out everything that is due of a kind, with this result; answers how many."""
        return await self.settle(kind, await self.claim(kind), outcome)

    async def job(self, account: str = ME, lane: str | None = None, **more: Any) -> str:
        self.jobs_made += 1
        self.clock.advance(0.01)
        cap = more.pop("cap", 4)
        name = more.pop("name", "work")
        job = NewJob(
            f"job_{self.clock.now():026}", account, name, '{"n": 1}',
            store.lane_id(account, name, lane), cap, **more,
        )  # fmt: skip
        return (await self.database.unit(lambda tx: store.insert(tx, [job])))[0]

    async def dead_jobs(self, n: int, reason: str = "boom", **more: Any) -> list[str]:
        ids = [await self.job(cap=256, **more) for _ in range(n)]
        assert await self.work("job", Dead(reason)) == n
        return ids


@pytest.fixture
async def house(database: Database, clock: ManualClock) -> AsyncIterator[House]:
    box = SecretBox(["a key for the tests"])
    events = service.build(
        database=database,
        clock=clock,
        box=box,
        allow=[ip_network("127.0.0.0/8")],
        slots=1,
        lease=60.0,
        schedule=[1.0],
        timeout=1.0,
        expiry=86_400.0,
        max_body=262_144,
        max_batch_body=5_242_880,
    )
    tracking = tracking_service.build(
        database=database,
        clock=clock,
        box=box,
        own={"ups": {"client_id": "a", "client_secret": "b"}},
        base_urls={},
        limits={},
        emit=events.acceptor.emit,
        operator=ME,
        lease=60.0,
        dispatch_every=3600.0,
        keep=86_400.0,
    )
    runner = jobs.JobRunner({}, slots=1, environment={})
    made = [
        Service(
            kinds=(*events.kinds, *tracking.kinds, jobs.job_kind(runner)),
            dead=(
                dead.dead_deliveries(86_400.0),
                dead.DEAD_FANOUTS,
                dead.DEAD_REPLAYS,
                DEAD_JOBS,
                tracking_dead.DEAD_CHECKS,
                tracking_dead.DEAD_IMPORTS,
            ),
            lane_notes=lambda tx, ids: {
                **dead.lane_notes(tx, ids),
                **tracking_dead.lane_notes(tx, ids),
            },
        )
    ]
    app = create_app(
        routers=[
            *events.routers,
            *tracking.routers,
            job_routes(database),
            *operations(database, made),
        ],
        authenticator=Authenticator(database, clock=clock),
        database=database,
        version="0",
    )
    built = House(database, clock, {kind.name: kind for kind in made[0].kinds})
    async with served(app) as built.url:
        yield built
        for api in built.open:
            await api.__aexit__(None, None, None)
    await runner.close()
    await tracking.close()
    await events.close()


@pytest.fixture
async def api(house: House) -> Api:
    return await house.api()


async def dead_of_each(house: House, api: Api) -> dict[str, str]:
    """One dead row of every kind, by kind; accepted one after another in this order."""
    await api.endpoint("http://127.0.0.1:9/hook", "order.*")
    event = await api.send("order.lost")
    house.clock.advance(0.01)
    parcel = {"carrier": "ups", "tracking_number": "1Z999AA10123456784"}
    shipment = await api.ok("POST", "/v1/shipments", parcel)
    await house.work("delivery", Dead("HTTP 410: gone"))
    await house.work("shipment_check", Dead("the worker died six times"))
    (job,) = await house.dead_jobs(1, "ValueError: 100% wrong")
    delivery = (await api.event(event["event_id"]))["deliveries"][0]["delivery_id"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accept, "FANOUT_ABOVE", 0)
        spread = await api.send("order.spread")
    replay = await api.ok("POST", "/v1/replays", {"event_types": ["order.spread"]})
    csv = "carrier,tracking_number\nups,1Z12345E0205271688\n"
    typed = {"content-type": "text/csv"}
    sheet = await api.ok("POST", "/v1/shipments/imports", data=csv, headers=typed)
    for kind in ("fanout", "replay", "shipment_import"):
        assert await house.work(kind, Dead("no memory")) == 1
    return {
        "delivery": delivery,
        "shipment_check": shipment["shipment_id"],
        "job": job,
        "fanout": spread["event_id"],
        "replay": replay["replay_id"],
        "shipment_import": sheet["import_id"],
    }


def rows(page: Any) -> list[str]:
    return [item["id"] for item in page["items"]]


async def whole(api: Api, path: str, limit: int, **query: str) -> list[Any]:
    """Every item of a list, so many a page."""
    found: list[Any] = []
    cursor = ""
    for _ in range(100):
        asked = query | {"limit": str(limit)} | ({"cursor": cursor} if cursor else {})
        page = await api.ok("GET", path, query=asked)
        assert len(page["items"]) <= limit
        found += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return found
    raise AssertionError("the list does not end")


def refused(answer: Answer, status: int, code: str, says: str = "") -> None:
    assert (answer.status, answer.code) == (status, code), answer.body
    assert says in answer.body.decode()


# ------------------------------------------------------------------ dead work, looked at


async def test_dead_work_of_all_kinds_is_one_list(house: House, api: Api) -> None:
    made = await dead_of_each(house, api)
    # Ids are random within a millisecond, and tests stand still: only what is there is certain.
    page = await api.ok("GET", "/v1/dead")
    assert sorted(rows(page)) == sorted(made.values())
    assert rows(page) == sorted(rows(page), key=lambda id_: id_.partition("_")[2], reverse=True)
    for limit in (1, 2, 4):
        items = await whole(api, "/v1/dead", limit)
        assert [item["id"] for item in items] == rows(page)
    by_kind = {item["kind"]: item for item in page["items"]}
    delivery = by_kind["delivery"]
    assert delivery["title"] == "order.lost → http://127.0.0.1:9/hook"
    assert delivery["reason"] == "HTTP 410: gone"
    assert delivery["about"].startswith("evt_")
    assert (by_kind["job"]["title"], by_kind["job"]["attempts"]) == ("work", 1)
    assert by_kind["shipment_check"]["title"] == "ups 1Z999AA10123456784"
    assert by_kind["shipment_import"]["title"] == "0 shipments made"
    assert by_kind["fanout"]["title"] == "order.spread → its endpoints"
    assert by_kind["replay"]["title"] == "0 events looked at, 0 sent again"
    for kind, item in by_kind.items():
        assert item["died_at"] is not None
        assert item["lane"].startswith({"shipment_check": "trk:"}.get(kind, f"{kind}:"))
        assert await api.ok("GET", f"/v1/dead/{made[kind]}") == item
    counts = (await api.ok("GET", "/v1/dead/counts"))["kinds"]
    assert counts == {kind: {"count": 1, "more": False} for kind in made}


async def test_dead_work_is_found_by_kind_lane_and_reason(house: House, api: Api) -> None:
    made = await dead_of_each(house, api)
    lane = (await api.ok("GET", f"/v1/dead/{made['job']}"))["lane"]
    for query, kinds in (
        ({"kind": "job"}, ["job"]),
        ({"lane": lane}, ["job"]),
        ({"lane": "nowhere"}, []),
        ({"reason": "http 410"}, ["delivery"]),
        ({"reason": "100% w"}, ["job"]),
        ({"reason": "1%w"}, []),
        ({"reason": "_"}, []),
        ({"kind": "delivery", "reason": "wrong"}, []),
    ):
        found = await whole(api, "/v1/dead", 2, **query)
        assert [item["kind"] for item in found] == kinds, query
    refused(
        await api.call("GET", "/v1/dead", query={"kind": "nonsense"}),
        422, "validation_failed", "The kinds are: delivery, fanout, replay, job",
    )  # fmt: skip
    refused(await api.call("GET", "/v1/dead?cursor=x"), 400, "bad_cursor")
    refused(await api.call("GET", "/v1/dead/job_unknown"), 404, "not_found")
    alive = await house.job()
    refused(await api.call("GET", f"/v1/dead/{alive}"), 404, "not_found")


async def test_dead_work_of_others_is_neither_seen_nor_moved(house: House, api: Api) -> None:
    made = await dead_of_each(house, api)
    other = await house.api(OTHER)
    assert rows(await other.ok("GET", "/v1/dead")) == []
    counts = (await other.ok("GET", "/v1/dead/counts"))["kinds"]
    assert {each["count"] for each in counts.values()} == {0}
    for kind, id_ in made.items():
        refused(await other.call("GET", f"/v1/dead/{id_}"), 404, "not_found")
        for how in ("redrive", "drop"):
            for body in ({"ids": [id_]}, {"all": True}):
                done = await other.ok("POST", f"/v1/dead/{how}", {"kind": kind, **body})
                assert done == {"moved": 0, "next_cursor": None}
    assert sorted(rows(await api.ok("GET", "/v1/dead"))) == sorted(made.values())


async def test_a_key_sees_and_moves_what_its_scopes_cover(house: House, api: Api) -> None:
    made = await dead_of_each(house, api)
    reader = await house.api(ME, "events:read", "jobs:read")
    readable = {"delivery", "fanout", "replay", "job"}
    assert {item["kind"] for item in (await reader.ok("GET", "/v1/dead"))["items"]} == readable
    assert set((await reader.ok("GET", "/v1/dead/counts"))["kinds"]) == readable
    refused(await reader.call("GET", f"/v1/dead/{made['shipment_check']}"), 404, "not_found")
    refused(
        await reader.call("GET", "/v1/dead?kind=shipment_check"),
        403, "insufficient_scope", "shipments:read",
    )  # fmt: skip
    writer = await house.api(ME, "jobs:write")
    for how in ("redrive", "drop"):
        body = {"kind": "delivery", "ids": [made["delivery"]]}
        refused(
            await reader.call("POST", f"/v1/dead/{how}", body),
            403, "insufficient_scope", "events:write",
        )  # fmt: skip
        refused(
            await writer.call("POST", f"/v1/dead/{how}", body),
            403, "insufficient_scope", "events:write",
        )  # fmt: skip
    done = await writer.ok("POST", "/v1/dead/redrive", {"kind": "job", "ids": [made["job"]]})
    assert done["moved"] == 1


# ------------------------------------------------------------------ dead work, moved


async def test_one_is_redriven_and_works_again(house: House, api: Api) -> None:
    made = await dead_of_each(house, api)
    for kind, id_ in made.items():
        # An id of another kind is none of this one.
        wrong = next(other for other in made.values() if other != id_)
        body = {"kind": kind, "ids": [id_, id_, wrong, "nonsense"]}
        assert await api.ok("POST", "/v1/dead/redrive", body) == {"moved": 1, "next_cursor": None}
        assert (await api.ok("POST", "/v1/dead/redrive", body))["moved"] == 0
        refused(await api.call("GET", f"/v1/dead/{id_}"), 404, "not_found")
    event = (await api.ok("GET", "/v1/events", query={"event_type": "order.lost"}))["items"][0]
    assert event["status"] == "pending"
    assert (await api.ok("GET", f"/v1/jobs/{made['job']}"))["attempts"] == 0
    assert (await api.ok("GET", f"/v1/shipments/{made['shipment_check']}"))["state"] == "active"
    assert (await api.ok("GET", f"/v1/replays/{made['replay']}"))["status"] == "pending"
    sheet = await api.ok("GET", f"/v1/shipments/imports/{made['shipment_import']}")
    assert (sheet["status"], sheet["ended_at"]) == ("pending", None)
    house.clock.advance(60)  # the carrier's budget
    for kind in made:
        claims = await house.claim(kind)
        assert [claim.id for claim in claims] == [made[kind]]
        await house.settle(kind, claims, Done())
    event = await api.event(event["event_id"])
    assert event["status"] == "replayed"
    assert (await api.ok("GET", "/v1/dead/counts"))["kinds"]["delivery"]["count"] == 0


async def test_many_and_all_that_fit_are_redriven(
    house: House, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.operations.dead.MOST_MOVED", 4)
    monkeypatch.setattr("penstock.operations.dead.CHUNK", 2)
    fits = await house.dead_jobs(9, "Timeout: too slow")
    others = await house.dead_jobs(3, "ValueError: no", lane="b")
    chosen = {"kind": "job", "ids": others[:2]}
    assert (await api.ok("POST", "/v1/dead/redrive", chosen))["moved"] == 2
    assert await house.work("job", Dead("ValueError: again")) == 2
    asked = {"kind": "job", "all": True, "reason": "TIMEOUT", "lane": store.lane_id(ME, "work")}
    moved, cursor, requests = 0, None, 0
    while True:
        done = await api.ok("POST", "/v1/dead/redrive", asked | {"cursor": cursor})
        assert done["moved"] <= 4
        moved, cursor, requests = moved + done["moved"], done["next_cursor"], requests + 1
        if cursor is None:
            break
        # What dies again meanwhile is not taken again, and what dies first now is not at all.
        await house.work("job", Dead("Timeout: once more"))
        await house.dead_jobs(1, "Timeout: new")
    assert (moved, requests >= 3) == (9, True)
    await house.work("job", Done())
    dead_now = {item["id"] for item in await whole(api, "/v1/dead", 5, kind="job")}
    assert dead_now & set(others) == set(others)
    assert len(dead_now & set(fits)) == 8  # all but what was redriven last


async def test_what_is_dropped_is_gone_for_good(house: House, api: Api) -> None:
    made = await dead_of_each(house, api)
    for kind, id_ in made.items():
        by_filter = {"kind": kind, "all": True, "reason": "nothing like it"}
        assert (await api.ok("POST", "/v1/dead/drop", by_filter))["moved"] == 0
        assert (await api.ok("POST", "/v1/dead/drop", {"kind": kind, "all": True}))["moved"] == 1
        again = await api.ok("POST", "/v1/dead/redrive", {"kind": kind, "ids": [id_]})
        assert again["moved"] == 0
    assert rows(await api.ok("GET", "/v1/dead")) == []
    assert (await api.ok("GET", f"/v1/jobs/{made['job']}"))["status"] == "cancelled"
    shipment = await api.ok("GET", f"/v1/shipments/{made['shipment_check']}")
    assert shipment["state"] == "stopped"
    assert (await api.ok("GET", f"/v1/replays/{made['replay']}"))["status"] == "cancelled"
    sheet = await api.ok("GET", f"/v1/shipments/imports/{made['shipment_import']}")
    assert sheet["status"] == "cancelled"
    parts = sql("SELECT count(*) FROM shipment_import_parts")
    assert await house.database.read(lambda tx: tx.rows(parts)) == [(0,)]
    for kind in made:
        assert await house.claim(kind) == []


async def test_an_event_of_which_the_dead_part_is_dropped_was_delivered(
    house: House, api: Api
) -> None:
    good = await api.endpoint("http://127.0.0.1:9/good")
    await api.endpoint("http://127.0.0.1:9/bad")
    event = (await api.send("a"))["event_id"]
    claims = await house.claim("delivery")
    lane = f"delivery:{good['endpoint_id']}"
    await house.settle("delivery", [c for c in claims if c.lane == lane], Done())
    await house.settle("delivery", [c for c in claims if c.lane != lane], Dead("gone"))
    assert (await api.event(event))["status"] == "failed"
    await api.ok("POST", "/v1/dead/drop", {"kind": "delivery", "all": True})
    assert (await api.event(event))["status"] == "delivered"


async def test_what_is_in_the_way_of_another_stays_dead(house: House, api: Api) -> None:
    (first,) = await house.dead_jobs(1, key="once")
    await house.job(key="once")
    body: dict[str, Any] = {"kind": "job", "ids": [first]}
    assert (await api.ok("POST", "/v1/dead/redrive", body))["moved"] == 0
    parcel = {"carrier": "ups", "tracking_number": "1Z999AA10123456784"}
    old = await api.ok("POST", "/v1/shipments", parcel)
    await house.work("shipment_check", Dead("gave up"))
    await api.ok("POST", "/v1/shipments", parcel)
    body = {"kind": "shipment_check", "ids": [old["shipment_id"]]}
    assert (await api.ok("POST", "/v1/dead/redrive", body))["moved"] == 0
    gone = await api.endpoint("http://127.0.0.1:9/gone")
    await api.send("b")
    await house.work("delivery", Dead("gave up"))
    assert (await api.call("DELETE", f"/v1/endpoints/{gone['endpoint_id']}")).status == 204
    (item,) = (await api.ok("GET", "/v1/dead?kind=delivery"))["items"]
    assert item["title"] == "b → a deleted endpoint"
    body = {"kind": "delivery", "ids": [item["id"]]}
    assert (await api.ok("POST", "/v1/dead/redrive", body))["moved"] == 0
    assert (await api.ok("POST", "/v1/dead/drop", body))["moved"] == 1


async def test_a_bad_request_moves_nothing(house: House, api: Api) -> None:
    await house.dead_jobs(1)
    bad: list[tuple[dict[str, Any], str]] = [
        ({}, "kind"),
        ({"kind": "job"}, "ive ids, or all: true"),
        ({"kind": "job", "ids": []}, "ids"),
        ({"kind": "job", "ids": ["a"], "all": True}, "ive ids, or all: true"),
        ({"kind": "job", "ids": ["a"], "reason": "x"}, "go with all"),
        ({"kind": "sweep", "ids": ["a"]}, "The kinds are"),
        ({"kind": "job", "all": True, "reasons": "x"}, "reasons"),
        ({"kind": "job", "ids": ["x"] * 1001}, "1000"),
    ]
    for how in ("redrive", "drop"):
        for body, says in bad:
            answer = await api.call("POST", f"/v1/dead/{how}", body)
            refused(answer, 422, "validation_failed", says)
        forged = {"kind": "job", "all": True, "cursor": "nonsense"}
        refused(await api.call("POST", f"/v1/dead/{how}", forged), 400, "bad_cursor")
    assert len(rows(await api.ok("GET", "/v1/dead"))) == 1


# ------------------------------------------------------------------ lanes


async def test_lanes_are_listed_and_read(house: House, api: Api) -> None:
    endpoint = (await api.endpoint("http://127.0.0.1:9/hook", "a", rate_limit=5))["endpoint_id"]
    await api.send("a")
    await house.job(lane="tenant/7", delay=60.0)
    await api.ok(
        "POST", "/v1/shipments", {"carrier": "ups", "tracking_number": "1Z999AA10123456784"}
    )
    other = await house.api(OTHER)
    await other.endpoint("http://127.0.0.1:9/theirs")
    for limit in (1, 2, 100):
        mine = [lane["lane"] for lane in await whole(api, "/v1/lanes", limit)]
        assert mine == sorted(mine)
        assert {f"delivery:{endpoint}", "job:default:work:tenant/7", "trk:ups:settings"} <= set(
            mine
        )
    # Lanes of the deployment itself are its operator's, and nobody else's.
    theirs = [lane["lane"] for lane in await whole(other, "/v1/lanes", 2)]
    assert len(theirs) == len(set(theirs) - set(mine)) == 1
    for lane in mine:
        refused(await other.call("GET", f"/v1/lanes/{lane}"), 404, "not_found")
        refused(await other.call("PATCH", f"/v1/lanes/{lane}", {"paused": True}), 404, "not_found")
        hold = {"state": "open", "for": 60, "reason": "theirs"}
        refused(await other.call("POST", f"/v1/lanes/{lane}/circuit", hold), 404, "not_found")
        refused(await other.call("POST", f"/v1/lanes/{lane}/circuit/release"), 404, "not_found")
    house.clock.advance(5)
    found = await api.ok("GET", f"/v1/lanes/delivery:{endpoint}")
    assert found["title"] == "http://127.0.0.1:9/hook"
    assert found["leads_to"] == endpoint
    assert (found["state"], found["circuit"], found["paused"]) == ("passing", "closed", False)
    assert found["waiting"] == {"count": 1, "more": False}
    assert (found["rate"], found["in_flight"], round(found["late"])) == (5.0, 0, 5)
    assert found["log"] == []
    assert (await api.ok("GET", "/v1/lanes/trk:ups:settings"))["title"] == (
        "UPS, by the server's credential"
    )
    slashed = await api.ok("GET", "/v1/lanes/job:default:work:tenant%2F7")
    assert (slashed["waiting"]["count"], slashed["late"]) == (1, 0.0)
    assert slashed["title"] == "work:tenant/7"
    assert {lane["kind"] for lane in await whole(api, "/v1/lanes", 5, kind="job")} == {"job"}
    assert await whole(api, "/v1/lanes", 5, stopped="true") == []
    refused(await api.call("GET", "/v1/lanes/nonsense"), 404, "not_found")


async def test_a_lane_is_paused_and_resumed_whatever_its_service_says(
    house: House, api: Api
) -> None:
    endpoint = (await api.endpoint("http://127.0.0.1:9/hook"))["endpoint_id"]
    lane = f"/v1/lanes/delivery:{endpoint}"
    paused = await api.ok("PATCH", lane, {"paused": True})
    assert (paused["state"], paused["paused"], paused["paused_because"]) == ("paused", True, None)
    event = (await api.send("a"))["event_id"]
    assert await house.claim("delivery") == []
    why = (await api.event(event))["deliveries"][0]["why"]
    assert why["code"] == "lane_paused"
    assert [each["lane"] for each in await whole(api, "/v1/lanes", 5, stopped="true")] == [
        f"delivery:{endpoint}"
    ]
    # Neither undoes the other.
    await api.ok("POST", f"/v1/endpoints/{endpoint}/disable")
    await api.ok("POST", f"/v1/endpoints/{endpoint}/enable")
    assert await house.claim("delivery") == []
    await api.ok("POST", f"/v1/endpoints/{endpoint}/disable")
    resumed = await api.ok("PATCH", lane, {"paused": False})
    assert (resumed["state"], resumed["paused"]) == ("paused", False)
    assert "enable it" in resumed["paused_because"]
    assert await house.claim("delivery") == []
    await api.ok("POST", f"/v1/endpoints/{endpoint}/enable")
    assert (await api.ok("GET", lane))["state"] == "passing"
    assert len(await house.claim("delivery")) == 1


async def test_the_lane_of_a_deleted_endpoint_is_shown_while_something_is_in_it(
    house: House, api: Api
) -> None:
    ids = [
        (await api.endpoint(f"http://127.0.0.1:9/{n}", "a", description="Shop"))["endpoint_id"]
        for n in range(4)
    ]
    await api.send("a")
    claims = await house.claim("delivery")
    for id_ in ids[:3]:
        assert (await api.call("DELETE", f"/v1/endpoints/{id_}")).status == 204
    under_way = [lane["title"] for lane in await whole(api, "/v1/lanes", 1)]
    assert sorted(under_way) == ["a deleted endpoint"] * 3 + ["http://127.0.0.1:9/3 · Shop"]
    await house.settle("delivery", claims, Done())
    for limit in (1, 2, 3, 100):
        (left,) = await whole(api, "/v1/lanes", limit)
        assert left["leads_to"] == ids[3]


async def test_a_lane_of_a_carrier_is_paused_by_hand(house: House, api: Api) -> None:
    parcel = {"carrier": "ups", "tracking_number": "1Z999AA10123456784"}
    shipment = (await api.ok("POST", "/v1/shipments", parcel))["shipment_id"]
    await api.ok("PATCH", "/v1/lanes/trk:ups:settings", {"paused": True})
    found = await api.ok("GET", f"/v1/shipments/{shipment}")
    assert found["why"]["code"] == "lane_paused"
    assert await house.claim("shipment_check") == []
    await api.ok("PATCH", "/v1/lanes/trk:ups:settings", {"paused": False})
    assert len(await house.claim("shipment_check")) == 1


async def test_a_lane_is_limited(house: House, api: Api) -> None:
    for _ in range(5):
        await house.job(cap=1)
    lane = "/v1/lanes/job:default:work"
    assert (await api.ok("PATCH", lane, {"max_in_flight": 3}))["max_in_flight"] == 3
    held = await house.claim("job")
    assert len(held) == 3
    assert (await api.ok("GET", lane))["in_flight"] == 3
    job = (await api.ok("GET", "/v1/jobs?status=pending"))["items"][0]["job_id"]
    assert (await api.ok("GET", f"/v1/jobs/{job}"))["why"]["code"] == "in_flight_cap"
    changed = await api.ok("PATCH", lane, {"rate": 0.5, "max_in_flight": 100})
    assert (changed["rate"], changed["max_in_flight"]) == (0.5, 100)
    house.clock.advance(4)
    assert len(await house.claim("job")) == 1  # a bucket of one token
    assert (await api.ok("GET", f"/v1/jobs/{job}"))["why"]["code"] == "rate_limited"
    assert (await api.ok("PATCH", lane, {"rate": None}))["rate"] is None
    assert len(await house.claim("job")) == 1
    for body in (
        {}, {"rate": 0}, {"rate": -1}, {"rate": "fast"}, {"max_in_flight": 0}, {"paused": "yes"},
        {"max_in_flight": None}, {"kind": "job"},
    ):  # fmt: skip
        refused(await api.call("PATCH", lane, body), 422, "validation_failed")


async def test_a_circuit_is_held_open_and_closed_and_released(house: House, api: Api) -> None:
    endpoint = (await api.endpoint("http://127.0.0.1:9/hook"))["endpoint_id"]
    event = (await api.send("a"))["event_id"]
    lane = f"/v1/lanes/delivery:{endpoint}"
    held = await api.ok(
        "POST", f"{lane}/circuit", {"state": "open", "for": "30m", "reason": " they move "}
    )
    assert (held["state"], held["circuit"], held["held"]) == ("circuit_open", "open", "open")
    assert (held["log"][0]["state"], held["log"][0]["reason"]) == ("open", "they move")
    assert held["log"][0]["actor"].startswith("key key_")
    house.clock.advance(1700)
    assert await house.claim("delivery") == []
    assert (await api.event(event))["deliveries"][0]["why"]["code"] == "circuit_open"
    assert len(await whole(api, "/v1/lanes", 5, stopped="true")) == 1
    freed = await api.ok("POST", f"{lane}/circuit/release")
    assert freed["held"] is None
    (probe,) = await house.claim("delivery")
    assert (await api.ok("GET", lane))["state"] == "probing"
    await house.settle("delivery", [probe], Done(health="ok"))
    assert (await api.ok("GET", lane))["state"] == "passing"
    # Held closed, no failure opens it.
    closed = {"state": "closed", "for": 600.5, "reason": "it is our test"}
    assert (await api.ok("POST", f"{lane}/circuit", closed))["held"] == "closed"
    for _ in range(15):
        await api.send("b")
        await house.work("delivery", Retry(after=9999, reason="HTTP 500", health="bad"))
    assert (await api.ok("GET", lane))["circuit"] == "closed"
    released = await api.ok("POST", f"{lane}/circuit/release")
    assert (released["held"], released["log"][0]["reason"]) == (None, "released before its time")
    assert await api.ok("POST", f"{lane}/circuit/release") == released  # nothing to release


async def test_a_bad_hold_changes_nothing(house: House, api: Api) -> None:
    await house.job()
    lane = "/v1/lanes/job:default:work"
    good = {"state": "open", "for": 60, "reason": "x"}
    for change in (
        {"state": "half_open"}, {"state": None}, {"for": 0}, {"for": "8d"}, {"for": "soon"},
        {"for": True}, {"reason": "  "}, {"until": "x"},
    ):  # fmt: skip
        answer = await api.call("POST", f"{lane}/circuit", good | change)
        refused(answer, 422, "validation_failed")
    assert (await api.ok("GET", lane))["circuit"] == "closed"


# ------------------------------------------------------------------ jobs


async def test_jobs_are_listed_and_read(house: House, api: Api) -> None:
    ids = [await house.job(name=("mail", "resize")[n % 2]) for n in range(5)]
    await house.job(OTHER)
    for limit in (1, 2, 100):
        assert [job["job_id"] for job in await whole(api, "/v1/jobs", limit)] == ids[::-1]
    named = await whole(api, "/v1/jobs", 1, name="mail")
    assert [job["job_id"] for job in named] == ids[4::-2]
    job = await api.ok("GET", f"/v1/jobs/{ids[0]}")
    assert (job["name"], job["status"], job["arguments"], job["result"]) == (
        "mail", "pending", {"n": 1}, None,
    )  # fmt: skip
    other = await house.api(OTHER)
    for method, path in (("GET", ""), ("POST", "/cancel")):
        refused(await other.call(method, f"/v1/jobs/{ids[0]}{path}"), 404, "not_found")
    assert [job["name"] for job in await whole(other, "/v1/jobs", 5)] == ["work"]


async def test_jobs_say_why_they_have_not_run(house: House, api: Api) -> None:
    async def why(job: str) -> str | None:
        found = (await api.ok("GET", f"/v1/jobs/{job}"))["why"]
        return None if found is None else str(found["code"])

    later, job = await house.job(lane="b", delay=600.0), await house.job()
    assert (await why(later), await why(job)) == ("not_due", "due")
    claims = await house.claim("job")
    assert await why(job) == "leased"
    assert (await api.ok("GET", f"/v1/jobs/{job}"))["status"] == "running"
    await house.settle("job", claims, Retry(after=60, reason="OSError: no"))
    assert await why(job) == "retry_later"
    house.clock.advance(61)
    await api.ok("PATCH", "/v1/lanes/job:default:work", {"paused": True})
    assert await why(job) == "lane_paused"
    await api.ok("PATCH", "/v1/lanes/job:default:work", {"paused": False})
    hold = {"state": "open", "for": 60, "reason": "x"}
    await api.ok("POST", "/v1/lanes/job:default:work/circuit", hold)
    assert await why(job) == "lane_closed"
    await api.ok("POST", "/v1/lanes/job:default:work/circuit/release")
    await house.work("job", Done())
    assert await why(job) is None
    assert (await api.ok("GET", f"/v1/jobs/{job}"))["status"] == "succeeded"


async def test_a_job_is_cancelled_once(house: House, api: Api) -> None:
    job = await house.job()
    gone = await api.ok("POST", f"/v1/jobs/{job}/cancel")
    assert (gone["status"], gone["why"]) == ("cancelled", None)
    assert await house.claim("job") == []
    refused(await api.call("POST", f"/v1/jobs/{job}/cancel"), 409, "conflict")
    refused(await api.call("POST", "/v1/jobs/job_unknown/cancel"), 404, "not_found")
    (dead_job,) = await house.dead_jobs(1)
    assert [each["job_id"] for each in await whole(api, "/v1/jobs", 5, status="dead")] == [dead_job]
    refused(await api.call("GET", "/v1/jobs?status=nonsense"), 422, "validation_failed")


# ------------------------------------------------------------------ figures


async def test_figures_say_what_is_owed(house: House, api: Api) -> None:
    for n in range(3):
        await house.job(delay=600.0 if n else 0.0)
    await api.ok(
        "POST", "/v1/shipments", {"carrier": "ups", "tracking_number": "1Z999AA10123456784"}
    )
    await house.job(OTHER)
    house.clock.advance(7)

    async def owed(client: Api) -> dict[str, Any]:
        found = (await client.ok("GET", "/v1/figures/work"))["kinds"]
        return {kind["kind"]: kind for kind in found}

    mine = await owed(api)
    assert set(mine) == set(house.kinds)
    assert mine["job"]["due"] == {"count": 1, "more": False}
    assert mine["job"]["later"] == {"count": 2, "more": False}
    assert mine["job"]["oldest_due"] == pytest.approx(7.03, abs=0.05)
    # The deployment's own lanes are the operator's.
    assert mine["shipment_check"]["due"]["count"] == 1
    theirs = await owed(await house.api(OTHER))
    assert (theirs["job"]["due"]["count"], theirs["shipment_check"]["due"]["count"]) == (1, 0)
    claims = await house.claim("job")
    assert (await owed(api))["job"]["in_flight"] == 1
    await house.settle("job", claims, Done())
    await api.ok("PATCH", "/v1/lanes/job:default:work", {"paused": True})
    after = (await owed(api))["job"]
    assert (after["due"]["count"], after["oldest_due"], after["lanes_stopped"]) == (0, 0.0, 1)
    refused(
        await (await house.api(ME, "events:read")).call("GET", "/v1/figures/work"),
        403, "insufficient_scope", "lanes:read",
    )  # fmt: skip


async def test_figures_tell_throughput_and_latency(
    house: House, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Events' ids hold the time of this machine's clock, and the databases' stands elsewhere.
    monkeypatch.setattr("penstock.events.figures.SAMPLE", 3)
    await api.endpoint("http://127.0.0.1:9/hook")
    sent = [(await api.send("a"))["event_id"] for _ in range(6)]

    def place(tx: Tx) -> None:
        now = tx.now()
        for n, event in enumerate(sent):
            # Two a minute ago, four just now; one is on its way, the last one failed.
            at = now - (60 if n < 2 else 0) * SECOND
            took = (61, 2, 3, 4, None, None)[n]
            tx.run(
                _PLACE,
                id=f"{id_at(at)[:-3]}{n:03}",
                at=at,
                done=None if took is None else at + took * SECOND,
                status=("delivered", "pending", "failed")[max(0, n - 3)],
                event=event,
            )

    await house.database.unit(lambda tx: tx.run(sql("DELETE FROM deliveries")))
    await house.database.unit(place)
    found = await api.ok("GET", "/v1/figures/events")
    assert (found["span"], len(found["spans"])) == (60.0, 60)
    earlier, latest = found["spans"][-2:]
    assert (earlier["events"], earlier["estimated"], earlier["failed"]) == (2, False, 0.0)
    assert (earlier["under_way"], latest["under_way"]) == (1, 1)
    assert (earlier["p50"], earlier["p95"]) == (61.0, 61.0)
    assert (latest["estimated"], latest["events"]) == (True, 4)
    assert latest["failed"] == 0.25
    assert all(span["events"] == 0 and span["p50"] is None for span in found["spans"][:-2])
    nobody = await house.api(OTHER)
    theirs = (await nobody.ok("GET", "/v1/figures/events", query={"minutes": "1440"}))["spans"]
    assert sum(span["events"] for span in theirs) == 0
    for minutes in ("0", "1441", "x"):
        refused(
            await api.call("GET", "/v1/figures/events", query={"minutes": minutes}),
            422, "validation_failed",
        )  # fmt: skip

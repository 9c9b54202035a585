"""The console without JavaScript: every page and form, and who may not use them."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from penstock.api.routing import Route
from penstock.jobs import store
from penstock.jobs.store import NewJob
from penstock.storage import Tx, sql
from support.console import TOKEN, Browser, Page, Site, site

pytestmark = pytest.mark.anyio

MARKUP = '<img src=x onerror="alert(1)"><script>alert(2)</script>'


@pytest.fixture
async def penstock(sqlite_path: Path) -> AsyncIterator[Site]:
    async with site(sqlite_path.parent) as running:
        yield running


@pytest.fixture
async def browser(penstock: Site) -> AsyncIterator[Browser]:
    async with penstock.browser(await penstock.key()) as opened:
        yield opened


@pytest.fixture
async def receiver() -> AsyncIterator[str]:
    """Takes everything below /ok, refuses all else with markup."""

    async def take(request: web.Request) -> web.Response:
        await request.read()
        if request.path == "/ok":
            return web.Response(text="thank you")
        return web.Response(status=422, text=MARKUP)

    app = web.Application()
    app.router.add_post("/{path}", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def until(browser: Browser, path: str, holds: Callable[[Page], bool]) -> Page:
    """The page once it shows what is waited for."""
    deadline = time.monotonic() + 60
    while not holds(page := await browser.get(path)):
        assert time.monotonic() < deadline, page.text
        await asyncio.sleep(0.05)
    return page


async def add_endpoint(browser: Browser, target: str, types: str = "*") -> str:
    page = await browser.send(
        await browser.get("/endpoints/new"), "/endpoints", target=target, event_types=types
    )
    found = re.search(r"/endpoints/(end_\w+)", page.html)
    assert found, page.text
    return found[1]


async def send_event(browser: Browser, event_type: str, payload: object) -> str:
    page = await browser.send(
        await browser.get("/events/new"),
        "/events",
        event_type=event_type,
        payload=json.dumps(payload),
    )
    assert page.path.startswith("/events/evt_"), page.text
    return page.path.rpartition("/")[2]


async def one_dead(browser: Browser, receiver: str) -> str:
    """The id of an event, the delivery of which has died."""
    endpoint = await add_endpoint(browser, f"{receiver}/refuses")
    async with browser.session.patch(
        f"{browser.url}/v1/endpoints/{endpoint}",
        json={"on_permanent": "dead"},
        headers={"Authorization": f"Bearer {TOKEN}"},
    ) as answer:
        assert answer.status == 200
    event_id = await send_event(browser, "order.lost", {"note": MARKUP})
    await until(browser, f"/events/{event_id}", lambda page: "Gave up" in page.text)
    return event_id


def console_routes(penstock: Site) -> list[Route]:
    return [r for r in penstock.runtime.console().router.routes if isinstance(r, Route)]


OPEN = re.compile(r"/sign-in|/console/.*")


# --- Signing in ----------------------------------------------------------------------------


async def test_nobody_sees_a_page_and_no_form_does_anything(penstock: Site) -> None:
    async with penstock.browser() as nobody:
        walked = 0
        for route in console_routes(penstock):
            address = re.sub(r"\{[^}]*\}", "unknown_1", route.path)
            if OPEN.fullmatch(route.path):
                continue
            walked += 1
            if route.path == "/sign-in/link":
                async with nobody.session.post(nobody.url + address) as answer:
                    assert answer.status == 401
            elif "GET" in (route.methods or ()):
                page = await nobody.get(address)
                assert page.path.startswith("/sign-in"), address
                assert "Sign in" in page.text
            else:
                page = await nobody.post(address, [("csrf", "x")])
                assert page.path == "/sign-in", address
        assert walked >= 25


async def test_sign_in_with_a_key_and_out(penstock: Site) -> None:
    key = await penstock.key()
    async with penstock.browser() as browser:
        wrong = await browser.sign_in("psk_" + "A" * 43)
        assert (wrong.status, "not known" in wrong.text) == (401, True)
        assert (await browser.sign_in("secret")).status == 401
        asked = await browser.get("/events?status=failed")
        page = await browser.send(asked, "/sign-in", key=key)
        assert page.path == "/events?status=failed"
        cookies = [cookie for cookie in browser.session.cookie_jar if "note" not in cookie.key]
        assert [(c["httponly"], c["samesite"], c["path"]) for c in cookies] == [(True, "lax", "/")]
        assert key not in cookies[0].value
        assert (await browser.send(page, "/sign-out")).path == "/sign-in"
        assert (await browser.get("/")).path == "/sign-in"


@pytest.mark.parametrize("wanted", ["//evil.example/", "/\\evil.example", "https://evil.example/"])
async def test_signing_in_leads_nowhere_else(penstock: Site, wanted: str) -> None:
    key = await penstock.key()
    async with penstock.browser() as browser:
        page = await browser.post("/sign-in", [("key", key), ("next", wanted)])
        assert page.path == "/"


async def test_a_one_time_link_signs_in_once_and_not_after_ten_minutes(
    penstock: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with penstock.browser() as first, penstock.browser() as second:
        async with first.session.post(f"{first.url}/sign-in/link", headers=headers) as answer:
            path = (await answer.json())["path"]
        assert (await first.get(path)).path == "/"
        used = await second.get(path)
        assert (used.status, "used already" in used.text) == (403, True)
        links = penstock.runtime.console().sessions.links
        old = links.new()
        now = penstock.runtime.clock.monotonic()
        monkeypatch.setattr(type(penstock.runtime.clock), "monotonic", lambda _: now + 601)
        assert not links.use(old)


async def test_only_the_operator_makes_links(penstock: Site) -> None:
    headers = {"Authorization": f"Bearer {await penstock.key()}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{penstock.url}/sign-in/link") as answer,
    ):
        assert answer.status == 403


async def test_a_session_ends_with_its_key(penstock: Site, browser: Browser) -> None:
    page = await browser.get("/keys")
    (form,) = [form for form in page.forms if form.action.endswith("/revoke")]
    after = await browser.send(page, form.action)
    assert after.path.startswith("/sign-in")
    assert (await browser.get("/")).path == "/sign-in"


async def test_a_forged_or_foreign_cookie_is_no_session(penstock: Site, browser: Browser) -> None:
    (cookie,) = [c for c in browser.session.cookie_jar if "note" not in c.key]
    for value in ("", "x", cookie.value[:-4] + "AAAA", json.dumps({"csrf": "a", "until": 2**62})):
        async with (
            aiohttp.ClientSession(cookies={cookie.key: value}) as session,
            session.get(f"{penstock.url}/", allow_redirects=False) as answer,
        ):
            assert answer.status == 303


# --- Forms of others ------------------------------------------------------------------------


async def test_every_form_needs_the_secret_of_the_session(penstock: Site, browser: Browser) -> None:
    for route in console_routes(penstock):
        if "POST" not in (route.methods or ()) or route.path in ("/sign-in", "/sign-in/link"):
            continue
        address = re.sub(r"\{[^}]*\}", "unknown_1", route.path)
        for fields in ([], [("csrf", "")], [("csrf", "guessed")]):
            page = await browser.post(address, fields)
            assert (page.status, "Nothing was done" in page.text) == (403, True), address
    assert (await browser.get("/")).path == "/"  # still signed in


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "null"},
     {"Origin": "https://evil.example"}],
)  # fmt: skip
async def test_forms_of_other_sites_are_refused(
    penstock: Site, browser: Browser, headers: dict[str, str]
) -> None:
    page = await browser.get("/keys")
    fields = [("name", "theirs"), *page.form("/keys").fields]
    refused = await browser.post("/keys", fields, headers)
    assert refused.status == 403
    assert "theirs" not in (await browser.get("/keys")).text
    async with penstock.browser() as other:
        key = await penstock.key()
        assert (await other.post("/sign-in", [("key", key)], headers)).status == 403


# --- Headers, markup ------------------------------------------------------------------------


async def test_every_page_has_a_strict_policy_and_needs_none_relaxed(
    penstock: Site, browser: Browser, receiver: str
) -> None:
    event_id = await one_dead(browser, receiver)
    paths = ["/", "/?range=24h", "/events", "/events/new", f"/events/{event_id}", "/endpoints",
             "/endpoints/new", "/outbox", "/shipments", "/imports", "/jobs", "/lanes",
             "/dead", "/dead?kind=delivery", "/dead-all?kind=delivery", "/keys",
             "/events/evt_unknown"]  # fmt: skip
    for path in paths:
        page = await browser.get(path)
        assert page.status == (404 if "unknown" in path else 200), (path, page.text)
        policy = page.headers["Content-Security-Policy"]
        assert "unsafe" not in policy
        assert policy.startswith("default-src 'none'")
        assert page.headers["Cache-Control"] == "no-store"
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        for tag, attributes in page.tags:
            assert tag != "style", path
            assert not [name for name in attributes if name.startswith("on") or name == "style"]
            assert tag != "script" or attributes.get("src", "").startswith("/console/")
        for name in ("stylesheet", "icon"):
            (link,) = [a["href"] for t, a in page.tags if t == "link" and a["rel"] == name]
            assert (await browser.get(str(link))).headers["Cache-Control"].endswith("immutable")


async def test_stored_markup_is_shown_as_text(
    penstock: Site, browser: Browser, receiver: str
) -> None:
    event_id = await one_dead(browser, receiver)
    page = await browser.get(f"/events/{event_id}")
    assert "<img" not in page.html
    assert "&lt;img src=x" in page.html
    made = await browser.send(await browser.get("/keys"), "/keys", name=MARKUP)
    assert "<img" not in made.html
    assert MARKUP in (await browser.get("/keys")).text.replace("  ", " ")
    for path in (f"/events?event_type={MARKUP}", f"/dead?reason={MARKUP}", f"/jobs?name={MARKUP}"):
        assert "<img" not in (await browser.get(path)).html


# --- Doing things ---------------------------------------------------------------------------


async def test_an_event_is_sent_and_delivered_and_replayed(
    penstock: Site, browser: Browser, receiver: str
) -> None:
    endpoint = await add_endpoint(browser, f"{receiver}/ok", "order.*, cart.left")
    event_id = await send_event(browser, "order.created", {"order": 1})
    path = f"/events/{event_id}"
    page = await until(browser, path, lambda page: "Status ● delivered" in page.text)
    assert "Attempt 1" in page.text
    assert "thank you" in page.text
    assert f"{receiver}/ok" in page.text
    again = await browser.send(page, f"{path}/replay")
    assert "1 deliveries are sent again" in again.text
    await until(browser, path, lambda page: "Attempt 2" in page.text)
    listed = await browser.get(f"/events?endpoint={endpoint}")
    assert event_id in listed.html
    assert "No event fits" in (await browser.get("/events?status=failed")).text


async def test_a_bad_form_is_shown_again_with_what_is_wrong(browser: Browser) -> None:
    page = await browser.send(
        await browser.get("/events/new"), "/events", event_type="no spaces", payload='{"a": 1}'
    )
    assert page.status == 422
    assert ("event_type", "no spaces") in page.form("/events").fields
    page = await browser.send(page, "/events", event_type="a", payload="{")
    assert "This is not JSON" in page.text
    page = await browser.send(await browser.get("/endpoints/new"), "/endpoints", target="nonsense")
    assert (page.status, "was not added" in page.text or "target" in page.html) == (422, True)
    page = await browser.send(
        await browser.get("/endpoints/new"), "/endpoints", target="x", rate="fast"
    )
    assert "Write a number" in page.text
    page = await browser.send(await browser.get("/keys"), "/keys", name="x", expires_in="soon")
    assert page.status == 422
    filtered = await browser.get("/events?since=yesterday")
    assert filtered.status == 400


async def test_an_endpoint_is_tried_switched_and_deleted(browser: Browser, receiver: str) -> None:
    endpoint = await add_endpoint(browser, f"{receiver}/ok")
    path = f"/endpoints/{endpoint}"
    page = await browser.get(path)
    assert "whsec_" not in page.html
    tried = await browser.send(page, f"{path}/test")
    await until(browser, tried.path, lambda page: "Status ● delivered" in page.text)
    rotated = await browser.send(page, f"{path}/rotate")
    assert "whsec_" in rotated.html
    assert rotated.headers["Cache-Control"] == "no-store"
    disabled = await browser.send(page, f"{path}/disable")
    assert "The endpoint was disabled" in disabled.text
    waiting = await send_event(browser, "a", {})
    page = await until(browser, f"/events/{waiting}", lambda page: "Why has this" in page.text)
    assert "The endpoint is disabled" in page.text
    lane = f"/lane?id=delivery:{endpoint}"
    assert "the endpoint is disabled; enable it" in (await browser.get(lane)).text
    await browser.send(disabled, f"{path}/enable")
    await until(browser, f"/events/{waiting}", lambda page: "Status ● delivered" in page.text)
    gone = await browser.send(await browser.get(path), f"{path}/delete")
    assert "The endpoint was deleted" in gone.text
    assert (await browser.get(path)).status == 404


async def test_a_lane_is_paused_limited_and_its_circuit_held(
    browser: Browser, receiver: str
) -> None:
    endpoint = await add_endpoint(browser, f"{receiver}/ok")
    path = f"/lane?id=delivery:{endpoint}"
    page = await browser.send(await browser.get(path), "/lane/pause")
    assert "The lane was paused" in page.text
    event_id = await send_event(browser, "a", {})
    page = await browser.get(f"/events/{event_id}")
    assert "lane is paused" in page.text
    assert f"delivery:{endpoint}" in (await browser.get("/lanes?stopped=true")).html
    await browser.send(await browser.get("/lanes"), "/lane/resume")
    await until(browser, f"/events/{event_id}", lambda page: "Status ● delivered" in page.text)
    page = await browser.send(await browser.get(path), "/lane/limit", rate="2.5", max_in_flight="3")
    assert "2.5 a second" in page.text
    assert "0 of 3" in page.text
    bad = await browser.send(page, "/lane/limit", rate="-1", max_in_flight="3")
    assert bad.status == 422
    held = await browser.send(
        page, "/lane/circuit", state="open", reason="they are moving", **{"for": "30m"}
    )
    assert "Held open" in held.text
    assert "they are moving" in held.text
    free = await browser.send(held, "/lane/release")
    assert "Held open" not in free.text


async def test_dead_work_is_found_redriven_and_dropped(
    penstock: Site, browser: Browser, receiver: str
) -> None:
    event_id = await one_dead(browser, receiver)
    page = await browser.get("/dead")
    assert "HTTP 422" in page.text
    assert event_id in page.html
    nothing = await browser.send(page, "/dead/redrive", row=[])
    assert "Nothing was chosen" in nothing.text
    (row,) = [value for name, value in page.form("/dead/redrive").boxes if name == "row"]
    moved = await browser.send(page, "/dead/redrive", row=row)
    assert "1 sent again" in moved.text
    await until(browser, f"/events/{event_id}", lambda page: "Attempt 2" in page.text)
    await until(browser, "/dead", lambda page: event_id in page.html)
    ask = await browser.get("/dead-all?kind=delivery&reason=http+422")
    dropped = await browser.send(ask, "/dead-all/drop")
    assert "1 dropped" in dropped.text
    assert "Nothing is dead" in dropped.text


async def test_all_dead_work_that_fits_is_moved_in_several_steps(
    penstock: Site, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(tx: Tx) -> None:
        lane = store.lane_id("default", "work")
        new = [NewJob(f"job_{n:026}", "default", "work", "[]", lane, 1) for n in range(600)]
        store.insert(tx, new)
        tx.run(sql("UPDATE jobs SET status = 'dead', due_at = NULL, last_error = 'boom'"))
        tx.run(sql("UPDATE lanes SET paused = TRUE"))

    await penstock.runtime.database.unit(fill)
    monkeypatch.setattr("penstock.console.pages_dead.LONGEST", -1.0)
    monkeypatch.setattr("penstock.operations.dead.MOST_MOVED", 250)
    first = await browser.get("/dead?kind=job")
    assert first.html.count('name="row"') == 50
    older = re.search(r'rel="next" href="([^"]+)"', first.html)
    assert older
    second = await browser.get(older[1].replace("&amp;", "&"))
    assert set(re.findall(r"job_\d+", first.html)).isdisjoint(re.findall(r"job_\d+", second.html))
    page = await browser.get("/dead-all?kind=job&reason=boom")
    page = await browser.send(page, "/dead-all/redrive")
    assert "Done so far 250" in page.text
    page = await browser.send(page, "/dead-all/redrive")
    page = await browser.send(page, "/dead-all/redrive")
    assert "600 sent again" in page.text


async def test_jobs_are_shown_and_cancelled(penstock: Site, browser: Browser) -> None:
    def put(tx: Tx) -> None:
        lane = store.lane_id("default", "work", "a/b")
        new = NewJob("job_1", "default", "work", '{"note": "<b>"}', lane, 1, delay=3600.0)
        store.insert(tx, [new])

    await penstock.runtime.database.unit(put)
    assert "job_1" in (await browser.get("/jobs?name=work&status=pending")).html
    page = await browser.get("/jobs/job_1")
    assert "It is not due before" in page.text
    assert "&lt;b&gt;" in page.html
    lane = re.search(r'href="(/lane\?id=[^"]+)"', page.html)
    assert lane
    assert "work:a/b" in (await browser.get(lane[1])).text
    gone = await browser.send(page, "/jobs/job_1/cancel")
    assert "The job was cancelled" in gone.text
    again = await browser.post("/jobs/job_1/cancel", page.form("/jobs/job_1/cancel").fields)
    assert again.status == 409


async def test_a_shipment_is_followed_to_its_end(browser: Browser) -> None:
    page = await browser.get("/shipments")
    wrong = await browser.send(page, "/shipments", carrier="sandbox", tracking_number="nonsense!")
    assert wrong.status in (400, 422)
    assert ("tracking_number", "nonsense!") in wrong.form("/shipments").fields
    made = await browser.send(
        page, "/shipments", carrier="sandbox", tracking_number="SBXDELIVERED1", label=MARKUP
    )
    assert made.path.startswith("/shipments/shp_"), made.text
    assert "<img" not in made.html
    page = await until(browser, made.path, lambda page: "Scans None yet" not in page.text)
    assert "delivered" in page.text
    moving = await browser.send(
        await browser.get("/shipments"),
        "/shipments",
        carrier="sandbox",
        tracking_number="SBXINTRANSIT7",
    )
    if moving.path.startswith("/shipments/shp_"):
        stopped = await browser.send(moving, f"{moving.path}/stop")
        assert "followed no more" in stopped.text
    gone = await browser.send(page, f"{page.path}/delete")
    assert "The shipment was deleted" in gone.text


async def test_shipments_are_imported(browser: Browser) -> None:
    csv = "carrier,tracking_number,label\nsandbox,SBXDELIVERED5,chair\nhermes,1,<b>\n"
    made = await browser.send(await browser.get("/imports"), "/imports", csv=csv)
    assert made.path.startswith("/imports/imp_"), made.text
    page = await until(browser, made.path, lambda page: "done" in page.text)
    assert "Bad rows 1" in page.text
    assert "hermes" in page.text
    assert "SBXDELIVERED5" in (await browser.get("/shipments?search=chair")).text
    assert made.path.rpartition("/")[2] in (await browser.get("/imports")).html
    for bad in ("", "nothing of the kind"):
        page = await browser.send(await browser.get("/imports"), "/imports", csv=bad)
        assert page.status == 422, bad
        assert ("csv", bad) in page.form("/imports").fields


async def test_mail_that_was_kept_is_shown(browser: Browser) -> None:
    added = await browser.send(
        await browser.get("/endpoints/new"), "/endpoints", kind="email", target="ann@example.com"
    )
    assert added.path.startswith("/endpoints/end_")
    await send_event(browser, "order.paid", {"note": MARKUP})
    page = await until(browser, "/outbox", lambda page: "ann@example.com" in page.text)
    assert "<img" not in page.html


async def test_a_key_is_made_shown_once_and_revoked(penstock: Site, browser: Browser) -> None:
    page = await browser.get("/keys")
    made = await browser.send(page, "/keys", name="shop", scope=["events:write"], expires_in="90d")
    found = re.search(r"psk_[\w-]{43}", made.html)
    assert found
    page = await browser.get("/keys")
    assert found[0] not in page.html
    assert "events:write" in page.text
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {found[0]}"}) as client:
        async with client.get(f"{penstock.url}/v1/events") as answer:
            assert answer.status == 200
        revoke = next(f.action for f in page.forms if f.action.endswith("/revoke"))
        assert "The key was revoked" in (await browser.send(page, revoke)).text
        async with client.get(f"{penstock.url}/v1/events") as answer:
            assert answer.status == 401


# --- Others, and those who may less ----------------------------------------------------------


async def test_another_account_sees_nothing_of_it(
    penstock: Site, browser: Browser, receiver: str
) -> None:
    event_id = await one_dead(browser, receiver)
    endpoint = re.search(r"/endpoints/(end_\w+)", (await browser.get("/endpoints")).html)
    assert endpoint
    async with penstock.browser(await penstock.key(account="other")) as other:
        for path in (f"/events/{event_id}", f"/endpoints/{endpoint[1]}",
                     f"/lane?id=delivery:{endpoint[1]}"):  # fmt: skip
            assert (await other.get(path)).status == 404, path
        for path in ("/", "/events", "/endpoints", "/dead", "/lanes", "/keys"):
            page = await other.get(path)
            assert page.status == 200
            assert "order.lost" not in page.text
            assert endpoint[1] not in page.html
        (csrf,) = {v for f in page.forms for n, v in f.fields if n == "csrf"}
        replay = await other.post(f"/events/{event_id}/replay", [("csrf", csrf)])
        assert replay.status == 404


async def test_a_key_may_do_here_what_it_may_by_the_api(
    penstock: Site, browser: Browser, receiver: str
) -> None:
    event_id = await one_dead(browser, receiver)
    (row,) = [
        value
        for name, value in (await browser.get("/dead")).form("/dead/redrive").boxes
        if name == "row"
    ]
    async with penstock.browser(await penstock.key("events:read")) as reader:
        overview = await reader.get("/")
        assert overview.status == 200
        assert "Throughput" in overview.text
        assert "Oldest due" not in overview.text  # that takes lanes:read
        assert (await reader.get(f"/events/{event_id}")).status == 200
        for path in ("/endpoints", "/lanes", "/jobs", "/shipments", "/keys"):
            page = await reader.get(path)
            assert page.status == 403, path
            assert "The scope" in page.text
        page = await reader.get("/events/new")
        assert (await reader.send(page, "/events", event_type="a")).status == 403
        dead = await reader.get("/dead")
        assert (await reader.send(dead, "/dead/redrive", row=row)).status == 403

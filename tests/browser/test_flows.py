"""What a person does in the console, with and without JavaScript, and with the keyboard alone."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from support.chromium import Visitor

Visit = Callable[..., Visitor]


@pytest.fixture(params=[True, False], ids=["script", "no-script"])
def ann(request: pytest.FixtureRequest, visit: Visit) -> Visitor:
    """Signed in, at a desk."""
    return visit(script=request.param, viewport={"width": 1440, "height": 900})


def add_endpoint(person: Visitor, target: str, types: str, **more: str) -> None:
    person.page.goto("/endpoints/new")
    person.fill(target=target, event_types=types, **more)
    person.press("Add")
    assert "whsec_" in person.text
    person.follow("I have kept it")


def send_event(person: Visitor, event_type: str, payload: str) -> None:
    person.page.goto("/events/new")
    person.fill(event_type=event_type, payload=payload)
    person.press("Send")
    assert "/events/evt_" in person.page.url


def test_an_event_is_sent_and_watched_until_it_is_delivered(ann: Visitor, receiver: str) -> None:
    kind = "seen" if ann.script else "loaded"
    add_endpoint(ann, f"{receiver}/ok", f"{kind}.*")
    send_event(ann, f"{kind}.created", '{"order": 1042}')
    text = ann.until("Delivered")
    assert "Attempt 1" in text
    assert "thank you" in text
    assert "1042" in text
    ann.press("Replay")
    ann.until("Attempt 2")
    ann.page.goto("/events?status=replayed")
    ann.until(f"{kind}.created")


def test_what_dies_is_redriven_and_dropped(ann: Visitor, receiver: str) -> None:
    kind = "lost" if ann.script else "gone"
    add_endpoint(ann, f"{receiver}/no", f"{kind}.*", on_permanent="dead")
    send_event(ann, f"{kind}.order", "{}")
    text = ann.until("Gave up")
    # What the receiver answered is markup, and is shown as what it is.
    assert "<b>bold</b>" in text
    assert ann.page.locator("main img").count() == 0
    ann.page.goto("/dead")
    row = ann.page.locator("tr", has_text=f"{kind}.order")
    row.get_by_role("checkbox").check()
    ann.press("Redrive the chosen")
    ann.until("1 sent again.")
    ann.page.goto("/dead?kind=delivery&reason=422")
    ann.until(f"{kind}.order")  # it has died once more
    ann.follow("All that fit …")
    ann.press("Drop all that fit")
    ann.until(lambda text: re.search(r"\d+ dropped\.", text) is not None)
    assert f"{kind}.order" not in ann.text


def test_a_shipment_is_followed_and_its_scans_are_seen(ann: Visitor) -> None:
    number = "SBXDELIVERED11" if ann.script else "SBXDELIVERED12"
    ann.page.goto("/shipments")
    ann.page.locator("summary", has_text="Follow a shipment").click()
    ann.fill(carrier="sandbox", tracking_number=number, label="a chair")
    ann.press("Follow")
    text = ann.until(lambda text: "Delivered" in text.partition("Scans")[2])
    assert number in text
    ann.page.goto("/imports")
    ann.fill(csv=f"carrier,tracking_number\nsandbox,{number}9\nsandbox,\n")
    ann.press("Import")
    ann.until("done")
    ann.until("Bad rows")


def test_a_circuit_is_opened_and_closed(ann: Visitor, receiver: str) -> None:
    kind = "held" if ann.script else "kept"
    add_endpoint(ann, f"{receiver}/ok", f"{kind}.*")
    ann.leads(ann.page.locator("dd a", has_text="waiting"))
    ann.fill(state="open", for_="10m", reason="they move house")
    ann.press("Hold")
    assert "they move house" in ann.text
    lane = ann.page.url
    send_event(ann, f"{kind}.order", "{}")
    assert "nothing is sent to it before" in ann.until("Why has this not run?")
    event = ann.page.url
    ann.page.goto(lane)
    ann.fill(state="closed", for_="10m", reason="they are back")
    ann.press("Hold")
    ann.until("Held closed")
    ann.page.goto(event)
    ann.until("Delivered")
    ann.page.goto(lane)
    ann.press("Leave it to itself")
    assert "Held closed" not in ann.text
    ann.press("Pause")
    ann.until("The lane was paused.")
    ann.press("Resume")
    ann.until("The lane was resumed.")


def test_a_key_is_made_shown_once_and_revoked(ann: Visitor, visit: Visit) -> None:
    name = "shop" if ann.script else "stall"
    ann.page.goto("/keys")
    ann.page.locator("summary", has_text="Make a key").click()
    ann.fill(name=name)
    ann.page.get_by_label("events:write").check()
    ann.press("Make it")
    secret = re.search(r"psk_[\w-]{43}", ann.text)
    assert secret is not None
    ann.follow("I have kept it")
    assert secret[0] not in ann.page.content()
    other = visit(signed_in=False)
    other.sign_in(secret[0])
    other.page.goto("/keys")
    assert "keys:read" in other.text  # the scope that it lacks
    row = ann.page.locator("tr", has_text=name).first
    ann.leads(row.get_by_role("button", name="Revoke"))
    ann.until("The key was revoked.")
    other.page.goto("/events")
    assert "/sign-in" in other.page.url


def test_a_link_signs_in_once(visit: Visit, call: Callable[..., dict[str, str]]) -> None:
    path = call("POST", "/sign-in/link", None)["path"]
    first, second = visit(signed_in=False), visit(signed_in=False)
    first.page.goto(path)
    assert "Overview" in first.text
    second.page.goto(path)
    assert "used already" in second.text
    first.press("Sign out")
    assert "API key" in first.text


def test_pages_are_fresh_by_themselves(
    visit: Visit, call: Callable[..., dict[str, str]], receiver: str
) -> None:
    person = visit()
    person.page.goto("/events?event_type=fresh.one")
    person.until("No event fits")
    call("POST", "/v1/events", {"event_type": "fresh.one", "payload": {}})
    person.until("fresh.one")  # without loading the page again
    new = {"target": f"{receiver}/no", "event_types": ["fresh.dead"], "on_permanent": "dead"}
    endpoint = call("POST", "/v1/endpoints", new)["endpoint_id"]
    person.page.goto(f"/dead?kind=delivery&lane=delivery:{endpoint}")
    person.until("Nothing fits")
    call("POST", "/v1/events", {"event_type": "fresh.dead", "payload": {}})
    person.until("fresh.dead")
    # What somebody is doing is not taken from under their hands.
    person.page.goto("/events/new")
    person.fill(payload='{"half": ')
    person.page.wait_for_timeout(700)  # as long as between two looks
    assert person.page.input_value("[name=payload]") == '{"half": '


# ------------------------------------------------------------------ by keyboard


def enter(person: Visitor) -> None:
    """Press Enter, which leads to another page."""
    with person.page.expect_navigation():
        person.page.keyboard.press("Enter")


def reach(person: Visitor, label: str, key: str = "Tab") -> None:
    """Tab until the thing of that name has the focus."""
    for _ in range(150):
        person.page.keyboard.press(key)
        name = person.page.evaluate(
            "() => { const at = document.activeElement;"
            " return at.getAttribute('aria-label') || at.labels?.[0]?.innerText || at.innerText }"
        )
        if name is not None and name.strip() == label:
            return
    raise AssertionError(f"the keyboard does not reach {label!r}")


def test_everything_is_reached_by_keyboard(visit: Visit, key: str, receiver: str) -> None:
    person = visit(signed_in=False)
    page, keyboard = person.page, person.page.keyboard
    page.goto("/sign-in")
    # The field has the focus, from the first time that the page is drawn.
    page.wait_for_function("() => document.activeElement?.name === 'key'")
    keyboard.type(key)
    enter(person)
    person.until("Overview")
    keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.innerText") == "Skip to the content"
    reach(person, "Endpoints")
    enter(person)
    reach(person, "Add an endpoint")
    enter(person)
    reach(person, "Target")
    keyboard.type(f"{receiver}/no")
    reach(person, "Event types")
    keyboard.press("Control+a")
    keyboard.type("typed.*")
    reach(person, "When the answer is final, such as 404")
    keyboard.type("give")
    reach(person, "Add")
    enter(person)
    reach(person, "I have kept it")
    enter(person)
    person.until("typed.*")
    send_event(person, "typed.order", "{}")
    person.until("Gave up")
    page.goto("/dead")
    reach(person, "Choose all on this page")
    keyboard.press("Space")
    reach(person, "Choose typed.order → " + f"{receiver}/no")
    assert page.evaluate("() => document.activeElement.checked")
    page.goto("/dead")
    reach(person, "Choose typed.order → " + f"{receiver}/no")
    keyboard.press("Space")
    reach(person, "Drop the chosen", "Shift+Tab")
    enter(person)
    person.until("1 dropped.")
    reach(person, "Keys")
    enter(person)
    reach(person, "Make a key")
    keyboard.press("Enter")
    reach(person, "What it is for")
    keyboard.type("by hand")
    enter(person)
    person.until("psk_")

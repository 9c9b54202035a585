"""A file from the disk to its report, and models, as a person meets them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from support.chromium import MARKUP, PATIENCE, SIZES, Visitor, axe, wrong_with
from support.churn import csv_bytes, customers
from support.scoring import columns, starter_csv

Visit = Callable[..., Visitor]
Call = Callable[..., Any]
LANE = "/v1/lanes/prediction:default"
TRAINING = "/v1/lanes/model_training:default"


@pytest.fixture(params=[True, False], ids=["script", "no-script"])
def ann(request: pytest.FixtureRequest, visit: Visit) -> Visitor:
    """Signed in, at a desk."""
    return visit(script=request.param, viewport=SIZES["wide"])


def upload(person: Visitor, page: str, content: bytes, name: str = "today.csv") -> None:
    person.page.goto(page)
    file: Any = {"name": name, "mimeType": "text/csv", "buffer": content}
    person.page.locator("main input[type=file]").first.set_input_files(file)
    person.press("Upload")
    person.until("The file was uploaded.")


@pytest.fixture(scope="module")
def scored(browser: Any, server: Any, key: str) -> str:
    """The page of a prediction that is complete."""
    visitor = Visitor(browser, server.url)
    visitor.sign_in(key)
    upload(visitor, "/predictions", starter_csv(60, seed=9), f"{MARKUP}.csv")
    visitor.press("Confirm and score")
    visitor.until("Result, CSV")
    address = visitor.page.url.removeprefix(server.url)
    visitor.close()
    return address


def test_a_file_is_mapped_watched_and_its_report_read(
    ann: Visitor, scored: str, call: Call
) -> None:
    cells = columns(400, seed=3 if ann.script else 4)
    # A header of its own each time, as what was said of one is remembered.
    names = {"plan": "tariff" if ann.script else "kind", "tenure_months": "tenure months"}
    upload(ann, "/predictions", csv_bytes({names.get(name, name): c for name, c in cells.items()}))
    assert "Demonstration" in ann.text
    plan = ann.page.get_by_label("plan", exact=True)
    assert plan.input_value() == ""  # nothing of that name: it is asked
    # Without an answer the model would lack a column; with a wrong one it is told.
    plan.select_option("#1")
    ann.press("Confirm and score")
    ann.until("It can be one of them")
    plan = ann.page.get_by_label("plan", exact=True)
    assert plan.input_value() == "#1"
    where = list(cells).index("plan") + 1
    plan.select_option(f"#{where}")
    call("PATCH", LANE, {"paused": True})
    try:
        ann.press("Confirm and score")
        assert "0 %: 0 rows" in ann.until("it will be scored in its turn")
        assert ann.page.locator("progress").is_visible()
    finally:
        call("PATCH", LANE, {"paused": False})
    text = ann.until("Result, CSV")  # seen without loading the page again, if there is script
    assert "400 scored" in text
    assert "How the risk is spread" in text
    assert ann.page.locator("svg rect.risk").count() >= 20
    with ann.page.expect_download() as downloading:
        ann.page.get_by_role("link", name="Result, CSV", exact=True).click()
    assert downloading.value.suggested_filename.endswith("-result.csv")
    address = ann.page.url
    ann.follow("Report")
    assert ann.page.url.endswith("/report")
    assert "400 customers were scored" in ann.page.content()
    assert ann.page.locator("svg").count() >= 3
    ann.page.goto(address)
    file: Any = {"name": "o.csv", "mimeType": "text/csv", "buffer": b"id,churned\nC00001,yes\n"}
    ann.page.locator("main input[type=file]").set_input_files(file)
    # What others tell meanwhile changes this part of the page, but not what was chosen in it.
    told = {"outcomes": [{"id": "C00002", "churned": False}]}
    call("POST", f"/v1{address.removeprefix(ann.url)}/outcomes", told)
    ann.page.wait_for_timeout(700)  # as long as between two looks
    ann.press("Tell")
    ann.until("1 outcomes were stored.")


def test_a_prediction_is_cancelled_and_asked_again(ann: Visitor, scored: str, call: Call) -> None:
    upload(ann, "/predictions", starter_csv(70, seed=5 if ann.script else 6))
    call("PATCH", LANE, {"paused": True})
    try:
        ann.press("Confirm and score")
        ann.press("Cancel")
        ann.until("Cancelled: there is no result.")
    finally:
        call("PATCH", LANE, {"paused": False})
    ann.follow("Score the file again")
    ann.press("Confirm and score")
    ann.until("Result, CSV")


def test_a_training_asks_what_the_file_does_not_say(ann: Visitor, call: Call) -> None:
    name = "asked" if ann.script else "unasked"
    upload(ann, "/models", csv_bytes(customers(400)), "past.csv")
    ann.fill(name=name, label_column="churned", id_column="customer")
    ann.press("Train")
    ann.until("Answer, and train again")
    ann.follow("Answer, and train again")
    assert "Say which one means that a customer churned" in ann.text
    ann.fill(positive_label="yes")
    call("PATCH", TRAINING, {"paused": True})  # or it may be done before it is cancelled
    try:
        ann.press("Train")
        ann.until("The training waits for its turn.")
        ann.press("Cancel")
        ann.until("The training was cancelled.")
    finally:
        call("PATCH", TRAINING, {"paused": False})
    ann.page.goto("/models")
    ann.follow(name)
    assert "has a question" in ann.text
    ann.press("Delete")
    ann.until("The model was deleted.")


@pytest.mark.parametrize(("size", "scheme"), [("narrow", "dark"), ("wide", "light")])
def test_every_page_fits_and_can_be_read_by_everybody(
    visit: Visit, scored: str, call: Call, size: str, scheme: str
) -> None:
    source = axe()
    person = visit(viewport=SIZES[size], color_scheme=scheme)
    upload(person, "/predictions", csv_bytes({MARKUP: ["1", "2"], "plan": ["a", "b"]}), "odd.csv")
    mapping = person.page.url.removeprefix(person.url)
    assert MARKUP in person.text
    ids = call("GET", "/v1/uploads")["items"]
    found = {}
    for path in (
        "/predictions", mapping, scored, "/models", "/models/starter",
        f"/models/new/{ids[0]['upload_id']}", "/dead?kind=prediction",
    ):  # fmt: skip
        person.page.goto(path)
        assert person.page.locator("main h1").count() == 1, path
        too_wide = person.page.evaluate(
            "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert too_wide <= 0, (path, too_wide)
        assert person.page.locator("main img").count() == 0, path
        if wrong := wrong_with(person, source):
            found[path] = wrong
    assert found == {}


def test_a_mapping_is_made_by_keyboard(visit: Visit, scored: str) -> None:
    person = visit(viewport=SIZES["wide"])
    upload(person, "/predictions", starter_csv(80, seed=7))
    page, keyboard = person.page, person.page.keyboard
    page.get_by_label("plan", exact=True).focus()
    keyboard.type("plan")
    deadline = time.monotonic() + PATIENCE
    while page.evaluate("() => document.activeElement.innerText") != "Confirm and score":
        assert time.monotonic() < deadline
        keyboard.press("Tab")
    with page.expect_navigation():
        keyboard.press("Enter")
    person.until("Result, CSV")

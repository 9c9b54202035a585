"""The console's pages of predictions and models, without JavaScript."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from penstock import __version__
from penstock.predictions import starter
from penstock.predictions.dead import DEAD_PREDICTIONS, DEAD_TRAININGS
from penstock.predictions.registry import FILE
from penstock.storage import Tx, sql
from penstock.storage.objects import Folder
from penstock.wiring import make_objects
from penstock.work import lanes
from support.churn import csv_bytes, customers
from support.console import Browser, Page, Site, site
from support.scoring import columns, starter_csv

pytestmark = pytest.mark.anyio

TRAINED = {
    "rows": 8000,
    "positives": 1940,
    "id_column": "customer_id",
    "label_column": "churned",
    "features": ["tenure_months"],
    "left_out": [],
    "warnings": [],
    "metrics": dict.fromkeys(
        ("auc", "pr_auc", "log_loss", "brier", "calibration_error", "base_log_loss"), 0.5
    ),
}
MARKUP = '<img src=x onerror="alert(1)">'


@pytest.fixture(scope="module")
async def penstock(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """One for all tests: its processes that read and score take seconds to start."""
    async with site(tmp_path_factory.mktemp("penstock") / "data") as running:
        yield running


@pytest.fixture
async def browser(penstock: Site) -> AsyncIterator[Browser]:
    async with penstock.browser(await penstock.key()) as opened:
        yield opened


async def until(browser: Browser, path: str, holds: Callable[[Page], bool]) -> Page:
    """The page once it shows what is waited for."""
    deadline = time.monotonic() + 60
    while not holds(page := await browser.get(path)):
        assert time.monotonic() < deadline, page.text
        await asyncio.sleep(0.05)
    return page


async def uploaded(
    browser: Browser, content: bytes, name: str = "today.csv", to: str = "/predictions"
) -> Page:
    return await browser.upload(await browser.get(to), to, content, name)


def renamed(rows: int, **names: str) -> bytes:
    return csv_bytes({names.get(name, name): cells for name, cells in columns(rows).items()})


async def have_trained(penstock: Site, model_id: str, number: int) -> None:
    """A version with the starter model's file, as a training takes many seconds."""
    folder = f"accounts/default/models/mdv_test_{number}"

    def make(tx: Tx) -> None:
        tx.run(
            sql("""
INSERT INTO model_versions (id, model_id, account, folder, number, status, upload_id, options,
  promote, sha256, summary, created_at, ended_at, lane)
SELECT 'mdv_test_' || CAST(:number AS TEXT), :model, account, :folder, :number, 'READY', upload_id,
  options, FALSE, :sha256, :summary, created_at, created_at, lane
FROM model_versions WHERE model_id = :model AND number = 1
"""),
            model=model_id,
            number=number,
            folder=folder,
            sha256=starter.sha256(),
            summary=json.dumps(TRAINED),
        )

    objects = make_objects(penstock.runtime.settings)
    with objects.writing(f"{folder}/{FILE}") as file:
        file.write(starter.data())
    await penstock.runtime.database.unit(make)


async def pause_trainings(penstock: Site, *, paused: bool) -> None:
    await penstock.runtime.database.unit(
        lambda tx: lanes.configure(tx, "model_training:default", paused=paused)
    )


class Elsewhere:
    """What a store that clients fetch from by themselves says of an object."""

    URL = "https://objects.example/result.csv?signature=x"

    def link(self, key: str, **_: object) -> str:
        return self.URL


async def test_a_file_is_mapped_scored_read_and_measured(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = renamed(300, tenure_months="tenure", plan=MARKUP)
    page = await uploaded(browser, content, f"{MARKUP}.csv")
    assert page.path.startswith("/predictions/new/upl_"), page.text
    upload = page.path.rpartition("/")[2]
    base = f"/predictions/new/{upload}"
    assert "Demonstration" in page.text
    assert "<img" not in page.html
    form = page.form(base)
    wanted = [value for name, value in form.fields if name == "want"]
    proposed = dict(zip(wanted, [v for n, v in form.fields if n == "to"], strict=True))
    assert proposed["customer_id"] == "#1"
    assert proposed["plan"] == ""  # nothing is like it
    assert "none" in page.text

    # As it is proposed the plan is missing, and that is confirmed by leaving it empty.
    where = next(
        match[1] for match in re.finditer(r'<option value="(#\d+)"[^>]*>&lt;img', page.html)
    )
    chosen = [where if name == "plan" else proposed[name] for name in wanted]
    doubled = [where] * len(wanted)
    refused = await browser.send(page, base, to=doubled)
    assert (refused.status, "It can be one of them" in refused.text) == (422, True)
    again = [value for name, value in refused.form(base).fields if name == "to"]
    assert again == doubled
    asked = await browser.send(page, base, to=chosen)
    assert asked.path.startswith("/predictions/prd_"), asked.text
    done = await until(browser, asked.path, lambda page: "Result, CSV" in page.text)
    assert "300 scored" in done.text
    assert "How the risk is spread" in done.text
    assert 'class="risk low"' in done.html
    assert "raises" in done.text

    status, headers, result = await browser.fetch(f"{asked.path}/result.csv")
    assert (status, len(result.splitlines())) == (200, 301)
    assert headers["Content-Disposition"].startswith("attachment")
    assert (await browser.fetch(f"{asked.path}/result.parquet"))[2][:4] == b"PAR1"
    status, headers, report = await browser.fetch(f"{asked.path}/report")
    assert "300 customers were scored" in report.decode()
    assert b"<img" not in report
    policy = headers["Content-Security-Policy"]
    assert "sandbox" in policy
    assert "unsafe" not in policy

    with monkeypatch.context() as stored_elsewhere:
        stored_elsewhere.setattr(Folder, "direct", Elsewhere())
        async with browser.session.get(
            f"{browser.url}{asked.path}/result.csv", allow_redirects=False
        ) as answer:
            assert (answer.status, answer.headers["Location"]) == (307, Elsewhere.URL)
            assert answer.headers["Cache-Control"] == "no-store"

    ids = [line.split(b",")[0].decode() for line in result.splitlines()[1:]]
    told = ["customer,churned", *(f"{id_},{'yes' if n % 3 else 'no'}" for n, id_ in enumerate(ids))]
    outcomes = f"{asked.path}/outcomes"
    wrong = await browser.upload(done, outcomes, b"customer,churned\n1,perhaps\n", "o.csv")
    assert (wrong.status, "Line 2: 'perhaps' is neither yes nor no" in wrong.text) == (422, True)
    known = await browser.upload(done, outcomes, "\n".join([*told, "nobody,yes"]).encode(), "o.csv")
    assert "300 outcomes were stored. 1 customers are not in the result." in known.text
    assert "ROC AUC" in known.text
    assert 'class="dot"' in known.html

    # The header is known from now on, and the same question has the same answer.
    same = await browser.get(base)
    assert f'value="{where}" selected' in same.html
    assert (await browser.send(same, base)).path == asked.path
    gone = await browser.send(known, f"{asked.path}/delete")
    assert "The prediction was deleted" in gone.text
    assert (await browser.get(asked.path)).status == 404
    await browser.send(await browser.get(base), f"{base}/delete")
    assert (await browser.get(base)).status == 404


async def test_a_file_with_a_question_is_read_as_it_is_answered(browser: Browser) -> None:
    told = b"Customers of today,,,,,,,,\n" + starter_csv(50)
    page = await uploaded(browser, told)
    base = page.path
    assert "A question about the file" in page.text
    assert "does not look like column names" in page.text
    wrong = await browser.send(page, f"{base}/read", header_row="first")
    assert (wrong.status, "Write the number of a row" in wrong.text) == (422, True)
    there = await browser.send(page, f"{base}/read", header_row="19", encoding="utf-16")
    assert there.status == 422
    answered = await browser.send(page, f"{base}/read", header_row="2")
    assert "Confirm and score" in answered.text
    assert "tenure_months" in answered.text


async def test_what_the_api_refuses_is_said_at_the_form(browser: Browser) -> None:
    refused = await uploaded(browser, b"\x89PNG\r\n\x1a\n" + bytes(200), "picture.csv")
    assert refused.status == 415 or refused.status == 422
    assert "not a CSV" in refused.text
    assert 'aria-invalid="true"' in refused.html
    empty = await uploaded(browser, b"", "")
    assert "Choose a file first" in empty.text
    assert (await browser.get("/predictions/new/upl_unknown")).status == 404
    assert (await browser.get("/predictions/prd_unknown")).status == 404
    assert (await browser.get("/predictions/prd_unknown/result.csv")).status == 404
    assert (await browser.get("/models/mdl_unknown")).status == 404
    status, headers, template = await browser.fetch("/predictions/template.csv")
    assert (status, template.startswith(b"customer_id,")) == (200, True)
    assert "attachment" in headers["Content-Disposition"]


async def test_files_of_others_are_not_there(penstock: Site, browser: Browser) -> None:
    page = await uploaded(browser, starter_csv(21))
    asked = await browser.send(page, page.path)
    async with penstock.browser(await penstock.key(account="other")) as other:
        for path in (page.path, asked.path, f"{asked.path}/report"):
            assert (await other.get(path)).status == 404, path
        session = (await other.get("/predictions")).form("/predictions").fields
        for path in (page.path, f"{page.path}/delete", f"{asked.path}/cancel"):
            assert (await other.post(path, session)).status == 404, path
    async with penstock.browser(await penstock.key("predictions:read")) as reader:
        refused = await uploaded(reader, starter_csv(20))
        assert refused.status == 403
        assert (await reader.get(page.path)).status == 200
        refused = await reader.send(await reader.get(page.path), page.path)
        assert "predictions:write" in refused.text


async def test_a_file_without_the_secret_is_not_stored(penstock: Site, browser: Browser) -> None:
    async def stored() -> object:
        count = sql("SELECT count(*) FROM uploads")
        return await penstock.runtime.database.read(lambda tx: tx.rows(count))

    before = await stored()
    listed = await browser.get("/predictions")
    form = listed.form("/predictions")
    form.fields[:] = [("csrf", "guessed")]
    refused = await browser.upload(listed, "/predictions", starter_csv(20), "t.csv")
    assert (refused.status, "Nothing was done" in refused.text) == (403, True)
    form.fields[:] = []
    refused = await browser.upload(listed, "/predictions", starter_csv(20), "t.csv")
    assert refused.status == 403
    assert await stored() == before


async def test_a_model_is_trained_answered_looked_into_and_rolled_back(
    penstock: Site, browser: Browser
) -> None:
    content = csv_bytes(customers(500))
    page = await uploaded(browser, content, "past.csv", "/models")
    base = page.path
    missing = await browser.send(page, base)
    assert (missing.status, "Choose a column" in missing.text) == (422, True)
    bad = await browser.send(
        page, base, name="starter", label_column="churned", id_column="customer"
    )
    assert (bad.status, "are taken" in bad.text) == (422, True)
    unread = await browser.send(page, base, types="plan is a category", label_column="churned")
    assert "Write a line as" in unread.text
    first = await browser.send(
        page, base, name="mine", label_column="churned", id_column="customer"
    )
    assert re.fullmatch(r"/models/mdl_\w+/versions/1", first.path), first.text
    asked = await until(browser, first.path, lambda page: "Answer, and train again" in page.text)
    link = re.search(r'href="(/models/new/[^"]+)"', asked.html)
    assert link
    question = await browser.get(link[1].replace("&amp;", "&"))
    assert ("label_column", "churned") in question.form(base).fields
    assert "Say which one means that a customer churned" in question.text
    await pause_trainings(penstock, paused=True)  # it takes a second, as the machine may here
    second = await browser.send(question, base, positive_label="yes")
    cancelled = await browser.send(second, f"{second.path}/cancel")
    assert "The training was cancelled" in cancelled.text
    await pause_trainings(penstock, paused=False)

    model = first.path.partition("/versions")[0]
    await have_trained(penstock, model.rpartition("/")[2], 3)
    ready = await browser.send(await browser.get(model), f"{model}/promote")
    assert "Version 3 is live" in ready.text
    third = f"{model}/versions/3"
    ready = await browser.get(third)
    assert "What it has learned" in ready.text
    assert f"default · {__version__}" in ready.text
    assert 'class="line"' in ready.html  # of a number
    assert "Monthly" in ready.text  # of a category
    assert 'class="dot"' in ready.html
    assert (await browser.fetch(f"{third}/file"))[2].startswith(b'{"format"')

    nothing = await browser.send(await browser.get(model), f"{model}/rollback")
    assert (nothing.status, "No other version was live" in nothing.text) == (409, True)
    await have_trained(penstock, model.rpartition("/")[2], 4)
    ahead = await browser.send(await browser.get(model), f"{model}/promote")
    assert "Version 4 is live" in ahead.text
    back = await browser.send(ahead, f"{model}/rollback")
    assert "Version 3 is live again" in back.text
    assert "mine" in (await browser.get("/models")).text
    chosen = await uploaded(browser, content, "again.csv")
    assert "mine, version 3" in chosen.text
    assert "which is what the model predicts" in chosen.text
    gone = await browser.send(ahead, f"{model}/delete")
    assert "The model was deleted" in gone.text


async def test_the_starter_model_says_that_it_is_a_demonstration(browser: Browser) -> None:
    page = await browser.get("/models/starter")
    assert "Demonstration" in page.text
    assert "What it has learned" in page.text
    assert (await browser.fetch("/models/starter/file"))[0] == 200
    assert "demo" in (await browser.get("/models")).text


async def test_what_gave_up_is_dead_work_and_done_again(penstock: Site, browser: Browser) -> None:
    page = await uploaded(browser, starter_csv(40))
    asked = await browser.send(page, page.path)
    await until(browser, asked.path, lambda page: "Result, CSV" in page.text)
    id_ = asked.path.rpartition("/")[2]

    def fail(tx: Tx) -> None:
        tx.run(
            sql("UPDATE predictions SET status = 'FAILED', error_code = 'internal_error', "
                "error = 'the disk is gone', last_error = 'the disk is gone' WHERE id = :id"),
            id=id_,
        )  # fmt: skip

    await penstock.runtime.database.unit(fail)
    listed = await browser.get("/dead?kind=prediction")
    assert "the disk is gone" in listed.text
    assert "today.csv by starter" in listed.text
    failed = await browser.get(asked.path)
    again = await browser.send(failed, "/dead/redrive")
    assert re.search(r"(?<!of )1 sent again", again.text), again.text  # not "0 of 1"
    done = await until(browser, asked.path, lambda page: "Result, CSV" in page.text)
    assert "40 scored" in done.text
    assert (await browser.fetch(f"{asked.path}/result.csv"))[0] == 200
    await penstock.runtime.database.unit(fail)
    dropped = await browser.send(
        await browser.get("/dead?kind=prediction"), "/dead/drop", row=f"prediction {id_}"
    )
    assert re.search(r"(?<!of )1 dropped", dropped.text), dropped.text
    put_away = await browser.get(asked.path)
    assert "Status ○ cancelled" in put_away.text, put_away.text


async def test_dead_trainings_are_found_by_their_model(penstock: Site) -> None:
    def make(tx: Tx) -> None:
        tx.run(
            sql("""
INSERT INTO models (id, account, name, latest, created_at) VALUES ('mdl_1', 'default', 'mine', 1, 1)
""")
        )
        tx.run(
            sql("""
INSERT INTO model_versions (id, model_id, account, folder, number, status, upload_id, options,
  promote, created_at, lane, error_code, error)
VALUES ('mdv_1', 'mdl_1', 'default', 'accounts/default/models/mdv_1', 1, 'FAILED', 'upl_1', '{}',
  FALSE, 1, 'model_training:nobody', 'internal_error', 'it took too long')
""")
        )

    database = penstock.runtime.database
    await database.unit(make)
    redrive, drop = DEAD_TRAININGS.redrive, DEAD_TRAININGS.drop
    assert await database.unit(lambda tx: redrive(tx, "other", ["mdv_1"])) == 0
    assert await database.unit(lambda tx: drop(tx, "other", ["mdv_1"])) == 0
    assert await database.unit(lambda tx: redrive(tx, "default", ["mdv_1", "mdv_2"])) == 1
    row = await database.read(
        lambda tx: tx.one(
            sql("SELECT status, folder, error FROM model_versions WHERE id = 'mdv_1'")
        )
    )
    assert row == ("TRAINING", "accounts/default/models/mdv_1.2", None)
    assert await database.unit(lambda tx: DEAD_PREDICTIONS.redrive(tx, "default", ["prd_1"])) == 0


async def test_without_the_service_there_are_no_pages(tmp_path: Path) -> None:
    async with (
        site(tmp_path / "data", services=("events",)) as penstock,
        penstock.browser(await penstock.key()) as browser,
    ):
        assert "Predictions" not in (await browser.get("/")).text
        for path in ("/predictions", "/models", "/models/starter"):
            assert (await browser.get(path)).status == 404

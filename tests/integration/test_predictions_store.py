"""Uploads, models, outcomes, memory and deletion of predictions, on both databases."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import Conflict, NotFound
from penstock.predictions import jobs, keeping, outcomes, registry, uploads
from penstock.predictions.refusal import Unusable
from penstock.predictions.registry import Chosen
from penstock.storage import Database, Tx, retention, sql
from penstock.storage.doomed import sweep
from penstock.work.kinds import Claim
from support.churn import csv_bytes, customers
from support.predicting import KEEP, House
from support.scoring import starter_csv

pytestmark = pytest.mark.anyio

READY = sql("""
UPDATE model_versions SET status = 'READY', due_at = NULL, sha256 = :sha, summary = '{}'
WHERE model_id = :model AND number = :number
""")
TABLES = ("uploads", "models", "model_versions", "predictions", "prediction_outcomes")


@pytest.fixture
async def house(database: Database, clock: object, tmp_path: Path) -> AsyncIterator[House]:
    made = House(database, clock, tmp_path)  # type: ignore[arg-type]
    yield made
    await made.made.close()


def options(**changes: Any) -> dict[str, Any]:
    told: dict[str, Any] = {
        "label": "churned",
        "id": "customer",
        "positive": ["yes"],
        "negative": [],
        "types": {},
        "drop": [],
        "keep": [],
        "required": [],
        "decimal": None,
        "date_order": None,
        "as_of": None,
        "risk": {"medium": 0.3, "high": 0.6},
        "name": "mine",
    }
    return told | changes


def begin(tx: Tx, name: str = "mine", account: str = "acme", **more: Any) -> tuple[str, int]:
    told = {"upload_id": "upl_x", "options": options(), "promote": False} | more
    model, version = registry.begin(tx, account, name, **told)
    return model.id, version.number


def ready(tx: Tx, model: str, number: int) -> None:
    tx.run(READY, model=model, number=number, sha="0" * 64)


# ------------------------------------------------------------------ uploads


async def test_an_upload_is_seen_once_it_is_complete(house: House) -> None:
    upload_id, folder = await house.database.unit(lambda tx: uploads.begin(tx, "acme"))
    with pytest.raises(NotFound):
        await house.database.read(lambda tx: uploads.get(tx, "acme", upload_id))
    with house.objects.writing(f"{folder}/content") as out:
        out.write(b"half")
    await house.database.unit(lambda tx: uploads.discard(tx, upload_id, folder))
    await sweep(house.database, house.objects)
    assert house.stored() == []

    made = await house.upload(starter_csv(20))
    assert made.names[0] == "customer_id"
    for account in ("other", "acme'"):
        with pytest.raises(NotFound):
            await house.database.read(lambda tx, a=account: uploads.get(tx, a, made.id))
    assert await house.database.read(lambda tx: uploads.page(tx, "other", None, 10)) == []


async def test_an_upload_that_is_read_is_not_deleted(house: House) -> None:
    made = await house.upload(starter_csv(20))
    id_, _ = await house.predict(made)
    with pytest.raises(Conflict):
        await house.database.unit(lambda tx: uploads.delete(tx, "acme", made.id))
    await house.database.unit(lambda tx: jobs.cancel(tx, "acme", id_))
    await house.database.unit(lambda tx: uploads.delete(tx, "acme", made.id))
    await sweep(house.database, house.objects)
    assert house.stored() == []


async def test_accounts_of_any_name_have_folders_of_their_own(house: House) -> None:
    names = ("../x", "auth0|7", "A", "a", ".", "~", "x" * 500, "a/b")
    made = [await house.upload(starter_csv(5), account=name) for name in names]
    assert len({each.folder.split("/")[1] for each in made}) == len(names)
    assert all(".." not in key for key in house.stored())
    ours = ("objects", "penstock")
    assert all(path.name.startswith(ours) for path in house.root.iterdir())


# ------------------------------------------------------------------ the same


async def test_requests_at_once_for_the_same_are_one_prediction(house: House) -> None:
    made = await house.upload(starter_csv(20))
    found = await asyncio.gather(*(house.predict(made) for _ in range(8)))
    assert len({id_ for id_, _ in found}) == 1
    assert sum(new for _, new in found) == 1
    forced, new = await house.predict(made, force=True)
    assert new
    assert await house.predict(made) == (forced, False)
    rejecting, new = await house.predict(made, reject=True)
    assert new
    await house.database.unit(lambda tx: jobs.cancel(tx, "acme", rejecting))
    again, new = await house.predict(made, reject=True)
    assert new  # one that was cancelled answers nobody
    assert again != rejecting


async def test_the_same_may_end_while_it_is_looked_for(house: House) -> None:
    """Another's transaction commits between two statements of ours."""
    made = await house.upload(starter_csv(20))
    first, _ = await house.predict(made)
    chosen = registry.the_starter()
    settled = await house.settled(made, chosen)

    class Between:
        def __init__(self, tx: Tx) -> None:
            self._tx = tx

        def __getattr__(self, name: str) -> Any:
            return getattr(self._tx, name)

        def one(self, statement: Any, **values: Any) -> Any:
            if statement is jobs._SAME:
                jobs.cancel(self._tx, "acme", first)
            return self._tx.one(statement, **values)

    id_, new = await house.database.unit(
        lambda tx: jobs.create(
            Between(tx),  # type: ignore[arg-type]
            made,
            chosen,
            settled,
            as_of="2026-01-31",
            reject=False,
            force=False,
        )
    )
    assert new
    assert id_ != first
    assert (await house.prediction(id_)).status == "QUEUED"


async def test_a_mapping_is_remembered_by_account_model_and_header(house: House) -> None:
    names = ["a", "b"]
    settled = {
        "matches": [
            {"wanted": "x", "position": 1, "how": "given"},
            {"wanted": "y", "position": 0, "how": "same"},
            {"wanted": "z", "position": None, "how": "none"},
        ]
    }
    for _ in range(2):
        await house.database.unit(lambda tx: jobs.remember(tx, "acme", "starter", names, settled))

    def look(account: str, model: str, header: list[str]) -> Any:
        return house.database.read(lambda tx: jobs.remembered(tx, account, model, header))

    assert await look("acme", "starter", names) == {"x": "#2"}
    assert await look("other", "starter", names) == {}
    assert await look("acme", "mdl_1", names) == {}
    assert await look("acme", "starter", ["a,b"]) == {}


# ------------------------------------------------------------------ models


async def test_versions_are_numbered_without_gaps_or_repeats(house: House) -> None:
    made = await asyncio.gather(*(house.database.unit(begin) for _ in range(6)))
    assert len({model for model, _ in made}) == 1
    assert sorted(number for _, number in made) == [1, 2, 3, 4, 5, 6]
    other = await house.database.unit(lambda tx: begin(tx, account="other"))
    assert other[1] == 1


async def test_what_is_live_can_be_changed_and_changed_back(house: House) -> None:
    model, _ = await house.database.unit(begin)
    for _ in range(2):
        await house.database.unit(begin)
    with pytest.raises(Conflict):  # not trained yet
        await house.database.unit(lambda tx: registry.promote(tx, "acme", model, 1))
    for number in (1, 2, 3):
        await house.database.unit(lambda tx, n=number: ready(tx, model, n))
        await house.database.unit(lambda tx, n=number: registry.promote(tx, "acme", model, n))
    live = []
    for _ in range(2):
        await house.database.unit(lambda tx: registry.roll_back(tx, "acme", model))
        live.append((await house.database.read(lambda tx: registry.get(tx, "acme", model))).live)
    assert live == [2, 1]
    with pytest.raises(Conflict):
        await house.database.unit(lambda tx: registry.roll_back(tx, "acme", model))
    await house.database.unit(lambda tx: registry.promote(tx, "acme", model, 3))
    await house.database.unit(lambda tx: registry.promote(tx, "acme", model, 3))  # once is enough
    await house.database.unit(lambda tx: registry.roll_back(tx, "acme", model))
    assert (await house.database.read(lambda tx: registry.get(tx, "acme", model))).live == 1
    for account, id_ in (("other", model), ("acme", "mdl_none")):
        with pytest.raises(NotFound):
            await house.database.unit(lambda tx, a=account, i=id_: registry.promote(tx, a, i, 1))


async def test_which_model_a_request_means(house: House) -> None:
    def choose(asked: str | None, account: str = "acme") -> Any:
        return house.database.read(lambda tx: registry.choose(tx, account, asked))

    assert await choose(None) == registry.the_starter()
    model, _ = await house.database.unit(begin)
    await house.database.unit(begin)
    assert await choose(None) == registry.the_starter()  # nothing is live yet
    with pytest.raises(Unusable, match="no live version"):
        await choose("mine")
    for number in (1, 2):
        await house.database.unit(lambda tx, n=number: ready(tx, model, n))
    await house.database.unit(lambda tx: registry.promote(tx, "acme", model, 1))
    chosen: Chosen = await choose(None)
    assert (chosen.id, chosen.number) == (model, 1)
    assert (await choose("mine@2")).number == 2
    assert (await choose(model)).number == 1
    assert (await choose("starter")) == registry.the_starter()
    for asked in ("mine@3", "theirs", "mine@", "mine@x"):
        with pytest.raises(Unusable):
            await choose(asked)
    with pytest.raises(Unusable):
        await choose(model, "other")
    second, _ = await house.database.unit(lambda tx: begin(tx, "second"))
    await house.database.unit(lambda tx: ready(tx, second, 1))
    await house.database.unit(lambda tx: registry.promote(tx, "acme", second, 1))
    with pytest.raises(Unusable, match="several models: 'mine', 'second'"):
        await choose(None)


async def test_a_training_is_done_asked_or_cancelled(house: House) -> None:
    """The first version is live at once; a question is kept; a cancelled one leaves nothing."""
    past = await house.upload(csv_bytes(customers(300)))
    model, _ = await house.database.unit(lambda tx: begin(tx, upload_id=past.id))
    assert await house.step(house.train)
    first = await house.database.read(lambda tx: registry.version(tx, "acme", model, 1))
    assert first.status == "READY"
    assert (await house.database.read(lambda tx: registry.get(tx, "acme", model))).live == 1
    (told,) = house.events("model.trained")
    assert told["metrics"]["auc"] > 0.6

    await house.database.unit(lambda tx: begin(tx, upload_id=past.id, options=options(positive=[])))
    assert await house.step(house.train)
    asked = await house.database.read(lambda tx: registry.version(tx, "acme", model, 2))
    assert (asked.status, asked.error_code, asked.question) == (
        "FAILED",
        "positive_label",
        "positive_label",
    )
    assert len(house.events("model.training_failed")) == 1
    assert (await house.database.read(lambda tx: registry.get(tx, "acme", model))).live == 1

    await house.database.unit(lambda tx: begin(tx, upload_id=past.id))
    train, begun, cancelled = house.made.deps.training.run, asyncio.Event(), asyncio.Event()

    async def run(*args: Any, **options: Any) -> Any:
        begun.set()
        made = await train(*args, **options)
        await cancelled.wait()
        return made

    house.made.deps.training.run = run  # type: ignore[method-assign]
    running = asyncio.create_task(house.step(house.train))
    await begun.wait()
    await house.database.unit(lambda tx: registry.cancel(tx, "acme", model, 3))
    cancelled.set()
    assert await running
    house.made.deps.training.run = train  # type: ignore[method-assign]
    third = await house.database.read(lambda tx: registry.version(tx, "acme", model, 3))
    assert third.status == "CANCELLED"
    await sweep(house.database, house.objects)
    assert [key for key in house.stored() if key.endswith("model.json")] == [
        f"{first.folder}/model.json"
    ]
    # An upload that is gone by the time of its training.
    await house.database.unit(lambda tx: begin(tx, upload_id="upl_none"))
    assert await house.step(house.train)
    gone = await house.database.read(lambda tx: registry.version(tx, "acme", model, 4))
    assert gone.error_code == "file_gone"

    await house.database.unit(lambda tx: registry.delete(tx, "acme", model))
    await sweep(house.database, house.objects)
    assert not [key for key in house.stored() if "models" in key]


async def test_a_training_may_be_told_to_be_live_at_its_end(house: House) -> None:
    summary = json.dumps({"rows": 300, "metrics": {}, "warnings": []})
    ended = sql("""
    UPDATE model_versions SET status = 'READY', ended_at = created_at, sha256 = 'x',
      summary = :summary WHERE model_id = :model AND number = :number RETURNING id, lane
    """)
    live = []

    def train(tx: Tx, promote: bool) -> None:
        model, number = begin(tx, promote=promote)
        found = tx.one(ended, model=model, number=number, summary=summary)
        assert found is not None
        claim = Claim(house.train.name, found[0], found[1], 1, 0, 0, 0)
        house.train.on_end(tx, claim, "READY", "")
        live.append(registry.get(tx, "acme", model).live)

    for promote in (False, False, True, False):
        await house.database.unit(lambda tx, p=promote: train(tx, p))
    assert live == [1, 1, 3, 3]
    assert [each["live"] for each in house.events("model.trained")] == [True, False, True, False]


# ------------------------------------------------------------------ outcomes


async def test_outcomes_are_kept_by_customer_and_grouped_by_score(house: House) -> None:
    id_, _ = await house.predict(await house.upload(starter_csv(20)))
    odd = 'é"\\ 😀'
    scores = {"a": 123_456, "b": 123_499, odd: 900_000}

    def put(**churned: bool) -> Any:
        told = {odd if key == "odd" else key: value for key, value in churned.items()}
        return house.database.unit(
            lambda tx: outcomes.put(tx, id_, {key: scores[key] for key in told}, told)
        )

    await put(a=True, b=False, odd=True)
    await put(a=False)
    groups, latest = await house.database.read(lambda tx: outcomes.groups(tx, id_))
    assert sorted(groups) == [(1234, 2, 0), (9000, 1, 1)]
    assert latest == house.clock.now()
    nothing = await house.database.read(lambda tx: outcomes.groups(tx, "prd_none"))
    assert nothing == ([], None)


async def test_quality_is_measured_where_there_are_enough(house: House) -> None:
    run = house.made.deps.aside.run
    few = await run("outcomes:quality", [(5000, 10, 5)], within=60.0)
    assert (few["customers"], few["churn_rate"], few["auc"]) == (10, 0.5, None)
    assert (await run("outcomes:quality", [], within=60.0))["mean_probability"] is None
    good = await run("outcomes:quality", [(1000, 100, 10), (9000, 100, 90)], within=60.0)
    assert good["auc"] == pytest.approx(0.9)
    assert good["calibration_error"] == pytest.approx(0.0, abs=1e-9)
    assert good["brier"] == pytest.approx(0.09)


# ------------------------------------------------------------------ retention, erasure


async def test_what_is_old_is_deleted_with_its_objects(house: House, clock: Any) -> None:
    made = await house.upload(starter_csv(20))
    done, _ = await house.predict(made)
    await house.steps(house.score)
    begun, _ = await house.database.unit(lambda tx: uploads.begin(tx, "acme"))
    # As old, and still needed: by a prediction that waits, by a training that does.
    waiting, _ = await house.predict(await house.upload(starter_csv(22)))
    past = await house.upload(starter_csv(23))
    await house.database.unit(lambda tx: begin(tx, upload_id=past.id))
    clock.advance(KEEP - 3600)
    recent, _ = await house.predict(await house.upload(starter_csv(21)))
    clock.advance(7200)
    rules = keeping.rules(KEEP)
    assert [await house.database.read(rule.count) for rule in rules] == [1, 2]
    for rule in rules:
        await retention.apply(house.database, rule)
    await sweep(house.database, house.objects)
    with pytest.raises(NotFound):
        await house.prediction(done)
    assert len(house.stored()) == 3
    assert await house.steps(house.score) == 4
    for id_ in (waiting, recent):
        assert (await house.prediction(id_)).status == "COMPLETED"
    assert await house.database.read(lambda tx: uploads.get(tx, "acme", past.id)) == past
    assert begun


async def test_an_account_is_erased_with_its_objects_and_nobody_elses(house: House) -> None:
    made = {name: await house.upload(starter_csv(20), account=name) for name in ("acme", "other")}
    done = {name: (await house.predict(each))[0] for name, each in made.items()}
    for name in made:
        await house.steps(house.score, name)
        model, _ = await house.database.unit(
            lambda tx, n=name: begin(tx, account=n, upload_id=made[n].id)
        )
        await house.database.unit(lambda tx, m=model: ready(tx, m, 1))
        await house.database.unit(
            lambda tx, n=name: outcomes.put(tx, done[n], {"C00001": 5}, {"C00001": True})
        )
    erased = await retention.erase(house.database, "acme")
    assert {name: erased.get(name) for name in TABLES} == dict.fromkeys(TABLES, 1)
    await sweep(house.database, house.objects)
    assert {key.split("/")[1] for key in house.stored()} == {"other"}
    assert (await house.prediction(done["other"], "other")).status == "COMPLETED"
    for table in TABLES[:4]:
        rows = await house.database.read(
            lambda tx, t=table: tx.rows(sql(f"SELECT count(*) FROM {t} WHERE account = 'acme'"))
        )
        assert rows == [(0,)]

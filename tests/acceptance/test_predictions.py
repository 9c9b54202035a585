"""Files scored by a real server: from the CSV to the webhook."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pyarrow.parquet as parquet
import pytest

from support.churn import csv_bytes, customers, small_model
from support.client import Api
from support.folders import below
from support.lag import CPU_HOG, Lag, plain_loop, probe_module
from support.process import Up, run
from support.receiver import Receiver
from support.scoring import (
    CSV,
    ONE_PROCESS,
    columns,
    completed,
    ended,
    fetch,
    key_of,
    paused,
    plant,
    score,
    starter_csv,
    upload,
    wide_csv,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A server that scores one chunk at a time, however many processors there are."""
    with Up(tmp_path_factory.mktemp("shared") / "data", env=ONE_PROCESS) as running:
        yield running


def rows_of(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode())))


def objects_of(data: Path) -> list[Path]:
    return [path for path in below(data / "objects") if path.is_file()]


def object_of(data: Path, pattern: str) -> Path:
    (found,) = [path for path in objects_of(data) if path.match(pattern)]
    return found


async def test_from_past_customers_to_a_webhook(api: Api, receiver: Receiver) -> None:
    """Upload, train, score by the new model, hear of it, fetch, and say what really happened."""
    endpoint = await api.endpoint(receiver.url("/told"), "model.*", "prediction.*")
    past = (await upload(api, csv_bytes(customers(400)))).json
    asked = {"upload_id": past["upload_id"], "label_column": "churned", "id_column": "customer"}

    made = await api.ok("POST", "/v1/models", asked)  # which value means churned?
    assert (made["status"], made["version"]) == ("TRAINING", 1)
    await receiver.arrived("/told", 1, 90)
    told = receiver.at("/told")[0].json
    assert told["event_type"] == "model.training_failed"
    assert told["payload"]["error"]["code"] == "positive_label"
    assert told["payload"]["error"]["question"] == "positive_label"
    first = await api.ok("GET", f"/v1/models/{made['model_id']}/versions/1")
    assert (first["status"], first["question"]) == ("FAILED", "positive_label")
    assert "'yes'" in first["error"]["message"]

    await api.ok("POST", "/v1/models", asked | {"positive_label": "yes"})
    await receiver.arrived("/told", 2, 90)
    told = receiver.at("/told")[1].json
    assert (told["event_type"], told["payload"]["live"]) == ("model.trained", True)
    model = await api.ok("GET", f"/v1/models/{made['model_id']}")
    assert (model["live_version"], model["latest_version"]) == (2, 2)
    assert [each["status"] for each in model["versions"]] == ["READY", "FAILED"]
    assert model["versions"][0]["trained"]["features"]

    today = customers(3000, 2)
    del today["churned"]
    today["customer"] = [f"00{id_}" for id_ in today["customer"]]
    today["customer"][5] = " "
    today["price"][8] = "cheap"
    scored = await score(api, csv_bytes(today))
    assert scored["status"] == "QUEUED"
    assert scored["estimate"]["rows"] == pytest.approx(3000, rel=0.05)
    assert (scored["model_id"], scored["model_version"], scored["demo"]) == (
        made["model_id"],
        2,
        False,
    )
    await receiver.arrived("/told", 3, 60)
    await asyncio.sleep(0.3)
    (delivery,) = receiver.at("/told")[2:]
    assert delivery.verifies(endpoint["secret"])
    assert delivery.json["event_type"] == "prediction.completed"
    payload = delivery.json["payload"]
    assert payload["prediction_id"] == scored["prediction_id"]
    assert (payload["rows_scored"], payload["rows_set_aside"]) == (2998, 2)

    found = await completed(api, scored["prediction_id"])
    summary = found["summary"]
    assert sum(summary["risk"].values()) == 2998
    assert payload["risk"] == summary["risk"]
    result = await fetch(api, scored["prediction_id"])
    assert hashlib.sha256(result).hexdigest() == summary["files"]["result.csv"]["sha256"]
    rows = rows_of(result)
    assert [row["customer"] for row in rows[:3]] == ["0000000", "0000001", "0000002"]
    assert list(rows[0]) == ["customer", "churn_probability", "risk_level"] + [
        f"reason_{n}" for n in (1, 2, 3)
    ]
    packed = parquet.read_table(
        io.BytesIO(await fetch(api, scored["prediction_id"], "result?format=parquet"))
    )
    assert packed.column("customer").to_pylist() == [row["customer"] for row in rows]
    probabilities = packed.column("churn_probability").to_pylist()
    assert [f"{p:.6f}" for p in probabilities] == [row["churn_probability"] for row in rows]
    errors = rows_of(await fetch(api, scored["prediction_id"], "errors.csv"))
    assert [(row["row"], row["code"], row["value"]) for row in errors] == [
        ("7", "missing_id", " "),
        ("10", "not_number", "cheap"),
    ]
    report = (await fetch(api, scored["prediction_id"], "report")).decode()
    assert "2,998 customers were scored" in report
    assert "<svg" in report

    happened = [{"id": row["customer"], "churned": n % 2 == 0} for n, row in enumerate(rows[:300])]
    path = f"/v1/predictions/{scored['prediction_id']}"
    stored = await api.ok(
        "POST", f"{path}/outcomes", {"outcomes": [*happened, {"id": "no one", "churned": True}]}
    )
    assert (stored["stored"], stored["not_found_ids"]) == (300, ["no one"])
    quality = await api.ok("GET", f"{path}/quality")
    assert (quality["customers"], quality["churned"]) == (300, 150)
    assert 0.3 < quality["auc"] < 0.7  # what happened has nothing to do with the scores
    over_time = await api.ok("GET", f"/v1/models/{made['model_id']}/quality")
    assert over_time["versions"][0]["customers"] == 300
    assert over_time["predictions"][0]["prediction_id"] == scored["prediction_id"]


async def test_the_first_file_is_scored_by_a_model_that_says_it_is_a_demonstration(
    server: Up,
) -> None:
    async with Api(server.url, await key_of(server.data, "new")) as api:
        template = (await api.call("GET", "/v1/templates/churn.csv")).body
        assert template.startswith(b"customer_id,tenure_months,plan,")
        shown = (await upload(api, template)).json
        assert (shown["mapping"]["model"], shown["mapping"]["demo"]) == ("starter", True)
        scored = await score(api, template)
        assert (scored["model"], scored["model_id"], scored["demo"]) == ("starter", None, True)
        assert "demonstration" in scored["message"]
        found = await completed(api, scored["prediction_id"])
        assert found["demo"]
        assert "demonstration" in found["message"]
        assert found["summary"]["notes"][0]["code"] == "demo_model"
        (listed,) = (await api.ok("GET", "/v1/predictions"))["items"]
        assert "demonstration" in listed["message"]
        report = (await fetch(api, scored["prediction_id"], "report")).decode()
        assert "The model is a demonstration" in report
        card = (await api.call("GET", "/v1/models/starter/card.html")).body.decode()
        assert "This model is a demonstration" in card
        assert (await api.ok("GET", "/v1/models/starter/card"))["demo"]
        (event,) = (await api.ok("GET", "/v1/events"))["items"]
        told = await api.ok("GET", f"/v1/events/{event['event_id']}")
        assert told["payload"]["demo"]


async def test_the_same_file_is_the_same_prediction_unless_forced(api: Api) -> None:
    content = starter_csv(300, seed=31)
    first = await score(api, content, model="starter")
    again = await api.call(
        "POST", "/v1/predictions", data=content, headers=CSV, query={"model": "starter"}
    )
    assert (again.status, again.json["prediction_id"]) == (200, first["prediction_id"])
    forced = await score(api, content, model="starter", force="true")
    assert forced["prediction_id"] != first["prediction_id"]
    await completed(api, first["prediction_id"])
    await completed(api, forced["prediction_id"])
    results = [await fetch(api, each["prediction_id"]) for each in (first, forced)]
    assert results[0] == results[1]
    latest = await score(api, content, model="starter")  # the forced one is now the one
    assert latest["prediction_id"] == forced["prediction_id"]
    other = await score(api, content, model="starter", on_bad_row="reject")
    assert other["prediction_id"] not in (first["prediction_id"], forced["prediction_id"])


async def test_a_mapping_is_confirmed_once(api: Api) -> None:
    """What is only similar is asked; the answer holds for the next file with that header."""
    renamed = columns(200, seed=5)
    renamed["Months"] = renamed.pop("tenure_months")
    asked = await api.call(
        "POST", "/v1/predictions", data=csv_bytes(renamed), headers=CSV, query={"model": "starter"}
    )
    assert (asked.status, asked.code) == (422, "unclear_mapping")
    assert asked.json["option"] == "mapping"
    kept = asked.json["upload_id"]
    shown = await api.ok("GET", f"/v1/uploads/{kept}", query={"model": "starter"})
    assert not shown["mapping"]["certain"]
    (unsure,) = [each for each in shown["mapping"]["columns"] if each["confidence"] < 0.95]
    assert unsure["model_column"] == "tenure_months"
    body = {"upload_id": kept, "model": "starter", "mapping": {"tenure_months": "Months"}}
    first = await api.ok("POST", "/v1/predictions", body)
    await completed(api, first["prediction_id"])

    following = columns(220, seed=6)
    following["Months"] = following.pop("tenure_months")
    second = await score(api, csv_bytes(following), model="starter")
    found = await completed(api, second["prediction_id"])
    assert found["rows_scored"] == 220


async def test_what_cannot_be_scored_fails_with_its_reason(api: Api, receiver: Receiver) -> None:
    await api.endpoint(receiver.url("/failed"), "prediction.failed")
    bad = columns(50, seed=7)
    bad["monthly_charge"][20] = "a lot"
    refused = await score(api, csv_bytes(bad), model="starter", on_bad_row="reject")
    found = await ended(api, refused["prediction_id"])
    assert (found["status"], found["error"]["code"]) == ("FAILED", "bad_row")
    assert "Row 22" in found["error"]["message"]
    answer = await api.call("GET", f"/v1/predictions/{refused['prediction_id']}/result")
    assert (answer.status, answer.code) == (409, "conflict")
    # Far below the first 64 KB that were looked at at once.
    unclosed = await score(api, starter_csv(4000, seed=8) + b'C9,"x', model="starter")
    found = await ended(api, unclosed["prediction_id"])
    assert (found["status"], found["error"]["code"]) == ("FAILED", "unclosed_quote")
    await receiver.arrived("/failed", 2)
    codes = {each.json["payload"]["error"]["code"] for each in receiver.at("/failed")}
    assert codes == {"bad_row", "unclosed_quote"}
    # A failed one is not given out for the same file: it may have been corrected on the server.
    again = await score(api, csv_bytes(bad), model="starter", on_bad_row="reject")
    assert again["prediction_id"] != refused["prediction_id"]


async def test_an_upload_that_raises_a_question_is_kept_and_answered(api: Api) -> None:
    cells = columns(30, seed=9)
    cells["plan"] = ["Été" for _ in cells["plan"]]
    answer = await upload(api, csv_bytes(cells).decode().encode("cp1252"), model="starter")
    assert answer.status == 201
    assert answer.json["question"]["code"] == "not_utf8"
    assert answer.json["question"]["option"] == "encoding"
    path = f"/v1/uploads/{answer.json['upload_id']}"
    refused = await api.call(
        "POST", "/v1/predictions", {"upload_id": answer.json["upload_id"], "model": "starter"}
    )
    assert (refused.status, refused.code) == (422, "not_utf8")
    read = await api.ok("PATCH", path, {"encoding": "cp1252"}, query={"model": "starter"})
    assert (read["question"], read["encoding"], read["mapping"]["certain"]) == (
        None,
        "cp1252",
        True,
    )
    made = await api.ok(
        "POST", "/v1/predictions", {"upload_id": read["upload_id"], "model": "starter"}
    )
    found = await completed(api, made["prediction_id"])
    assert [e["code"] for e in found["summary"]["notes"]] == [
        "demo_model",
        "unseen_category",
        "drift",
    ]


@pytest.mark.parametrize(
    "filename", ["../../../outside.csv", "CON", "x" * 300 + ".csv", "a\\..\\b.csv", "=cmd().csv"]
)
async def test_a_file_name_is_never_a_path(api: Api, server: Up, filename: str) -> None:
    form = aiohttp.FormData()
    form.add_field("file", starter_csv(20), filename=filename, content_type="text/csv")
    answer = await api.call("POST", "/v1/uploads", data=form)
    assert answer.status == 201, answer.body
    assert "/" not in answer.json["filename"]
    assert len(answer.json["filename"]) <= 200
    folder = server.data / "objects" / "accounts" / "default" / "uploads"
    stored = folder / answer.json["upload_id"] / "content"
    assert stored.read_bytes() == starter_csv(20)
    assert not [path for path in below(server.data.parent) if "outside" in path.name]
    assert oct(stored.stat().st_mode & 0o777) == "0o600"


async def test_gzip_is_unpacked_if_it_is_declared(api: Api) -> None:
    import gzip

    packed = gzip.compress(starter_csv(100))
    answer = await api.call(
        "POST", "/v1/uploads", data=packed, headers={"content-type": "application/gzip"}
    )
    assert (answer.status, answer.json["size"]) == (201, len(starter_csv(100)))
    bomb = gzip.compress(b"0" * 50_000_000)
    answer = await api.call(
        "POST", "/v1/uploads", data=bomb, headers={"content-type": "application/gzip"}
    )
    assert (answer.status, answer.code) == (413, "too_large_unpacked")


async def test_a_body_over_the_limit_is_refused_while_it_comes_in(tmp_path: Path) -> None:
    env = ONE_PROCESS | {"PENSTOCK_MAX_UPLOAD": "1MiB", "PENSTOCK_MAX_ROWS": "1000"}
    with Up(tmp_path / "data", env=env) as server:
        async with Api(server.url, server.token) as api:

            async def endless() -> Any:
                yield b"customer_id,plan\n"
                while True:
                    yield b"1,Monthly\n" * 10_000

            answer = await api.call("POST", "/v1/uploads", data=endless(), headers=CSV)
            assert (answer.status, answer.code) == (413, "body_too_large")
            declared = await api.call("POST", "/v1/uploads", data=b"x" * (2 << 20), headers=CSV)
            assert (declared.status, declared.code) == (413, "body_too_large")
            form = aiohttp.FormData()
            too_long = io.BytesIO(b"x" * ((1 << 20) + 1))
            form.add_field("file", too_long, filename="one byte more.csv")
            by_form = await api.call("POST", "/v1/uploads", data=form)
            assert (by_form.status, by_form.code) == (413, "body_too_large")
            assert (await api.ok("GET", "/v1/uploads"))["items"] == []
            scored = await score(api, starter_csv(1001))
            found = await ended(api, scored["prediction_id"])
            assert found["error"]["code"] == "too_many_rows"


async def test_what_was_tampered_with_is_refused(api: Api, server: Up) -> None:
    """A model file and an uploaded file: each is known by its SHA-256."""
    made = await plant(server.data, "tampered", small_model())
    file = object_of(server.data, f"{made}/*/model.json")
    document = json.loads(file.read_bytes())
    document["intercept"] = 5.0
    file.write_text(json.dumps(document))
    content = csv_bytes({"customer": ["1"], "tenure": ["1"]})
    path = f"/v1/models/{made}/versions/1"
    for answer in (
        await api.call(
            "POST", "/v1/predictions", data=content, headers=CSV, query={"model": "tampered"}
        ),
        await api.call("GET", f"{path}/card"),
        await api.call("GET", f"{path}/card.html"),
        await api.call("GET", f"{path}/file"),
        await api.call("GET", "/v1/templates/churn.csv", query={"model": "tampered"}),
    ):
        assert (answer.status, answer.code) == (422, "model_damaged")
    # Nor does it keep anybody from uploading, say to train the next one.
    theirs = await plant(server.data, "tampered", small_model(), account="unlucky")
    file = object_of(server.data, f"{theirs}/*/model.json")
    file.write_text(json.dumps(document))
    async with Api(server.url, await key_of(server.data, "unlucky")) as other:
        sent = await upload(other, starter_csv(5))
        assert (sent.status, sent.json["mapping"]) == (201, None)
        asked = await upload(other, starter_csv(5), model="tampered")
        assert (asked.status, asked.code) == (422, "model_damaged")
    # What an upload was by the time it was confirmed is what is scored, or nothing.
    kept = (await upload(api, starter_csv(500), model="starter")).json
    stored = object_of(server.data, f"{kept['upload_id']}/content")
    stored.write_bytes(starter_csv(500, seed=2)[: kept["size"]].ljust(kept["size"]))
    body = {"upload_id": kept["upload_id"], "model": "starter"}
    scored = await api.ok("POST", "/v1/predictions", body)
    found = await ended(api, scored["prediction_id"])
    assert (found["status"], found["error"]["code"]) == ("FAILED", "file_changed")


async def test_jobs_of_two_accounts_both_progress(server: Up) -> None:
    """Two of one account are not behind the ten of another: all have their turn.

    All begin at once: on a machine that stands still for a while, the ten would be done before the
    two have come.
    """
    await paused(server.data, "many", "few")
    async with (
        Api(server.url, await key_of(server.data, "many")) as many,
        Api(server.url, await key_of(server.data, "few")) as few,
    ):
        large = [wide_csv(11_000, seed=n) for n in range(12)]
        theirs = [await score(many, content) for content in large[:10]]
        mine = [await score(few, content) for content in large[10:]]
        jobs = {job["prediction_id"]: few for job in mine} | {
            job["prediction_id"]: many for job in theirs
        }
        await paused(server.data, "many", "few", paused=False)
        done: list[str] = []
        deadline = time.monotonic() + 100
        while len(done) < len(jobs):
            assert time.monotonic() < deadline
            for id_, api in jobs.items():
                if id_ not in done:
                    found = await api.ok("GET", f"/v1/predictions/{id_}")
                    if found["status"] == "COMPLETED":
                        done.append(id_)
            await asyncio.sleep(0.02)
        # Of twelve that began first, the account with two is served every other time.
        last_of_mine = max(done.index(job["prediction_id"]) for job in mine)
        assert last_of_mine <= 7, done


async def test_a_job_that_is_cancelled_ends_and_leaves_nothing(api: Api, server: Up) -> None:
    for seed in range(40, 44):
        scored = await score(api, wide_csv(60_000, seed=seed), model="starter")
        path = f"/v1/predictions/{scored['prediction_id']}"
        deadline = time.monotonic() + 60
        while (await api.ok("GET", path))["rows_scored"] == 0:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        cancelled = await api.ok("POST", f"{path}/cancel")
        # On a machine that stands still for a while, all may have been scored before.
        if cancelled["rows_scored"] < 60_000:
            break
    assert cancelled["status"] == "CANCELLED"
    await asyncio.sleep(1.0)
    found = await api.ok("GET", path)
    assert 0 < found["rows_scored"] == cancelled["rows_scored"] < 60_000
    assert (found["status"], found["summary"], found["eta_seconds"]) == ("CANCELLED", None, None)
    assert (await api.ok("POST", f"{path}/cancel"))["status"] == "CANCELLED"
    assert (await api.call("DELETE", path)).status == 204
    assert (await api.call("GET", path)).status == 404
    refused = await upload(api, b"%PDF-1.7" + b"x" * 70_000)
    assert refused.code == "not_csv"
    uploads = server.data / "objects" / "accounts" / "default" / "uploads"
    listed = (await api.ok("GET", "/v1/uploads", query={"limit": "100"}))["items"]
    # Nor are the parts of others kept once they are put together; of uploads there is what the
    # API lists, and nothing of what it refused.
    gone = {scored["prediction_id"], "parts"}
    deadline = time.monotonic() + 60
    while any(gone & set(path.parts) for path in objects_of(server.data)) or (
        {path.name for path in uploads.iterdir()} != {each["upload_id"] for each in listed}
    ):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)


async def test_the_event_loop_is_not_held_up_while_files_are_scored(
    tmp_path: Path, start: Callable[..., Any]
) -> None:
    """Beside as many processes that only use the processor, the loop is no later than without;
    nor, at the same time, than one that does nothing else.

    The time for which the loop's own thread ran between two looks does not depend on how busy the
    machine is: that is what 50 ms is the limit of.
    """
    # Made first: while it is, an idle connection may be closed.
    content = [starter_csv(80_000, seed=n) for n in range(50, 54)]
    module = probe_module(tmp_path)
    lag = Lag(tmp_path / "lag.json")
    env = ONE_PROCESS | {"PENSTOCK_TEST_LAG": str(lag.path)}
    server = start(Up, tmp_path / "data", "-A", f"{module}:app", env=env, cwd=tmp_path)
    async with Api(server.url, server.token) as api:
        # Everything is imported and started once before it is measured.
        await completed(api, (await score(api, starter_csv(2000)))["prediction_id"])
        with CPU_HOG():
            idle = await lag.over(2.0)
        async with plain_loop(tmp_path / "plain.json") as plain:
            begin = lag.mark()
            jobs = [await score(api, each) for each in content]
            for job in jobs:
                await completed(api, job["prediction_id"])
                await fetch(api, job["prediction_id"])
            busy, beside = await lag.since(begin), await plain.since(begin)
    assert busy.looks > 100
    assert busy.most_used < 0.05, busy
    # Others use the machine now and then: so they do the one or the other of what it is held to.
    usual = max(idle.late_99, beside.late_99)
    assert busy.late_99 < max(0.05, 3 * usual), (busy, idle, beside)


async def test_the_service_is_asked_for_by_name(tmp_path: Path) -> None:
    """Without its packages it says what to install, or is left out and has no routes."""
    # As if numpy were not installed.
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide" / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'numpy' else real(name, *a)\n"
    )
    env = {"PYTHONPATH": str(tmp_path / "hide"), "PENSTOCK_PORT": "0"}
    named = env | {"PENSTOCK_SERVICES": "events,predictions"}
    refused = await run("up", data=tmp_path / "named", env=named)
    assert refused.code == 2, refused
    assert "pip install 'penstock[predictions]'" in refused.stderr
    with Up(tmp_path / "default", env=env) as server:
        async with Api(server.url, server.token) as api:
            assert (await api.call("GET", "/v1/predictions")).status == 404
            assert "predictions" not in server.logged("server_started")[0]["services"]


async def test_the_server_process_imports_neither_numpy_nor_pyarrow(server: Up, api: Api) -> None:
    await completed(api, (await score(api, starter_csv(50), model="starter"))["prediction_id"])
    maps = Path(f"/proc/{server.pid}/maps")
    if not maps.exists() or os.name != "posix":
        pytest.skip("no /proc")
    loaded = maps.read_text()
    assert "numpy" not in loaded
    assert "libarrow" not in loaded

"""Files of strangers given to a real server, and what other accounts have."""

from __future__ import annotations

import asyncio
import csv
import datetime
import io
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.predictions import files
from penstock.predictions.model import Risk, load
from support.churn import csv_bytes, customers, small_model
from support.client import Answer, Api
from support.folders import below
from support.hostile import ANOTHER, FINE, HEAD, REFUSED, ROW, SCORES, Fine, Refused, lines
from support.process import Up
from support.scoring import (
    CSV,
    completed,
    ended,
    fetch,
    key_of,
    plant,
    score,
    starter_csv,
    upload,
)
from support.training import STOPPED, Stopped

pytestmark = pytest.mark.anyio

AT_ONCE = 8


@pytest.fixture
async def small(server: Up, api: Api) -> str:
    """The id of a model for which the tables of files are."""
    found = [each for each in (await api.ok("GET", "/v1/models"))["items"] if each["name"] == "s"]
    return found[0]["model_id"] if found else await plant(server.data, "s", small_model())


async def each_of(cases: dict[str, Any], check: Callable[[str], Any]) -> None:
    """Check all cases, some at once; say of all that fail what they are."""
    gate, wrong = asyncio.Semaphore(AT_ONCE), []

    async def one(name: str) -> None:
        async with gate:
            try:
                await check(name)
            except AssertionError as failed:
                wrong.append(f"{name}: {failed}")

    await asyncio.gather(*map(one, cases))
    assert not wrong, "\n\n".join(wrong)


async def test_every_file_that_cannot_be_used_is_refused(api: Api, small: str) -> None:
    """At once if it shows in the first 64 KB, else by its prediction; with what to do."""
    before = {each["upload_id"] for each in (await api.ok("GET", "/v1/uploads"))["items"]}
    kept: set[str | None] = set()

    async def check(name: str) -> None:
        refused: Refused = REFUSED[name]
        answer = await api.call(
            "POST", "/v1/predictions", data=refused.content, headers=CSV, query={"model": small}
        )
        if answer.status == 202:
            found = await ended(api, answer.json["prediction_id"])
            assert (found["status"], found["summary"]) == ("FAILED", None), found
            code, said = found["error"]["code"], found["error"]["message"]
        else:
            assert answer.status == (415 if refused.code == "not_csv" else 422), answer.body
            code, said = answer.code, answer.json["detail"]
            option = {"map": "mapping"}.get(refused.option or "", refused.option)
            assert answer.json.get("option") == option
            # What only an answer is missing for is kept, and nothing else.
            assert ("upload_id" in answer.json) == (refused.option is not None)
        kept.add(answer.json.get("upload_id"))
        assert code == refused.code, said
        assert re.search(refused.says, said), said

    await each_of(REFUSED, check)
    after = await api.ok("GET", "/v1/uploads", query={"limit": "100"})
    assert {each["upload_id"] for each in after["items"]} - before == kept - {None}


async def test_every_file_that_is_odd_and_clear_is_read(api: Api, small: str) -> None:
    async def check(name: str) -> None:
        fine: Fine = FINE[name]
        pairs = zip(fine.options[::2], fine.options[1::2], strict=True)
        options = {flag[2:].replace("-", "_"): value for flag, value in pairs}
        mapping = dict([options.pop("map").split("=")]) if "map" in options else {}
        came = await upload(api, fine.content, model=small, **options)
        assert (came.status, came.json["question"]) == (201, None), came.body
        asked = {"upload_id": came.json["upload_id"], "model": small, "mapping": mapping}
        made = await api.call("POST", "/v1/predictions", asked)
        assert made.status == 202, made.body
        found = await completed(api, made.json["prediction_id"])
        rows = list(csv.reader(io.StringIO((await fetch(api, found["prediction_id"])).decode())))
        assert [row[0] for row in rows[1:]] == ["00123", "A7"]
        assert tuple(row[1] for row in rows[1:]) == SCORES
        if fine.notice is not None:
            assert fine.notice in " ".join(each["message"] for each in found["summary"]["notes"])

    await each_of(FINE, check)


ODD = (
    '"new\nline",1,20,yes,Monthly',
    "00123,x,20,yes,Monthly",
    "short",
    "",
    ",1,20,yes,Monthly",
    'é,1,20,yes,"Mo\nnth\nly"',
    "Total,1,20,yes,Monthly",
    "漢,1,$20,perhaps,Monthly",
    "=1+1,1,inf,yes,Weekly",
    "nul\0,1,20,yes,Monthly",
    "long,1,20,yes,Monthly,,",
    "1e5,1e400,,,NA",
)
BAD = {1: "not_number", 2: "field_count", 4: "missing_id", 6: "totals_row", 7: "not_number",
       9: "nul_byte", 10: "field_count"}  # fmt: skip


@pytest.mark.parametrize(
    ("encoding", "newline"), [("utf-8-sig", "\r\n"), ("utf-16", "\n"), ("utf-16-be", "\r")]
)
async def test_places_of_errors_and_bytes_of_results_are_the_commands(
    api: Api, small: str, tmp_path: Path, encoding: str, newline: str
) -> None:
    """Also where a step of the work ends and the next begins, in whatever the file is written."""
    plain = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le"}.get(encoding, encoding)
    rows = []
    for n in range(900):
        rows += [f"{n:06},{n % 60},{n}.5,no,One year"] * 60 + list(ODD)
    data, line, expected = (HEAD + newline).encode(encoding), 2, []
    pieces = [data]
    size = len(data)
    for number, row in enumerate(rows, start=2):
        odd = (number - 2) % (60 + len(ODD)) - 60
        if odd in BAD:
            expected.append((str(number), str(line), str(size), BAD[odd]))
        piece = (row.replace("\n", newline) + newline).encode(plain)
        pieces.append(piece)
        size += len(piece)
        line += row.count("\n") + 1
    content = b"".join(pieces)

    made = await score(api, content, model=small)
    found = await completed(api, made["prediction_id"])
    assert found["bytes_done"] == found["bytes_total"] == len(content)
    names = ("result", "errors.csv", "report", "result?format=parquet")
    came = [await fetch(api, made["prediction_id"], name) for name in names]
    errors = list(csv.DictReader(io.StringIO(came[1].decode(), newline="")))
    places = [(e["row"], e["line"], e["byte"], e["code"]) for e in errors]
    assert [each for n, each in enumerate(places) if n == 0 or each[:3] != places[n - 1][:3]] == (
        expected
    )
    assert len(content) > 1.5 * (1 << 20)  # several chunks

    source = tmp_path / "upload.csv"  # what a file without a name is called
    source.write_bytes(content)
    by_command = [tmp_path / name for name in ("out.csv", "errors.csv", "r.html", "out.parquet")]
    for out in (by_command[0], by_command[3]):
        targets = files.Targets(out, by_command[1], by_command[2])
        day = datetime.date(2026, 1, 1)
        files.predict(source, small_model(), targets, files.Answers(), today=day)
    for name, one, other in zip(names, came, by_command, strict=True):
        assert one == other.read_bytes(), name


async def test_a_version_is_made_live_and_taken_back(api: Api, server: Up, small: str) -> None:
    """Without a version, a request means the live one; what was scored keeps its own."""
    strict = small_model(risk=Risk(0.1, 0.2))
    model = await plant(server.data, "changing", small_model(), strict)
    content = lines(ROW, ANOTHER).encode()
    first = await score(api, content, model="changing")
    assert (first["model_id"], first["model_version"]) == (model, 1)
    path = f"/v1/models/{model}"
    assert (await api.call("POST", f"{path}/rollback")).code == "conflict"
    assert (await api.ok("POST", f"{path}/promote", {"version": 2}))["live_version"] == 2
    second = await score(api, content, model="changing")
    assert second["model_version"] == 2
    levels = []
    for each in (first, second):
        await completed(api, each["prediction_id"])
        text = (await fetch(api, each["prediction_id"])).decode()
        levels.append([row["risk_level"] for row in csv.DictReader(io.StringIO(text))])
    assert levels == [["medium", "low"], ["high", "medium"]]
    back = await api.ok("POST", f"{path}/rollback")
    assert back["live_version"] == 1
    assert [each["how"] for each in back["promotions"]] == ["rolled back", "promoted", "promoted"]
    again = await api.call(
        "POST", "/v1/predictions", data=content, headers=CSV, query={"model": "changing"}
    )
    assert (again.status, again.json["prediction_id"]) == (200, first["prediction_id"])
    by_number = await score(api, content, model="changing@2", force="true")
    assert by_number["model_version"] == 2
    assert (await api.call("POST", f"{path}/promote", {"version": 3})).status == 404
    # With several live models a file comes in all the same; to be scored, one has to be named.
    came = await upload(api, content)
    assert (came.status, came.json["mapping"], len(came.json["columns"])) == (201, None, 5)
    unnamed = await api.call("POST", "/v1/predictions", {"upload_id": came.json["upload_id"]})
    assert (unnamed.code, "'s', 'changing'" in unnamed.json["detail"]) == ("unknown_model", True)
    # The file of a version is the model that the command takes.
    file = await api.call("GET", f"{path}/versions/2/file")
    assert load(file.body).risk == strict.risk
    card = await api.call("GET", f"{path}/versions/2/card.html")
    assert b"<svg" in card.body
    assert "sandbox" in card.headers["content-security-policy"]


async def test_nothing_of_another_account_can_be_named(api: Api, server: Up, small: str) -> None:
    """Not by an upload's id, not by a model's id or name, and no mapping is shared."""
    mine = (await upload(api, lines(ROW).encode(), model=small)).json["upload_id"]
    renamed = lines(ROW, head=HEAD.replace("tenure", "tenures"))
    asked = await upload(api, renamed.encode(), model=small)
    confirmed = {"upload_id": asked.json["upload_id"], "model": small}
    await api.ok("POST", "/v1/predictions", confirmed | {"mapping": {"tenure": "tenures"}})
    assert (await upload(api, renamed.encode(), model=small)).json["mapping"]["certain"]

    async with Api(server.url, await key_of(server.data, "stranger")) as theirs:
        for body in ({"upload_id": mine}, {"upload_id": mine, "model": "starter", "force": True}):
            answer = await theirs.call("POST", "/v1/predictions", body)
            assert (answer.status, answer.code) == (404, "not_found")
        label = {"label_column": "plan", "id_column": "customer", "positive_label": "Monthly"}
        answer = await theirs.call("POST", "/v1/models", {"upload_id": mine, **label})
        assert (answer.status, answer.code) == (404, "not_found")
        assert (await theirs.ok("GET", "/v1/models"))["items"] == []
        for name in (small, "s", f"{small}@1", "s@1"):
            for method, path in (("POST", "/v1/predictions"), ("POST", "/v1/uploads")):
                answer = await theirs.call(
                    method, path, data=lines(ROW).encode(), headers=CSV, query={"model": name}
                )
                assert (answer.status, answer.code) == (422, "unknown_model"), (path, answer.body)
            answer = await theirs.call("GET", "/v1/templates/churn.csv", query={"model": name})
            assert answer.code == "unknown_model"
        # A model of the same name, the same file: theirs is asked what mine was.
        await plant(server.data, "s", small_model(), account="stranger")
        answer = await theirs.call(
            "POST", "/v1/predictions", data=renamed.encode(), headers=CSV, query={"model": "s"}
        )
        assert answer.code == "unclear_mapping"
        assert (await theirs.ok("GET", "/v1/predictions"))["items"] == []


NAMES = (
    b'filename="two\r\n lines.csv"',
    b'filename="nul\x00.csv"',
    b"filename*=UTF-8''..%2F..%2Foutside.csv",
    b"filename*=UTF-8''%ff%00%0d%0aSet-Cookie:%20x=1",
    b'filename="/etc/cron.d/outside"',
    b'filename="C:\\\\..\\\\outside.csv"',
    b'filename="."',
    b'filename=".."',
    b'filename=""',
    'filename="\u202ecsv.exe"'.encode(),
)


@pytest.mark.parametrize("name", NAMES)
async def test_no_file_name_leads_anywhere(api: Api, server: Up, name: bytes) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; ' + name + b"\r\n\r\n"
        + starter_csv(2) + b"\r\n--x--\r\n"
    )  # fmt: skip
    headers = {"content-type": "multipart/form-data; boundary=x"}
    before = {path for path in below(server.data.parent) if "objects" not in path.parts}
    answer = await api.call("POST", "/v1/uploads", data=body, headers=headers)
    assert answer.status == 201, answer.body
    shown = answer.json["filename"] or ""
    assert shown.isprintable() or not shown
    assert not {"/", "\\"} & set(shown)
    after = {path for path in below(server.data.parent) if "objects" not in path.parts}
    assert {path.name for path in after - before} <= {"penstock.db-wal", "penstock.db-shm"}
    made = await api.ok("POST", "/v1/predictions", {"upload_id": answer.json["upload_id"]} | {
        "model": "starter", "force": True
    })  # fmt: skip
    await completed(api, made["prediction_id"])
    result = await api.call("GET", f"/v1/predictions/{made['prediction_id']}/result")
    assert result.headers["content-disposition"] == (
        f'attachment; filename="{made["prediction_id"]}-result.csv"'
    )


async def training_ended(api: Api, answer: Answer) -> dict[str, Any]:
    assert answer.status == 202, answer.body
    path = f"/v1/models/{answer.json['model_id']}/versions/{answer.json['version']}"
    deadline = time.monotonic() + 90
    while (found := await api.ok("GET", path))["status"] == "TRAINING":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    return dict(found)


async def test_a_training_asks_and_refuses_as_the_command_does(api: Api) -> None:
    """What is asked names the fields of the request, not the options of the command."""

    async def check(name: str) -> None:
        stopped: Stopped = STOPPED[name]
        file = (await upload(api, stopped.content, model="starter")).json
        body = {
            "upload_id": file["upload_id"],
            "name": "stopped",
            "label_column": "churned",
            "id_column": "customer",
        }
        if stopped.given:
            body["positive_label"] = "yes"
        found = await training_ended(api, await api.call("POST", "/v1/models", body))
        assert found["status"] == "FAILED"
        assert (found["error"]["code"], found["question"]) == (stopped.code, stopped.question)
        said = found["error"]["message"]
        assert re.search(stopped.says, said), said
        assert "--" not in said
        if stopped.fields is not None:
            assert said.endswith(f" Answer with {stopped.fields}."), said

    await each_of(STOPPED, check)
    assert (await api.ok("GET", "/v1/models"))["items"][0]["live_version"] is None


async def test_an_answer_of_the_training_is_taken(api: Api) -> None:
    """What was asked is not asked again, and the files of later days are read by it."""
    past = customers(400)
    past["joined"] = [f"{n % 12 + 1:02}/{n % 9 + 1:02}/2025" for n in range(400)]
    past["price"] = [text.replace(".", ",") for text in past["price"]]
    file = (await upload(api, csv_bytes(past, ";"), model="starter")).json
    body = {
        "upload_id": file["upload_id"],
        "name": "answered",
        "label_column": "churned",
        "positive_label": "yes",
        "id_column": "customer",
    }
    asked = []
    for answer in ({}, {"date_order": "dmy"}, {"as_of": "2026-01-31"}):
        body |= answer
        found = await training_ended(api, await api.call("POST", "/v1/models", body))
        asked.append(found["question"])
    assert asked == ["date_order", "as_of", None]
    assert (found["status"], found["live"]) == ("READY", True)
    assert "joined" in found["trained"]["features"]
    today = {name: cells[:50] for name, cells in past.items() if name != "churned"}
    today["joined"][7] = "31.12.2025"  # the order counts, not the mark between
    today["joined"][8] = "12/31/2025"
    today["price"][9] = "1.5"
    made = await score(api, csv_bytes(today, ";"), model="answered", as_of="2026-02-28")
    found = await completed(api, made["prediction_id"])
    assert found["as_of"] == "2026-02-28"
    text = (await fetch(api, made["prediction_id"], "errors.csv")).decode()
    assert [(e["row"], e["column"], e["code"]) for e in csv.DictReader(io.StringIO(text))] == [
        ("10", "joined", "not_date"),
        ("11", "price", "not_number"),
    ]

"""Predictions whose files are in a bucket: real processes, a server that speaks as S3 does."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pyarrow.parquet as parquet
import pytest

from penstock import AsyncClient, Client
from penstock.client import ApiError
from support.client import Api
from support.console import Browser
from support.process import Up, run
from support.s3_server import REGION, S3Server, running
from support.scoring import ONE_PROCESS, completed, starter_csv, upload
from support.sqs_server import ENVIRONMENT

pytestmark = pytest.mark.anyio

CHUNK = 1 << 20


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with running(seed=11) as server:
        yield server


@pytest.fixture(scope="module")
def env(s3: S3Server) -> dict[str, str]:
    return ENVIRONMENT | {
        "PENSTOCK_OBJECTS": "s3://penstock/objects",
        "PENSTOCK_S3_ENDPOINT_URL": s3.url,
        "PENSTOCK_AWS_REGION": REGION,
        "PENSTOCK_LOG_LEVEL": "debug",
    }


@pytest.fixture(scope="module")
def server(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("s3") / "data", env=env) as up:
        yield up


@pytest.fixture
async def api(server: Up) -> AsyncIterator[Api]:
    async with Api(server.url, server.token) as client:
        yield client


async def put(url: str, content: bytes, headers: Any = None) -> int:
    """A PUT as any program makes it, without a credential."""
    async with (
        aiohttp.ClientSession() as session,
        session.put(url, data=io.BytesIO(content), headers=headers) as answer,
    ):
        return answer.status


async def test_the_whole_story(server: Up, api: Api, s3: S3Server, env: dict[str, str]) -> None:
    """Sent to S3 by a signed URL, confirmed, scored, fetched from S3, deleted."""
    content = starter_csv(300, seed=5)
    sha256 = hashlib.sha256(content).hexdigest()
    async with AsyncClient(server.url, server.token) as client:
        told = await client.uploads.announce(len(content), sha256, filename="c:\\today.csv")
        with pytest.raises(ApiError) as early:
            await client.uploads.confirm(told.upload_id)
        assert early.value.code == "not_sent"
        assert await put(told.url, content[:-1], told.headers) == 403
        assert await put(told.url, content, told.headers) == 200
        found = await client.uploads.confirm(told.upload_id, model="starter")
        assert (found.filename, found.size, found.sha256) == ("today.csv", len(content), sha256)
        assert (await client.uploads.confirm(told.upload_id, model="starter")) == found

        # The same file through the server is the same prediction.
        direct = (await upload(api, content)).json
        made = await client.predictions.create(found.upload_id, model="starter")
        same = await client.predictions.create(direct["upload_id"], model="starter")
        assert same.prediction_id == made.prediction_id
        summary = (await completed(api, made.prediction_id))["summary"]

        result = await client.predictions.result(made.prediction_id)
        assert hashlib.sha256(result).hexdigest() == summary["files"]["result.csv"]["sha256"]
        packed = await client.predictions.result(made.prediction_id, format="parquet")
        assert parquet.read_table(io.BytesIO(packed)).num_rows == 300
        assert b"<svg" in await client.predictions.report(made.prediction_id)
    with Client(server.url, server.token) as blocking:
        assert await asyncio.to_thread(blocking.predictions.result, made.prediction_id) == result
        errors = await asyncio.to_thread(blocking.predictions.errors, made.prediction_id)
        assert errors.startswith(b"row,line,")
        stored = await asyncio.to_thread(
            blocking.predictions.outcomes, made.prediction_id, {"C00001": True}
        )
        assert stored.stored == 1
    await _links(server, api, made.prediction_id, result)

    assert not (server.data / "objects").exists()
    for path in ("predictions/" + made.prediction_id, "uploads/" + told.upload_id):
        await api.ok("DELETE", f"/v1/{path}")
    await api.ok("DELETE", f"/v1/uploads/{direct['upload_id']}")
    assert (await run("prune", data=server.data, env=env)).code == 0  # does not wait for its turn
    async with asyncio.timeout(30):  # the server may be at some of it itself
        while s3.keys:
            await asyncio.sleep(0.05)


async def _links(server: Up, api: Api, prediction_id: str, result: bytes) -> None:
    """What any program gets: an address that is nobody's for long, and is not written down."""
    headers = {"authorization": f"Bearer {server.token}"}
    path = f"{server.url}/v1/predictions/{prediction_id}/result"
    async with aiohttp.ClientSession() as session:
        async with session.get(path, headers=headers, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["cache-control"]) == (307, "no-store")
            link = answer.headers["location"]
        async with session.get(link) as answer:
            assert answer.headers["content-disposition"].startswith("attachment; filename=")
            assert await answer.read() == result
        async with session.get(path, headers=headers) as answer:  # drops the credential by itself
            assert answer.status == 200
        made = await api.ok("POST", "/v1/keys", {"name": "browser"})
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        browser = Browser(server.url, session)
        await browser.sign_in(made["key"])
        status, _, found = await browser.fetch(f"/predictions/{prediction_id}/result.csv")
        assert (status, found) == (200, result)
    assert "X-Amz-Signature" not in server.stderr
    async with asyncio.timeout(30):  # a check that takes more than a second or two fails
        while (ready := await api.call("GET", "/health/ready")).status != 200:
            await asyncio.sleep(0.1)
    assert ready.json["checks"]["objects"] == "ok"


async def test_what_was_announced_and_cannot_be_used(api: Api, s3: S3Server) -> None:
    async def announce(content: bytes, **more: Any) -> Any:
        body = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), **more}
        return await api.call("POST", "/v1/uploads/signed", body)

    large = {"size": 2 << 30, "sha256": "0" * 64}
    assert (await api.call("POST", "/v1/uploads/signed", large)).code == "body_too_large"
    bad = await api.call("POST", "/v1/uploads/signed", {"size": 1, "sha256": "x"})
    assert bad.code == "validation_failed"
    assert (await api.call("POST", "/v1/uploads/upl_none/confirm")).code == "not_found"

    image = b"\x89PNG\r\n\x1a\n" + bytes(100)
    for name in (None, "a\x00b"):
        status = 201 if name is None else 422
        assert (await announce(image, filename=name)).status == status
    told = (await announce(image, filename="image.csv")).json
    assert await put(told["url"], image, told["headers"]) == 200
    refused = await api.call("POST", f"/v1/uploads/{told['upload_id']}/confirm")
    assert refused.status in (415, 422)
    assert (await api.call("POST", f"/v1/uploads/{told['upload_id']}/confirm")).status == 404
    assert (await api.call("GET", f"/v1/uploads/{told['upload_id']}")).status == 404

    plain = starter_csv(20, seed=6)
    packed = gzip.compress(plain)
    told = (await announce(packed, filename="today.csv.gz")).json
    assert await put(told["url"], packed, told["headers"]) == 200
    found = await api.ok("POST", f"/v1/uploads/{told['upload_id']}/confirm")
    assert (found["size"], found["sha256"]) == (len(plain), hashlib.sha256(plain).hexdigest())
    # The URL still takes the archive, which changes nothing of what was made of it.
    assert await put(told["url"], packed, told["headers"]) == 200
    again = await api.ok("GET", f"/v1/uploads/{told['upload_id']}")
    assert again["sha256"] == found["sha256"]


async def test_a_bucket_out_of_reach(server: Up, api: Api, s3: S3Server) -> None:
    """Nothing is lost by it: it is said, and asked for again."""
    s3.faults.unreachable = True
    try:
        refused = await upload(api, starter_csv(10, seed=7))
        assert (refused.status, refused.code) == (503, "storage_unavailable")
        assert "retry-after" in refused.headers
        assert s3.url not in refused.body.decode()
        async with asyncio.timeout(30):  # an answer is kept for a moment
            while (ready := await api.call("GET", "/health/ready")).status != 503:
                await asyncio.sleep(0.1)
        assert ready.json["checks"]["database"] == "ok"
        assert ready.json["checks"]["objects"] == "objects cannot be read or written"
        assert (await api.call("GET", "/health/live")).status == 200
    finally:
        s3.faults.unreachable = False
    async with asyncio.timeout(30):
        while (await api.call("GET", "/health/ready")).status != 200:
            await asyncio.sleep(0.1)
    assert (await upload(api, starter_csv(10, seed=7))).status == 201


async def test_a_kill_in_the_middle_changes_no_byte(
    env: dict[str, str], s3: S3Server, start: Callable[..., Up], tmp_path: Path
) -> None:
    content = starter_csv(27_000, seed=8)
    assert len(content) > CHUNK
    data, env = tmp_path / "data", env | ONE_PROCESS | {"PENSTOCK_METRICS": "emf"}
    up = start(Up, data, env=env)
    async with Api(up.url, up.token) as api:
        s3.faults.stuck = "/parts/000001"  # the second of two: it does not come to its end
        sent = (await upload(api, content)).json
        body = {"upload_id": sent["upload_id"], "model": "starter"}
        made = await api.ok("POST", "/v1/predictions", body)
        await asyncio.to_thread(up.wait_logged, "prediction_chunk_scored")
    up.signal(signal.SIGKILL)
    up.wait()
    assert len(up.logged("prediction_chunk_scored")) == 1
    up = start(Up, data, env=env, port=up.port)
    async with Api(up.url, up.token) as api:
        s3.faults.stuck = ""
        first = await completed(api, made["prediction_id"], 90)
        again = await api.ok("POST", "/v1/predictions", body | {"force": True})
        second = await completed(api, again["prediction_id"], 90)
    assert first["rows_scored"] == second["rows_scored"] == 27_000
    for name, file in first["summary"]["files"].items():
        assert file["sha256"] == second["summary"]["files"][name]["sha256"], name
    assert up.terminate() == 0
    # A process that lives long sends its figures now and then, and the last of them at its end.
    lines = [line for line in up.logs if "_aws" in line]
    assert sum(line.get("RowsScored", 0) for line in lines) == 2 * 27_000
    assert {line["kind"] for line in lines if "ClaimToStart" in line} == {"prediction"}
    started = up.logged("prediction_processing_started")
    assert not started or started[0]["prediction_id"] == again["prediction_id"]
    assert s3.multiparts == {}

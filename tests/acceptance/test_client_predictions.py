"""The Python client's predictions, uploads and models against a real server."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from penstock import AsyncClient, Client
from penstock.client import ApiError
from support.churn import csv_bytes, customers
from support.process import Up
from support.scoring import columns, starter_csv

pytestmark = pytest.mark.anyio


async def test_a_file_is_scored_and_fetched(server: Up, tmp_path: Path) -> None:
    path = tmp_path / "customers.csv"
    path.write_bytes(starter_csv(200, seed=61))
    async with AsyncClient(server.url, server.token) as client:
        prediction = await client.predictions.score(path, model="starter")
        assert (prediction.status, prediction.demo) == ("QUEUED", True)
        deadline = time.monotonic() + 60
        while True:
            found = await client.predictions.get(prediction.prediction_id)
            if found.ended_at is not None:
                break
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert found.summary is not None
        assert found.summary["risk"]["low"] > 0
        result = await client.predictions.result(found.prediction_id)
        assert len(result.splitlines()) == 201
        packed = await client.predictions.result(found.prediction_id, format="parquet")
        assert packed.startswith(b"PAR1")
        assert (await client.predictions.errors(found.prediction_id)).startswith(b"row,line,")
        assert b"<svg" in await client.predictions.report(found.prediction_id)
        again = await client.predictions.create(found.upload_id, model="starter")
        assert again.prediction_id == found.prediction_id
        stored = await client.predictions.outcomes(
            found.prediction_id, {"C00001": True, "nobody": False}
        )
        assert (stored.stored, stored.not_found_ids) == (1, ("nobody",))
        quality = await client.predictions.quality(found.prediction_id)
        assert (quality.customers, quality.auc) == (1, None)
        listed = [each.prediction_id async for each in client.predictions.list(status="COMPLETED")]
        assert found.prediction_id in listed
        await client.predictions.delete(found.prediction_id)
        await client.uploads.delete(found.upload_id)
        with pytest.raises(ApiError) as gone:
            await client.predictions.get(found.prediction_id)
        assert gone.value.code == "not_found"


def test_a_question_is_answered_and_a_model_is_trained(server: Up) -> None:
    with Client(server.url, server.token) as client:
        assert client.uploads.template(model="starter").startswith(b"customer_id,")
        odd = columns(30, seed=62)
        odd["plan"] = ["Été" for _ in odd["plan"]]
        asked = client.uploads.create(csv_bytes(odd).decode().encode("cp1252"), model="starter")
        assert asked.question is not None
        assert asked.question.option == "encoding"
        told = client.uploads.answer(asked.upload_id, model="starter", encoding="cp1252")
        assert told.question is None
        assert told.mapping is not None
        assert told.mapping.certain
        assert told.columns[0].name == "customer_id"
        assert client.uploads.get(asked.upload_id, model="starter").mapping == told.mapping
        assert asked.upload_id in [each.upload_id for each in client.uploads.list()]

        past = client.uploads.create(csv_bytes(customers(300, seed=63)))
        version = client.models.train(
            past.upload_id,
            label_column="churned",
            id_column="customer",
            positive_label="yes",
            name="by client",
        )
        deadline = time.monotonic() + 90
        while (version := client.models.version(version.model_id, 1)).status == "TRAINING":
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert (version.status, version.live) == ("READY", True)
        assert client.models.card(version.model_id, 1)["name"] == "by client"
        assert client.models.file(version.model_id, 1).startswith(b'{"format"')
        detail = client.models.promote(version.model_id, 1)
        assert [each.version for each in detail.versions] == [1]
        with pytest.raises(ApiError) as none:
            client.models.rollback(version.model_id)
        assert none.value.code == "conflict"
        assert client.models.quality(version.model_id)["versions"] == []
        assert client.models.cancel(version.model_id, 1).status == "READY"
        client.models.delete(version.model_id)
        assert version.model_id not in [each.model_id for each in client.models.list()]

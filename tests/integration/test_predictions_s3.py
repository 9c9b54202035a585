"""Predictions and trainings whose objects are in a bucket, which cannot be reached for a while."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.storage import Database, sql
from penstock.storage.objects_s3 import Bucket
from support.predicting import House
from support.s3_server import REGION, S3Server, running
from support.scoring import starter_csv
from support.sqs_server import ENVIRONMENT

pytestmark = pytest.mark.anyio

ROW = sql("SELECT status, attempts, lapses, last_error FROM predictions WHERE id = :id")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with running(seed=3) as server:
        yield server


@pytest.fixture
async def house(
    database: Database, clock: Any, tmp_path: Path, s3: S3Server
) -> AsyncIterator[House]:
    made = House(database, clock, tmp_path, bucket=Bucket(s3.bucket, "objects", REGION, s3.url))
    yield made
    await made.made.close()


async def test_an_outage_of_the_bucket_gives_nothing_up(
    house: House, s3: S3Server, clock: Any
) -> None:
    """However often it is tried meanwhile: the file is not at fault."""
    upload = await house.upload(starter_csv(300))
    id_, _ = await house.predict(upload)
    s3.faults.forbidden = True
    for _ in range(7):  # more than the attempts that a file has
        assert await house.step(house.score)
        clock.advance(31)
    ((status, attempts, lapses, error),) = await house.database.read(
        lambda tx: tx.rows(ROW, id=id_)
    )
    assert (status, attempts, lapses) == ("QUEUED", 0, 0)
    assert error == "The objects in S3 cannot be reached: 403."
    assert house.told == []

    s3.faults.forbidden = False
    assert await house.steps(house.score) == 2  # its one chunk, and the end
    found = await house.prediction(id_)
    assert (found.status, found.rows_scored) == ("COMPLETED", 300)
    assert [event for _, event, _, _ in house.told] == ["prediction.completed"]
    results = {key.rpartition("/")[2] for key in s3.keys if "/predictions/" in key}
    assert results >= {"result.csv", "result.parquet", "errors.csv", "report.html"}

"""Files of customers for the starter model, and predictions followed to their end."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from penstock.api import keys
from penstock.clock import SystemClock
from penstock.predictions import jobs, registry
from penstock.predictions.model import Model, dump
from penstock.predictions.training.starter import customers
from penstock.storage import Tx, sql
from penstock.storage.objects import Folder
from penstock.storage.sqlite import SqliteDatabase
from penstock.work import lanes
from support.churn import csv_bytes
from support.client import Answer, Api

CSV = {"content-type": "text/csv"}
# What a server needs not to share the machine's other processors with its own tests.
ONE_PROCESS = {"PENSTOCK_PREDICTION_PROCESSES": "1"}


def columns(rows: int, seed: int = 1) -> dict[str, list[str]]:
    """Customers whom the starter model can score, by column."""
    found = customers(rows, seed)
    del found["churned"]
    return found


def starter_csv(rows: int, seed: int = 1) -> bytes:
    """The same as a CSV; some 47 bytes a row."""
    return csv_bytes(columns(rows, seed))


def wide_csv(rows: int, seed: int = 1) -> bytes:
    """The same with a long column that nobody needs: 4,000 rows make a chunk, soon scored."""
    return csv_bytes(columns(rows, seed) | {"note": ["x" * 215] * rows})


async def score(api: Api, content: bytes, **query: str) -> dict[str, Any]:
    """Have a CSV scored, which must be accepted."""
    made: dict[str, Any] = await api.ok(
        "POST", "/v1/predictions", data=content, headers=CSV, query=query
    )
    return made


async def ended(api: Api, prediction_id: str, seconds: float = 60.0) -> dict[str, Any]:
    """The prediction once it has ended."""
    deadline = time.monotonic() + seconds
    while True:
        found: dict[str, Any] = await api.ok("GET", f"/v1/predictions/{prediction_id}")
        if found["status"] not in ("QUEUED", "RUNNING"):
            return found
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.05)


async def completed(api: Api, prediction_id: str, seconds: float = 60.0) -> dict[str, Any]:
    """The prediction, which must come to its result."""
    found = await ended(api, prediction_id, seconds)
    assert found["status"] == "COMPLETED", found
    return found


async def fetch(api: Api, prediction_id: str, name: str = "result") -> bytes:
    """A file of the result."""
    answer = await api.call("GET", f"/v1/predictions/{prediction_id}/{name}")
    assert answer.status == 200, answer.body
    return answer.body


async def upload(api: Api, content: bytes, **query: str) -> Answer:
    """Upload a CSV."""
    return await api.call("POST", "/v1/uploads", data=content, headers=CSV, query=query)


async def key_of(data: Path, account: str) -> str:
    """An API key of another account, written beside the server that owns the database."""
    database = SqliteDatabase(data / "penstock.db", SystemClock(), owner=False)
    await database.open()
    try:
        _, secret = await database.unit(lambda tx: keys.create(tx, account, "test", None))
    finally:
        await database.close()
    return secret


async def paused(data: Path, *accounts: str, paused: bool = True) -> None:
    """Have no prediction of these accounts worked on, or again; all at once, beside the server."""

    def change(tx: Tx) -> None:
        for account in accounts:
            lane = f"{jobs.SCORE}:{account}"
            lanes.ensure(tx, lane, kind=jobs.SCORE, account=account, max_in_flight=jobs.AT_ONCE)
            lanes.configure(tx, lane, paused=paused)

    database = SqliteDatabase(data / "penstock.db", SystemClock(), owner=False)
    await database.open()
    try:
        await database.unit(change)
    finally:
        await database.close()


_READY = sql("""
UPDATE model_versions SET status = 'READY', due_at = NULL, ended_at = created_at, sha256 = :sha,
  summary = :summary
WHERE id = :id
""")


# What a training is told when nothing is said but what the label and the ids are.
_OPTIONS: dict[str, Any] = {
    "label": "churned",
    "id": "id",
    "positive": ["yes"],
    **{name: [] for name in ("negative", "drop", "keep", "required")},
    "types": {},
    **dict.fromkeys(("decimal", "date_order", "as_of", "name")),
    "risk": {"medium": 0.3, "high": 0.6},
}


async def plant(data: Path, name: str, *models: Model, account: str = "default") -> str:
    """Versions of a model as if they had been trained, the first one live; answers its id."""

    def ready(tx: Tx) -> str:
        found = None
        for each in models:
            found, version = registry.begin(
                tx, account, name, upload_id="upl_none", options=_OPTIONS, promote=False
            )
            content = dump(each)
            with Folder(data / "objects").writing(f"{version.folder}/{registry.FILE}") as out:
                out.write(content)
            sha = hashlib.sha256(content).hexdigest()
            tx.run(_READY, id=version.id, sha=sha, summary=json.dumps(_summary(each)))
        assert found is not None
        registry.promote(tx, account, found.id, 1)
        return found.id

    database = SqliteDatabase(data / "penstock.db", SystemClock(), owner=False)
    await database.open()
    try:
        return await database.unit(ready)
    finally:
        await database.close()


def _summary(model: Model) -> dict[str, Any]:
    names = ("auc", "pr_auc", "log_loss", "brier", "base_log_loss")
    return {
        "rows": model.training.rows,
        "positives": model.training.positives,
        "id_column": model.id_column,
        "label_column": model.label.column,
        "features": [feature.column.name for feature in model.features],
        "left_out": [],
        "warnings": [],
        "metrics": {name: getattr(model.metrics, name) for name in names}
        | {"calibration_error": model.metrics.ece},
    }

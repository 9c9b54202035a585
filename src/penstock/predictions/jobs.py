"""Predictions: their rows, from the request to the result. `run` does the work.

The same content, model and options are the same prediction unless somebody insists: its
fingerprint is unique per account as long as asking again can be answered with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from penstock.errors import NotFound
from penstock.ids import HIGHEST, new_id
from penstock.predictions.registry import Chosen
from penstock.predictions.specs import JsonObject
from penstock.predictions.uploads import Upload
from penstock.storage import Tx, sql
from penstock.storage.doomed import UNDER_WAY, doom
from penstock.storage.objects import of_account
from penstock.telemetry import PREDICTION_STATUS_UPDATED, LogEvent
from penstock.work import lanes

SCORE: Final = "prediction"  # the kind of work
# Of one account at the same time; its others wait, and each of all has its turn.
AT_ONCE: Final = 4

_INSERT = sql("""
INSERT INTO predictions
  (id, account, folder, status, fingerprint, upload_id, filename, size, model_name, model_id,
   model_number, model_sha256, demo, options, next_byte, next_row, next_line, created_at, lane,
   due_at)
VALUES
  (:id, :account, :folder, 'QUEUED', :fingerprint, :upload_id, :filename, :size, :model_name,
   :model_id, :model_number, :model_sha256, :demo, :options, :next_byte, :next_row, :next_line,
   {now}, :lane, {now})
ON CONFLICT (account, fingerprint) DO NOTHING
""")
_SAME = sql("SELECT id FROM predictions WHERE account = :account AND fingerprint = :fingerprint")
_RELEASE = sql("""
UPDATE predictions SET fingerprint = NULL WHERE account = :account AND fingerprint = :fingerprint
""")
_COLUMNS = """
SELECT id, account, folder, status, upload_id, filename, size, model_name, model_id, model_number,
  model_sha256, demo, options, next_byte, chunks, rows_scored, rows_set_aside, first_error, result,
  error_code, error, last_error, created_at, started_at, ended_at,
  CASE WHEN lease_until IS NULL THEN 0 ELSE 1 END AS held
FROM predictions
"""
_ONE = sql(f"{_COLUMNS} WHERE id = :id AND account = :account")
_PAGE = sql(f"""
{_COLUMNS} WHERE account = :account AND id < :before
  AND (:status = '' OR status = :status) AND (:upload = '' OR upload_id = :upload)
ORDER BY id DESC LIMIT :limit
""")
_CANCEL = sql("""
UPDATE predictions SET status = 'CANCELLED', due_at = NULL, ended_at = {now}, fingerprint = NULL
WHERE id = :id AND account = :account AND status IN ('QUEUED', 'RUNNING')
""")
_DELETE = sql("DELETE FROM predictions WHERE id = :id")

_REMEMBER = sql("""
INSERT INTO column_mappings (account, model, header, mapping, updated_at)
VALUES (:account, :model, :header, :mapping, {now})
ON CONFLICT (account, model, header)
DO UPDATE SET mapping = excluded.mapping, updated_at = excluded.updated_at
""")
_REMEMBERED = sql("""
SELECT mapping FROM column_mappings
WHERE account = :account AND model = :model AND header = :header
""")


@dataclass(frozen=True, slots=True)
class Prediction:
    """A prediction as it is stored. `options` and `result` are JSON documents of ours."""

    id: str
    account: str
    folder: str
    status: str
    upload_id: str
    filename: str | None
    size: int
    model_name: str
    model_id: str | None
    model_number: int | None
    model_sha256: str
    demo: bool
    options: JsonObject
    next_byte: int
    chunks: int
    rows_scored: int
    rows_set_aside: int
    first_error: str | None
    result: JsonObject | None
    error_code: str | None
    error: str | None
    last_error: str | None
    created_at: int
    started_at: int | None
    ended_at: int | None
    held: bool  # a worker is at it


@dataclass(frozen=True, slots=True)
class Told:
    """A note of a commit: what should be logged once it is durable."""

    event: LogEvent
    fields: Mapping[str, Any]
    rows: int = 0


def updated(tx: Tx, prediction_id: str, account: str, status: str, previous: str | None) -> None:
    """Have a change of the status logged."""
    tx.notify(
        Told(
            PREDICTION_STATUS_UPDATED,
            {
                "prediction_id": prediction_id,
                "account": account,
                "status": status,
                "previous": previous,
            },
        )
    )


# ------------------------------------------------------------------ creation


def create(
    tx: Tx,
    upload: Upload,
    chosen: Chosen,
    settled: Mapping[str, Any],
    *,
    as_of: str | None,
    reject: bool,
    force: bool,
) -> tuple[str, bool]:
    """Have a file scored by a settled mapping; answers the id, and whether it is a new one."""
    assert upload.layout is not None
    options = {
        "layout": upload.layout,
        "id": settled["id"],
        "features": settled["features"],
        "as_of": as_of if settled["dated"] else None,
        "reject": reject,
    }
    fingerprint = _fingerprint(upload.sha256, chosen.spec.sha256, options)
    options |= {
        "file": upload.file.key,
        "sha256": upload.sha256,
        "model": chosen.spec.key,
        "matches": settled["matches"],
        "notes": upload.facts["notes"],
        "rows_about": upload.facts["rows_about"],
    }
    account, id_ = upload.account, new_id("prd")
    lane = f"{SCORE}:{account}"
    lanes.ensure(tx, lane, kind=SCORE, account=account, max_in_flight=AT_ONCE)
    if force:
        tx.run(_RELEASE, account=account, fingerprint=fingerprint)
    while not tx.run(
        _INSERT,
        id=id_,
        account=account,
        folder=of_account(account, "predictions", id_),
        fingerprint=fingerprint,
        upload_id=upload.id,
        filename=upload.filename,
        size=upload.size,
        model_name=chosen.name,
        model_id=chosen.id,
        model_number=chosen.number,
        model_sha256=chosen.spec.sha256,
        demo=bool(settled["demo"]),
        options=json.dumps(options),
        next_byte=upload.layout["start"],
        next_row=upload.layout["row"],
        next_line=upload.layout["line"],
        lane=lane,
    ):
        same = tx.one(_SAME, account=account, fingerprint=fingerprint)
        if same is not None:
            return str(same[0]), False
        # It was cancelled, or failed, between the two statements: now there is no other.
    lanes.wake(tx, SCORE, lane)
    updated(tx, id_, account, "QUEUED", None)
    return id_, True


def _fingerprint(content: str, model: str, options: Mapping[str, Any]) -> str:
    text = json.dumps([content, model, options], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


# ------------------------------------------------------------------ mappings that were confirmed


def remember(
    tx: Tx, account: str, model: str, names: Sequence[str], settled: Mapping[str, Any]
) -> None:
    """Keep by which columns a header was mapped, for later files that have it."""
    mapping = {
        match["wanted"]: f"#{match['position'] + 1}"
        for match in settled["matches"]
        if match["position"] is not None and match["how"] == "given"
    }
    tx.run(
        _REMEMBER,
        account=account,
        model=model,
        header=_header(names),
        mapping=json.dumps(mapping),
    )


def remembered(tx: Tx, account: str, model: str, names: Sequence[str]) -> dict[str, str]:
    """What was confirmed for this header: the model's names to places such as ``#3``."""
    row = tx.one(_REMEMBERED, account=account, model=model, header=_header(names))
    return {} if row is None else dict(json.loads(row[0]))


def _header(names: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()


# ------------------------------------------------------------------ for people


def get(tx: Tx, account: str, prediction_id: str) -> Prediction:
    """The prediction. NotFound if it is not the account's."""
    found = tx.dicts(_ONE, id=prediction_id, account=account)
    if not found:
        raise NotFound("There is no such prediction.")
    return _prediction(found[0])


def page(
    tx: Tx,
    account: str,
    before: str | None,
    limit: int,
    *,
    status: str | None = None,
    upload: str | None = None,
) -> list[Prediction]:
    """Up to `limit` predictions, newest first, below the id `before`."""
    rows = tx.dicts(
        _PAGE,
        account=account,
        before=before or HIGHEST,
        limit=limit,
        status=status or "",
        upload=upload or "",
    )
    return [_prediction(row) for row in rows]


def cancel(tx: Tx, account: str, prediction_id: str) -> None:
    """Score no more chunks; doing it again, or too late, is harmless. NotFound."""
    before = get(tx, account, prediction_id)
    if tx.run(_CANCEL, id=prediction_id, account=account):
        doom(tx, f"{before.folder}/parts")
        updated(tx, prediction_id, account, "CANCELLED", before.status)


def delete(tx: Tx, account: str, prediction_id: str) -> None:
    """Delete it with its results and outcomes. NotFound."""
    found = get(tx, account, prediction_id)
    tx.run(_DELETE, id=prediction_id)
    doom(tx, found.folder, again=UNDER_WAY if found.held else 0.0)


def _prediction(row: Mapping[str, Any]) -> Prediction:
    values = dict(row)
    for name in ("options", "result"):
        values[name] = None if values[name] is None else json.loads(values[name])
    values |= {name: bool(values[name]) for name in ("demo", "held")}
    return Prediction(**values)

"""The work of a prediction: one chunk a step, then everything put together.

A step scores one chunk in another process, which stores it as an object; its settlement writes the
chunk into the ledger and moves on, in one commit. Whatever dies in between, the next step begins
where the ledger ends, and a chunk that is scored again becomes the same bytes under the same key.
Between two steps the account's other predictions, and other accounts', have their turn, and a
cancellation takes effect. The last step writes result, errors and report, and its settlement is
the completion and the event that tells of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from penstock.clock import SECOND
from penstock.errors import PenstockError, StorageUnavailable
from penstock.predictions import tell
from penstock.predictions.deps import Deps
from penstock.predictions.jobs import SCORE, Told, updated
from penstock.predictions.refusal import Unusable
from penstock.predictions.specs import (
    ChunkAt,
    ChunkDone,
    FileSpec,
    FinishSpec,
    JobSpec,
    JsonObject,
    ModelSpec,
    Place,
)
from penstock.storage import Tx, sql
from penstock.storage.doomed import doom
from penstock.telemetry import (
    CHUNK_DURATION,
    PREDICTION_CHUNK_SCORED,
    PREDICTION_PROCESSING_COMPLETED,
    PREDICTION_PROCESSING_FAILED,
    PREDICTION_PROCESSING_STARTED,
    log,
    metrics,
)
from penstock.work.kinds import Claim, Kind, Task
from penstock.work.outcomes import Dead, Done, Outcome, Postpone, Retry

ATTEMPTS: Final = 5
CHUNK_TIMEOUT: Final = 300.0  # seconds
FINISH_TIMEOUT: Final = 3600.0  # seconds
# Beside those that a process works on: one more, so that none is idle while another settles.
SPARE: Final = 1
STORAGE_PAUSE: Final = 30.0  # seconds, while objects cannot be read or written

_LOAD = sql("""
SELECT id, account, folder, status, filename, size, model_sha256, options, chunks, next_byte,
  next_row, next_line, rows_scored, rows_set_aside
FROM predictions WHERE id {in:ids}
""")
_START = sql("""
UPDATE predictions SET status = 'RUNNING', started_at = coalesce(started_at, {now})
WHERE id = :id AND status = 'QUEUED' AND generation = :generation AND lease_until IS NOT NULL
""")
_STATUS = sql("SELECT status FROM predictions WHERE id = :id")
_CHUNK = sql("""
INSERT INTO prediction_chunks (prediction_id, number, start_byte, end_byte, first_row, rows_scored,
                               rows_set_aside, sizes, sha256, at)
VALUES (:id, :number, :start_byte, :end_byte, :first_row, :rows_scored, :rows_set_aside, :sizes,
        :sha256, {now})
""")
_MOVE = sql("""
UPDATE predictions SET chunks = :number + 1, next_byte = :next_byte, next_row = :next_row,
  next_line = :next_line, rows_scored = rows_scored + :rows_scored,
  rows_set_aside = rows_set_aside + :rows_set_aside,
  first_error = coalesce(first_error, CAST(:first_error AS TEXT))
WHERE id = :id
""")
_LEDGER = sql("""
SELECT number, sizes, sha256 FROM prediction_chunks WHERE prediction_id = :id ORDER BY number
""")
_RESULT = sql("UPDATE predictions SET result = :result WHERE id = :id")
_WAIT = sql("UPDATE predictions SET status = 'QUEUED' WHERE id = :id AND status = 'RUNNING'")
_WHY = sql("UPDATE predictions SET error_code = :code, error = :message WHERE id = :id")
_FAILED = sql("""
UPDATE predictions SET fingerprint = NULL, error_code = coalesce(error_code, 'internal_error'),
  error = coalesce(error, CAST(:reason AS TEXT))
WHERE id = :id
""")
_ROW = sql("""
SELECT id, account, folder, status, upload_id, filename, model_name, model_id, model_number, demo,
  rows_scored, rows_set_aside, result, error_code, error, created_at, started_at, ended_at
FROM predictions WHERE id = :id
""")


@dataclass(frozen=True, slots=True)
class Work:
    """A prediction under way."""

    id: str
    account: str
    folder: str
    status: str
    filename: str | None
    size: int
    model_sha256: str
    options: JsonObject
    at: Place
    rows: int


def score_kind(deps: Deps, *, processes: int, lease: float) -> Kind[Work]:
    """The kind of work that scores files."""
    return Kind(
        name=SCORE,
        table="predictions",
        load=_load,
        handle=partial(_handle, deps),
        done="COMPLETED",
        dead="FAILED",
        terminal=frozenset({"COMPLETED", "FAILED", "CANCELLED"}),
        ended="ended_at",
        lease=lease,
        timeout=FINISH_TIMEOUT + 60.0,
        slots=processes + SPARE,
        max_attempts=ATTEMPTS,
        on_end=partial(_end, deps),
    )


def _load(tx: Tx, claims: Sequence[Claim]) -> Mapping[str, Work]:
    found = {}
    for row in tx.dicts(_LOAD, ids=[claim.id for claim in claims]):
        at = Place(row["chunks"], row["next_byte"], row["next_row"], row["next_line"])
        kept = ("id", "account", "folder", "status", "filename", "size", "model_sha256")
        found[row["id"]] = Work(
            **{name: row[name] for name in kept},
            options=json.loads(row["options"]),
            at=at,
            rows=row["rows_scored"] + row["rows_set_aside"],
        )
    return found


async def _handle(deps: Deps, task: Task[Work]) -> Outcome:
    work, claim = task.data, task.claim
    if work.status == "QUEUED":
        await deps.database.unit(lambda tx: _start(tx, work, claim.generation))
    try:
        if work.at.byte < work.size:
            done = await deps.scoring.run(
                "score:chunk", _spec(deps, work), work.folder, work.at, within=CHUNK_TIMEOUT
            )
            if done is not None:
                _tell(work, done)
                _refuse_many(deps, work, done)
                return Done(0.0, partial(_move, work, done))
        return await _finish(deps, work)
    except Unusable as refused:
        return Dead(f"{refused.code}: {refused.message}", partial(_refused, work, refused))
    except StorageUnavailable as exc:
        # Nothing is wrong with the file: however long that lasts, it is not given up for it.
        return Postpone(STORAGE_PAUSE, str(exc), lambda tx: _wait(tx, work))
    except (PenstockError, TimeoutError) as exc:
        reason = str(exc) or "it took too long"
        return Retry(reason=reason, apply=lambda tx: _wait(tx, work))


def _tell(work: Work, done: ChunkDone) -> None:
    metrics.observe(CHUNK_DURATION, done.seconds)
    log(
        PREDICTION_CHUNK_SCORED,
        prediction_id=work.id,
        chunk=done.number,
        rows=done.rows_scored,
        set_aside=done.rows_set_aside,
        seconds=round(done.seconds, 3),
    )


def _start(tx: Tx, work: Work, generation: int) -> None:
    if tx.run(_START, id=work.id, generation=generation):
        updated(tx, work.id, work.account, "RUNNING", "QUEUED")
        fields = {"prediction_id": work.id, "account": work.account, "chunk": work.at.number}
        tx.notify(Told(PREDICTION_PROCESSING_STARTED, fields))


def _spec(deps: Deps, work: Work) -> JobSpec:
    options = work.options
    return JobSpec(
        deps.objects,
        FileSpec(options["file"], work.size, options["sha256"]),
        ModelSpec(options["model"], work.model_sha256),
        options["layout"],
        options["id"],
        tuple(options["features"]),
        options["as_of"],
        options["reject"],
    )


def _refuse_many(deps: Deps, work: Work, done: ChunkDone) -> None:
    most = deps.max_rows
    if most is not None and work.rows + done.rows_scored + done.rows_set_aside > most:
        raise Unusable(
            "too_many_rows", f"The file has more than {most:,} rows. Divide it into several."
        )


async def _finish(deps: Deps, work: Work) -> Outcome:
    ledger = await deps.database.read(lambda tx: tx.rows(_LEDGER, id=work.id))
    spec = FinishSpec(
        _spec(deps, work),
        work.folder,
        work.filename or "upload.csv",
        tuple(ChunkAt(number, tuple(json.loads(sizes)), sha) for number, sizes, sha in ledger),
        tuple(work.options["notes"]),
        tuple(work.options["matches"]),
    )
    result = await deps.scoring.run("finish:finish", spec, within=FINISH_TIMEOUT)
    return Done(apply=partial(_complete, work, result))


# ------------------------------------------------------------------ in the settlement


def _cancelled(tx: Tx, work: Work) -> bool:
    """Whether somebody has ended it since the step was begun."""
    return tx.one(_STATUS, id=work.id) == ("CANCELLED",)


def _move(work: Work, done: ChunkDone, tx: Tx) -> None:
    if _cancelled(tx, work):
        # The step that was under way has stored its chunk after the others were deleted.
        doom(tx, f"{work.folder}/parts")
        return
    tx.run(
        _CHUNK,
        id=work.id,
        number=done.number,
        start_byte=done.start,
        end_byte=done.next.byte,
        first_row=work.at.row,
        rows_scored=done.rows_scored,
        rows_set_aside=done.rows_set_aside,
        sizes=json.dumps(done.sizes),
        sha256=done.sha256,
    )
    tx.run(
        _MOVE,
        id=work.id,
        number=done.number,
        next_byte=done.next.byte,
        next_row=done.next.row,
        next_line=done.next.line,
        rows_scored=done.rows_scored,
        rows_set_aside=done.rows_set_aside,
        first_error=done.first_error or None,
    )


def _complete(work: Work, result: JsonObject, tx: Tx) -> None:
    if _cancelled(tx, work):
        doom(tx, work.folder)
        return
    tx.run(_RESULT, id=work.id, result=json.dumps(result))
    doom(tx, f"{work.folder}/parts")


def _refused(work: Work, refused: Unusable, tx: Tx) -> None:
    # Nothing that was scored so far is given out.
    tx.run(_WHY, id=work.id, code=refused.code, message=refused.message)


def _wait(tx: Tx, work: Work) -> None:
    if tx.run(_WAIT, id=work.id):
        updated(tx, work.id, work.account, "QUEUED", "RUNNING")


def _end(deps: Deps, tx: Tx, claim: Claim, status: str, reason: str) -> None:
    if status == "FAILED":
        tx.run(_FAILED, id=claim.id, reason=reason)
    (row,) = tx.dicts(_ROW, id=claim.id)
    doom(tx, f"{row['folder']}/parts")
    updated(tx, row["id"], row["account"], status, "RUNNING")
    told = {"prediction_id": row["id"], "account": row["account"]}
    if status == "FAILED":
        told |= {"code": row["error_code"], "error": row["error"]}
        tx.notify(Told(PREDICTION_PROCESSING_FAILED, told))
        tell.failed(tx, deps.emit, row)
        return
    told |= {
        "rows": row["rows_scored"],
        "set_aside": row["rows_set_aside"],
        "seconds": round((row["ended_at"] - row["created_at"]) / SECOND, 3),
    }
    tx.notify(Told(PREDICTION_PROCESSING_COMPLETED, told, row["rows_scored"]))
    tell.completed(tx, deps.emit, row)

"""The work of a training: one step in another process, and a version that is ready or refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from penstock.clock import SECOND, to_iso
from penstock.errors import NotFound, PenstockError, StorageUnavailable
from penstock.predictions import registry, tell, uploads
from penstock.predictions.deps import Deps
from penstock.predictions.jobs import Told
from penstock.predictions.refusal import MissingExtra, Question, Unusable
from penstock.predictions.specs import FileSpec, JsonObject
from penstock.storage import Tx, sql
from penstock.storage.doomed import UNDER_WAY, doom
from penstock.telemetry import MODEL_TRAINED, MODEL_TRAINING_FAILED
from penstock.work.kinds import Claim, Kind, Task
from penstock.work.outcomes import Dead, Done, Outcome, Postpone, Retry

ATTEMPTS: Final = 3
TIMEOUT: Final = 3600.0  # seconds
STORAGE_PAUSE: Final = 30.0  # seconds, while objects cannot be read or written
LOOK_EVERY: Final = 1.0  # seconds between looks whether it was cancelled

# The API's names for the options that answer a question, where they are others.
_FIELDS: Final = {"positive": "positive_label", "negative": "negative_label"}

# How the file itself is read is said of its upload.
_OF_UPLOAD: Final = ("encoding", "delimiter", "header_row")

_LOAD = sql("""
SELECT id, account, folder, upload_id, options, created_at FROM model_versions WHERE id {in:ids}
""")
_STATUS = sql("SELECT status FROM model_versions WHERE id = :id")
_READY = sql("UPDATE model_versions SET sha256 = :sha256, summary = :summary WHERE id = :id")
_WHY = sql("""
UPDATE model_versions SET error_code = :code, error = :message, question = :question WHERE id = :id
""")
_UNEXPLAINED = sql("""
UPDATE model_versions SET error_code = 'internal_error', error = CAST(:reason AS TEXT)
WHERE id = :id AND error_code IS NULL
""")
_ROW = sql("""
SELECT v.id, v.account, v.folder, v.model_id, v.number, v.status, v.promote, v.summary,
  v.error_code, v.error, v.question, v.created_at, v.ended_at, m.name
FROM model_versions v JOIN models m ON m.id = v.model_id WHERE v.id = :id
""")
_MODEL = sql("""
SELECT id, account, name, live, latest, created_at FROM models WHERE id = :id {lock}
""")


@dataclass(frozen=True, slots=True)
class Training:
    """A version that is to be trained; without a file, its upload is gone."""

    id: str
    key: str
    options: JsonObject
    created_at: int
    file: FileSpec | None
    given: JsonObject


def train_kind(deps: Deps, *, lease: float) -> Kind[Training]:
    """The kind of work that trains models."""
    return Kind(
        name=registry.TRAIN,
        table="model_versions",
        load=_load,
        handle=partial(_handle, deps),
        done="READY",
        dead="FAILED",
        terminal=frozenset({"READY", "FAILED", "CANCELLED"}),
        ended="ended_at",
        lease=lease,
        timeout=TIMEOUT + 60.0,
        slots=1,
        max_attempts=ATTEMPTS,
        on_end=partial(_end, deps),
    )


def _load(tx: Tx, claims: Sequence[Claim]) -> Mapping[str, Training]:
    found = {}
    for row in tx.dicts(_LOAD, ids=[claim.id for claim in claims]):
        file, given = None, {}
        try:
            upload = uploads.get(tx, row["account"], row["upload_id"])
        except NotFound:
            pass
        else:
            file, given = upload.file, upload.given
        found[row["id"]] = Training(
            row["id"],
            f"{row['folder']}/{registry.FILE}",
            json.loads(row["options"]),
            row["created_at"],
            file,
            given,
        )
    return found


async def _handle(deps: Deps, task: Task[Training]) -> Outcome:
    work = task.data
    if work.file is None:
        gone = Unusable("file_gone", "The upload is not there any more. Upload it again.")
        return _refused(work, gone)
    running = asyncio.ensure_future(
        deps.training.run(
            "train:train",
            deps.objects,
            work.file,
            work.given,
            work.options,
            # Not now: a training that is done again makes the same file.
            to_iso(work.created_at),
            work.key,
            within=TIMEOUT,
        )
    )
    try:
        while not running.done():
            await asyncio.wait([running], timeout=LOOK_EVERY)
            if not running.done() and await _cancelled(deps, work):
                return Done()  # whatever is said of a cancelled row, it stays cancelled
        made = running.result()
    except Unusable as refused:
        return _refused(work, refused)
    except MissingExtra as missing:
        return _refused(work, Unusable("training_unavailable", f"{missing}."))
    except StorageUnavailable as exc:
        return Postpone(STORAGE_PAUSE, str(exc))
    except (PenstockError, TimeoutError) as exc:
        return Retry(reason=str(exc) or "it took too long")
    finally:
        running.cancel()  # which kills its process, if it is not over
        await asyncio.wait([running])
    return Done(apply=partial(_ready, work, made))


def how(refused: Unusable) -> str:
    """By which fields of a request it is answered, if it is a question."""
    if not isinstance(refused, Question):
        return ""
    if refused.option in _OF_UPLOAD:
        return f" Answer with {refused.option} in a PATCH of the upload."
    ways = []
    for answer in refused.answers:
        value: Any = answer.value
        if answer.column:
            value = {answer.column: value} if value else [answer.column]
        field = json.dumps({_FIELDS.get(answer.option, answer.option): value}, ensure_ascii=False)
        ways.append(field[1:-1])
    return f" Answer with {' or '.join(ways)}." if ways else ""


async def _cancelled(deps: Deps, work: Training) -> bool:
    return await deps.database.read(lambda tx: tx.one(_STATUS, id=work.id)) != ("TRAINING",)


def _refused(work: Training, refused: Unusable) -> Outcome:
    question = None
    if isinstance(refused, Question):
        question = _FIELDS.get(refused.option, refused.option)
    code, message = refused.code, refused.message + how(refused)

    def why(tx: Tx) -> None:
        tx.run(_WHY, id=work.id, code=code, message=message, question=question)

    return Dead(f"{code}: {message}", why)


def _ready(work: Training, made: JsonObject, tx: Tx) -> None:
    summary = json.dumps(made["summary"])
    tx.run(_READY, id=work.id, sha256=made["sha256"], summary=summary)


def _end(deps: Deps, tx: Tx, claim: Claim, status: str, reason: str) -> None:
    if status == "FAILED":
        tx.run(_UNEXPLAINED, id=claim.id, reason=reason)
    (row,) = tx.dicts(_ROW, id=claim.id)
    told = {"model_id": row["model_id"], "account": row["account"], "version": row["number"]}
    if status == "FAILED":
        doom(tx, row["folder"], again=UNDER_WAY)
        told |= {"code": row["error_code"], "error": row["error"]}
        tx.notify(Told(MODEL_TRAINING_FAILED, told))
        tell.training_failed(tx, deps.emit, row)
        return
    # The first one is live at once: without it, the model's name stands for nothing.
    (found,) = tx.dicts(_MODEL, id=row["model_id"])
    model = registry.Model(**found)
    live = model.live is None or bool(row["promote"])
    if live:
        registry.make_live(tx, model, row["number"], "trained")
    told["seconds"] = round((row["ended_at"] - row["created_at"]) / SECOND, 3)
    tx.notify(Told(MODEL_TRAINED, told))
    tell.trained(tx, deps.emit, row, live=live)

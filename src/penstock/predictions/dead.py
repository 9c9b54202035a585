"""Predictions and trainings that gave up: done again from the beginning, or put away for good.

Only what gave up after several tries is dead work. What was refused, or has a question, has its
answer: doing it again would end the same way.
"""

from __future__ import annotations

from typing import Final

from penstock.errors import NotFound
from penstock.predictions import jobs
from penstock.predictions.jobs import SCORE, updated
from penstock.predictions.registry import TRAIN
from penstock.storage import Tx, sql
from penstock.storage.doomed import UNDER_WAY, doom
from penstock.work.care import DeadWork, dropping, redriving

_GAVE_UP: Final = "status = 'FAILED' AND error_code = 'internal_error'"

_SCORE_AGAIN = sql(f"""
UPDATE predictions SET status = 'QUEUED', due_at = {{now}}, attempts = 0, lapses = 0,
  folder = :folder, chunks = 0, next_byte = :byte, next_row = :row, next_line = :line,
  rows_scored = 0, rows_set_aside = 0, first_error = NULL, error_code = NULL, error = NULL,
  started_at = NULL, ended_at = NULL
WHERE id = :id AND account = :account AND {_GAVE_UP} AND lease_until IS NULL
RETURNING lane
""")  # noqa: S608 - our own words
_FORGET_CHUNKS = sql("DELETE FROM prediction_chunks WHERE prediction_id = :id")
_DROP_SCORING = sql(f"""
UPDATE predictions SET status = 'CANCELLED', due_at = NULL, ended_at = {{now}}
WHERE id {{in:ids}} AND account = :account AND {_GAVE_UP}
""")  # noqa: S608
_TRAIN_AGAIN = sql(f"""
UPDATE model_versions SET status = 'TRAINING', due_at = {{now}}, attempts = 0, lapses = 0,
  folder = :folder, error_code = NULL, error = NULL, question = NULL, ended_at = NULL
WHERE id = :id AND account = :account AND {_GAVE_UP} AND lease_until IS NULL
RETURNING lane
""")  # noqa: S608 - our own words
_FOLDER = sql("SELECT folder FROM model_versions WHERE id = :id AND account = :account")
_DROP_TRAINING = sql(f"""
UPDATE model_versions SET status = 'CANCELLED', due_at = NULL, ended_at = {{now}}
WHERE id {{in:ids}} AND account = :account AND {_GAVE_UP}
""")  # noqa: S608


def _score_again(tx: Tx, account: str, id_: str) -> str | None:
    try:
        found = jobs.get(tx, account, id_)
    except NotFound:
        return None
    layout = found.options["layout"]
    row = tx.one(
        _SCORE_AGAIN,
        id=id_,
        account=account,
        # What was in the old one is being deleted.
        folder=_another(found.folder),
        byte=layout["start"],
        row=layout["row"],
        line=layout["line"],
    )
    if row is None:
        return None
    tx.run(_FORGET_CHUNKS, id=id_)
    doom(tx, found.folder, again=UNDER_WAY)
    updated(tx, id_, account, "QUEUED", "FAILED")
    return str(row[0])


def _train_again(tx: Tx, account: str, id_: str) -> str | None:
    found = tx.one(_FOLDER, id=id_, account=account)
    if found is None:
        return None
    row = tx.one(_TRAIN_AGAIN, id=id_, account=account, folder=_another(found[0]))
    return None if row is None else str(row[0])


def _another(folder: str) -> str:
    """``…/prd_x`` becomes ``…/prd_x.2``, then ``.3``."""
    name, dot, number = folder.rpartition(".")
    return f"{name}.{int(number) + 1}" if dot and number.isdecimal() else f"{folder}.2"


DEAD_PREDICTIONS: Final = DeadWork(
    kind=SCORE,
    area="predictions",
    table="predictions",
    prefix="prd",
    title="coalesce(w.filename, 'a file') || ' by ' || w.model_name",
    about="w.id",
    ended="ended_at",
    redrive=redriving(SCORE, _score_again),
    drop=dropping(_DROP_SCORING),
    dead=_GAVE_UP,
)
DEAD_TRAININGS: Final = DeadWork(
    kind=TRAIN,
    area="models",
    table="model_versions",
    prefix="mdv",
    title="m.name || ', version ' || CAST(w.number AS TEXT)",
    about="w.model_id",
    ended="ended_at",
    redrive=redriving(TRAIN, _train_again),
    drop=dropping(_DROP_TRAINING),
    join="JOIN models m ON m.id = w.model_id",
    dead=_GAVE_UP,
)

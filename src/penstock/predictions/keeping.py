"""How long uploads and predictions are kept, and the objects of what is gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from penstock.clock import SECOND
from penstock.storage import Database, Statement, Tx, sql
from penstock.storage.doomed import doom, sweep
from penstock.storage.objects import Objects
from penstock.storage.retention import Rule, batches
from penstock.work.schedule import Periodic

AT_ONCE: Final = 50
SWEEP_EVERY: Final = 15.0  # seconds
ABANDONED: Final = 86400.0  # seconds after which a file that never came to its end is deleted

_PREDICTIONS = "FROM predictions WHERE ended_at < {now} - :age AND lease_until IS NULL"
_OLD_PREDICTIONS = sql(f"SELECT id, folder {_PREDICTIONS} ORDER BY ended_at LIMIT {AT_ONCE}")
_COUNT_PREDICTIONS = sql(f"SELECT count(*) {_PREDICTIONS}")
# An outcome has a row of its own: of a prediction with many, some go first.
_OUTCOMES = sql("""
DELETE FROM prediction_outcomes WHERE (prediction_id, customer_id) IN
  (SELECT prediction_id, customer_id FROM prediction_outcomes WHERE prediction_id = :id LIMIT 5000)
""")
_DELETE_PREDICTION = sql("DELETE FROM predictions WHERE id = :id")
_UPLOADS = """
FROM uploads u WHERE
  ((u.status = 'ready' AND u.created_at < {now} - :age)
   OR (u.status = 'receiving' AND u.created_at < {now} - :abandoned))
  AND NOT EXISTS (SELECT 1 FROM predictions p
                  WHERE p.upload_id = u.id AND p.status IN ('QUEUED', 'RUNNING'))
  AND NOT EXISTS (SELECT 1 FROM model_versions v
                  WHERE v.upload_id = u.id AND v.status = 'TRAINING')
"""
_OLD_UPLOADS = sql(f"SELECT u.id, u.folder {_UPLOADS} ORDER BY u.created_at LIMIT {AT_ONCE}")
_COUNT_UPLOADS = sql(f"SELECT count(*) {_UPLOADS}")
_DELETE_UPLOAD = sql("DELETE FROM uploads WHERE id = :id")


def rules(keep: float) -> tuple[Rule, ...]:
    """Predictions, `keep` seconds after they ended, and uploads, as long after they came in."""
    age = int(keep * SECOND)
    abandoned = int(ABANDONED * SECOND)

    def prune_predictions(tx: Tx) -> int:
        deleted = 0
        for id_, folder in tx.rows(_OLD_PREDICTIONS, age=age):
            if tx.run(_OUTCOMES, id=id_) >= 5000:
                return deleted + 1  # and go on with it
            tx.run(_DELETE_PREDICTION, id=id_)
            doom(tx, folder)
            deleted += 1
        return deleted

    def prune_uploads(tx: Tx) -> int:
        found = tx.rows(_OLD_UPLOADS, age=age, abandoned=abandoned)
        for id_, folder in found:
            tx.run(_DELETE_UPLOAD, id=id_)
            doom(tx, folder)
        return len(found)

    return (
        Rule(
            "predictions",
            batches(prune_predictions),
            _counting(_COUNT_PREDICTIONS, age=age),
            every=3600.0,
        ),
        Rule(
            "uploads",
            batches(prune_uploads),
            _counting(_COUNT_UPLOADS, age=age, abandoned=abandoned),
            every=3600.0,
        ),
    )


def sweeping(database: Database, objects: Objects) -> Periodic:
    """Deletes the objects of what is gone."""

    async def run() -> None:
        await sweep(database, objects)

    return Periodic("doomed objects", SWEEP_EVERY, run)


def _counting(statement: Statement, **ages: int) -> Callable[[Tx], int]:
    def count(tx: Tx) -> int:
        ((n,),) = tx.rows(statement, **ages)
        return int(n)

    return count

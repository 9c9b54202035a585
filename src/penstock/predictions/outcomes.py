"""What really became of customers who were scored, and how good the scores were."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from penstock.errors import Conflict
from penstock.predictions.jobs import Prediction
from penstock.predictions.specs import JsonObject
from penstock.storage import Tx, sql

MOST: Final = 10_000  # of one request
SHOWN: Final = 20  # ids that were not found
AT_ONCE: Final = 1_000  # rows of one statement

_PUT = sql(
    sqlite="""
INSERT INTO prediction_outcomes (prediction_id, customer_id, score, churned, at)
SELECT :id, json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
  {now} FROM json_each(:rows) WHERE TRUE
ON CONFLICT (prediction_id, customer_id)
DO UPDATE SET churned = excluded.churned, score = excluded.score, at = excluded.at
""",
    postgres="""
INSERT INTO prediction_outcomes (prediction_id, customer_id, score, churned, at)
SELECT :id, value ->> 0, (value ->> 1)::int, (value ->> 2)::boolean, {now}
FROM json_array_elements(CAST(:rows AS json)) AS value
ON CONFLICT (prediction_id, customer_id)
DO UPDATE SET churned = excluded.churned, score = excluded.score, at = excluded.at
""",
)
# To four decimals: so there are never more than 10,001 rows, however many customers there are.
_OF_ONE = sql("""
SELECT score / 100, count(*), sum(CASE WHEN churned THEN 1 ELSE 0 END), max(at)
FROM prediction_outcomes WHERE prediction_id = :id GROUP BY score / 100
""")
_OF_MODEL = sql("""
SELECT p.model_number, o.score / 100, count(*), sum(CASE WHEN o.churned THEN 1 ELSE 0 END),
  max(o.at)
FROM predictions p JOIN prediction_outcomes o ON o.prediction_id = p.id
WHERE p.model_id = :model AND p.account = :account GROUP BY p.model_number, o.score / 100
""")
_OVER_TIME = sql("""
SELECT p.id, p.model_number, p.created_at, o.score / 100, count(*),
  sum(CASE WHEN o.churned THEN 1 ELSE 0 END), max(o.at)
FROM (SELECT id, model_number, created_at FROM predictions
      WHERE model_id = :model AND account = :account AND status = 'COMPLETED'
        AND EXISTS (SELECT 1 FROM prediction_outcomes x WHERE x.prediction_id = predictions.id)
      ORDER BY id DESC LIMIT :limit) p
JOIN prediction_outcomes o ON o.prediction_id = p.id
GROUP BY p.id, p.model_number, p.created_at, o.score / 100
""")

Group = tuple[int, int, int]  # score in ten-thousandths, customers, how many of them churned


def result_key(prediction: Prediction) -> str:
    """The object that holds its scores. Conflict unless it is complete."""
    if prediction.status != "COMPLETED":
        raise Conflict(f"The prediction has no result: it is {prediction.status}.")
    return f"{prediction.folder}/result.parquet"


def put(tx: Tx, prediction_id: str, scores: Mapping[str, int], churned: Mapping[str, bool]) -> None:
    """Write down what became of these customers, whose scores are in millionths."""
    rows = [[id_, score, churned[id_]] for id_, score in scores.items()]
    for at in range(0, len(rows), AT_ONCE):
        text = json.dumps(rows[at : at + AT_ONCE], ensure_ascii=False)
        tx.run(_PUT, id=prediction_id, rows=text)


def groups(tx: Tx, prediction_id: str) -> tuple[list[Group], int | None]:
    """The outcomes of a prediction by score, and when the latest was told."""
    return _grouped(tx.rows(_OF_ONE, id=prediction_id))


def by_version(tx: Tx, account: str, model_id: str) -> dict[int, tuple[list[Group], int | None]]:
    """The outcomes of all predictions of each version of a model."""
    found: dict[int, list[tuple[Any, ...]]] = {}
    for number, *row in tx.rows(_OF_MODEL, account=account, model=model_id):
        found.setdefault(number, []).append(tuple(row))
    return {number: _grouped(rows) for number, rows in sorted(found.items())}


def by_prediction(
    tx: Tx, account: str, model_id: str, limit: int
) -> list[tuple[JsonObject, list[Group]]]:
    """The outcomes of the latest predictions of a model, the oldest first."""
    found: dict[str, tuple[JsonObject, list[Group]]] = {}
    rows = tx.rows(_OVER_TIME, account=account, model=model_id, limit=limit)
    for id_, number, created_at, score, customers, churned, _ in sorted(rows):
        about = {"prediction_id": id_, "version": number, "created_at": created_at}
        found.setdefault(id_, (about, []))[1].append((score, customers, int(churned)))
    return list(found.values())


def _grouped(rows: Sequence[tuple[Any, ...]]) -> tuple[list[Group], int | None]:
    latest = max((row[3] for row in rows), default=None)
    return [(row[0], row[1], int(row[2])) for row in rows], latest

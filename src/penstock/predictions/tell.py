"""The events that predictions tell, each once.

====================================  =======================================================
event type                            when
====================================  =======================================================
``prediction.completed``              the result is there
``prediction.failed``                 the file cannot be scored, or was tried in vain
``model.trained``                     a version is ready
``model.training_failed``             a training was refused, or has a question
====================================  =======================================================

An event is stored in the transaction of what it tells. A cancellation tells nothing: who asked for
it knows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from penstock.clock import to_iso
from penstock.storage import Tx
from penstock.work.emit import Emit

COMPLETED: Final = "prediction.completed"
FAILED: Final = "prediction.failed"
TRAINED: Final = "model.trained"
TRAINING_FAILED: Final = "model.training_failed"


def completed(tx: Tx, emit: Emit, row: Mapping[str, Any]) -> None:
    """The prediction of this row has its result."""
    result = json.loads(row["result"])
    told = _prediction(row) | {
        "rows_scored": row["rows_scored"],
        "rows_set_aside": row["rows_set_aside"],
        "risk": result["risk"],
        "mean_probability": result["mean_probability"],
        "notes": result["notes"],
    }
    emit(tx, row["account"], COMPLETED, told, f"{COMPLETED}:{row['id']}")


def failed(tx: Tx, emit: Emit, row: Mapping[str, Any]) -> None:
    """The prediction of this row has none."""
    told = _prediction(row) | {"error": {"code": row["error_code"], "message": row["error"]}}
    # One that is taken up again by hand may fail again, which is news.
    emit(tx, row["account"], FAILED, told, f"{FAILED}:{row['id']}:{row['ended_at']}")


def trained(tx: Tx, emit: Emit, row: Mapping[str, Any], *, live: bool) -> None:
    """The version of this row is ready."""
    summary = json.loads(row["summary"])
    told = _version(row) | {
        "live": live,
        "rows": summary["rows"],
        "metrics": summary["metrics"],
        "warnings": summary["warnings"],
    }
    emit(tx, row["account"], TRAINED, told, f"{TRAINED}:{row['id']}")


def training_failed(tx: Tx, emit: Emit, row: Mapping[str, Any]) -> None:
    """The version of this row will not be."""
    error = {"code": row["error_code"], "message": row["error"], "question": row["question"]}
    told = _version(row) | {"error": error}
    emit(tx, row["account"], TRAINING_FAILED, told, f"{TRAINING_FAILED}:{row['id']}")


def _prediction(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "prediction_id": row["id"],
        "status": row["status"],
        "upload_id": row["upload_id"],
        "filename": row["filename"],
        "model": row["model_name"],
        "model_id": row["model_id"],
        "model_version": row["model_number"],
        "demo": bool(row["demo"]),
        "created_at": to_iso(row["created_at"]),
        "ended_at": to_iso(row["ended_at"]),
    }


def _version(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model_id": row["model_id"],
        "model": row["name"],
        "version": row["number"],
        "status": row["status"],
    }

"""A model trained from an uploaded file."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from typing import Any

from penstock.errors import NotFound
from penstock.predictions.card import by_importance
from penstock.predictions.chunks import changed
from penstock.predictions.model import Risk, dump
from penstock.predictions.refusal import Unusable
from penstock.predictions.sniff import Given
from penstock.predictions.specs import FileSpec
from penstock.predictions.training.fit import train as fit
from penstock.predictions.training.options import Options
from penstock.predictions.training.sheet import read_sheet
from penstock.storage.objects import Objects


def train(
    objects: Objects,
    file: FileSpec,
    given: Mapping[str, Any],
    answers: Mapping[str, Any],
    created_at: str,
    key: str,
) -> dict[str, Any]:
    """Train and store a model file; answers its SHA-256 and what lists show of it.

    Raises `Unusable`, `Question` and `MissingExtra`.
    """
    options = options_of(answers)
    try:
        opened = objects.open(file.key)
    except NotFound:
        raise Unusable("file_gone", "The uploaded file is not there any more.") from None
    with opened:
        sheet, notes = read_sheet(opened, options, Given(**given))
    if sheet.sha256 != file.sha256:
        raise changed()
    model = fit(sheet, options, created_at=created_at)
    data = dump(model)
    with objects.writing(key) as out:
        out.write(data)
    metrics = model.metrics
    return {
        "sha256": hashlib.sha256(data).hexdigest(),
        "summary": {
            "rows": model.training.rows,
            "positives": model.training.positives,
            "id_column": model.id_column,
            "label_column": model.label.column,
            "features": [feature.column.name for feature in by_importance(model)],
            "left_out": [
                {"column": left.name, "code": left.code, "reason": left.reason}
                for left in model.left
            ],
            "warnings": [*notes, *model.warnings],
            "metrics": {
                "auc": metrics.auc,
                "pr_auc": metrics.pr_auc,
                "log_loss": metrics.log_loss,
                "brier": metrics.brier,
                "calibration_error": metrics.ece,
                "base_log_loss": metrics.base_log_loss,
            },
        },
    }


def options_of(answers: Mapping[str, Any]) -> Options:
    """What a training was told, as it was stored."""
    told = dict(answers)
    for name in ("positive", "negative", "drop", "keep", "required"):
        told[name] = tuple(told[name])
    told["risk"] = Risk(**told["risk"])
    if told["as_of"] is not None:
        told["as_of"] = datetime.date.fromisoformat(told["as_of"])
    return Options(**told)

"""A model's card: what it was trained on, how good it is, and what it has learned.

As a document for programs, and as one HTML page that stands alone: no script, no network, and
every text of the training file in it escaped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from typing import Any

from penstock.predictions import paper, shapes
from penstock.predictions.model import Feature, Model, dump
from penstock.predictions.score import slot_texts


def card(model: Model) -> dict[str, Any]:
    """The card as a JSON document; probabilities and shares between 0 and 1, contributions logits.

    `features` are ordered by importance: the mean size of the contribution over training rows.
    """
    training = asdict(model.training)
    return {
        "name": model.name,
        "created_at": model.created_at,
        "sha256": hashlib.sha256(dump(model)).hexdigest(),
        "demo": model.demo,
        "id_column": model.id_column,
        "label": asdict(model.label),
        "as_of": model.as_of,
        "training": training,
        "base_rate": model.training.positives / model.training.rows,
        "metrics": asdict(model.metrics),
        "reliability": [asdict(each) for each in model.reliability],
        "calibration": None if model.calibration is None else asdict(model.calibration),
        "risk": asdict(model.risk),
        "features": [_feature(feature) for feature in by_importance(model)],
        "left_out": [asdict(left) for left in model.left],
        "warnings": list(model.warnings),
    }


def importance(feature: Feature) -> float:
    """The mean size of the feature's contribution over the training rows, in logits."""
    rows = sum(feature.counts)
    parts = zip(feature.table, feature.counts, strict=True)
    return sum(abs(logit) * count for logit, count in parts) / rows if rows else 0.0


def by_importance(model: Model) -> list[Feature]:
    """The features, the most important first."""
    return sorted(model.features, key=importance, reverse=True)


def _feature(feature: Feature) -> dict[str, Any]:
    texts = slot_texts(feature)
    slots = zip(texts, feature.table, feature.counts, strict=True)
    return {
        "name": feature.column.name,
        "kind": feature.column.kind,
        "required": feature.column.required,
        "importance": importance(feature),
        "slots": [
            {"is": text, "contribution": logit, "rows": count} for text, logit, count in slots
        ],
    }


def html(model: Model) -> str:
    """The card as a page."""
    name = escape(model.name)
    rows, positives = model.training.rows, model.training.positives
    demo = (
        '<p class="demo">This model is a demonstration: it was trained on invented customers. '
        "Do not act on its scores.</p>"
        if model.demo
        else ""
    )
    warnings = "".join(f"<li>{escape(text)}</li>" for text in model.warnings)
    warned = f"<section><h2>Take note</h2><ul>{warnings}</ul></section>" if warnings else ""
    features = "".join(_shape(feature) for feature in by_importance(model))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: model card</title><style>{paper.STYLE}</style></head><body><main>
<h1>{name}</h1>{demo}
<p>Predicts whether a customer churns: {_quoted(model.label.column)} is
{_either(model.label.positive)} and not {_either(model.label.negative)}.
Trained {escape(model.created_at)} on {rows:,} customers, of whom {positives:,}
({positives / rows:.1%}) churned.</p>{warned}
<section><h2>How good it is</h2>
<p>Measured on customers that the model did not see, in {model.metrics.folds} parts in turn.</p>
{_metrics(model)}
<h3>Said and observed</h3>
<p>Each dot is a tenth of the customers: the probability that was said, and the share that
churned. On the line they are the same.{_calibrated(model)}</p>
{shapes.reliability(model.reliability)}</section>
<section><h2>What it has learned</h2>
<p>A score is the sum of these parts, one of each column. Above the line a value raises the risk,
below it lowers it; bars below are the number of customers. The most important come first.</p>
{features}</section>
<section><h2>Columns left out</h2>{_left_out(model)}</section>
<section><h2>Where it comes from</h2>{_origin(model)}</section>
</main></body></html>
"""


def _quoted(text: str) -> str:
    return f"<q>{escape(text)}</q>"


def _either(texts: tuple[str, ...]) -> str:
    return " or ".join(_quoted(text) for text in texts)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Cells are HTML already."""
    cells = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def _metrics(model: Model) -> str:
    found = model.metrics
    rows = [
        ("ROC AUC", f"{found.auc:.4f}", "0.5", "how often a churner ranks above a stayer"),
        ("PR AUC", f"{found.pr_auc:.4f}", f"{_base(model):.4f}", "precision over all churners"),
        ("Log loss", f"{found.log_loss:.4f}", f"{found.base_log_loss:.4f}", "lower is better"),
        ("Brier score", f"{found.brier:.4f}", f"{found.base_brier:.4f}", "lower is better"),
        ("Calibration error", f"{found.ece:.4f}", "0", "mean gap of said and observed"),
        ("Lift", f"{found.lift:.2f}", "1", "churn in the riskiest tenth, over the mean"),
    ]
    return _table(("Figure", "This model", "One probability for all", "Meaning"), rows)


def _base(model: Model) -> float:
    return model.training.positives / model.training.rows


def _calibrated(model: Model) -> str:
    if model.calibration is None:
        return ""
    return (
        f" The scores were off and have been corrected by a line (slope "
        f"{model.calibration.slope:.3f}, offset {model.calibration.offset:.3f})."
    )


def _shape(feature: Feature) -> str:
    name = escape(feature.column.name)
    plot = shapes.shape(feature, slot_texts(feature))
    caption = f"{name}, on average {importance(feature):.3f}"
    return f"<figure><figcaption>{caption}</figcaption>{plot}</figure>"


def _left_out(model: Model) -> str:
    if not model.left:
        return "<p>None.</p>"
    rows = [(escape(left.name) or "(no name)", escape(left.reason)) for left in model.left]
    return _table(("Column", "Why"), rows)


def _origin(model: Model) -> str:
    training = model.training
    rows = [
        ("Training file, SHA-256", f"<code>{escape(training.sha256)}</code>"),
        ("Model file, SHA-256", f"<code>{hashlib.sha256(dump(model)).hexdigest()}</code>"),
        ("Penstock", escape(training.penstock)),
        ("Boosting", f"{training.bags} bags of {training.rounds} trees, one column to a tree"),
        ("Tables against boosters", f"at most {training.compiled_error:.1g} logits apart"),
        ("Risk levels", f"medium from {model.risk.medium:.0%}, high from {model.risk.high:.0%}"),
    ]
    if model.as_of is not None:
        rows.append(("Dates count back from", escape(model.as_of)))
    return _table(("What", "Value"), rows)

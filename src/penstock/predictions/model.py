"""A model file: JSON that is data and never code.

A model is a sum. Each feature has a table of logits, one for each of its slots; a customer's
score is the intercept and one entry of each table, so the reasons for a score are its parts.

Slots of a feature, in the order of `table` and `counts`::

    number, date    0 missing, 1 … n+1: the intervals that n ascending `edges` cut;
                    slot 1 is value <= edges[0], slot i is edges[i-2] < value <= edges[i-1]
    boolean         0 missing, 1 false, 2 true
    category        0 missing, 1 … k: the categories, k+1: any other value

A file says what it is (`format`, `version`) and carries the SHA-256 of its own content; a
registry keeps the SHA-256 of the bytes besides (`load(data, sha256=…)`).
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from pydantic import TypeAdapter, ValidationError

from penstock.predictions.contract import Column, fold, is_affix
from penstock.predictions.refusal import Unusable

FORMAT = "penstock-model"
VERSION = 1
MAX_BYTES = 16 * 1024 * 1024
MAX_FEATURES = 1000
MAX_LOGIT = 500.0
MAX_SLOTS = 65_000  # of all features together: a slot's number fits 16 bits


@dataclass(frozen=True, slots=True)
class Feature:
    """A column and its part of the sum.

    `table` holds logits, centred: over the training rows they add up to nothing. `counts` is the
    number of training rows in each slot; a missing or other slot without any has 0 in its table,
    since nothing is known about it.
    """

    column: Column
    edges: tuple[float, ...]
    table: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Label:
    """What was predicted: the column and the values that mean churned and stayed."""

    column: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Risk:
    """Levels by probability: `high` from `high` on, `medium` from `medium` on, else `low`."""

    medium: float = 0.3
    high: float = 0.6


@dataclass(frozen=True, slots=True)
class Left:
    """A column of the training file that is not a feature, and why (`code`, `reason`)."""

    name: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """The line that was laid through the cross-validated logits; already in the tables."""

    slope: float
    offset: float


@dataclass(frozen=True, slots=True)
class Metrics:
    """Quality on rows that the model did not see (cross-validated), and the base rate's own."""

    folds: int
    auc: float
    pr_auc: float
    log_loss: float
    brier: float
    ece: float
    lift: float
    base_log_loss: float
    base_brier: float


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Cross-validated predictions of one bin: how many, their mean, and how many churned."""

    rows: int
    predicted: float
    observed: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of the training rows' probabilities; `counts` has one more entry than `edges`."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Training:
    """Where the model comes from."""

    rows: int
    positives: int
    sha256: str
    penstock: str
    bags: int
    rounds: int
    compiled_error: float


@dataclass(frozen=True, slots=True)
class Model:
    """A trained model. `columns` is the training file's header, for the mapping of others.

    `as_of` (ISO date) is the day up to which the training file knew; dates count from it.
    """

    name: str
    created_at: str
    demo: bool
    columns: tuple[str, ...]
    id_column: str
    label: Label
    as_of: str | None
    features: tuple[Feature, ...]
    intercept: float
    risk: Risk
    scores: Histogram
    calibration: Calibration | None
    training: Training
    metrics: Metrics
    reliability: tuple[ReliabilityBin, ...]
    left: tuple[Left, ...]
    warnings: tuple[str, ...]


_SCHEMA = TypeAdapter(Model)


def dump(model: Model) -> bytes:
    """The model file's bytes; equal models give equal bytes.

    Raises `Unusable` for a model that could not be read again.
    """
    content = asdict(model)
    document = {"format": FORMAT, "version": VERSION, "sha256": _checksum(content), **content}
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    data = text.encode() + b"\n"
    load(data)
    return data


def load(data: bytes, *, sha256: str | None = None) -> Model:
    """Read a model file; everything in it is checked before anything is used.

    `sha256` is what a registry remembers of the bytes. Raises `Unusable` with the code
    `model_damaged` (not what was written), `model_version` or `model_invalid` (contradicts itself).
    """
    if sha256 is not None and not hmac.compare_digest(hashlib.sha256(data).hexdigest(), sha256):
        raise _damaged("it is not the file that was registered")
    if len(data) > MAX_BYTES:
        raise _damaged(f"it is larger than {MAX_BYTES // 1024 // 1024} MB")
    try:
        document = json.loads(data, object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise _damaged("it is not JSON") from exc
    if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
        raise _damaged("it is not a Penstock model")
    version = document.pop("version", None)
    if version != VERSION:
        raise Unusable(
            "model_version",
            f"The model file has version {str(version)[:20]}; this Penstock reads {VERSION}. "
            "Train the model anew, or use the Penstock that wrote it.",
        )
    claimed = document.pop("sha256", None)
    try:
        if claimed != _checksum(document):
            raise _damaged("its content was changed after it was written")
        model = _SCHEMA.validate_json(json.dumps(document), strict=True)
        if claimed != _checksum(asdict(model)):  # keys that the schema left out, or filled in
            raise _invalid("it has other fields than a model")
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:80]
        raise _invalid(f"{where}: {first['msg'][:100]}") from exc
    except (ValueError, RecursionError) as exc:
        raise _damaged("it holds numbers or texts that no model has") from exc
    _check(model)
    return model


def _checksum(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _damaged(why: str) -> Unusable:
    return Unusable(
        "model_damaged", f"The model file cannot be used: {why}. Take the original file again."
    )


def _invalid(why: str) -> Unusable:
    return Unusable(
        "model_invalid", f"The model file contradicts itself ({why}). Train the model anew."
    )


def slot_count(column: Column, edges: int) -> int:
    """How many slots a feature has."""
    if column.kind == "boolean":
        return 3
    return edges + 2 if column.kind in ("number", "date") else len(column.categories) + 2


def _check(model: Model) -> None:
    """What the types alone do not say. Raises `Unusable`."""
    features = model.features
    names = [feature.column.name for feature in features]
    if not 1 <= len(features) <= MAX_FEATURES:
        raise _invalid("the number of features")
    if len(set(names)) != len(names) or not set(names) <= set(model.columns):
        raise _invalid("the features' names")
    if model.id_column in names or model.label.column in names:
        raise _invalid("the id or the label is a feature")
    if sum(len(feature.table) for feature in features) > MAX_SLOTS:
        raise _invalid("too many slots")
    for feature in features:
        _check_feature(feature)
    if not 0 < model.risk.medium <= model.risk.high < 1:
        raise _invalid("the risk levels")
    if not 0 < model.training.positives < model.training.rows:
        raise _invalid("the number of training rows")
    if model.as_of is not None:
        try:
            datetime.date.fromisoformat(model.as_of)
        except ValueError as exc:
            raise _invalid("the as-of date") from exc
    if len(model.scores.counts) != len(model.scores.edges) + 1:
        raise _invalid("the scores' histogram")
    if not _ascending(model.scores.edges) or min(model.scores.counts) < 0:
        raise _invalid("the scores' histogram")
    # Every sum must be a number that exp() can take: a table of 1e308 is no logit.
    if not abs(model.intercept) + sum(_largest(feature.table) for feature in features) < MAX_LOGIT:
        raise _invalid("the size of the logits")


def _check_feature(feature: Feature) -> None:
    column = feature.column
    if not column.name or len(column.name.encode()) > 256:
        raise _invalid("a feature's name")
    where = column.name[:40]
    slots = slot_count(column, len(feature.edges))
    if len(feature.table) != slots or len(feature.counts) != slots:
        raise _invalid(f"{where}: the length of its table")
    if min(feature.counts) < 0:
        raise _invalid(f"{where}: its counts")
    if feature.edges and column.kind not in ("number", "date"):
        raise _invalid(f"{where}: its edges")
    if column.categories and column.kind != "category":
        raise _invalid(f"{where}: its categories")
    if not _ascending(feature.edges):
        raise _invalid(f"{where}: its edges do not ascend")
    if len({fold(value) for value in column.categories}) != len(column.categories):
        raise _invalid(f"{where}: a category occurs twice")
    form = column.number
    if form.group == form.decimal or not all(map(is_affix, (form.prefix, form.suffix))):
        raise _invalid(f"{where}: its number format")
    if column.low is not None and column.high is not None and column.low > column.high:
        raise _invalid(f"{where}: its range")


def _ascending(values: tuple[float, ...]) -> bool:
    return all(one < two for one, two in pairwise(values))


def _largest(table: tuple[float, ...]) -> float:
    return max(math.fabs(value) for value in table)

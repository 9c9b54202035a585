"""`/v1/models`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, TypedDict, Unpack

from penstock.client.calls import Call, Listing, at, nothing, reading
from penstock.client.predictions import PredictionError, content
from penstock.client.resources import (
    AsyncResource,
    Resource,
    async_pages,
    awaited,
    blocking,
    pages,
)
from penstock.client.values import Value


@dataclass(frozen=True, slots=True)
class ModelVersion(Value):
    """A version of a model. `trained` is what it has learned from, as the API writes it."""

    model_id: str
    model: str
    version: int
    status: str
    live: bool
    created_at: datetime
    message: str = ""
    upload_id: str | None = None
    sha256: str | None = None
    trained: dict[str, Any] | None = None
    error: PredictionError | None = None
    question: str | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Promotion(Value):
    """A version became live: trained, promoted or rolled back."""

    version: int
    at: datetime
    how: str
    previous: int | None = None


@dataclass(frozen=True, slots=True)
class Model(Value):
    """A model: a name, and the version that it stands for."""

    model_id: str
    name: str
    created_at: datetime
    live_version: int | None = None
    latest_version: int = 0


@dataclass(frozen=True, slots=True)
class ModelDetail(Model):
    """A model with its versions, the newest first."""

    versions: tuple[ModelVersion, ...] = ()
    promotions: tuple[Promotion, ...] = ()


class TrainingOptions(TypedDict, total=False):
    """What a training can be told; most of it answers a question."""

    name: str
    positive_label: str | Sequence[str]
    negative_label: str | Sequence[str]
    types: Mapping[str, str]
    drop: Sequence[str]
    keep: Sequence[str]
    required: Sequence[str]
    decimal: str
    date_order: str
    as_of: date | str
    medium: float
    high: float
    promote: bool


def train(
    upload_id: str, *, label_column: str, id_column: str, **options: Unpack[TrainingOptions]
) -> Call[ModelVersion]:
    """Have a new version trained from an upload of past customers."""
    body: dict[str, Any] = {
        "upload_id": upload_id,
        "label_column": label_column,
        "id_column": id_column,
    }
    for name, value in options.items():
        body[name] = value.isoformat() if isinstance(value, date) else value
    # Done twice there are two versions.
    return Call("POST", at("models"), reading(ModelVersion.of), body=body, repeatable=False)


def get(model_id: str) -> Call[ModelDetail]:
    """A model with its versions."""
    return Call("GET", at("models", model_id), reading(ModelDetail.of))


def every(*, page_size: int = 100) -> Listing[Model]:
    """Models, newest first."""
    return Listing(Call("GET", at("models"), reading(dict), query={"limit": page_size}), Model.of)


def version(model_id: str, number: int) -> Call[ModelVersion]:
    """One version."""
    return Call("GET", _version(model_id, number), reading(ModelVersion.of))


def cancel(model_id: str, number: int) -> Call[ModelVersion]:
    """End a training."""
    path = at("models", model_id, "versions", str(number), "cancel")
    return Call("POST", path, reading(ModelVersion.of))


def promote(model_id: str, number: int) -> Call[ModelDetail]:
    """Make a version live."""
    path = at("models", model_id, "promote")
    return Call("POST", path, reading(ModelDetail.of), body={"version": number})


def rollback(model_id: str) -> Call[ModelDetail]:
    """Make live what was live before."""
    path = at("models", model_id, "rollback")
    return Call("POST", path, reading(ModelDetail.of), repeatable=False)


def card(model_id: str, number: int) -> Call[dict[str, Any]]:
    """A version's card."""
    path = at("models", model_id, "versions", str(number), "card")
    return Call("GET", path, reading(dict[str, Any]))


def file(model_id: str, number: int) -> Call[bytes]:
    """A version's file, for `penstock predict`."""
    return Call("GET", at("models", model_id, "versions", str(number), "file"), content)


def quality(model_id: str) -> Call[dict[str, Any]]:
    """How good its versions are in use, by the outcomes of their predictions."""
    return Call("GET", at("models", model_id, "quality"), reading(dict[str, Any]))


def delete(model_id: str) -> Call[None]:
    """Delete it with all its versions."""
    return Call("DELETE", at("models", model_id), nothing)


class Models(Resource):
    """Models that files are scored by."""

    train = blocking(train)
    get = blocking(get)
    list = pages(every)
    version = blocking(version)
    cancel = blocking(cancel)
    promote = blocking(promote)
    rollback = blocking(rollback)
    card = blocking(card)
    file = blocking(file)
    quality = blocking(quality)
    delete = blocking(delete)


class AsyncModels(AsyncResource):
    """Models that files are scored by."""

    train = awaited(train)
    get = awaited(get)
    list = async_pages(every)
    version = awaited(version)
    cancel = awaited(cancel)
    promote = awaited(promote)
    rollback = awaited(rollback)
    card = awaited(card)
    file = awaited(file)
    quality = awaited(quality)
    delete = awaited(delete)


def _version(model_id: str, number: int) -> str:
    return at("models", model_id, "versions", str(number))

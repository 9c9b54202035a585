"""`/v1/uploads` and `/v1/predictions`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal

from penstock.client.calls import Answer, Call, Listing, at, nothing, reading
from penstock.client.resources import (
    AsyncResource,
    Resource,
    async_pages,
    awaited,
    blocking,
    pages,
)
from penstock.client.values import Value

Source = str | Path | bytes


@dataclass(frozen=True, slots=True)
class Note(Value):
    """Something the owner of a file should know, and that stops nothing."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Question(Value):
    """Something that only the owner of a file can know; `option` is the field that answers it."""

    code: str
    message: str
    option: str


@dataclass(frozen=True, slots=True)
class FileColumn(Value):
    """A column of a file; `position` counts from 1."""

    position: int
    name: str
    samples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ColumnMatch(Value):
    """The column that is proposed for one of the model's; below 0.95 it is asked."""

    model_column: str
    confidence: float
    position: int | None = None
    column: str | None = None
    required: bool = False
    how: str = "none"


@dataclass(frozen=True, slots=True)
class ProposedMapping(Value):
    """How a file's columns would be mapped; `certain` = it can be scored without an answer."""

    model: str
    certain: bool
    columns: tuple[ColumnMatch, ...]
    demo: bool = False
    model_version: int | None = None
    label_column: str | None = None


@dataclass(frozen=True, slots=True)
class Upload(Value):
    """An uploaded file."""

    upload_id: str
    size: int
    sha256: str
    created_at: datetime
    filename: str | None = None
    encoding: str | None = None
    delimiter: str | None = None
    rows_about: int | None = None
    question: Question | None = None


@dataclass(frozen=True, slots=True)
class SignedUpload(Value):
    """Where to send a file: a PUT of it to `url`, with `headers`, until `expires_at`."""

    upload_id: str
    url: str
    headers: Mapping[str, str]
    expires_at: datetime
    method: str = "PUT"


@dataclass(frozen=True, slots=True)
class UploadDetail(Upload):
    """An uploaded file, its columns, and the mapping that is proposed."""

    columns: tuple[FileColumn, ...] = ()
    notes: tuple[Note, ...] = ()
    mapping: ProposedMapping | None = None


@dataclass(frozen=True, slots=True)
class PredictionError(Value):
    """Why something failed."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Prediction(Value):
    """A file that is scored; it is over when `ended_at` is set."""

    prediction_id: str
    status: str
    message: str
    upload_id: str
    model: str
    rows_scored: int
    rows_set_aside: int
    created_at: datetime
    filename: str | None = None
    model_id: str | None = None
    model_version: int | None = None
    demo: bool = False
    bytes_done: int = 0
    bytes_total: int = 0
    eta_seconds: float | None = None
    error: PredictionError | None = None
    last_error: str | None = None
    first_error: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PredictionDetail(Prediction):
    """A prediction; `summary` is what it found, as the API writes it, once it is complete."""

    on_bad_row: str = "quarantine"
    as_of: str | None = None
    summary: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class StoredOutcomes(Value):
    """What was written down of what really happened."""

    stored: int
    not_found: int
    not_found_ids: tuple[str, ...] = ()
    ambiguous: int = 0


@dataclass(frozen=True, slots=True)
class Quality(Value):
    """How good scores were, by what really happened; None = too few to say."""

    customers: int
    churned: int
    churn_rate: float | None = None
    mean_probability: float | None = None
    auc: float | None = None
    log_loss: float | None = None
    brier: float | None = None
    calibration_error: float | None = None


# ------------------------------------------------------------------ uploads


def upload(
    source: Source,
    *,
    model: str | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    header_row: int | None = None,
) -> Call[UploadDetail]:
    """Upload a CSV: a file's path, or its contents as bytes."""
    query = {
        "model": model,
        "encoding": encoding,
        "delimiter": delimiter,
        "header_row": header_row,
    }
    # Done twice it is there twice, which does no harm: the same file is the same prediction.
    return Call(
        "POST", at("uploads"), reading(UploadDetail.of), query=query, csv=content_of(source)
    )


def announce_upload(size: int, sha256: str, *, filename: str | None = None) -> Call[SignedUpload]:
    """Announce a file that is to be sent to S3, past the server; `sha256` in hexadecimal digits.

    PUT it to the answer's `url` with its `headers`, then `confirm`.
    """
    body: dict[str, Any] = {"size": size, "sha256": sha256}
    if filename is not None:
        body["filename"] = filename
    return Call("POST", at("uploads", "signed"), reading(SignedUpload.of), body=body)


def confirm_upload(
    upload_id: str,
    *,
    model: str | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    header_row: int | None = None,
) -> Call[UploadDetail]:
    """Make an upload of a file that was sent to S3; repeating it is harmless."""
    query = {
        "model": model,
        "encoding": encoding,
        "delimiter": delimiter,
        "header_row": header_row,
    }
    return Call("POST", at("uploads", upload_id, "confirm"), reading(UploadDetail.of), query=query)


def get_upload(upload_id: str, *, model: str | None = None) -> Call[UploadDetail]:
    """One upload, with the mapping that is proposed for a model."""
    path = at("uploads", upload_id)
    return Call("GET", path, reading(UploadDetail.of), query={"model": model})


def every_upload(*, page_size: int = 100) -> Listing[Upload]:
    """Uploads, newest first."""
    return Listing(Call("GET", at("uploads"), reading(dict), query={"limit": page_size}), Upload.of)


def answer_upload(
    upload_id: str, *, model: str | None = None, **answers: str | int | None
) -> Call[UploadDetail]:
    """Say how to read an upload: `encoding`, `delimiter`, `header_row`."""
    path = at("uploads", upload_id)
    return Call("PATCH", path, reading(UploadDetail.of), query={"model": model}, body=dict(answers))


def delete_upload(upload_id: str) -> Call[None]:
    """Delete an upload; what was scored of it stays."""
    return Call("DELETE", at("uploads", upload_id), nothing)


def template(*, model: str | None = None) -> Call[bytes]:
    """A CSV with the columns of a model."""
    return Call("GET", at("templates", "churn.csv"), content, query={"model": model})


# ------------------------------------------------------------------ predictions


def create(
    upload_id: str,
    *,
    model: str | None = None,
    mapping: Mapping[str, str] | None = None,
    allow_missing: Sequence[str] = (),
    as_of: date | str | None = None,
    on_bad_row: Literal["quarantine", "reject"] = "quarantine",
    force: bool = False,
) -> Call[Prediction]:
    """Have an upload scored; the same as before is answered with the same prediction.

    `mapping` is from the model's columns to the file's; `force` scores anew.
    """
    body: dict[str, Any] = {"upload_id": upload_id, "on_bad_row": on_bad_row}
    if model is not None:
        body["model"] = model
    if mapping:
        body["mapping"] = dict(mapping)
    if allow_missing:
        body["allow_missing"] = list(allow_missing)
    if as_of is not None:
        body["as_of"] = as_of.isoformat() if isinstance(as_of, date) else as_of
    if force:
        body["force"] = True
    return Call("POST", at("predictions"), reading(Prediction.of), body=body, repeatable=not force)


def score(
    source: Source,
    *,
    model: str | None = None,
    as_of: date | str | None = None,
    on_bad_row: Literal["quarantine", "reject"] = "quarantine",
) -> Call[Prediction]:
    """Have a CSV scored whose mapping is certain: a file's path, or its contents as bytes."""
    query = {
        "model": model,
        "as_of": as_of.isoformat() if isinstance(as_of, date) else as_of,
        "on_bad_row": on_bad_row,
    }
    return Call(
        "POST", at("predictions"), reading(Prediction.of), query=query, csv=content_of(source)
    )


def get(prediction_id: str) -> Call[PredictionDetail]:
    """How far a prediction is, or what it found."""
    return Call("GET", at("predictions", prediction_id), reading(PredictionDetail.of))


def every(
    *, status: str | None = None, upload_id: str | None = None, page_size: int = 100
) -> Listing[Prediction]:
    """Predictions, newest first."""
    query = {"status": status, "upload_id": upload_id, "limit": page_size}
    return Listing(Call("GET", at("predictions"), reading(dict), query=query), Prediction.of)


def cancel(prediction_id: str) -> Call[Prediction]:
    """Score no further."""
    return Call("POST", at("predictions", prediction_id, "cancel"), reading(Prediction.of))


def delete(prediction_id: str) -> Call[None]:
    """Delete it with its files."""
    return Call("DELETE", at("predictions", prediction_id), nothing)


def result(prediction_id: str, *, format: Literal["csv", "parquet"] = "csv") -> Call[bytes]:
    """The result's file."""
    path = at("predictions", prediction_id, "result")
    return Call("GET", path, content, query={"format": format})


def errors(prediction_id: str) -> Call[bytes]:
    """The rows that were set aside, as a CSV."""
    return Call("GET", at("predictions", prediction_id, "errors.csv"), content)


def report(prediction_id: str) -> Call[bytes]:
    """The report, a page of HTML."""
    return Call("GET", at("predictions", prediction_id, "report"), content)


def outcomes(prediction_id: str, churned: Mapping[str, bool]) -> Call[StoredOutcomes]:
    """Say what really happened, by the customers' ids; up to 10,000 at once."""
    body = {"outcomes": [{"id": id_, "churned": value} for id_, value in churned.items()]}
    path = at("predictions", prediction_id, "outcomes")
    return Call("POST", path, reading(StoredOutcomes.of), body=body)


def quality(prediction_id: str) -> Call[Quality]:
    """How good the scores were, by the outcomes so far."""
    return Call("GET", at("predictions", prediction_id, "quality"), reading(Quality.of))


class Uploads(Resource):
    """Files to be scored, or to be learned from."""

    create = blocking(upload)
    announce = blocking(announce_upload)
    confirm = blocking(confirm_upload)
    get = blocking(get_upload)
    list = pages(every_upload)
    answer = blocking(answer_upload)
    delete = blocking(delete_upload)
    template = blocking(template)


class AsyncUploads(AsyncResource):
    """Files to be scored, or to be learned from."""

    create = awaited(upload)
    announce = awaited(announce_upload)
    confirm = awaited(confirm_upload)
    get = awaited(get_upload)
    list = async_pages(every_upload)
    answer = awaited(answer_upload)
    delete = awaited(delete_upload)
    template = awaited(template)


class Predictions(Resource):
    """Files that are scored."""

    create = blocking(create)
    score = blocking(score)
    get = blocking(get)
    list = pages(every)
    cancel = blocking(cancel)
    delete = blocking(delete)
    result = blocking(result)
    errors = blocking(errors)
    report = blocking(report)
    outcomes = blocking(outcomes)
    quality = blocking(quality)


class AsyncPredictions(AsyncResource):
    """Files that are scored."""

    create = awaited(create)
    score = awaited(score)
    get = awaited(get)
    list = async_pages(every)
    cancel = awaited(cancel)
    delete = awaited(delete)
    result = awaited(result)
    errors = awaited(errors)
    report = awaited(report)
    outcomes = awaited(outcomes)
    quality = awaited(quality)


def content_of(source: Source) -> bytes:
    """The bytes of a file that is given by its path, or as they are."""
    return source if isinstance(source, bytes) else Path(source).read_bytes()


def content(answer: Answer) -> bytes:
    """The body of an answer."""
    return answer.body

"""What the predictions API answers, for its documentation and for its readers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Status = Literal["QUEUED", "RUNNING", "COMPLETED", "FAILED", "CANCELLED"]
VersionStatus = Literal["TRAINING", "READY", "FAILED", "CANCELLED"]


class NoteView(BaseModel):
    """Something the owner of a file should know, and that stops nothing."""

    code: str
    message: str


class QuestionView(BaseModel):
    """Something that only the owner of a file can know; `option` is the field that answers it."""

    code: str
    message: str
    option: str


class ColumnView(BaseModel):
    """A column of a file; `position` counts from 1, as in `#3`."""

    position: int
    name: str
    samples: list[str]


class MatchView(BaseModel):
    """The column that is proposed for one of the model's."""

    model_column: str
    required: Annotated[bool, Field(description="The file must have it, and no cell be blank.")]
    position: int | None
    column: str | None
    confidence: Annotated[
        float,
        Field(description="1: the same name, or confirmed before. Below 0.95 it is asked."),
    ]
    how: Literal["same", "spelling", "similar", "given", "none"]


class MappingView(BaseModel):
    """How a file's columns would be mapped; `certain` = it can be scored without an answer."""

    model: str
    model_version: int | None
    demo: bool
    certain: bool
    columns: list[MatchView]
    label_column: Annotated[
        str | None, Field(description="The file holds what the model predicts; it is not used.")
    ]


class UploadView(BaseModel):
    """An uploaded file."""

    upload_id: str
    filename: str | None
    size: int
    sha256: str
    created_at: str
    encoding: str | None
    delimiter: str | None
    rows_about: Annotated[int | None, Field(description="By the length of the first rows.")]
    question: Annotated[QuestionView | None, Field(description="Null = it can be read as it is.")]


class UploadDetail(UploadView):
    """An uploaded file, its columns, and the mapping that is proposed."""

    columns: list[ColumnView]
    notes: list[NoteView]
    mapping: Annotated[
        MappingView | None,
        Field(
            description="Null while the file has a question, and if no model is named where the "
            "account has several."
        ),
    ]


class SignedUpload(BaseModel):
    """Where to send a file: by PUT, with these headers and the file as the body."""

    upload_id: str
    method: str = "PUT"
    url: Annotated[str, Field(description="Whoever has it can send this file: keep it to you.")]
    headers: dict[str, str]
    expires_at: str


class ErrorView(BaseModel):
    """Why something failed."""

    code: str
    message: str


class Risk(BaseModel):
    """Customers by level of risk."""

    high: int
    medium: int
    low: int


class RiskFrom(BaseModel):
    """From which probability on a risk is medium, and high."""

    medium: float
    high: float


class ReasonCount(BaseModel):
    """Of how many customers a column is one of the three strongest reasons."""

    column: str
    raises: int
    lowers: int


class ErrorCount(BaseModel):
    """How many rows had the same thing wrong with them; no column = the row itself."""

    column: str | None
    code: str
    count: int


class DriftView(BaseModel):
    """A column, or the score, whose values are not spread as at training."""

    column: str
    psi: float
    level: Literal["some", "large"]


class FileView(BaseModel):
    """A file of a result, and where it is."""

    url: str
    size: int
    sha256: str


class Summary(BaseModel):
    """What a prediction found."""

    model_config = ConfigDict(protected_namespaces=())

    risk: Risk
    risk_from: RiskFrom
    spread: Annotated[
        list[int], Field(description="Customers by probability, in equal steps from 0 to 1.")
    ]
    reasons: Annotated[list[ReasonCount], Field(description="The most frequent first.")]
    mean_probability: float | None
    blank_rows: int
    errors: list[ErrorCount]
    drift: list[DriftView]
    notes: list[NoteView]
    files: dict[str, FileView]


class Estimate(BaseModel):
    """About how much there is to do."""

    rows: int
    seconds: Annotated[float, Field(description="Once it runs, if nothing else does.")]


class PredictionView(BaseModel):
    """A prediction. `rows_scored` and `bytes_done` count while it runs."""

    model_config = ConfigDict(protected_namespaces=())

    prediction_id: str
    status: Status
    message: str
    upload_id: str
    filename: str | None
    model: str
    model_id: str | None
    model_version: int | None
    demo: bool
    rows_scored: int
    rows_set_aside: int
    bytes_done: int
    bytes_total: int
    eta_seconds: Annotated[float | None, Field(description="By its pace so far.")]
    error: ErrorView | None
    last_error: Annotated[
        str | None, Field(description="What went wrong with the latest try; it is tried again.")
    ]
    first_error: Annotated[str | None, Field(description="Of the rows that were set aside.")]
    created_at: str
    started_at: str | None
    ended_at: str | None


class PredictionCreated(PredictionView):
    """A prediction that was asked for."""

    estimate: Estimate


class PredictionDetail(PredictionView):
    """A prediction, what it found, and its files."""

    on_bad_row: Literal["quarantine", "reject"]
    as_of: str | None
    summary: Summary | None


class MetricsView(BaseModel):
    """Quality on customers that the model did not see."""

    auc: float
    pr_auc: float
    log_loss: float
    brier: float
    calibration_error: float
    base_log_loss: float


class LeftOut(BaseModel):
    """A column that the model does not use."""

    column: str
    code: str
    reason: str


class TrainedView(BaseModel):
    """What a version has learned from, and how good it is."""

    rows: int
    positives: int
    id_column: str
    label_column: str
    features: Annotated[list[str], Field(description="The most important first.")]
    left_out: list[LeftOut]
    warnings: list[str]
    metrics: MetricsView


class Asked(BaseModel):
    """What a training was told, as in the request."""

    label_column: str
    id_column: str
    positive_label: list[str]
    negative_label: list[str]
    types: dict[str, str]
    drop: list[str]
    keep: list[str]
    required: list[str]
    decimal: str | None
    date_order: str | None
    as_of: str | None


class VersionView(BaseModel):
    """A version of a model; it never changes once it is READY."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    model: str
    version: int
    status: VersionStatus
    live: bool
    message: str
    upload_id: str
    asked: Asked
    sha256: str | None
    trained: TrainedView | None
    error: ErrorView | None
    question: Annotated[
        str | None,
        Field(description="The field of a new training that answers it, if it had a question."),
    ]
    created_at: str
    ended_at: str | None


class ModelView(BaseModel):
    """A model: a name, and the version that it stands for."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    name: str
    live_version: int | None
    latest_version: int
    created_at: str


class Promotion(BaseModel):
    """A version became live."""

    version: int
    previous: int | None
    how: Literal["trained", "promoted", "rolled back"]
    at: str


class ModelDetail(ModelView):
    """A model with its versions, the newest first, and what was live when."""

    versions: list[VersionView]
    promotions: list[Promotion]


class CardView(BaseModel):
    """A model's card: what it was trained on, how good it is, and what it has learned."""

    model_config = ConfigDict(extra="allow")

    name: str
    created_at: str
    sha256: str
    demo: bool
    metrics: dict[str, Any]
    features: list[dict[str, Any]]


class OutcomesStored(BaseModel):
    """What was written down."""

    prediction_id: str
    stored: int
    not_found: int
    not_found_ids: Annotated[list[str], Field(description="The first 20.")]
    ambiguous: Annotated[int, Field(description="Ids that several rows of the file have.")]


class ReliabilityView(BaseModel):
    """Customers who were told about the same risk: what was said, and what happened."""

    rows: int
    predicted: float
    observed: float


class QualityView(BaseModel):
    """How good scores were, by what really happened. Null = too few to say."""

    customers: int
    churned: int
    churn_rate: float | None
    mean_probability: float | None
    auc: float | None
    log_loss: float | None
    brier: float | None
    calibration_error: float | None
    reliability: list[ReliabilityView]


class PredictionQuality(QualityView):
    """Of one prediction."""

    prediction_id: str
    latest_outcome_at: str | None


class VersionQuality(QualityView):
    """Of all predictions by one version."""

    version: int
    latest_outcome_at: str | None


class DatedQuality(QualityView):
    """Of one prediction among those of its model."""

    prediction_id: str
    version: int
    created_at: str


class ModelQuality(BaseModel):
    """Measured quality, by version and over time."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    versions: list[VersionQuality]
    predictions: Annotated[list[DatedQuality], Field(description="The oldest first, up to 50.")]

"""What the predictions API takes: strict models, unknown fields refused."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from penstock.predictions.outcomes import MOST as MOST_OUTCOMES
from penstock.predictions.starter import NAME as STARTER

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
MOST_COLUMNS: Final = 1000


def _without_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("a NUL character cannot be stored")
    return text


def _day_only(value: object) -> object:
    # Lax dates would also take numbers and instants.
    if isinstance(value, date) or (isinstance(value, str) and _DATE.fullmatch(value)):
        return value
    raise ValueError("write a date as 2026-01-31")


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _free(name: str) -> str:
    if name == STARTER or name.startswith("mdl_"):
        raise ValueError(f"the names {STARTER} and mdl_… are taken")
    return name


_CLEAN: Final = AfterValidator(_without_nul)
Id = Annotated[str, StringConstraints(min_length=1, max_length=64), _CLEAN]
FileName = Annotated[str, StringConstraints(max_length=255), _CLEAN]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=256), _CLEAN]
LabelValue = Annotated[str, StringConstraints(min_length=1, max_length=256), _CLEAN]
LabelValues = Annotated[
    list[LabelValue],
    BeforeValidator(_listed),
    Field(max_length=20, json_schema_extra={"type": ["array", "string"]}),
]
Columns = Annotated[list[ColumnName], Field(max_length=MOST_COLUMNS)]
Day = Annotated[date, Field(strict=False), BeforeValidator(_day_only)]
ModelName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}$"),
    AfterValidator(_free),
    Field(examples=["churn"]),
]
ModelAsked = Annotated[
    str,
    StringConstraints(min_length=1, max_length=120),
    _CLEAN,
    Field(
        description="A model's name or id; `name@3` for a version that is not live; `starter` for "
        "the demonstration. Without it, the account's only live model, or `starter`.",
        examples=["churn"],
    ),
]
OnBadRow = Annotated[
    Literal["quarantine", "reject"],
    Field(description="Set bad rows aside and score the others, or refuse the file."),
]
Encoding = Annotated[str, StringConstraints(min_length=1, max_length=40), _CLEAN]
Delimiter = Annotated[str, StringConstraints(min_length=1, max_length=1), _CLEAN]
HeaderRow = Annotated[int, Field(ge=1, le=20, description="As a spreadsheet numbers rows.")]


class SignedIn(BaseModel):
    """A file that is to be sent past the server."""

    model_config = _STRICT

    size: Annotated[int, Field(ge=1, description="In bytes, of what is sent.")]
    sha256: Annotated[
        str,
        StringConstraints(pattern=r"^[0-9a-f]{64}$"),
        Field(description="Of the same, in hexadecimal digits: no other content is taken."),
    ]
    filename: Annotated[
        FileName | None,
        Field(description="With `.gz` at its end it is unpacked.", examples=["customers.csv"]),
    ] = None


class UploadPatch(BaseModel):
    """How to read an upload: the answer to its question. Null takes an answer back."""

    model_config = _STRICT

    encoding: Annotated[Encoding | None, Field(examples=["cp1252"])] = None
    delimiter: Annotated[Delimiter | None, Field(examples=[";"])] = None
    header_row: HeaderRow | None = None

    @model_validator(mode="after")
    def _something(self) -> UploadPatch:
        if not self.model_fields_set:
            raise ValueError("give at least one field")
        return self

    def given(self) -> dict[str, Any]:
        """The fields that were given, with their values."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class PredictionIn(BaseModel):
    """A file to be scored."""

    model_config = _STRICT

    upload_id: Id
    model: ModelAsked | None = None
    mapping: Annotated[
        dict[ColumnName, ColumnName],
        Field(
            max_length=MOST_COLUMNS,
            description="From the model's columns to the file's: names, or numbers such as `#3`. "
            "It is remembered for files with the same header.",
            examples=[{"tenure_months": "Months"}],
        ),
    ] = {}
    allow_missing: Annotated[
        Columns, Field(description="Columns of the model that the file may lack.")
    ] = []
    as_of: Annotated[
        Day | None, Field(description="The day from which dates are counted; today without it.")
    ] = None
    on_bad_row: OnBadRow = "quarantine"
    force: Annotated[
        bool, Field(description="Score it anew, even if the same was scored before.")
    ] = False


class ModelIn(BaseModel):
    """A training. Where the file can be read in two ways, it fails with a question."""

    model_config = _STRICT

    upload_id: Id
    name: ModelName = "churn"
    label_column: ColumnName
    positive_label: Annotated[
        LabelValues, Field(description="The label's value for churned, or several.")
    ] = []
    negative_label: Annotated[
        LabelValues, Field(description="The label's value for stayed, if there are several.")
    ] = []
    id_column: ColumnName
    types: Annotated[
        dict[
            ColumnName,
            Literal["number", "category", "boolean", "date", "ymd", "dmy", "mdy", "excel"],
        ],
        Field(max_length=MOST_COLUMNS, description="What a column is, if it is asked."),
    ] = {}
    drop: Annotated[Columns, Field(description="Columns to leave out.")] = []
    keep: Annotated[
        Columns,
        Field(description="Columns to keep that look like an id, or too good to be true."),
    ] = []
    required: Annotated[
        Columns, Field(description="Columns that must not be blank in later files.")
    ] = []
    decimal: Literal["point", "comma"] | None = None
    date_order: Literal["dmy", "mdy"] | None = None
    as_of: Annotated[
        Day | None, Field(description="The day up to which the file knew; dates need it.")
    ] = None
    medium: Annotated[float, Field(gt=0, lt=1, description="Probability of medium risk.")] = 0.3
    high: Annotated[float, Field(gt=0, lt=1, description="Probability of high risk.")] = 0.6
    promote: Annotated[
        bool,
        Field(description="Make it live when it is ready. A model's first version is, anyway."),
    ] = False

    @model_validator(mode="after")
    def _ordered(self) -> ModelIn:
        if self.medium > self.high:
            raise ValueError("medium must not be above high")
        return self

    def options(self) -> dict[str, Any]:
        """What the training is told, as JSON."""
        return {
            "label": self.label_column,
            "id": self.id_column,
            "positive": self.positive_label,
            "negative": self.negative_label,
            "types": self.types,
            "drop": self.drop,
            "keep": self.keep,
            "required": self.required,
            "decimal": self.decimal,
            "date_order": self.date_order,
            "as_of": None if self.as_of is None else self.as_of.isoformat(),
            "risk": {"medium": self.medium, "high": self.high},
            "name": self.name,
        }


class PromotionIn(BaseModel):
    """Which version is to be live."""

    model_config = _STRICT

    version: Annotated[int, Field(ge=1, le=10**9)]


class OutcomeIn(BaseModel):
    """What became of one customer."""

    model_config = _STRICT

    id: Annotated[str, StringConstraints(min_length=1, max_length=1000), _CLEAN]
    churned: bool


class OutcomesIn(BaseModel):
    """What really happened to customers of a prediction. A later answer replaces an earlier one."""

    model_config = _STRICT

    outcomes: Annotated[list[OutcomeIn], Field(min_length=1, max_length=MOST_OUTCOMES)]

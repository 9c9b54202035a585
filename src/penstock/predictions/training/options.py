"""What a training is told, and the table it works on."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from penstock.predictions.contract import DateOrder
from penstock.predictions.model import Risk

MIN_ROWS = 200
MIN_OF_A_CLASS = 50
FEW_ROWS = 1000
AS_TYPES = ("number", "category", "boolean", "date", "ymd", "dmy", "mdy", "excel")


@dataclass(frozen=True, slots=True)
class Options:
    """The answers to what a file does not say.

    `positive` and `negative` are label values; `types` overrides what a column is taken for
    (one of `AS_TYPES`; the last four are dates of that order); `keep` holds columns that would
    be left out as too good to be true or as identifiers. `as_of` is the day up to which the file
    knew, needed when there are dates.
    """

    label: str
    id: str
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    types: Mapping[str, str] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    decimal: Literal["point", "comma"] | None = None
    date_order: DateOrder | None = None
    as_of: datetime.date | None = None
    risk: Risk = field(default_factory=Risk)
    name: str = "churn"
    demo: bool = False
    seed: int = 7


@dataclass(frozen=True, slots=True)
class Sheet:
    """A file read whole: names, one pyarrow array of text for each, and where rows come from.

    `records` are record numbers in the file (the header is 1), `sha256` is the file's.
    """

    names: tuple[str, ...]
    cells: tuple[Any, ...]
    records: Any
    sha256: str

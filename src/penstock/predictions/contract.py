"""What a column's cells must look like: fixed at training, the same at every scoring.

Types are never inferred from the file that is scored. A cell is text; `parse` turns a column of
text into numbers or codes and says which cells break the contract. Nothing is clipped, rescaled
or repaired: a value outside of the training range is used as it is and counted.

Blank cells are missing, which is a value of its own for the model, unless `required`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["number", "date", "boolean", "category"]
DateOrder = Literal["ymd", "dmy", "mdy", "excel"]

MISSING = 0  # the code of a missing cell, in every kind of column


def fold(text: str) -> str:
    """The key by which categories and truth values are matched."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """How a column writes numbers.

    `group` is "", ",", ".", "'" or " " (any kind of space); a cell may do without groups.
    `prefix` and `suffix` are literal text: "45 %" is 45. A cell may leave out a currency's sign,
    nothing else: in a column of percentages, who could tell whether "0.5" means a half?
    """

    decimal: Literal[".", ","] = "."
    group: Literal["", ",", ".", "'", " "] = ""
    prefix: str = ""
    suffix: str = ""


def is_affix(text: str) -> bool:
    """Whether the text can stand before or after a number without being taken for part of it."""
    return len(text) <= 16 and not any(char.isdigit() or char in "+-.,'()" for char in text)


def is_optional(affix: str) -> bool:
    """Whether a number means the same without it: signs of currencies."""
    return all(unicodedata.category(char) == "Sc" for char in affix)


@dataclass(frozen=True, slots=True)
class Column:
    """The contract of one column.

    `low` and `high` are the training range of a number, or of a date in days before the as-of
    date; `categories` are spelled as in the training file, most frequent first, and matched
    without regard to case, width and surrounding or repeated blanks. `integer` says that all
    training values were whole.
    """

    name: str
    kind: Kind
    required: bool = False
    number: NumberFormat = field(default_factory=NumberFormat)
    date: DateOrder = "ymd"
    integer: bool = False
    low: float | None = None
    high: float | None = None
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Parsed:
    """A column of some rows, read by its contract.

    `values`: float64 with NaN for missing (number; date as days before the as-of date), or int32
    codes: 0 missing, 1 false, 2 true (boolean); 0 missing, 1 … k, k+1 any other (category).
    `bad`: by code (`not_number`, `not_date`, `not_boolean`, `missing_value`), which rows break
    the contract; their value counts as missing. The rest counts rows.
    """

    values: Any
    bad: Mapping[str, NDArray[np.bool_]]
    missing: int = 0
    unseen: int = 0
    not_finite: int = 0
    out_of_range: int = 0
    future: int = 0

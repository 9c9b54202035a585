"""Files of past customers that say too little or too much, and what is asked or refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from support.churn import csv_bytes, customers


@dataclass(frozen=True, slots=True)
class Stopped:
    """A training that stops: why, what is said, and the options that answer it, if any do.

    `flags` are the command's, `fields` the request's; `answer` is one answer, as the command's
    options and as the request's fields.
    """

    content: bytes
    code: str
    says: str
    flags: str | None = None
    fields: str | None = None
    given: bool = True  # the label's positive value is

    @property
    def question(self) -> str | None:
        """The field of the request that the answer names first."""
        return None if self.fields is None else self.fields.split('"')[1]


def _past(extra: Sequence[str] = (), rows: int = 400, churned: Sequence[str] = ()) -> bytes:
    columns = customers(rows)
    if extra:
        columns["extra"] = [extra[i % len(extra)] for i in range(rows)]
    if churned:
        columns["churned"] = [churned[i % len(churned)] for i in range(rows)]
    return csv_bytes(columns)


STOPPED: Final = {
    "which label is churned": Stopped(
        _past(),
        "positive_label",
        r"has the values '(yes|no)' \([0-9]+\), '(yes|no)' \([0-9]+\)\. Say which one means",
        "--positive VALUE",
        '"positive_label": "VALUE"',
        given=False,
    ),
    "three labels": Stopped(
        _past(churned=("yes", "no", "no", "paused")),
        "negative_label",
        "more than two values",
        "--negative VALUE",
        '"negative_label": "VALUE"',
    ),
    "day or month": Stopped(
        _past(("01/02/2025", "03/04/2025")),
        "date_order",
        "'extra' has dates such as '01/02/2025'.* Say their order",
        "--date-order dmy or --date-order mdy",
        '"date_order": "dmy" or "date_order": "mdy"',
    ),
    "until when": Stopped(
        _past(("2025-01-31", "2025-04-01")),
        "as_of",
        "the day up to which the file knows",
        "--as-of 2026-01-31 or --drop extra",
        '"as_of": "2026-01-31" or "drop": ["extra"]',
    ),
    "thousands or a fraction": Stopped(
        _past(("1,200", "1,500", "900", "2,250")),
        "decimal_separator",
        "'extra' has numbers such as '1,200'.* Say what separates the decimals",
        "--decimal point or --decimal comma",
        '"decimal": "point" or "decimal": "comma"',
    ),
    "number or text": Stopped(
        _past([*["5", "6", "7"] * 20, "n.n."]),
        "mixed_column",
        "are numbers and [0-9]+ are not, such as 'n.n.' in row 62",
        "--type extra=number or --type extra=category or --drop extra",
        '"types": {"extra": "number"} or "types": {"extra": "category"} or "drop": ["extra"]',
    ),
    "dollars and euros": Stopped(
        _past(("$5", "€6")), "mixed_units", "one unit", "--drop extra", '"drop": ["extra"]'
    ),
    "points and commas": Stopped(
        _past(("1.5", "2,5")), "mixed_decimals", "one way", "--drop extra", '"drop": ["extra"]'
    ),
    "too few rows": Stopped(_past(rows=199), "too_few_rows", "199 usable rows .*200 are the least"),
    "too few who churned": Stopped(
        _past(churned=("yes", *["no"] * 9)), "too_few_of_a_class", "40 customers churned .*50 are"
    ),
    "nobody churned": Stopped(_past(churned=("no",)), "one_class", "nothing else"),
    "two of a name": Stopped(
        _past().replace(b"tenure,plan", b"plan,plan", 1), "duplicate_column", "'plan'.* Rename"
    ),
    "another label": Stopped(
        _past().replace(b"churned", b"gone", 1), "label_not_found", "no column 'churned'.*'gone'"
    ),
}

"""A CSV of what became of customers, as the API is told of it."""

from __future__ import annotations

import csv
import io
from typing import Any, Final

from penstock.console.calls import Refused

MOST_BYTES: Final = 32 * 1024 * 1024
_NAMES: Final = ("churned", "churn", "outcome", "label")
_CHURNED: Final = frozenset({"yes", "y", "true", "t", "1", "churned", "churn", "left"})
_STAYED: Final = frozenset({"no", "n", "false", "f", "0", "stayed", "kept"})


def told(raw: bytes) -> list[dict[str, Any]]:
    """The outcomes in a file; of an id that is there twice the last counts. Refused if unclear.

    The first column holds the ids, one that is called churned (or the second) what happened.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise _unclear(f"Byte {exc.start:,} is not UTF-8; save the file as UTF-8.") from None
    if "\0" in text:
        raise _unclear("It is not a CSV: it holds NUL characters.")
    first = text.partition("\n")[0]
    delimiter = max(",;\t|", key=first.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    found: dict[str, bool] = {}
    try:
        names = [name.strip().lower() for name in next(rows, [])]
        if len(names) < 2:
            raise _unclear("It needs two columns with names: an id, and churned.")
        at = next((names.index(name) for name in _NAMES if name in names), 1)
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            value = row[at].strip().lower() if at < len(row) else ""
            if value not in _CHURNED and value not in _STAYED:
                raise _unclear(
                    f"Line {rows.line_num:,}: {row[at][:40] if at < len(row) else ''!r} is neither "
                    "yes nor no."
                )
            if not row[0] or len(row[0]) > 1000:
                raise _unclear(f"Line {rows.line_num:,} has no id, or one that is too long.")
            found[row[0]] = value in _CHURNED
    except csv.Error as exc:
        raise _unclear(f"Line {rows.line_num:,} cannot be read: {exc}.") from None
    if not found:
        raise _unclear("It holds no customers.")
    return [{"id": id_, "churned": churned} for id_, churned in found.items()]


def _unclear(what: str) -> Refused:
    return Refused(422, "file_unclear", what)

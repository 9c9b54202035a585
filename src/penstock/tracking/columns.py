"""What the columns of an imported CSV mean: a head, and rows that become shipments.

Names of columns are taken as they are but for case, spaces and dashes; nothing else is guessed.
A column ``metadata.NAME`` becomes that entry of the metadata.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from penstock.errors import Refused
from penstock.tracking.carriers.base import Spec
from penstock.tracking.intake import prepare
from penstock.tracking.models import ShipmentIn
from penstock.tracking.sheet import Fault, Place, Row, delimiter_of, read
from penstock.tracking.shipments import NewShipment

KNOWN: Final = ("carrier", "tracking_number", "label", "reference", "ship_date", "postal_code")
METADATA: Final = "metadata."
MOST_COLUMNS: Final = 100
MOST_EMPTY: Final = 100  # rows above the head
TEMPLATE: Final = (
    ",".join((*KNOWN, f"{METADATA}order"))
    + "\r\nsandbox,SBXDELIVERED1,Blue chair,customer 7,2026-01-31,40202,1042\r\n"
)


@dataclass(frozen=True, slots=True)
class Head:
    """How to read the rows: what separates their fields and what the fields are."""

    delimiter: str
    columns: tuple[str, ...]  # "" = a column without a name, which must be empty


def head(start: bytes, *, final: bool, carrier: str | None) -> tuple[Head, Place] | list[Fault]:
    """The head of a file and where its rows begin, or what is wrong with it.

    `carrier`: of every row that names none, so that the column may be missing.
    """
    delimiter = delimiter_of(start)
    place, found = Place(), list[Row | Fault]()
    while not found and place.row <= MOST_EMPTY:
        rest = start[place.at :]
        found, after = read(rest, place, final=final, delimiter=delimiter, most=1)
        if after == place:
            message = "The file is empty. Begin it with the names of its columns."
            return [Fault(1, "empty_file", message)]
        place = after
    if not found:
        message = f"The first {MOST_EMPTY} rows are empty. Begin with the names of the columns."
        return [Fault(1, "missing_header", message)]
    (first,) = found
    if isinstance(first, Fault):
        return [first]
    names = tuple(_plain(name) for name in first.fields)
    while names and not names[-1]:
        names = names[:-1]
    faults = list(_faults(first.number, names, carrier))
    return faults or (Head(delimiter, names), place)


def _plain(name: str) -> str:
    lowered = name.strip().lower()
    if lowered.startswith(METADATA):
        return METADATA + name.strip()[len(METADATA) :]
    return lowered.replace(" ", "_").replace("-", "_")


def _faults(row: int, names: Sequence[str], carrier: str | None) -> list[Fault]:
    expected = ", ".join(KNOWN)
    if not set(names) & set(KNOWN):
        message = f"The first row must name the columns: {expected}."
        return [Fault(row, "missing_header", message)]
    if len(names) > MOST_COLUMNS:
        return [Fault(row, "too_many_columns", f"There may be at most {MOST_COLUMNS} columns.")]
    faults = []
    for name, times in Counter(names).items():
        if name and times > 1:
            message = f"The column {_quoted(name)} is there {times} times."
            faults.append(Fault(row, "duplicate_column", message, name))
        if name and name not in KNOWN and not (name.startswith(METADATA) and name != METADATA):
            message = (
                f"There is no column {_quoted(name)}; known are {expected}, and {METADATA}NAME "
                "for what is yours."
            )
            faults.append(Fault(row, "unknown_column", message, name))
    required = ("tracking_number",) if carrier else ("carrier", "tracking_number")
    faults += [
        Fault(row, "missing_column", f"The column {name} is missing.", name)
        for name in required
        if name not in names
    ]
    return faults


def _quoted(name: str) -> str:
    return repr(name if len(name) <= 60 else f"{name[:60]}…")


def shipment(
    row: Row, columns: Sequence[str], carrier: str | None, specs: Mapping[str, Spec]
) -> NewShipment | Fault:
    """The shipment of a row, or the first thing that is wrong with it."""
    if any(row.fields[len(columns) :]):
        message = f"The row has {len(row.fields)} fields, and the head {len(columns)}."
        return Fault(row.number, "too_many_columns", message)
    values: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    for name, field in zip(columns, row.fields, strict=False):
        if not field:
            continue
        if not name:
            message = f"There is {_quoted(field)} in a column without a name."
            return Fault(row.number, "too_many_columns", message)
        if name.startswith(METADATA):
            metadata[name[len(METADATA) :]] = field
        else:
            values[name] = field
    if "carrier" in values:
        values["carrier"] = values["carrier"].lower().replace(" ", "_").replace("-", "_")
    elif carrier is not None:
        values["carrier"] = carrier
    if metadata:
        values["metadata"] = metadata
    try:
        return prepare(ShipmentIn.model_validate(values), specs)
    except ValidationError as exc:
        failure = exc.errors(include_url=False, include_context=False, include_input=False)[0]
        return _unfit(row.number, failure)
    except Refused as refused:
        code = "bad_number" if refused.pointer == "/tracking_number" else refused.code
        column = (refused.pointer or "/").removeprefix("/") or None
        return Fault(row.number, code, refused.message, column)


def _unfit(row: int, failure: Mapping[str, Any]) -> Fault:
    column = str(failure["loc"][0]) if failure["loc"] else None
    message = failure["msg"].removeprefix("Value error, ").rstrip(".")
    message = f"{message[:1].upper()}{message[1:]}."
    if column == "carrier" and failure["type"] != "missing":
        return Fault(row, "unknown_carrier", "No carrier has such a name.", column)
    match failure["type"]:
        case "missing":
            return Fault(row, "missing_value", f"The row has no {column}.", column)
        case "string_too_long":
            return Fault(row, "too_long", message, column)
        case _:
            code = "bad_date" if column == "ship_date" else "bad_value"
            return Fault(row, code, message, column)

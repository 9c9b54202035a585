"""What the API answers, as frozen dataclasses: built from JSON and turned back into it.

A field is named as in the JSON. A member that is not declared is ignored and one that is
missing takes its default, so that a client and a server of different versions get along.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from typing import Any, Self, TypeAlias, cast

from penstock.clock import from_datetime, to_iso


class Value:
    """Something that the API answered."""

    __slots__ = ()

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """From the JSON object; KeyError, TypeError or ValueError if it is something else."""
        known: dict[str, Any] = {}
        for name, (read, required) in _readers(cls).items():
            if required or name in document:
                known[name] = read(document[name])
        return cls(**known)

    def to_json(self) -> dict[str, Any]:
        """As the API writes it."""
        return {name: plain(getattr(self, name)) for name in _readers(type(self))}


@dataclass(frozen=True, slots=True)
class Failure(Value):
    """One thing wrong with a request: `pointer` is the place in its body (RFC 6901)."""

    message: str
    pointer: str | None = None
    parameter: str | None = None


@dataclass(frozen=True, slots=True)
class Problem(Value):
    """Why a request was refused (RFC 9457); `code` is stable, `detail` is for people."""

    code: str
    status: int
    title: str = ""
    detail: str = ""
    request_id: str | None = None
    errors: tuple[Failure, ...] = ()


def plain(value: object) -> Any:
    """`value` as `json.dumps` takes it: times become RFC 3339."""
    match value:
        case Value():
            return value.to_json()
        case datetime():
            return to_iso(from_datetime(value))
        case tuple() | list():
            return [plain(each) for each in value]
        case _:
            return value


def moment(value: datetime | str | None) -> str | None:
    """A time for a request; a `datetime` must have a zone."""
    return to_iso(from_datetime(value)) if isinstance(value, datetime) else value


_Readers: TypeAlias = dict[str, tuple[Callable[[Any], Any], bool]]
_known: dict[type[Value], _Readers] = {}


def _readers(kind: type[Value]) -> _Readers:
    """By field: how to read it, and whether it must be there."""
    if kind in _known:
        return _known[kind]
    hints = typing.get_type_hints(kind)
    _known[kind] = {
        field.name: (
            _reader(hints[field.name]),
            field.default is MISSING and field.default_factory is MISSING,
        )
        for field in fields(cast("Any", kind))
    }
    return _known[kind]


def _reader(hint: Any) -> Callable[[Any], Any]:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):  # something or None, nothing else is declared
        inner = _reader(next(part for part in parts if part is not types.NoneType))
        return lambda value: None if value is None else inner(value)
    if origin is tuple:
        item = _reader(parts[0])
        return lambda value: tuple(map(item, value))
    if hint is datetime:
        return datetime.fromisoformat
    if isinstance(hint, type) and issubclass(hint, Value):
        return hint.of
    return lambda value: value

"""Which events an endpoint takes, by their contents: JSON conditions on payload and metadata.

::

    {"payload.order.total": {"gte": 100, "lt": 1000},
     "metadata.tenant": "acme",
     "or": [{"payload.country": {"in": ["DE", "FR"]}}, {"payload.vip": true}]}

A filter is an object with at least one member, and matches when **every** member holds.

Members
    ``"<path>": <literal>``
        the value there equals the literal: a string, number, boolean, null or array. An object
        always holds operators; write ``{"eq": {…}}`` to compare with one.
    ``"<path>": {"<operator>": <operand>, …}``
        every operator holds.
    ``"and": [<filter>, …]``, ``"or": [<filter>, …]``, ``"not": <filter>``
        all, at least one, or not.

Paths
    ``payload.order.items.0.sku``: a root, ``payload`` or ``metadata``, and names after dots.
    A name that is empty or holds a dot is written as a JSON pointer (RFC 6901) that begins with
    the root: ``/payload/a.b/0`` (``~0`` is ``~``, ``~1`` is ``/``). In an object a name is a
    key; in an array it is an index (``0``, ``12``; no sign, no leading zero). Where a step
    cannot be taken there is **nothing** at the path. An event without metadata has nothing at
    ``metadata``. null is a value, not nothing. One object names a path only once.

Operators
    ==============  =====================  =======================================================
    operator        operand                holds when
    ==============  =====================  =======================================================
    eq              any value              there is a value and it equals the operand
    neq             any value              eq does not hold: also when there is nothing
    gt gte lt lte   a number or a string   both are numbers, or both strings, in that order
    in              1 to 100 scalars       eq holds with one of them
    nin             1 to 100 scalars       in does not hold: also when there is nothing
    exists          a boolean              there is a value (true), there is nothing (false)
    starts_with     a string               the value is a string that begins with the operand
    ends_with       a string               the value is a string that ends with the operand
    ==============  =====================  =======================================================

Equality and order
    Values of different types are never equal and have no order. Numbers are compared by their
    exact value: 1 equals 1.0, 9007199254740993 is greater than 9007199254740992.0, and a boolean
    is no number. Strings are equal, and ordered, by code points, without any normalization.
    Arrays are equal item by item in order, objects key by key in any order.
    A scalar is a string, number, boolean or null.

Limits
    100 operators, 8 levels of and/or/not, 8 levels of arrays and objects in an operand, 1,000
    characters a string, numbers within ±1.8e308, 64 KiB as compact JSON in ASCII. The cost of
    matching grows with the size of the filter alone: there are no regular expressions and no
    search, and a comparison stops at the end of the shorter side.
"""

from __future__ import annotations

import json
import operator
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from penstock.errors import PenstockError

MOST_CONDITIONS: Final = 100
MOST_LEVELS: Final = 8  # of and/or/not, and of arrays and objects in an operand
MOST_VALUES: Final = 100  # of in and nin
MOST_CHARACTERS: Final = 1_000  # of a path or a string
MOST_BYTES: Final = 64 * 1024  # of the whole, as compact JSON in ASCII

_ROOTS: Final = ("payload", "metadata")
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}")
_BAD_ESCAPE: Final = re.compile(r"~(?![01])")

_NOTHING: Final = object()


class FilterRefused(PenstockError):
    """The filter is not valid; `pointer` is where in the filter (RFC 6901, "" = the whole)."""

    def __init__(self, message: str, pointer: str) -> None:
        super().__init__(message)
        self.message = message
        self.pointer = pointer


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter that passed every check. Filters of the same canonical form are equal."""

    text: str  # the canonical form, as compact JSON
    _root: _Every = field(repr=False, compare=False)

    def matches(self, payload: object, metadata: object) -> bool:
        """Whether an event with these contents passes; values are as `json.loads` makes them."""
        return self._root.holds((payload, _NOTHING if metadata is None else metadata))

    def to_json(self) -> dict[str, Any]:
        """The canonical form: `compile_filter` of it is this filter.

        Members keep their order; paths are dotted where they can be; a lone eq is a literal
        where it can be.
        """
        document: dict[str, Any] = json.loads(self.text)
        return document


def compile_filter(value: object) -> Filter:
    """The filter that `value`, a JSON value, describes; FilterRefused if it is none."""
    root = _Compiler().every(value, "", 0)
    text = json.dumps(root.json(), separators=(",", ":"))
    if len(text) > MOST_BYTES:
        raise FilterRefused(f"a filter has at most {MOST_BYTES} bytes as JSON", "")
    return Filter(text, root)


# What a filter is made of. Everything can be pickled; `roots` are payload and metadata.

_Roots: TypeAlias = tuple[object, object]


@dataclass(frozen=True, slots=True)
class _Test:
    operator: str
    operand: Any
    among: frozenset[Any] | None = None  # the operand of in and nin, to look a value up

    def holds(self, value: object) -> bool:
        return _OPERATORS[self.operator](value, self.operand if self.among is None else self.among)


@dataclass(frozen=True, slots=True)
class _At:
    """The tests of one path."""

    root: int
    names: tuple[str, ...]
    indexes: tuple[int | None, ...]  # the same as `names` for arrays
    tests: tuple[_Test, ...]

    def holds(self, roots: _Roots) -> bool:
        value = roots[self.root]
        for name, index in zip(self.names, self.indexes, strict=True):
            if isinstance(value, dict):
                value = value.get(name, _NOTHING)
            elif isinstance(value, list) and index is not None and index < len(value):
                value = value[index]
            else:
                value = _NOTHING
                break
        return all(test.holds(value) for test in self.tests)

    def member(self) -> tuple[str, Any]:
        """Its key and value in the canonical form."""
        if all(name and "." not in name for name in self.names):
            path = ".".join((_ROOTS[self.root], *self.names))
        else:
            path = _pointer("", _ROOTS[self.root], *self.names)
        first = self.tests[0]
        if len(self.tests) == 1 and first.operator == "eq" and not isinstance(first.operand, dict):
            return path, first.operand
        return path, {test.operator: test.operand for test in self.tests}


@dataclass(frozen=True, slots=True)
class _Every:
    """One object of a filter: its members in order."""

    members: tuple[_At | _Combined, ...]

    def holds(self, roots: _Roots) -> bool:
        return all(member.holds(roots) for member in self.members)

    def json(self) -> dict[str, Any]:
        return dict(member.member() for member in self.members)


@dataclass(frozen=True, slots=True)
class _Combined:
    """One ``and``, ``or`` or ``not``; the last has a single part."""

    combinator: str
    parts: tuple[_Every, ...]

    def holds(self, roots: _Roots) -> bool:
        if self.combinator == "and":
            return all(part.holds(roots) for part in self.parts)
        some = any(part.holds(roots) for part in self.parts)
        return some if self.combinator == "or" else not some

    def member(self) -> tuple[str, Any]:
        """Its key and value in the canonical form."""
        parts = [part.json() for part in self.parts]
        return self.combinator, parts[0] if self.combinator == "not" else parts


# What the operators mean. `value` may be _NOTHING.


def _equal(value: object, wanted: object) -> bool:
    # bool is a subclass of int, and Python compares ints with floats exactly.
    if isinstance(wanted, bool) or isinstance(value, bool):
        return wanted is value
    if isinstance(wanted, int | float):
        return isinstance(value, int | float) and value == wanted
    if isinstance(wanted, str):
        return isinstance(value, str) and value == wanted
    if isinstance(wanted, list):
        return (
            isinstance(value, list)
            and len(value) == len(wanted)
            and all(map(_equal, value, wanted))
        )
    if isinstance(wanted, dict):
        return (
            isinstance(value, dict)
            and len(value) == len(wanted)
            and all(_equal(value.get(key, _NOTHING), wanted[key]) for key in wanted)
        )
    return value is None  # and so is `wanted`


def _among(value: object, keys: frozenset[Any]) -> bool:
    return _is_scalar(value) and _key(value) in keys


def _key(scalar: object) -> object:
    """Equal for scalars that are equal, and only for those: 1 and true are not."""
    return (scalar,) if isinstance(scalar, bool) else scalar


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def holds(value: object, operand: object) -> bool:
        if isinstance(operand, str):
            return isinstance(value, str) and compare(value, operand)
        return _is_number(value) and compare(value, operand)

    return holds


_OPERATORS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "eq": _equal,
    "neq": lambda value, operand: not _equal(value, operand),
    "gt": _ordered(operator.gt),
    "gte": _ordered(operator.ge),
    "lt": _ordered(operator.lt),
    "lte": _ordered(operator.le),
    "in": _among,
    "nin": lambda value, keys: not _among(value, keys),
    "exists": lambda value, operand: (value is not _NOTHING) is operand,
    "starts_with": lambda value, operand: isinstance(value, str) and value.startswith(operand),
    "ends_with": lambda value, operand: isinstance(value, str) and value.endswith(operand),
}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


# From JSON to the above. `at` is the pointer to the value in hand.


class _Compiler:
    def __init__(self) -> None:
        self._conditions = 0

    def every(self, value: object, at: str, level: int) -> _Every:
        if not isinstance(value, dict):
            raise FilterRefused("a filter is an object of conditions", at)
        if not value:
            raise FilterRefused("there is no condition here: give at least one", at)
        members: list[_At | _Combined] = []
        paths: set[tuple[int, tuple[str, ...]]] = set()
        for key, condition in value.items():
            if not isinstance(key, str):
                raise FilterRefused("the keys of an object are strings", at)
            here = _pointer(at, key)
            if key in ("and", "or", "not"):
                members.append(self._combined(key, condition, here, level + 1))
                continue
            root, names = _path(key, here)
            if (root, names) in paths:
                raise FilterRefused("another member here names the same path", here)
            paths.add((root, names))
            indexes = tuple(int(name) if _INDEX.fullmatch(name) else None for name in names)
            members.append(_At(root, names, indexes, self._tests(condition, here)))
        return _Every(tuple(members))

    def _combined(self, combinator: str, value: object, at: str, level: int) -> _Combined:
        if level > MOST_LEVELS:
            raise FilterRefused(f"and, or and not are nested at most {MOST_LEVELS} deep", at)
        if combinator == "not":
            return _Combined(combinator, (self.every(value, at, level),))
        if not isinstance(value, list) or not value:
            raise FilterRefused(f"{combinator} takes an array of at least one filter", at)
        return _Combined(
            combinator,
            tuple(self.every(part, f"{at}/{n}", level) for n, part in enumerate(value)),
        )

    def _tests(self, condition: object, at: str) -> tuple[_Test, ...]:
        if not isinstance(condition, dict):
            return (self._test("eq", condition, at),)
        if not condition:
            raise FilterRefused('there is no operator here; {"eq": {}} is an empty object', at)
        tests = []
        for name, operand in condition.items():
            here = _pointer(at, str(name))
            if name not in _OPERATORS:
                known = ", ".join(_OPERATORS)
                hint = 'to compare with an object write {"eq": {…}}'
                raise FilterRefused(f"no such operator; there are {known}; {hint}", here)
            tests.append(self._test(name, operand, here))
        return tuple(tests)

    def _test(self, name: str, operand: object, at: str) -> _Test:
        self._conditions += 1
        if self._conditions > MOST_CONDITIONS:
            raise FilterRefused(f"a filter has at most {MOST_CONDITIONS} conditions", at)
        match name:
            case "in" | "nin":
                if not isinstance(operand, list) or not 1 <= len(operand) <= MOST_VALUES:
                    raise FilterRefused(f"{name} takes an array of 1 to {MOST_VALUES} values", at)
                values = [_scalar(name, each, f"{at}/{n}") for n, each in enumerate(operand)]
                return _Test(name, values, frozenset(map(_key, values)))
            case "exists":
                if not isinstance(operand, bool):
                    raise FilterRefused("exists takes true or false", at)
            case "starts_with" | "ends_with":
                if not isinstance(operand, str):
                    raise FilterRefused(f"{name} takes a string", at)
            case "gt" | "gte" | "lt" | "lte":
                if not (isinstance(operand, str) or _is_number(operand)):
                    raise FilterRefused(f"{name} takes a number or a string", at)
        return _Test(name, _value(operand, at))


def _scalar(name: str, value: object, at: str) -> object:
    if not _is_scalar(value):
        raise FilterRefused(f"{name} takes strings, numbers, booleans and null", at)
    return _value(value, at)


def _value(value: object, at: str, level: int = 0) -> Any:
    """A copy of a JSON value that is within the limits."""
    match value:
        case None | bool():
            return value
        case str():
            return _short(value, at)
        case int() | float():
            if not abs(value) <= sys.float_info.max:  # nor is NaN
                raise FilterRefused("a number lies within ±1.8e308", at)
            return value
        case list() | dict() if level >= MOST_LEVELS:
            raise FilterRefused(f"a value is nested at most {MOST_LEVELS} deep", at)
        case list():
            return [_value(each, f"{at}/{n}", level + 1) for n, each in enumerate(value)]
        case dict() if all(isinstance(key, str) for key in value):
            return {
                _short(key, _pointer(at, key)): _value(each, _pointer(at, key), level + 1)
                for key, each in value.items()
            }
        case _:
            raise FilterRefused("this is not a JSON value", at)


def _short(text: str, at: str) -> str:
    if len(text) > MOST_CHARACTERS:
        raise FilterRefused(f"a string has at most {MOST_CHARACTERS} characters", at)
    return text


def _path(text: str, at: str) -> tuple[int, tuple[str, ...]]:
    """The root and the names after it."""
    _short(text, at)
    if text.startswith("/"):
        if _BAD_ESCAPE.search(text):
            raise FilterRefused("in a JSON pointer ~ is written ~0, and / in a name ~1", at)
        names = [part.replace("~1", "/").replace("~0", "~") for part in text[1:].split("/")]
    else:
        names = text.split(".")
    if names[0] not in _ROOTS:
        raise FilterRefused(
            "a condition is named and, or, not, or by a path that begins with payload or metadata",
            at,
        )
    if not text.startswith("/") and "" in names:
        raise FilterRefused("a name is empty; if that is meant, write /payload//name", at)
    return _ROOTS.index(names[0]), tuple(names[1:])


def _pointer(at: str, *names: str) -> str:
    return at + "".join(f"/{name.replace('~', '~0').replace('/', '~1')}" for name in names)

"""Filters: what matches, what is refused and where, and what matching may cost."""

from __future__ import annotations

import gc
import json
import pickle
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.events.filters import Filter, FilterRefused, compile_filter

PAYLOAD: dict[str, Any] = {
    "order": {"total": 120, "items": [{"sku": "A-1"}, {"sku": "B-2"}], "note": None},
    "price": 1.0,
    "big": 2**53 + 1,
    "vip": True,
    "country": "DE",
    "empty": "",
    "tags": ["a", "b"],
    "a.b": {"": {"x/y~z": 7}},
    "0": "a key that looks like an index",
    "emoji": "\U0001f600",
}
METADATA: dict[str, Any] = {"tenant": "acme"}


def _matches(value: Any, payload: Any = PAYLOAD, metadata: Any = METADATA) -> bool:
    return compile_filter(value).matches(payload, metadata)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # literals and paths
        ({"payload.order.total": 120}, True),
        ({"payload.order.total": 121}, False),
        ({"metadata.tenant": "acme"}, True),
        ({"payload.tenant": "acme"}, False),
        ({"payload.order.items.0.sku": "A-1"}, True),
        ({"payload.order.items.1.sku": "A-1"}, False),
        ({"payload.order.items.2.sku": {"exists": False}}, True),
        ({"payload.order.items.-1.sku": {"exists": False}}, True),
        ({"payload.order.items.00.sku": {"exists": False}}, True),
        ({"payload.order.items.٠.sku": {"exists": False}}, True),
        ({"payload.order.items.length": {"exists": False}}, True),
        ({"payload.order.items.999999999999": {"exists": False}}, True),
        ({"payload.0": {"starts_with": "a key"}}, True),
        ({"/payload/a.b//x~1y~0z": 7}, True),
        ({"/payload/order/total": 120}, True),
        ({"payload": {"exists": True}}, True),
        ({"/metadata": {"eq": {"tenant": "acme"}}}, True),
        ({"payload.country.0": {"exists": False}}, True),
        # null is a value; nothing is not
        ({"payload.order.note": None}, True),
        ({"payload.order.note": {"exists": True}}, True),
        ({"payload.order.nope": None}, False),
        ({"payload.order.nope": {"exists": True}}, False),
        ({"payload.order.note": {"neq": None}}, False),
        ({"payload.order.note": {"lt": 1}}, False),
        ({"payload.order.note.deeper": {"exists": False}}, True),
        # negatives are exact complements, also of nothing
        ({"payload.order.nope": {"neq": 1}}, True),
        ({"payload.order.nope": {"nin": [1, None]}}, True),
        ({"payload.order.nope": {"in": [None]}}, False),
        ({"payload.order.nope": {"gte": 0}}, False),
        ({"payload.order.nope": {"lte": 0}}, False),
        ({"payload.order.nope": {"starts_with": ""}}, False),
        ({"not": {"payload.order.nope": {"gt": 0}}}, True),
        # numbers are exact, and booleans are none
        ({"payload.price": 1}, True),
        ({"payload.price": {"in": [1]}}, True),
        ({"payload.price": True}, False),
        ({"payload.price": {"in": [True]}}, False),
        ({"payload.vip": 1}, False),
        ({"payload.vip": {"in": [1, 1.0]}}, False),
        ({"payload.vip": {"nin": [1]}}, True),
        ({"payload.vip": {"gte": 1}}, False),
        ({"payload.vip": {"in": [False, True]}}, True),
        ({"payload.big": 2**53 + 1}, True),
        ({"payload.big": float(2**53)}, False),
        ({"payload.big": {"gt": float(2**53)}}, True),
        ({"payload.price": {"eq": -0.0}}, False),
        # strings by code point; types do not mix
        ({"payload.country": {"gt": "DD", "lt": "DF"}}, True),
        ({"payload.country": {"gte": "DE", "lte": "DE"}}, True),
        ({"payload.country": {"gt": "DE"}}, False),
        ({"payload.country": {"lt": "de"}}, True),
        ({"payload.emoji": {"gt": "\uffff"}}, True),
        ({"payload.country": {"gt": 0}}, False),
        ({"payload.order.total": {"gt": "1"}}, False),
        ({"payload.order.total": "120"}, False),
        ({"payload.country": {"starts_with": "D", "ends_with": "E"}}, True),
        ({"payload.country": {"starts_with": "E"}}, False),
        ({"payload.order.total": {"starts_with": "1"}}, False),
        ({"payload.empty": {"starts_with": ""}}, True),
        # arrays and objects as wholes
        ({"payload.tags": ["a", "b"]}, True),
        ({"payload.tags": ["b", "a"]}, False),
        ({"payload.tags": ["a"]}, False),
        ({"payload.tags": "a"}, False),
        ({"payload.tags": {"in": ["a"]}}, False),
        ({"payload.tags": {"neq": ["a"]}}, True),
        ({"payload.order.items.0": {"eq": {"sku": "A-1"}}}, True),
        ({"payload.order.items.0": {"eq": {"sku": "A-1", "n": None}}}, False),
        ({"payload.order.items.0": {"eq": {"n": None}}}, False),
        ({"payload.tags": {"gt": "a"}}, False),
        # combinations
        ({"payload.vip": True, "metadata.tenant": "other"}, False),
        ({"or": [{"payload.vip": False}, {"metadata.tenant": "acme"}]}, True),
        ({"or": [{"payload.vip": False}]}, False),
        ({"and": [{"payload.vip": True}, {"metadata.tenant": "acme"}]}, True),
        ({"and": [{"payload.vip": True}, {"metadata.tenant": "x"}]}, False),
        ({"not": {"payload.vip": True, "metadata.tenant": "x"}}, True),
        ({"payload.vip": True, "or": [{"payload.price": 2}, {"payload.price": 1}]}, True),
    ],
)
def test_what_matches(value: Any, expected: bool) -> None:
    assert _matches(value) is expected


def test_an_event_without_metadata_has_nothing_there() -> None:
    for value, expected in [
        ({"metadata": {"exists": False}}, True),
        ({"metadata": None}, False),
        ({"metadata.tenant": {"exists": False}}, True),
        ({"metadata.tenant": {"neq": "acme"}}, True),
    ]:
        assert _matches(value, metadata=None) is expected


def _combined(levels: int, combinator: str) -> Any:
    value: Any = {"payload.a": 1}
    for _ in range(levels):
        value = {combinator: value if combinator == "not" else [value]}
    return value


def _nested(levels: int) -> Any:
    value: Any = 1
    for n in range(levels):
        value = [value] if n % 2 else {"a": value}
    return value


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        ([], ""),
        (None, ""),
        ("payload.a", ""),
        ({}, ""),
        ({"order.total": 1}, "/order.total"),
        ({"Payload.a": 1}, "/Payload.a"),
        ({"payloads": 1}, "/payloads"),
        ({"": 1}, "/"),
        ({"/": 1}, "/~1"),
        ({"/data/a": 1}, "/~1data~1a"),
        ({"/payload/~2": 1}, "/~1payload~1~02"),
        ({"/payload/a~": 1}, "/~1payload~1a~0"),
        ({"payload.": 1}, "/payload."),
        ({"payload..a": 1}, "/payload..a"),
        ({"payload." + "a" * 993: 1}, "/payload." + "a" * 993),
        ({"payload.a": 1, "/payload/a": {"gt": 0}}, "/~1payload~1a"),
        ({"$or": [{"payload.a": 1}]}, "/$or"),
        ({"payload.a": {}}, "/payload.a"),
        ({"payload.a": {"$eq": 1}}, "/payload.a/$eq"),
        ({"payload.a": {"gte": 1, "a/b": 2}}, "/payload.a/a~1b"),
        ({"payload.a": {"contains": "x"}}, "/payload.a/contains"),
        ({"payload.a": {"and": [1]}}, "/payload.a/and"),
        ({"payload.a": {"gt": True}}, "/payload.a/gt"),
        ({"payload.a": {"gt": None}}, "/payload.a/gt"),
        ({"payload.a": {"lte": [1]}}, "/payload.a/lte"),
        ({"payload.a": {"in": []}}, "/payload.a/in"),
        ({"payload.a": {"in": "abc"}}, "/payload.a/in"),
        ({"payload.a": {"nin": list(range(101))}}, "/payload.a/nin"),
        ({"payload.a": {"in": [1, "b", [2]]}}, "/payload.a/in/2"),
        ({"payload.a": {"nin": ["x", "y" * 1001]}}, "/payload.a/nin/1"),
        ({"payload.a": {"exists": 1}}, "/payload.a/exists"),
        ({"payload.a": {"starts_with": 1}}, "/payload.a/starts_with"),
        ({"payload.a": {"ends_with": None}}, "/payload.a/ends_with"),
        ({"payload.a": "x" * 1001}, "/payload.a"),
        ({"payload.a": {"eq": {"k": [1, "x" * 1001]}}}, "/payload.a/eq/k/1"),
        ({"payload.a": {"eq": {"k" * 1001: 1}}}, "/payload.a/eq/" + "k" * 1001),
        ({"payload.a": float("nan")}, "/payload.a"),
        ({"payload.a": {"lt": float("inf")}}, "/payload.a/lt"),
        ({"payload.a": 10**400}, "/payload.a"),
        ({"payload.a": {"in": [1, -(10**400)]}}, "/payload.a/in/1"),
        ({"payload.a": ("a",)}, "/payload.a"),
        ({"payload.a": {"eq": {1: 2}}}, "/payload.a/eq"),
        ({1: 2}, ""),
        ({"payload.a": _nested(9)["a"]}, None),
        ({"payload.a": {"eq": _nested(9)}}, "/payload.a/eq" + "/a/0" * 4),
        ({"or": {}}, "/or"),
        ({"and": []}, "/and"),
        ({"not": []}, "/not"),
        ({"not": {}}, "/not"),
        ({"or": [{"payload.a": 1}, 7]}, "/or/1"),
        ({"or": [{"payload.a": 1}, {"not": {"x": 1}}]}, "/or/1/not/x"),
        (_combined(8, "not"), None),
        (_combined(9, "not"), "/not" * 9),
        (_combined(9, "or"), "/or/0" * 8 + "/or"),
        ({"and": [{"payload.a": {"gt": 1, "lt": 9}}] * 50}, None),
        ({"and": [{"payload.a": {"gt": 1, "lt": 9}}] * 51}, "/and/50/payload.a/gt"),
        ({f"payload.a{n}": ["x" * 1000] * 10 for n in range(10)}, ""),
    ],
)
def test_refusals_say_where(value: Any, pointer: str | None) -> None:
    if pointer is None:
        compile_filter(value)
        return
    with pytest.raises(FilterRefused) as refused:
        compile_filter(value)
    assert refused.value.pointer == pointer
    assert refused.value.message


def test_the_canonical_form() -> None:
    written = {
        "/payload/a": {"eq": 1},
        "/payload/a.b": {"gt": 1, "lt": 2.0},
        "/payload": {"eq": {}},
        "or": [{"payload.x": {"in": [1, 1.0, True]}}, {"not": {"payload.y": None}}],
    }
    filter_ = compile_filter(written)
    assert filter_.to_json() == {
        "payload.a": 1,
        "/payload/a.b": {"gt": 1, "lt": 2.0},
        "payload": {"eq": {}},
        "or": [{"payload.x": {"in": [1, 1.0, True]}}, {"not": {"payload.y": None}}],
    }
    assert compile_filter({"payload.a": 1}) == compile_filter({"/payload/a": {"eq": 1}})
    assert compile_filter({"payload.a": 1}) != compile_filter({"payload.a": True})


def test_a_filter_keeps_nothing_of_what_it_was_made_of() -> None:
    tags = ["a", "b"]
    filter_ = compile_filter({"payload.tags": tags})
    tags.append("c")
    filter_.to_json()["payload.tags"].append("d")
    assert filter_.matches(PAYLOAD, None)


# Against a second evaluator, which knows a document only as a table of pointers and compares
# by typed values: nothing of it is shared with the first.

_NAMES = ["a", "b", "", "a.b", "0", "1", "~/"]
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 2**53, 2**53 + 1, 10**20]),
    st.sampled_from([0.0, -0.0, 1.0, 0.5, float(2**53), 1e20, 5e-324]),
    st.sampled_from(["", "a", "ab", "b", "0", "é", "\U0001f600", "\uffff"]),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(_NAMES), inner, max_size=3),
    ),
    max_leaves=6,
)
_DOCUMENTS = st.dictionaries(st.sampled_from(_NAMES), _VALUES, max_size=4)


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _spelled(names: list[str], pointer: bool) -> str:
    if pointer or any(name == "" or "." in name for name in names):
        return "".join("/" + _escaped(name) for name in names)
    return ".".join(names)


_PATHS = st.builds(
    lambda root, names, pointer: _spelled([root, *names], pointer),
    st.sampled_from(["payload", "metadata"]),
    st.lists(st.sampled_from(_NAMES), max_size=3),
    st.booleans(),
)
_ORDERABLE = _SCALARS.filter(lambda value: type(value) in (int, float, str))
_OPERANDS: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("eq", "neq"), _VALUES),
    **dict.fromkeys(("gt", "gte", "lt", "lte"), _ORDERABLE),
    **dict.fromkeys(("in", "nin"), st.lists(_SCALARS, min_size=1, max_size=4)),
    "exists": st.booleans(),
    **dict.fromkeys(("starts_with", "ends_with"), st.sampled_from(["", "a", "b", "ab", "é"])),
}
_CONDITIONS = st.one_of(
    _VALUES.filter(lambda value: not isinstance(value, dict)),
    st.lists(st.sampled_from(sorted(_OPERANDS)), min_size=1, max_size=2, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: _OPERANDS[name] for name in names})
    ),
)


def _names_one_path_twice(value: dict[str, Any]) -> bool:
    paths = [_table_key(key) for key in value if key not in ("and", "or", "not")]
    return len(paths) != len(set(paths))


_FILTERS = st.recursive(
    st.dictionaries(_PATHS, _CONDITIONS, min_size=1, max_size=2),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"not": inner}),
        st.builds(lambda a, b: {**a, "or": [b]}, inner, inner),
    ),
    max_leaves=5,
)


def _table_key(path: str) -> str:
    if path.startswith("/"):
        return path
    return "".join("/" + _escaped(name) for name in path.split("."))


def _table(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    yield at, value
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _table(each, f"{at}/{_escaped(key)}")
    elif isinstance(value, list):
        for n, each in enumerate(value):
            yield from _table(each, f"{at}/{n}")


def _typed(value: Any) -> Any:
    """A form in which `==` is the equality that filters promise."""
    match value:
        case bool():
            return ("boolean", value)
        case int() | float():
            return ("number", Fraction(value))
        case str():
            return ("string", [ord(character) for character in value])
        case None:
            return ("null",)
        case list():
            return ("array", [_typed(each) for each in value])
        case _:
            return ("object", {key: _typed(each) for key, each in value.items()})


def _reference_test(operator: str, operand: Any, table: dict[str, Any], key: str) -> bool:
    exists = key in table
    value = _typed(table[key]) if exists else ("nothing",)
    if operator == "exists":
        return exists == operand
    if operator in ("eq", "neq"):
        return (value == _typed(operand)) == (operator == "eq")
    if operator in ("in", "nin"):
        return any(value == _typed(each) for each in operand) == (operator == "in")
    wanted = _typed(operand)
    if value[0] != wanted[0]:
        return False
    if operator in ("starts_with", "ends_with"):
        have, part = value[1], wanted[1]
        start = 0 if operator == "starts_with" else len(have) - len(part)
        return len(part) <= len(have) and have[start : start + len(part)] == part
    less, same = value[1] < wanted[1], value[1] == wanted[1]
    return {"lt": less, "lte": less or same, "gt": not (less or same), "gte": not less}[operator]


def _reference(value: dict[str, Any], table: dict[str, Any]) -> bool:
    outcomes = []
    for key, condition in value.items():
        if key == "and":
            outcomes.append(all(_reference(part, table) for part in condition))
        elif key == "or":
            outcomes.append(any(_reference(part, table) for part in condition))
        elif key == "not":
            outcomes.append(not _reference(condition, table))
        else:
            tests = condition if isinstance(condition, dict) else {"eq": condition}
            outcomes += [_reference_test(*test, table, _table_key(key)) for test in tests.items()]
    return all(outcomes)


def _repeats(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_repeats, value))
    if not isinstance(value, dict):
        return False
    return _names_one_path_twice(value) or any(
        _repeats(value[key]) for key in ("and", "or", "not") if key in value
    )


def _near(operand: Any) -> st.SearchStrategy[Any]:
    """Values that an operator with this operand might confuse with others."""
    near = [operand]
    if isinstance(operand, list):
        near += [operand[:-1], operand[::-1], *operand]
    if isinstance(operand, dict):
        near += [dict(list(operand.items())[1:]), {**operand, "b": None}]
    for value in list(near):
        if isinstance(value, bool | int | float):
            near += [int(value), float(value), bool(value), str(value)]
    return st.sampled_from(near) | _VALUES


_PAIRS = st.sampled_from(sorted(_OPERANDS)).flatmap(
    lambda name: _OPERANDS[name].flatmap(
        lambda operand: st.tuples(st.just(name), st.just(operand), _near(operand))
    )
)


@settings(max_examples=600)
@given(_PAIRS)
def test_an_operator_agrees_with_the_reference(pair: tuple[str, Any, Any]) -> None:
    name, operand, value = pair
    expected = _reference_test(name, operand, {"/payload/a": value}, "/payload/a")
    assert compile_filter({"payload.a": {name: operand}}).matches({"a": value}, None) == expected


@given(_FILTERS, _DOCUMENTS, st.none() | _DOCUMENTS)
def test_agrees_with_the_reference(value: Any, payload: Any, metadata: Any) -> None:
    if _repeats(value):
        with pytest.raises(FilterRefused, match="same path"):
            compile_filter(value)
        return
    table = dict(_table(payload, "/payload"))
    if metadata is not None:
        table |= dict(_table(metadata, "/metadata"))

    filter_ = compile_filter(value)

    assert filter_.matches(payload, metadata) == _reference(value, table)
    again = compile_filter(json.loads(json.dumps(filter_.to_json())))
    assert again == filter_
    assert hash(again) == hash(filter_)
    assert again.matches(payload, metadata) == filter_.matches(payload, metadata)
    assert pickle.loads(pickle.dumps(filter_)).matches(payload, metadata) == filter_.matches(
        payload, metadata
    )


@given(
    st.recursive(
        _SCALARS | st.sampled_from(["and", "payload.a", "in"]),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(
                    ["and", "or", "not", "payload.a", "/payload/b", "eq", "in", "x", "gt"]
                ),
                inner,
                max_size=3,
            ),
        ),
    )
)
def test_whatever_comes_is_compiled_or_refused_at_a_place_that_exists(value: Any) -> None:
    pointer = ""
    try:
        compile_filter(value).matches(PAYLOAD, METADATA)
    except FilterRefused as refused:
        pointer = refused.pointer
    assert pointer in dict(_table(value, ""))


# What matching costs. The payload is of the largest size that is accepted.


def _payload() -> dict[str, Any]:
    deep: Any = {"s": "x" * 200_000}
    for _ in range(50):
        deep = {"d": deep}
    return {"s": "x" * 1000 + "y" * 20_000, "deep": deep, "list": [{"k": n} for n in range(3000)]}


def _worst(conditions: int) -> Filter:
    """No condition decides, each looks at as much as it can."""
    path = "payload.deep" + ".d" * 50 + ".s"
    many = [f"{n:04}" for n in range(100)]
    kinds: list[Any] = [
        {path: {"nin": many[:50]}},
        {"/payload/s": {"starts_with": "x" * 900}},
        {"/payload/s": {"gte": "x" * 900}},
        {path: {"ends_with": "x" * 100}},
        {"payload.list": {"neq": [{"k": n} for n in range(10)]}},
    ]
    value: Any = {"and": [kinds[n % len(kinds)] for n in range(conditions)]}
    for _ in range(6):
        value = {"not": value}
    return compile_filter(value)


def _seconds(filter_: Filter, payload: Any) -> float:
    """Of the processor, which others may be using meanwhile."""
    best = 1.0
    for _ in range(20):
        began = time.thread_time()
        assert filter_.matches(payload, None)
        best = min(best, time.thread_time() - began)
    return best


def _steps(filter_: Filter, payload: Any) -> int:
    """Lines of Python that one evaluation runs: a cost that no busy machine disturbs."""
    count = 0

    def trace(*_: Any) -> Any:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    gc.disable()  # hypothesis is told of each collection, by lines of Python that would count
    sys.settrace(trace)
    try:
        filter_.matches(payload, None)
    finally:
        sys.settrace(before)
        gc.enable()
    return count


def test_the_worst_filter_is_cheap_on_the_largest_payload() -> None:
    payload = _payload()
    assert 200_000 < len(json.dumps(payload)) <= 256 * 1024

    assert _seconds(_worst(100), payload) < 0.01


def test_the_cost_grows_with_the_filter_and_not_with_the_payload() -> None:
    payload = _payload()
    quarter, half, whole = (_steps(_worst(n), payload) for n in (25, 50, 100))
    assert half <= 2 * quarter
    assert whole <= 2 * half

    equal = compile_filter({"payload.a": {"neq": [0] * 50}})
    short, long = ({"a": [0] * n} for n in (51, 100_000))
    assert _steps(equal, short) == _steps(equal, long)
    largest = compile_filter({"payload.a": {"eq": [0] * 1000}})
    assert _steps(largest, {"a": [0] * 1000}) <= 21 * _steps(equal, {"a": [0] * 50})

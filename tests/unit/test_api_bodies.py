from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from penstock.api import bodies
from penstock.api.problems import Problem


class Event(BaseModel):
    model_config = ConfigDict(extra="forbid")

    event_type: str
    payload: dict[str, Any]


def body(value: bytes) -> bytes:
    return b'{"event_type":"a","payload":{"x":' + value + b"}}"


def code_of(raw: bytes) -> str:
    with pytest.raises(Problem) as caught:
        bodies.parse(Event, raw)
    # The plain way must agree, or typed and direct routes would differ.
    if caught.value.code != "validation_failed":
        with pytest.raises(Problem) as plain:
            bodies.loads(raw)
        assert plain.value.code == caught.value.code
    return caught.value.code


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "malformed_json"),
        (b"   ", "malformed_json"),
        (b"{", "malformed_json"),
        (b'{"event_type":"a"', "malformed_json"),
        (b"{}x", "malformed_json"),
        (b"{'a':1}", "malformed_json"),
        (body(b"01"), "malformed_json"),
        (body(b'"a\nb"'), "malformed_json"),
        (body(b'"\x00"'), "malformed_json"),
        (body(b'"\\u12"'), "malformed_json"),
        (b"\xef\xbb\xbf{}", "malformed_json"),
        (body(b'"\xff"'), "not_utf8"),
        (body(b'"\xed\xa0\x80"'), "not_utf8"),  # a surrogate as UTF-8
        (body(b'"\xc0\x80"'), "not_utf8"),  # NUL, overlong
        ('{"event_type":"ä"}'.encode("latin-1"), "not_utf8"),
        ('{"event_type":"ä"}'.encode("utf-16"), "not_utf8"),
        (body(b'"\\u0000"'), "nul_character"),
        (body(b'"\\\\\\u0000"'), "nul_character"),
        (b'{"event_type":"a","payload":{"\\u0000":1}}', "nul_character"),
        (body(b'"\\ud800"'), "lone_surrogate"),
        (body(b'"\\uDFFFx"'), "lone_surrogate"),
        (body(b'"\\ud800\\u0041"'), "lone_surrogate"),
        (body(b"NaN"), "number_out_of_range"),
        (body(b"Infinity"), "number_out_of_range"),
        (body(b"[-Infinity]"), "number_out_of_range"),
        (body(b"1e400"), "number_out_of_range"),
        (body(b"-1.5E+309"), "number_out_of_range"),
        (body(b"1" * 310 + b".0"), "number_out_of_range"),
        (body(b"1" + b"0" * 300 + b"e50"), "number_out_of_range"),
        (body(b"1" + b"0" * 5000), "number_out_of_range"),
        (body(b"[" * 64 + b"]" * 64), "too_deep"),
        (body(b'{"a":' * 100 + b"1" + b"}" * 100), "too_deep"),
        (body(b"[" * 1_000_000 + b"]" * 1_000_000), "too_deep"),
        (b"[" * 100_000, "too_deep"),  # never closed: the parser's own limit
        (b"[]", "validation_failed"),
        (b"1", "validation_failed"),
        (b'{"event_type":"a"}', "validation_failed"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_what_is_refused(raw: bytes, code: str) -> None:
    assert code_of(raw) == code


@pytest.mark.parametrize(
    "value",
    [
        b'"\\\\u0000"',  # a backslash, then five characters
        b'"\\ud83d\\ude00"',
        '"\N{GRINNING FACE}"'.encode(),
        b'"NaN and Infinity, 1e400"',
        b'"' + b"[" * 1000 + b'"',
        b'"\\"' + b"[{" * 1000 + b'"',
        b"[" * 62 + b"]" * 62,
        b"[" + b"[]," * 5000 + b"{}]",
        b"1" + b"0" * 400,
        b"-" + b"9" * 4000,
        b"1e308",
        b"1e-400",
        b'{"a":1,"a":2}',
        b'"\\u0001\\u001f"',
    ],
    ids=lambda value: repr(value[:40]),
)
def test_what_is_taken(value: bytes) -> None:
    parsed = bodies.parse(Event, body(value)).payload["x"]
    assert parsed == json.loads(value)
    assert bodies.loads(body(value))["payload"]["x"] == parsed


def test_the_pointer_leads_to_the_fault() -> None:
    class Item(BaseModel):
        sku: int

    class Order(BaseModel):
        model_config = ConfigDict(extra="forbid")
        items: dict[str, list[Item]]

    with pytest.raises(Problem) as caught:
        bodies.parse(Order, b'{"items":{"a/b~c":[{"sku":1},{"sku":"secret-value"}]}}')
    (error,) = caught.value.extra["errors"]
    assert error["pointer"] == "/items/a~1b~0c/1/sku"
    assert "integer" in error["message"]
    assert "secret-value" not in str(caught.value.extra) + caught.value.detail


def test_the_list_of_errors_is_bounded() -> None:
    class Many(BaseModel):
        items: list[int]

    with pytest.raises(Problem) as caught:
        bodies.parse(Many, b'{"items":[' + b'"x",' * 1000 + b'"x"]}')
    assert len(caught.value.extra["errors"]) == 50


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(values, max_size=40))
@example([["\\u0000"]])
@example([{"\\": "\x00"}])
def test_a_body_is_taken_exactly_when_it_can_be_kept(value: list[Any]) -> None:
    def keepable(part: Any) -> bool:
        match part:
            case str():
                return "\0" not in part
            case float():
                return part - part == 0  # neither NaN nor infinite
            case list():
                return all(map(keepable, part))
            case dict():
                return all(map(keepable, [*part, *part.values()]))
        return True

    for ascii_only in (True, False):
        raw = json.dumps(value, ensure_ascii=ascii_only).encode()
        if keepable(value):
            assert bodies.loads(raw) == value
        else:
            with pytest.raises(Problem) as caught:
                bodies.loads(raw)
            assert caught.value.code in ("nul_character", "number_out_of_range")


@given(st.integers(1, 130), st.sampled_from([b"[%s]", b'{"[":%s}', b'["]}\\"{",%s]', b"[[],%s]"]))
def test_the_depth_is_counted_exactly(levels: int, shape: bytes) -> None:
    raw = b"0"
    for _ in range(levels):
        raw = shape.replace(b"%s", raw)
    flat = 1 if shape == b"[[],%s]" else 0  # the innermost level holds one more
    try:
        bodies.check(raw)
        too_deep = False
    except Problem as problem:
        too_deep = problem.code == "too_deep"
    assert too_deep == (levels + flat > bodies.MOST_LEVELS)


@pytest.mark.parametrize(
    "content_type",
    [
        b"application/json",
        b"application/json; charset=utf-8",
        b'Application/JSON;charset="UTF-8"',
        b"application/cloudevents+json",
        b"application/json; profile=x",
    ],
)
def test_json_by_its_content_type(content_type: bytes) -> None:
    bodies.check_type(content_type)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        b"",
        b"text/plain",
        b"text/json",
        b"application/x-www-form-urlencoded",
        b"application/jsonx",
        b"application/json; charset=latin-1",
        b"\xff\xfe",
    ],
)
def test_not_json_by_its_content_type(content_type: bytes | None) -> None:
    with pytest.raises(Problem) as caught:
        bodies.check_type(content_type)
    assert caught.value.code == "unsupported_media_type"

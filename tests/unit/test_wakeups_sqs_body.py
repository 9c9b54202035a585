"""Bodies of wake-ups: what is written is read again, and nothing else is taken."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.work.wakeups import Wake
from penstock.work.wakeups.sqs_body import BadBody, decode, encode


def test_a_body_is_as_documented() -> None:
    assert encode(Wake("delivery", "delivery:ep_1", 3.0, "acme")) == (
        '{"v":1,"kind":"delivery","lane":"delivery:ep_1"}'
    )


@given(st.text(), st.text())
def test_what_is_written_is_read_again(kind: str, lane: str) -> None:
    body = encode(Wake(kind, lane))
    assert body.isascii()
    assert body.isprintable()
    assert decode(body) == (kind, lane)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "not JSON"),
        ("hello", "not JSON"),
        ('{"v":1,"kind":"job","lane":"a"', "not JSON"),
        ('{"v":1,"kind":"job","lane":"a"} again', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("7", "not a JSON object"),
        ('["v",1]', "not a JSON object"),
        ("{}", "v is not 1"),
        ('{"v":"1","kind":"job","lane":"a"}', "v is not 1"),
        ('{"v":true,"kind":"job","lane":"a"}', "v is not 1"),
        ('{"v":1.0,"kind":"job","lane":"a"}', "v is not 1"),
        ('{"v":0,"kind":"job","lane":"a"}', "v is not 1"),
        ('{"v":1,"kind":"job"}', "missing fields: lane"),
        ('{"v":1}', "missing fields: kind, lane"),
        ('{"v":1,"kind":"job","lane":"a","account":"b"}', "unknown fields: 'account'"),
        ('{"v":1,"kind":"job","kind":"job","lane":"a"}', "given twice"),
        ('{"v":1,"kind":7,"lane":"a"}', "must be texts"),
        ('{"v":1,"kind":"job","lane":null}', "must be texts"),
    ],
)
def test_anything_else_is_refused_with_the_reason(body: str, reason: str) -> None:
    with pytest.raises(BadBody, match=reason):
        decode(body)


def test_what_a_later_version_wrote_is_no_fault() -> None:
    assert decode('{"v":2,"kind":"job","lane":"a","hint":"unknown here"}') is None


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists) | st.text())
def test_no_body_breaks_the_reader(value: object) -> None:
    for body in (json.dumps(value), str(value)):
        with contextlib.suppress(BadBody):
            decode(body)

"""Which event types a pattern covers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.events import matching
from penstock.events.matching import Matcher, Subscriber, matches


@pytest.mark.parametrize(
    ("pattern", "event_type", "covered"),
    [
        ("*", "anything", True),
        ("order.created", "order.created", True),
        ("order.created", "order.created.eu", False),
        ("order.created", "Order.created", False),
        ("order.*", "order.created", True),
        ("order.*", "order.created.eu", True),
        ("order.*", "order", False),
        ("order.*", "orders.created", False),
        ("order.*", "order.", True),
        ("a.b.*", "a.bc", False),
    ],
)
def test_patterns(pattern: str, event_type: str, covered: bool) -> None:
    assert matches([pattern], event_type) is covered


def test_any_pattern_will_do_and_none_covers_nothing() -> None:
    assert matches(["a", "b.*"], "b.c")
    assert not matches([], "a")


A, B, C = (Subscriber(f"end_{n}", f"delivery:end_{n}") for n in "abc")


def test_each_endpoint_is_matched_once_in_id_order() -> None:
    matcher = Matcher(1, [(A, ["*", "x.*"]), (B, ["y"]), (C, ["x.1"])])
    for _ in range(2):  # the second time from memory
        assert matcher.match("x.1") == (A, C)
        assert matcher.match("y") == (A, B)


@given(st.lists(st.text("ab.", min_size=1, max_size=4), max_size=30))
def test_a_remembered_answer_is_the_right_one(types: list[str]) -> None:
    matcher = Matcher(1, [(A, ["a.*"]), (B, ["ab", "b.*"]), (C, ["*"])])
    for event_type in types:
        expected = tuple(
            s for s, p in ((A, ["a.*"]), (B, ["ab", "b.*"]), (C, ["*"])) if matches(p, event_type)
        )
        assert matcher.match(event_type) == expected


def test_what_is_remembered_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "_KEPT_TYPES", 10)
    matcher = Matcher(1, [(A, ["*"])])
    for n in range(100):
        assert matcher.match(f"t{n}") == (A,)
    assert len(matcher._answers) <= 10

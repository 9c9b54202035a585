"""The gate of a lane, as arithmetic: what may pass, and when to look again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.work.lanes import Gate
from penstock.work.ledger import share

OPEN = Gate("l", False, -1.0, "closed", 0, None, 1e9, 0, 10, -1.0)


def gate(**changes: Any) -> Gate:
    return replace(OPEN, **changes)


@pytest.mark.parametrize(
    ("changes", "allowance"),
    [
        ({}, 10),
        ({"held": 7}, 3),
        ({"held": 10}, 0),
        ({"held": 12}, 0),  # the cap was lowered meanwhile
        ({"rate": 1.0, "tokens": 2.9}, 2),
        ({"rate": 1.0, "tokens": 0.999}, 0),
        ({"rate": 1.0, "tokens": 2.9, "per_call": 4}, 8),
        ({"rate": 1.0, "tokens": 2.9, "per_call": 4, "held": 5}, 5),
        ({"rate": 1.0, "tokens": 0.999, "per_call": 30}, 0),
        ({"circuit": "half_open", "rate": 1.0, "tokens": 3.0, "per_call": 30}, 1),
        ({"paused": True}, 0),
        ({"opens_in": 0.1}, 0),
        ({"opens_in": 0.0}, 10),
        ({"circuit": "open"}, 1),
        ({"circuit": "open", "opens_in": 5.0}, 0),
        ({"circuit": "open", "held": 1}, 0),
        ({"circuit": "half_open"}, 1),
        ({"circuit": "half_open", "held": 1}, 0),
        ({"circuit": "half_open", "rate": 1.0, "tokens": 0.5}, 0),
        ({"circuit": "half_open", "paused": True}, 0),
    ],
)
def test_what_may_pass(changes: dict[str, Any], allowance: int) -> None:
    assert gate(**changes).allowance == allowance


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, 0.0),
        ({"due_in": None}, None),
        ({"due_in": 3.0}, 3.0),
        ({"paused": True}, None),
        ({"held": 10}, None),
        ({"held": 9}, 0.0),
        ({"opens_in": 4.0}, 4.0),
        ({"opens_in": 4.0, "due_in": 6.0}, 6.0),
        ({"circuit": "open", "opens_in": 30.0}, 30.0),
        ({"circuit": "open", "opens_in": 30.0, "held": 1}, None),
        ({"circuit": "half_open", "held": 1}, None),
        ({"circuit": "half_open"}, 0.0),
        ({"rate": 2.0, "tokens": 0.0}, pytest.approx(0.5, abs=1e-5)),
        ({"rate": 2.0, "tokens": 0.5, "due_in": 9.0}, 9.0),
        ({"rate": 2.0, "tokens": 1.0}, 0.0),
    ],
)
def test_when_to_look_again(changes: dict[str, Any], seconds: float | None) -> None:
    assert gate(**changes).next_look == seconds


gates = st.builds(
    Gate,
    id=st.text(min_size=1, max_size=3),
    paused=st.booleans(),
    opens_in=st.floats(-10, 10),
    circuit=st.sampled_from(["closed", "open", "half_open"]),
    circuit_generation=st.just(0),
    rate=st.just(None),
    tokens=st.floats(0, 20),
    held=st.integers(0, 12),
    cap=st.integers(1, 10),
    due_in=st.one_of(st.none(), st.floats(-10, 10)),
)


@given(st.lists(gates, max_size=8), st.integers(0, 30))
def test_a_share_keeps_every_lane_within_its_gate_and_wastes_no_slot(
    all_gates: list[Gate], slots: int
) -> None:
    quotas = share(all_gates, slots)
    possible = [g.allowance if g.due_in is not None and g.due_in <= 0 else 0 for g in all_gates]
    assert all(0 <= quota <= left for quota, left in zip(quotas, possible, strict=True))
    assert sum(quotas) == min(slots, sum(possible))


@given(st.lists(gates, min_size=1, max_size=8), st.integers(1, 30))
def test_no_lane_gets_more_while_an_equal_one_that_came_first_gets_less(
    all_gates: list[Gate], slots: int
) -> None:
    quotas = share(all_gates, slots)
    possible = [g.allowance if g.due_in is not None and g.due_in <= 0 else 0 for g in all_gates]
    open_ = [(q, p) for q, p in zip(quotas, possible, strict=True) if p]
    if len(open_) <= slots:
        assert all(q > 0 for q, _ in open_)
    for i, (mine, left) in enumerate(open_):
        for theirs, _ in open_[i + 1 :]:
            assert mine >= theirs or mine == left


def test_the_lane_served_longest_ago_comes_first_when_slots_are_short() -> None:
    assert share([gate(id="a"), gate(id="b"), gate(id="c")], 2) == [1, 1, 0]


def test_the_slots_of_a_lane_that_is_full_go_to_the_others() -> None:
    assert share([gate(cap=2), gate(), gate(due_in=5.0)], 9) == [2, 7, 0]

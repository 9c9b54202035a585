"""When a shipment is looked at next: often when something may happen, within what is allowed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.clock import SECOND
from penstock.tracking.intervals import (
    CONFIRM,
    DAY,
    HOUR,
    INTERVALS,
    NONE,
    PLANNED,
    Facts,
    Stretch,
    first_check,
    is_expired,
    next_check,
    stretched,
)
from penstock.tracking.status import RETURNED, STATUSES, is_terminal

NOW = 1_772_000_000 * SECOND


def ago(seconds: float) -> int:
    return NOW - int(seconds * SECOND)


def facts(status, sub_status=None, **more):
    return Facts(status, sub_status, **{"created_at": ago(DAY), "news_at": ago(HOUR)} | more)


def wait(of, stretch=NONE):
    return next_check(of, NOW, stretch, draw=lambda: 0.5)  # the middle: no jitter


@pytest.mark.parametrize(
    ("of", "hours"),
    [
        (facts("pending"), 6),
        (facts("pending", not_found=1), 6),
        (facts("pending", not_found=2), 12),
        (facts("pending", not_found=3), 24),
        (facts("pending", not_found=1000), 24),
        (facts("pre_transit"), 6),
        (facts("pre_transit", created_at=ago(9 * DAY), news_at=ago(4 * DAY)), 12),
        (facts("in_transit"), 3),
        (facts("in_transit", eta=NOW + int(2 * DAY) * SECOND), 3),
        (facts("in_transit", eta=NOW + int(4 * DAY) * SECOND), 12),
        (facts("in_transit", eta=ago(2 * DAY)), 3),
        (facts("out_for_delivery"), 0.5),
        (facts("out_for_delivery", news_at=ago(2 * DAY)), 3),
        (facts("attempt_failed"), 3),
        (facts("available_for_pickup"), 6),
        (facts("exception"), 6),
        (facts("return_to_sender"), 6),
        (facts("delivered"), 12),
    ],
)
def test_the_interval_of_each_status(of, hours):
    assert wait(of) == hours * HOUR


def test_an_end_is_looked_at_no_more_and_a_delivery_once():
    """A shipment was polled every hour for ever, delivered or not."""
    assert wait(facts("delivered")) == CONFIRM
    assert wait(facts("delivered", confirmed=True)) is None
    for status, sub_status in (
        ("cancelled", None),
        ("expired", None),
        ("return_to_sender", RETURNED),
    ):
        assert wait(facts(status, sub_status)) is None


@given(st.sampled_from(STATUSES), st.floats(0, 1), st.floats(1, 500))
def test_jitter_is_a_tenth_either_way(status, drawn, factor):
    of = facts(status)
    plain = wait(of, Stretch(factor, factor))
    if plain is None:
        return
    jittered = next_check(of, NOW, Stretch(factor, factor), draw=lambda: drawn)
    assert plain * 0.9 - 1 <= jittered <= plain * 1.1 + 1


# --------------------------------------------------------------------------- giving up


def test_without_news_for_thirty_days_it_is_expired():
    silent = facts("in_transit", created_at=ago(60 * DAY), news_at=ago(29.9 * DAY))
    assert not is_expired(silent, NOW)
    assert is_expired(replace(silent, news_at=ago(30 * DAY)), NOW)


def test_after_120_days_it_is_expired_whatever_is_still_heard():
    old = facts("in_transit", created_at=ago(119.9 * DAY), news_at=ago(HOUR))
    assert not is_expired(old, NOW)
    assert is_expired(replace(old, created_at=ago(120 * DAY)), NOW)


@pytest.mark.parametrize(
    ("status", "sub_status"),
    [("delivered", None), ("cancelled", None), ("return_to_sender", RETURNED)],
)
def test_what_has_ended_does_not_expire(status, sub_status):
    assert not is_expired(facts(status, sub_status, news_at=ago(300 * DAY)), NOW)


def test_the_last_look_is_not_long_after_its_time():
    late = facts("in_transit", created_at=ago(60 * DAY), news_at=ago(29.5 * DAY))
    assert wait(late, Stretch(others=1000)) == pytest.approx(0.5 * DAY)
    over = replace(late, news_at=ago(31 * DAY))
    assert wait(over, Stretch(others=1000)) == HOUR


# --------------------------------------------------------------------------- the budget

COUNTS = st.dictionaries(st.sampled_from(STATUSES), st.integers(0, 20_000))


def looks(counts, stretch):
    """A day's looks, by status, if each waits its interval."""
    return {
        status: n * DAY / (INTERVALS.get(status, CONFIRM) * stretch.of(status))
        for status, n in counts.items()
    }


@given(COUNTS, st.floats(10, 10_000_000))
def test_what_is_planned_stays_within_the_budget(counts, rows_per_day):
    stretch = stretched(counts, rows_per_day)
    assert min(stretch.urgent, stretch.others) >= 1
    planned = sum(looks(counts, stretch).values())
    assert planned <= PLANNED * rows_per_day * (1 + 1e-9)


@given(COUNTS, st.floats(10, 10_000_000))
def test_parcels_that_are_out_for_delivery_are_stretched_last(counts, rows_per_day):
    stretch = stretched(counts, rows_per_day)
    if stretch.urgent > 1.001 and any(
        n for status, n in counts.items() if status != "out_for_delivery"
    ):
        # only once they take three quarters of what there is, or all that the others leave
        share = looks(counts, stretch)["out_for_delivery"] / (PLANNED * rows_per_day)
        assert share >= 0.749


@given(COUNTS, st.floats(10, 10_000_000))
def test_a_budget_that_is_short_is_used_up(counts, rows_per_day):
    stretch = stretched(counts, rows_per_day)
    if stretch != NONE:
        assert sum(looks(counts, stretch).values()) >= 0.7 * PLANNED * rows_per_day


def test_with_plenty_nothing_is_stretched():
    assert stretched({"in_transit": 100, "out_for_delivery": 10}, 100_000) == NONE
    assert stretched({}, 10) == NONE


def test_a_small_budget_by_numbers():
    """DHL's first quota: 250 calls a day, for 100 parcels of which five are on the van."""
    stretch = stretched({"in_transit": 95, "out_for_delivery": 5}, 250)
    assert stretch.urgent == pytest.approx(240 / 150)  # 240 looks wanted, three quarters of 200
    assert stretch.others == pytest.approx(760 / 50)
    assert wait(facts("out_for_delivery"), stretch) == pytest.approx(0.5 * HOUR * 1.6)


def test_many_new_shipments_are_spread_over_half_of_the_budget():
    assert first_check(0, 1000) == 0
    assert first_check(500, 1000) == DAY


# --------------------------------------------------------------------------- travelling faster


def test_a_parcel_that_travels_faster_is_looked_at_as_much_more_often():
    slow = facts("in_transit", created_at=NOW, news_at=NOW)
    assert wait(replace(slow, speed=1000)) == pytest.approx(wait(slow) / 1000)
    assert wait(replace(slow, speed=1e9)) == 1.0  # but never in a tight loop
    assert is_expired(facts("in_transit", speed=1000), NOW)  # silent for 1000 hours of its own


@given(st.sampled_from(STATUSES), st.integers(0, 60), st.floats(1, 1000), st.floats(0, 1))
def test_a_look_is_never_due_in_the_past(status, days, speed, drawn):
    of = facts(status, speed=speed, news_at=ago(days * DAY), created_at=ago(days * 3 * DAY))
    found = next_check(of, NOW, draw=lambda: drawn)
    if found is None:
        assert is_terminal(status, None)
    else:
        assert found >= 1.0

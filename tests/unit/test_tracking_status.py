"""The status of a shipment follows what happened, however late, often and muddled it is told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.clock import SECOND, from_iso
from penstock.tracking import status as statuses
from penstock.tracking.carriers.base import Found
from penstock.tracking.status import (
    RETURNED,
    STATUSES,
    Scan,
    State,
    fold,
    in_order,
    is_terminal,
)

HOUR = 3600 * SECOND
T0 = from_iso("2026-03-02T08:00:00Z")
NOW = T0 + 1000 * HOUR


def scan(hours, status, sub_status=None, *, text=None, code=None, offset=0):
    return Scan(T0 + hours * HOUR, offset, status, sub_status, code, text or str(status), None)


def answer(*scans, status=None, sub_status=None, **more):
    """What a carrier says: all these scans, summed up by the latest unless told."""
    last = max(scans, key=lambda s: s.at) if scans else None
    if status is None and last is not None:
        status, sub_status = last.status, last.sub_status
    return Found("1", status, sub_status, scans=tuple(scans), text=str(status), **more)


def follow(*answers, now=NOW):
    """The state after these answers, each with what was known before it."""
    state, known = State(), ()
    for each in answers:
        state = fold(state, each, known, now=now)
        known = in_order(known, each.scans)
    return state


LABEL = scan(0, "pre_transit")
TRANSIT = scan(6, "in_transit")
OUT = scan(30, "out_for_delivery")
HANDED = scan(38, "delivered", offset=-300)

# --------------------------------------------------------------------------- the usual way


def test_a_parcel_on_its_usual_way():
    assert follow(answer(LABEL)).status == "pre_transit"
    assert follow(answer(LABEL), answer(LABEL, TRANSIT)).status == "in_transit"
    state = follow(answer(LABEL), answer(LABEL, TRANSIT, OUT), answer(LABEL, TRANSIT, OUT, HANDED))
    assert (state.status, state.terminal) == ("delivered", True)
    assert state.status_at == HANDED.at


def test_delivered_at_is_the_carriers_time_not_that_of_the_look():
    """The time of delivery was that of the poll that found it."""
    late_look = NOW + 500 * HOUR
    state = follow(answer(TRANSIT, HANDED), now=late_look)
    assert (state.delivered_at, state.delivered_offset) == (HANDED.at, -300)
    exact = follow(
        answer(TRANSIT, HANDED, delivered_at=HANDED.at + 7 * SECOND, delivered_offset=60)
    )
    assert (exact.delivered_at, exact.delivered_offset) == (HANDED.at + 7 * SECOND, 60)


def test_a_delivery_without_a_time_has_none():
    state = follow(Found("1", "delivered"))
    assert state.status == "delivered"
    assert state.delivered_at is None
    assert state.status_at is None


def test_a_later_look_may_bring_the_proof_of_delivery():
    first = follow(answer(TRANSIT, HANDED))
    assert first.signed_by is None
    confirmed = fold(first, answer(TRANSIT, HANDED, signed_by="M. CURIE"), (HANDED,), now=NOW)
    assert confirmed == replace(first, signed_by="M. CURIE")
    # and the next look without it takes nothing away
    assert fold(confirmed, answer(TRANSIT, HANDED), (HANDED,), now=NOW) == confirmed


def test_the_announced_time_is_kept_and_replaced():
    """What the carrier announced was dropped."""
    first = follow(answer(TRANSIT, eta=T0 + 40 * HOUR, eta_offset=60))
    assert (first.eta, first.eta_offset) == (T0 + 40 * HOUR, 60)
    unsaid = fold(first, answer(TRANSIT, OUT), (TRANSIT,), now=NOW)
    assert (unsaid.status, unsaid.eta) == ("out_for_delivery", T0 + 40 * HOUR)
    moved = fold(unsaid, answer(TRANSIT, OUT, eta=T0 + 50 * HOUR), (TRANSIT, OUT), now=NOW)
    assert moved.eta == T0 + 50 * HOUR


def test_the_carriers_summary_counts_while_nothing_is_at_an_end():
    state = follow(answer(TRANSIT, OUT, status="exception", sub_status="damaged"))
    assert (state.status, state.sub_status) == ("exception", "damaged")


# --------------------------------------------------------------------------- late, twice, muddled


def test_an_old_answer_does_not_turn_time_back():
    new, old = answer(LABEL, TRANSIT, OUT), answer(LABEL, TRANSIT)
    state = follow(new, old)
    assert state.status == "out_for_delivery"
    assert state.status_at == OUT.at


def test_an_old_answer_may_still_fill_a_gap():
    state = follow(answer(TRANSIT, OUT), answer(TRANSIT, eta=T0 + 40 * HOUR))
    assert (state.status, state.eta) == ("out_for_delivery", T0 + 40 * HOUR)
    known = follow(answer(TRANSIT, OUT, eta=T0 + 39 * HOUR), answer(TRANSIT, eta=T0 + 90 * HOUR))
    assert known.eta == T0 + 39 * HOUR


def test_a_scan_of_before_that_is_told_after_the_delivery():
    late = scan(20, "in_transit", text="Departed")
    state = follow(answer(TRANSIT, HANDED), answer(TRANSIT, HANDED, late))
    assert state.status == "delivered"
    # even if the carrier sums it up by what it heard last
    state = follow(answer(TRANSIT, HANDED), answer(TRANSIT, HANDED, late, status="in_transit"))
    assert (state.status, state.delivered_at) == ("delivered", HANDED.at)


def test_a_scan_dated_after_the_delivery_does_not_undo_it():
    odd = scan(44, "in_transit", text="Arrived at facility")
    assert follow(answer(HANDED), answer(HANDED, odd)).status == "delivered"
    assert follow(answer(HANDED, odd)).status == "delivered"


def test_a_return_after_the_delivery_is_told():
    back = scan(90, "return_to_sender", RETURNED)
    state = follow(answer(HANDED), answer(HANDED, back))
    assert (state.status, state.sub_status, state.status_at) == (
        "return_to_sender",
        RETURNED,
        back.at,
    )
    assert follow(answer(HANDED, back), answer(HANDED)) == state


def test_on_its_way_back_a_parcel_is_still_in_motion():
    going = scan(40, "return_to_sender")
    state = follow(answer(TRANSIT, going))
    assert not state.terminal
    assert follow(answer(TRANSIT, going), answer(TRANSIT, going, OUT)).status == "return_to_sender"
    again = scan(50, "in_transit")
    assert follow(answer(TRANSIT, going), answer(TRANSIT, going, again)).status == "in_transit"


def test_a_clock_that_ran_ahead_does_not_freeze_a_shipment():
    wrong = scan(365 * 24, "in_transit", text="scanned next year")
    now = T0 + 35 * HOUR
    state = follow(answer(TRANSIT, wrong), now=now)
    state = fold(state, answer(TRANSIT, OUT), (TRANSIT, wrong), now=now)
    assert state.status == "out_for_delivery"


def test_an_end_that_is_dated_next_year_is_not_believed_over_one_of_today():
    wrong = scan(365 * 24, "cancelled")
    state = follow(answer(TRANSIT, wrong, HANDED, status="delivered"), now=T0 + 40 * HOUR)
    assert (state.status, state.delivered_at) == ("delivered", HANDED.at)


# --------------------------------------------------------------------------- our own end


def test_expired_gives_way_to_news_and_to_any_end_the_carrier_tells_of():
    silent = follow(answer(TRANSIT))
    given_up = statuses.expired(silent, T0 + 800 * HOUR)
    assert given_up.terminal
    late = answer(TRANSIT, OUT)
    assert fold(given_up, late, (TRANSIT,), now=NOW) == given_up  # that was before we gave up
    news = answer(TRANSIT, scan(900, "in_transit", text="found again"))
    assert fold(given_up, news, (TRANSIT,), now=NOW).status == "in_transit"
    handed = answer(TRANSIT, HANDED)
    assert fold(given_up, handed, (TRANSIT,), now=NOW).status == "delivered"


def test_an_end_is_not_expired():
    delivered = follow(answer(HANDED))
    assert statuses.expired(delivered, NOW) == delivered


# --------------------------------------------------------------------------- what a status is


def test_no_failure_is_a_status():
    """What went wrong with a fetch overwrote what was known of the parcel."""
    assert not {"unknown", "error", "failure", "unavailable", "not_found"} & set(STATUSES)


@pytest.mark.parametrize(
    ("status", "sub_status", "ends"),
    [(s, None, s in ("delivered", "cancelled", "expired")) for s in STATUSES]
    + [("return_to_sender", RETURNED, True), ("return_to_sender", "refused", False)],
)
def test_which_statuses_are_ends(status, sub_status, ends):
    assert is_terminal(status, sub_status) is ends
    assert State(status, sub_status).terminal is ends


# --------------------------------------------------------------------------- fingerprints


def test_the_same_scan_fetched_twice_is_one_scan():
    again = replace(HANDED, text=" DELIVERED ", status="exception", offset=None)
    assert HANDED.fingerprint() == again.fingerprint()  # spacing, and how we read it, may change
    assert len(in_order([HANDED], [again], [HANDED])) == 1


def test_different_scans_of_one_instant_are_two():
    for other in (
        replace(HANDED, text="Left at door"),
        replace(HANDED, code="DL"),
        replace(HANDED, place="Leeds, GB"),
        replace(HANDED, at=HANDED.at + SECOND),
    ):
        assert len(in_order([HANDED, other])) == 2


# --------------------------------------------------------------------------- properties

MOVING = [s for s in STATUSES if s not in ("delivered", "cancelled", "expired", "pending")]

moving = st.builds(
    scan,
    st.integers(0, 900),
    st.sampled_from([*MOVING, None]),
    st.sampled_from([None, "refused"]),
    text=st.sampled_from(["a", "b", "c"]),
)
ending = st.builds(
    lambda hours, how: scan(hours, *how),
    st.integers(0, 900),
    st.sampled_from([("delivered", None), ("cancelled", None), ("return_to_sender", RETURNED)]),
)


def said(scans):
    """An answer of these scans with any summary at all, or that of one of them."""
    return st.builds(
        lambda status, eta: Found("1", status, scans=tuple(scans), eta=eta),
        st.sampled_from(MOVING),
        st.none() | st.integers(T0, NOW),
    )


@st.composite
def histories(draw):
    """Answers of any of a parcel's scans, in any order, some twice."""
    scans = draw(st.lists(moving, min_size=1, max_size=8))
    parts = draw(st.lists(st.lists(st.sampled_from(scans), max_size=8), max_size=5))
    return [draw(said(part)) for part in parts]


@given(ending, histories(), st.booleans())
def test_what_has_ended_stays_ended(end, rest, keep_scans):
    state = follow(answer(end))
    known = (end,)
    for each in rest:
        state = fold(state, each, known, now=NOW)
        assert (state.status, state.sub_status, state.status_at) == (
            end.status,
            end.sub_status,
            end.at,
        )
        if keep_scans:  # and without the scans at hand the state alone must hold
            known = in_order(known, each.scans)
    assert state.delivered_at == (end.at if end.status == "delivered" else None)


@given(histories())
def test_an_answer_told_twice_changes_nothing_more(answers):
    once = follow(*answers)
    twice = follow(*(each for each in answers for _ in range(2)))
    assert once == twice


several_ends = st.lists(ending, min_size=1, max_size=3)


@given(st.lists(moving, min_size=1, max_size=8), several_ends, st.data())
def test_the_end_does_not_depend_on_the_order_in_which_it_is_told(scans, ends, data):
    together = follow(answer(*scans, *ends, status="in_transit"))
    parts = data.draw(st.permutations([*scans, *ends]))
    apart = follow(*(answer(each, status="in_transit") for each in parts))
    assert together.terminal
    assert apart.terminal
    latest = max(each.at for each in ends)
    if len({each.status for each in ends if each.at == latest}) == 1:
        # (of different ends of one instant, the first that is told stays)
        assert apart.status == together.status


@given(histories())
def test_an_answer_that_knows_less_changes_no_status(answers):
    state, newest = State(), T0 - 1
    for each in answers:
        before, state = state, fold(state, each, now=NOW)  # the state alone, without its scans
        told = max((s.at for s in each.scans), default=T0 - 1)
        if before.status_at is not None and told < before.status_at:
            assert replace(state, eta=None) == replace(before, eta=None)
        elif told >= newest:
            assert state.status == each.status
        newest = max(newest, told)

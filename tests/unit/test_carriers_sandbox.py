"""The sandbox: each number does what its page says, by the number and the clock alone."""

from __future__ import annotations

import pytest

from penstock.clock import SECOND, ManualClock, from_iso
from penstock.tracking.carriers.base import (
    Answer,
    Credential,
    Forbidden,
    Found,
    Invalid,
    Malformed,
    NotFound,
    Query,
    RateLimited,
    Unavailable,
)
from penstock.tracking.carriers.http import carrier_session
from penstock.tracking.carriers.registry import CARRIERS
from penstock.tracking.carriers.sandbox import FAST, SCRIPTS, answer, journey, speed
from penstock.tracking.numbers import detect, normalise
from penstock.tracking.status import RETURNED, STATUSES, State, fold, in_order

BEGINS = 1_772_524_800  # 2026-03-03T08:00:00Z
HOUR = 3600


def at(hours: float) -> int:
    return int((BEGINS + hours * HOUR) * SECOND)


def followed(number: str, hours: list[float]) -> list[State]:
    """What is known after each look."""
    state, known, states = State(), (), []
    for hour in hours:
        found = answer(number, at(hour))
        if isinstance(found, Found):
            state = fold(state, found, known, now=at(hour))
            known = in_order(known, found.scans)
        states.append(state)
    return states


@pytest.mark.parametrize(
    ("script", "status", "sub_status"),
    [
        ("PRETRANSIT", "pre_transit", None),
        ("INTRANSIT", "in_transit", None),
        ("OUTFORDELIVERY", "out_for_delivery", None),
        ("DELIVERED", "delivered", None),
        ("ATTEMPTFAILED", "attempt_failed", None),
        ("PICKUP", "available_for_pickup", None),
        ("EXCEPTION", "exception", "damaged"),
        ("RETURNING", "return_to_sender", "returning"),
        ("RETURNED", "return_to_sender", RETURNED),
        ("CANCELLED", "cancelled", None),
        ("TOUR", "delivered", "collected"),
        ("LATESCAN", "delivered", None),
        ("MUDDLED", "delivered", None),
        ("OUTAGE", "delivered", None),
        ("BUSY", "delivered", None),
    ],
)
def test_where_each_journey_ends(script: str, status: str, sub_status: str | None) -> None:
    for number in (
        f"SBX{script}",
        f"SBX{script}7",
        f"SBX{script}{BEGINS}",
        f"SBX{script}{BEGINS}9",
    ):
        (state,) = followed(number, [1000])
        assert (state.status, state.sub_status) == (status, sub_status), number


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ("NOTFOUND", NotFound),
        ("INVALID", Invalid),
        ("FORBIDDEN", Forbidden),
        ("NOACCESS", Forbidden),
        ("LIMITED", RateLimited),
        ("UNAVAILABLE", Unavailable),
        ("TIMEOUT", Unavailable),
        ("MALFORMED", Malformed),
        ("SUCHASCRIPTISNOT", Invalid),
        ("FAST", Invalid),
    ],
)
def test_what_goes_wrong_goes_wrong_each_time(script: str, kind: type[Answer]) -> None:
    for digits in ("", "7", str(BEGINS)):
        for hours in (-5, 0, 10, 1000):
            assert isinstance(answer(f"SBX{script}{digits}", at(hours)), kind)


def test_a_refused_number_is_not_a_refused_credential() -> None:
    forbidden, no_access = answer("SBXFORBIDDEN", at(0)), answer("SBXNOACCESS", at(0))
    assert isinstance(forbidden, Forbidden)
    assert forbidden.number == "SBXFORBIDDEN"
    assert isinstance(no_access, Forbidden)
    assert no_access.number is None


def test_every_status_can_be_had_and_every_script_is_tried_here() -> None:
    ends = {step.status for script in SCRIPTS.values() for step in script.steps}
    assert ends == set(STATUSES) - {"pending", "expired"}  # before the first scan; after silence
    mark = next(
        mark for mark in test_where_each_journey_ends.pytestmark if mark.name == "parametrize"
    )
    ways = {script for script, *_ in mark.args[1]}
    mark = next(
        mark
        for mark in test_what_goes_wrong_goes_wrong_each_time.pytestmark
        if mark.name == "parametrize"
    )
    assert ways | {script for script, _ in mark.args[1]} >= set(SCRIPTS)


def test_a_parcel_with_a_beginning_travels_with_the_clock() -> None:
    number = f"SBXDELIVERED{BEGINS}"
    assert isinstance(answer(number, at(-1)), NotFound)
    states = followed(number, [0, 6, 20, 29.9, 30, 38])
    assert [state.status for state in states] == [
        "pre_transit",
        "in_transit",
        "in_transit",
        "in_transit",
        "out_for_delivery",
        "delivered",
    ]
    assert states[0].eta == at(38)
    assert states[-1].delivered_at == at(38)
    assert states[-1].delivered_offset == -420
    assert states[-1].signed_by == "A. RECIPIENT"


def test_a_fast_parcel_does_the_same_in_seconds() -> None:
    number = f"SBXFASTDELIVERED{BEGINS}"
    assert speed(number) == FAST
    assert speed(f"SBXDELIVERED{BEGINS}") == speed("1Z5R89390357567127") == 1.0
    seen = {}
    for second in range(20):
        found = answer(number, (BEGINS + second) * SECOND)
        assert isinstance(found, Found)
        seen.setdefault(found.status, second)
    assert seen == {"pre_transit": 0, "in_transit": 3, "out_for_delivery": 11, "delivered": 14}


def test_one_instant_has_one_answer_whatever_was_asked_before() -> None:
    for script in SCRIPTS:
        number = f"SBX{script}{BEGINS}"
        assert [answer(number, at(h)) for h in (40, 3, 25)] == [
            answer(number, at(h)) for h in (40, 3, 25)
        ]


def test_scans_stay_the_same_scans() -> None:
    known: set[str] = set()
    for hours in range(0, 100, 5):
        found = answer(f"SBXTOUR{BEGINS}", at(hours))
        assert isinstance(found, Found)
        now = {scan.fingerprint() for scan in found.scans}
        assert known <= now
        known = now
    assert len(known) == 8


def test_a_tour_has_every_status_on_a_parcels_way() -> None:
    states = followed(f"SBXTOUR{BEGINS}", [h + 0.0 for h in range(70)])
    seen = list(dict.fromkeys(state.status for state in states))
    assert seen == [
        "pre_transit",
        "in_transit",
        "exception",
        "out_for_delivery",
        "attempt_failed",
        "available_for_pickup",
        "delivered",
    ]


def test_a_late_scan_is_told_after_the_delivery_and_undoes_nothing() -> None:
    number = f"SBXLATESCAN{BEGINS}"
    before, after = answer(number, at(40)), answer(number, at(42))
    assert isinstance(before, Found)
    assert isinstance(after, Found)
    (late,) = set(after.scans) - set(before.scans)
    assert late.at == at(20)
    assert [state.status for state in followed(number, [40, 42])] == ["delivered", "delivered"]


def test_muddled_scans_are_not_in_order_and_not_each_once() -> None:
    found = answer(f"SBXMUDDLED{BEGINS}", at(100))
    assert isinstance(found, Found)
    times = [scan.at for scan in found.scans]
    assert times != sorted(times)
    assert len(set(found.scans)) < len(found.scans)
    assert [s.status for s in followed(f"SBXMUDDLED{BEGINS}", [1, 31, 39])] == [
        "pre_transit",
        "out_for_delivery",
        "delivered",
    ]


@pytest.mark.parametrize(("script", "kind"), [("OUTAGE", Unavailable), ("BUSY", RateLimited)])
def test_six_hours_of_trouble_leave_what_was_known(script: str, kind: type[Answer]) -> None:
    number = f"SBX{script}{BEGINS}"
    assert isinstance(answer(number, at(20.9)), Found)
    for hours in (21, 24, 26.9):
        assert isinstance(answer(number, at(hours)), kind)
    assert isinstance(answer(number, at(27)), Found)
    states = followed(number, [20, 22, 26, 40])
    assert [state.status for state in states] == [
        "in_transit",
        "in_transit",
        "in_transit",
        "delivered",
    ]


def test_a_wait_ends_with_the_trouble() -> None:
    assert answer(f"SBXBUSY{BEGINS}", at(22)) == RateLimited(30.0)
    assert answer(f"SBXBUSY{BEGINS}", at(27) - 10 * SECOND) == RateLimited(10.0)
    assert answer("SBXLIMITED", at(0)) == RateLimited(30.0)


def test_a_number_without_a_beginning_was_long_ago() -> None:
    found = answer("SBXDELIVERED", from_iso("2026-01-01T00:00:00Z"))
    assert isinstance(found, Found)
    assert found.status == "delivered"
    assert found.delivered_at is not None
    assert found.delivered_at < from_iso("2025-12-10T00:00:00Z")


def test_its_numbers_are_its_own() -> None:
    (candidate,) = detect("sbx-delivered 1772524800")
    assert (candidate.carrier, candidate.number) == ("sandbox", "SBXDELIVERED1772524800")
    for script in SCRIPTS:
        number = f"SBXFAST{script}{BEGINS}0001"
        assert normalise("sandbox", number) == number
        assert journey(number) is not None


@pytest.mark.anyio
async def test_as_a_carrier() -> None:
    clock = ManualClock()
    spec = CARRIERS["sandbox"]
    assert not spec.fields
    async with carrier_session() as session:
        carrier = spec.make(Credential("settings", {}), spec.base_url, session, clock)
        numbers = ["SBXDELIVERED", "SBXUNAVAILABLE", "SBXNOTFOUND"]
        answers = await carrier.fetch([Query(number) for number in numbers])
        await carrier.close()
    assert [type(answers[number]) for number in numbers] == [Found, Unavailable, NotFound]

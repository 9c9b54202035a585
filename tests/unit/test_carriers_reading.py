"""Times and texts as carriers write them."""

from __future__ import annotations

from datetime import date, time

import pytest

from penstock.clock import ManualClock, from_iso
from penstock.tracking.carriers import read
from penstock.tracking.carriers.base import Found
from penstock.tracking.carriers.http import MAX_RETRY_AFTER, retry_after
from penstock.tracking.carriers.read import Moment
from penstock.tracking.status import Scan


@pytest.mark.parametrize(
    ("written", "instant", "offset"),
    [
        ("2026-03-21T03:54:44-06:00", "2026-03-21T09:54:44Z", -360),
        ("2026-03-21T09:54:44Z", "2026-03-21T09:54:44Z", 0),
        ("2026-03-21T09:54:44+05:30", "2026-03-21T04:24:44Z", 330),
        ("2026-03-21T09:54:44", "2026-03-21T09:54:44Z", None),
        ("2026-03-21 09:54:44", "2026-03-21T09:54:44Z", None),
        ("2026-03-21T09:54:44.123456789Z", "2026-03-21T09:54:44.123456Z", 0),
        ("2026-03-21T09:54", "2026-03-21T09:54:00Z", None),
        ("2026-03-21", "2026-03-21T23:59:59Z", None),
        (" 2026-03-21T09:54:44Z ", "2026-03-21T09:54:44Z", 0),
    ],
)
def test_times_keep_the_zone_that_they_came_with(
    written: str, instant: str, offset: int | None
) -> None:
    assert read.iso(written) == Moment(from_iso(instant), offset)


@pytest.mark.parametrize(
    "written",
    ["", "soon", "0001-01-01T00:00:00", "9999-12-31T23:59:59Z", "2026-13-01", "٢٠٢٦-٠٣-٢١x"],
)
def test_what_is_no_time_is_none(written: str) -> None:
    assert read.iso(written) is None


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("74700", time(7, 47)),
        ("074700", time(7, 47)),
        ("747", time(7, 47)),
        ("07:47", time(7, 47)),
        ("18:00:30", time(18, 0, 30)),
        ("6:00 pm", time(18)),
        ("6:00PM", time(18)),
        ("12:30 AM", time(0, 30)),
        ("12:30 p.m.", time(12, 30)),
        ("240000", None),
        ("2360", None),
        ("", None),
        ("noon", None),
        ("٠٧٤٧", None),
    ],
)
def test_clock_times(written: str, found: time | None) -> None:
    assert read.clock_time(written) == found


@pytest.mark.parametrize(
    ("written", "found"),
    [("-05:00", -300), ("-7:00", -420), ("+0530", 330), ("Z", 0), ("+15:00", None), ("", None)],
)
def test_zones(written: str, found: int | None) -> None:
    assert read.zone(written) == found


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("20260321", date(2026, 3, 21)),
        ("2026-03-21", date(2026, 3, 21)),
        ("2026-03-21T10:00:00", date(2026, 3, 21)),
        ("20261321", None),
        ("00010101", None),
        ("March", None),
    ],
)
def test_days(written: str, found: date | None) -> None:
    assert read.day(written) == found


def test_a_zone_that_is_not_said_is_what_lies_between_the_two_times() -> None:
    gmt, local = from_iso("2026-03-21T14:00:00Z"), from_iso("2026-03-21T09:00:00Z")
    assert read.placed(gmt, local, None) == Moment(gmt, -300)
    assert read.placed(gmt, local + 1, None) == Moment(gmt, 0)  # that is no zone
    assert read.placed(gmt, None, None) == Moment(gmt, 0)
    assert read.placed(None, local, -300) == Moment(gmt, -300)
    assert read.placed(None, local, None) == Moment(local, None)
    assert read.placed(None, None, -300) is None


def test_texts_are_one_printable_line_that_a_database_takes() -> None:
    assert read.text({"a": " Left\n at\tdoor "}, "a") == "Left at door"
    assert read.text({"a": "x\x00y\ud800"}, "a") == "x?y?"
    assert len(read.text({"a": "x" * 10_000}, "a")) == read.MAX_TEXT
    assert read.text({"a": 12}, "a") == "12"
    assert read.text({"a": True}, "a") == ""
    assert read.text({"a": None}, "a", "b") == ""
    assert read.text([], "a") == ""


def test_lists_and_objects_of_no_guaranteed_shape() -> None:
    assert read.items({"a": [{"b": 1}, 2, None]}, "a") == [{"b": 1}]
    assert read.items({"a": {"b": 1}}, "a") == [{"b": 1}]
    assert read.items({"a": "text"}, "a") == []
    assert read.obj({"a": []}, "a") == {}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (" 5 ", 5.0),
        ("0", 0.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("99999999999999999999", MAX_RETRY_AFTER),
        ("Thu, 01 Jan 2026 00:01:00 GMT", 60.0),
        ("Thursday, 01-Jan-26 00:01:00 GMT", 60.0),
        ("Thu Jan  1 00:01:00 2026", 60.0),
        ("Wed, 31 Dec 2025 23:00:00 GMT", 0.0),
        ("Fri, 01 Jan 2027 00:00:00 GMT", MAX_RETRY_AFTER),
        ("٣", None),
    ],
)
def test_retry_after_is_seconds_or_any_form_of_a_date(
    value: str | None, seconds: float | None
) -> None:
    assert retry_after(value, ManualClock()) == seconds


def _scan(at: int, status: str | None, sub_status: str | None = None) -> Scan:
    return Scan(at, 0, status, sub_status, None, "", None)  # type: ignore[arg-type]


def test_what_is_delivered_after_it_turned_back_has_come_back_to_the_sender() -> None:
    scans = (_scan(1, "attempt_failed"), _scan(2, "return_to_sender", "returning"))
    found = Found("n", "delivered", scans=(*scans, _scan(3, "delivered")), delivered_at=3)
    returned = read.sent_back(found)
    assert (returned.status, returned.sub_status) == ("return_to_sender", "returned")
    assert returned.delivered_at is None
    assert (returned.scans[-1].status, returned.scans[-1].sub_status) == (
        "return_to_sender",
        "returned",
    )


def test_a_return_that_was_only_asked_for_or_came_later_changes_no_delivery() -> None:
    asked = _scan(1, "return_to_sender", "return_requested")
    later = _scan(9, "return_to_sender", "returning")
    for scan in (asked, later):
        found = Found("n", "delivered", scans=(scan, _scan(3, "delivered")), delivered_at=3)
        assert read.sent_back(found) == found

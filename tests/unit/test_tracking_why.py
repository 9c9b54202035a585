"""Why a shipment waits, and how its times are shown."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.clock import SECOND, from_iso
from penstock.tracking import views
from penstock.tracking.why import why
from penstock.work.lanes import Gate

NOW = from_iso("2026-01-01T12:00:00Z")
ROW: dict[str, Any] = {
    "carrier": "ups",
    "status": "pending",
    "due_at": NOW - SECOND,
    "lease_until": None,
    "consecutive_errors": 0,
    "error_kind": None,
    "not_found": 0,
    "last_error": None,
}
LATER = NOW + 90 * SECOND


def gate(**changes: Any) -> Gate:
    values: dict[str, Any] = {
        "id": "trk:ups:settings",
        "paused": False,
        "opens_in": -1.0,
        "circuit": "closed",
        "circuit_generation": 0,
        "rate": 1.0,
        "tokens": 5.0,
        "held": 0,
        "cap": 4,
        "due_in": -1.0,
    }
    return Gate(**(values | changes))


@pytest.mark.parametrize(
    ("row", "lane", "code", "says"),
    [
        ({}, gate(), "due", "next free worker"),
        ({}, None, "due", "due now"),
        ({"status": "dead", "last_error": "it lapsed"}, gate(), "dead", "it lapsed"),
        ({"lease_until": LATER}, gate(paused=True), "leased", "12:01:30"),
        ({}, gate(paused=True), "no_credential", "/v1/carriers/ups/credentials"),
        ({"due_at": LATER}, gate(paused=True), "no_credential", "PUT"),
        ({"due_at": LATER}, gate(), "not_due", "12:01:30"),
        ({"due_at": LATER, "not_found": 2}, gate(), "not_found_yet", "12:01:30"),
        (
            {"due_at": LATER, "consecutive_errors": 2, "error_kind": "http_503"},
            gate(),
            "retry_later",
            "http_503",
        ),
        (
            {"due_at": LATER, "last_error": "the credential cannot be opened"},
            gate(),
            "retry_later",
            "cannot be opened. It is tried again at 2026-01-01T12:01:30",
        ),
        ({}, gate(opens_in=90.0), "carrier_asked_to_wait", "12:01:30"),
        ({}, gate(opens_in=90.0, circuit="open"), "circuit_open", "12:01:30"),
        ({}, gate(circuit="half_open", held=1), "circuit_probing", "another"),
        ({}, gate(held=4), "in_flight_cap", "4 others"),
        ({}, gate(tokens=0.5, rate=0.01), "budget", "50 seconds"),
        # What stands first in the way is said: the lane does not matter before it is due.
        ({"due_at": LATER}, gate(opens_in=900.0, circuit="open"), "not_due", "12:01:30"),
    ],
)
def test_the_first_thing_in_the_way_is_named(
    row: dict[str, Any], lane: Gate | None, code: str, says: str
) -> None:
    found = why(ROW | row, lane, NOW)
    assert found["code"] == code
    assert says.lower() in found["message"].lower()
    assert found["message"].endswith(".")


@pytest.mark.parametrize(
    ("offset", "shown"),
    [
        (None, "2026-01-01T12:00:00"),  # no zone was given: none is made up
        (0, "2026-01-01T12:00:00+00:00"),
        (-300, "2026-01-01T07:00:00-05:00"),
        (330, "2026-01-01T17:30:00+05:30"),
        (14 * 60, "2026-01-02T02:00:00+14:00"),
    ],
)
def test_the_carriers_time_keeps_its_zone(offset: int | None, shown: str) -> None:
    assert views.local(NOW, offset) == shown
    assert views.local(None, offset) is None

"""What the events API takes and refuses, without a database."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from penstock.clock import SECOND, from_iso, to_iso
from penstock.errors import Refused
from penstock.events.accept import compact, new_event
from penstock.events.idempotency import fingerprint
from penstock.events.models import BatchIn, EndpointIn, EndpointPatch, EventIn, RotateIn

NOW = from_iso("2026-01-01T00:00:00Z")


def event(**changes: Any) -> EventIn:
    body = {"event_type": "order.created", "payload": {"a": 1}} | changes
    return EventIn.model_validate_json(json.dumps(body))


@pytest.mark.parametrize("name", ["a", "order.created", "A-Z_0.9", "x" * 100])
def test_event_types(name: str) -> None:
    assert event(event_type=name).event_type == name


@pytest.mark.parametrize(
    "changes",
    [
        {"event_type": ""},
        {"event_type": "x" * 101},
        {"event_type": "order.created\n"},
        {"event_type": "order created"},
        {"event_type": "örder"},
        {"event_type": "٣"},  # a digit, not an ASCII one
        {"event_type": 5},
        {"payload": [1]},
        {"payload": None},
        {"metadata": "x"},
        {"idempotency_key": ""},
        {"idempotency_key": "k" * 256},
        {"idempotency_key": "k\n"},
        {"idempotency_key": "k\u00e9"},
        {"deliver_at": 1767225600},
        {"deliver_at": "1767225600"},
        {"deliver_at": "2026-01-01"},
        {"deliver_at": "2026-01-01T00:00:00"},
        {"ordering_key": ""},
        {"ordering_key": "k" * 256},
        {"ordering_key": "é"},
        {"ordering_key": "k\n"},
        {"ordering_key": 1},
        {"user_id": "u"},
    ],
)
def test_what_an_event_may_not_be(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        event(**changes)


def test_an_item_of_a_batch_is_judged_as_a_body_is() -> None:
    item = {"event_type": "a", "payload": {}, "deliver_at": "2026-01-02T00:00:00+01:00"}
    made = EventIn.model_validate(item)
    assert made.deliver_at is not None
    with pytest.raises(ValidationError):
        EventIn.model_validate({"event_type": "a", "payload": {}, "deliver_at": 5})


def test_a_batch_has_one_to_a_hundred_items() -> None:
    assert len(BatchIn.model_validate({"events": [None] * 100}).events) == 100
    for events in ([], [None] * 101):
        with pytest.raises(ValidationError):
            BatchIn.model_validate({"events": events})


def test_the_payload_keeps_its_order_and_is_compact() -> None:
    new = new_event(event(payload={"b": {"z": 1, "a": [1, 2.5]}, "a": "é\u0001"}), now=NOW)
    assert new.payload == '{"b":{"z":1,"a":[1,2.5]},"a":"é\\u0001"}'
    assert new.metadata is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_what_json_cannot_carry_is_refused(value: object) -> None:
    with pytest.raises(Refused) as caught:
        compact({"a": value})
    assert caught.value.code == "validation_failed"


def test_deliver_at_in_the_past_is_now_and_beyond_a_year_refused() -> None:
    past = new_event(event(deliver_at=to_iso(NOW - SECOND)), now=NOW)
    assert past.deliver_at is None
    later = new_event(event(deliver_at=to_iso(NOW + 60 * SECOND)), now=NOW)
    assert later.deliver_at == NOW + 60 * SECOND
    with pytest.raises(Refused) as caught:
        new_event(event(deliver_at="2027-02-01T00:00:00Z"), now=NOW)
    assert caught.value.pointer == "/deliver_at"


def test_the_fingerprint_is_of_the_request_without_its_key() -> None:
    one = new_event(event(payload={"a": 1, "b": 2}, idempotency_key="k1"), now=NOW)
    other_key_and_order = new_event(event(payload={"b": 2, "a": 1}), now=NOW, key="k2")
    other_body = new_event(event(payload={"a": 1, "b": 3}), now=NOW, key="k1")
    same_instant = "2026-01-01T02:00:00+01:00", "2026-01-01T01:00:00Z"
    first, second = (new_event(event(deliver_at=t), now=NOW, key="k") for t in same_instant)
    assert one.fingerprint == other_key_and_order.fingerprint != other_body.fingerprint
    assert first.fingerprint == second.fingerprint
    assert len(fingerprint({})) == 64


def test_a_key_given_from_outside_goes_before_the_field() -> None:
    assert new_event(event(idempotency_key="field"), now=NOW, key="header").key == "header"


@pytest.mark.parametrize(
    "changes",
    [
        {"event_types": []},
        {"event_types": ["order.**"]},
        {"event_types": [".*"]},
        {"event_types": ["*.created"]},
        {"event_types": ["a\n"]},
        {"timeout": 0.5},
        {"timeout": 31},
        {"timeout": True},
        {"rate_limit": 0},
        {"max_in_flight": 0},
        {"max_in_flight": 257},
        {"max_in_flight": 2.5},
        {"schedule": []},
        {"schedule": [-1]},
        {"schedule": [86401]},
        {"schedule": [1] * 51},
        {"on_permanent": "short"},
        {"kind": "E-Mail"},
        {"filter": []},
        {"target": ""},
        {"description": "a\x00b"},
        {"description": "x" * 501},
    ],
)
def test_what_an_endpoint_may_not_be(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EndpointIn.model_validate({"target": "https://example.com/"} | changes)


def test_an_endpoint_takes_everything_unless_told() -> None:
    made = EndpointIn.model_validate({"target": "https://example.com/", "schedule": [1, 2.5]})
    assert (made.event_types, made.max_in_flight, made.schedule) == (["*"], 32, [1.0, 2.5])


def test_a_patch_holds_only_what_was_given() -> None:
    patch = EndpointPatch.model_validate({"rate_limit": None, "description": "x"})
    assert patch.changes() == {"rate_limit": None, "description": "x"}
    for bad in ({}, {"kind": "webhook"}, {"secret": "x"}, {"max_in_flight": None}):
        with pytest.raises(ValidationError):
            EndpointPatch.model_validate(bad)


def test_an_overlap_is_at_most_a_week() -> None:
    assert RotateIn().overlap_seconds == 86400
    for bad in (-1, 7 * 86400 + 1, 1.5):
        with pytest.raises(ValidationError):
            RotateIn.model_validate({"overlap_seconds": bad})

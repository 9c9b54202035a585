"""What an answer means, what is sent, and what follows: without a network or a database."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from penstock.clock import SECOND, SystemClock, from_iso
from penstock.events import sign
from penstock.events.destinations.webhook import answer as answer_of
from penstock.events.destinations.webhook import judge, request_headers, retry_after
from penstock.events.http import Failure, FailureKind, Response
from penstock.events.policy import DEFAULT_SCHEDULE
from penstock.events.push import Attempt, body, decide, next_gap
from penstock.events.receivers import Opened, Push, Receiver
from penstock.work.outcomes import Dead, Done, Outcome, Retry

NOW = from_iso("2026-01-01T00:00:00Z")
RECEIVER = Receiver(
    "end_1", "default", "delivery:end_1", 1, "https://example.com/", 10.0, DEFAULT_SCHEDULE, True,
    None, "sealed", None, None,
)  # fmt: skip
PUSH = Push(
    "dlv_1", "evt_1", "order.created", '{"b":1,"a":"é"}', None, NOW, None, NOW + SECOND, 0, RECEIVER
)


def answered(status: int, **headers: str) -> Response:
    return Response(status, {k.replace("_", "-"): v for k, v in headers.items()}, b"", None, 0.1)


def failed(kind: FailureKind) -> Failure:
    return Failure(kind, "text", None, 0.1)


@pytest.mark.parametrize(
    ("status", "means", "health"),
    [
        (200, "delivered", "ok"),
        (204, "delivered", "ok"),
        (299, "delivered", "ok"),
        (301, "permanent", "ok"),
        (307, "permanent", "ok"),
        (400, "permanent", "ok"),
        (401, "permanent", "ok"),
        (404, "permanent", "ok"),
        (408, "transient", "ok"),
        (410, "gone", "ok"),
        (425, "transient", "ok"),
        (429, "transient", "ok"),
        (500, "transient", "bad"),
        (503, "transient", "bad"),
        (599, "transient", "bad"),
        (199, "permanent", "ok"),
    ],
)
def test_statuses(status: int, means: str, health: str) -> None:
    verdict = judge(answered(status), NOW)
    assert (verdict.means, verdict.health, verdict.pause) == (means, health, None)
    assert bool(verdict.reason) is (means != "delivered")


@pytest.mark.parametrize(
    "kind",
    ["timeout_connect", "timeout", "dns", "connection_refused", "connection_reset", "tls",
     "protocol", "connection"],
)  # fmt: skip
def test_network_errors_are_the_endpoints_trouble(kind: FailureKind) -> None:
    verdict = judge(failed(kind), NOW)
    assert (verdict.means, verdict.health) == ("transient", "bad")
    assert verdict.reason == f"{kind}: text"


def test_a_refusal_of_the_guard_is_permanent_and_says_nothing_of_the_peer() -> None:
    verdict = judge(failed("refused_by_guard"), NOW)
    assert (verdict.means, verdict.health) == ("permanent", None)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("0", None),
        ("99999", 3600.0),
        ("9" * 5000, 3600.0),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30.0),
        ("Thu, 01 Jan 2026 00:00:30 -0000", 30.0),
        ("Wed, 31 Dec 2025 23:59:59 GMT", None),
        ("Fri, 02 Jan 2026 00:00:00 GMT", 3600.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("٣", None),
        (None, None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


@given(st.text(max_size=60))
def test_retry_after_never_fails_and_is_bounded(value: str) -> None:
    seconds = retry_after(value, NOW)
    assert seconds is None or 0 < seconds <= 3600


@pytest.mark.parametrize(("status", "pause"), [(429, 7.0), (503, 7.0), (500, None), (404, None)])
def test_only_429_and_503_can_close_the_lane(status: int, pause: float | None) -> None:
    assert judge(answered(status, retry_after="7"), NOW).pause == pause


def test_the_schedule_is_walked_to_its_end() -> None:
    gaps, step = [], 0
    while (gap := next_gap(DEFAULT_SCHEDULE, step, quick=True)) is not None:
        gaps.append(gap[0])
        step = gap[1]
    assert tuple(gaps) == DEFAULT_SCHEDULE


def test_a_permanent_answer_skips_what_is_left_of_the_quick_gaps() -> None:
    assert next_gap(DEFAULT_SCHEDULE, 0, quick=False) == (300.0, 6)
    assert next_gap(DEFAULT_SCHEDULE, 3, quick=False) == (300.0, 6)
    assert next_gap(DEFAULT_SCHEDULE, 6, quick=False) == (1800.0, 7)
    assert next_gap(DEFAULT_SCHEDULE, 11, quick=False) is None
    assert next_gap([1.0, 2.0], 0, quick=False) is None


def outcome(answer: Response | Failure, push: Push = PUSH, **receiver: Any) -> Outcome:
    changed = replace(RECEIVER, **receiver)
    return decide(push, changed, Attempt(1, NOW, answer_of(answer, NOW)))


def test_success_is_done() -> None:
    result = outcome(answered(200))
    assert isinstance(result, Done)
    assert result.health == "ok"
    assert result.apply is not None


def test_a_transient_failure_waits_the_gap_within_the_jitter() -> None:
    result = outcome(answered(503), replace(PUSH, step=2))
    assert isinstance(result, Retry)
    assert result.after is not None
    assert 3.2 <= result.after <= 4.8
    assert (result.reason, result.health) == ("HTTP 503", "bad")


def test_retry_after_is_a_pause_of_the_lane_not_of_the_row() -> None:
    result = outcome(answered(429, retry_after="90"))
    assert isinstance(result, Retry)
    assert result.pause == 90.0
    assert result.after is not None
    assert result.after <= 1.2


def test_an_exhausted_schedule_is_death() -> None:
    result = outcome(answered(500), replace(PUSH, step=11))
    assert isinstance(result, Dead)
    assert result.reason == "exhausted after 1 attempts: HTTP 500"
    assert result.health == "bad"


def test_a_permanent_answer_dies_or_waits_long() -> None:
    patient, impatient = outcome(answered(404)), outcome(answered(404), patient=False)
    assert isinstance(patient, Retry)
    assert patient.after is not None
    assert 240 <= patient.after <= 360
    assert isinstance(impatient, Dead)
    assert impatient.reason == "HTTP 404"


def test_gone_is_death_whatever_the_patience() -> None:
    for patient in (True, False):
        result = outcome(answered(410), patient=patient)
        assert isinstance(result, Dead)
        assert result.reason.startswith("HTTP 410")


def test_the_body_is_the_stored_text() -> None:
    expected = (
        '{"event_id":"evt_1","event_type":"order.created","payload":{"b":1,"a":"é"},'
        '"metadata":null,"created_at":"2026-01-01T00:00:00.000000Z"}'
    )
    assert body(PUSH) == expected.encode()
    assert json.loads(body(replace(PUSH, metadata='{"m":1}')))["metadata"] == {"m": 1}


def test_the_official_package_verifies_both_secrets_during_the_overlap() -> None:
    old, new = sign.generate_secret(), sign.generate_secret()
    opened = Opened({}, sign.decode_secret(new), sign.decode_secret(old))
    content, now = body(PUSH), SystemClock().now()
    rotating = replace(RECEIVER, previous_until=now + 60 * SECOND)
    headers = request_headers(PUSH, rotating, opened, content, now)
    for secret in (old, new):
        Webhook(secret).verify(content.decode(), headers)
    after = request_headers(PUSH, rotating, opened, content, now + 61 * SECOND)
    assert len(after["webhook-signature"].split()) == 1
    Webhook(new).verify(content.decode(), after)


def test_headers_of_an_attempt() -> None:
    opened = Opened({"X-Team": "a", "User-Agent": "mine"}, b"k" * 32, None)
    push = replace(PUSH, traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    headers = request_headers(push, RECEIVER, opened, b"", NOW)
    assert headers["webhook-id"] == "evt_1"
    assert headers["webhook-timestamp"] == str(NOW // SECOND)
    assert headers["content-type"] == "application/json"
    assert headers["traceparent"] == push.traceparent
    assert headers["x-team"] == "a"
    assert headers["user-agent"] == "mine"
    assert request_headers(PUSH, RECEIVER, replace(opened, headers={}), b"", NOW)[
        "user-agent"
    ].startswith("Penstock/")

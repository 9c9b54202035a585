"""What the destinations make of an event and of an answer, without a server."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from email import message_from_bytes, policy
from email.errors import HeaderParseError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.clock import SECOND, from_iso
from penstock.events.destinations import TargetRefused, sms
from penstock.events.destinations import email as mail
from penstock.events.destinations.aws import THROTTLED, of_error
from penstock.events.destinations.registry import Outlets, build
from penstock.events.destinations.sqs import Queue, deduplication, group, queue
from penstock.events.receivers import Push
from penstock.mail import Sender

NOW = from_iso("2026-01-02T03:04:05Z")
PUSH = Push(
    "dlv_1", "evt_1", "order.created", '{"b":1,"a":"é"}', None, NOW, None, NOW + SECOND, 0, None
)
SENDER = Sender("Penstock, Inc.", "penstock@example.com")


def letter(push: Push = PUSH, subject: str = "order.created") -> mail.Letter:
    return mail.Letter(push, "default", "ada@example.org", subject, mail.text(push))


WHOLE = mail.mime(letter(), SENDER)


def test_a_letter() -> None:
    raw = mail.mime(letter(), SENDER)
    message = message_from_bytes(raw, policy=policy.default)
    assert message["From"] == '"Penstock, Inc." <penstock@example.com>'
    assert message["To"] == "ada@example.org"
    assert message["Subject"] == "order.created"
    assert message["Message-ID"] == "<dlv_1@example.com>"
    assert message["Date"].datetime.isoformat() == "2026-01-02T03:04:05+00:00"
    assert message["Auto-Submitted"] == "auto-generated"
    assert (message["X-Penstock-Delivery"], message["X-Penstock-Event"]) == ("dlv_1", "evt_1")
    assert message.get_content_type() == "text/plain"
    assert message.get_content().replace("\r\n", "\n") == (
        '{\n  "b": 1,\n  "a": "é"\n}\n\n-- \norder.created, 2026-01-02 03:04:05 UTC\nEvent evt_1\n'
    )
    raw.decode("ascii")
    assert raw.count(b"\n") == raw.count(b"\r\n")
    assert max(map(len, raw.split(b"\r\n"))) <= 998


def test_a_letter_is_the_same_on_every_attempt() -> None:
    assert mail.mime(letter(), SENDER) == mail.mime(letter(), SENDER)


def test_metadata_is_in_a_letter() -> None:
    assert 'Metadata: {\n  "m": 1\n}' in mail.text(replace(PUSH, metadata='{"m":1}'))


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=20), st.text(max_size=2000), max_size=5))
def test_no_payload_can_break_out_of_the_body(payload: dict[str, str]) -> None:
    try:
        compact = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
        compact.encode()
    except UnicodeEncodeError:
        return
    push = replace(PUSH, payload=compact)
    message = message_from_bytes(mail.mime(letter(push), SENDER), policy=policy.default)
    assert len(message.keys()) == 11
    shown, _, _ = message.get_content().partition("\r\n\r\n-- \r\n")
    assert json.loads(shown) == payload


@given(st.text(alphabet="a:\r\n\v\x00\x85\u2028 =?,<>@.", max_size=12))
def test_nothing_gets_into_a_header(odd: str) -> None:
    for bad in (letter(subject=f"s{odd}"), replace(letter(), to=f"ada@example.org{odd}")):
        try:
            raw = mail.mime(bad, SENDER)
        except (ValueError, HeaderParseError):
            continue
        head = raw.partition(b"\r\n\r\n")[0]
        assert message_from_bytes(raw).keys() == message_from_bytes(WHOLE).keys()
        assert b"\n" not in head.replace(b"\r\n", b"")
        assert b"\r" not in head.replace(b"\r\n", b"")


def test_json_that_would_grow_without_measure_stays_as_it_is() -> None:
    deep = "[" * 900 + ",".join(["1"] * 60_000) + "]" * 900
    assert mail.indented(deep) == deep
    for odd in ("[" * 100_000 + "]" * 100_000, "1" * 5000):
        assert mail.indented(odd) == odd
    assert mail.indented('{"a":[1]}') == '{\n  "a": [\n    1\n  ]\n}'


@pytest.mark.parametrize(
    ("given_", "address"),
    [
        ("ada@example.com", "ada@example.com"),
        ("Ada.L+tag@EXAMPLE.com", "Ada.L+tag@example.com"),
        ("ada@bücher.example.org", "ada@xn--bcher-kva.example.org"),
    ],
)
def test_addresses(given_: str, address: str) -> None:
    assert mail.address(given_) == address


@given(st.text(max_size=60) | st.text(max_size=20).map(lambda text: text + "@example.com"))
def test_an_address_is_plain_ascii_without_white_space_or_refused(text: str) -> None:
    try:
        found = mail.address(text)
    except TargetRefused:
        return
    assert found.isascii()
    assert found.isprintable()
    assert not set(found) & set(' "(),:;<>[\\]')


@pytest.mark.parametrize(
    ("given_", "number"),
    [
        ("+14155552671", "+14155552671"),
        ("+1 (415) 555-2671", "+14155552671"),
        ("+44 7911 123456", "+447911123456"),
        ("+49.1511.2345678", "+4915112345678"),
    ],
)
def test_numbers(given_: str, number: str) -> None:
    assert sms.number(given_) == number


@given(st.text(alphabet="+0123456789 -()\n\u0661\u0967", max_size=24))
def test_a_number_is_e164_or_refused(text: str) -> None:
    try:
        found = sms.number(text)
    except TargetRefused:
        return
    assert found.isascii()
    assert found[0] == "+"
    assert found[1:].isdigit()
    assert found[1] != "0"
    assert 8 <= len(found) <= 16


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ('{"message":" Your parcel is here. "}', "Your parcel is here."),
        ('{"message":"' + "é" * 2000 + '"}', "é" * 1599 + "…"),
        ('{"message":""}', 'order.created {"message":""}'),
        ('{"message":5}', 'order.created {"message":5}'),
        ('{"n":' + "1" * 5000 + "}", 'order.created {"n":' + "1" * 140 + "…"),
    ],
)
def test_texts(payload: str, text: str) -> None:
    assert sms.text(replace(PUSH, payload=payload)) == text


URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/orders"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (URL, Queue(URL, "eu-west-1", False)),
        (URL + ".fifo", Queue(URL + ".fifo", "eu-west-1", True)),
        ("arn:aws:sqs:eu-west-1:123456789012:orders", Queue(URL, "eu-west-1", False)),
        (
            "arn:aws-cn:sqs:cn-north-1:123456789012:a.fifo",
            Queue(
                "https://sqs.cn-north-1.amazonaws.com.cn/123456789012/a.fifo", "cn-north-1", True
            ),
        ),
        (
            "https://sqs-fips.us-gov-west-1.amazonaws.com/123456789012/a",
            Queue(
                "https://sqs-fips.us-gov-west-1.amazonaws.com/123456789012/a",
                "us-gov-west-1",
                False,
            ),
        ),
    ],
)
def test_queues(target: str, expected: Queue) -> None:
    assert queue(target, None) == expected


def keyed(key: str | None) -> str:
    return group(replace(PUSH, ordering_key=key))


def test_the_groups_of_a_fifo_queue() -> None:
    assert keyed(None) == "evt_1"
    assert keyed("customer-7/!~") == "customer-7/!~"
    assert keyed("k" * 128) == "k" * 128
    # Written out, so that it stays: a group that changed its name would lose its order.
    hashed = "sha256:a8564eeb8ba3b25fa1da9c7ca13a2c90dcdfc8a29e3ba93da33cca669e0bd937"
    assert keyed("customer 7") == hashed
    assert keyed(hashed) != hashed  # the key of somebody who has read this
    assert keyed("k" * 129).startswith("sha256:")


@given(*[st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1)] * 2)
def test_a_group_is_one_key_and_fits_the_rules_of_sqs(one: str, other: str) -> None:
    for key in (one, one * 60, keyed(one), keyed(one + " ")):
        name = keyed(key)
        assert re.fullmatch(r"[A-Za-z0-9!-/:-@\[-`{-~]{1,128}", name)
        assert (keyed(other) == name) == (other == key)
        assert keyed(name) == name if name == key else keyed(name) != name


def test_only_another_sending_has_another_deduplication_id() -> None:
    first = deduplication(PUSH)
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,128}", first)
    assert deduplication(replace(PUSH, step=3, failing_since=1, held_for=None)) == first
    assert deduplication(replace(PUSH, delivery_id="dlv_2")) != first
    assert deduplication(replace(PUSH, expires_at=PUSH.expires_at + 1)) != first


def test_a_stand_in_for_aws_may_be_named_only_where_it_is_set() -> None:
    local = "http://127.0.0.1:4566/000000000000/orders"
    arn = "arn:aws:sqs:eu-west-1:000000000000:orders"
    assert queue(local, "http://127.0.0.1:4566/") == Queue(local, None, False)
    assert queue(arn, "http://127.0.0.1:4566") == Queue(local, "eu-west-1", False)
    for base in (None, "http://127.0.0.1:4567", "http://127.0.0.1"):
        with pytest.raises(TargetRefused):
            queue(local, base)


@pytest.mark.parametrize(
    ("status", "code", "means", "health", "pause"),
    [
        (400, "Throttling", "transient", "ok", THROTTLED),
        (400, "ThrottlingException", "transient", "ok", THROTTLED),
        (400, "Throttled", "transient", "ok", THROTTLED),
        (403, "RequestThrottled", "transient", "ok", THROTTLED),
        (400, "KmsThrottled", "transient", "ok", THROTTLED),
        (429, "TooManyRequestsException", "transient", "ok", THROTTLED),
        (500, "InternalError", "transient", "bad", None),
        (503, "ServiceUnavailable", "transient", "bad", None),
        (403, "InvalidClientTokenId", "transient", None, None),
        (400, "ExpiredToken", "transient", None, None),
        (400, "SendingPausedException", "transient", None, None),
        (403, "AccessDenied", "permanent", "ok", None),
        (403, "AuthorizationError", "permanent", "ok", None),
        (400, "AWS.SimpleQueueService.NonExistentQueue", "permanent", "ok", None),
        (400, "InvalidParameter", "permanent", "ok", None),
        (400, "OptedOut", "permanent", "ok", None),
        (400, "MessageRejected", "permanent", "ok", None),
    ],
)
def test_errors_of_aws(
    status: int, code: str, means: str, health: str | None, pause: float | None
) -> None:
    response = {
        "Error": {"Code": code, "Message": "because\nof\x00it"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    answer = of_error(response, 0.5)
    verdict = answer.verdict
    assert (verdict.means, verdict.health, verdict.pause) == (means, health, pause)
    assert (answer.status_code, answer.duration) == (status, 0.5)
    assert code in verdict.reason
    assert verdict.reason.isprintable()


def test_mail_cannot_leave_without_a_sender_or_a_server() -> None:
    for outlets in (Outlets(mail_by="ses"), Outlets(mail_by="smtp", mail_from=SENDER)):
        with pytest.raises(ValueError, match=r"mail"):
            build(outlets, guard=None, send=None, clock=None)  # type: ignore[arg-type]

from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from penstock.events.sign import (
    BadSecret,
    BadSignature,
    decode_secret,
    generate_secret,
    headers,
    sign,
    verify,
)

NOW = 1_767_225_600
BODY = b'{"event_type":"order.created"}'
OLD, NEW, OTHER = (bytes([n]) * 32 for n in (1, 2, 3))

ids = st.text("abcdefghijklmnopqrstuvwxyz0123456789_", min_size=1, max_size=40)
keys = st.binary(min_size=24, max_size=64)


def test_the_example_of_the_standard() -> None:
    # From the reference implementations' own tests.
    key = decode_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = sign([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_new_secret_is_32_random_bytes() -> None:
    secret = generate_secret()
    assert secret.startswith("whsec_")
    assert len(decode_secret(secret)) == 32
    assert generate_secret() != secret


@given(keys, st.booleans())
def test_secrets_are_decoded_with_and_without_padding(key: bytes, padded: bool) -> None:
    text = base64.b64encode(key).decode()
    assert decode_secret("whsec_" + (text if padded else text.rstrip("="))) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        base64.b64encode(OLD).decode(),
        "whsk_" + base64.b64encode(OLD).decode(),
        "whsec_" + base64.b64encode(b"x" * 23).decode(),
        "whsec_" + base64.b64encode(b"x" * 65).decode(),
        "whsec_" + base64.b64encode(OLD).decode() + "\n",
        "whsec_" + "A" * 41,
        "whsec_" + "-_" * 20,
        "whsec_AAAA AAAA" + "A" * 40,
    ],
)
def test_malformed_secrets_are_refused(text: str) -> None:
    with pytest.raises(BadSecret, match="24 to 64 bytes"):
        decode_secret(text)


@given(ids, keys, st.dictionaries(st.text(), st.text() | st.integers() | st.none()))
def test_the_official_package_verifies(msg_id: str, key: bytes, payload: dict) -> None:
    body = json.dumps(payload, ensure_ascii=False).encode("utf-8", "replace")
    sent = headers([key], msg_id, int(time.time()), body)
    assert Webhook(key).verify(body, sent) == json.loads(body)


def test_the_official_package_verifies_during_rotation() -> None:
    sent = headers([NEW, OLD], "evt_1", int(time.time()), BODY)
    assert sent["webhook-signature"].count("v1,") == 2
    for key in (OLD, NEW):
        Webhook(key).verify(BODY, sent)
    with pytest.raises(WebhookVerificationError):
        Webhook(OTHER).verify(BODY, sent)


@given(ids, keys, st.binary(max_size=200))
def test_what_the_official_package_signs_is_verified(msg_id: str, key: bytes, raw: bytes) -> None:
    body = json.dumps(raw.hex()).encode()
    moment = datetime.fromtimestamp(NOW, UTC)
    given_headers = {
        "Webhook-Id": msg_id,
        "Webhook-Timestamp": str(NOW),
        "Webhook-Signature": Webhook(key).sign(msg_id, moment, body.decode()),
    }
    verify(given_headers, body, [key], now=NOW)


def padded(some: list[bytes]) -> set[bytes]:
    """As HMAC takes keys (RFC 2104): zeros fill them up to a block, and make no other key."""
    return {key.ljust(64, b"\0") for key in some}


@given(st.lists(keys, min_size=1, max_size=3), st.lists(keys, min_size=1, max_size=3))
@example([bytes(24)], [bytes(25)])
def test_one_shared_secret_is_enough_and_none_is_not(ours: list, theirs: list) -> None:
    sent = headers(ours, "evt_1", NOW, BODY)
    if padded(ours) & padded(theirs):
        verify(sent, BODY, theirs, now=NOW)
    else:
        with pytest.raises(BadSignature):
            verify(sent, BODY, theirs, now=NOW)


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_another_body_does_not_verify(body: bytes, other: bytes) -> None:
    sent = headers([OLD], "evt_1", NOW, body)
    if body != other:
        with pytest.raises(BadSignature):
            verify(sent, other, [OLD], now=NOW)
    verify(sent, body, [OLD], now=NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": "evt_2"},
        {"webhook-id": ""},
        {"webhook-timestamp": str(NOW + 1)},
        {"webhook-timestamp": ""},
        {"webhook-timestamp": "soon"},
        {"webhook-timestamp": f" {NOW}"},
        {"webhook-timestamp": "-1"},
        {"webhook-timestamp": "1" * 5000},
        {"webhook-signature": ""},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "v1,é"},
        {"webhook-signature": "\ud800"},
        {"webhook-signature": "v2," + sign([OLD], "evt_1", NOW, BODY)[3:]},
        {"webhook-signature": "v1 " * 100 + sign([OLD], "evt_1", NOW, BODY)},
    ],
)
def test_tampered_headers_do_not_verify(change: dict[str, str]) -> None:
    with pytest.raises(BadSignature):
        verify(headers([OLD], "evt_1", NOW, BODY) | change, BODY, [OLD], now=NOW)


def test_signatures_of_other_versions_are_passed_over() -> None:
    sent = headers([OLD], "evt_1", NOW, BODY)
    sent["webhook-signature"] = "v1a,AAAA " + sent["webhook-signature"] + " v9,x,y"
    verify(sent, BODY, [OLD], now=NOW)


def test_old_and_early_messages_do_not_verify() -> None:
    sent = headers([OLD], "evt_1", NOW, BODY)
    for now in (NOW - 300, NOW + 300):
        verify(sent, BODY, [OLD], now=now)
    for now in (NOW - 301, NOW + 301):
        with pytest.raises(BadSignature, match="too far"):
            verify(sent, BODY, [OLD], now=now)
    verify(sent, BODY, [OLD], tolerance=1000, now=NOW + 900)
    with pytest.raises(BadSignature, match="too far"):
        verify(sent, BODY, [OLD])  # by the system's clock


def test_no_secret_verifies_nothing() -> None:
    with pytest.raises(BadSignature):
        verify(headers([OLD], "evt_1", NOW, BODY), BODY, [], now=NOW)


def test_an_id_with_a_full_stop_is_not_signed() -> None:
    with pytest.raises(ValueError, match="full stop"):
        sign([OLD], "evt_1.1", NOW, BODY)

"""Signatures by Standard Webhooks (https://www.standardwebhooks.com), symmetric scheme.

The signature is HMAC-SHA256 over ``{id}.{timestamp}.{body}``, sent as ``v1,<base64>``.
While a secret is being rotated there is one signature for each, separated by spaces, and
the receiver takes the message if any of them fits the secret it knows.
"""

from __future__ import annotations

import binascii
import hmac
import re
import secrets as random_source
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence

from penstock.errors import PenstockError

ID = "webhook-id"
TIMESTAMP = "webhook-timestamp"
SIGNATURE = "webhook-signature"
PREFIX = "whsec_"

_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,12}", re.ASCII)
_MAX_SIGNATURES = 32  # looked at in one header, so that a forger cannot make us work


class BadSecret(PenstockError):
    """A signing secret is whsec_ followed by 24 to 64 bytes in base64."""


class BadSignature(PenstockError):
    """The message is not signed with a known secret."""


def generate_secret() -> str:
    """A new secret: ``whsec_`` and 32 random bytes in base64."""
    return PREFIX + b64encode(random_source.token_bytes(32)).decode("ascii")


def decode_secret(text: str) -> bytes:
    """The key inside a ``whsec_`` secret; BadSecret if it is malformed.

    The standard asks for 24 to 64 bytes. Missing padding is forgiven: some senders omit it.
    """
    encoded = text.removeprefix(PREFIX)
    if encoded == text or not _BASE64.fullmatch(encoded):
        raise BadSecret
    encoded = encoded.rstrip("=")
    try:
        key = binascii.a2b_base64(encoded + "=" * (-len(encoded) % 4))
    except binascii.Error as error:
        raise BadSecret from error
    if not 24 <= len(key) <= 64:
        raise BadSecret
    return key


def sign(secrets: Sequence[bytes], msg_id: str, timestamp: int, body: bytes) -> str:
    """The value of ``webhook-signature``: one signature a secret, the newest secret first.

    `timestamp` is in seconds since the epoch. `msg_id` has no full stop, or a signature
    could be read in two ways.
    """
    if "." in msg_id:
        raise ValueError("a message id must not contain a full stop")
    signed = b"%b.%d.%b" % (msg_id.encode(), timestamp, body)
    return " ".join("v1," + _mac(secret, signed) for secret in secrets)


def headers(secrets: Sequence[bytes], msg_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of a signed message. `msg_id` stays the same on every attempt."""
    return {
        ID: msg_id,
        TIMESTAMP: str(timestamp),
        SIGNATURE: sign(secrets, msg_id, timestamp, body),
    }


def verify(
    headers: Mapping[str, str],
    body: bytes,
    secrets: Sequence[bytes],
    *,
    tolerance: float = 300.0,
    now: float | None = None,
) -> None:
    """BadSignature unless one of `secrets` signed the message within `tolerance` seconds.

    `now` is in seconds since the epoch, by default the system's clock.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    msg_id, timestamp, given = (lowered.get(name, "") for name in (ID, TIMESTAMP, SIGNATURE))
    if not (msg_id and timestamp and given):
        raise BadSignature("a webhook-id, webhook-timestamp or webhook-signature is missing")
    if not _SECONDS.fullmatch(timestamp):
        raise BadSignature("webhook-timestamp is not a number of seconds")
    if abs((time.time() if now is None else now) - int(timestamp)) > tolerance:
        raise BadSignature("webhook-timestamp is too far from the present")
    signed = b"%b.%b.%b" % (msg_id.encode(), timestamp.encode(), body)
    expected = [b"v1," + _mac(secret, signed).encode() for secret in secrets]
    candidates = [one.encode("utf-8", "replace") for one in given.split(" ")[:_MAX_SIGNATURES]]
    # Every pair is compared, whatever the earlier ones said, and each in constant time.
    fits = [hmac.compare_digest(mine, theirs) for mine in expected for theirs in candidates]
    if not any(fits):
        raise BadSignature


def _mac(secret: bytes, signed: bytes) -> str:
    return b64encode(hmac.digest(secret, signed, "sha256")).decode("ascii")

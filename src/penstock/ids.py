"""Identifiers: a prefix that says what it is, and a UUIDv7 that says when.

`evt_01kdvq5x3s7hf9a2b4c6d8e0gm` is ``evt_`` and the 128 bits of a UUID version 7 (RFC 9562
§5.7) in 26 digits of Crockford's base32, lower case. Ids of one process sort in the order in
which they were made, whatever the wall clock does (RFC 9562 §6.2, method 2).
"""

from __future__ import annotations

import os
import threading
import time
from typing import Final

HIGHEST: Final = "zzzz"  # sorts after every id, by bytes as by the rules of a language

_DIGITS: Final = "0123456789abcdefghjkmnpqrstvwxyz"
# Two digits at a time: half the steps of the loop that every id goes through.
_PAIRS: Final = tuple(a + b for a in _DIGITS for b in _DIGITS)
_SHIFTS: Final = tuple(range(120, -1, -10))
_VERSION: Final = 0x7 << 76
_VARIANT: Final = 0b10 << 62
_LOW_62: Final = (1 << 62) - 1

# The millisecond of the last id and the 74 bits behind it, as one number.
_last = 0
_lock = threading.Lock()


def _next() -> int:
    global _last
    noise = int.from_bytes(os.urandom(10), "big")
    # The top bit of a fresh tail stays 0, which leaves 2^73 steps before it could overflow
    # into the milliseconds; doing so would be harmless, the order still holds.
    fresh = (time.time_ns() // 1_000_000) << 74 | (noise & ((1 << 73) - 1))
    with _lock:
        # Same millisecond or a clock set back: step on by a random amount, so that the
        # next id cannot be guessed from this one.
        _last = fresh if fresh >> 74 > _last >> 74 else _last + 1 + (noise & 0xFFFFFFFF)
        return _last


def _after_fork() -> None:
    # The child must not continue the parent's sequence, nor inherit a lock held in it.
    global _last, _lock
    _last, _lock = 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def new_id(prefix: str) -> str:
    """A new identifier, greater than every earlier one of this process with that prefix."""
    n = _next()
    value = (n >> 74) << 80 | _VERSION | ((n >> 62) & 0xFFF) << 64 | _VARIANT | (n & _LOW_62)
    return prefix + "_" + "".join([_PAIRS[(value >> shift) & 1023] for shift in _SHIFTS])

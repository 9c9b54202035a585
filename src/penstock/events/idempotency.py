"""One event per key: an account's idempotency keys, each good for 24 hours.

The key's row is written in the transaction that stores the event, by one statement that
either takes the key or finds it taken. A second request waits for the first one's commit (on
PostgreSQL through the primary key, on SQLite because units follow each other), then finds its
answer; there is no moment at which a key is reserved but has no event.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from penstock.clock import SECOND
from penstock.errors import Refused
from penstock.storage import Tx, sql

LIFETIME: Final = 24 * 3600  # seconds

# A key past its lifetime is taken over as if it had never been used.
_TAKE = sql("""
INSERT INTO idempotency_keys (account, key, fingerprint, event_id, response, created_at)
VALUES (:account, :key, :fingerprint, :event_id, :response, :created_at)
ON CONFLICT (account, key) DO UPDATE SET fingerprint = excluded.fingerprint,
  event_id = excluded.event_id, response = excluded.response, created_at = excluded.created_at
WHERE idempotency_keys.created_at <= :expired
""")

_TAKEN = sql("""
SELECT fingerprint, event_id, response FROM idempotency_keys
WHERE account = :account AND key = :key
""")


@dataclass(frozen=True, slots=True)
class Earlier:
    """The answer that the first request under the key was given."""

    event_id: str
    response: str


def fingerprint(request: Mapping[str, Any]) -> str:
    """SHA-256 of the request (without its key) as canonical JSON: sorted, compact."""
    text = json.dumps(request, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def take(
    tx: Tx, account: str, key: str, print_: str, event_id: str, response: str, now: int
) -> Earlier | Refused | None:
    """Take the key for `event_id`; None = it is ours, else what its first use says."""
    taken = tx.run(
        _TAKE,
        account=account,
        key=key,
        fingerprint=print_,
        event_id=event_id,
        response=response,
        created_at=now,
        expired=now - LIFETIME * SECOND,
    )
    if taken:
        return None
    found = tx.one(_TAKEN, account=account, key=key)
    if found is None:
        # Pruned between the two statements: rare enough to be tried again by the caller.
        return Refused("conflict", "The idempotency key is just being released.")
    earlier_print, earlier_event, earlier_response = found
    if earlier_print != print_:
        return Refused(
            "idempotency_key_reused",
            "This idempotency key was used with another body in the last 24 hours.",
            "/idempotency_key",
        )
    return Earlier(earlier_event, earlier_response)


_PRUNE = sql("""
DELETE FROM idempotency_keys WHERE (account, key) IN
  (SELECT account, key FROM idempotency_keys WHERE created_at <= {now} - :lifetime LIMIT :limit)
""")


_OLD = sql("SELECT count(*) FROM idempotency_keys WHERE created_at <= {now} - :lifetime")


def prune(tx: Tx, *, limit: int = 1000) -> int:
    """Delete up to `limit` keys past their lifetime; answers how many."""
    return tx.run(_PRUNE, lifetime=LIFETIME * SECOND, limit=limit)


def prunable(tx: Tx) -> int:
    """How many `prune` would delete in all."""
    ((n,),) = tx.rows(_OLD, lifetime=LIFETIME * SECOND)
    return int(n)

"""API keys in the database: made, listed, revoked. The key itself is never stored."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from penstock.api.auth import PREFIX, KeyRevoked, fingerprint
from penstock.api.scopes import normalize
from penstock.clock import to_iso
from penstock.ids import new_id
from penstock.storage import Tx, sql

NAME_LENGTH: Final = 100

_COLUMNS: Final = "id, name, scopes, hint, created_at, expires_at, last_used_at"
_ACCOUNT: Final = sql(
    "INSERT INTO accounts (id, created_at) VALUES (:id, :now) ON CONFLICT (id) DO NOTHING"
)
_INSERT: Final = sql(
    "INSERT INTO api_keys (id, account, name, hash, hint, scopes, created_at, expires_at)"
    " VALUES (:id, :account, :name, :hash, :hint, :scopes, :now, :expires_at)"
)
_FIRST: Final = sql(
    f"SELECT {_COLUMNS} FROM api_keys"  # noqa: S608 - a constant
    " WHERE account = :account AND revoked_at IS NULL ORDER BY id DESC LIMIT :limit"
)
_NEXT: Final = sql(
    f"SELECT {_COLUMNS} FROM api_keys"  # noqa: S608 - a constant
    " WHERE account = :account AND revoked_at IS NULL AND id < :after"
    " ORDER BY id DESC LIMIT :limit"
)
_REVOKE: Final = sql(
    "UPDATE api_keys SET revoked_at = :now"
    " WHERE id = :id AND account = :account AND revoked_at IS NULL"
)


@dataclass(frozen=True, slots=True)
class Key:
    """A stored key; times are microseconds since the epoch."""

    id: str
    name: str
    scopes: list[str]
    hint: str  # the last four characters, to tell keys apart
    created_at: int
    expires_at: int | None
    last_used_at: int | None


def create(
    tx: Tx,
    account: str,
    name: str,
    scopes: Iterable[str] | None = None,
    *,
    expires_at: int | None = None,
) -> tuple[Key, str]:
    """Make a key; returns what is stored and the key itself, which cannot be shown again.

    No `scopes` means all. ValueError for a name that is empty or long, for an unknown scope
    and for an expiry that has passed.
    """
    if not 1 <= len(name.strip()) <= NAME_LENGTH:
        raise ValueError(f"a key's name has 1 to {NAME_LENGTH} characters")
    granted, now = normalize(scopes), tx.now()
    if expires_at is not None and expires_at <= now:
        raise ValueError("the expiry has passed already")
    secret = PREFIX + secrets.token_urlsafe(32)
    key = Key(new_id("key"), name.strip(), granted, secret[-4:], now, expires_at, None)
    tx.run(_ACCOUNT, id=account, now=now)
    tx.run(
        _INSERT,
        id=key.id,
        account=account,
        name=key.name,
        hash=fingerprint(secret),
        hint=key.hint,
        scopes=" ".join(granted),
        now=now,
        expires_at=expires_at,
    )
    return key, secret


def page(tx: Tx, account: str, *, after: str | None = None, limit: int = 100) -> list[Key]:
    """Keys that are not revoked, newest first, from the one after `after`."""
    if after is None:
        rows = tx.rows(_FIRST, account=account, limit=limit)
    else:
        rows = tx.rows(_NEXT, account=account, after=after, limit=limit)
    return [_key(row) for row in rows]


def revoke(tx: Tx, account: str, key_id: str) -> bool:
    """End a key; False when the account has none of that id."""
    if not tx.run(_REVOKE, id=key_id, account=account, now=tx.now()):
        return False
    tx.notify(KeyRevoked(key_id))
    return True


def view(key: Key) -> dict[str, Any]:
    """The key as it is shown, with its times as text."""
    return {
        "id": key.id,
        "name": key.name,
        "scopes": key.scopes,
        "hint": key.hint,
        "created_at": to_iso(key.created_at),
        "expires_at": to_iso(key.expires_at) if key.expires_at is not None else None,
        "last_used_at": to_iso(key.last_used_at) if key.last_used_at is not None else None,
    }


def _key(row: tuple[Any, ...]) -> Key:
    key_id, name, scopes, hint, created_at, expires_at, last_used_at = row
    return Key(key_id, name, scopes.split(), hint, created_at, expires_at, last_used_at)

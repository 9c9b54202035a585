"""Who is calling: an API key, an OIDC token, or the local command line.

A credential is looked up by its SHA-256 and remembered for `TTL` seconds, so a busy client
costs one read every two seconds and a key that another process revokes is dead within two.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from penstock.api.problems import Problem
from penstock.api.scopes import ALL, expand
from penstock.clock import SECOND, Clock, SystemClock
from penstock.errors import StorageError
from penstock.storage import Database, Tx, sql

TTL: Final = 2.0  # seconds
PREFIX: Final = "psk_"
DEFAULT_ACCOUNT: Final = "default"
OPERATOR: Final = "cli"  # the subject of who has the token in run.json
_KEY_LENGTH: Final = len(PREFIX) + 43  # 32 bytes in base64url
_MOST_REMEMBERED: Final = 10_000
_TOUCH_EVERY: Final = 60 * SECOND
_REALM: Final = 'Bearer realm="penstock"'

_FIND: Final = sql(
    "SELECT id, account, scopes, expires_at, revoked_at, last_used_at"
    " FROM api_keys WHERE hash = :hash"
)
_FIND_ID: Final = sql(
    "SELECT id, account, scopes, expires_at, revoked_at, last_used_at FROM api_keys WHERE id = :id"
)
_TOUCH: Final = sql(
    "UPDATE api_keys SET last_used_at = :now"
    " WHERE id = :id AND (last_used_at IS NULL OR last_used_at < :before)"
)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling and what they may do; `scopes` includes the implied ones."""

    account: str
    scopes: frozenset[str]
    key_id: str | None = None  # of an API key
    subject: str | None = None  # of a token, or "cli"


@dataclass(frozen=True, slots=True)
class KeyRevoked:
    """The note of a commit that revoked a key."""

    key_id: str


class TokenVerifier(Protocol):
    """What the authenticator asks of OIDC."""

    async def verify(self, token: str) -> tuple[Principal, float]:
        """The caller and the token's remaining seconds, or the problem `invalid_token`."""
        ...


def fingerprint(key: str) -> str:
    """What is stored of a key: its SHA-256 in hex. 256 random bits need no salt."""
    return hashlib.sha256(key.encode()).hexdigest()


class Authenticator:
    """Tells principals from the Authorization header."""

    def __init__(
        self,
        database: Database,
        *,
        clock: Clock | None = None,
        admin_token: str | None = None,
        oidc: TokenVerifier | None = None,
    ) -> None:
        self._database = database
        self._monotonic: Callable[[], float] = (clock or SystemClock()).monotonic
        self._admin = hashlib.sha256(admin_token.encode()).digest() if admin_token else None
        self._oidc = oidc
        # SHA-256 of the credential -> principal and the monotonic time until it is believed.
        self._known: dict[bytes, tuple[Principal, float]] = {}
        self._forgotten = 0
        self._touches: set[asyncio.Task[None]] = set()
        database.subscribe(self._hear)

    def remembered(self, header: bytes | None) -> Principal | None:
        """The caller when this very header was verified less than two seconds ago."""
        if header is None:
            return None
        known = self._known.get(hashlib.sha256(header).digest())
        return known[0] if known is not None and known[1] > self._monotonic() else None

    async def authenticate(self, header: bytes | None) -> Principal:
        """The caller, or the problem `unauthenticated` or `invalid_token`."""
        if header is None:
            raise Problem(
                "unauthenticated",
                "The request carries no credential.",
                headers={"WWW-Authenticate": _REALM},
            )
        scheme, _, token = header.partition(b" ")
        token = token.strip()
        if scheme.lower() != b"bearer" or not token or not token.isascii():
            raise refused("The Authorization header is not 'Bearer' and a credential.")
        forgotten = self._forgotten
        principal, lifetime = await self._verify(token.decode("ascii"))
        self._remember(hashlib.sha256(header).digest(), principal, lifetime, forgotten)
        return principal

    async def by_key_id(self, key_id: str) -> Principal:
        """The holder of the key with this id, or the problem `invalid_token` if it ended.

        For a session that was begun with the key; whoever calls this has verified that.
        """
        name = hashlib.sha256(b"key id " + key_id.encode()).digest()
        known = self._known.get(name)
        if known is not None and known[1] > self._monotonic():
            return known[0]
        forgotten = self._forgotten
        row, now = await self._database.read(lambda tx: (tx.one(_FIND_ID, id=key_id), tx.now()))
        principal, lifetime = self._of_row(row, now)
        self._remember(name, principal, lifetime, forgotten)
        return principal

    def _remember(self, name: bytes, principal: Principal, lifetime: float, forgotten: int) -> None:
        # A key revoked while it was being read must not be remembered.
        if forgotten == self._forgotten:
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            self._known[name] = (principal, self._monotonic() + min(TTL, lifetime))

    def _hear(self, notes: Sequence[object]) -> None:
        """Stop believing revoked keys at once, before the one who revoked them is told."""
        revoked = {note.key_id for note in notes if type(note) is KeyRevoked}
        if revoked:
            self._forgotten += 1
            for digest, (principal, _) in list(self._known.items()):
                if principal.key_id in revoked:
                    del self._known[digest]

    async def close(self) -> None:
        """Wait for the last notes of use to be written."""
        while self._touches:
            await asyncio.gather(*self._touches)

    async def _verify(self, token: str) -> tuple[Principal, float]:
        if token.startswith(PREFIX):
            return await self._verify_key(token)
        if self._admin is not None and hmac.compare_digest(
            hashlib.sha256(token.encode()).digest(), self._admin
        ):
            return Principal(DEFAULT_ACCOUNT, ALL, subject=OPERATOR), TTL
        if self._oidc is not None and token.count(".") == 2:
            return await self._oidc.verify(token)
        raise refused("This credential is not known here.")

    async def _verify_key(self, token: str) -> tuple[Principal, float]:
        row, now = None, 0
        if len(token) == _KEY_LENGTH:
            digest = fingerprint(token)

            def find(tx: Tx) -> tuple[tuple[object, ...] | None, int]:
                return tx.one(_FIND, hash=digest), tx.now()

            row, now = await self._database.read(find)
        return self._of_row(row, now)

    def _of_row(self, row: tuple[object, ...] | None, now: int) -> tuple[Principal, float]:
        if row is None:
            raise refused("This API key is not known here.")
        key_id, account, scopes, expires_at, revoked_at, last_used_at = row
        if revoked_at is not None:
            raise refused("This API key was revoked.")
        if isinstance(expires_at, int) and expires_at <= now:
            raise refused("This API key has expired.")
        if not isinstance(last_used_at, int) or last_used_at <= now - _TOUCH_EVERY:
            self._touch(str(key_id), now)
        lifetime = (expires_at - now) / SECOND if isinstance(expires_at, int) else TTL
        return Principal(str(account), expand(str(scopes).split()), str(key_id)), lifetime

    def _touch(self, key_id: str, now: int) -> None:
        async def write() -> None:
            before = now - _TOUCH_EVERY

            def note(tx: Tx) -> None:
                tx.run(_TOUCH, id=key_id, now=now, before=before + 1)

            try:
                await self._database.unit(note)
            except StorageError:
                return  # a note of use is not worth a failure; the next use tries again

        task = asyncio.get_running_loop().create_task(write())
        self._touches.add(task)
        task.add_done_callback(self._touches.discard)


def refused(detail: str) -> Problem:
    """401 for a credential that was sent but does not hold (RFC 6750, section 3.1)."""
    return Problem(
        "invalid_token",
        detail,
        headers={"WWW-Authenticate": f'{_REALM}, error="invalid_token"'},
    )


def forbidden(scope: str) -> Problem:
    """403 for a credential that lacks `scope` (RFC 6750, section 3.1)."""
    return Problem(
        "insufficient_scope",
        f"The scope {scope} is needed.",
        headers={"WWW-Authenticate": f'{_REALM}, error="insufficient_scope", scope="{scope}"'},
        scope=scope,
    )

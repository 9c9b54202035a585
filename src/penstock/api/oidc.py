"""OpenID Connect access tokens: JWTs of one issuer, checked against its published keys.

Signature, issuer, audience, expiry and not-before are checked (RFC 7519, RFC 8725); only
asymmetric algorithms are taken, so a public key can never serve as an HMAC secret.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeGuard

import aiohttp
import jwt
from pydantic_core import from_json

from penstock.api.auth import TTL, Principal, refused
from penstock.api.problems import Problem
from penstock.api.scopes import expand
from penstock.clock import Clock, SystemClock
from penstock.telemetry import OIDC_KEYS_UNAVAILABLE, log

ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")
LEEWAY: Final = 30.0  # seconds by which the issuer's clock may differ
KEEP_KEYS: Final = 3600.0  # seconds until the key set is fetched anew
ASK_AGAIN: Final = 60.0  # seconds between fetches for a key id that is not in the set
_FETCH_SECONDS: Final = 10
_MOST_BYTES: Final = 1024 * 1024
_MOST_ACCOUNT: Final = 128

Fetch = Callable[[str], Awaitable[Any]]


class OidcVerifier:
    """Verifies tokens of `issuer` that are meant for `audience`.

    `audience_claim`: ``aud``, or the claim that stands in for it where the issuer's access
    tokens have none (``client_id`` at Cognito, ``azp`` at Clerk). `account_claim` names the
    account that a token acts for. Scopes are taken from ``scope``, ``scp`` and
    ``permissions``; those of Cognito resource servers (``api/events:write``) by their last part.
    """

    def __init__(
        self,
        issuer: str,
        audience: str,
        *,
        jwks_url: str | None = None,
        account_claim: str = "sub",
        audience_claim: str = "aud",
        clock: Clock | None = None,
        fetch: Fetch | None = None,
    ) -> None:
        self._issuer = issuer
        self._audience = audience
        self._audience_claim = audience_claim
        self._account_claim = account_claim
        self._keys = _KeySet(issuer, jwks_url, clock or SystemClock(), fetch or _fetch)

    async def verify(self, token: str) -> tuple[Principal, float]:
        """The caller and the token's remaining seconds; `invalid_token` if it does not hold."""
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise refused("The token is not a JWT.") from None
        algorithm = header.get("alg")
        if algorithm not in ALGORITHMS:
            raise refused("The token is not signed with RS256, ES256 or EdDSA.")
        key = await self._keys.find(header.get("kid"))
        if key is None or key.algorithm_name != algorithm:
            raise refused("The token is signed with a key that its issuer does not publish.")
        claims = self._claims(token, key, algorithm)
        account = claims.get(self._account_claim)
        if not _is_name(account):
            raise refused(f"The token's claim {self._account_claim!r} names no account.")
        principal = Principal(account, _scopes(claims), subject=str(claims.get("sub", "")))
        return principal, max(0.0, min(TTL, claims["exp"] + LEEWAY - time.time()))

    def _claims(self, token: str, key: jwt.PyJWK, algorithm: str) -> dict[str, Any]:
        standard = self._audience_claim == "aud"
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                issuer=self._issuer,
                audience=self._audience if standard else None,
                leeway=LEEWAY,
                options={
                    "require": ["exp", "iss", self._audience_claim],
                    "verify_aud": standard,
                },
            )
        except jwt.ExpiredSignatureError:
            raise refused("The token has expired.") from None
        except jwt.ImmatureSignatureError:
            raise refused("The token is not valid yet.") from None
        except jwt.InvalidAudienceError:
            raise refused("The token is meant for another audience.") from None
        except jwt.InvalidIssuerError:
            raise refused("The token is of another issuer.") from None
        except jwt.MissingRequiredClaimError as exc:
            raise refused(f"The token lacks the claim {exc.claim!r}.") from None
        except (jwt.PyJWTError, ValueError, TypeError):
            raise refused("The token's signature or claims do not hold.") from None
        if not standard and claims[self._audience_claim] != self._audience:
            raise refused("The token is meant for another audience.")
        return claims


class _KeySet:
    """The issuer's public keys, fetched when first needed and then once an hour."""

    def __init__(self, issuer: str, url: str | None, clock: Clock, fetch: Fetch) -> None:
        self._issuer = issuer
        self._url = url
        self._monotonic = clock.monotonic
        self._fetch = fetch
        self._lock = asyncio.Lock()
        self._keys: Mapping[str | None, jwt.PyJWK] = {}
        self._tried_at = float("-inf")
        self._fetched_at = float("-inf")

    async def find(self, key_id: Any) -> jwt.PyJWK | None:
        """The key of that id; without an id, the only key if there is but one."""
        key = self._look(key_id)
        if key is None or self._stale(key):
            async with self._lock:  # one fetch, however many requests wait for it
                if self._stale(self._look(key_id)):
                    await self._refresh()
                key = self._look(key_id)
        if not self._keys:
            raise Problem(
                "issuer_unavailable",
                "The issuer's keys cannot be fetched.",
                headers={"Retry-After": "60"},
            )
        return key

    def _look(self, key_id: Any) -> jwt.PyJWK | None:
        if key_id is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(key_id) if isinstance(key_id, str) else None

    def _stale(self, key: jwt.PyJWK | None) -> bool:
        now = self._monotonic()
        if now - self._tried_at < ASK_AGAIN:
            # Keys that cannot be had at all are asked for again sooner than unknown ones.
            return not self._keys and now - self._tried_at >= 1
        return key is None or now - self._fetched_at > KEEP_KEYS

    async def _refresh(self) -> None:
        self._tried_at = self._monotonic()
        try:
            self._url = self._url or await self._discover()
            self._keys = _usable(await self._fetch(self._url))
            self._fetched_at = self._monotonic()
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
            log(
                OIDC_KEYS_UNAVAILABLE,
                issuer=self._issuer,
                error=f"{type(exc).__name__}: {exc}",
            )

    async def _discover(self) -> str:
        """The JWKS URL by OpenID Connect Discovery 1.0, section 4."""
        document = await self._fetch(self._issuer.rstrip("/") + "/.well-known/openid-configuration")
        if not isinstance(document, dict) or document.get("issuer") != self._issuer:
            raise ValueError("the discovery document is of another issuer")
        url = document.get("jwks_uri")
        secure = self._issuer.startswith("http://") or str(url).startswith("https://")
        if not isinstance(url, str) or not secure:
            raise ValueError("the discovery document names no https jwks_uri")
        return url


def _usable(document: Any) -> dict[str | None, jwt.PyJWK]:
    """The signing keys of a JWKS; those of other kinds or uses are passed over."""
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, Sequence):
        raise ValueError("the document is not a JWKS")
    keys: dict[str | None, jwt.PyJWK] = {}
    for entry in listed:
        if not isinstance(entry, dict) or entry.get("use") not in (None, "sig"):
            continue
        if entry.get("kty") not in ("RSA", "EC", "OKP"):
            continue
        try:
            key = jwt.PyJWK(entry)
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        if key.algorithm_name in ALGORITHMS:
            keys[key.key_id] = key
    if not keys:
        raise ValueError("the JWKS has no key for RS256, ES256 or EdDSA")
    return keys


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    named: set[str] = set()
    for claim in ("scope", "scp", "permissions"):
        value = claims.get(claim)
        parts = value.split() if isinstance(value, str) else value
        if isinstance(parts, list):
            named.update(part.rpartition("/")[2] for part in parts if isinstance(part, str))
    # "*" is for keys made here; a token lists what it may do.
    return expand(named - {"*"})


def _is_name(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= _MOST_ACCOUNT and value.isprintable()


async def _fetch(url: str) -> Any:
    timeout = aiohttp.ClientTimeout(total=_FETCH_SECONDS)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(url, allow_redirects=False, raise_for_status=True) as response,
    ):
        if response.status != 200:
            raise ValueError(f"{url} answered {response.status}")
        body = b""
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > _MOST_BYTES:
                raise ValueError(f"{url} answered more than {_MOST_BYTES} bytes")
        return from_json(body)

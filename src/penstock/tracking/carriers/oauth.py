"""Bearer tokens of the client-credentials grant (RFC 6749, 4.4): one for all who ask at once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from penstock.clock import Clock
from penstock.tracking.carriers.base import Credential, Forbidden, RateLimited, Unavailable
from penstock.tracking.carriers.http import Reply, refused

FRESH_FOR: Final = 0.8  # of a token's life; then a new one is fetched
DEFAULT_LIFE: Final = 300.0  # seconds, where the answer does not say how long
MAX_LIFE: Final = 86_400.0  # seconds

# RFC 6750, 2.1: what may stand in an Authorization header as a token.
_TOKEN: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*", re.ASCII)

Refusal = Forbidden | RateLimited | Unavailable
Ask = Callable[[], Awaitable[Reply | Unavailable]]


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token, good until `until` on the monotonic clock, in seconds."""

    value: str = field(repr=False)
    until: float


class Tokens:
    """The current token of one credential; `ask` performs the carrier's token call.

    Whoever needs a token while one is being fetched waits for that call, so any number of
    cold fetches makes one call; and a waiter that is cancelled does not take it along.
    """

    def __init__(self, ask: Ask, credential: Credential, clock: Clock) -> None:
        self._ask = ask
        self._credential = credential
        self._clock = clock
        self._token: Token | None = None
        self._under_way: asyncio.Task[Token | Refusal] | None = None

    async def get(self) -> Token | Refusal:
        """A token that is good for a while yet, or why there is none."""
        if self._token is not None and self._clock.monotonic() < self._token.until:
            return self._token
        if self._under_way is None:
            self._under_way = asyncio.create_task(self._fetch())
        return await asyncio.shield(self._under_way)

    def scrub(self, text: str) -> str:
        """`text` without the credential and the token."""
        token = () if self._token is None else (self._token.value,)
        return self._credential.scrub(text, *token)

    def spoil(self, token: Token) -> None:
        """`token` was not accepted: fetch another. One that came since is kept."""
        if self._token is token:
            self._token = None

    async def close(self) -> None:
        """End a call that is under way."""
        task = self._under_way
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    async def _fetch(self) -> Token | Refusal:
        try:
            reply = await self._ask()
            found = reply if isinstance(reply, Unavailable) else self._understood(reply)
            if isinstance(found, Token):
                self._token = found
            return found
        finally:
            self._under_way = None

    def _understood(self, reply: Reply) -> Token | Refusal:
        if reply.status in (400, 401, 403):  # 400: invalid_client, invalid_grant (RFC 6749, 5.2)
            said = self._credential.scrub(error_code(reply.body) or "no reason given")
            return Forbidden(None, f"no token for these credentials (HTTP {reply.status}, {said})")
        common = refused(reply, self._clock)
        if common is not None:
            return common
        body = reply.body
        value = body.get("access_token") if isinstance(body, dict) else None
        if not 200 <= reply.status < 300:
            return Unavailable(
                f"the token call was answered with HTTP {reply.status}", f"http_{reply.status}"
            )
        if not isinstance(value, str) or not _TOKEN.fullmatch(value):
            return Unavailable("the token call was answered without a token", "not_json")
        life = _life(body.get("expires_in"))
        return Token(value, self._clock.monotonic() + life * FRESH_FOR)


async def with_token(
    tokens: Tokens, ask: Callable[[str], Awaitable[Reply | Unavailable]]
) -> Reply | Refusal:
    """What `ask` says, given a token; once more with a new one if it says 401 to the first."""
    for last in (False, True):
        token = await tokens.get()
        if not isinstance(token, Token):
            return token
        reply = await ask(token.value)
        if isinstance(reply, Unavailable) or reply.status != 401:
            return reply
        tokens.spoil(token)
        if last:
            return reply
    raise AssertionError("unreachable")


def error_code(body: Any) -> str | None:
    """The code of an error, in any of the shapes that carriers and RFC 6749 give it."""
    code: Any = None
    match body:
        case {"error": str(code)}:
            pass
        case {"error": {"code": code}}:
            pass
        case {"response": {"errors": [{"code": code}, *_]}}:
            pass
        case {"errors": [{"code": code}, *_]}:
            pass
    if isinstance(code, int) and not isinstance(code, bool):
        code = str(code)
    if isinstance(code, str) and re.fullmatch(r"[A-Za-z0-9._-]{1,80}", code, re.ASCII):
        return code
    return None


def _life(expires_in: object) -> float:
    """Seconds; UPS writes them as text."""
    try:
        life = float(expires_in)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return DEFAULT_LIFE
    return min(life, MAX_LIFE) if life > 0 else DEFAULT_LIFE  # false for NaN, too

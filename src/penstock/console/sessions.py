"""Who has signed in: sealed cookies, forms that only our own pages can send, one-time links.

A session is a cookie that only this deployment can read or make (`SecretBox`); nothing is stored.
One begun with an API key ends with the key, or after `LASTS`; one begun with a one-time link ends
with the process that printed the link as well. `csrf` is a secret that only pages of the session
know; every form sends it along.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from penstock.api.auth import DEFAULT_ACCOUNT, Authenticator, Principal
from penstock.api.problems import Problem
from penstock.api.scopes import ALL
from penstock.clock import SECOND, Clock
from penstock.errors import SecretBoxError
from penstock.secretbox import SecretBox

LASTS: Final = 12 * 3600  # seconds
LINK_LASTS: Final = 600.0  # seconds
_MOST_LINKS: Final = 100
_MOST_COOKIE: Final = 4096


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who signed in, with a key or with a one-time link of the run `run`."""

    csrf: str
    until: int  # µs
    key_id: str | None = None
    run: str | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """What an action did, told by the next page."""

    text: str
    bad: bool = False


class Links:
    """One-time sign-in links, in the memory of the process that printed them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[bytes, float] = {}
        self.run = secrets.token_urlsafe(16)

    def new(self) -> str:
        """A code that signs in once, within `LINK_LASTS`."""
        now = self._clock.monotonic()
        self._until = {code: until for code, until in self._until.items() if until > now}
        while len(self._until) >= _MOST_LINKS:
            del self._until[next(iter(self._until))]
        code = secrets.token_urlsafe(32)
        self._until[_digest(code)] = now + LINK_LASTS
        return code

    def use(self, code: str) -> bool:
        """Whether the code is good; it is not from now on."""
        until = self._until.pop(_digest(code), None)
        return until is not None and until > self._clock.monotonic()


class Sessions:
    """Makes, reads and ends sessions."""

    def __init__(self, box: SecretBox, name: str, links: Links, clock: Clock) -> None:
        self._box = box
        self._clock = clock
        self.links = links
        # Cookies know no ports: two servers on one machine must not end each other's sessions.
        self._cookie = f"penstock_{name}"
        self._noted = f"penstock_{name}_note"

    def with_key(self, key_id: str) -> Session:
        """A new session of who holds this key."""
        return Session(secrets.token_urlsafe(16), self._until(), key_id=key_id)

    def with_link(self) -> Session:
        """A new session of the operator, who had a one-time link."""
        return Session(secrets.token_urlsafe(16), self._until(), run=self.links.run)

    def _until(self) -> int:
        return self._clock.now() + LASTS * SECOND

    def read(self, request: Request) -> Session | None:
        """The session of a request; None if it has none, or one that is over or not ours."""
        try:
            found = Session(**self._open(request.cookies.get(self._cookie)))
        except (SecretBoxError, ValueError, TypeError):
            return None
        if found.until <= self._clock.now():
            return None
        if found.key_id is None and found.run != self.links.run:
            return None
        return found

    async def principal(self, session: Session, authenticator: Authenticator) -> Principal | None:
        """Who that is now; None if the key was revoked or has expired."""
        if session.key_id is None:
            return Principal(DEFAULT_ACCOUNT, ALL, subject="console")
        try:
            return await authenticator.by_key_id(session.key_id)
        except Problem:
            return None

    def keep(self, request: Request, response: Response, session: Session) -> None:
        """Let the browser remember the session."""
        self._set(request, response, self._cookie, json.dumps(asdict(session)), LASTS)

    def end(self, response: Response) -> None:
        """Let the browser forget it."""
        response.delete_cookie(self._cookie, path="/", httponly=True, samesite="lax")

    def note(self, request: Request, response: Response, note: Note) -> None:
        """Let the next page tell this."""
        kept = replace(note, text=note.text[:1000])
        self._set(request, response, self._noted, json.dumps(asdict(kept)), 60)

    def noted(self, request: Request) -> Note | None:
        """What is to be told."""
        try:
            return Note(**self._open(request.cookies.get(self._noted)))
        except (SecretBoxError, ValueError, TypeError):
            return None

    def told(self, response: Response) -> None:
        """It was told."""
        response.delete_cookie(self._noted, path="/", httponly=True, samesite="lax")

    def _open(self, sealed: str | None) -> dict[str, Any]:
        if not sealed or len(sealed) > _MOST_COOKIE:
            raise ValueError("there is none")
        found = json.loads(self._box.open(sealed))
        if not isinstance(found, dict):
            raise TypeError("it is not ours")
        return found

    def _set(self, request: Request, response: Response, name: str, text: str, age: int) -> None:
        response.set_cookie(
            name,
            self._box.seal(text),
            max_age=age,
            path="/",
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )


def from_elsewhere(request: Request) -> bool:
    """Whether the browser says that another site's page sent this form.

    Browsers send ``Sec-Fetch-Site`` to addresses they trust (https, localhost), and ``Origin``
    with every form. A request with neither comes from no browser; it has no cookie to abuse.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = request.headers.get("origin")
    if origin is None:
        return False
    return origin.partition("://")[2] != request.headers.get("host", "")


def same(given: str, wanted: str) -> bool:
    """Whether two secrets are equal, in constant time."""
    return secrets.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _digest(code: str) -> bytes:
    return hashlib.sha256(code.encode("utf-8", "replace")).digest()

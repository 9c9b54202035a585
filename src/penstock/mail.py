"""How mail leaves, as settings name it: the server, and whom it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from email.utils import parseaddr
from typing import Final, Literal, cast
from urllib.parse import parse_qsl, unquote, urlsplit

StartTls = Literal["always", "auto", "never"]
_STARTTLS: Final = ("always", "auto", "never")


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """A mail server. `tls`: from the first byte on; else `starttls` says when to begin it."""

    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    starttls: StartTls = "always"


def parse_smtp_url(text: str) -> SmtpServer:
    """Take ``smtp[s]://user:password@host:port?starttls=…`` apart.

    ValueError says what is wrong, without the password.

    ``smtps`` is TLS from the first byte (port 465, RFC 8314). ``smtp`` (port 587) begins in
    plain and must be upgraded, unless ``starttls`` is ``auto`` (if the server offers it) or
    ``never``: whoever sits in between could otherwise take the offer away and read along.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("its host or port is malformed") from None
    if parts.scheme not in ("smtp", "smtps"):
        raise ValueError("it must begin with smtp:// or smtps://")
    tls = parts.scheme == "smtps"
    host = parts.hostname
    if not host or any(character.isspace() for character in text):
        raise ValueError("it names no host")
    if parts.path not in ("", "/") or parts.fragment:
        raise ValueError("there is something after the host")
    if (parts.username is None) != (parts.password is None):
        raise ValueError("give both a user and a password, or neither")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    starttls = options.pop("starttls", "always")
    if options or starttls not in _STARTTLS or (tls and parts.query):
        raise ValueError(f"its only option is starttls={'|'.join(_STARTTLS)}, for smtp://")
    return SmtpServer(
        host,
        port or (465 if tls else 587),
        None if parts.username is None else unquote(parts.username),
        None if parts.password is None else unquote(parts.password),
        tls,
        cast(StartTls, starttls),
    )


@dataclass(frozen=True, slots=True)
class Sender:
    """Whom mail comes from."""

    name: str
    address: str

    @property
    def domain(self) -> str:
        """What is after the @."""
        return self.address.rpartition("@")[2]


def parse_sender(given: str) -> Sender:
    """``Name <address>`` or an address alone; ValueError if it is neither."""
    from email_validator import EmailNotValidError, validate_email

    name, found = parseaddr(given)
    try:
        checked = validate_email(
            found, check_deliverability=False, allow_smtputf8=False, globally_deliverable=False
        )
    except EmailNotValidError as exc:
        raise ValueError(str(exc)) from None
    if not given.isprintable():
        raise ValueError("it has a character that cannot be printed")
    return Sender(name, checked.ascii_email or checked.normalized)

"""E-mail: the event as a plain-text message, handed to whatever carries mail here."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Final

from email_validator import EmailNotValidError, validate_email

from penstock.clock import to_datetime
from penstock.events.destinations import Answer, TargetRefused, refused
from penstock.events.receivers import Opened, Push, Receiver
from penstock.mail import Sender

DEFAULT_SUBJECT: Final = "{event_type}"
MOST_TEXT: Final = 512 * 1024  # characters of indented JSON; a larger payload is sent as it is

# 8 bits would ask for a server that takes them.
_POLICY: Final = SMTP.clone(cte_type="7bit")


@dataclass(frozen=True, slots=True)
class Letter:
    """An e-mail that is to be carried: `to` is a checked address."""

    push: Push
    account: str
    to: str
    subject: str
    text: str


# Carries a letter in at most so many seconds.
Carry = Callable[[Letter, float], Awaitable[Answer]]


class Email:
    """E-mail, carried by SMTP, SES or the outbox."""

    kind: Final = "email"
    takes_headers: Final = False
    signs: Final = False

    def __init__(self, carry: Carry, subject: str = DEFAULT_SUBJECT) -> None:
        self._carry = carry
        self._subject = subject

    async def check(self, target: str) -> str:
        """The address, its domain in lower-case ASCII."""
        return address(target)

    async def send(self, push: Push, receiver: Receiver, opened: Opened, content: bytes) -> Answer:
        """Hand the letter over; what becomes of it after that is not known here."""
        try:
            to = address(receiver.target)
        except TargetRefused as exc:
            return refused(str(exc))
        subject = self._subject.replace("{event_type}", push.event_type)
        subject = subject.replace("{event_id}", push.event_id)
        letter = Letter(push, receiver.account, to, subject, text(push))
        return await self._carry(letter, receiver.timeout)


def address(given: str) -> str:
    """An address as RFC 5322 and 5321 have it, without asking DNS; TargetRefused if it is none.

    One address and nothing else: no display name, no comment, no quoting, nothing but ASCII
    before the @ (it would need a server with SMTPUTF8 all the way).
    """
    try:
        found = validate_email(given, check_deliverability=False, allow_smtputf8=False, strict=True)
    except EmailNotValidError as exc:
        raise TargetRefused(f"the target is not an e-mail address: {exc}") from None
    return found.ascii_email or found.normalized


def text(push: Push) -> str:
    """The body: the payload for people to read, and what it is part of."""
    parts = [indented(push.payload)]
    if push.metadata is not None:
        parts.append(f"Metadata: {indented(push.metadata)}")
    when = to_datetime(push.created_at).strftime("%Y-%m-%d %H:%M:%S UTC")
    parts.append(f"-- \n{push.event_type}, {when}\nEvent {push.event_id}\n")
    return "\n\n".join(parts)


def indented(compact: str) -> str:
    """JSON over several lines, unless that would take far more room than it is worth."""
    pieces: list[str] = []
    size = 0
    try:
        # In pieces: each level of nesting adds to the indentation of all that is in it, so the
        # whole may be a thousand times as long.
        for piece in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(json.loads(compact)):
            pieces.append(piece)
            size += len(piece)
            if size > MOST_TEXT:
                return compact
    except (RecursionError, ValueError):  # ValueError: a number of thousands of digits
        return compact
    return "".join(pieces)


def mime(letter: Letter, sender: Sender) -> bytes:
    """The message, the same bytes on every attempt, its lines ended by CR LF.

    Who gets it twice can tell by its Message-ID. ValueError for what could add a header:
    `EmailMessage` looks for line breaks too, but lets one at the end through.
    """
    push = letter.push
    for part in (sender.name, sender.address, letter.to, letter.subject):
        if not part.isprintable():
            raise ValueError(f"{part!r} has a character that a header cannot hold")
    message = EmailMessage(policy=_POLICY)
    message["From"] = Address(sender.name, addr_spec=sender.address)
    message["To"] = Address(addr_spec=letter.to)
    message["Subject"] = letter.subject
    message["Date"] = format_datetime(to_datetime(push.created_at))
    message["Message-ID"] = f"<{push.delivery_id}@{sender.domain}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answer from a holiday, please
    # SES puts a Message-ID of its own in the place of ours.
    message["X-Penstock-Delivery"] = push.delivery_id
    message["X-Penstock-Event"] = push.event_id
    message.set_content(letter.text)
    return message.as_bytes()

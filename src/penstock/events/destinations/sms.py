"""Text messages: by Amazon SNS, or into the outbox."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumberFormat, PhoneNumberType

from penstock.events.destinations import Answer, TargetRefused, refused
from penstock.events.destinations.aws import Aws
from penstock.events.receivers import Opened, Push, Receiver

MOST: Final = 1600  # characters that SNS takes; it sends them in parts
BRIEF: Final = 160  # characters, about one part, of an event that brings no text for people

# How numbers are written. The library would take more: letters, other scripts' digits, white
# space of any kind, extensions.
_WRITTEN: Final = re.compile(r"\+[0-9](?:[0-9 ().-]{0,38}[0-9])?", re.ASCII)
_E164: Final = re.compile(r"\+[1-9][0-9]{6,14}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Text:
    """A text message that is to be carried: `to` is a checked number."""

    push: Push
    account: str
    to: str
    text: str


# Carries a text in at most so many seconds.
Carry = Callable[[Text, float], Awaitable[Answer]]


class Sms:
    """Text messages, carried by SNS or the outbox."""

    kind: Final = "sms"
    takes_headers: Final = False
    signs: Final = False

    def __init__(self, carry: Carry) -> None:
        self._carry = carry

    async def check(self, target: str) -> str:
        """The number as E.164 has it."""
        return number(target)

    async def send(self, push: Push, receiver: Receiver, opened: Opened, content: bytes) -> Answer:
        """Send the event's text."""
        try:
            to = number(receiver.target)
        except TargetRefused as exc:
            return refused(str(exc))
        made = Text(push, receiver.account, to, text(push))
        return await self._carry(made, receiver.timeout)


class Sns:
    """Carries texts through SNS."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws

    async def __call__(self, text: Text, within: float) -> Answer:
        """Publish to the number itself; no topic is involved."""
        return await self._aws.call(
            "sns",
            "publish",
            within,
            PhoneNumber=text.to,
            Message=text.text,
            MessageAttributes={
                "AWS.SNS.SMS.SMSType": {"DataType": "String", "StringValue": "Transactional"}
            },
        )


def number(given: str) -> str:
    """A telephone number in E.164 form: ``+14155552671``; TargetRefused if it is none.

    It may be written with spaces, dots, dashes and brackets, but must begin with the plus and
    the country's code. Numbers that no country gives out are refused, and those that are paid
    for by the call.
    """
    if not _WRITTEN.fullmatch(given):
        raise TargetRefused("write the number as +14155552671: plus, country code, digits")
    try:
        parsed = phonenumbers.parse(given, None)
    except NumberParseException:
        raise TargetRefused("the target is not a telephone number") from None
    if not phonenumbers.is_valid_number(parsed):
        raise TargetRefused("no country has a telephone number like this")
    if phonenumbers.number_type(parsed) == PhoneNumberType.PREMIUM_RATE:
        raise TargetRefused("premium-rate numbers are not sent to")
    written = phonenumbers.format_number(parsed, PhoneNumberFormat.E164)
    if not _E164.fullmatch(written):
        raise TargetRefused("the number is shorter or longer than E.164 has it")
    return written


def text(push: Push) -> str:
    """What the recipient reads: the payload's `message`, or else the event in brief."""
    try:
        said = json.loads(push.payload).get("message")
    except (RecursionError, ValueError):
        said = None
    if isinstance(said, str) and said.strip():
        return _cut(said.strip(), MOST)
    return _cut(f"{push.event_type} {push.payload}", BRIEF)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"

"""Which destinations there are, made from the settings' values."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Literal

from penstock.clock import Clock
from penstock.events.destinations import Destination, email, outbox, sms
from penstock.events.destinations.aws import Aws
from penstock.events.destinations.ses import Ses
from penstock.events.destinations.smtp import Smtp
from penstock.events.destinations.sqs import Sqs
from penstock.events.destinations.webhook import Send, Webhook
from penstock.events.guard import Guard
from penstock.mail import Sender, SmtpServer


@dataclass(frozen=True, slots=True)
class Outlets:
    """By what mail, texts and messages leave; without any of it, mail and texts stay here."""

    smtp: SmtpServer | None = None
    mail_by: Literal["smtp", "ses", "outbox"] | None = None  # None = smtp if there is a server
    mail_from: Sender | None = None
    mail_subject: str = email.DEFAULT_SUBJECT
    sms_by: Literal["sns", "outbox"] = "outbox"
    aws_region: str | None = None
    aws_endpoint_url: str | None = None


@dataclass(frozen=True, slots=True)
class Destinations:
    """The destinations by kind, and what they hold open."""

    by_kind: Mapping[str, Destination]
    stack: AsyncExitStack

    async def close(self) -> None:
        """Let go of connections."""
        await self.stack.aclose()


def build(outlets: Outlets, *, guard: Guard, send: Send, clock: Clock) -> Destinations:
    """Every destination; close them when nothing is sent any more."""
    stack = AsyncExitStack()
    aws = Aws(outlets.aws_region, outlets.aws_endpoint_url)
    stack.push_async_callback(aws.close)
    made: list[Destination] = [
        Webhook(guard, send, clock),
        email.Email(_mail(outlets, aws), outlets.mail_subject),
        sms.Sms(sms.Sns(aws) if outlets.sms_by == "sns" else outbox.keep_text),
        Sqs(aws, clock),
    ]
    return Destinations({each.kind: each for each in made}, stack)


def _mail(outlets: Outlets, aws: Aws) -> email.Carry:
    by = outlets.mail_by or ("smtp" if outlets.smtp else "outbox")
    if by == "outbox":
        return outbox.keep_letter
    if outlets.mail_from is None:
        raise ValueError("mail cannot be sent without an address that it comes from")
    if by == "ses":
        return Ses(aws, outlets.mail_from)
    if outlets.smtp is None:
        raise ValueError("mail by SMTP needs a server")
    return Smtp(outlets.smtp, outlets.mail_from)

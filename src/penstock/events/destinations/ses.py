"""Letters by Amazon SES (its API's second version)."""

from __future__ import annotations

from penstock.events.destinations import Answer
from penstock.events.destinations.aws import Aws
from penstock.events.destinations.email import Letter, mime
from penstock.mail import Sender


class Ses:
    """Carries letters through SES."""

    def __init__(self, aws: Aws, sender: Sender) -> None:
        self._aws = aws
        self._sender = sender

    async def __call__(self, letter: Letter, within: float) -> Answer:
        """Send the letter as it stands."""
        return await self._aws.call(
            "sesv2",
            "send_email",
            within,
            FromEmailAddress=self._sender.address,
            Destination={"ToAddresses": [letter.to]},
            Content={"Raw": {"Data": mime(letter, self._sender)}},
        )

"""Where deliveries go: the port that each kind of endpoint fills.

A new kind is one file beside this one with a class that fits `Destination`, and its line in
`registry.py`. What all kinds have in common stays in `events/push.py`: the schedule, the
attempt log, what is permanent and what is not worth a wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from penstock.errors import PenstockError
from penstock.events.receivers import Opened, Push, Receiver
from penstock.work.outcomes import Apply, Health


class TargetRefused(PenstockError):
    """The target cannot be sent to; the message says why, for the person who named it.

    `code` is the stable code of the problem that the API answers with.
    """

    def __init__(self, message: str, code: str = "validation_failed") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an answer means. `reason` is empty where it was a success."""

    means: Literal["delivered", "transient", "permanent", "gone"]
    reason: str = ""
    health: Health | None = "ok"
    pause: float | None = None  # seconds


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one try: what it means, and what the attempt log keeps of it.

    `status_code` is the one of the protocol that was spoken (HTTP, or SMTP's reply code), if
    it came to one; `duration` is in seconds. `apply` are writes that belong to the attempt:
    they are part of the transaction that settles it.
    """

    verdict: Verdict
    duration: float = 0.0
    status_code: int | None = None
    error_kind: str | None = None
    address: str | None = None
    response: bytes | None = None
    apply: Apply | None = None


class Destination(Protocol):
    """One kind of endpoint. Its methods may be called at once for many endpoints."""

    @property
    def kind(self) -> str:
        """What endpoints call it."""

    @property
    def takes_headers(self) -> bool:
        """Whether an endpoint of this kind may have headers of its own."""

    @property
    def signs(self) -> bool:
        """Whether what it sends is signed; if not, its endpoints have no secret."""

    async def check(self, target: str) -> str:
        """The target in its canonical form, which is stored; TargetRefused if it is none."""

    async def send(self, push: Push, receiver: Receiver, opened: Opened, content: bytes) -> Answer:
        """Try once, for at most `receiver.timeout` seconds. Raises nothing for what goes wrong.

        `content` is the event as JSON, the same bytes on every attempt. The target was checked
        when it was stored, but not by this process, perhaps under other settings: what it may
        reach is decided here.
        """


def refused(reason: str) -> Answer:
    """The answer to a target that must not or cannot be sent to."""
    return failed("target_refused", reason, 0.0, means="permanent", health=None)


def failed(
    kind: str,
    text: str,
    duration: float,
    *,
    means: Literal["transient", "permanent"] = "transient",
    health: Health | None = "bad",
    pause: float | None = None,
    status_code: int | None = None,
    address: str | None = None,
) -> Answer:
    """An answer that is none, or not the one that was hoped for."""
    verdict = Verdict(means, f"{kind}: {one_line(text)}", health, pause)
    return Answer(verdict, duration, status_code, kind, address)


def one_line(text: str, limit: int = 500) -> str:
    """What a server said, as a line that a log or a database does not mind."""
    line = " ".join(text.encode("utf-8", "replace").decode().split())
    return "".join(one if one.isprintable() else "?" for one in line[:limit])

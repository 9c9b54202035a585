"""Webhooks: one signed POST, and what its answer means.

==========================================  ==============================================
answer                                      what it means
==========================================  ==============================================
2xx                                         delivered
410                                         gone: the endpoint is to be disabled
network error, 408, 425, 429, 5xx           transient
429 or 503 with Retry-After                 likewise, and the lane closes for that long
any other answer, redirects among them;     permanent
an address that must not be reached
==========================================  ==============================================

A receiver sees the same ``webhook-id`` (the event's id) and the same bytes on every attempt.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from penstock._version import __version__
from penstock.clock import SECOND, Clock, from_datetime
from penstock.events import sign
from penstock.events.destinations import Answer, TargetRefused, Verdict
from penstock.events.guard import Guard, GuardRefused
from penstock.events.http import Failure, Response
from penstock.events.receivers import Opened, Push, Receiver, signing_keys

# (url, body, headers, total timeout in seconds): one POST through the guarded pool.
Send = Callable[[str, bytes, Mapping[str, str], float], Awaitable[Response | Failure]]

USER_AGENT: Final = f"Penstock/{__version__}"
LONGEST_PAUSE: Final = 3600.0  # seconds that a Retry-After can close the lane for
_TRANSIENT: Final = frozenset({408, 425, 429})


class Webhook:
    """Pushes to URLs, signed as Standard Webhooks."""

    kind: Final = "webhook"
    takes_headers: Final = True
    signs: Final = True

    def __init__(self, guard: Guard, send: Send, clock: Clock) -> None:
        self._guard = guard
        self._send = send
        self._clock = clock

    async def check(self, target: str) -> str:
        """The URL in its canonical form, if a push may go there."""
        try:
            parsed = self._guard.check_url(target)
            await self._guard.resolve_and_check(parsed)
        except GuardRefused as exc:
            raise TargetRefused(str(exc), "target_refused") from None
        return parsed.url

    async def send(self, push: Push, receiver: Receiver, opened: Opened, content: bytes) -> Answer:
        """POST the event; the pool behind `send` keeps the guard's rules."""
        headers = request_headers(push, receiver, opened, content, self._clock.now())
        found = await self._send(receiver.target, content, headers, receiver.timeout)
        return answer(found, self._clock.now())


def answer(found: Response | Failure, now: int) -> Answer:
    """What the receiver answered, or that it did not, with what that means."""
    verdict = judge(found, now)
    if isinstance(found, Failure):
        return Answer(verdict, found.duration, error_kind=found.kind, address=found.address)
    return Answer(
        verdict,
        found.duration,
        status_code=found.status,
        address=found.address,
        response=found.excerpt,
    )


def judge(answer: Response | Failure, now: int) -> Verdict:
    """What the answer means; `now` (µs) is for a Retry-After that names an instant."""
    if isinstance(answer, Failure):
        if answer.kind == "refused_by_guard":
            return Verdict("permanent", f"{answer.kind}: {answer.text}", None)
        return Verdict("transient", f"{answer.kind}: {answer.text}", "bad")
    status = answer.status
    if 200 <= status < 300:
        return Verdict("delivered")
    if status == 410:
        return Verdict("gone", "HTTP 410: the endpoint says that it is gone for good")
    if status in _TRANSIENT or status >= 500:
        pause = None
        if status in (429, 503):
            pause = retry_after(answer.headers.get("retry-after"), now)
        return Verdict("transient", f"HTTP {status}", "bad" if status >= 500 else "ok", pause)
    if 300 <= status < 400:
        return Verdict("permanent", f"HTTP {status}: redirects are not followed")
    return Verdict("permanent", f"HTTP {status}")


def retry_after(value: str | None, now: int) -> float | None:
    """Seconds that a Retry-After asks for (RFC 9110 §10.2.3), bounded; None = nothing useful."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:18])
    else:
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (from_datetime(moment) - now) / SECOND
    return min(seconds, LONGEST_PAUSE) if seconds > 0 else None


def request_headers(
    push: Push, receiver: Receiver, opened: Opened, content: bytes, now: int
) -> dict[str, str]:
    """The headers of one attempt; while a secret is being rotated, both keys sign."""
    keys = signing_keys(receiver, opened, now)
    headers = {"content-type": "application/json", "user-agent": USER_AGENT}
    if push.traceparent is not None:
        headers["traceparent"] = push.traceparent
    own = {name.lower(): value for name, value in opened.headers.items()}
    return headers | own | sign.headers(keys, push.event_id, now // SECOND, content)

"""What every destination must do alike, each against a server of its kind on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from ipaddress import ip_network

import pytest

from penstock.clock import SECOND, SystemClock, from_iso
from penstock.events.destinations import Answer, Destination, TargetRefused
from penstock.events.destinations.aws import THROTTLED
from penstock.events.destinations.registry import Outlets, build
from penstock.events.guard import Guard
from penstock.events.http import outbound_session, post
from penstock.events.push import body
from penstock.events.receivers import Opened, Push, Receiver
from penstock.mail import Sender, SmtpServer
from support.awsserver import AwsServer, Error
from support.mailserver import MailServer
from support.ports import reserved
from support.receiver import Receiver as HookServer
from support.receiver import Reply

pytestmark = pytest.mark.anyio

NOW = from_iso("2026-01-01T00:00:00Z")
OPENED = Opened({}, b"k" * 32, None)
QUEUE = "https://sqs.eu-west-1.amazonaws.com/123456789012/orders"

# Nothing of these is a target of any kind.
NEVER = (
    "",
    " ",
    "nobody",
    "+12",
    "https://example.com/\nX",
    "a@example.com\n",
    "+14155552671\n",
    "a@example.com\r\nBcc: b@example.com",
    "\x00",
    "\ud800",
    "x" * 2048,
)


@dataclass
class Rig:
    """A destination, a server behind it, and ways to make that server behave."""

    destination: Destination
    target: str
    bad: tuple[str, ...]
    fail: Callable[[], None]  # for now
    refuse: Callable[[], None]  # for good
    throttle: Callable[[], None] | None
    hang: Callable[[], None]
    arrived: Callable[[], int]

    async def send(self, target: str | None = None, timeout: float = 60.0) -> Answer:
        receiver = Receiver(
            "end_1", "default", "delivery:end_1", 1, target or self.target, timeout, (), True,
            None, "", None, None, self.destination.kind,
        )  # fmt: skip
        push = Push(
            "dlv_1", "evt_1", "order.created", '{"n":1}', None, NOW, None, NOW + SECOND, 0, receiver
        )
        return await self.destination.send(push, receiver, OPENED, body(push))


@pytest.fixture(params=["webhook", "smtp", "ses", "sns", "sqs"])
async def rig(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Rig]:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    async with AsyncExitStack() as stack:
        yield await RIGS[request.param](stack)


async def _destination(stack: AsyncExitStack, kind: str, outlets: Outlets) -> Destination:
    guard = Guard([ip_network("127.0.0.0/8")])
    session = await stack.enter_async_context(outbound_session(guard))

    async def send(url, content, headers, total):  # type: ignore[no-untyped-def]
        return await post(session, url, content, headers, total_timeout=total)

    made = build(outlets, guard=guard, send=send, clock=SystemClock())
    stack.push_async_callback(made.close)
    return made.by_kind[kind]


async def _webhook(stack: AsyncExitStack) -> Rig:
    server = await stack.enter_async_context(HookServer())
    gate = asyncio.Event()
    stack.callback(gate.set)

    def answer(*replies: Reply | int) -> Callable[[], None]:
        return lambda: server.script("/hook", replies) and None

    return Rig(
        await _destination(stack, "webhook", Outlets()),
        server.url("/hook"),
        ("ftp://example.com/", "https://10.0.0.1/", "https://user@example.com/"),
        fail=answer(503),
        refuse=answer(404),
        throttle=answer(Reply(429, {"retry-after": f"{THROTTLED:.0f}"})),
        hang=answer(Reply(gate=gate)),
        arrived=lambda: len(server.received),
    )


async def _smtp(stack: AsyncExitStack) -> Rig:
    server = await stack.enter_async_context(MailServer())
    outlets = Outlets(
        smtp=SmtpServer("127.0.0.1", server.port, starttls="never"),
        mail_from=Sender("Penstock", "penstock@example.com"),
    )

    def hang() -> None:
        server.gate = asyncio.Event()

    return Rig(
        await _destination(stack, "email", outlets),
        "ada@example.com",
        BAD_ADDRESSES,
        fail=lambda: setattr(server, "rcpt", "450 4.2.0 Mailbox busy"),
        refuse=lambda: setattr(server, "rcpt", "550 5.1.1 No such user"),
        throttle=None,
        hang=hang,
        arrived=lambda: len(server.got),
    )


BAD_ADDRESSES = (
    "Ada <ada@example.com>",
    "ada@example.com, bob@example.com",
    "ada@localhost",
    "ada@[127.0.0.1]",
    '"a b"@example.com',
    "ada @example.com",
    "ädä@example.com",
    "ada@example.com\n",
    "ada\u200b@example.com",
    "x" * 65 + "@example.com",
    "mailto:ada@example.com",
)
BAD_NUMBERS = (
    "14155552671",
    "004915112345678",
    "+1234567890123456",
    "+999999999999999",
    "+1415555267\u0661",
    "+1 415 555 2671 ext 5",
    "tel:+14155552671",
    "+1415555CALL",
    "\uff0b14155552671",
    "+1\u00a04155552671",
    "+19005550123",
)
BAD_QUEUES = (
    "https://sqs.eu-west-1.amazonaws.com.evil.example/123456789012/orders",
    "https://evil.example/sqs.eu-west-1.amazonaws.com/123456789012/orders",
    "https://sqs.eu-west-1.amazonaws.com@evil.example/123456789012/orders",
    "http://sqs.eu-west-1.amazonaws.com/123456789012/orders",
    "https://sqs.eu-west-1.amazonaws.com:444/123456789012/orders",
    "https://sqs.eu-west-1.amazonaws.com/123456789012/orders?x=1",
    "https://sqs.eu-west-1.amazonaws.com/123456789012/orders\n",
    "https://sqs.eu-west-1.amazonaws.com/123456789012/a/b",
    "https://sqs.eu-west-1.amazonaws.com/123456789012:orders",
    "https://sqs.eu-west-1.amazonaws.com/12345678901/orders",
    "https://sqs.eu-west-1.amazonaws.com/123456789012/" + "x" * 81,
    "https://sqs.eu-west-1.amazonaws.com/123456789012/" + "x" * 76 + ".fifo",
    "arn:aws:sns:eu-west-1:123456789012:orders",
    "arn:aws:sqs:eu-west-1:123456789012:orders\n",
    "http://169.254.169.254/123456789012/orders",
)


async def _aws(stack: AsyncExitStack, kind: str, target: str, bad: tuple[str, ...]) -> Rig:
    server = await stack.enter_async_context(AwsServer())
    outlets = Outlets(
        mail_by="ses",
        mail_from=Sender("", "penstock@example.com"),
        sms_by="sns",
        aws_region="eu-central-1",
        aws_endpoint_url=server.url,
    )

    def error(status: int, code: str) -> Callable[[], None]:
        return lambda: setattr(server, "error", Error(status, code))

    def hang() -> None:
        server.gate = asyncio.Event()

    return Rig(
        await _destination(stack, kind, outlets),
        target,
        bad,
        fail=error(500, "InternalFailure"),
        refuse=error(403, "AccessDenied"),
        throttle=error(400, "ThrottlingException"),
        hang=hang,
        arrived=lambda: len(server.calls),
    )


RIGS = {
    "webhook": _webhook,
    "smtp": _smtp,
    "ses": lambda stack: _aws(stack, "email", "ada@example.com", BAD_ADDRESSES),
    "sns": lambda stack: _aws(stack, "sms", "+14155552671", BAD_NUMBERS),
    "sqs": lambda stack: _aws(stack, "sqs", QUEUE, BAD_QUEUES),
}


async def test_success(rig: Rig) -> None:
    answer = await rig.send()
    assert rig.arrived() == 1
    verdict = answer.verdict
    assert (verdict.means, verdict.reason, verdict.health) == ("delivered", "", "ok")
    assert (verdict.pause, answer.error_kind, answer.apply) == (None, None, None)
    assert answer.status_code in (200, 250)
    assert answer.response
    assert 0 < answer.duration < 60


async def test_a_failure_that_may_pass(rig: Rig) -> None:
    rig.fail()
    answer = await rig.send()
    assert answer.verdict.means == "transient"
    assert answer.verdict.reason
    assert answer.verdict.pause is None


async def test_a_refusal_for_good_says_the_server_is_well(rig: Rig) -> None:
    rig.refuse()
    answer = await rig.send()
    assert (answer.verdict.means, answer.verdict.health) == ("permanent", "ok")
    assert answer.verdict.reason


async def test_who_throttles_is_left_alone_for_a_while(rig: Rig) -> None:
    if rig.throttle is None:
        return  # SMTP has no word for it but 4xx
    rig.throttle()
    answer = await rig.send()
    verdict = answer.verdict
    assert (verdict.means, verdict.health, verdict.pause) == ("transient", "ok", THROTTLED)


async def test_no_answer_in_time(rig: Rig) -> None:
    rig.hang()
    async with asyncio.timeout(60):
        answer = await rig.send(timeout=0.5)
    assert (answer.verdict.means, answer.verdict.health) == ("transient", "bad")
    assert answer.error_kind == "timeout"
    assert 0.4 < answer.duration < 30


async def test_being_stopped_is_not_an_answer(rig: Rig) -> None:
    rig.hang()
    sending = asyncio.create_task(rig.send())
    await asyncio.sleep(0.2)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending


async def test_many_at_once(rig: Rig) -> None:
    answers = await asyncio.gather(*(rig.send() for _ in range(25)))
    assert {answer.verdict.means for answer in answers} == {"delivered"}
    assert rig.arrived() == 25


async def test_the_checked_target_is_in_its_canonical_form(rig: Rig) -> None:
    once = await rig.destination.check(rig.target)
    assert await rig.destination.check(once) == once
    assert (await rig.send(once)).verdict.means == "delivered"


async def test_bad_targets_are_refused_and_not_sent_to_either(rig: Rig) -> None:
    for bad in (*rig.bad, *NEVER):
        with pytest.raises(TargetRefused):
            await rig.destination.check(bad)
        if bad:
            answer = await rig.send(bad)
            assert answer.verdict.means == "permanent", bad
            assert answer.verdict.reason.isprintable()
    assert rig.arrived() == 0


@pytest.mark.parametrize("kind", ["email", "sms"])
async def test_what_the_outbox_keeps_counts_as_delivered(kind: str) -> None:
    async with AsyncExitStack() as stack:
        destination = await _destination(stack, kind, Outlets())
        target, bad = {
            "email": ("ada@example.com", BAD_ADDRESSES),
            "sms": ("+14155552671", BAD_NUMBERS),
        }[kind]
        rig = Rig(destination, target, bad, *[lambda: None] * 4, lambda: 0)
        answer = await rig.send()
        assert answer.verdict.means == "delivered"
        assert answer.apply is not None
        for each in bad:
            refused = await rig.send(each)
            assert (refused.verdict.means, refused.apply) == ("permanent", None)


@pytest.mark.parametrize("kind", ["email", "sms", "sqs"])
async def test_nobody_listens(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    targets = {"email": "ada@example.com", "sms": "+14155552671", "sqs": QUEUE}
    async with AsyncExitStack() as stack:
        port = stack.enter_context(reserved())
        outlets = Outlets(
            smtp=SmtpServer("127.0.0.1", port),
            mail_from=Sender("", "penstock@example.com"),
            sms_by="sns",
            aws_region="eu-west-1",
            aws_endpoint_url=f"http://127.0.0.1:{port}",
        )
        for each in (outlets, replace(outlets, mail_by="ses")):
            destination = await _destination(stack, kind, each)
            rig = Rig(destination, targets[kind], (), *[lambda: None] * 4, lambda: 0)
            answer = await rig.send()
            assert (answer.verdict.means, answer.verdict.health) == ("transient", "bad")
            assert answer.error_kind == "connection"

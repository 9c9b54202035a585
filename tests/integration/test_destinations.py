"""What is particular to a destination, against a server of its kind on loopback."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from standardwebhooks import Webhook as Verifier

from penstock.clock import SECOND, SystemClock
from penstock.events import sign
from penstock.events.destinations import Answer
from penstock.events.destinations.aws import Aws
from penstock.events.destinations.email import Email
from penstock.events.destinations.ses import Ses
from penstock.events.destinations.sms import Sms, Sns
from penstock.events.destinations.smtp import Smtp
from penstock.events.destinations.sqs import MOST, Sqs
from penstock.events.push import body
from penstock.events.receivers import Opened, Push, Receiver
from penstock.mail import Sender, SmtpServer
from support.awsserver import AwsServer
from support.mailserver import MailServer

pytestmark = pytest.mark.anyio

SENDER = Sender("Penstock", "penstock@example.com")
SECRET = sign.generate_secret()
OPENED = Opened({}, sign.decode_secret(SECRET), None)
QUEUE = "https://sqs.us-east-2.amazonaws.com/123456789012/orders"


def push(payload: str = '{"n":1}', **fields: Any) -> Push:
    now = SystemClock().now()
    made = Push("dlv_1", "evt_1", "order.created", payload, None, now, None, now + SECOND, 0, None)
    return replace(made, **fields)


def receiver(target: str, timeout: float = 60.0) -> Receiver:
    return Receiver(
        "end_1", "default", "delivery:end_1", 1, target, timeout, (), True, None, "", None, None
    )


async def send(destination: Any, target: str, one: Push | None = None, **changes: Any) -> Answer:
    one = one or push()
    answer = await destination.send(one, receiver(target, **changes), OPENED, body(one))
    assert isinstance(answer, Answer)
    return answer


@pytest.fixture
async def mail() -> AsyncIterator[MailServer]:
    async with MailServer() as server:
        yield server


@pytest.fixture
async def aws(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AwsServer]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    async with AwsServer() as server:
        yield server


@pytest.fixture
async def client(aws: AwsServer) -> AsyncIterator[Aws]:
    made = Aws("eu-central-1", aws.url)
    yield made
    await made.close()


def smtp(server: MailServer, **changes: Any) -> Email:
    at: dict[str, Any] = {"host": "127.0.0.1", "port": server.port, "starttls": "never"}
    return Email(Smtp(SmtpServer(**(at | changes)), SENDER), "{event_type} ({event_id})")


async def test_an_email_arrives_with_the_same_id_every_time(mail: MailServer) -> None:
    to = smtp(mail)
    for _ in range(2):
        answer = await send(to, "ada@example.org")
        assert answer.response == b"2.0.0 queued as 4711"
        assert answer.address == f"127.0.0.1:{mail.port}"
    assert len(mail.got) == 2
    first, second = mail.got
    assert (first.sender, first.to) == ("penstock@example.com", ["ada@example.org"])
    assert first.message["Message-ID"] == second.message["Message-ID"] == "<dlv_1@example.com>"
    assert first.message["Subject"] == "order.created (evt_1)"
    assert '"n": 1' in first.message.get_content()


async def test_lines_that_look_like_the_end_of_a_message_arrive(mail: MailServer) -> None:
    odd = push('{"a":"\\n.\\nRCPT TO:<x@example.com>","b":"' + "é" * 5000 + '."}')
    assert (await send(smtp(mail), "ada@example.org", odd)).verdict.means == "delivered"
    (got,) = mail.got
    assert got.to == ["ada@example.org"]
    assert "é" * 5000 in got.message.get_content()


@pytest.mark.parametrize(
    ("rcpt", "data", "means", "health", "code"),
    [
        ("421 4.3.2 Closing", "250 OK", "transient", "bad", 421),
        ("451 4.7.1 Greylisted", "250 OK", "transient", "ok", 451),
        ("550 5.1.1 No such user", "250 OK", "permanent", "ok", 550),
        ("250 OK", "452 4.3.1 Full", "transient", "ok", 452),
        ("250 OK", "554 5.7.1 Spam", "permanent", "ok", 554),
    ],
)
async def test_what_a_mail_server_says(
    mail: MailServer, rcpt: str, data: str, means: str, health: str, code: int
) -> None:
    mail.rcpt, mail.data = rcpt, data
    answer = await send(smtp(mail), "ada@example.org")
    assert (answer.verdict.means, answer.verdict.health) == (means, health)
    assert (answer.status_code, answer.error_kind) == (code, "smtp")
    assert str(code) in answer.verdict.reason


async def test_a_server_that_does_not_say_goodbye_has_taken_the_letter(mail: MailServer) -> None:
    mail.quits = False
    assert (await send(smtp(mail), "ada@example.org")).verdict.means == "delivered"


async def test_logging_in(mail: MailServer) -> None:
    mail.login = ("me", "p@ss")
    answer = await send(smtp(mail, user="me", password="p@ss"), "ada@example.org")
    assert answer.verdict.means == "delivered", answer
    for wrong in ({"user": "me", "password": "no"}, {}):
        answer = await send(smtp(mail, **wrong), "ada@example.org")
        # Nothing was wrong with the letter: once the settings are corrected it will leave.
        assert (answer.verdict.means, answer.error_kind) == ("transient", "smtp_login")
        assert "p@ss" not in answer.verdict.reason
    assert len(mail.got) == 1


async def test_without_the_tls_that_is_required_nothing_is_sent(mail: MailServer) -> None:
    answer = await send(smtp(mail, starttls="always"), "ada@example.org")
    assert (answer.verdict.means, mail.got) == ("transient", [])
    answer = await send(smtp(mail, starttls="auto"), "ada@example.org")
    assert (answer.verdict.means, mail.secured) == ("delivered", [False])


async def test_starttls_and_whom_it_trusts(tmp_path: Path) -> None:
    serving, trusting = certificate(tmp_path)
    async with MailServer(tls=serving) as server:
        at = SmtpServer("localhost", server.port)
        answer = await send(Email(Smtp(at, SENDER, tls=trusting)), "ada@example.org")
        assert (answer.verdict.means, server.secured) == ("delivered", [True])
        answer = await send(Email(Smtp(at, SENDER)), "ada@example.org")
        assert (answer.verdict.means, answer.error_kind) == ("transient", "tls")
        assert len(server.got) == 1


async def test_a_server_that_says_nothing() -> None:
    left = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        left.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        at = SmtpServer("127.0.0.1", server.sockets[0].getsockname()[1])
        answer = await send(Email(Smtp(at, SENDER)), "ada@example.org", timeout=0.3)
        await left.wait()
    assert (answer.verdict.means, answer.verdict.health) == ("transient", "bad")
    assert answer.error_kind == "timeout_connect"


async def test_ses_gets_the_whole_message(aws: AwsServer, client: Aws) -> None:
    answer = await send(Email(Ses(client, SENDER)), "ada@example.org")
    assert answer.verdict.means == "delivered", answer
    (call,) = aws.calls
    assert (call.service, call.region, call.operation) == ("ses", "eu-central-1", "SendEmail")
    assert call.parameters["FromEmailAddress"] == "penstock@example.com"
    assert call.parameters["Destination"] == {"ToAddresses": ["ada@example.org"]}
    assert b"\r\nX-Penstock-Delivery: dlv_1\r\n" in call.parameters["Content"]["Raw"]["Data"]


async def test_sns_gets_number_and_text(aws: AwsServer, client: Aws) -> None:
    one = push('{"message":"Your parcel is here."}')
    answer = await send(Sms(Sns(client)), "+14155552671", one)
    assert answer.verdict.means == "delivered", answer
    (call,) = aws.calls
    assert (call.service, call.operation) == ("sns", "Publish")
    assert call.parameters["PhoneNumber"] == "+14155552671"
    assert call.parameters["Message"] == "Your parcel is here."
    assert "TopicArn" not in call.parameters
    assert call.parameters["MessageAttributes.entry.1.Value.StringValue"] == "Transactional"


async def test_a_queue_gets_the_event_signed(aws: AwsServer, client: Aws) -> None:
    one = push(traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    answer = await send(Sqs(client, SystemClock()), QUEUE, one)
    assert answer.verdict.means == "delivered", answer
    assert (answer.response or b"").startswith(b"MessageId ")
    (call,) = aws.calls
    assert (call.service, call.region, call.operation) == ("sqs", "us-east-2", "SendMessage")
    assert call.parameters["QueueUrl"] == QUEUE
    assert call.parameters["MessageBody"].encode() == body(one)
    assert "MessageGroupId" not in call.parameters
    attributes = {
        name: value["StringValue"] for name, value in call.parameters["MessageAttributes"].items()
    }
    assert attributes["event_type"] == "order.created"
    assert attributes["traceparent"] == one.traceparent
    Verifier(SECRET).verify(call.parameters["MessageBody"], attributes)


async def test_a_fifo_queue_keeps_order_and_drops_what_is_sent_again(
    aws: AwsServer, client: Aws
) -> None:
    to = Sqs(client, SystemClock())
    first = push(ordering_key="customer-7", expires_at=5)
    for one in (
        first,
        replace(first, step=1),
        replace(first, expires_at=9),
        push(event_id="evt_2", delivery_id="dlv_2", expires_at=5),
    ):
        await send(to, QUEUE + ".fifo", one)
    named = [
        (call.parameters["MessageGroupId"], call.parameters["MessageDeduplicationId"])
        for call in aws.calls
    ]
    assert named == [
        ("customer-7", "dlv_1-5"),
        ("customer-7", "dlv_1-5"),
        ("customer-7", "dlv_1-9"),
        ("evt_2", "dlv_2-5"),
    ]
    await send(to, QUEUE, first)
    assert not {"MessageGroupId", "MessageDeduplicationId"} & aws.calls[-1].parameters.keys()


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_a_message_that_is_too_large_is_not_sent(aws: AwsServer, client: Aws) -> None:
    to = Sqs(client, SystemClock())
    answer = await send(to, QUEUE, push('{"a":"' + "é" * (MOST // 2) + '"}'))
    assert (answer.verdict.means, answer.error_kind) == ("permanent", "too_large")
    assert aws.calls == []
    answer = await send(to, QUEUE, push('{"a":"' + "é" * (MOST // 2 - 500) + '"}'))
    assert answer.verdict.means == "delivered", answer


async def test_characters_that_sqs_does_not_take_are_escaped(aws: AwsServer, client: Aws) -> None:
    one = push('{"a":"\ufffe\uffff\U0001f600\x7f"}')
    await send(Sqs(client, SystemClock()), QUEUE, one)
    (call,) = aws.calls
    sent = call.parameters["MessageBody"]
    assert '"\\ufffe\\uffff\U0001f600\x7f"' in sent
    attributes = call.parameters["MessageAttributes"]
    Verifier(SECRET).verify(sent, {name: v["StringValue"] for name, v in attributes.items()})


async def test_without_credentials_nothing_is_lost(
    aws: AwsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for region, known in (("eu-central-1", "credentials"), (None, "region")):
        made = Aws(region, aws.url)
        answer = await made.call("sns", "publish", 60.0, PhoneNumber="+1", Message="x")
        await made.close()
        assert (answer.verdict.means, answer.verdict.health) == ("transient", None)
        assert known in answer.verdict.reason


async def test_an_answer_that_is_none_of_aws() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        made = Aws("eu-west-1", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
            answer = await made.call("sns", "publish", 60.0, PhoneNumber="+1", Message="x")
        await made.close()
    assert (answer.verdict.means, answer.error_kind) == ("transient", "protocol")


async def test_an_installation_without_aws_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import util

    from penstock.events.destinations import TargetRefused

    monkeypatch.setattr(util, "find_spec", lambda name: None)
    to = Sqs(Aws(), SystemClock())
    with pytest.raises(TargetRefused, match=r"penstock\[aws\]"):
        await to.check(QUEUE)
    answer = await send(to, QUEUE)
    assert (answer.verdict.means, answer.verdict.health) == ("transient", None)


def certificate(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a server named localhost and of a client who trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(int.from_bytes(hashlib.sha256(b"serial").digest()[:8]))
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "cert.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(path)
    return serving, ssl.create_default_context(cafile=path)

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.mail import Sender, SmtpServer, parse_sender, parse_smtp_url


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://mail.example.com", SmtpServer("mail.example.com", 587)),
        ("smtps://mail.example.com/", SmtpServer("mail.example.com", 465, tls=True)),
        (
            "smtp://me:p%40ss%2Fword@10.0.0.1:2525?starttls=never",
            SmtpServer("10.0.0.1", 2525, "me", "p@ss/word", starttls="never"),
        ),
        ("smtp://[::1]:25?starttls=auto", SmtpServer("::1", 25, starttls="auto")),
    ],
)
def test_a_mail_server(url: str, server: SmtpServer) -> None:
    assert parse_smtp_url(url) == server


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mail.example.com:25",
        "http://mail.example.com",
        "smtp://",
        "smtp://:25",
        "smtp://h:0x19",
        "smtp://h:99999",
        "smtp://h/path",
        "smtp://h#fragment",
        "smtp://user@h",
        "smtp://h?starttls=yes",
        "smtp://h?tls=1",
        "smtps://h?starttls=always",
        "smtp://h ost",
        "smtp://h\n",
    ],
)
def test_what_is_no_mail_server(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_smtp_url(url)


def test_a_password_is_not_shown() -> None:
    assert "sekret" not in repr(parse_smtp_url("smtp://me:sekret@h"))


@pytest.mark.parametrize(
    ("given_", "sender"),
    [
        ("p@example.com", Sender("", "p@example.com")),
        ("Penstock <p@Example.COM>", Sender("Penstock", "p@example.com")),
        ('"Penstock, Inc." <p@example.com>', Sender("Penstock, Inc.", "p@example.com")),
        ("Größe <p@bücher.example>", Sender("Größe", "p@xn--bcher-kva.example")),
        ("penstock@intranet", Sender("", "penstock@intranet")),
    ],
)
def test_whom_mail_comes_from(given_: str, sender: Sender) -> None:
    assert parse_sender(given_) == sender


def test_the_domain() -> None:
    assert Sender("", "a@example.com").domain == "example.com"


@pytest.mark.parametrize(
    "bad",
    ["", "nobody", "a@", "a@b@c.com", "A\nBcc: x@example.com <a@example.com>", "a@example.com\n"],
)
def test_who_cannot_send_mail(bad: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_sender(bad)


@given(st.text(max_size=40))
def test_nothing_else_is_raised(text: str) -> None:
    for parse in (parse_sender, parse_smtp_url, lambda rest: parse_smtp_url(f"smtp://{rest}")):
        try:
            parse(text)
        except ValueError:
            continue

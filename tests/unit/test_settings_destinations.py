from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.errors import SettingsError
from penstock.mail import Sender, SmtpServer
from penstock.settings import Settings, load_settings, settings_table


@pytest.fixture(autouse=True)
def _no_settings_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.upper().startswith("PENSTOCK_"):
            monkeypatch.delenv(name)


def load(**environment: str) -> Settings:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(f"PENSTOCK_{name}", value)
        return load_settings()


def fault(**environment: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(**environment)
    return str(caught.value)


def test_nothing_leaves_unless_it_is_set_up() -> None:
    settings = load()
    assert (settings.mail_by, settings.sms_by, settings.smtp_server) == (None, "outbox", None)
    assert settings.mail_sender is None
    assert settings.mail_subject == "{event_type}"


def test_a_mail_server() -> None:
    settings = load(
        SMTP_URL="smtp://me:s%40cret@mail.example.com?starttls=auto",
        MAIL_FROM="Penstock <penstock@example.com>",
        MAIL_SUBJECT="[shop] {event_type}",
    )
    assert settings.smtp_server == SmtpServer(
        "mail.example.com", 587, "me", "s@cret", starttls="auto"
    )
    assert settings.mail_sender == Sender("Penstock", "penstock@example.com")
    assert "s%40cret" not in repr(settings)


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"SMTP_URL": "http://mail.example.com"}, "SMTP_URL"),
        ({"SMTP_URL": "smtp://mail.example.com"}, "MAIL_FROM"),
        ({"MAIL_BY": "ses"}, "MAIL_FROM"),
        ({"MAIL_BY": "smtp", "MAIL_FROM": "a@example.com"}, "SMTP_URL"),
        ({"MAIL_BY": "pigeon"}, "MAIL_BY"),
        ({"MAIL_FROM": "nobody"}, "MAIL_FROM"),
        ({"MAIL_SUBJECT": "{payload}"}, "MAIL_SUBJECT"),
        ({"MAIL_SUBJECT": "a\nBcc: b@example.com"}, "MAIL_SUBJECT"),
        ({"SMS_BY": "smtp"}, "SMS_BY"),
        ({"AWS_ENDPOINT_URL": "localhost:4566"}, "AWS_ENDPOINT_URL"),
    ],
)
def test_a_bad_value_is_named(environment: dict[str, str], named: str) -> None:
    assert f"PENSTOCK_{named}" in fault(**environment)


def test_a_bad_mail_server_does_not_show_its_password() -> None:
    assert "sekret" not in fault(SMTP_URL="smtp://me:sekret@h:99999")


def test_mail_can_be_kept_though_there_is_a_server() -> None:
    settings = load(SMTP_URL="smtp://mail.example.com", MAIL_BY="outbox")
    assert (settings.mail_by, settings.mail_from) == ("outbox", None)


def test_the_reference_has_them() -> None:
    table = settings_table()
    for name in ("SMTP_URL", "MAIL_FROM", "MAIL_BY", "MAIL_SUBJECT", "SMS_BY", "AWS_REGION"):
        assert f"`PENSTOCK_{name}`" in table

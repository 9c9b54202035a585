"""Secrets that the environment names: read once, and the password again when it was rotated."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from penstock.aws import secrets
from penstock.aws.secrets import KEY, PASSWORD, Secrets
from penstock.errors import SettingsError
from support.sqs_server import ENVIRONMENT, REGION

pytestmark = pytest.mark.anyio


@dataclass
class Manager:
    """Secrets Manager's GetSecretValue."""

    secrets: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    url: str = ""

    async def take(self, request: web.Request) -> web.Response:
        assert request.headers["X-Amz-Target"] == "secretsmanager.GetSecretValue"
        arn = json.loads(await request.read())["SecretId"]
        self.calls.append(arn)
        kind = "application/x-amz-json-1.1"
        if arn not in self.secrets:
            body = {"__type": "ResourceNotFoundException", "message": "no secret"}
            return web.Response(status=400, body=json.dumps(body).encode(), content_type=kind)
        answer = {"ARN": arn, "SecretString": self.secrets[arn]}
        return web.Response(body=json.dumps(answer).encode(), content_type=kind)


@pytest.fixture
async def manager(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Manager]:
    for name, value in {**ENVIRONMENT, "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION}.items():
        monkeypatch.setenv(name, value)
    for name in ("PGPASSWORD", "PENSTOCK_SECRET_KEY", PASSWORD, KEY):
        monkeypatch.setenv(name, "")  # so that what a test sets is undone
        monkeypatch.delenv(name)
    for name in ("_CONNECT", "_READ"):  # late on a busy machine, it would be asked once more
        monkeypatch.setattr(secrets, name, 60.0)
    made = Manager()
    application = web.Application()
    application.router.add_post("/", made.take)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


async def test_secrets_become_what_the_rest_reads(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.secrets = {
        "arn:password": json.dumps({"username": "penstock", "password": "p@ss/word"}),
        "arn:key": "k" * 32,
    }
    monkeypatch.setenv(PASSWORD, "arn:password")
    monkeypatch.setenv(KEY, "arn:key")
    secrets = Secrets(manager.url)
    assert PASSWORD not in os.environ  # they are no settings, which would warn of them
    assert KEY not in os.environ
    await secrets.read()
    assert os.environ["PGPASSWORD"] == "p@ss/word"
    assert os.environ["PENSTOCK_SECRET_KEY"] == "k" * 32
    assert sorted(manager.calls) == ["arn:key", "arn:password"]

    assert await secrets.read_password_again() is False
    manager.secrets["arn:password"] = json.dumps({"username": "penstock", "password": "new"})
    assert await secrets.read_password_again() is True
    assert os.environ["PGPASSWORD"] == "new"


async def test_without_names_nothing_is_read(manager: Manager) -> None:
    secrets = Secrets(manager.url)
    await secrets.read()
    assert await secrets.read_password_again() is False
    assert manager.calls == []
    assert "PGPASSWORD" not in os.environ


@pytest.mark.parametrize("value", ["plain text", '"a text"', '{"username": "penstock"}', "[]"])
async def test_a_password_of_another_shape_is_refused_and_not_shown(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    manager.secrets = {"arn:password": value}
    monkeypatch.setenv(PASSWORD, "arn:password")
    with pytest.raises(SettingsError, match=PASSWORD) as caught:
        await Secrets(manager.url).read()
    assert value not in str(caught.value)


async def test_a_secret_that_cannot_be_read_is_named(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "arn:missing")
    with pytest.raises(SettingsError, match=f"{KEY}.*ResourceNotFoundException"):
        await Secrets(manager.url).read()
    monkeypatch.setenv(KEY, "arn:missing")
    with pytest.raises(SettingsError, match=f"{KEY}.*EndpointConnectionError"):
        await Secrets("http://127.0.0.1:1").read()

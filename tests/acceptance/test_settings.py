"""Settings as processes meet them: three sources, their order, and what is wrong with a value."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

import penstock
from penstock.settings import Settings
from support.client import Api
from support.process import Process, Up, run
from support.receiver import Receiver

pytestmark = pytest.mark.anyio

# Each setting with a value that is not its default, as text, and what comes of it.
VALUES = {
    "data_dir": ("elsewhere", "elsewhere"),
    "host": ("::1", "::1"),
    "port": ("9876", 9876),
    "database_url": ("postgresql://u:p@h/d", "postgresql://u:p@h/d"),
    "database_threads": ("3", 3),
    "database_prepare": ("false", False),
    "wakeups": ("sqs", "sqs"),
    "sqs_events_queue_url": ("http://127.0.0.1:1/1/events", "http://127.0.0.1:1/1/events"),
    "sqs_tracking_queue_url": ("http://127.0.0.1:1/1/tracking", "http://127.0.0.1:1/1/tracking"),
    "sqs_predictions_queue_url": ("http://127.0.0.1:1/1/scores", "http://127.0.0.1:1/1/scores"),
    "sqs_jobs_queue_url": ("http://127.0.0.1:1/1/jobs", "http://127.0.0.1:1/1/jobs"),
    "services": ("jobs, events", ["jobs", "events"]),
    "secret_key": ("a" * 16 + ", " + "b" * 16, ["a" * 16, "b" * 16]),
    "allow_private_targets": ("10.0.0.0/8, ::1/128", ["10.0.0.0/8", "::1/128"]),
    "delivery_slots": ("7", 7),
    "delivery_schedule": ("1s, 2m, 3h", [1.0, 120.0, 10800.0]),
    "delivery_timeout": ("2500ms", 2.5),
    "delivery_expiry": ("3d", 259200.0),
    "smtp_url": ("smtps://u:p@mail.example:465", "smtps://u:p@mail.example:465"),
    "mail_from": ("penstock@example.com", "penstock@example.com"),
    "mail_by": ("ses", "ses"),
    "mail_subject": ("News: {event_type}", "News: {event_type}"),
    "sms_by": ("sns", "sns"),
    "aws_region": ("eu-west-1", "eu-west-1"),
    "aws_endpoint_url": ("http://127.0.0.1:4566", "http://127.0.0.1:4566"),
    "keep_events": ("7d", 604800.0),
    "dispatch_interval": ("10m", 600.0),
    "keep_shipments": ("10d", 864000.0),
    **{
        f"{carrier}_{name}": value
        for carrier in ("ups", "usps", "fedex", "dhl", "royal_mail")
        for name, value in {
            "client_id": ("an id", "an id"),
            "client_secret": ("a secret", "a secret"),
            "api_key": ("a key", "a key"),
            "url": ("https://carrier.example/", "https://carrier.example"),
            "calls_per_second": ("0.5", 0.5),
            "calls_per_day": ("1234", 1234),
        }.items()
        if (name == "api_key") == (carrier == "dhl") or not name.startswith(("client", "api"))
    },
    "objects": ("/srv/objects", "/srv/objects"),
    "s3_endpoint_url": ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
    "prediction_processes": ("3", 3),
    "max_upload": ("10MiB", 10485760),
    "max_rows": ("1000", 1000),
    "keep_predictions": ("5d", 432000.0),
    "job_slots": ("5", 5),
    "lease": ("30s", 30.0),
    "sweep_interval": ("1m30s", 90.0),
    "grace": ("5", 5.0),
    "max_body": ("64KiB", 65536),
    "max_batch_body": ("1MiB", 1048576),
    "oidc_issuer": ("https://issuer.example", "https://issuer.example"),
    "oidc_audience": ("penstock", "penstock"),
    "oidc_jwks_url": ("https://issuer.example/keys", "https://issuer.example/keys"),
    "oidc_account_claim": ("org_id", "org_id"),
    "oidc_audience_claim": ("client_id", "client_id"),
    "rate_limit": ("12.5", 12.5),
    "metrics_public": ("no", False),
    "metrics": ("emf", "emf"),
    "metrics_namespace": ("Penstock/staging", "Penstock/staging"),
    "log_level": ("WARNING", "warning"),
    "log_format": ("console", "console"),
    "url": ("https://penstock.example/", "https://penstock.example"),
    "key": ("psk_x", "psk_x"),
    "profile": ("eu", "eu"),
}
CARRIERS = ("ups_", "usps_", "fedex_", "dhl_", "royal_mail_")
SHOW = """
import json
from pydantic import SecretStr
from penstock.settings import Settings, load_settings

def plain(value):
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, (tuple, list)):
        return [plain(each) for each in value]
    return value if isinstance(value, (int, float, type(None))) else str(value)

settings = load_settings()
print(json.dumps({name: plain(getattr(settings, name)) for name in Settings.model_fields}))
"""


def _variables(settings: dict[str, str]) -> dict[str, str]:
    return {f"PENSTOCK_{name.upper()}": value for name, value in settings.items()}


async def test_every_setting_comes_from_each_source(tmp_path: Path) -> None:
    assert VALUES.keys() == Settings.model_fields.keys()
    texts = {name: text for name, (text, _) in VALUES.items()}
    variables = _variables(texts)
    folders = {name: tmp_path / name for name in ("environment", "dotenv", "toml")}
    for folder in folders.values():
        folder.mkdir()
    lines = [f"{name}='{value}'\n" for name, value in variables.items()]
    (folders["dotenv"] / ".env").write_text("".join(lines) + "OTHER_PROGRAM=1\n")
    (folders["toml"] / "penstock.toml").write_text(
        "".join(f"{name} = {json.dumps(text)}\n" for name, text in texts.items())
    )
    bare = {"PENSTOCK_DATA_DIR": ""}  # what `run` itself sets: empty is as if absent
    given = {"environment": variables, "dotenv": bare, "toml": bare}

    async def show(name: str) -> dict[str, object]:
        ran = await run(data=tmp_path, cwd=folders[name], env=given[name], program=("-c", SHOW))
        assert ran.code == 0, ran.stderr
        return dict(ran.document)

    shown = await asyncio.gather(*(show(name) for name in folders))

    expected = {name: value for name, (_, value) in VALUES.items()}
    for name, found in zip(folders, shown, strict=True):
        if name != "environment":  # an empty variable hides what comes after it
            found = found | {"data_dir": "elsewhere"}
        assert found == expected, name


async def test_no_setting_is_without_effect() -> None:
    """Each is read somewhere outside of the module that declares it."""
    source = Path(penstock.__file__).parent
    text = "".join(p.read_text() for p in source.rglob("*.py") if p.name != "settings.py")
    # Some are read by functions of the module itself.
    declared = (source / "settings.py").read_text()
    text += " ".join(re.findall(r"settings\.\w+", declared))
    text += " ".join(f"settings.{name}" for name in re.findall(r"self\.(\w+)", declared))

    # Those of carriers are read by `carriers()`, whose own test sees that each has an effect.
    ours = [n for n in Settings.model_fields if not n.startswith(CARRIERS)]
    assert "settings.carriers()" in text
    unread = [n for n in ours if not re.search(rf"settings\.{n}\b", text)]

    assert unread == []


async def test_the_first_source_wins(tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_text('port = 1111\ngrace = "1s"\nlease = "11s"\n')
    (tmp_path / ".env").write_text("PENSTOCK_PORT=2222\nPENSTOCK_GRACE=2s\n")
    ran = await run(
        data=tmp_path, cwd=tmp_path, env={"PENSTOCK_PORT": "3333"}, program=("-c", SHOW)
    )

    found = ran.document

    assert (found["port"], found["grace"], found["lease"]) == (3333, 2.0, 11.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "seventy"),
        ("PORT", "70000"),
        ("GRACE", "soon"),
        ("SERVICES", "events,mail"),
        ("ALLOW_PRIVATE_TARGETS", "10.0.0.0/33"),
        ("SECRET_KEY", "short"),
        ("DATABASE_URL", "mysql://localhost/x"),
        ("DELIVERY_SCHEDULE", "1s,later"),
        ("WAKEUPS", "postgres"),
        ("WAKEUPS", "sqs"),
        ("SQS_EVENTS_QUEUE_URL", "events"),
        ("OIDC_ISSUER", "https://issuer.example"),
    ],
)
async def test_a_bad_value_stops_start_up_and_is_named(
    tmp_path: Path, name: str, value: str
) -> None:
    ran = await run("up", data=tmp_path / "d", env={f"PENSTOCK_{name}": value})

    assert ran.code == 2
    assert ran.stdout == ""
    assert f"PENSTOCK_{name}" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    if name == "SECRET_KEY":
        assert value not in ran.stderr
    assert not (tmp_path / "d").exists()


async def test_bad_values_in_files_are_named_too_all_at_once(tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_text('port = "high"\n')
    (tmp_path / ".env").write_text("PENSTOCK_GRACE=soon\n")

    ran = await run("up", data=tmp_path / "d", cwd=tmp_path, env={"PENSTOCK_LEASE": "-1"})

    assert ran.code == 2
    for part in (
        "PENSTOCK_PORT (penstock.toml)",
        "PENSTOCK_GRACE (.env)",
        "PENSTOCK_LEASE (environment)",
    ):
        assert part in ran.stderr
    (tmp_path / "penstock.toml").write_text("port = = 1\n")
    broken = await run("up", data=tmp_path / "d", cwd=tmp_path)
    assert broken.code == 2
    assert "penstock.toml" in broken.stderr
    assert "Traceback" not in broken.stderr


def _free_port() -> int:
    """One that nobody is given who asks for any, so that it is still free a moment later."""
    while True:
        port = random.randrange(15_000, 32_000)  # Linux gives from 32,768 on
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


async def test_a_server_by_settings_alone(
    start: Callable[..., Process], tmp_path: Path, receiver: Receiver, topic: str
) -> None:
    """What the settings say is what the server does; an unknown name only warns."""
    port = _free_port()
    (tmp_path / ".env").write_text("PENSTOCK_MAX_BODY=2KiB\nPENSTOCK_DELIVERY_TIMOUT=1s\n")
    (tmp_path / "penstock.toml").write_text(
        f'port = {port}\ndelivery_schedule = "100ms"\ncolour = "red"\n'
    )
    server = start(
        Up,
        tmp_path / "data",
        env={"PENSTOCK_DELIVERY_TIMEOUT": "1s", "PENSTOCK_LOG_LEVEL": "debug"},
        cwd=tmp_path,
        port=None,
    )
    assert isinstance(server, Up)

    assert server.port == port
    unknown = {line["name"]: line for line in server.logged("setting_unknown")}
    assert unknown.keys() == {"PENSTOCK_DELIVERY_TIMOUT", "colour"}
    assert unknown["PENSTOCK_DELIVERY_TIMOUT"]["did_you_mean"] == "PENSTOCK_DELIVERY_TIMEOUT"
    async with Api(server.url, server.token) as api:
        large = await api.call(
            "POST", "/v1/events", {"event_type": topic, "payload": {"a": "x" * 2048}}
        )
        assert (large.status, large.json["limit"]) == (413, 2048)
        made = await api.endpoint(receiver.script("/never", [500]), topic)
        assert made["timeout"] == 1.0
        told = await api.final((await api.send(topic))["event_id"])
        assert told["delivery_attempts"] == 2
    assert server.logged("delivery_retried")
    assert server.logged("request")  # logged at debug


async def _ready(server: Up) -> None:
    """Wait until it is: a check that takes more than two seconds fails."""
    async with Api(server.url, None) as api, asyncio.timeout(60):
        while (await api.call("GET", "/health/ready")).status != 200:
            await asyncio.sleep(0.2)


async def test_a_taken_port_is_passed_over_and_the_url_printed(
    start: Callable[..., Process], tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = start(Up, tmp_path / "data", port=port)
    assert isinstance(server, Up)

    assert port < server.port < port + 20
    async with asyncio.timeout(20):
        while server.url not in server.stdout:  # it is printed a moment after it is there
            await asyncio.sleep(0.02)
    await _ready(server)


async def test_a_data_folder_has_one_owner(start: Callable[..., Process], tmp_path: Path) -> None:
    server = start(Up, tmp_path / "data")
    assert isinstance(server, Up)

    commands = (("up", "--port", "0"), ("worker",), ("migrate",))
    # At once: each waits some seconds for the owner to end.
    seconds = await asyncio.gather(*(run(*each, data=tmp_path / "data") for each in commands))
    for command, second in zip(commands, seconds, strict=True):
        assert second.code in (1, 2), command
        assert str(server.pid) in second.stderr
        assert "Traceback" not in second.stderr
        assert len(second.stderr.splitlines()) == 1

    await _ready(server)
    run_file = json.loads((tmp_path / "data" / "run.json").read_text())
    assert run_file["pid"] == server.pid
    for name in ("run.json", "secret.key"):
        assert (tmp_path / "data" / name).stat().st_mode & 0o077 == 0, name

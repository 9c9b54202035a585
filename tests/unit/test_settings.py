from __future__ import annotations

import os
import stat
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from penstock.errors import SettingsError
from penstock.settings import Settings, load_secret_keys, load_settings, settings_table

SECRET = "correct horse battery staple"


@pytest.fixture(autouse=True)
def _no_settings_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.upper().startswith("PENSTOCK_"):
            monkeypatch.delenv(name)


def _fault(**environment: str) -> str:
    """The message with which start-up stops under these variables."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with pytest.raises(SettingsError) as caught:
            load_settings()
    return str(caught.value)


def test_without_any_source_the_defaults_hold() -> None:
    settings = load_settings()
    assert settings.data_dir == Path("penstock-data")
    assert (settings.host, settings.port) == ("127.0.0.1", 8321)
    assert settings.database_url is None
    assert settings.allow_private_targets is None
    assert settings.services == ("events", "tracking", "predictions")
    assert len(settings.delivery_schedule) + 1 == 12
    assert settings.delivery_schedule[:6] == (1, 2, 4, 8, 16, 300)
    assert settings.grace == 20
    assert settings.delivery_expiry == 5 * 86400
    assert (settings.max_body, settings.max_batch_body) == (256 * 1024, 5 * 1024 * 1024)


def test_each_source_is_read_and_the_nearer_one_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("penstock.toml").write_text('port = 1001\nhost = "toml"\ngrace = "1m"\nlease = 90\n')
    assert load_settings().port == 1001
    Path(".env").write_text("PENSTOCK_PORT=1002\nPENSTOCK_HOST=dotenv\nPENSTOCK_GRACE=2m\n")
    assert load_settings().port == 1002
    monkeypatch.setenv("PENSTOCK_PORT", "1003")
    monkeypatch.setenv("PENSTOCK_HOST", "environment")
    assert load_settings().port == 1003
    settings = load_settings(port=1004, host=None)
    assert (settings.port, settings.host) == (1004, "environment")
    assert (settings.grace, settings.lease) == (120, 90)


def test_lists_are_comma_separated_in_variables_and_arrays_in_toml(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("penstock.toml").write_text(
        'services = ["jobs"]\ndelivery_schedule = [1, "2m"]\n'
        'allow_private_targets = ["10.0.0.0/8"]\n'
    )
    settings = load_settings()
    assert settings.services == ("jobs",)
    assert settings.delivery_schedule == (1, 120)
    assert settings.allow_private_targets == (IPv4Network("10.0.0.0/8"),)
    monkeypatch.setenv("PENSTOCK_DELIVERY_SCHEDULE", "1, 500ms ,1h30m,")
    monkeypatch.setenv("PENSTOCK_ALLOW_PRIVATE_TARGETS", "127.0.0.1, fd00::/8")
    settings = load_settings()
    assert settings.delivery_schedule == (1, 0.5, 5400)
    assert [str(net) for net in settings.allow_private_targets or ()] == [
        "127.0.0.1/32",
        "fd00::/8",
    ]


def test_empty_means_the_default_except_where_it_means_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path(".env").write_text("PENSTOCK_DATABASE_URL=postgresql://db/x\n")
    for name in ("PORT", "DATABASE_URL", "GRACE", "ALLOW_PRIVATE_TARGETS", "SERVICES"):
        monkeypatch.setenv(f"PENSTOCK_{name}", "")
    settings = load_settings()
    assert (settings.port, settings.grace) == (8321, 20)
    assert settings.database_url is None
    assert settings.allow_private_targets == ()
    assert settings.services == ()


def test_sizes_and_levels_are_read_as_people_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_MAX_BODY", "1MiB")
    monkeypatch.setenv("PENSTOCK_LOG_LEVEL", "WARNING")
    monkeypatch.setenv("PENSTOCK_DATABASE_PREPARE", "off")
    monkeypatch.setenv("PENSTOCK_URL", "https://penstock.example/")
    monkeypatch.setenv("PENSTOCK_DATA_DIR", "~/data")
    settings = load_settings()
    assert settings.max_body == 1024 * 1024
    assert settings.log_level == "warning"
    assert settings.database_prepare is False
    assert settings.url == "https://penstock.example"
    assert settings.data_dir == Path.home() / "data"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PORT", "abc", "a port number from 0 to 65535"),
        ("PORT", "65536", "a port number from 0 to 65535"),
        ("DATABASE_THREADS", "0", "a whole number from 1 to 256"),
        ("DATABASE_PREPARE", "perhaps", "true or false"),
        ("WAKEUPS", "pigeon", "auto, local, postgres or sqs"),
        ("SQS_JOBS_QUEUE_URL", "jobs", "a queue's URL such as https://sqs."),
        ("SQS_JOBS_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com", "it names no queue"),
        ("SQS_JOBS_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/1/a.fifo", "a FIFO queue"),
        ("SERVICES", "events,tea", "there is no service 'tea'"),
        ("ALLOW_PRIVATE_TARGETS", "10.0.0.1/8", "10.0.0.1/8 has host bits set"),
        ("ALLOW_PRIVATE_TARGETS", "localhost", "'localhost' does not appear to be"),
        ("GRACE", "5 parsecs", "a duration such as 500ms"),
        ("LEASE", "0", "at least 100ms"),
        ("DELIVERY_SCHEDULE", "1,x", "comma-separated durations"),
        ("DELIVERY_SCHEDULE", ",", "comma-separated durations"),
        ("DELIVERY_TIMEOUT", "31s", "at most 30s"),
        ("DELIVERY_SLOTS", "0", "a whole number, 1 or more"),
        ("MAX_BODY", "big", "a number of bytes"),
        ("LOG_LEVEL", "loud", "debug, info, warning or error"),
        ("URL", "ftp://example.com", "an http:// or https:// URL"),
    ],
)
def test_a_bad_value_stops_and_is_named(name: str, value: str, expected: str) -> None:
    line = _fault(**{f"PENSTOCK_{name}": value})
    assert line.startswith(f"PENSTOCK_{name} (environment) is {value!r}; expected ")
    assert expected in line
    assert "\n" not in line


def test_each_fault_has_a_line_with_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("penstock.toml").write_text('port = "x"\nlease = "y"\n')
    Path(".env").write_text("PENSTOCK_LEASE=z\n")
    monkeypatch.setenv("PENSTOCK_JOB_SLOTS", "many")
    with pytest.raises(SettingsError) as caught:
        load_settings(host="h", grace="w")
    lines = sorted(str(caught.value).splitlines())
    assert [line.partition(";")[0] for line in lines] == [
        "PENSTOCK_GRACE (command line) is 'w'",
        "PENSTOCK_JOB_SLOTS (environment) is 'many'",
        "PENSTOCK_LEASE (.env) is 'z'",
        "PENSTOCK_PORT (penstock.toml) is 'x'",
    ]


def test_settings_that_contradict_each_other_stop() -> None:
    assert "PENSTOCK_DATABASE_URL" in _fault(PENSTOCK_WAKEUPS="postgres")
    assert "PENSTOCK_OIDC_AUDIENCE" in _fault(PENSTOCK_OIDC_ISSUER="https://issuer.example")


def test_an_unreadable_file_stops_and_is_named() -> None:
    Path("penstock.toml").write_text("port = = 1")
    with pytest.raises(SettingsError, match=r"penstock\.toml cannot be read"):
        load_settings()


def test_an_override_that_is_no_setting_is_refused() -> None:
    with pytest.raises(SettingsError, match="'prot'"):
        load_settings(prot=1)


def test_secrets_are_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://me:hunter2hunter2@db/x"
    monkeypatch.setenv("PENSTOCK_SECRET_KEY", SECRET)
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", url)
    monkeypatch.setenv("PENSTOCK_KEY", "psk_hidden")
    settings = load_settings()
    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    for secret in (SECRET, "hunter2", "psk_hidden"):
        assert secret not in shown
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == url


@pytest.mark.parametrize(
    ("name", "value"),
    [("SECRET_KEY", "tooshort"), ("SECRET_KEY", f"{SECRET},tiny"), ("DATABASE_URL", SECRET)],
)
def test_a_bad_secret_is_named_but_not_shown(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"PENSTOCK_{name}", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value).startswith(f"PENSTOCK_{name} (environment) has a bad value")
    for part in value.split(","):
        assert part not in str(caught.value)
    # Nor may a traceback carry it: nothing is chained.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_unknown_names_are_warned_about_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENSTOCK_PROT", SECRET)
    monkeypatch.setenv("PENSTOCK_TEST_POSTGRES_URL", "x")
    Path(".env").write_text("PENSTOCK_HOSTS=x\nOTHER=y\n")
    Path("penstock.toml").write_text("porrt = 1\n")
    assert load_settings().port == 8321
    logged = capsys.readouterr().err
    assert len(logged.splitlines()) == 3
    assert SECRET not in logged
    for name, meant in (
        ("PENSTOCK_PROT", "PENSTOCK_PORT"),
        ("PENSTOCK_HOSTS", "PENSTOCK_HOST"),
        ("porrt", "port"),
    ):
        line = next(line for line in logged.splitlines() if f'"{name}"' in line)
        assert "setting_unknown" in line
        assert f'"did_you_mean": "{meant}"' in line


def test_known_names_are_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENSTOCK_PORT", "1")
    Path(".env").write_text("PENSTOCK_HOST=x\nUNRELATED=1\nLEASE=2s\n")
    Path("penstock.toml").write_text("grace = 1\n")
    assert load_settings().lease == 60
    assert capsys.readouterr().err == ""


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1


def test_the_secret_key_is_generated_once_in_the_data_folder() -> None:
    settings = load_settings(data_dir="d")
    keys = load_secret_keys(settings)
    assert load_secret_keys(settings) == keys
    assert len(keys[0]) >= 32
    assert stat.S_IMODE(Path("d/secret.key").stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff\xfe" * 20])
def test_a_damaged_key_file_stops_and_is_named(content: bytes) -> None:
    settings = load_settings()
    settings.data_dir.mkdir()
    path = settings.data_dir / "secret.key"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=f"{path} holds no key"):
        load_secret_keys(settings)
    assert path.read_bytes() == content


def test_configured_keys_are_taken_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_SECRET_KEY", f"{SECRET}, {SECRET} old")
    assert load_secret_keys(load_settings()) == [SECRET, f"{SECRET} old"]
    assert not Path("penstock-data").exists()


def test_with_postgresql_the_secret_key_is_never_generated() -> None:
    settings = load_settings(database_url="postgresql://db/x", data_dir="d")
    with pytest.raises(SettingsError, match="PENSTOCK_SECRET_KEY is missing"):
        load_secret_keys(settings)
    assert not Path("d").exists()


def test_the_reference_table_has_every_setting_and_what_it_expects() -> None:
    table = settings_table()
    for name, field in Settings.model_fields.items():
        assert f"| `PENSTOCK_{name.upper()}` |" in table
        assert field.description
        extra = field.json_schema_extra
        assert isinstance(extra, dict)
        assert extra["expects"]
    assert len(table.splitlines()) == 2 + len(Settings.model_fields)
    assert "| `PENSTOCK_DELIVERY_EXPIRY` | `5d` |" in table

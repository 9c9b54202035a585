"""`penstock doctor`: what it finds beside a server, without one, and where something is wrong."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.telemetry import configure_logging
from support.command import cli
from support.process import Ran, Up
from support.s3_server import REGION, running
from support.sqs_server import ENVIRONMENT

NOBODY = "postgresql://penstock:hunter2@127.0.0.1:9/penstock"


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    yield
    configure_logging("info")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder that a server has worked on."""
    folder = tmp_path / "data"
    assert cli("keys", "create", "--name", "first", data=folder).code == 0
    return folder


def doctor(data: Path, env: dict[str, str] | None = None) -> tuple[Ran, dict[str, Any]]:
    """What it says, and what it found by the names of the checks."""
    ran = cli("doctor", "--json", data=data, env=env)
    return ran, {each["name"]: each for each in ran.document["checks"]}


def change(data: Path, *statements: str) -> None:
    connection = sqlite3.connect(data / "penstock.db")
    try:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    finally:
        connection.close()


def test_all_is_well_beside_a_server(server: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    # A server that is slow because the machine is busy does not hang.
    monkeypatch.setattr("penstock.doctor.PATIENCE", 60.0)
    cli("keys", "create", "--name", "doctor", data=server.data)
    endpoint = ("endpoints", "create", "http://127.0.0.1:9/hooks", "--json")
    assert cli(*endpoint, data=server.data).code == 0

    ran, found = doctor(server.data)
    plain = cli("doctor", data=server.data)

    assert (ran.code, ran.stderr) == (0, ""), ran
    assert {name for name, each in found.items() if each["status"] == "fail"} == set()
    assert found["server"]["status"] == found["secrets"]["status"] == "ok"
    assert server.url in found["server"]["message"]
    assert set(found) == {
        *("settings", "server", "disk", "database", "migrations", "queue", "work", "scheduler"),
        *("clock", "secrets", "keys", "carriers", "objects"),
    }
    assert server.token not in ran.stdout
    assert plain.code == 0
    assert all(line.split()[0] in ("ok", "warn", "->") for line in plain.stdout.splitlines())


def test_nothing_is_made_where_there_is_nothing(tmp_path: Path) -> None:
    ran, found = doctor(tmp_path / "none")

    assert ran.code == 0
    assert ran.document["status"] == "warn"
    assert "penstock up" in found["database"]["cure"]
    assert not (tmp_path / "none").exists()


def test_without_a_server_the_folder_is_looked_at(data: Path) -> None:
    ran, found = doctor(data)

    assert ran.code == 0, ran
    assert (found["server"]["status"], found["database"]["status"]) == ("warn", "ok")
    assert found["keys"]["message"] == "1 valid"
    assert not (data / "secret.key").exists()


ENDPOINT = (
    "INSERT INTO endpoints (id, account, kind, target, event_types, timeout, on_permanent, secret,"
    " enabled, lane, version, created_at, updated_at) VALUES ('end_1', 'default', 'webhook',"
    " 'https://x.example', '[\"*\"]', 10, 'long', 'gAAAAA-not-ours', TRUE, 'l', 1, 1, 1)"
)
LANE = (
    "INSERT INTO lanes (id, kind, account, max_in_flight, created_at, circuit)"
    " VALUES ('{}', '{}', 'default', 1, {}, '{}')"
)
JOB = (
    "INSERT INTO jobs (id, account, name, args, status, created_at, lane, due_at)"
    " VALUES ('job_1', 'default', 'resize', '[]', '{}', 1, 'job:x', {})"
)
NOW = "CAST(strftime('%s', 'now') AS INTEGER) * 1000000"  # of the statement
AHEAD, BEFORE = f"{NOW} + 1000000000", f"{NOW} - 1000000000"


@pytest.mark.parametrize(
    ("statements", "check", "status", "says"),
    [
        ((ENDPOINT,), "secrets", "fail", "no key to open them"),
        (("UPDATE alembic_version SET version_num = '0001'",), "migrations", "fail", "needed is"),
        (("UPDATE alembic_version SET version_num = 'new'",), "migrations", "fail", "'new'|new"),
        (
            (LANE.format("x", "job", AHEAD, "closed"),),
            "clock",
            "fail",
            "behind what",
        ),
        ((LANE.format("trk:ups:a:x", "c", 1, "open"),), "carriers", "warn", "trk:ups:a:x"),
        ((JOB.format("dead", "NULL"),), "work", "warn", "1 dead"),
        (
            (
                LANE.format("job:x", "job", 1, "closed"),
                JOB.format("pending", BEFORE),
            ),
            "work",
            "warn",
            "due since",
        ),
        (("UPDATE api_keys SET expires_at = 1",), "keys", "warn", "1 of 1 have expired"),
        ((f"UPDATE api_keys SET expires_at = {NOW} + 10000000000",), "keys", "warn", "expires at"),
    ],
)
def test_what_is_wrong_is_found_with_its_cure(
    data: Path, statements: tuple[str, ...], check: str, status: str, says: str
) -> None:
    change(data, *statements)

    ran, found = doctor(data)

    assert found[check]["status"] == status, found
    assert says.split("|")[-1] in found[check]["message"]
    assert found[check]["cure"]
    assert ran.code == (1 if status == "fail" else 0)


def test_a_key_that_does_not_fit_a_folder_that_others_see_a_setting_that_is_none(
    data: Path,
) -> None:
    change(data, ENDPOINT)
    data.chmod(0o755)

    ran, found = doctor(data, {"PENSTOCK_SECRET_KEY": "k" * 32})
    assert ran.code == 1
    assert "PENSTOCK_SECRET_KEY" in found["secrets"]["cure"]
    assert "k" * 32 not in ran.stdout
    assert found["disk"]["cure"].startswith("chmod 700")
    ran, found = doctor(data, {"PENSTOCK_PORT": "many"})
    assert (ran.code, list(found)) == (1, ["settings"])
    assert "PENSTOCK_PORT" in found["settings"]["message"]


def test_a_database_that_is_none_and_one_that_is_not_there(data: Path, tmp_path: Path) -> None:
    (data / "penstock.db").write_bytes(b"what is this?" * 1000)
    broken, found = doctor(data)
    assert broken.code == 1
    assert found["database"]["status"] == "fail"

    env = {"PENSTOCK_DATABASE_URL": NOBODY, "PENSTOCK_SECRET_KEY": "s" * 32}
    away, found = doctor(tmp_path / "other", env)
    assert away.code == 1
    assert found["database"]["status"] == "fail"
    assert found["database"]["cure"].startswith("check PENSTOCK_DATABASE_URL")
    assert "hunter2" not in away.stdout


def test_a_server_that_hangs_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(
        '{"pid": 1, "url": "http://127.0.0.1:9", "token": "hidden-token"}'
    )
    ran, found = doctor(tmp_path)

    assert ran.code == 1
    assert "does not answer" in found["server"]["message"]
    assert "hidden-token" not in ran.stdout


@pytest.mark.postgres
def test_on_postgresql(new_postgres: Callable[[], str], tmp_path: Path) -> None:
    env = {"PENSTOCK_DATABASE_URL": new_postgres(), "PENSTOCK_SECRET_KEY": "s" * 32}
    ran, found = doctor(tmp_path / "data", env)
    assert (ran.code, found["migrations"]["cure"]) == (1, "penstock migrate")
    assert cli("migrate", data=tmp_path / "data", env=env).code == 0

    ran, found = doctor(tmp_path / "data", env)

    assert ran.code == 0, ran
    assert found["database"]["message"].startswith("PostgreSQL ")
    assert (found["queue"]["status"], found["clock"]["status"]) == ("ok", "ok")
    assert found["scheduler"]["status"] == "warn"


def test_a_bucket_of_objects_is_written_to_and_read(data: Path) -> None:
    with running() as s3:
        place = {
            **ENVIRONMENT,
            "PENSTOCK_OBJECTS": f"s3://{s3.bucket}/files",
            "PENSTOCK_AWS_REGION": REGION,
            "PENSTOCK_S3_ENDPOINT_URL": s3.url,
        }
        ran, found = doctor(data, place)
        assert (ran.code, found["objects"]["status"]) == (0, "ok"), ran
        assert f"s3://{s3.bucket}/files" in found["objects"]["message"]
        assert s3.keys == []
        s3.faults.forbidden = True
        ran, found = doctor(data, place)
        assert (ran.code, found["objects"]["status"]) == (1, "fail"), ran
        assert "PENSTOCK_OBJECTS" in found["objects"]["cure"]

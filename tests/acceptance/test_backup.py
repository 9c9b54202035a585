"""A server is backed up while it works, and what it owed is delivered by the restored copy."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import sqlite3
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.client import Api
from support.command import cli
from support.process import Up
from support.receiver import Receiver

pytestmark = pytest.mark.anyio
EVENTS = 60


async def test_what_was_accepted_before_the_backup_is_delivered_by_the_restored_copy(
    start: Callable[..., Any], receiver: Receiver, tmp_path: Path
) -> None:
    server: Up = start(Up, tmp_path / "data")
    archive = tmp_path / "backup.tar.gz"
    accepted: list[str] = []
    before: set[str] = set()
    async with Api(server.url, server.token) as api:
        # Nobody takes it yet: everything is still owed when the backup is made. It is told to come
        # later, which opens no circuit that the restored copy would have to wait for.
        receiver.script("/taken", [429])
        made = await api.endpoint(receiver.url("/taken"), "order.*", schedule=[1.0] * 50)
        template = (await api.call("GET", "/v1/templates/churn.csv")).body
        upload = await api.call(
            "POST", "/v1/uploads", data=template, headers={"content-type": "text/csv"}
        )
        assert upload.status == 201

        async def load() -> None:
            while True:
                accepted.append((await api.send("order.created", {"n": len(accepted)}))["event_id"])

        loading = asyncio.create_task(load())
        while len(accepted) < EVENTS:
            assert not loading.done(), loading.exception()
            await asyncio.sleep(0.02)
        before = set(accepted)
        ran = await asyncio.to_thread(cli, "backup", str(archive), "--json", data=server.data)
        assert ran.code == 0, ran
        refused = await asyncio.to_thread(cli, "restore", str(archive), data=server.data)
        loading.cancel()
    server.kill()

    assert (refused.code, "in use by another" in refused.stderr) == (1, True)
    assert ran.document["objects"] >= 1
    assert ran.document["secret_key"] is True
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    copy = tmp_path / "copy"
    restored = cli("restore", str(archive), "--json", data=copy)
    assert restored.code == 0, restored
    assert restored.document["aside"] is None
    assert stat.S_IMODE((copy / "secret.key").stat().st_mode) == 0o600
    receiver.script("/taken", [200])
    again: Up = start(Up, copy)
    async with Api(again.url, again.token) as api:
        await receiver.until(lambda: before <= _taken(receiver, made["secret"]))
        download = await api.call("GET", f"/v1/uploads/{upload.json['upload_id']}")
        assert download.json["columns"]
        scored = await api.call("POST", "/v1/predictions", {"upload_id": upload.json["upload_id"]})
        assert scored.status == 202
    assert again.terminate() == 0


def _taken(receiver: Receiver, secret: str) -> set[str]:
    """The events that came, signed with the secret that was sealed in the old folder."""
    return {each.id for each in receiver.at("/taken") if each.verifies(secret)}


@pytest.fixture(scope="module")
def backed_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has a key and no work, and beside it its backup."""
    place = tmp_path_factory.mktemp("backed-up")
    data = place / "first"
    assert cli("keys", "create", "--name", "first", data=data).code == 0
    (data / "secret.key").write_text("s" * 43 + "\n")
    (data / "objects" / "accounts").mkdir(parents=True)
    (data / "objects" / "accounts" / "one").write_bytes(b"1")
    (data / "objects" / "accounts" / "~part-2").write_bytes(b"half")
    ran = cli("backup", str(place / "backup.tar"), data=data)
    assert (ran.code, ran.stderr) == (0, ""), ran
    return place


@pytest.fixture
def archive(backed_up: Path, tmp_path: Path) -> Path:
    """A backup of the folder `first` beside it, which has a key and no work."""
    shutil.copytree(backed_up, tmp_path, dirs_exist_ok=True)
    return tmp_path / "backup.tar"


def test_what_is_in_a_folder_is_only_put_aside_when_told(archive: Path, tmp_path: Path) -> None:
    data = tmp_path / "second"
    assert cli("keys", "create", "--name", "second", data=data).code == 0

    refused = cli("restore", str(archive), data=data)
    assert (refused.code, refused.stdout) == (2, "")
    assert "--replace" in refused.stderr
    assert _names(data) == ["second"]

    done = cli("restore", str(archive), "--replace", "--json", data=data)
    assert done.code == 0, done
    assert _names(data) == ["first"]
    assert _names(Path(done.document["aside"])) == ["second"]
    assert (data / "objects" / "accounts" / "one").read_bytes() == b"1"
    assert not (data / "objects" / "accounts" / "~part-2").exists()
    assert (data / "secret.key").read_text() == "s" * 43 + "\n"
    assert [path for path in data.iterdir() if path.name.startswith(".")] == []


def _names(data: Path) -> list[str]:
    connection = sqlite3.connect(data / "penstock.db")
    try:
        return [row[0] for row in connection.execute("SELECT name FROM api_keys")]
    finally:
        connection.close()


def _rewritten(archive: Path, **files: bytes | None) -> None:
    """The archive with other members; None leaves one out."""
    names = {"manifest": "manifest.json", "database": "penstock.db", "evil": "../evil"}
    with tarfile.open(archive) as old:
        members = {each.name: old.extractfile(each).read() for each in old}  # type: ignore[union-attr]
    for name, content in files.items():
        if content is None:
            members.pop(names[name])
        else:
            members[names[name]] = content
    with tarfile.open(archive, "w") as new:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"database": b"SQLite format 3\x00" + b"x" * 4096}, "damaged"),
        ({"database": None}, "no archive"),
        ({"manifest": b"{}"}, "no archive"),
        ({"manifest": json.dumps({"format": "penstock backup 9"}).encode()}, "no archive"),
        ({"evil": b"#!/bin/sh"}, "'../evil'"),
        (None, "no archive"),
    ],
)
def test_what_is_no_backup_is_refused_and_nothing_is_left(
    archive: Path, tmp_path: Path, files: dict[str, bytes | None] | None, says: str
) -> None:
    if files is None:
        archive.write_bytes(archive.read_bytes()[:700])
    else:
        _rewritten(archive, **files)
    data = tmp_path / "target"

    ran = cli("restore", str(archive), data=data)

    assert (ran.code, ran.stdout) == (2, "")
    (line,) = ran.stderr.splitlines()
    assert says in line
    assert [path.name for path in data.iterdir()] == ["penstock.db.lock"]
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("arguments", "env", "says"),
    [
        (("backup", "x.tar"), {}, "nothing to back up"),
        (("restore", "missing.tar"), {}, "there is no file missing.tar"),
        (("backup",), {"PENSTOCK_DATABASE_URL": "postgresql://u:hunter2@127.0.0.1/x"}, "pg_dump"),
        (("restore", "x"), {"PENSTOCK_DATABASE_URL": "postgresql://u:hunter2@127.0.0.1/x"}, "SQL"),
    ],
)
def test_what_cannot_be_backed_up_or_restored_is_said(
    tmp_path: Path, arguments: tuple[str, ...], env: dict[str, str], says: str
) -> None:
    ran = cli(*arguments, data=tmp_path / "none", env=env)

    assert (ran.code, ran.stdout) == (2, "")
    assert says in ran.stderr
    assert "hunter2" not in ran.stderr


def test_objects_in_a_bucket_are_no_part_of_it(archive: Path, tmp_path: Path) -> None:
    env = {"PENSTOCK_OBJECTS": "s3://models/penstock"}
    small = tmp_path / "small.tar"

    made = cli("backup", str(small), "--json", data=tmp_path / "first", env=env)
    refused = cli("restore", str(archive), data=tmp_path / "second", env=env)
    restored = cli("restore", str(small), data=tmp_path / "second", env=env)

    assert (made.document["objects"], made.document["bucket"]) == (0, True)
    assert "in a bucket" in made.stderr
    assert (refused.code, "PENSTOCK_OBJECTS" in refused.stderr) == (2, True)
    assert restored.code == 0, restored
    assert _names(tmp_path / "second") == ["first"]


def test_a_backup_that_cannot_be_written_leaves_nothing(archive: Path, tmp_path: Path) -> None:
    ran = cli("backup", str(tmp_path / "none" / "x.tar"), data=tmp_path / "first")

    assert ran.code != 0
    assert not (tmp_path / "none").exists()

"""A copy of a server on SQLite in one file, made while it runs, and a data folder made of it.

An archive is a tar file: ``manifest.json``, ``penstock.db``, ``objects/…`` and, if it is kept in
the data folder, ``secret.key``. The database is copied first and the objects after it. Objects
never change, and none is deleted meanwhile (`doomed.hold`), so all that the copy of the database
refers to is in the archive.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import secrets
import shutil
import sqlite3
import tarfile
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final, Literal

from penstock._version import __version__
from penstock.backends import make_data_dir, make_database
from penstock.clock import SystemClock
from penstock.errors import BackupRefused, StorageError
from penstock.schema import check_migrated
from penstock.settings import Settings
from penstock.storage import doomed, migrate, sqlite
from penstock.storage.lock import lock_of
from penstock.storage.objects import Folder
from penstock.wiring import make_objects

FORMAT: Final = "penstock backup 1"
_PART: Final = "~part-"  # objects that are being written
_DATABASE, _SECRET, _OBJECTS, _MANIFEST = "penstock.db", "secret.key", "objects", "manifest.json"


@dataclass(frozen=True, slots=True)
class Made:
    """An archive. `secret_key`: whether it holds the key that opens the secrets in it.

    `bucket`: whether the objects are elsewhere, and not in it.
    """

    path: Path
    size: int
    objects: int
    secret_key: bool
    bucket: bool


@dataclass(frozen=True, slots=True)
class Restored:
    """A data folder; what was there before is in `aside`."""

    data_dir: Path
    created_at: str
    objects: int
    secret_key: bool
    aside: Path | None


async def backup(settings: Settings, path: Path) -> Made:
    """Write an archive to `path`, while a server may run. BackupRefused if it cannot be."""
    if settings.database_url is not None:
        raise BackupRefused(
            "PENSTOCK_DATABASE_URL is PostgreSQL: back it up with its own tools, such as pg_dump,"
            " keep PENSTOCK_SECRET_KEY, and copy the objects afterwards"
        )
    if not settings.sqlite_path.exists():
        raise BackupRefused(f"there is no database in {settings.data_dir}: nothing to back up")
    await asyncio.to_thread(check_migrated, settings)
    database = make_database(settings, SystemClock(), owner=False)
    await database.open()
    try:
        async with doomed.hold(database):
            return await asyncio.to_thread(_write, settings, path)
    finally:
        await database.close()


def restore(settings: Settings, path: Path, *, replace: bool = False) -> Restored:
    """Make a data folder of an archive; blocks.

    BackupRefused for an archive that cannot be used, and if there is something in the folder and
    not `replace`; then it is put aside. DataDirInUse while a server runs there.
    """
    if settings.database_url is not None:
        raise BackupRefused("PENSTOCK_DATABASE_URL is set: an archive is restored to SQLite only")
    make_data_dir(settings)
    lock = lock_of(settings.sqlite_path)
    lock.acquire()
    try:
        return _restore(settings, path, replace)
    finally:
        lock.release()


# ------------------------------------------------------------------ writing


def _write(settings: Settings, path: Path) -> Made:
    copy = path.with_name(f".{path.name}.{secrets.token_hex(4)}.db")
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        sqlite.backup(settings.sqlite_path, copy)
        _forget_holds(copy)
        root = _root(settings)
        found = [] if root is None else _objects(root)
        key = settings.data_dir / _SECRET
        holds_key = key.is_file() and not settings.secret_key
        manifest = {
            "format": FORMAT,
            "version": __version__,
            "revision": migrate.current(copy),
            "created_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "database_sha256": _sha256(copy),
            "objects": len(found),
            "bucket": root is None,
            "secret_key": holds_key,
        }
        # Whoever reads it can read what the server knows, and sign in its name.
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w+b") as file:
            mode: Literal["w", "w:gz"] = "w:gz" if path.suffix in (".gz", ".tgz") else "w"
            with tarfile.open(None, mode, file) as archive:
                _add(archive, _MANIFEST, json.dumps(manifest, indent=1).encode())
                archive.add(copy, _DATABASE, filter=_plain)
                if holds_key:
                    archive.add(key, _SECRET, filter=_plain)
                for name, file_path in found:
                    archive.add(file_path, f"{_OBJECTS}/{name}", filter=_plain)
            file.flush()
            os.fsync(file.fileno())
            size = file.seek(0, os.SEEK_END)
        part.replace(path)
    except OSError as exc:
        raise BackupRefused(f"{exc.filename or path}: {exc.strerror}") from exc
    finally:
        for left in (part, copy, *(copy.with_name(copy.name + end) for end in ("-wal", "-shm"))):
            left.unlink(missing_ok=True)
    return Made(path, size, len(found), holds_key, root is None)


def _root(settings: Settings) -> Path | None:
    """The folder of the objects; None if they are in a bucket, which is no part of an archive."""
    objects = make_objects(settings)
    return objects.root if isinstance(objects, Folder) else None


def _forget_holds(copy: Path) -> None:
    """Nobody leads or holds anything in the copy."""
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        connection.execute("DELETE FROM leaders")
        connection.execute("PRAGMA journal_mode=DELETE")  # one file, whole


def _objects(root: Path) -> list[tuple[str, Path]]:
    found = []
    for folder, _, files in os.walk(root):
        for name in files:
            path = Path(folder, name)
            if not name.startswith(_PART) and path.is_file() and not path.is_symlink():
                found.append((path.relative_to(root).as_posix(), path))
    return sorted(found)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o600
    archive.addfile(member, io.BytesIO(content))


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the names of this machine's users."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o600
    return member


# ------------------------------------------------------------------ reading


def _restore(settings: Settings, path: Path, replace: bool) -> Restored:
    home, root = settings.data_dir, _root(settings)
    there = [each for each in _files(home) if each.exists()]
    objects = list(root.iterdir()) if root is not None and root.is_dir() else []
    if (there or objects) and not replace:
        raise BackupRefused(
            f"{[*there, *objects][0]} is there already: choose an empty folder with --data, or"
            " say --replace to put aside what is there"
        )
    staging = home / f".restore-{secrets.token_hex(4)}"
    staging.mkdir(mode=0o700)
    try:
        manifest = _unpack(path, staging)
        _check(staging, manifest)
        if root is None and manifest["objects"]:
            raise BackupRefused(
                "PENSTOCK_OBJECTS is a bucket and the archive holds objects: restore them to a"
                " folder by leaving it out, then copy them into the bucket"
            )
        aside = _put_aside(there, objects, home) if there or objects else None
        if root is not None and (staging / _OBJECTS).is_dir():
            # What is in it is moved, not the folder: that may be the root of another disk.
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for each in (staging / _OBJECTS).iterdir():
                shutil.move(each, root / each.name)
        if (staging / _SECRET).exists():
            (staging / _SECRET).replace(home / _SECRET)
        # Last: with it the folder is one that a server can start on.
        (staging / _DATABASE).replace(home / _DATABASE)
        _sync(home)
    except OSError as exc:
        raise BackupRefused(f"{exc.filename or path}: {exc.strerror}") from exc
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Restored(
        home,
        str(manifest["created_at"]),
        int(manifest["objects"]),
        bool(manifest["secret_key"]),
        aside,
    )


def _files(home: Path) -> list[Path]:
    database = home / _DATABASE
    beside = [database.with_name(database.name + end) for end in ("-wal", "-shm")]
    return [database, *beside, home / _SECRET]


def _put_aside(files: list[Path], objects: list[Path], home: Path) -> Path:
    aside = home / f"replaced-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
    aside.mkdir(mode=0o700)
    for each in files:
        shutil.move(each, aside / each.name)
    if objects:
        (aside / _OBJECTS).mkdir(mode=0o700)
    for each in objects:
        shutil.move(each, aside / _OBJECTS / each.name)
    return aside


def _unpack(path: Path, into: Path) -> dict[str, Any]:
    """Write the archive's files below `into`; its manifest. Nothing else is let out of it."""
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:*") as archive:
            for member in archive:
                target = into / member.name
                if not member.isreg() or not _ours(member.name):
                    raise BackupRefused(f"{path} holds {member.name!r}, which no backup does")
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                content = archive.extractfile(member)
                assert content is not None, "it is a regular file"
                _store(content, target)
        manifest: dict[str, Any] = json.loads((into / _MANIFEST).read_bytes())
        if manifest["format"] != FORMAT or not (into / _DATABASE).exists():
            raise ValueError(manifest["format"])
    except (tarfile.TarError, EOFError, ValueError, KeyError, TypeError, FileNotFoundError) as exc:
        if isinstance(exc, FileNotFoundError) and not path.exists():
            raise BackupRefused(f"there is no file {path}") from None
        raise BackupRefused(
            f"{path} is no archive that this version of `penstock backup` wrote, or is damaged"
        ) from exc
    return manifest


def _ours(name: str) -> bool:
    if name in (_MANIFEST, _DATABASE, _SECRET):
        return True
    parts = name.split("/")
    return len(parts) > 1 and parts[0] == _OBJECTS and not {"", ".", ".."} & set(parts)


def _store(content: IO[bytes], target: Path) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        shutil.copyfileobj(content, file)
        file.flush()
        os.fsync(file.fileno())


def _check(staging: Path, manifest: dict[str, Any]) -> None:
    database = staging / _DATABASE
    if _sha256(database) != manifest["database_sha256"]:
        raise BackupRefused("the database in the archive is damaged")
    if len(_objects(staging / _OBJECTS)) != manifest["objects"]:
        raise BackupRefused("objects are missing in the archive")
    try:
        migrate.current(database)  # SchemaNewer says which version is needed
    except StorageError as exc:
        raise BackupRefused(str(exc)) from exc


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

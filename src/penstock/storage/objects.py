"""Files that are too large for the database: what was uploaded, what came of it, models.

`Objects` is a small port. An object is written whole or not at all, is never changed afterwards,
and is found by a key that Penstock makes: account, kind, id. No part of a key comes from a file's
name or from a request, so nothing can be written or read outside of the folder; keys are checked
nevertheless.

Where the bytes need not go through this process, objects have a door of their own (`Direct`): URLs
that are signed for one object and a short time.

All methods block and may be called from any thread and from child processes: an implementation
can be pickled. A server calls them in threads.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import re
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Final, Protocol, cast

from penstock.errors import NotFound, StorageFull, StorageUnavailable

_SEGMENT: Final = re.compile(r"[a-z0-9_~-][a-z0-9_.~-]{0,99}")
_PLAIN: Final = re.compile(r"[a-z0-9_-]{1,64}")
_MOST_SEGMENTS: Final = 8
_TRIES: Final = 1000  # at making a folder that others delete when it is empty
_PART: Final = "~part-"  # how the names of objects begin that are not complete yet


@dataclass(frozen=True, slots=True)
class Ticket:
    """With a PUT to `url` and these headers one object can be stored, of one content."""

    url: str
    headers: Mapping[str, str]


class Direct(Protocol):
    """Objects that whoever was given a URL can send and fetch past this process."""

    @property
    def largest(self) -> int:
        """The most bytes of an object that is sent."""
        ...

    def ticket(self, key: str, *, size: int, sha256: str, seconds: int) -> Ticket:
        """How to send the object `key`, for so long: of this size and SHA-256 and no other."""
        ...

    def arrived(self, key: str, *, size: int, sha256: str) -> bool:
        """Whether it has been sent."""
        ...

    def link(self, key: str, *, media_type: str, filename: str | None, seconds: int) -> str:
        """Where to fetch the object `key`, for so long; without a name to be shown, not saved."""
        ...


class Objects(Protocol):
    """Where objects are kept. Raises StorageUnavailable where that cannot be reached."""

    def __hash__(self) -> int:
        """Of the place, so that what is made of an object can be kept by it."""
        ...

    def open(self, key: str) -> BinaryIO:
        """The object, to be read from any place in it. Raises NotFound."""
        ...

    def writing(self, key: str) -> AbstractContextManager[IO[bytes]]:
        """A file to write to; it is the object `key`, durably, once the block ends well.

        An object that was there before is replaced. Raises StorageFull.
        """
        ...

    def size(self, key: str) -> int | None:
        """The object's length in bytes; None if it is not there."""
        ...

    def delete(self, prefix: str) -> int:
        """Delete the object of this key, and all whose keys begin with it and a slash."""
        ...

    def check(self) -> None:
        """Do nothing if objects can be written at the moment. Answers within a second or two."""
        ...

    @property
    def direct(self) -> Direct | None:
        """How to send and fetch objects past this process, if there is a way."""
        ...


@dataclass(frozen=True, slots=True)
class Folder:
    """Objects as files below a folder, which nobody but its owner may enter."""

    root: Path

    def open(self, key: str) -> BinaryIO:
        """See `Objects.open`. What is no regular file is not there."""
        try:
            descriptor = os.open(self._path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as exc:
            if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise NotFound("The object is not there.") from None
            raise StorageUnavailable(f"an object cannot be read: {exc.strerror}") from exc
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise NotFound("The object is not there.")
        return cast(BinaryIO, os.fdopen(descriptor, "rb"))

    @contextlib.contextmanager
    def writing(self, key: str) -> Iterator[IO[bytes]]:
        """See `Objects.writing`."""
        path = self._path(key)
        part = path.with_name(f"{_PART}{secrets.token_hex(8)}")
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = _created(part)
            try:
                with os.fdopen(descriptor, "w+b") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
            _sync(path.parent)
        except OSError as exc:
            raise fault(exc) from exc

    def size(self, key: str) -> int | None:
        """See `Objects.size`."""
        try:
            found = self._path(key).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def delete(self, prefix: str) -> int:
        """See `Objects.delete`."""
        path = self._path(prefix)
        deleted = 0
        # Not followed: a link in the folder is deleted, not what it leads to.
        for folder, folders, files in os.walk(path, topdown=False, followlinks=False):
            for name in files:
                deleted += _unlink(Path(folder, name))
            for name in folders:
                inner = Path(folder, name)
                if inner.is_symlink():
                    deleted += _unlink(inner)
                else:
                    _rmdir(inner)
        if path.is_symlink() or path.is_file():
            deleted += _unlink(path)
        else:
            _rmdir(path)
        # Folders above that have become empty, up to the root.
        for parent in path.parents:
            if parent == self.root or not parent.is_relative_to(self.root):
                break
            if not _rmdir(parent):
                break
        return deleted

    def check(self) -> None:
        """See `Objects.check`."""
        probe = self.root / f"{_PART}{secrets.token_hex(8)}"
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe.touch(0o600)
            probe.unlink()
        except OSError as exc:
            raise fault(exc) from exc

    @property
    def direct(self) -> None:
        """See `Objects.direct`: files are nobody's but this process's."""
        return None

    def _path(self, key: str) -> Path:
        check_key(key)
        return self.root.joinpath(*key.split("/"))


def check_key(key: str) -> None:
    """ValueError for what cannot be a key."""
    segments = key.split("/")
    if len(segments) > _MOST_SEGMENTS or not all(map(_SEGMENT.fullmatch, segments)):
        raise ValueError(f"not a key: {key[:200]!r}")
    if any(".." in segment or segment.startswith(_PART) for segment in segments):
        raise ValueError(f"not a key: {key[:200]!r}")


def of_account(account: str, *segments: str) -> str:
    """The key of something of an account's, whatever characters the account's name has."""
    # An OpenID Connect issuer chooses names such as "auth0|7f"; another's hash begins with ~,
    # which no plain name does.
    name = account
    if not _PLAIN.fullmatch(account):
        name = "~" + hashlib.sha256(account.encode()).hexdigest()[:40]
    return "/".join(("accounts", name, *segments))


def fault(exc: OSError) -> StorageFull | StorageUnavailable:
    """What a file that could not be written means."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull("The disk that holds the objects is full.")
    return StorageUnavailable(f"an object cannot be written: {exc.strerror}")


def _created(path: Path) -> int:
    """A new file's descriptor, its folder made if need be."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    for _ in range(_TRIES):
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(path, flags, 0o600)
        except FileNotFoundError:  # whoever deleted the last object in the folder took it along
            time.sleep(random.uniform(0, 0.001))  # noqa: S311 - so that they get out of step
    raise StorageUnavailable(f"an object cannot be written: {path.parent.name} comes and goes")


def _sync(folder: Path) -> None:
    """Make a name durable; a folder that cannot be opened so is not synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _unlink(path: Path) -> int:
    try:
        path.unlink()
    except FileNotFoundError:  # somebody else deleted it
        return 0
    return 1


def _rmdir(path: Path) -> bool:
    try:
        path.rmdir()
    except OSError:  # not there any more, or written to again
        return False
    return True

"""One owner for a data folder: a lock that ends with its holder, however that ends."""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from pathlib import Path
from typing import Final

from penstock import errors


def lock_of(database: Path) -> FileLock:
    """The lock of the SQLite database in this file."""
    return FileLock(database.with_name(database.name + ".lock"))


class FileLock:
    """An exclusive `flock`. The file holds its owner's process id, for people to read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self, patience: float = 0.0) -> None:
        """Take it, or raise `DataDirInUse` naming the holder's process id.

        `patience`: seconds that a holder may have to end. Blocks.
        """
        give_up = time.monotonic() + patience
        while True:
            try:
                return self._acquire()
            except errors.DataDirInUse:
                if time.monotonic() >= give_up:
                    raise
            time.sleep(0.05)

    def _acquire(self) -> None:
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise errors.StorageUnavailable(f"{self.path}: {exc.strerror}") from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise errors.DataDirInUse(
                f"{self.path.parent} is in use by another Penstock process (pid {holder})"
            ) from exc
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd
        _held.add(self)

    def release(self) -> None:
        """Give it back. The file stays: removing it would let two owners lock two files."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        _held.discard(self)


_held: Final[weakref.WeakSet[FileLock]] = weakref.WeakSet()


def _forget() -> None:
    # A forked child shares the lock's open file and would keep it beyond its parent's
    # death. Closing the child's copy leaves the parent's lock as it is.
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_forget)

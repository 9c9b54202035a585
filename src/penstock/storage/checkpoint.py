"""Moving SQLite's write-ahead log into the database file, away from the writer.

SQLite does that by itself at the end of the commit that made the log 1,000 pages long, and
whoever waits for that commit waits for tens of milliseconds of random writes and their flush.
Here a thread with a connection of its own does it: a PASSIVE checkpoint holds up neither the
writer nor readers (https://www.sqlite.org/wal.html, section 2.1).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Final

EVERY: Final = 64  # commits; of some 20 pages each, so about as often as SQLite would
# SQLite flushes the file only if nothing was committed while the log was moved; what it leaves
# unflushed, the kernel writes in one go much later, which holds up everybody's flushes. The second
# pass has next to nothing to move, so one of a few meets a moment without a commit.
PASSES: Final = 8


class Checkpointer:
    """Checkpoints after every `EVERY` commits, on a thread between `start` and `stop`."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._commits = 0
        self._due = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._main, name="penstock-checkpoint", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread. What is left in the log, SQLite moves when the last connection closes."""
        self._stopping = True
        self._due.set()
        if self._thread is not None:
            self._thread.join()

    def committed(self) -> None:
        """To be called after every commit, by one thread."""
        self._commits += 1
        if self._commits >= EVERY:
            self._commits = 0
            self._due.set()

    def _main(self) -> None:
        # A full disk or the like: the writer meets it too, and says so. Where this thread is not
        # there, SQLite checkpoints by itself, at the size that the connections are set to.
        with suppress(sqlite3.Error), closing(self._connect()) as connection:
            while True:
                self._due.wait()
                if self._stopping:
                    return
                self._due.clear()
                with suppress(sqlite3.Error):
                    _checkpoint(connection)


def _checkpoint(connection: sqlite3.Connection) -> None:
    for _ in range(PASSES):
        _busy, logged, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if moved == logged:
            return

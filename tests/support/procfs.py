"""What Linux says about processes in /proc, read while they may be ending.

A process that ends takes its files with it. Whoever opens one too late is told that there is no
such file; whoever had it open already is told that there is no such process (ESRCH, proc(5)).
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path


def _read(file: Path) -> str:
    """The file, or nothing where its process or thread has ended."""
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _threads(pid: int | str) -> list[Path]:
    """Their folders; none where it has ended. `glob` would fail if it ends meanwhile."""
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return []


def alive(pid: int) -> bool:
    """Whether a thread of the process runs: one that is dead and not buried by its parent is not.

    The first thread is often dead before the others, which still hold the process's sockets; and
    the parent cannot bury it (waitpid(2)) before they are off the list, dead (X) as they may be.
    """
    threads = [_read(thread / "stat") for thread in _threads(pid)]
    return any(each.rpartition(")")[2].split()[0] != "Z" for each in threads if each)


def children(pid: int | str = "self") -> set[int]:
    """The processes that this one's threads have started and not buried."""
    return {int(child) for thread in _threads(pid) for child in _read(thread / "children").split()}


async def gone(pid: int, within: float = 20.0) -> None:
    """Returns when the process has ended; fails where that takes longer than `within` seconds."""
    deadline = time.monotonic() + within
    while alive(pid):
        assert time.monotonic() < deadline, f"process {pid} still runs after {within:g} s"
        await asyncio.sleep(0.01)

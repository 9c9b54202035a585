"""Processes of Penstock that start in milliseconds: forked from one that has imported it already.

Starting Python and importing a server takes a second of CPU, several hundred times in a test run.
The nursery is a process that has imported all of it, and read what never changes. Asked for a
command, it forks, and the child becomes that command: its arguments, environment, folder, standard
streams and exit are those of a process of its own, and so are its memory and its death. `Forked`
is what `subprocess.Popen` is to a process that was started the long way.

Run as a script this is the nursery itself, with the numbers of its socket and of a pipe that ends
with who started it.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

# What a starting server imports, and the commands; not what it must not (numpy, pyarrow).
_IMPORTED = (
    "penstock.cli.commands",
    "penstock.cli.alone",
    "penstock._beside",
    "penstock.app",
    "penstock.client",
    "penstock.console.desk",
    "penstock.console.pages_sign_in",
    "penstock.doctor",
    "penstock.server",
    "penstock.runtime",
    "penstock.storage.migrate",
    "penstock.storage.sqlite",
    "penstock.storage.postgres",
    "penstock.events.dead",
    "penstock.events.service",
    "penstock.events.retention",
    "penstock.events.destinations.registry",
    "penstock.jobs",
    "penstock.jobs.dead",
    "penstock.jobs.routes",
    "penstock.operations.routes_dead",
    "penstock.operations.routes_figures",
    "penstock.operations.routes_lanes",
    "penstock.predictions.dead",
    "penstock.predictions.extra",
    "penstock.predictions.service",
    "penstock.tracking.dead",
    "penstock.tracking.service",
    "penstock.api.app",
    "penstock.work.wakeups.postgres",
    # What libraries import when they are first used.
    "encodings.ascii",
    "encodings.idna",
    "fastapi.telemetry._runtime",
    "pydantic.v1",
    "typer._adapters",
    "typer._click.decorators",
    "uvicorn.lifespan.on",
    "uvicorn",
    "uvloop",
    "httptools",
)
_MOST = 200_000  # bytes of one request
# Python and the libraries of the terminal read these when they are loaded.
_EARLY = ("PYTHON", "TERM", "COLUMNS", "NO_COLOR", "FORCE_COLOR")


def possible(env: Mapping[str, str]) -> bool:
    """Whether a process with this environment is the same when it is forked."""
    told = {name for name in env if name.startswith(_EARLY)}
    own = {name for name in os.environ if name.startswith(_EARLY)}
    return (
        sys.platform == "linux"
        and "PENSTOCK_TEST_NO_FORK" not in os.environ
        and all(env[name] == os.environ.get(name) for name in told - {"PYTHONUNBUFFERED"})
        and own - told <= {"PYTHONDONTWRITEBYTECODE"}
    )


class Nursery:
    """The process that forks; started when it is first needed, ended with this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._life: int | None = None

    @property
    def path(self) -> Path:
        """Its socket."""
        with self._lock:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="nursery")
                self._open(Path(self._folder.name, "s"))
            return Path(self._folder.name, "s")

    def _open(self, path: Path) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(path))
            listener.listen(64)
            life, self._life = os.pipe()
            process = subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno()), str(life)],
                pass_fds=[listener.fileno(), life],
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            process.returncode = 0  # nobody waits for it: it ends when our end of the pipe does
            os.close(life)

    def start(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        stdout: IO[Any],
        stderr: IO[Any],
    ) -> Forked:
        """`penstock` with these arguments; nothing is on its standard input."""
        with Path(os.devnull).open("rb") as nothing:
            streams = (nothing.fileno(), stdout.fileno(), stderr.fileno())
            return Forked(arguments, _ask(self.path, arguments, env, cwd, streams))


NURSERY = Nursery()


def _ask(
    path: Path, arguments: Sequence[str], env: Mapping[str, str], cwd: Path, streams: Sequence[int]
) -> socket.socket:
    """A connection over which the process id comes, and at the end the exit code."""
    asked = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asked.connect(str(path))
    request = json.dumps([list(arguments), dict(env), str(cwd)]).encode()
    socket.send_fds(asked, [request], list(streams))
    return asked


class Forked:
    """A process of the nursery's; as much of `subprocess.Popen` as tests use."""

    def __init__(self, arguments: Sequence[str], report: socket.socket) -> None:
        self.args = ["penstock", *arguments]
        self.returncode: int | None = None
        self._report = report
        self._lock = threading.Lock()
        told = self._told(60.0)
        assert told is not None, "the nursery has died"
        self.pid = told

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        with self._lock:
            if self.returncode is None and (code := self._told(0.0)) is not None:
                self.returncode = code
                self._report.close()
            return self.returncode

    def wait(self, timeout: float) -> int:
        """The exit code; subprocess.TimeoutExpired after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        """Nothing if it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9."""
        self.send_signal(signal.SIGKILL)

    def _told(self, timeout: float) -> int | None:
        if not select.select([self._report], [], [], timeout)[0]:
            return None
        said = self._report.recv(64)
        assert said, "the nursery has died"
        return int(said)


# What `penstock` can be on the path of a shell: the nursery's child has its streams and folder.
SHIM = """#!{python} -IS
import array, json, os, signal, socket, sys
asked = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
asked.connect({path!r})
request = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
streams = array.array("i", [0, 1, 2])
asked.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
pid = int(asked.recv(64))
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(pid, number))
code = int(asked.recv(64))
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


def shim(folder: Path) -> None:
    """Put a `penstock` into `folder` that the nursery forks."""
    file = folder / "penstock"
    file.write_text(SHIM.format(python=sys.executable, path=str(NURSERY.path)))
    file.chmod(0o755)


# ---------------------------------------------------------------- in the nursery


def _nurse(listener: socket.socket, life: int) -> None:
    """Fork on request; returns in the children."""
    reports: dict[int, socket.socket] = {}  # of each child: where to say its exit code
    wake, woken = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the tests, and they end this
    while True:
        ready, _, _ = select.select([listener, wake, life, *reports.values()], [], [])
        if wake in ready:
            os.read(wake, 4096)
            _bury(reports)
        if life in ready:
            os._exit(0)
        for pid, report in list(reports.items()):
            if report in ready:  # it says nothing: who asked for the process has been killed
                with report:
                    del reports[pid]
                os.kill(pid, signal.SIGKILL)
        if listener not in ready:
            continue
        report, _ = listener.accept()
        request, streams, _, _ = socket.recv_fds(report, _MOST, 3)
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for shared in (listener, report, *reports.values()):
                shared.close()
            for descriptor in (life, wake, woken):
                os.close(descriptor)
            _become(request, streams)
            return
        reports[pid] = report
        for descriptor in streams:
            os.close(descriptor)
        report.send(b"%d" % pid)


def _bury(reports: dict[int, socket.socket]) -> None:
    with contextlib.suppress(ChildProcessError):  # there is no more
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = ended
            if report := reports.pop(pid, None):
                with report, contextlib.suppress(OSError):  # nobody may wait for it
                    report.send(b"%d" % os.waitstatus_to_exitcode(status))


def _become(request: bytes, streams: Sequence[int]) -> None:
    arguments, env, cwd = json.loads(request)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[0] = cwd  # as `python -m` has it
    sys.argv = ["penstock", *arguments]


def _main() -> None:
    import importlib

    for name in _IMPORTED:
        importlib.import_module(name)
    from penstock.cli import main, program
    from penstock.storage import migrate

    program(alone=False)  # put together here once, not in each child
    program(alone=True)
    migrate.head()
    gc.freeze()  # what all share is not looked through, and so not copied, in each child
    _nurse(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
    _end(_code(main))


def _code(main: Callable[[], object]) -> int:
    """What a command exits with; anything but an exit is Python's to tell."""
    try:
        main()
    except SystemExit as exc:
        if exc.code is not None and not isinstance(exc.code, int):
            raise
        return exc.code or 0
    return 0


def _end(code: int) -> NoReturn:
    """End this process as Python does, but for the modules it has of the nursery.

    Taking those to pieces one by one takes more CPU than most commands, and copies their memory.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    gc.collect()  # what was left open says so when it is collected
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # nobody reads it: for Python to judge
        sys.exit(code)
    os._exit(code)


if __name__ == "__main__":
    _main()

"""Processes of Penstock that start in milliseconds: forked from one that has imported it already.

Starting Python and importing a server takes a second of CPU, several hundred times in a test run.
The nursery is a process that has imported all of it, and read what never changes. Asked for a
command, it forks, and the child becomes that command: its arguments, environment, folder, standard
streams and exit are those of a process of its own, and so are its memory and its death. `Forked`
is what `subprocess.Popen` is to a process that was started the long way. A command is what comes
after `python`: a module (`-m`), mostly Penstock, a program (`-c`), or a script.

The processes in which servers read, score and train are forked too, by a second nursery that has
imported what they import. It is a child of the first, made when somebody first asks for one.

Run as a script this is the nursery itself, with the numbers of its two sockets and of a pipe that
ends with who started it.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import gc
import importlib
import json
import math
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

# What a starting server imports, and the commands; not what it must not (numpy, pyarrow).
_IMPORTED = (
    "penstock.cli.commands",
    "penstock._beside",
    "penstock.api.app",
    "penstock.app",
    "penstock.aws.lambda_handlers",
    "penstock.cli.alone",
    "penstock.client",
    "penstock.console.desk",
    "penstock.console.pages_sign_in",
    "penstock.doctor",
    "penstock.events.dead",
    "penstock.events.destinations.registry",
    "penstock.events.retention",
    "penstock.events.service",
    "penstock.jobs",
    "penstock.jobs.dead",
    "penstock.jobs.routes",
    "penstock.operations.routes_dead",
    "penstock.operations.routes_figures",
    "penstock.operations.routes_lanes",
    "penstock.predictions.dead",
    "penstock.predictions.extra",
    "penstock.predictions.pool",
    "penstock.predictions.service",
    "penstock.runtime",
    "penstock.server",
    "penstock.storage.migrate",
    "penstock.storage.postgres",
    "penstock.storage.sqlite",
    "penstock.tracking.dead",
    "penstock.tracking.service",
    "penstock.work.wakeups.postgres",
    "penstock.work.wakeups.sqs",
    # What libraries import when they are first used, and what only Lambda functions do.
    "aiobotocore.session",
    "encodings.ascii",
    "encodings.idna",
    "fastapi.telemetry._runtime",
    "httptools",
    "mangum",
    "pydantic.v1",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.dialects.sqlite",
    "typer._adapters",
    "typer._click.decorators",
    "uvicorn",
    "uvicorn.lifespan.on",
    "uvloop",
)
# And what those processes do that stand beside servers.
_BESIDE = tuple(
    f"penstock.predictions.beside.{name}"
    for name in ("main", "inspect", "score", "finish", "outcomes", "models", "train")
)
_MOST = 200_000  # bytes of one request
_START = 100.0  # seconds until a nursery has imported everything, on a busy machine
# Python and the libraries of the terminal read these when they are loaded.
_EARLY = ("PYTHON", "TERM", "COLUMNS", "NO_COLOR", "FORCE_COLOR")


def possible(env: Mapping[str, str]) -> bool:
    """Whether a process with this environment is the same when it is forked."""
    told = {name for name in env if name.startswith(_EARLY)}
    own = {name for name in os.environ if name.startswith(_EARLY)}
    taken_over = {"PYTHONUNBUFFERED"} | ({"PYTHONPATH"} - own)
    # What is in these is run when Python starts.
    customized = any(
        Path(folder, "sitecustomize.py").exists()
        for folder in env.get("PYTHONPATH", "").split(os.pathsep)
        if folder
    )
    return (
        sys.platform == "linux"
        and not customized
        and "PENSTOCK_TEST_NO_FORK" not in os.environ
        and all(env[name] == os.environ.get(name) for name in told - taken_over)
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
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as beside,
        ):
            for each, where in ((listener, path), (beside, _beside(path))):
                each.bind(str(where))
                each.listen(64)
            life, self._life = os.pipe()
            numbers = [listener.fileno(), beside.fileno(), life]
            process = subprocess.Popen(
                [sys.executable, __file__, *map(str, numbers)],
                pass_fds=numbers,
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
        """`python` with these arguments; nothing is on its standard input."""
        with Path(os.devnull).open("rb") as nothing:
            streams = (nothing.fileno(), stdout.fileno(), stderr.fileno())
            return Forked(arguments, _ask(self.path, arguments, env, str(cwd), streams))


NURSERY = Nursery()


def warm_pools(path: Callable[[], Path]) -> None:
    """Have this process's pools for predictions fork their processes.

    `path` answers the socket of the nursery. With PENSTOCK_TEST_NO_FORK in the environment, or
    with another program to boot, they start them the long way.
    """
    from penstock.predictions import pool

    long, boot = pool._start, pool._BOOT

    def start(end: int) -> Any:
        if boot != pool._BOOT or not possible(os.environ):
            return long(end)
        with Path(os.devnull).open("r+b") as nothing:
            streams = (nothing.fileno(), nothing.fileno(), 2, end)
            asked = _ask(_beside(path()), sys.path, os.environ, str(Path.cwd()), streams)
            return Forked(sys.path, asked)

    pool._start = start


def _beside(path: Path) -> Path:
    """The socket of the second nursery."""
    return path.with_name("b")


def _ask(
    path: Path, arguments: Sequence[str], env: Mapping[str, str], cwd: str, streams: Sequence[int]
) -> socket.socket:
    """A connection over which the process id comes, and at the end the exit code."""
    asked = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asked.connect(str(path))
    request = json.dumps([list(arguments), dict(env), cwd]).encode()
    socket.send_fds(asked, [request], list(streams))
    return asked


class Forked:
    """A process of the nursery's; as much of `subprocess.Popen` as tests use."""

    def __init__(self, arguments: Sequence[str], report: socket.socket) -> None:
        self.args = ["python", *arguments]
        self.returncode: int | None = None
        self._report = report
        self._lock = threading.Lock()
        told = self._told(_START)
        assert told is not None, f"the nursery has not answered within {_START:g} s"
        self.pid = told

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        with self._lock:
            if self.returncode is None and (code := self._told(0.0)) is not None:
                self.returncode = code
                self._report.close()
            return self.returncode

    def wait(self, timeout: float = math.inf) -> int:
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
            with contextlib.suppress(ProcessLookupError):  # buried, and the news is on its way
                os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9."""
        self.send_signal(signal.SIGKILL)

    async def ended(self) -> int:
        """The exit code; whoever waits for it here must not ask for it elsewhere meanwhile."""
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._report, over.set)
        try:
            await over.wait()
        finally:
            loop.remove_reader(self._report)
        code = self.poll()
        assert code is not None
        return code

    def _told(self, timeout: float) -> int | None:
        waiting = select.poll()  # unlike select() it takes descriptors above 1023
        waiting.register(self._report, select.POLLIN)
        if not waiting.poll(timeout * 1000):
            return None
        said = self._report.recv(64)
        assert said, "the nursery has died"
        return int(said)


# What `penstock` can be on the path of a shell: the nursery's child has its streams and folder.
SHIM = """#!{python} -IS
import array, json, os, signal, socket, sys
asked = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
asked.connect({path!r})
request = ["-m", "penstock", *sys.argv[1:]], dict(os.environ), os.getcwd()
request = json.dumps(request).encode()
streams = array.array("i", [0, 1, 2])
asked.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
pid = int(asked.recv(64))
def pass_on(number, _):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, pass_on)
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


def _nurse(
    listener: socket.socket, life: int, beside: socket.socket | None
) -> tuple[list[str], list[int]]:
    """Fork on request; returns in the children: their command, and streams beyond the usual."""
    reports: dict[int, socket.socket] = {}  # of each child: where to say its exit code
    wake, woken = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the tests, and they end this

    def leave() -> None:
        """Be a child: nothing of this is its own."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for shared in (listener, *reports.values()):
            shared.close()
        for descriptor in (wake, woken):
            os.close(descriptor)

    while True:
        others = [] if beside is None else [beside]
        ready, _, _ = select.select([listener, wake, life, *others, *reports.values()], [], [])
        if wake in ready:
            os.read(wake, 4096)
            _bury(reports)
        if life in ready:
            # Who started it may have been killed, and so nobody else ends them.
            for pid in reports:
                os.kill(pid, signal.SIGKILL)
            os._exit(0)
        for pid, report in list(reports.items()):
            if report in ready:  # it says nothing: who asked for the process has been killed
                with report:
                    del reports[pid]
                os.kill(pid, signal.SIGKILL)
        if beside in ready:
            assert beside is not None
            if os.fork() == 0:
                leave()
                _nurse_beside(beside, life)
            beside.close()
            beside = None
        if listener not in ready:
            continue
        report, _ = listener.accept()
        request, streams, _, _ = socket.recv_fds(report, _MOST, 4)
        if not request:  # who connected has been killed
            report.close()
            continue
        pid = os.fork()
        if pid == 0:
            leave()
            report.close()
            os.close(life)
            if beside is not None:
                beside.close()
            return _become(request, streams)
        reports[pid] = report
        for descriptor in streams:
            os.close(descriptor)
        with contextlib.suppress(OSError):  # who asked has been killed, which is seen above
            report.send(b"%d" % pid)


def _nurse_beside(listener: socket.socket, life: int) -> NoReturn:
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is loaded
    for name in _BESIDE:
        importlib.import_module(name)
    gc.freeze()
    path, (end,) = _nurse(listener, life, None)
    from penstock.predictions.beside.main import main

    os.setpgid(0, 0)
    sys.path[:] = path
    sys.argv = ["-c", str(end)]
    main()
    os._exit(0)


def _bury(reports: dict[int, socket.socket]) -> None:
    with contextlib.suppress(ChildProcessError):  # there is no more
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = ended
            if report := reports.pop(pid, None):
                with report, contextlib.suppress(OSError):  # nobody may wait for it
                    report.send(b"%d" % os.waitstatus_to_exitcode(status))


def _become(request: bytes, streams: Sequence[int]) -> tuple[list[str], list[int]]:
    arguments, env, cwd = json.loads(request)
    for number, stream in enumerate(streams[:3]):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[0] = cwd  # as `python -m` has it
    more = env.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [folder for folder in more if folder and folder not in sys.path]
    return arguments, list(streams[3:])


def _run(first: str, *rest: str) -> None:
    """What this child has become."""
    if not first.startswith("-"):
        sys.argv = [first, *rest]
        sys.path[0] = str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")
        return
    what, *_ = sys.argv = list(rest)
    if first == "-c":
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        exec(compile(what, "<string>", "exec"), module.__dict__)
    elif what == "penstock":  # which has been imported
        from penstock.cli import main

        main()
    else:
        runpy.run_module(what, run_name="__main__", alter_sys=True)


def _main() -> None:
    listener, beside = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    for name in _IMPORTED:
        importlib.import_module(name)
    from penstock.cli import program
    from penstock.storage import migrate

    program(alone=False)  # put together here once, not in each child
    program(alone=True)
    migrate.head()
    path = Path(listener.getsockname())
    warm_pools(lambda: path)
    gc.freeze()  # what all share is not looked through, and so not copied, in each child
    command, _ = _nurse(listener, int(sys.argv[3]), beside)
    _end(_code(lambda: _run(*command)))


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

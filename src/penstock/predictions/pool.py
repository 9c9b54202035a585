"""Processes beside the event loop: all that reads files, scores or trains runs in them.

The server itself imports neither numpy nor pyarrow, and nothing of theirs can hold up its event
loop. A process runs one function at a time, so that killing it, at a time limit or because nobody
waits any more, ends that function and nothing else. The processes are plain interpreters at the
end of a socket and share no lock with the server; they end when it does, however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, Final, TypeVar

from penstock.errors import NotFound, PenstockError, StorageFull, StorageUnavailable
from penstock.predictions.refusal import MissingExtra, Question, Unusable

T = TypeVar("T")

IDLE: Final = 60.0  # seconds after which a process that nobody needs is ended
# sys.path is handed on: what the parent can import, the child can.
_BOOT: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop());"
    " from penstock.predictions.beside.main import main; main()"
)


class ProcessDied(PenstockError):
    """The process that did the work ended before its time."""


class NotBegun(ProcessDied):
    """It ended before it began the work."""


class Failed(PenstockError):
    """The work raised what it should not; the message is the exception's."""


class Pool:
    """Up to `size` processes, started as they are needed, used again, ended when idle."""

    def __init__(self, size: int) -> None:
        self._free = asyncio.Semaphore(size)
        # Their threads wait for the answers; two more for those that end meanwhile.
        self._threads = ThreadPoolExecutor(size + 2, thread_name_prefix="predictions")
        self._idle: list[_Child] = []

    async def run(self, function: str, /, *args: Any, within: float) -> Any:
        """Call ``module:name`` of `penstock.predictions.beside` in a process.

        Raises what the function refused (`Unusable`, `Question`, `MissingExtra`, NotFound),
        StorageFull and StorageUnavailable if objects could not be read or written, TimeoutError
        after so many seconds, `ProcessDied`, `Failed`.
        """
        async with self._free:
            request = (function, args)
            if used := self._take():
                # One that was killed while it was idle may not be seen to be dead yet.
                with contextlib.suppress(NotBegun):
                    return _result(*await self._ask(used, request, within))
            return _result(*await self._ask(await self._begin(), request, within))

    async def close(self) -> None:
        """End the processes; one that is busy is killed when whoever waits for it is cancelled."""
        for child in self._idle:
            self._discard(child)
        self._idle.clear()
        await asyncio.to_thread(self._threads.shutdown)

    async def _ask(self, child: _Child, request: Any, within: float) -> tuple[str, Any]:
        try:
            async with asyncio.timeout(within):
                answer: tuple[str, Any] = await self._call(child.ask, request)
        except (EOFError, OSError) as exc:
            if isinstance(exc, TimeoutError):
                self._discard(child)
                raise
            died = ProcessDied if child.begun else NotBegun
            raise died(await self._call(child.end)) from None
        except BaseException:
            self._discard(child)
            raise
        self._keep(child)
        return answer

    async def _call(self, function: Any, *args: Any) -> Any:
        return await _shielded(self._threads.submit(function, *args))

    async def _begin(self) -> _Child:
        beginning = self._threads.submit(_Child)
        try:
            return await _shielded(beginning)
        except asyncio.CancelledError:
            # It begins all the same, and nobody else would end it.
            beginning.add_done_callback(_end)
            raise

    def _take(self) -> _Child | None:
        while self._idle:
            child = self._idle.pop()
            if child.retire is not None:
                child.retire.cancel()
            if child.process.poll() is None:
                return child
            self._discard(child)  # something killed it while it was idle
        return None

    def _keep(self, child: _Child) -> None:
        def retire() -> None:
            if child in self._idle:
                self._idle.remove(child)
                self._discard(child)

        self._idle.append(child)
        child.retire = asyncio.get_running_loop().call_later(IDLE, retire)

    def _discard(self, child: _Child) -> None:
        if child.retire is not None:
            child.retire.cancel()
        child.process.kill()
        # Reaped beside the loop: a large process takes a while to die.
        self._threads.submit(child.end)


class _Child:
    """One process. Its methods block."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.connection = Connection(ours.detach())
        self.retire: asyncio.TimerHandle | None = None
        self.begun = False
        try:
            with theirs:
                self.process = _start(theirs.fileno())
        except BaseException:
            self.connection.close()
            raise

    def ask(self, request: Any) -> tuple[str, Any]:
        """Send a request and wait for its answer; `begun` says whether that is being made."""
        self.begun = False
        self.connection.send(request)
        self.connection.recv()
        self.begun = True
        kind, value = self.connection.recv()
        return kind, value

    def end(self) -> str:
        """Wait for its end, which has come or is to be made; answers how it ended."""
        self.process.kill()
        code = self.process.wait()
        with contextlib.suppress(OSError):
            self.connection.close()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"the process that did the work ended with {how}"


async def _shielded(work: Future[T]) -> T:
    future = asyncio.wrap_future(work)
    # If nobody waits any more, nobody need hear how it ended.
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(future)


def _end(beginning: Future[_Child]) -> None:
    if beginning.exception() is None:
        beginning.result().end()


def _start(end: int) -> subprocess.Popen[bytes]:
    """A process that serves the socket of that number."""
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", _BOOT, str(end), json.dumps(sys.path)],
        pass_fds=[end],
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        # Of its own group, so that Ctrl-C at a terminal reaches the parent only.
        process_group=0,
    )


def _environment() -> dict[str, str]:
    # One function at a time is one core's work; what has threads of its own says so itself.
    return {**os.environ, "OPENBLAS_NUM_THREADS": "1"}


def _result(kind: str, value: Any) -> Any:
    match kind:
        case "value":
            return value
        case "unusable":
            raise Unusable(*value)
        case "question":
            raise Question(*value)
        case "missing":
            raise MissingExtra(value)
        case "not found":
            raise NotFound(value)
        case "full":
            raise StorageFull(value)
        case "unavailable":
            raise StorageUnavailable(value)
        case _:
            raise Failed(value)

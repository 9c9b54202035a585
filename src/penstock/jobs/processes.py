"""Processes for functions that compute, or that must be stoppable.

Each child runs one job at a time, so that killing it at the timeout ends that job and
nothing else. Children are plain interpreters at the end of a socket, not forks: they share
no lock, no connection and no thread with the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from penstock.jobs.child import LENGTH
from penstock.jobs.context import JobContext
from penstock.jobs.job import Job
from penstock.jobs.threads import NoRoom

WAIT: Final = 10.0  # seconds that a job waits for a process before it is put off
START: Final = 60.0  # seconds for the interpreter to start and import the job's module
# sys.path is handed on: what the parent can import, the child can.
_BOOT: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop());"
    " from penstock.jobs.child import main; main()"
)


class ProcessDied(Exception):
    """The process that ran the job ended unexpectedly."""


class NotBegun(ProcessDied):
    """It ended before the job began."""


class Processes:
    """Up to `size` processes, started as they are needed and used again.

    `environment` is added to the children's: that is how the app in them finds the
    database that this process uses.
    """

    def __init__(self, size: int, environment: Mapping[str, str] | None = None) -> None:
        self._size = size
        self._environment = dict(environment or {})
        self._free = asyncio.Semaphore(size)
        self._idle: list[_Child] = []
        self._reaping: set[asyncio.Future[int]] = set()

    async def run(
        self, job: Job[..., Any], context: JobContext, args: str, limit: float
    ) -> dict[str, Any]:
        """The child's reply. TimeoutError after `limit` seconds; NoRoom, ProcessDied."""
        try:
            async with asyncio.timeout(WAIT):
                await self._free.acquire()
        except TimeoutError:
            raise NoRoom(f"all {self._size} processes are busy") from None
        try:
            return await self._run(job, context, args, limit)
        finally:
            self._free.release()

    async def close(self) -> None:
        """End the children; one that is busy is killed."""
        for child in self._idle:
            self._discard(child)
        self._idle.clear()
        if self._reaping:
            await asyncio.wait(self._reaping)

    async def _run(
        self, job: Job[..., Any], context: JobContext, args: str, limit: float
    ) -> dict[str, Any]:
        request = {
            "module": job.function.__module__,
            "qualname": job.function.__qualname__,
            "main": getattr(sys.modules["__main__"], "__file__", None),
            "context": asdict(context),
            "timeout": limit,
            "args": args,
        }
        if used := self._take():
            # One that was killed while it was idle may not be seen to be dead yet. The job has
            # not run, so this is none of its attempts.
            with contextlib.suppress(NotBegun):
                return await self._ask(used, request, limit)
        return await self._ask(await _start(self._environment), request, limit)

    async def _ask(self, child: _Child, request: dict[str, Any], limit: float) -> dict[str, Any]:
        begun = False
        try:
            child.send(request)
            async with asyncio.timeout(START) as starting:
                reply = await child.receive()
            if "started" in reply:
                begun = True
                async with asyncio.timeout(limit):
                    reply = await child.receive()
        except BaseException as exc:
            self._discard(child)
            if isinstance(exc, TimeoutError) and starting.expired():
                raise ProcessDied(f"it did not start within {START:g} s") from None
            if isinstance(exc, EOFError | ConnectionError):
                code = await asyncio.to_thread(child.process.wait)
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                died = ProcessDied if begun else NotBegun
                raise died(f"the process that ran it ended with {how}") from None
            raise
        self._idle.append(child)
        return reply

    def _take(self) -> _Child | None:
        while self._idle:
            child = self._idle.pop()
            if child.process.poll() is None:
                return child
            child.writer.transport.abort()  # something killed it while it was idle
        return None

    def _discard(self, child: _Child) -> None:
        child.writer.transport.abort()
        child.process.kill()
        # Reaped beside the loop: a large process takes a while to die.
        waiting = asyncio.get_running_loop().run_in_executor(None, child.process.wait)
        self._reaping.add(waiting)
        waiting.add_done_callback(self._reaping.discard)


class _Child:
    __slots__ = ("process", "reader", "writer")

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.process = process
        self.reader = reader
        self.writer = writer

    def send(self, request: dict[str, Any]) -> None:
        body = json.dumps(request).encode()
        self.writer.write(LENGTH.pack(len(body)) + body)

    async def receive(self) -> dict[str, Any]:
        (size,) = LENGTH.unpack(await self.reader.readexactly(LENGTH.size))
        reply: dict[str, Any] = json.loads(await self.reader.readexactly(size))
        return reply


async def _start(environment: Mapping[str, str]) -> _Child:
    ours, theirs = socket.socketpair()
    with theirs:
        # Nothing is awaited once there is a process: cancelled, this would leave it to itself.
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        try:
            process = subprocess.Popen(  # noqa: ASYNC220, S603 - a fork of a millisecond
                [sys.executable, "-c", _BOOT, str(theirs.fileno()), json.dumps(sys.path)],
                pass_fds=[theirs.fileno()],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                # Of its own group, so that Ctrl-C at a terminal reaches the parent only.
                process_group=0,
            )
        except BaseException:
            writer.transport.abort()
            raise
    return _Child(process, reader, writer)

"""Threads for the user's synchronous functions.

A thread cannot be stopped from outside. One that runs past its job's timeout is left to
itself: its job is settled as timed out, and its place stays taken until it returns. The
threads are daemons, so that one that never returns does not keep the process from exiting;
`concurrent.futures` would wait for it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any


class NoRoom(Exception):
    """Every place is taken by a job that has not ended."""


class Escaped(Exception):
    """The function raised what is not for an event loop to see, such as SystemExit."""


_Work = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


class Threads:
    """Up to `size` threads, started as they are needed. Used from one event loop."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._busy = 0
        self._started = 0
        self._work: SimpleQueue[_Work | None] = SimpleQueue()

    @property
    def busy(self) -> int:
        """How many functions are running, those that were given up included."""
        return self._busy

    async def run(self, function: Callable[[], Any]) -> Any:
        """Call `function` in a thread. Cancelled, it leaves the thread running. NoRoom."""
        if self._busy >= self._size:
            raise NoRoom(f"all {self._size} threads are taken by functions that do not return")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._busy += 1
        if self._busy > self._started:
            self._started += 1
            name = f"penstock-job-{self._started}"
            threading.Thread(target=self._serve, name=name, daemon=True).start()
        self._work.put((function, loop, future))
        return await future

    def close(self) -> None:
        """Let idle threads end; busy ones end after what they do."""
        for _ in range(self._started):
            self._work.put(None)
        self._started = 0

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            function, loop, future = work
            result: Any = None
            error: BaseException | None = None
            try:
                result = function()
            except BaseException as exc:
                error = exc
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._finish, future, result, error)
            del work, function, future, result, error

    def _finish(
        self, future: asyncio.Future[Any], result: Any, error: BaseException | None
    ) -> None:
        self._busy -= 1
        if future.done():  # given up
            return
        if error is None:
            future.set_result(result)
        elif isinstance(error, Exception) and not isinstance(error, StopIteration):
            future.set_exception(error)
        else:  # a future refuses StopIteration, and SystemExit would end the loop
            future.set_exception(Escaped(f"{type(error).__name__}: {error}"))

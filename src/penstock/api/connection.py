"""One connection of a client: how large a request's head may be, and how slowly it may come.

uvicorn bounds neither: a client could fill the memory with headers that never end, or hold any
number of connections open by sending a byte now and then. Here a head ends after `MOST_HEAD`
bytes, and while a request is coming in, each `WINDOW` must bring at least `LEAST` bytes of it or
its end. What is not HTTP at all is answered with a problem, like everything else.
"""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from penstock.api import problems
from penstock.api.problems import Problem
from penstock.ids import new_id

MOST_HEAD: Final = 64 * 1024  # bytes of the request line and all headers
WINDOW: Final = 20.0  # seconds
LEAST: Final = 10 * 1024  # bytes in each window


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, with bounds."""

    _arriving = True  # a request is coming in, or none has begun yet
    _in_head = True
    _head = 0  # bytes
    _in_window = 0  # bytes
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client that connects and says nothing is watched too."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(WINDOW, self._judge)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; then count what belongs to a request that is not complete yet."""
        super().data_received(data)
        if not self._arriving or self.transport.is_closing():
            return
        self._in_window += len(data)
        if self._in_head:
            self._head += len(data)
            if self._head > MOST_HEAD:
                limit = f"The request line and headers may have at most {MOST_HEAD} bytes."
                self._refuse(Problem("head_too_large", limit))
                return
        if self._timer is None:
            self._timer = self.loop.call_later(WINDOW, self._judge)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._arriving = self._in_head = True
        self._head = self._in_window = 0

    def on_headers_complete(self) -> None:
        """Its head is complete."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """All of it is there."""
        self._arriving = False
        self._unwatch()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What came is not HTTP."""
        self._refuse(Problem("bad_request", "This is not a request of HTTP/1.1."))

    def _judge(self) -> None:
        self._timer = None
        if not self._arriving or self.transport.is_closing():
            return
        # Reading is paused while the application is busy with what has come: no fault of theirs.
        if self._in_window < LEAST and not self.flow.read_paused:
            if self._in_head and self._head:
                self._refuse(Problem("too_slow", f"Nothing complete came in {WINDOW:g} s."))
            else:  # nobody waits for an answer, or the application is about to give one
                self.transport.close()
            return
        self._in_window = 0
        self._timer = self.loop.call_later(WINDOW, self._judge)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, problem: Problem) -> None:
        request_id = new_id("req")
        body = problems.body(problem, instance=None, request_id=request_id)
        head = (
            f"HTTP/1.1 {problem.status_code} {problems.PROBLEMS[problem.code].title}\r\n"
            f"content-type: {problems.MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
            f"x-request-id: {request_id}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()

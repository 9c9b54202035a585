"""An endpoint that costs nearly nothing: it answers 200 to whatever comes, and keeps count.

``POST`` counts a delivery; ``GET /`` answers the counts since the last ``GET /reset``. Where a
body carries ``"sent":1<µs of the monotonic clock, in 15 digits>`` the time from there to its
arrival is kept: on Linux all processes share that clock. Prints its URL when it listens.
"""

from __future__ import annotations

import asyncio
import json
import re
import time

from bench.http import percentiles

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_ID = re.compile(rb'"event_id": ?"([^"]+)"')
_SENT = re.compile(rb'"sent": ?1([0-9]{15})')
_OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Counts:
    """What came in."""

    def __init__(self) -> None:
        self.ids: set[bytes] = set()
        self.received = 0
        self.latencies: list[float] = []
        self.first = self.last = 0.0

    def count(self, body: bytes) -> None:
        now = time.monotonic()
        self.first = self.first or now
        self.received += 1
        found = _ID.search(body)
        identity = found[1] if found is not None else b"%d" % self.received
        if identity in self.ids:
            return
        self.ids.add(identity)
        self.last = now
        sent = _SENT.search(body)
        if sent is not None:
            self.latencies.append(now - int(sent[1]) / 1e6)

    def report(self) -> dict[str, float]:
        return {
            "received": self.received,
            "unique": len(self.ids),
            "first": self.first,
            "last": self.last,
            **percentiles(self.latencies),
        }


counts = Counts()


class Endpoint(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        global counts
        self._buffer = data = self._buffer + data if self._buffer else data
        head = data.find(b"\r\n\r\n")
        if head < 0:
            return
        length = _LENGTH.search(data, 0, head + 2)
        end = head + 4 + (int(length[1]) if length is not None else 0)
        if len(data) < end:
            return
        self._buffer = b""
        if data.startswith(b"POST"):
            counts.count(data[head + 4 : end])
            self._transport.write(_OK)
            return
        answer = json.dumps(counts.report()).encode()
        if data.startswith(b"GET /reset"):
            counts = Counts()
        head_ = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head_ % len(answer) + answer)


async def serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Endpoint, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())

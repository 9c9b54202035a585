"""A load generator: keep-alive connections on raw sockets, no pipelining.

It parses no more of an answer than its status and its length, so that it costs a fraction of
what it measures. Run as a process of its own (``python -m bench.http``), with a JSON job on
standard input and a JSON report on standard output.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_STAMP = b"1" + b"0" * 15  # replaced by as many digits, so that a body's length stays
SENT = int(_STAMP)


@dataclass
class Job:
    """What to send. `rate` None = each connection sends as soon as it was answered; otherwise
    so many requests a second, on schedule, whether or not earlier ones were answered. The number
    `SENT` in a body becomes the request's intended start, in µs of the monotonic clock."""

    url: str
    bodies: list[str]
    headers: dict[str, str] = field(default_factory=dict)
    connections: int = 32
    seconds: float | None = None
    requests: int | None = None
    rate: float | None = None


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, answered: Callable[[Connection, int, float], None]) -> None:
        self._answered = answered
        self._buffer = b""
        self._began = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def send(self, request: bytes, began: float) -> None:
        """`began`: when the request was meant to go out; latency counts from there."""
        self._began = began
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer = data = self._buffer + data if self._buffer else data
        head = data.find(b"\r\n\r\n")
        if head < 0:
            return
        length = _LENGTH.search(data, 0, head + 2)
        assert length is not None, f"an answer without a length: {data[:200]!r}"
        if len(data) < head + 4 + int(length[1]):
            return
        self._buffer = b""
        self._answered(self, int(data[9:12]), time.monotonic() - self._began)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._began:
            print(f"the server closed a connection: {exc}", file=sys.stderr)

    def close(self) -> None:
        self._began = 0.0
        self._transport.close()


async def run(job: Job) -> dict[str, Any]:
    """Send, and report answers a second, statuses, and latency in milliseconds."""
    target = urlsplit(job.url)
    requests = [_request(target.netloc, target.path, job.headers, body) for body in job.bodies]
    stamped = any(_STAMP in request for request in requests)
    loop = asyncio.get_running_loop()
    idle: deque[Connection] = deque()
    waiting: deque[float] = deque()  # intended starts for which no connection was free
    latencies: list[float] = []
    statuses: Counter[int] = Counter()
    finished = loop.create_future()
    sent = 0
    ending = False

    def answered(connection: Connection, status: int, seconds: float) -> None:
        latencies.append(seconds)
        statuses[status] += 1
        if waiting:
            send(connection, waiting.popleft())
        elif job.rate is None and not ending:
            send(connection, time.monotonic())
        else:
            idle.append(connection)
            if ending and len(idle) == job.connections and not finished.done():
                finished.set_result(None)

    def send(connection: Connection, began: float) -> None:
        nonlocal sent, ending
        request = requests[sent % len(requests)]
        if stamped:
            request = request.replace(_STAMP, b"1%015d" % (began * 1e6))
        connection.send(request, began)
        sent += 1
        if job.rate is None and sent == job.requests:
            ending = True

    host, port = target.hostname or "127.0.0.1", target.port or 80
    for _ in range(job.connections):
        _, connection = await loop.create_connection(lambda: Connection(answered), host, port)
        idle.append(connection)
    everyone = list(idle)
    began = time.monotonic()
    if job.rate is None:
        for _ in range(min(job.connections, job.requests or job.connections)):
            send(idle.popleft(), began)
        if job.seconds is not None:
            await asyncio.sleep(job.seconds)
            ending = True
    else:
        total = job.requests or int(job.rate * (job.seconds or 0))
        for number in range(total):
            intended = began + number / job.rate
            while (wait := intended - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            if idle:
                send(idle.popleft(), intended)
            else:
                waiting.append(intended)
        ending = True
        if len(idle) == job.connections:
            finished.set_result(None)
    await finished
    seconds = time.monotonic() - began
    for connection in everyone:
        connection.close()
    return {
        "requests": len(latencies),
        "seconds": seconds,
        "per_second": len(latencies) / seconds,
        "statuses": dict(statuses),
        "began": began,
        **percentiles(latencies),
    }


def percentiles(latencies: list[float]) -> dict[str, float]:
    """In milliseconds."""
    ordered = sorted(latencies) or [0.0]
    pick = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
    last = len(ordered) - 1
    return {name: ordered[round(last * q)] * 1e3 for name, q in pick.items()}


def as_json(job: Job) -> str:
    """For the standard input of ``python -m bench.http``."""
    return json.dumps(asdict(job))


def _request(host: str, path: str, headers: dict[str, str], body: str) -> bytes:
    content = body.encode()
    lines = [f"POST {path} HTTP/1.1", f"host: {host}", "content-type: application/json"]
    lines += [f"content-length: {len(content)}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + content


def main() -> None:
    import uvloop

    job = Job(**json.load(sys.stdin))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        json.dump(runner.run(run(job)), sys.stdout)


if __name__ == "__main__":
    main()

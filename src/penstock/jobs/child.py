"""What runs in a process of the pool: one job after another, as the parent sends them.

A frame is a length of four bytes and that many bytes of JSON. The parent sends a request;
the child answers ``{"started": true}`` once the function could be imported and then the
outcome. When the parent is gone the child ends at once, whatever it is doing.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import json
import os
import queue
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from penstock.jobs.arguments import dump_result
from penstock.jobs.context import JobContext, running
from penstock.jobs.job import Job
from penstock.work.outcomes import Dead, Done, Outcome, Postpone, Retry

LENGTH: Final = struct.Struct("!I")
# The module that the parent was started with, where it is known by another name than
# __main__; under this name its `if __name__ == "__main__":` stays quiet.
MAIN: Final = "__penstock_main__"


def main() -> None:
    """Serve the parent at the socket whose number is the first argument."""
    # The parent drains on these and tells us; a handler instead of SIG_IGN is not inherited
    # by programs that a job starts.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    connection = socket.socket(fileno=int(sys.argv[1]))
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, requests), daemon=True).start()
    while True:
        _serve(connection, requests.get())


def _receive(connection: socket.socket, requests: queue.SimpleQueue[dict[str, Any]]) -> None:
    stream = connection.makefile("rb")
    # A parent that dies with an answer of ours unread resets the connection.
    with contextlib.suppress(OSError):
        while len(head := stream.read(LENGTH.size)) == LENGTH.size:
            requests.put(json.loads(stream.read(*LENGTH.unpack(head))))
    os._exit(0)  # the parent closed its end, or died


def _serve(connection: socket.socket, request: dict[str, Any]) -> None:
    try:
        job = find(request["module"], request["qualname"], request["main"])
        args, kwargs = job.arguments.load(request["args"])
    except BaseException as exc:
        _send(connection, _error(exc, retry=True))
        return
    _send(connection, {"started": True})
    deadline = time.monotonic() + request["timeout"]
    token = running.set(JobContext(**{**request["context"], "deadline": deadline}))
    try:
        value = job.function(*args, **kwargs)
        reply = encode(asyncio.run(value) if job.is_async else value)
    except BaseException as exc:
        reply = _error(exc, retry=job.settings.retryable(exc))
    finally:
        running.reset(token)
    _send(connection, reply)


def find(module: str, qualname: str, main: str | None) -> Job[..., Any]:
    """The job where it was defined. `main` is the path of a module that ran as __main__."""
    found: Any = _main(main) if module == "__main__" else importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name)
    if not isinstance(found, Job):
        raise TypeError(f"{module}.{qualname} is not a job in a process of its own")
    return found


def _main(path: str | None) -> Any:
    if MAIN not in sys.modules:
        spec = importlib.util.spec_from_file_location(MAIN, path) if path else None
        if spec is None or spec.loader is None:
            raise ImportError("a job with process=True must be defined in a file")
        module = sys.modules[MAIN] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[MAIN]
            raise
    return sys.modules[MAIN]


def encode(value: object) -> dict[str, Any]:
    """What a function returned, as a reply."""
    if isinstance(value, Done | Retry | Postpone | Dead):
        if value.apply is not None:
            error = "an outcome's apply cannot leave its process; use it without process=True"
            return {"error": f"TypeError: {error}", "retry": False, "traceback": ""}
        fields = {k: v for k, v in asdict(value).items() if k != "apply"}
        if isinstance(fields.get("until"), datetime):
            fields["until"] = fields["until"].isoformat()
        return {"outcome": type(value).__name__, "fields": fields}
    try:
        return {"result": dump_result(value)}
    except ValueError as exc:
        return {"result": None, "dropped": str(exc)}


def decode(reply: dict[str, Any]) -> Outcome:
    """The outcome of a reply that has one."""
    fields = reply["fields"]
    if isinstance(fields.get("until"), str):
        fields["until"] = datetime.fromisoformat(fields["until"])
    kinds: dict[str, type[Outcome]] = {k.__name__: k for k in (Done, Retry, Postpone, Dead)}
    return kinds[reply["outcome"]](**fields)


def _error(exc: BaseException, *, retry: bool) -> dict[str, Any]:
    return {
        "error": f"{type(exc).__name__}: {exc}",
        "retry": retry,
        "traceback": "".join(traceback.format_exception(exc)),
    }


def _send(connection: socket.socket, reply: dict[str, Any]) -> None:
    body = json.dumps(reply).encode()
    connection.sendall(LENGTH.pack(len(body)) + body)

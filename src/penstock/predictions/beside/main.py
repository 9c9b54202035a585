"""A process of the pool: it serves its parent, one function after another, until that is gone.

It sends two things for each request: None as it begins, then the answer.
"""

from __future__ import annotations

import importlib
import os
import queue
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

from penstock.errors import NotFound, StorageFull, StorageUnavailable
from penstock.predictions.refusal import MissingExtra, Question, Unusable

NICE = 5  # the server's own process goes before


def main() -> None:
    """Serve the parent at the socket whose number is the first argument."""
    # The parent drains on these and ends us; a handler instead of SIG_IGN is not inherited.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    os.nice(NICE)
    connection = Connection(int(sys.argv[1]))
    requests: queue.SimpleQueue[tuple[str, tuple[Any, ...]]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, requests), daemon=True).start()
    while True:
        function, args = requests.get()
        connection.send(None)
        connection.send(_answer(function, args))


def _receive(
    connection: Connection, requests: queue.SimpleQueue[tuple[str, tuple[Any, ...]]]
) -> None:
    while True:
        try:
            requests.put(connection.recv())
        except (EOFError, OSError):
            os._exit(0)  # the parent closed its end, or died: nobody waits for what is under way


def _answer(function: str, args: tuple[Any, ...]) -> tuple[str, Any]:
    try:
        module, _, name = function.partition(":")
        found = getattr(importlib.import_module(f"penstock.predictions.beside.{module}"), name)
        return "value", found(*args)
    except Question as exc:
        return "question", (exc.code, exc.message, exc.option, exc.answers)
    except Unusable as exc:
        return "unusable", (exc.code, exc.message)
    except MissingExtra as exc:
        return "missing", str(exc)
    except NotFound as exc:
        return "not found", str(exc)
    except StorageFull as exc:
        return "full", str(exc)
    except StorageUnavailable as exc:
        return "unavailable", str(exc)
    except BaseException as exc:
        traceback.print_exc()
        return "failed", f"{type(exc).__name__}: {exc}"

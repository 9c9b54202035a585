"""The client that blocks, on the standard library's HTTP."""

from __future__ import annotations

import http.client
import selectors
import time
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from penstock.client.base import BaseClient
from penstock.client.calls import Answer, Call, Lost, Tries, describe, headers, moved
from penstock.client.endpoints import Endpoints
from penstock.client.events import Events
from penstock.client.inbox import Inbox
from penstock.client.keys import Keys
from penstock.client.models import Models
from penstock.client.outbox import Outbox
from penstock.client.predictions import Predictions, Uploads
from penstock.client.replays import Replays
from penstock.client.shipments import Shipments

T = TypeVar("T")


class Client(BaseClient):
    """Talks to one server; threads may share it. To be closed, or used by ``with``."""

    def _set_up(self) -> None:
        parts = urlsplit(self._address.url)
        secure = parts.scheme == "https"
        self._connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self._host, self._port, self._prefix = parts.hostname or "", parts.port, parts.path
        self._idle: deque[http.client.HTTPConnection] = deque()
        self.events = Events(self)
        self.endpoints = Endpoints(self)
        self.inbox = Inbox(self)
        self.replays = Replays(self)
        self.outbox = Outbox(self)
        self.keys = Keys(self)
        self.shipments = Shipments(self)
        self.uploads = Uploads(self)
        self.predictions = Predictions(self)
        self.models = Models(self)

    def call(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """The JSON that any route answers; `more` is `query`, `headers`, `repeatable`, `held`."""
        return self.run(describe(method, path, body, **more))

    def run(self, call: Call[T]) -> T:
        """Carry out a call, with its retries."""
        tries = Tries(call, self.url, self._retries)
        while True:
            outcome = self._send(call)
            pause = tries.after(outcome)
            if isinstance(outcome, Answer) and pause is None:
                return call.read(outcome)
            time.sleep(pause or 0)

    def close(self) -> None:
        """Close its connections; a later call opens a new one."""
        while self._idle:
            self._idle.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, call: Call[Any]) -> Answer | Lost:
        content = call.content()
        connection = self._connection(call)
        reusable = sent = False
        try:
            if connection.sock is None:
                connection.connect()
            sent = True
            connection.sock.settimeout(self._timeout + call.held)
            # A server may answer and hang up before it read all; the answer says why.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request(
                    call.method,
                    self._prefix + call.target(),
                    body=content,
                    headers=headers(call, self._address.key),
                )
            response = connection.getresponse()
            lowered = {name.lower(): value for name, value in response.getheaders()}
            answer = Answer(response.status, lowered, response.read())
            reusable = not response.will_close
        except (OSError, http.client.HTTPException) as exc:
            return Lost(str(exc) or type(exc).__name__, sent)
        finally:
            if reusable:
                self._idle.append(connection)
            else:
                connection.close()
        elsewhere = moved(call, answer)
        return answer if elsewhere is None else self._fetch(elsewhere)

    def _fetch(self, url: str) -> Answer | Lost:
        """What is somewhere else, for whoever knows the address: no credential goes there."""
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self._timeout)
        try:
            connection.request("GET", f"{parts.path}?{parts.query}")
            response = connection.getresponse()
            lowered = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, lowered, response.read())
        except (OSError, http.client.HTTPException) as exc:
            return Lost(str(exc) or type(exc).__name__, sent=True)
        finally:
            connection.close()

    def _connection(self, call: Call[Any]) -> http.client.HTTPConnection:
        # What cannot be repeated must not meet a connection that the server is just closing.
        while call.repeatable:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if not _closed(connection):
                return connection
            connection.close()
        return self._connect(self._host, self._port, timeout=self._timeout)


def _closed(connection: http.client.HTTPConnection) -> bool:
    """Whether the server has closed it: nothing else makes an idle connection readable."""
    with selectors.DefaultSelector() as selector:
        selector.register(connection.sock, selectors.EVENT_READ)
        return bool(selector.select(0))

"""A client of the API for tests: answers as values, problems among them."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The stable code of a problem."""
        assert self.headers["content-type"] == "application/problem+json", self.body
        document = self.json
        assert document["status"] == self.status
        assert document["detail"]
        return str(document["code"])


class Api:
    """Calls one server with one credential."""

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url
        self.token = token
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=60),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        data: Any = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request. `body` is sent as JSON, `data` as it is."""
        sent = dict(headers or {})
        if self.token is not None:
            sent.setdefault("authorization", f"Bearer {self.token}")
        if body is not None:
            data = json.dumps(body).encode()
            sent.setdefault("content-type", "application/json")
        if isinstance(data, bytes):
            data = io.BytesIO(data)  # aiohttp warns of large bytes
        async with self._session.request(
            method, self.url + path, data=data, headers=sent, params=query
        ) as response:
            raw = await response.read()
            lowered = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, lowered, raw)

    async def ok(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """The JSON of an answer that must be a success."""
        answer = await self.call(method, path, body, **more)
        assert answer.status < 300, (method, path, answer.status, answer.body)
        return answer.json if answer.body else None

    async def endpoint(self, target: str, *event_types: str, **fields: Any) -> dict[str, Any]:
        """Add an endpoint; the answer, its secret included."""
        body = {"target": target, "event_types": list(event_types) or ["*"], **fields}
        made: dict[str, Any] = await self.ok("POST", "/v1/endpoints", body)
        return made

    async def send(
        self, event_type: str, payload: Any = None, *, wait: float = 0, **fields: Any
    ) -> dict[str, Any]:
        """Send an event, which must be accepted."""
        body = {"event_type": event_type, "payload": payload or {}, **fields}
        headers = {"prefer": f"wait={wait:g}"} if wait else {}
        answer = await self.call("POST", "/v1/events", body, headers=headers)
        assert answer.status == 202, answer.body
        sent: dict[str, Any] = answer.json
        return sent

    async def event(self, event_id: str) -> dict[str, Any]:
        found: dict[str, Any] = await self.ok("GET", f"/v1/events/{event_id}")
        return found

    async def final(self, event_id: str, seconds: float = 60.0) -> dict[str, Any]:
        """The event once it is not pending any more."""
        deadline = time.monotonic() + seconds
        while True:
            found = await self.event(event_id)
            if found["status"] != "pending":
                return found
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.03)

    async def settled(self, event_id: str, attempts: int, seconds: float = 60.0) -> dict[str, Any]:
        """The event once so many attempts at it are logged."""
        deadline = time.monotonic() + seconds
        while True:
            found = await self.event(event_id)
            if found["delivery_attempts"] >= attempts:
                return found
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.03)

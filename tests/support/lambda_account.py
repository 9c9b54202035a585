"""What an account on AWS has of Penstock: a database, queues, functions on both, and a gateway."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg

from penstock.api import keys
from penstock.clock import SystemClock
from penstock.storage.postgres import PostgresDatabase
from support.house import queue_settings
from support.lambda_runtime import Function
from support.sqs_server import ENVIRONMENT, REGION, SqsServer

HANDLERS = "penstock.aws.lambda_handlers"
QUEUES = ("events", "tracking", "jobs")


class Account:
    """A database, queues, and functions on both."""

    def __init__(
        self,
        sqs: SqsServer,
        url: str,
        folder: Path,
        stack: AsyncExitStack,
        *,
        receives: int = 10,
    ) -> None:
        self.sqs = sqs
        self.url = url
        self._folder = folder
        self._stack = stack
        self.env = {
            **ENVIRONMENT,
            "PENSTOCK_DATABASE_URL": url,
            "PENSTOCK_DATABASE_THREADS": "2",
            "PENSTOCK_SECRET_KEY": "s" * 32,
            "PENSTOCK_SERVICES": "events,tracking",
            "PENSTOCK_WAKEUPS": "sqs",
            "PENSTOCK_AWS_REGION": REGION,
            "PENSTOCK_AWS_ENDPOINT_URL": sqs.url,
            "PENSTOCK_LOG_FORMAT": "json",
            "PENSTOCK_METRICS": "emf",
            "PENSTOCK_METRICS_NAMESPACE": "Penstock/test",
            "PENSTOCK_LOG_LEVEL": "debug",
            "PENSTOCK_ALLOW_PRIVATE_TARGETS": "127.0.0.0/8",  # functions allow none by themselves
            **queue_settings(sqs, receives=receives, visibility=360, queues=QUEUES),
        }

    async def function(
        self,
        handler: str,
        *,
        timeout: float = 60.0,
        module: str = HANDLERS,
        forked: bool = True,
        **env: str,
    ) -> Function:
        code = self.code(handler)
        made = Function(
            f"{module}.{handler}",
            self._folder / f"{module}.{handler}",
            self.env | env,
            timeout=timeout,
            forked=forked and not code,
            **code,
        )
        return await self._stack.enter_async_context(made)

    def code(self, handler: str) -> dict[str, Any]:
        """Where a function's code is, if it is not this Python's."""
        return {}

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(query)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    @property
    def lanes(self) -> list[str]:
        """Those of endpoints."""
        found = self.rows("SELECT id FROM lanes WHERE kind = 'delivery' ORDER BY id")
        return [lane for (lane,) in found]


def wake(lane: str, kind: str = "delivery") -> str:
    return json.dumps({"v": 1, "kind": kind, "lane": lane})


class Gateway:
    """The HTTP API behind API Gateway, as the owner of a key."""

    def __init__(self, function: Function, key: str) -> None:
        self.function = function
        self.key = key

    async def ok(self, method: str, path: str, body: Any = None) -> Any:
        answer = await call(self.function, self.key, method, path, body)
        assert answer["statusCode"] < 300, answer
        return json.loads(answer["body"])

    async def endpoint(self, target: str, *event_types: str, **fields: Any) -> None:
        body = {"target": target, "event_types": list(event_types), **fields}
        await self.ok("POST", "/v1/endpoints", body)

    async def send(self, event_type: str, payload: Any = None) -> str:
        body = {"event_type": event_type, "payload": payload or {}}
        return str((await self.ok("POST", "/v1/events", body))["event_id"])

    async def event(self, event_id: str) -> Any:
        return await self.ok("GET", f"/v1/events/{event_id}")

    async def final(self, event_id: str, seconds: float = 60.0) -> Any:
        deadline = time.monotonic() + seconds
        while (found := await self.event(event_id))["status"] == "pending":
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.05)
        return found


async def key_of(account: Account) -> str:
    """An API key that may do everything as `default`."""
    database = PostgresDatabase(account.url, SystemClock())
    await database.open()
    try:
        _, secret = await database.unit(lambda tx: keys.create(tx, "default", "k", None))
    finally:
        await database.close()
    return secret


async def call(
    function: Function,
    key: str | None,
    method: str,
    path: str,
    document: Any = None,
    *,
    body: str | None = None,
) -> dict[str, Any]:
    answer = await function.invoke(request_of(key, method, path, document, body=body))
    assert answer.error is None, answer
    found: dict[str, Any] = answer.payload
    return found


def request_of(
    key: str | None, method: str, path: str, document: Any = None, *, body: str | None = None
) -> dict[str, Any]:
    """A request as API Gateway's HTTP API passes it on, in payload format 2.0."""
    path, _, query = path.partition("?")
    headers = {"host": "api.example.com", "content-type": "application/json"}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers,
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "api",
            "domainName": "api.example.com",
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "203.0.113.7",
                "userAgent": "test",
            },
            "requestId": "r",
            "routeKey": "$default",
            "stage": "$default",
            "time": "01/Jan/2026:00:00:00 +0000",
            "timeEpoch": 1767225600000,
        },
        "body": json.dumps(document) if body is None and document is not None else body,
        "isBase64Encoded": False,
    }

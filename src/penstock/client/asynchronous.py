"""The client to be awaited, on aiohttp."""

from __future__ import annotations

import asyncio
import io
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from penstock.client.base import BaseClient
from penstock.client.calls import Answer, Call, Lost, Tries, describe, headers, moved
from penstock.client.endpoints import AsyncEndpoints
from penstock.client.events import AsyncEvents
from penstock.client.inbox import AsyncInbox
from penstock.client.keys import AsyncKeys
from penstock.client.models import AsyncModels
from penstock.client.outbox import AsyncOutbox
from penstock.client.predictions import AsyncPredictions, AsyncUploads
from penstock.client.replays import AsyncReplays
from penstock.client.shipments import AsyncShipments

if TYPE_CHECKING:
    from aiohttp import ClientHandlerType, ClientRequest, ClientResponse, ClientSession

T = TypeVar("T")


class AsyncClient(BaseClient):
    """Talks to one server, from one event loop. To be closed, or used by ``async with``."""

    def _set_up(self) -> None:
        self._open: ClientSession | None = None
        self.events = AsyncEvents(self)
        self.endpoints = AsyncEndpoints(self)
        self.inbox = AsyncInbox(self)
        self.replays = AsyncReplays(self)
        self.outbox = AsyncOutbox(self)
        self.keys = AsyncKeys(self)
        self.shipments = AsyncShipments(self)
        self.uploads = AsyncUploads(self)
        self.predictions = AsyncPredictions(self)
        self.models = AsyncModels(self)

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """The JSON that any route answers; `more` is `query`, `headers`, `repeatable`, `held`."""
        return await self.run(describe(method, path, body, **more))

    async def run(self, call: Call[T]) -> T:
        """Carry out a call, with its retries."""
        tries = Tries(call, self.url, self._retries)
        while True:
            outcome = await self._send(call)
            pause = tries.after(outcome)
            if isinstance(outcome, Answer) and pause is None:
                return call.read(outcome)
            await asyncio.sleep(pause or 0)

    async def close(self) -> None:
        """Close its connections; a later call opens a new one."""
        session, self._open = self._open, None
        if session is not None:
            await session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _send(self, call: Call[Any]) -> Answer | Lost:
        import aiohttp  # not needed by a program that only blocks
        from yarl import URL

        content = call.content()
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._timeout, sock_read=self._timeout + call.held
        )
        if self._open is None:
            self._open = aiohttp.ClientSession()
        # What cannot be repeated must not meet a connection that the server is just closing.
        session = self._open if call.repeatable else aiohttp.ClientSession()
        try:
            async with session.request(
                call.method,
                URL(self.url + call.target(), encoded=True),
                # aiohttp warns of long bytes, which it would send in one go.
                data=content if call.csv is None else io.BytesIO(call.csv),
                headers=headers(call, self._address.key),
                timeout=timeout,
                allow_redirects=False,
                middlewares=[_once] if call.method == "DELETE" else [],
            ) as response:
                lowered = {name.lower(): value for name, value in response.headers.items()}
                answer = Answer(response.status, lowered, await response.read())
            if (elsewhere := moved(call, answer)) is None:
                return answer
            # For whoever knows the address: no credential goes there.
            async with session.get(
                URL(elsewhere, encoded=True), timeout=timeout, allow_redirects=False
            ) as response:
                lowered = {name.lower(): value for name, value in response.headers.items()}
                return Answer(response.status, lowered, await response.read())
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
            return Lost(str(exc), sent=False)
        except (aiohttp.ClientError, OSError) as exc:  # TimeoutError is an OSError
            return Lost(str(exc) or type(exc).__name__, sent=True)
        finally:
            if session is not self._open:
                await session.close()


async def _once(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    """Keep aiohttp from repeating a DELETE by itself: what it deleted would be "not found"."""
    import aiohttp

    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
        raise aiohttp.ClientError(str(exc) or type(exc).__name__) from exc

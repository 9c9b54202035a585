"""Clients that do not give up: they post again, under the same key, until they have an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp

from support.client import Api


@dataclass(slots=True)
class Poster:
    """Posts events; `api` is whatever serves at the moment."""

    api: Api
    topic: str
    accepted: dict[int, str] = field(default_factory=dict)  # number -> event id
    retried: int = 0

    async def post(self, numbers: Sequence[int], *, at_once: int = 16, pause: float = 0.0) -> None:
        """Post the events of these numbers, `at_once` at a time, each until it is answered."""
        left = iter(numbers)

        async def client() -> None:
            for number in left:
                self.accepted[number] = await self._until_accepted(number)
                if pause:
                    await asyncio.sleep(pause)

        await asyncio.gather(*(client() for _ in range(at_once)))

    async def _until_accepted(self, number: int) -> str:
        body = {"event_type": self.topic, "payload": {"number": number}}
        headers = {"idempotency-key": f"{self.topic}-{number}"}
        while True:
            try:
                answer = await self.api.call("POST", "/v1/events", body, headers=headers)
            except (aiohttp.ClientError, OSError, TimeoutError):
                self.retried += 1
                await asyncio.sleep(0.05)
                continue
            assert answer.status == 202, answer.body
            return str(answer.json["event_id"])

    async def until_accepted(
        self, count: int, posting: asyncio.Task[None], seconds: float = 60.0
    ) -> None:
        """Wait until so many were answered; what ended the posting before is raised."""
        async with asyncio.timeout(seconds):
            while len(self.accepted) < count:
                if posting.done():
                    posting.result()
                await asyncio.sleep(0.005)

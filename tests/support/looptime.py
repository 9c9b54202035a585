"""Time on the test's event loop: passed at once, or found to have been lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

_EVERY = 0.02  # seconds


def pass_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """So many seconds later, for the running loop's timers and whoever asks it for the time."""
    loop = asyncio.get_running_loop()
    now = loop.time
    monkeypatch.setattr(loop, "time", lambda: now() + seconds)


@dataclass
class Lost:
    """When the loop did not run though it should have: from and until, by its own clock."""

    pieces: list[tuple[float, float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """In all."""
        return sum(end - begin for begin, end in self.pieces)

    def between(self, begin: float, end: float) -> float:
        """Seconds of that time."""
        return sum(max(0.0, min(end, last) - max(begin, first)) for first, last in self.pieces)


@asynccontextmanager
async def lost_time() -> AsyncIterator[Lost]:
    """What a busy machine takes from the block: whatever is timed there may be as much later."""
    lost, loop = Lost(), asyncio.get_running_loop()

    async def look() -> None:
        while True:
            due = loop.time() + _EVERY
            await asyncio.sleep(_EVERY)
            lost.pieces.append((due, loop.time()))

    looking = asyncio.create_task(look())
    try:
        yield lost
    finally:
        looking.cancel()
        await asyncio.wait([looking])

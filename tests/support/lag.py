"""How late the event loop of a real server is: measured in it, by an app that it is given."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

# Times are of the system's monotonic clock, which all processes share.
_LOOKS = """
import asyncio, json, os, sys, time

EVERY = 0.005

async def probe(path):
    with open(path, "a", buffering=1) as out:
        while True:
            asked, used = time.monotonic(), time.thread_time()
            await asyncio.sleep(EVERY)
            now = time.monotonic()
            late = now - asked - EVERY
            out.write(json.dumps([now, late, time.thread_time() - used]) + "\\n")
"""

# The module is imported on the running loop of the server, which is how it gets there.
_PROBE = f"""{_LOOKS}
from penstock import Penstock

app = Penstock()
try:
    task = asyncio.get_running_loop().create_task(probe(os.environ["PENSTOCK_TEST_LAG"]))
except RuntimeError:
    pass
"""
_PLAIN = f"{_LOOKS}\nasyncio.run(probe(sys.argv[1]))"


def probe_module(folder: Path) -> str:
    """Write the app; answers the name of its module."""
    (folder / "lag_probe.py").write_text(_PROBE)
    return "lag_probe"


@dataclass(frozen=True, slots=True)
class Looks:
    """What was seen: how late the 99th of a hundred looks was, and the most time of the loop's own
    thread between two, in seconds."""

    looks: int
    late_99: float
    most_used: float


@dataclass(frozen=True, slots=True)
class Lag:
    """What the probe of one server writes."""

    path: Path

    def mark(self) -> float:
        """Now, for `since`."""
        return time.monotonic()

    async def since(self, begin: float) -> Looks:
        """What was seen from then on."""
        end = time.monotonic()
        found = []
        for line in self.path.read_text().splitlines():
            try:
                at, late, used = json.loads(line)
            except ValueError:  # the line that is being written
                continue
            if begin <= at <= end:
                found.append((late, used))
        late = sorted(each[0] for each in found)
        return Looks(len(found), late[len(late) * 99 // 100], max(each[1] for each in found))

    async def over(self, seconds: float) -> Looks:
        """What is seen in so many seconds."""
        begin = self.mark()
        await asyncio.sleep(seconds)
        return await self.since(begin)


@asynccontextmanager
async def plain_loop(path: Path) -> AsyncIterator[Lag]:
    """A process with an event loop that does nothing but look how late it is."""
    process = subprocess.Popen([sys.executable, "-c", _PLAIN, path])
    try:
        async with asyncio.timeout(60):
            while not (path.exists() and path.stat().st_size):
                await asyncio.sleep(0.02)
        yield Lag(path)
    finally:
        process.kill()
        process.wait()


class CPU_HOG:
    """A process that uses a processor, as nice as those that score."""

    def __enter__(self) -> Self:
        code = "import os\nos.nice(5)\nwhile True: pass"
        self._process = subprocess.Popen([sys.executable, "-c", code])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()

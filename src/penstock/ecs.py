"""Protection of an ECS task in which something has been running for long.

Autoscaling and deployments choose by themselves which task to end. One that is ended has its
grace, and what it has not finished is run again elsewhere: no loss, but an hour's job that was
nearly done is an hour lost. So while a row has been held for `LONG`, ECS is asked to end another
task. Short work asks for nothing: it is done within the grace, and a task that is never idle could
otherwise never be replaced by a deployment.

https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-scale-in-protection.html
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection
from typing import Final

import aiohttp

from penstock.clock import Clock
from penstock.telemetry import TASK_PROTECTION, TASK_PROTECTION_FAILED, log

AGENT: Final = "ECS_AGENT_URI"  # set by ECS in each task
LONG: Final = 60.0  # seconds
EVERY: Final = 10.0  # seconds between looks
LASTS: Final = 30  # minutes, unless asked for again: a task that hangs is not protected for ever
TIMEOUT: Final = 5.0  # seconds


def agent() -> str | None:
    """Where this task's agent of ECS answers; None = this is no task."""
    return os.environ.get(AGENT) or None


async def protect(
    uri: str,
    held: Callable[[], Collection[str]],
    clock: Clock,
    *,
    every: float = EVERY,
) -> None:
    """Protect this task while a row in `held()` has been there for long. Never returns."""
    since: dict[str, float] = {}
    asked: float | None = None  # when protection was last asked for; None = there is none
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        while True:
            now = clock.monotonic()
            since = {row: since.get(row, now) for row in held()}
            wanted = any(now - began >= LONG for began in since.values())
            due = asked is None or now - asked >= LASTS * 60 / 3
            if wanted and due and await _set(http, uri, on=True):
                asked = now
            elif not wanted and asked is not None and await _set(http, uri, on=False):
                asked = None
            await asyncio.sleep(every)


async def _set(http: aiohttp.ClientSession, uri: str, *, on: bool) -> bool:
    """Whether ECS agreed. If not, it is asked again at the next look."""
    body = {"ProtectionEnabled": on} | ({"ExpiresInMinutes": LASTS} if on else {})
    try:
        async with http.put(f"{uri}/task-protection/v1/state", json=body) as answer:
            # The agent says what is wrong as `failure` or `error`, the former with 200.
            found = await answer.json()
            trouble = found.get("failure") or found.get("error")
            if answer.status == 200 and not trouble:
                log(TASK_PROTECTION, on=on)
                return True
            log(TASK_PROTECTION_FAILED, on=on, error=str(trouble or answer.status)[:500])
    except (aiohttp.ClientError, TimeoutError, ValueError, AttributeError) as exc:
        log(TASK_PROTECTION_FAILED, on=on, error=f"{type(exc).__name__}: {exc}"[:500])
    return False

"""A task asks ECS to be spared while something runs for long, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from penstock import ecs
from penstock.clock import ManualClock

pytestmark = pytest.mark.anyio


@dataclass
class Agent:
    """What ECS's agent was asked, and what it answers."""

    asked: list[dict[str, Any]] = field(default_factory=list)
    answers: list[tuple[int, Any]] = field(default_factory=list)
    uri: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        agreed = {"protection": {"ProtectionEnabled": self.asked[-1]["ProtectionEnabled"]}}
        status, body = self.answers.pop(0) if self.answers else (200, agreed)
        return web.json_response(body, status=status)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.asked) < count:
                await asyncio.sleep(0.005)

    @property
    def on(self) -> list[bool]:
        return [each["ProtectionEnabled"] for each in self.asked]


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    made = Agent()
    app = web.Application()
    app.router.add_put("/api/1/task-protection/v1/state", made.answer)
    async with TestServer(app) as server:
        made.uri = str(server.make_url("/api/1"))
        yield made


@dataclass
class Task:
    """A task that holds rows."""

    clock: ManualClock = field(default_factory=ManualClock)
    rows: list[str] = field(default_factory=list)
    looks: int = 0

    def held(self) -> list[str]:
        self.looks += 1
        return list(self.rows)

    async def looked(self) -> None:
        """Twice more: what the first saw has been acted upon."""
        wanted = self.looks + 2
        async with asyncio.timeout(60):
            while self.looks < wanted:
                await asyncio.sleep(0.005)


@pytest.fixture
async def task(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Task]:
    # An answer that comes late on a busy machine would be asked for once more.
    monkeypatch.setattr(ecs, "TIMEOUT", 60.0)
    made = Task()
    running = asyncio.create_task(ecs.protect(agent.uri, made.held, made.clock, every=0.005))
    yield made
    running.cancel()
    await asyncio.wait([running])


async def test_it_is_spared_while_something_runs_for_long(agent: Agent, task: Task) -> None:
    task.rows = ["job_1"]
    await task.looked()
    task.clock.advance(ecs.LONG - 1)
    await task.looked()
    assert agent.asked == []
    task.clock.advance(1)
    await agent.until(1)
    assert agent.asked == [{"ProtectionEnabled": True, "ExpiresInMinutes": ecs.LASTS}]
    await task.looked()
    assert len(agent.asked) == 1  # it lasts
    task.rows = []
    await agent.until(2)
    assert agent.asked[1] == {"ProtectionEnabled": False}


async def test_short_work_without_end_asks_for_nothing(agent: Agent, task: Task) -> None:
    for number in range(6):
        task.rows = [f"job_{number}"]
        await task.looked()
        task.clock.advance(ecs.LONG / 2)
    await task.looked()
    assert agent.asked == []


async def test_protection_is_asked_for_again_before_it_ends(agent: Agent, task: Task) -> None:
    task.rows = ["job_1"]
    await task.looked()
    for count in range(1, 4):
        task.clock.advance(ecs.LASTS * 60 / 3)
        await agent.until(count)
    assert agent.on == [True, True, True]


@pytest.mark.parametrize(
    "refusal",
    [
        (200, {"failure": {"Arn": "arn:aws:ecs:x", "Reason": "DEPLOYMENT_BLOCKED"}}),
        (400, {"error": {"Code": "AccessDeniedException", "Message": "no"}}),
        (500, "nonsense"),
    ],
)
async def test_what_is_refused_is_asked_for_again(
    agent: Agent, task: Task, refusal: tuple[int, Any]
) -> None:
    agent.answers = [refusal, refusal]
    task.rows = ["job_1"]
    await task.looked()
    task.clock.advance(ecs.LONG)
    await agent.until(3)
    await task.looked()
    assert agent.on == [True, True, True]


def test_elsewhere_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ecs.AGENT, raising=False)
    assert ecs.agent() is None
    monkeypatch.setenv(ecs.AGENT, "http://169.254.170.2/api/1")
    assert ecs.agent() == "http://169.254.170.2/api/1"

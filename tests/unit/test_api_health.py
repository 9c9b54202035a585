from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock.api import health
from penstock.clock import ManualClock
from penstock.storage import Database

pytestmark = pytest.mark.anyio


async def test_a_database_that_can_be_written_is_well(
    database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "CHECK_SECONDS", 60.0)  # the machine may be busy
    check = health.Check(database, None, clock)
    for _ in range(2):
        assert await check.run() == {"database": None}
        clock.advance(5)


async def test_a_check_that_hangs_has_failed(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.01)

    class Hanging:
        @staticmethod
        async def unit(fn: Any) -> None:
            await asyncio.sleep(60)

    async def readiness() -> dict[str, str | None]:
        await asyncio.sleep(60)
        return {}

    check = health.Check(Hanging(), readiness, clock)  # type: ignore[arg-type]
    verdict = await check.run()
    assert set(verdict) == {"database", "checks"}
    assert all("no answer" in str(failure) for failure in verdict.values())


async def test_many_who_ask_at_once_cost_one_check(database: Database, clock: ManualClock) -> None:
    runs = 0

    async def readiness() -> dict[str, str | None]:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        return {}

    check = health.Check(database, readiness, clock)
    await asyncio.gather(*(check.run() for _ in range(50)))
    assert runs == 1

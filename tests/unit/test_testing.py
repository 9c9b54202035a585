from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from penstock import Penstock, Retry, current_job, testing


def shop() -> tuple[Penstock, list[str]]:
    app, ran = Penstock(), []

    @app.job(retries=2, backoff=["30s", "1m"])
    async def flaky(fail: int) -> str:
        job = current_job()
        assert job is not None
        ran.append(f"flaky {job.attempt}")
        if job.attempt <= fail:
            raise ValueError("not yet")
        return "done"

    @app.job
    def parent(n: int) -> None:
        ran.append(f"parent {n}")
        if n:
            app.get("parent").options(delay="1h").enqueue_sync(n - 1)

    @app.cron("0 * * * *")
    def hourly() -> None:
        ran.append("hourly")

    @app.job(retries=100_000)
    async def endless() -> Retry:
        return Retry(0)

    return app, ran


@pytest.mark.anyio
async def test_retries_happen_when_the_clock_gets_there() -> None:
    app, ran = shop()
    async with testing.run(app) as t:
        handle = await app.get("flaky").enqueue(fail=1)
        assert t.jobs()[0].status == "pending"
        assert await t.run_until_idle() == 1
        (job,) = t.jobs("flaky")
        assert (job.status, job.attempts, job.last_error) == ("pending", 1, "ValueError: not yet")
        assert job.due is not None
        assert 24 <= (job.due - t.now).total_seconds() <= 36
        assert await t.run_until_idle() == 0
        assert await t.advance("1m") == 1
        assert await handle.result() == "done"
        assert t.jobs("flaky")[0].result == "done"
    assert ran == ["flaky 1", "flaky 2"]


@pytest.mark.anyio
async def test_what_jobs_enqueue_and_schedules_run_in_their_turn() -> None:
    app, ran = shop()
    async with testing.run(app, start=datetime(2026, 5, 1, 11, 30, tzinfo=UTC)) as t:
        await app.get("parent").enqueue(2)
        assert await t.advance("2h") == 5
        assert t.now == datetime(2026, 5, 1, 13, 30, tzinfo=UTC)
    assert ran == ["parent 2", "hourly", "parent 1", "hourly", "parent 0"]


@pytest.mark.anyio
async def test_each_run_begins_empty() -> None:
    app, _ = shop()
    async with testing.run(app) as t:
        await app.get("parent").enqueue(0)
    async with testing.run(app) as t:
        assert t.jobs() == []


@pytest.mark.anyio
async def test_a_job_that_never_rests_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "RUNS", 20)
    app, _ = shop()
    async with testing.run(app) as t:
        await app.get("endless").enqueue()
        with pytest.raises(RuntimeError, match="not idle after 20 runs"):
            await t.run_until_idle()


def test_without_an_event_loop() -> None:
    app, ran = shop()
    with testing.run_sync(app) as t:
        handle = app.get("flaky").enqueue_sync(fail=0)
        assert t.run_until_idle() == 1
        assert handle.result_sync() == "done"
        before = t.now
        t.advance(timedelta(minutes=30))
        assert t.now - before == timedelta(minutes=30)
    assert ran == ["flaky 1"]

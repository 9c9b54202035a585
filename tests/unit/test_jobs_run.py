from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock import Dead, Done, Penstock, Postpone, Retry, current_job
from penstock.jobs import JobRunner, job_kind
from penstock.jobs.store import JobRow
from penstock.work.kinds import Claim, Task
from penstock.work.outcomes import Outcome

pytestmark = pytest.mark.anyio


class Bench:
    """Runs one attempt of a job by hand."""

    def __init__(self, app: Penstock) -> None:
        self.runner = JobRunner(app.jobs, slots=2)

    def task(self, name: str, attempts: int = 0, /, **args: Any) -> Task[JobRow]:
        row = JobRow("job_1", "acme", name, json.dumps(args))
        return Task(Claim("job", "job_1", "lane", 1, attempts, 0, 0), row, 60.0)

    async def run(self, name: str, attempts: int = 0, /, **args: Any) -> Outcome:
        return await self.runner.handle(self.task(name, attempts, **args))


class Results:
    """A transaction that notes results."""

    def __init__(self) -> None:
        self.stored: list[Any] = []

    def run(self, statement: object, /, **params: Any) -> int:
        self.stored.append(json.loads(params["result"]))
        return 1


def stored(outcome: Outcome) -> list[Any]:
    results = Results()
    assert isinstance(outcome, Done)
    if outcome.apply is not None:
        outcome.apply(results)  # type: ignore[arg-type]
    return results.stored


@pytest.fixture
def app() -> Penstock:
    return Penstock()


@pytest.fixture
async def bench(app: Penstock) -> AsyncIterator[Bench]:
    made = Bench(app)
    yield made
    await made.runner.close()


async def test_results(app: Penstock, bench: Bench) -> None:
    @app.job
    async def double(n: int) -> dict[str, int]:
        return {"twice": 2 * n}

    @app.job
    def nothing() -> None: ...

    assert stored(await bench.run("double", n=4)) == [{"twice": 8}]
    assert stored(await bench.run("nothing")) == []


async def test_a_result_that_cannot_be_stored_does_not_repeat_the_work(
    app: Penstock, bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    @app.job
    async def job() -> object:
        return object()

    assert await bench.run("job") == Done()
    assert "job_result_dropped" in capfd.readouterr().err


async def test_the_context_is_there_in_coroutines_and_threads(app: Penstock, bench: Bench) -> None:
    seen = []

    @app.job(timeout=300)
    async def coroutine() -> None:
        seen.append(current_job())

    @app.job(timeout=300)
    def thread() -> None:
        seen.append(current_job())
        assert threading.current_thread() is not threading.main_thread()

    await bench.run("coroutine", 2)
    await bench.run("thread")

    first, second = seen
    assert first is not None
    assert second is not None
    assert (first.id, first.name, first.account, first.attempt) == (
        "job_1",
        "coroutine",
        "acme",
        3,
    )
    assert second.name == "thread"
    assert 200 < first.remaining <= 300
    assert current_job() is None


async def test_an_error_is_retried_by_the_jobs_own_backoff(app: Penstock, bench: Bench) -> None:
    @app.job(retries=2, backoff=lambda n: 100.0 * n)
    async def job() -> None:
        raise KeyError("gone")

    assert await bench.run("job", 0) == Retry(100.0, "KeyError: 'gone'")
    assert await bench.run("job", 1) == Retry(200.0, "KeyError: 'gone'")
    assert await bench.run("job", 2) == Dead("gave up after 3 attempts: KeyError: 'gone'")


async def test_no_retries_means_one_attempt(app: Penstock, bench: Bench) -> None:
    @app.job(retries=0)
    async def job() -> None:
        raise KeyError("gone")

    assert await bench.run("job") == Dead("KeyError: 'gone'")


async def test_a_backoff_may_give_up(app: Penstock, bench: Bench) -> None:
    @app.job(backoff=lambda _: None)
    async def job() -> None:
        raise KeyError("gone")

    assert await bench.run("job") == Dead("KeyError: 'gone'")


async def test_errors_that_are_final(app: Penstock, bench: Bench) -> None:
    @app.job(dead_on=ValueError)
    def job() -> None:
        raise ValueError("no")

    assert await bench.run("job") == Dead("ValueError: no")


async def test_the_traceback_is_logged(
    app: Penstock, bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    @app.job
    async def job() -> None:
        raise KeyError("gone")

    await bench.run("job")

    logged = json.loads(capfd.readouterr().err)
    assert (logged["event"], logged["job"], logged["attempt"]) == ("job_retried", "job", 1)
    assert "in job" in logged["exception"]


async def test_outcomes_may_be_returned(app: Penstock, bench: Bench) -> None:
    outcome: Outcome = Done()

    @app.job(retries=1, backoff=[7])
    async def job() -> Any:
        return outcome

    outcome = Retry(5.0, "later")
    assert await bench.run("job", 0) == Retry(5.0, "later")
    assert await bench.run("job", 1) == Dead("gave up after 2 attempts: later")
    outcome = Retry(reason="later")
    retried = await bench.run("job", 0)
    assert isinstance(retried, Retry)
    assert retried.after == pytest.approx(7, rel=0.2)
    outcome = Postpone(9.0, "not yet")
    assert await bench.run("job", 1) == outcome
    outcome = Dead("never")
    assert await bench.run("job", 0) == outcome
    outcome = Done(again=3.0)
    assert await bench.run("job", 0) == outcome


async def test_an_unknown_job_is_left_for_those_who_know_it(bench: Bench) -> None:
    outcome = await bench.run("newer", 7)

    assert isinstance(outcome, Postpone)
    assert outcome.until == 60.0
    assert "newer" in outcome.reason


async def test_arguments_of_another_version_are_tried_again(app: Penstock, bench: Bench) -> None:
    @app.job(backoff=[1])
    async def job(n: int) -> None: ...

    outcome = await bench.run("job", m=1)

    assert isinstance(outcome, Retry)
    assert outcome.reason.startswith("the stored arguments do not fit: job: n")


async def test_a_coroutine_is_cancelled_at_its_timeout(app: Penstock, bench: Bench) -> None:
    ended = []

    @app.job(timeout=0.02, retries=1, backoff=[1])
    async def job() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            ended.append(True)

    outcome = await bench.run("job")

    assert isinstance(outcome, Retry)
    assert outcome.reason == "timed out after 0.02 s"
    assert ended == [True]


async def test_a_timeout_of_its_own_is_an_error_like_others(app: Penstock, bench: Bench) -> None:
    @app.job(dead_on=TimeoutError)
    async def job() -> None:
        raise TimeoutError("upstream")

    assert await bench.run("job") == Dead("TimeoutError: upstream")


async def test_a_thread_past_its_timeout_is_reported_and_keeps_its_place(
    app: Penstock, bench: Bench
) -> None:
    release = threading.Event()

    @app.job(timeout=0.02, retries=1, backoff=[1])
    def stuck() -> None:
        release.wait(100)

    first, second = await bench.run("stuck"), await bench.run("stuck")
    assert isinstance(first, Retry)
    assert first.reason == "timed out after 0.02 s; its thread runs on, it cannot be stopped"
    assert isinstance(second, Retry)

    full = await bench.run("stuck")  # both threads are taken
    assert isinstance(full, Postpone)
    assert "2 threads" in full.reason

    release.set()
    deadline = time.monotonic() + 60
    while not isinstance(last := await bench.run("stuck"), Done):
        assert time.monotonic() < deadline, f"the places were not given back: {last}"
        await asyncio.sleep(0.01)


async def test_being_cancelled_is_not_an_outcome(app: Penstock, bench: Bench) -> None:
    @app.job
    async def job() -> None:
        await asyncio.sleep(10)

    task = asyncio.create_task(bench.run("job"))
    await asyncio.sleep(0.01)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_is_cancelled_within_the_job_is_an_error(app: Penstock, bench: Bench) -> None:
    @app.job(backoff=[1])
    async def job() -> None:
        inner = asyncio.create_task(asyncio.sleep(10))
        inner.cancel()
        await inner

    assert isinstance(await bench.run("job"), Retry)


@pytest.mark.parametrize("error", [SystemExit, StopIteration, GeneratorExit, KeyboardInterrupt])
async def test_a_thread_may_raise_anything(
    app: Penstock, bench: Bench, error: type[BaseException]
) -> None:
    @app.job(backoff=[1])
    def job() -> None:
        raise error("x")

    outcome = await bench.run("job")

    assert isinstance(outcome, Retry)
    assert error.__name__ in outcome.reason


async def test_sys_exit_in_a_coroutine_does_not_end_the_worker(app: Penstock, bench: Bench) -> None:
    @app.job(backoff=[1])
    async def job() -> None:
        raise SystemExit(3)

    assert isinstance(await bench.run("job"), Retry)


async def test_threads_run_at_the_same_time(app: Penstock, bench: Bench) -> None:
    both = threading.Barrier(2, timeout=60)

    @app.job
    def job() -> None:
        both.wait()

    outcomes = await asyncio.gather(bench.run("job"), bench.run("job"))
    assert set(outcomes) == {Done()}


async def test_the_engines_timeout_comes_after_the_jobs_own(app: Penstock, bench: Bench) -> None:
    @app.job(timeout=10)
    async def job() -> None: ...

    kind = job_kind(bench.runner)

    assert kind.timeout_of(bench.task("job").data) == 15.0
    assert kind.timeout_of(bench.task("unknown").data) is None
    assert (kind.done, kind.dead, kind.slots) == ("succeeded", "dead", 2)
    hash(kind)  # the engine caches by it


def test_no_thread_outlives_an_idle_pool() -> None:
    app = Penstock()

    @app.job
    def quick() -> None: ...

    before = set(threading.enumerate())  # which other tests may have left stuck in their jobs

    def started() -> list[threading.Thread]:
        found = set(threading.enumerate()) - before
        return [each for each in found if each.name.startswith("penstock-job-")]

    async def main() -> None:
        bench = Bench(app)
        await bench.run("quick")
        assert started()
        await bench.runner.close()

    asyncio.run(main())
    deadline = time.monotonic() + 60
    while left := started():
        assert time.monotonic() < deadline, left
        time.sleep(0.01)

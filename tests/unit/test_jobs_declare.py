from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock import Penstock
from penstock.errors import BadArguments, JobError, UnknownJob


def test_a_job_is_still_its_function() -> None:
    app = Penstock()

    @app.job
    def double(n: int) -> int:
        """Twice."""
        return 2 * n

    assert double(4) == 8
    assert double.name == "double"
    assert double.__doc__ == "Twice."
    assert app.get("double") is double


def test_defaults() -> None:
    app = Penstock()

    @app.job()
    async def job() -> None: ...

    options = job.settings
    assert (options.attempts, options.timeout, options.concurrency) == (8, 300.0, 16)
    waits = [options.backoff(n) for n in range(1, 9)]
    for wait, expected in zip(waits, [30, 60, 120, 240, 480, 960, 1920], strict=False):
        assert wait is not None
        assert 0.8 * expected <= wait <= 1.2 * expected
    assert waits[7] is None


def test_options() -> None:
    app = Penstock()

    @app.job(name="a.b-c", retries=0, timeout="2m", concurrency=3, backoff=["10s", "1m"])
    async def job() -> None: ...

    options = job.settings
    assert (options.name, options.attempts, options.timeout) == ("a.b-c", 1, 120.0)
    assert [round((options.backoff(n) or 0) / 60, 0) for n in (2, 3, 9)] == [1, 1, 1]


@pytest.mark.parametrize("parameter", ["delay", "key", "lane", "at"])
def test_parameters_that_enqueue_takes_for_itself_are_refused(parameter: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"def job({parameter}: int = 0) -> None: ...", namespace)

    with pytest.raises(JobError, match=f"cannot be called {parameter}.*rename it"):
        Penstock().job(namespace["job"])


@pytest.mark.parametrize(
    "options",
    [
        {"retries": -1},
        {"timeout": "soon"},
        {"timeout": 0},
        {"concurrency": 0},
        {"lane": "two words"},
        {"name": "no:colons"},
        {"name": ""},
        {"backoff": []},
        {"backoff": ["x"]},
        {"process": True},  # of a function that no other process can import
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    def job() -> None: ...

    with pytest.raises(JobError):
        Penstock().job(**options)(job)


def test_two_jobs_of_one_name_are_refused() -> None:
    app = Penstock()

    @app.job
    def job() -> None: ...

    with pytest.raises(JobError, match=r"two jobs are named 'job'.*name="):
        app.job(name="job")(lambda: None)


def test_errors_are_classified() -> None:
    app = Penstock()

    @app.job(dead_on=ValueError)
    def lenient() -> None: ...

    @app.job(retry_on=(OSError,), dead_on=(FileNotFoundError,))
    def strict() -> None: ...

    assert not lenient.settings.retryable(UnicodeError())  # a ValueError
    assert lenient.settings.retryable(KeyError())
    assert strict.settings.retryable(ConnectionError())
    assert not strict.settings.retryable(FileNotFoundError())
    assert not strict.settings.retryable(KeyError())


def test_calls_carry_when_and_where() -> None:
    app = Penstock(account="acme")

    @app.job(concurrency=2)
    def job(n: int) -> None: ...

    plain = job.call(1).new
    assert (plain.account, plain.lane, plain.cap) == ("acme", "job:acme:job", 2)
    new = job.options(delay=timedelta(minutes=1), key="k", lane="tenant-7").call(1).new
    assert (new.delay, new.key, new.lane) == (60.0, "k", "job:acme:job:tenant-7")
    at = datetime(2026, 1, 1, tzinfo=UTC)
    assert job.options(at=at, account="other").call(1).new.at == 1_767_225_600_000_000


@pytest.mark.parametrize(
    "options",
    [
        {"delay": "soon"},
        {"delay": -1},
        {"delay": "1m", "at": datetime(2026, 1, 1, tzinfo=UTC)},
        {"at": datetime(2026, 1, 1)},
        {"key": ""},
        {"key": "k" * 201},
        {"lane": "two words"},
    ],
)
def test_options_of_a_call_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    app = Penstock()

    @app.job
    def job() -> None: ...

    with pytest.raises(JobError):
        job.options(**options).call()


def test_unknown_names() -> None:
    with pytest.raises(UnknownJob, match="nothing"):
        Penstock().get("nothing")


def test_arguments_are_checked_before_anything_is_opened() -> None:
    app = Penstock()

    @app.job
    def job(n: int) -> None: ...

    with pytest.raises(BadArguments):
        job.enqueue_sync("x")  # type: ignore[call-overload]
    with pytest.raises(BadArguments, match="tuples or mappings"):
        job.enqueue_many_sync([3])  # type: ignore[list-item]


def test_public_names_are_there_and_importing_is_cheap() -> None:
    for name in penstock.__all__:
        assert getattr(penstock, name) is not None
    assert set(penstock.__all__) <= set(dir(penstock))
    with pytest.raises(AttributeError):
        _ = penstock.nothing
    code = (
        "import sys, penstock; assert 'pydantic' not in sys.modules; from penstock import Penstock;"
        "print([m for m in ('fastapi', 'alembic', 'aiohttp', 'typer') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


TYPED = """
from __future__ import annotations
from penstock import Penstock, Retry
from penstock.jobs import JobHandle

app = Penstock()

@app.job
async def resize(image_id: int, width: int = 800) -> str:
    return ""

@app.job(retries=3)
def plain(name: str) -> int:
    return 1

@app.cron("0 * * * *")
@app.job(timeout="1m")
async def hourly() -> None: ...

@app.cron("0 * * * *")
def simple() -> int:
    return 1

async def good() -> None:
    handle: JobHandle[str] = await resize.enqueue(42, width=400)
    text: str = await handle.result()
    number: int = plain.enqueue_sync("a").result_sync()
    await resize.enqueue(42, key="k", delay="10m")
    await resize.options(key="k").enqueue(42)
    resize.enqueue_in(object(), 42)
    await hourly.enqueue()
    await simple.enqueue()
    await resize.enqueue_many([(1,), {"image_id": 2}, resize.call(3, width=1)])

async def bad() -> None:
    await resize.enqueue("42")  # wrong
    await resize.enqueue()  # wrong
    await resize.enqueue(42, height=1)  # wrong
    await resize.options(key="k").enqueue("42")  # wrong
    resize.enqueue_in(object(), "42")  # wrong
    resize.call("42")  # wrong
    resize("42")  # wrong
    plain.enqueue_sync(1)  # wrong
    number: int = await (await resize.enqueue(1)).result()  # wrong
"""


def test_type_checkers_check_the_arguments(tmp_path: Path) -> None:
    file = tmp_path / "typed_jobs.py"
    file.write_text(TYPED)
    cache = Path.cwd() / ".mypy_cache"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), str(file)),
            *("--no-error-summary", "--hide-error-context", "--config-file", ""),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    wrong = {n for n, line in enumerate(TYPED.splitlines(), 1) if line.endswith("# wrong")}
    found = {
        int(line.split(":")[1])
        for line in done.stdout.splitlines()
        if "typed_jobs.py" in line and ": error:" in line
    }
    assert found == wrong, done.stdout

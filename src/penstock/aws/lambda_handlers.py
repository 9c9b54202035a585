"""What Lambda calls: ``penstock.aws.lambda_handlers.NAME``.

=================  =====================================  ====================================
handler            called by                              does
=================  =====================================  ====================================
`api`              API Gateway (HTTP API)                 answers the HTTP API
`events_worker`    SQS, the queue of events               works off the lanes that are named
`tracking_worker`  SQS, the queue of tracking             the same
`dispatcher`       a schedule, hourly                     the services' own periodic tasks
`sweeper`          a schedule, each minute                lost leases and wakes, gauges, retention
`migrate`          a deployment, once                     brings the tables up to date
=================  =====================================  ====================================

The settings are those of any process, with ``PENSTOCK_WAKEUPS=sqs``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, wraps
from typing import Any, Final, Protocol, TypeVar, cast

from penstock.aws.environment import Environment
from penstock.errors import PenstockError, StorageError
from penstock.runtime import Runtime
from penstock.telemetry import (
    INVOCATION_FAILED,
    INVOCATION_FINISHED,
    MESSAGE_LEFT,
    MESSAGE_VALIDATION_FAILED,
    MESSAGES_REFUSED,
    log,
    metrics,
)
from penstock.work.burst import burst
from penstock.work.wakeups.sqs_body import BadBody, decode

# Seconds before Lambda ends the invocation: handlers are cancelled then, and what they held is
# given back. In a function with a short timeout it is a quarter of it.
RESERVE: Final = 10.0
# Seconds before that, from which on nothing new is begun.
GRACE: Final = 10.0
LAST: Final = 1.0  # seconds in which the answer must be on its way
_EXCERPT: Final = 500  # characters of a refused body that are logged

Event = Mapping[str, Any]
Handler = TypeVar("Handler", bound=Callable[..., Any])


class Context(Protocol):
    """What is used of Lambda's context."""

    def get_remaining_time_in_millis(self) -> int:
        """Until the invocation is ended."""
        ...


@cache
def _environment() -> Environment:
    return Environment()


def _flushing(handler: Handler) -> Handler:
    """The handler, after which its figures are sent, however it ended."""

    @wraps(handler)
    def flushed(event: Any, context: Any) -> Any:
        try:
            return handler(event, context)
        finally:
            _environment().flush_metrics()

    return cast(Handler, flushed)


def _remaining(context: Context) -> float:
    return context.get_remaining_time_in_millis() / 1000


# ------------------------------------------------------------------ queues


@_flushing
def events_worker(event: Event, context: Context) -> dict[str, Any]:
    """Work off the lanes that the messages name.

    Answers with `batchItemFailures`: the messages that are to come again, because what they name
    could not be looked at, or not be written down. Whatever else happens is in the rows.
    """
    return _environment().run(_work(event["Records"], context))


tracking_worker = events_worker


async def _work(records: Sequence[Event], context: Context) -> dict[str, Any]:
    try:
        runtime = await _environment().runtime(_remaining(context))
    except StorageError as exc:
        log(INVOCATION_FAILED, error=f"{type(exc).__name__}: {exc}", messages=len(records))
        return _failures(record["messageId"] for record in records)
    named: dict[tuple[str, str], list[str]] = {}
    failed: list[str] = []
    for record in records:
        key = _read(record, runtime.worker.lines)
        if key is None:
            failed.append(record["messageId"])
        elif key != _REFUSED:
            named.setdefault(key, []).append(record["messageId"])
    remaining = _remaining(context)
    reserve = min(RESERVE, remaining / 4)
    grace = min(GRACE, remaining / 4)
    try:
        async with asyncio.timeout(remaining - min(LAST, remaining / 8)):
            done = await burst(
                runtime.database,
                runtime.wakeups,
                runtime.waker,
                [line.kind for line in runtime.worker.lines.values()],
                named,
                clock=runtime.clock,
                seconds=remaining - reserve - grace,
                grace=grace,
            )
    except TimeoutError:  # the database does not even take back what is held
        log(INVOCATION_FAILED, error="out of time", messages=len(records))
        return _failures(record["messageId"] for record in records)
    for key in done.unsettled:
        failed += named.get(key, [])
    log(
        INVOCATION_FINISHED,
        messages=len(records),
        processed=done.processed,
        failed=done.failed,
        returned=len(failed),
        seconds=round(remaining - _remaining(context), 3),
    )
    return _failures(failed)


_REFUSED: Final = ("", "")


def _read(record: Event, kinds: Mapping[str, object]) -> tuple[str, str] | None:
    """Kind and lane; `_REFUSED` if it is no wake-up, None if it is for others to read."""
    queue = record.get("eventSourceARN", "").rpartition(":")[2]
    try:
        found = decode(record["body"])
    except BadBody as exc:
        log(
            MESSAGE_VALIDATION_FAILED,
            queue=queue,
            message_id=record["messageId"],
            reason=str(exc),
            body=record["body"][:_EXCERPT],
        )
        metrics.inc(MESSAGES_REFUSED, queue=queue)
        return _REFUSED
    if found is None or found[0] not in kinds:
        kind = None if found is None else found[0][:100]
        log(MESSAGE_LEFT, queue=queue, message_id=record["messageId"], kind=kind)
        return None
    return found


def _failures(ids: Iterable[str]) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": id_} for id_ in ids]}


# ------------------------------------------------------------------ the API


@_flushing
def api(event: Any, context: Any) -> Any:
    """Answer one request of an HTTP API (payload format 2.0 or 1.0)."""
    environment = _environment()
    try:
        http = environment.run(environment.http(_remaining(context)))
    except StorageError as exc:
        log(INVOCATION_FAILED, error=f"{type(exc).__name__}: {exc}", messages=0)
        return _unavailable()
    try:
        return http(event, context)
    finally:
        environment.run(environment.settle())


def _unavailable() -> dict[str, Any]:
    from penstock.api.problems import PROBLEMS

    kind = PROBLEMS["storage_unavailable"]
    problem = {
        "type": "/problems/storage_unavailable",
        "title": kind.title,
        "status": kind.status,
        "detail": kind.advice,
        "code": "storage_unavailable",
    }
    return {
        "statusCode": kind.status,
        "headers": {"content-type": "application/problem+json", "retry-after": "5"},
        "body": json.dumps(problem),
        "isBase64Encoded": False,
    }


# ------------------------------------------------------------------ schedules and deployments


@_flushing
def sweeper(event: Event, context: Context) -> dict[str, Any]:
    """One turn of what a long-running process does again and again, as far as it is due."""
    return _environment().run(_sweep(context))


async def _sweep(context: Context) -> dict[str, Any]:
    runtime = await _environment().runtime(_remaining(context))
    names = {task.name for task in runtime.scheduler.tasks} - _own(runtime)
    return await _turn(runtime, names, context)


@_flushing
def dispatcher(event: Event, context: Context) -> dict[str, Any]:
    """The services' own periodic tasks, whether or not they are due."""
    return _environment().run(_dispatch(context))


async def _dispatch(context: Context) -> dict[str, Any]:
    runtime = await _environment().runtime(_remaining(context))
    return await _turn(runtime, _own(runtime), context, due=False)


def _own(runtime: Runtime) -> set[str]:
    return {task.name for service in runtime.services for task in service.periodic}


async def _turn(
    runtime: Runtime, names: set[str], context: Context, *, due: bool = True
) -> dict[str, Any]:
    async with asyncio.timeout(_remaining(context) - LAST):
        ran, failed = await runtime.scheduler.turn(names, due=due)
        await runtime.waker.close()
    if failed:  # for the alarm on errors of the function
        raise PenstockError(f"some tasks failed: {', '.join(failed)}")
    return {"ran": ran}


def migrate(event: Event, context: Context) -> dict[str, Any]:
    """Bring the tables up to date; two at a time do no harm, the second waits."""
    from penstock import schema

    settings = _environment().run(_environment().settings())
    before, after = schema.migrate(settings)
    return {"from_revision": before, "to_revision": after}

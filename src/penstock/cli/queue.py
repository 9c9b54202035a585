"""`penstock queue`: the SQS queues that wake-ups go through, and their dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

import typer

from penstock.cli.output import JsonOption, document, fail, say
from penstock.settings import Settings, load_settings
from penstock.work.wakeups import WakeupsUnavailable
from penstock.work.wakeups.sqs_queues import (
    Move,
    NoDeadLetterQueue,
    QueueStats,
    redrive_status,
    redriven,
    start_redrive,
)
from penstock.work.wakeups.sqs_queues import stats as stats_of

T = TypeVar("T")

app = typer.Typer(help="The SQS queues of wake-ups.", no_args_is_help=True)


@app.command()
def stats(as_json: JsonOption = False) -> None:
    """How many wake-ups wait, how many are held, how many are dead letters."""
    settings = load_settings()
    queues = _queues(settings, None)

    async def ask(sqs: Any) -> list[QueueStats]:
        return [await stats_of(sqs, url) for url in queues]

    found = _run(settings, ask)
    if as_json:
        document({"queues": [asdict(each) for each in found]})
        return
    for each in found:
        say(
            f"{each.queue}: {each.visible} visible, {each.delayed} delayed,"
            f" {each.in_flight} in flight"
        )
        if each.dead_letter_queue is None:
            say("  It has no dead-letter queue.")
        else:
            say(
                f"  {each.dead_letters} in {each.dead_letter_queue}"
                f" (after {each.max_receives} receives)"
            )


@app.command()
def redrive(
    service: Annotated[
        str | None,
        typer.Argument(help="events, tracking, predictions or jobs; every queue if absent."),
    ] = None,
    rate: Annotated[
        int | None, typer.Option(min=1, max=500, help="Messages a second, at most.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the messages have been moved.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Move dead letters back to the queue that each came from."""
    settings = load_settings()
    queues = _queues(settings, service)

    async def move(sqs: Any) -> list[Move]:
        started: list[str] = []
        for url in queues:
            try:
                arn = await start_redrive(sqs, url, rate, done=started)
            except NoDeadLetterQueue:
                if service is not None:
                    raise
            else:
                started += [arn] if arn is not None else []
        follow = redriven if wait else redrive_status
        return [await follow(sqs, arn) for arn in started]

    moves = _run(settings, move)
    if as_json:
        document({"moves": [asdict(each) for each in moves]})
    else:
        for each in moves:
            say(f"{each.source}: {each.status.lower()}, {each.moved} of {each.to_move} moved")
        if not moves:
            say("There are no dead letters.")
    failed = [each for each in moves if each.status in ("FAILED", "CANCELLED")]
    for each in failed:
        reason = each.reason or "somebody cancelled it"
        fail(f"{each.source}: {reason}", code=3 if each.moved else 1)


def _queues(settings: Settings, service: str | None) -> list[str]:
    known = settings.sqs_queues
    if not known:
        fail("there is no queue: set PENSTOCK_SQS_EVENTS_QUEUE_URL or its like", code=2)
    if service is None:
        return list(dict.fromkeys(known.values()))
    if service not in known:
        fail(f"there is no queue of {service!r}, only of: {', '.join(known)}", code=2)
    return [known[service]]


def _run(settings: Settings, ask: Callable[[Any], Awaitable[T]]) -> T:
    async def run() -> T:
        from penstock.work.wakeups.sqs_calls import client, region_of

        region = region_of(list(settings.sqs_queues.values()), settings.aws_region)
        async with client(region, settings.aws_endpoint_url) as sqs:
            return await ask(sqs)

    try:
        return asyncio.run(run())
    except WakeupsUnavailable as exc:
        fail(str(exc), code=4)

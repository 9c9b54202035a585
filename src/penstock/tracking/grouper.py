"""Numbers that are asked for together go out in one call, where the carrier takes several.

Rows that were claimed together start in the same turn of the event loop. What arrives in that
turn is gathered, split into calls of as many numbers as the carrier takes, and each row gets its
answer. So a claim of n rows makes ``ceil(n / per_call)`` calls, which is what it paid for.

A call is one piece of news about the carrier, however many rows waited for it: only one of them,
its speaker, reports it to the circuit. Else a single failed call of thirty numbers would count
as thirty failures in a row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from penstock.clock import Clock
from penstock.telemetry import (
    CARRIER_CALL_DURATION,
    CARRIER_CALLED,
    CARRIER_CALLS,
    log,
    metrics,
)
from penstock.tracking.carriers.base import (
    Answer,
    Carrier,
    Forbidden,
    Found,
    Invalid,
    Malformed,
    NotFound,
    Query,
    RateLimited,
    Unavailable,
)
from penstock.work.outcomes import Health


@dataclass(frozen=True, slots=True)
class Fetched:
    """One row's share of a call. `answer` None: not asked, because the same number was asked for
    in the same call with other particulars. `health` is the call's, and its speaker's only."""

    answer: Answer | None
    health: Health | None = None


@dataclass(slots=True)
class _Waiting:
    query: Query
    future: asyncio.Future[Fetched]


@dataclass(slots=True)
class _Group:
    carrier: Carrier
    waiting: list[_Waiting] = field(default_factory=list)


class Grouper:
    """The calls of one process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._groups: dict[int, _Group] = {}
        self._calls: set[asyncio.Task[None]] = set()

    async def fetch(self, carrier: Carrier, query: Query) -> Fetched:
        """The answer for one number, asked together with what others ask for in this turn."""
        loop = asyncio.get_running_loop()
        key = id(carrier)  # one for each credential; alive as long as its group
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(carrier)
            loop.call_soon(self._send, key)
        waiting = _Waiting(query, loop.create_future())
        group.waiting.append(waiting)
        return await waiting.future

    async def close(self) -> None:
        """End the calls that are under way; nobody waits for them any more."""
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    def _send(self, key: int) -> None:
        group = self._groups.pop(key)
        for part in split(group.waiting, group.carrier.per_call):
            call = asyncio.get_running_loop().create_task(
                self._call(group.carrier, part), name=f"call {group.carrier.name}"
            )
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _call(self, carrier: Carrier, part: Sequence[_Waiting]) -> None:
        queries: dict[str, Query] = {}
        for waiting in part:
            queries.setdefault(waiting.query.number, waiting.query)
        began = self._clock.monotonic()
        try:
            answers = await carrier.fetch(list(queries.values()))
        except BaseException as exc:  # a bug of ours, or the process ends: each row hears of it
            for waiting in part:
                if not waiting.future.done():
                    waiting.future.set_exception(_told(exc))
            if isinstance(exc, Exception):
                return
            raise
        seconds = self._clock.monotonic() - began
        said = health(list(answers.values()))
        _report(carrier.name, queries, answers, said, seconds)
        for waiting in part:
            if waiting.future.done():
                continue  # its lease was lost
            number = waiting.query.number
            if queries[number] != waiting.query:
                waiting.future.set_result(Fetched(None))
                continue
            answer = answers.get(number) or Malformed(number, "no answer for this number")
            waiting.future.set_result(Fetched(answer, said))
            said = None


def split(waiting: Sequence[_Waiting], per_call: int) -> list[list[_Waiting]]:
    """In calls of up to `per_call` rows."""
    return [list(waiting[n : n + per_call]) for n in range(0, len(waiting), per_call)]


def health(answers: Sequence[Answer]) -> Health | None:
    """What a call says of its carrier: one that answers for any of the parcels is well."""
    trouble = False
    for answer in answers:
        match answer:
            case Found() | NotFound() | Invalid() | Forbidden(number=str()):
                return "ok"
            case Unavailable() | Forbidden(number=None):
                trouble = True
    return "bad" if trouble else None


def kind(answer: Answer | None) -> str:
    """An answer in a word, for counting."""
    match answer:
        case Found():
            return "found"
        case NotFound():
            return "not_found"
        case Invalid():
            return "invalid"
        case Forbidden(number=None):
            return "credential_refused"
        case Forbidden():
            return "forbidden"
        case RateLimited():
            return "rate_limited"
        case Unavailable():
            return "unavailable"
        case Malformed() | None:
            return "malformed"


def _report(
    carrier: str,
    queries: dict[str, Query],
    answers: dict[str, Answer],
    said: Health | None,
    seconds: float,
) -> None:
    found = [kind(answers.get(number)) for number in queries]
    # Of one call, what counts is what the carrier did, not which parcel came first.
    outcome = next((word for word in found if said == "ok" and word == "found"), found[0])
    metrics.inc(CARRIER_CALLS, carrier=carrier, outcome=outcome)
    metrics.observe(CARRIER_CALL_DURATION, seconds, carrier=carrier)
    log(
        CARRIER_CALLED,
        carrier=carrier,
        numbers=len(queries),
        outcome=outcome,
        seconds=round(seconds, 3),
    )


def _told(exc: BaseException) -> BaseException:
    """A cancelled call must not look to its rows as if they had been cancelled."""
    if isinstance(exc, asyncio.CancelledError):
        return RuntimeError("the call was broken off")
    return exc

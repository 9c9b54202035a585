"""Numbers that are asked for together go out together, and each row gets its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

import pytest

from penstock.clock import SystemClock
from penstock.tracking.carriers.base import (
    Answer,
    Forbidden,
    Found,
    Invalid,
    Malformed,
    NotFound,
    Query,
    RateLimited,
    Unavailable,
)
from penstock.tracking.grouper import Fetched, Grouper, health

pytestmark = pytest.mark.anyio


@dataclass
class Carrier:
    per_call: int = 30
    name: str = "ups"
    calls: list[list[str]] = field(default_factory=list)
    fault: BaseException | None = None
    said: dict[str, Answer] = field(default_factory=dict)
    gate: asyncio.Event | None = None

    async def fetch(self, queries: Sequence[Query]) -> dict[str, Answer]:
        self.calls.append([query.number for query in queries])
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        return {q.number: self.said.get(q.number, Found(q.number, "in_transit")) for q in queries}

    async def close(self) -> None: ...


@pytest.fixture
def grouper() -> Grouper:
    return Grouper(SystemClock())


async def ask(grouper: Grouper, carrier: Carrier, *numbers: str) -> list[Fetched]:
    tasks = [asyncio.create_task(grouper.fetch(carrier, Query(n))) for n in numbers]
    return list(await asyncio.gather(*tasks))


async def test_what_starts_in_one_turn_shares_a_call(grouper: Grouper) -> None:
    carrier = Carrier()
    numbers = [f"n{n:02}" for n in range(30)]
    fetched = await ask(grouper, carrier, *numbers)
    assert carrier.calls == [numbers]
    assert [each.answer for each in fetched] == [Found(n, "in_transit") for n in numbers]


async def test_more_than_a_call_takes_are_asked_for_in_several(grouper: Grouper) -> None:
    carrier = Carrier()
    await ask(grouper, carrier, *(f"n{n:02}" for n in range(61)))
    assert [len(call) for call in carrier.calls] == [30, 30, 1]


async def test_a_carrier_that_takes_one_number_gets_one(grouper: Grouper) -> None:
    carrier = Carrier(per_call=1)
    await ask(grouper, carrier, "a", "b", "c")
    assert carrier.calls == [["a"], ["b"], ["c"]]


async def test_credentials_are_not_mixed(grouper: Grouper) -> None:
    one, other = Carrier(), Carrier()
    tasks = [
        asyncio.create_task(grouper.fetch(carrier, Query(number)))
        for carrier, number in ((one, "a"), (other, "b"), (one, "c"))
    ]
    await asyncio.gather(*tasks)
    assert (one.calls, other.calls) == ([["a", "c"]], [["b"]])


async def test_one_row_speaks_for_its_call(grouper: Grouper) -> None:
    """A call of thirty numbers that fails is one failure, not thirty in a row."""
    carrier = Carrier(said={f"n{n:02}": Unavailable("down", "http_503") for n in range(40)})
    fetched = await ask(grouper, carrier, *(f"n{n:02}" for n in range(40)))
    assert [each.health for each in fetched].count("bad") == 2
    assert [each.health for each in fetched].count(None) == 38


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([Found("a", "in_transit")], "ok"),
        ([NotFound("a", "no")], "ok"),
        ([Invalid("a", "no")], "ok"),
        ([Forbidden("a", "not yours")], "ok"),
        ([Unavailable("down", "http_503")], "bad"),
        ([Forbidden(None, "bad key")], "bad"),
        ([RateLimited(3.0)], None),
        ([Malformed("a", "no status")], None),
        ([], None),
        ([Malformed("a", "no status"), Found("b", "in_transit")], "ok"),
        ([Unavailable("down", "http_503"), Found("b", "in_transit")], "ok"),
        ([Unavailable("down", "http_503"), Malformed("b", "x")], "bad"),
    ],
)
async def test_what_a_call_says_of_the_carrier(answers: list[Answer], said: str | None) -> None:
    assert health(answers) == said


async def test_the_same_number_of_two_accounts_is_asked_for_once(grouper: Grouper) -> None:
    carrier = Carrier()
    fetched = await ask(grouper, carrier, "a", "a", "b")
    assert carrier.calls == [["a", "b"]]
    assert fetched[0].answer == fetched[1].answer == Found("a", "in_transit")


async def test_a_number_with_two_ship_dates_is_not_answered_for_the_wrong_one(
    grouper: Grouper,
) -> None:
    carrier = Carrier()
    first, second = Query("a", date(2026, 1, 2)), Query("a", date(2025, 1, 2))
    one = asyncio.create_task(grouper.fetch(carrier, first))
    other = asyncio.create_task(grouper.fetch(carrier, second))
    assert (await one).answer == Found("a", "in_transit")
    assert await other == Fetched(None)


async def test_a_number_that_is_left_out_of_the_answer_is_malformed(grouper: Grouper) -> None:
    class Forgetful(Carrier):
        async def fetch(self, queries: Sequence[Query]) -> dict[str, Answer]:
            return {"a": Found("a", "in_transit")}

    fetched = await ask(grouper, Forgetful(), "a", "b")
    assert isinstance(fetched[1].answer, Malformed)


async def test_a_bug_reaches_every_row_of_the_call(grouper: Grouper) -> None:
    carrier = Carrier(fault=KeyError("ours"))
    tasks = [asyncio.create_task(grouper.fetch(carrier, Query(n))) for n in "ab"]
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in found] == [KeyError, KeyError]


async def test_a_row_that_loses_its_lease_takes_nothing_along(grouper: Grouper) -> None:
    carrier = Carrier(gate=asyncio.Event())
    tasks = [asyncio.create_task(grouper.fetch(carrier, Query(n))) for n in "abc"]
    while not carrier.calls:
        await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    assert carrier.gate is not None
    carrier.gate.set()
    answered = await asyncio.gather(*tasks[1:])
    assert [each.answer for each in answered] == [Found(n, "in_transit") for n in "bc"]
    assert answered[0].health == "ok"  # the next one speaks


async def test_what_is_broken_off_at_the_end_does_not_hang(grouper: Grouper) -> None:
    carrier = Carrier(gate=asyncio.Event())
    task = asyncio.create_task(grouper.fetch(carrier, Query("a")))
    while not carrier.calls:
        await asyncio.sleep(0)
    await grouper.close()
    with pytest.raises(RuntimeError, match="broken off"):
        await task

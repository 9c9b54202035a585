"""Many numbers in one call, and what to do when one of them makes the carrier refuse it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from penstock.tracking.carriers.base import Answer, Invalid, Malformed, Query, concerns_all

# A call that is refused for one of its numbers is made again in halves, until the number is
# found: five times for one of thirty-five. A carrier that refuses everything must not cost more.
_MORE_CALLS: Final = 10

# Answers by number; one answer for all of them; or None: one of them spoils the call.
Fetched = dict[str, Answer] | Answer | None


async def in_batches(
    queries: Sequence[Query],
    per_call: int,
    refused_here: Callable[[Query], Invalid | None],
    fetch: Callable[[Sequence[Query]], Awaitable[Fetched]],
) -> dict[str, Answer]:
    """`fetch` for at most `per_call` numbers at a time, one call after another.

    Numbers that `refused_here` are not sent. An answer about the carrier or the credential ends
    it: the numbers that were not asked for get the same one.
    """
    answers: dict[str, Answer] = {}
    wanted: list[Query] = []
    for query in {query.number: query for query in reversed(queries)}.values():
        refusal = refused_here(query)
        if refusal is None:
            wanted.append(query)
        else:
            answers[query.number] = refusal
    wanted.reverse()
    todo = [wanted[i : i + per_call] for i in range(0, len(wanted), per_call)]
    more_calls = _MORE_CALLS
    common: Answer | None = None
    while todo:
        batch = todo.pop(0)
        found = await fetch(batch) if common is None else common
        if found is None:
            if len(batch) > 1 and more_calls >= 2:
                more_calls -= 2
                middle = len(batch) // 2
                todo[:0] = [batch[:middle], batch[middle:]]
            else:
                answers |= {query.number: _unclear(query) for query in batch}
        elif isinstance(found, dict):
            answers |= found
        else:
            answers |= {query.number: found for query in batch}
            if concerns_all(found):
                common = found
    return answers


def _unclear(query: Query) -> Malformed:
    return Malformed(query.number, "the carrier refuses calls with this number among others")

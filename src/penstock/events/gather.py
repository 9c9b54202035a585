"""Requests that arrive while others are being stored are stored together.

One transaction for many events costs a fraction of one each: one look at the account, one
statement for all rows of a table, one wake for each lane.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from penstock.errors import Refused
from penstock.events.accept import Accepted, Acceptor, NewEvent
from penstock.storage import Database, Tx

_AT_ONCE: Final = 64  # events in one transaction
# Transactions on their way at once. One is with the disk; on SQLite the next shares a commit
# with what workers hand in meanwhile.
_UNDER_WAY: Final = 2

_Waiting = tuple[str, NewEvent, asyncio.Future[Accepted | Refused]]


class Gatherer:
    """Accepts single events for many callers at once, on one event loop."""

    def __init__(self, database: Database, acceptor: Acceptor) -> None:
        self._database = database
        self._acceptor = acceptor
        self._waiting: list[_Waiting] = []
        self._under_way: set[asyncio.Task[None]] = set()

    async def accept(self, account: str, event: NewEvent) -> Accepted | Refused:
        """Store the event; a caller that stops waiting does not stop that."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Accepted | Refused] = loop.create_future()
        self._waiting.append((account, event, future))
        if len(self._waiting) == 1:
            # Not at once: the requests that came in with this one are about to be parsed.
            loop.call_soon(self._send)
        return await future

    def _send(self) -> None:
        while self._waiting and len(self._under_way) < _UNDER_WAY:
            batch = self._waiting[:_AT_ONCE]
            del self._waiting[:_AT_ONCE]
            task = asyncio.get_running_loop().create_task(self._store(batch))
            self._under_way.add(task)
            task.add_done_callback(self._landed)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._send()

    async def _store(self, batch: Sequence[_Waiting]) -> None:
        accounts: dict[str, list[NewEvent]] = {}
        for account, event, _ in batch:
            accounts.setdefault(account, []).append(event)

        def store(tx: Tx) -> dict[str, list[Accepted | Refused]]:
            # In this order, so that no two transactions can wait for each other.
            return {
                account: self._acceptor.accept(tx, account, accounts[account])
                for account in sorted(accounts)
            }

        try:
            stored = await self._database.unit(store)
        except Exception as exc:
            if len(batch) > 1:  # the others must not suffer for one
                await asyncio.gather(*(self._store([each]) for each in batch))
            elif not batch[0][2].done():
                batch[0][2].set_exception(exc)
            return
        outcomes = {account: iter(found) for account, found in stored.items()}
        for account, _, future in batch:
            outcome = next(outcomes[account])
            if not future.done():
                future.set_result(outcome)

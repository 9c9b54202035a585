"""How a program that only enqueues wakes workers that listen to SQS."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from typing import Final, TypeVar

from penstock.storage import Database
from penstock.work.waker import Waker
from penstock.work.wakeups import Wake
from penstock.work.wakeups.sqs import SqsWakeups

T = TypeVar("T")

PATIENCE: Final = 5.0  # seconds that an enqueue may take longer for it; then the sweeper will do


class SqsBeside:
    """Sends wakes on an event loop and a thread of its own: the program may have none, or many."""

    def __init__(
        self,
        database: Database,
        queues: Mapping[str, str],
        *,
        region: str | None,
        endpoint_url: str | None,
    ) -> None:
        self._database = database
        self._make: Callable[[], SqsWakeups] = lambda: SqsWakeups(
            queues, region=region, endpoint_url=endpoint_url, listen=False
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="penstock-sqs", daemon=True)
        self._thread.start()
        try:
            self._call(self._open()).result()
        except BaseException:
            self._end()
            raise

    def send(self, wakes: Sequence[Wake]) -> Future[None]:
        """Send the wakes; done when SQS has them or it is given up. Never fails."""
        return self._call(self._send(wakes))

    def close(self) -> None:
        """End the thread, and what did not come to its end within `PATIENCE`."""
        self._call(self._wakeups.close()).result()
        self._call(_cancel_the_rest()).result()
        self._end()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, what: Coroutine[object, object, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(what, self._loop)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self) -> None:
        self._wakeups = self._make()
        await self._wakeups.open()
        self._waker = Waker(self._database, self._wakeups)

    async def _send(self, wakes: Sequence[Wake]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                self._waker.publish(wakes)
                await self._waker.settled()


async def _cancel_the_rest() -> None:
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)

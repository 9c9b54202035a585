"""Wake-ups between processes and machines, by Amazon SQS.

Each kind of work has a queue (several may share one); a queue is received from only while a
receiver has room for what is in it. SQS shares a queue fairly between accounts: the message group
of a wake is its account. What must wait leaves with SQS's own delay, in whole seconds and at most
15 minutes: the part of a second is left to the receiver, which looks, finds the row not due yet and
sets a timer; what is due later is found by the sweeper.

A wake that cannot be sent is told to this process alone, so that a leader whose sweeper finds due
rows keeps the work going, at the sweeper's pace, while the queue is out of reach.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from penstock.errors import SettingsError
from penstock.work.wakeups import (
    EVERYTHING,
    Message,
    Wake,
    WakeupsClosed,
    WakeupsError,
    WakeupStats,
    WakeupsUnavailable,
    sqs_queues,
)
from penstock.work.wakeups.sqs_body import encode
from penstock.work.wakeups.sqs_calls import (
    Entry,
    EntryRefused,
    client,
    describe,
    group_of,
    name_of,
    region_of,
)
from penstock.work.wakeups.sqs_source import Receipt, Source

Key = tuple[str, str]  # kind, lane

LONGEST_DELAY: Final = 900  # seconds; SQS takes no longer DelaySeconds
_KEEP: Final = 1.0  # seconds that a message waits here for somebody with room
_CLOSE: Final = 5.0  # seconds for what is on its way when it is closed


@dataclass(slots=True, eq=False)
class _Receiver:
    limit: int
    room: Mapping[str, int] | None

    def room_for(self, kinds: Iterable[str]) -> int:
        if self.room is None:
            return self.limit
        return min(self.limit, sum(self.room.get(kind, 0) for kind in kinds))


class SqsWakeups:
    """Sends wakes to, and receives them from, the queue of their kind.

    `queues`: the queue's URL for each kind of work. With `listen=False` it only publishes. A call
    that failed is made again after `retry_first` seconds, doubling up to `retry_cap`.
    """

    shared = True
    competing = True

    def __init__(
        self,
        queues: Mapping[str, str],
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        listen: bool = True,
        retry_first: float = 1.0,
        retry_cap: float = 30.0,
    ) -> None:
        for url in queues.values():
            if name_of(url).endswith(".fifo"):
                raise SettingsError(
                    f"{name_of(url)} is a FIFO queue: wake-ups need a standard queue, in which"
                    " each message may have a delay of its own"
                )
        self._region = region_of(list(queues.values()), region)
        self._endpoint_url = endpoint_url
        self._listening = listen
        self._retry_first = retry_first
        self._retry_cap = retry_cap
        self._stack = contextlib.AsyncExitStack()
        self._client: Any = None
        made = {
            url: Source(
                url,
                frozenset(kind for kind, its in queues.items() if its == url),
                arrived=self._on_arrival,
                backoff=self._backoff,
            )
            for url in dict.fromkeys(queues.values())
        }
        self._sources = {kind: made[url] for kind, url in queues.items()}
        self._all = list(made.values())
        # What arrived: from SQS with a receipt, from this process itself without.
        self._buffer: deque[Message] = deque()
        self._near: OrderedDict[Key, None] = OrderedDict()
        self._held: set[Receipt] = set()
        self._receivers: list[_Receiver] = []
        self._arrived = asyncio.Event()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._later: dict[Key, float] = {}  # when the earliest delayed wake sent for a lane ends
        self._unwanted: asyncio.TimerHandle | None = None
        self._send_failures = 0
        self._send_again_at = 0.0
        self._closed = False

    @property
    def healthy(self) -> bool:
        """Whether the latest call to receive worked, and the latest to send, if that was just now.

        A failure to send counts until the time of the next try: a process that is taken out of
        service for it would otherwise never send, and never be well again.
        """
        return not (any(source.failures for source in self._all) or self._is_sending_put_off())

    async def open(self) -> None:
        """Make the client; nothing is called before somebody publishes or receives."""
        if self._client is None:
            self._client = await self._stack.enter_async_context(
                client(self._region, self._endpoint_url)
            )
            for source in self._all:
                source.use(self._client)

    async def close(self) -> None:
        """Give back what nobody took, finish what is being sent, wake the receivers."""
        if self._closed:
            return
        self._closed = True
        self._arrived.set()
        for timer in [*self._timers.values(), *([self._unwanted] if self._unwanted else [])]:
            timer.cancel()
        self._timers.clear()
        await asyncio.gather(*(source.stop() for source in self._all))
        self._return_unwanted()
        every = [batches for source in self._all for batches in source.batches]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE):
                await asyncio.gather(*(batches.flush() for batches in every))
        await asyncio.gather(*(batches.stop() for batches in every))
        await self._stack.aclose()

    # ------------------------------------------------------------------ publish

    async def publish(self, wakes: Sequence[Wake]) -> None:
        """Send the wakes, ten a call; returns when SQS has them.

        WakeupsUnavailable if it did not take some. Those due now were then told to this process.
        """
        if self._closed or self._client is None:
            raise WakeupsUnavailable("the queue of wake-ups is not open")
        if strange := {wake.kind for wake in wakes} - self._sources.keys():
            raise WakeupsError(f"there is no queue for {', '.join(sorted(strange))}")
        chosen = [wake for wake in wakes if not self._wait_here(wake) and self._is_needed(wake)]
        if not chosen:
            return
        if self._is_sending_put_off():
            self._tell_this_process(chosen)
            raise WakeupsUnavailable
        sent: list[tuple[Wake, asyncio.Future[Exception | None]]] = []
        for source in self._all:
            its = [wake for wake in chosen if wake.kind in source.kinds]
            sent += zip(its, source.sends.put([_entry(wake) for wake in its]), strict=True)
        await asyncio.wait([future for _, future in sent])
        failed = [(wake, fault) for wake, future in sent if (fault := future.result()) is not None]
        if len(failed) < len(sent):
            self._send_failures = 0
        if not failed:
            return
        self._tell_this_process([wake for wake, _ in failed])
        wake, fault = failed[0]
        if not (isinstance(fault, EntryRefused) or self._is_sending_put_off()):
            retry_in = self._backoff(self._send_failures)
            self._send_failures += 1
            self._send_again_at = asyncio.get_running_loop().time() + retry_in
            self._sources[wake.kind].log_unreachable(fault, retry_in)
        raise WakeupsUnavailable(f"{len(failed)} wake-ups were not sent: {describe(fault)}")

    def _is_sending_put_off(self) -> bool:
        if self._send_failures == 0:
            return False
        return asyncio.get_running_loop().time() < self._send_again_at

    def _wait_here(self, wake: Wake) -> bool:
        """Set a timer for what is due within the second, if there is somebody here to look."""
        if not (self._listening and 0 < wake.delay < 1):
            return False
        key = (wake.kind, wake.lane)
        loop = asyncio.get_running_loop()
        known = self._timers.get(key)
        if known is None or loop.time() + wake.delay < known.when():
            if known is not None:
                known.cancel()
            self._timers[key] = loop.call_later(wake.delay, self._on_time, key)
        return True

    def _on_time(self, key: Key) -> None:
        del self._timers[key]
        self._arrive_near(key)

    def _is_needed(self, wake: Wake) -> bool:
        """Whether the lane has no message on its way that comes as early.

        A lane is looked at after every commit that concerns it: each look would send another.
        """
        if wake.delay > LONGEST_DELAY:
            return False
        if wake.delay <= 0:
            return True
        now = asyncio.get_running_loop().time()
        if len(self._later) > 1000:
            self._later = {key: at for key, at in self._later.items() if at > now}
        known = self._later.get((wake.kind, wake.lane), 0.0)
        if now < known <= now + wake.delay:
            return False
        self._later[wake.kind, wake.lane] = now + wake.delay
        return True

    def _tell_this_process(self, wakes: Iterable[Wake]) -> None:
        for wake in wakes:
            if wake.delay > 0:
                self._later.pop((wake.kind, wake.lane), None)
            elif self._listening:
                self._arrive_near((wake.kind, wake.lane))

    # ------------------------------------------------------------------ receive

    async def receive(self, limit: int, room: Mapping[str, int] | None = None) -> list[Message]:
        """From 1 to `limit` messages, of each kind at most as many as there is `room` for."""
        if limit < 1:
            raise ValueError("limit must be at least 1")
        receiver = _Receiver(limit, room)
        self._receivers.append(receiver)
        try:
            while not self._closed:
                if taken := self._take(receiver):
                    return taken
                self._poll()
                self._arrived.clear()
                await self._arrived.wait()
            raise WakeupsClosed
        finally:
            self._receivers.remove(receiver)
            self._keep_a_while()

    def _take(self, receiver: _Receiver) -> list[Message]:
        taken: list[Message] = []
        left = dict(receiver.room) if receiver.room is not None else None

        def takes(kind: str) -> bool:
            if len(taken) >= receiver.limit:
                return False
            if left is None or kind == EVERYTHING:
                return True
            left[kind] = left.get(kind, 0) - 1
            return left[kind] >= 0

        for kind, lane in list(self._near):
            if takes(kind):
                del self._near[kind, lane]
                taken.append(Message(kind, lane))
        kept: deque[Message] = deque()
        while self._buffer and len(taken) < receiver.limit:
            message = self._buffer.popleft()
            if takes(message.kind):
                self._held.add(_receipt(message))
                taken.append(message)
            else:
                kept.append(message)
        self._buffer.extendleft(reversed(kept))
        return taken

    def _poll(self) -> None:
        """Have messages fetched as far as there is room for them."""
        for source in self._all if self._listening else ():
            most = sum(each.room_for(source.kinds) for each in self._receivers)
            source.poll(most - sum(_receipt(m).source is source for m in self._buffer))

    def _on_arrival(self, messages: list[Message], missed: bool) -> None:
        self._buffer += messages
        if missed:
            self._near[EVERYTHING, EVERYTHING] = None
        self._arrived.set()
        self._keep_a_while()

    def _arrive_near(self, key: Key) -> None:
        self._near[key] = None
        self._arrived.set()

    def _keep_a_while(self) -> None:
        """Give back what nobody here has room for: others may."""
        if self._buffer and self._unwanted is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._unwanted = loop.call_later(_KEEP, self._return_unwanted)

    def _return_unwanted(self) -> None:
        self._unwanted = None
        wanted = [] if self._closed else [r.room for r in self._receivers]
        for message in list(self._buffer):
            if any(room is None or room.get(message.kind, 0) > 0 for room in wanted):
                continue  # it is about to be taken
            self._buffer.remove(message)
            self._return(_receipt(message))

    # ------------------------------------------------------------------ afterwards

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """Have the messages deleted, soon: one that comes again does no harm."""
        for receipt in self._let_go(messages):
            receipt.source.deletes.put([{"ReceiptHandle": receipt.handle}])

    async def release(self, messages: Sequence[Message]) -> None:
        """Make the messages visible to everybody again."""
        returning = [self._return(receipt) for receipt in self._let_go(messages)]
        if returning:
            await asyncio.wait(returning)

    def _let_go(self, messages: Sequence[Message]) -> list[Receipt]:
        found = [m.handle for m in messages if isinstance(m.handle, Receipt)]
        held = [receipt for receipt in dict.fromkeys(found) if receipt in self._held]
        self._held.difference_update(held)
        return held

    def _return(self, receipt: Receipt) -> asyncio.Future[Exception | None]:
        entry = {"ReceiptHandle": receipt.handle, "VisibilityTimeout": 0}
        return receipt.source.returns.put([entry])[0]

    async def stats(self) -> WakeupStats:
        """What SQS counts, approximately, over all queues, and what waits in this process."""
        visible, delayed = len(self._near) + len(self._buffer), len(self._timers)
        in_flight = -len(self._buffer)
        try:
            for source in self._all:
                now, held, later = await source.counts()
                visible, in_flight, delayed = visible + now, in_flight + held, delayed + later
        except Exception as exc:
            raise WakeupsUnavailable(describe(exc)) from exc
        return WakeupStats(visible, delayed, max(0, in_flight))

    async def dead_letters(self) -> dict[str, int]:
        """How many messages are in each dead-letter queue, by its name.

        WakeupsUnavailable if SQS cannot be asked, WakeupsError if it does not tell this process.
        """
        found: dict[str, int] = {}
        for source in self._all:
            queue = await sqs_queues.stats(self._client, source.url)
            if queue.dead_letter_queue is not None:
                found[queue.dead_letter_queue] = queue.dead_letters or 0
        return found

    # ------------------------------------------------------------------ trouble

    def _backoff(self, failures: int) -> float:
        return min(self._retry_cap, self._retry_first * 2.0 ** min(failures, 10))


def _entry(wake: Wake) -> Entry:
    entry: Entry = {"MessageBody": encode(wake)}
    if wake.delay > 0:
        # Rounded down: who receives it too early sets a timer, too late is too late.
        entry["DelaySeconds"] = max(1, int(wake.delay))
    if (group := group_of(wake.account)) is not None:
        entry["MessageGroupId"] = group
    return entry


def _receipt(message: Message) -> Receipt:
    assert isinstance(message.handle, Receipt)  # what is in the buffer came from SQS
    return message.handle

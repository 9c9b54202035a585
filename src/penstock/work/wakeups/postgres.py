"""Wake-ups between processes that share a PostgreSQL database, by LISTEN and NOTIFY.

A process hears its own wakes at once and without the database; NOTIFY tells the others. The
first NOTIFY goes out at once, those of the next 50 ms in one. Delayed wakes are held by a
timer in the process that published them; if it dies the sweeper finds the rows.

Everybody who listens hears every wake; all but one then find the row taken. A payload is a
JSON list of ``[kind, lane]`` or ``[kind, lane, delay in seconds]``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from penstock.errors import SettingsError
from penstock.telemetry import QUEUE_UNREACHABLE, WORKER_LOOP_ERROR, log
from penstock.work.wakeups import EVERYTHING, Message, Wake, WakeupStats, WakeupsUnavailable
from penstock.work.wakeups.local import Key, LocalWakeups

if TYPE_CHECKING:
    from psycopg import AsyncConnection

# https://www.postgresql.org/docs/current/sql-notify.html: "must be specified as less than
# 8000 bytes".
PAYLOAD_BYTES: Final = 7999
_LONGEST_DELAY: Final = 366 * 86_400.0  # seconds; beyond it the sweeper will do
_SEND_TRIES: Final = 2
_SEND_SECONDS: Final = 10.0  # for connecting and sending together
# A peer that vanished without a word (failover, NAT) is noticed within about 30 seconds.
_CONNECTION: Final = {
    "application_name": "penstock-wakeups",
    "connect_timeout": "5",
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",  # milliseconds
}


class _Batch:
    """Wakes that leave in one NOTIFY, and the error that it met, if any."""

    __slots__ = ("sent", "wakes")

    def __init__(self) -> None:
        self.wakes: dict[Key, float] = {}
        self.sent: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()


class PostgresWakeups:
    """LISTEN on one connection, NOTIFY on another, and a LocalWakeups in between.

    `conninfo` is a libpq connection string or URL. With `listen=False` it only publishes:
    for client processes that give work to others. `gap` is the time in seconds during which
    wakes are gathered after a NOTIFY. A lost connection is tried again after `retry_first`
    seconds, doubling up to `retry_cap`; after each connect EVERYTHING is received, since
    wakes were missed.
    """

    shared = True
    competing = False

    def __init__(
        self,
        conninfo: str,
        *,
        channel: str = "penstock",
        listen: bool = True,
        gap: float = 0.05,
        retry_first: float = 1.0,
        retry_cap: float = 30.0,
    ) -> None:
        self._conninfo = _complete(conninfo)
        self._channel = channel
        self._listening = listen
        self._gap = gap
        self._retry_first = retry_first
        self._retry_cap = retry_cap
        self._local = LocalWakeups()
        self._listener: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self._healthy = not listen
        self._publisher: AsyncConnection[Any] | None = None
        self._publisher_pid = 0
        self._failure: Exception | None = None
        self._send_again_at = 0.0
        self._batch: _Batch | None = None
        self._sender: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    @property
    def healthy(self) -> bool:
        """Whether wakes of other processes arrive; when not listening, whether ours leave."""
        return self._healthy

    async def open(self) -> None:
        """Start listening; returns after the first try to connect, whether it worked or not."""
        if self._listening and self._listener is None:
            self._listener = asyncio.create_task(self._listen(), name="penstock-wakeups-listen")
            await self._tried.wait()

    async def close(self) -> None:
        """Send what is being gathered, close the connections, wake the receivers."""
        self._closing.set()
        self._healthy = False
        if self._sender is not None:
            await asyncio.wait([self._sender])
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.cancel()
            await asyncio.wait([listener])
        await self._drop_publisher()
        await self._local.close()

    async def publish(self, wakes: Sequence[Wake]) -> None:
        """Tell this process at once, and return when the others were told.

        That takes up to `gap` seconds and a round trip: do not wait for it where time
        matters. WakeupsUnavailable if the others could not be told, also after `close`.
        """
        if self._closing.is_set():
            raise WakeupsUnavailable("the queue of wake-ups was closed")
        if self._listening:
            self._local.publish_nowait(wakes)
            others = [wake for wake in wakes if wake.delay <= 0]
        else:
            # Nobody here to wait for the delay, so whoever hears it does.
            others = list(wakes)
        if not others:
            return
        if self._batch is None:
            self._batch = _Batch()
        batch = self._batch
        for wake in others:
            key = (wake.kind, wake.lane)
            batch.wakes[key] = min(wake.delay, batch.wakes.get(key, wake.delay))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send_all(), name="penstock-wakeups-send")
        # Shielded: one caller that is cancelled must not take the others' answer along.
        error = await asyncio.shield(batch.sent)
        if error is not None:
            raise WakeupsUnavailable from error

    async def receive(self, limit: int, room: Mapping[str, int] | None = None) -> list[Message]:
        """From 1 to `limit` messages in order of arrival, waiting for the first."""
        return await self._local.receive(limit)

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """Let go of the messages."""
        await self._local.acknowledge(messages)

    async def release(self, messages: Sequence[Message]) -> None:
        """Queue the lanes of the messages again, in this process."""
        await self._local.release(messages)

    async def stats(self) -> WakeupStats:
        """What waits in this process; PostgreSQL itself keeps nothing."""
        return await self._local.stats()

    async def _connect(self) -> AsyncConnection[Any]:
        from psycopg import AsyncConnection

        # Without prepared statements it also works behind a pooler in session mode.
        return await AsyncConnection.connect(
            self._conninfo, autocommit=True, prepare_threshold=None
        )

    async def _listen(self) -> None:
        wait = self._retry_first
        while True:
            try:
                async with await self._connect() as connection:
                    await self._hear(connection)
                reason = "the server closed the connection"
            except Exception as error:  # whatever it was, a process must not stay deaf
                reason = _text(error)
            if self._healthy:
                wait = self._retry_first
            self._healthy = False
            self._tried.set()
            log(QUEUE_UNREACHABLE, wakeups="postgres", error=reason, retry_in=wait)
            await asyncio.sleep(wait)
            wait = min(wait * 2, self._retry_cap)

    async def _hear(self, connection: AsyncConnection[Any]) -> None:
        from psycopg import sql

        await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
        self._healthy = True
        self._tried.set()
        self._local.publish_nowait((Wake(EVERYTHING, EVERYTHING),))
        async for notification in connection.notifies():
            if notification.pid == self._publisher_pid:
                continue  # told directly, before it was sent
            try:
                wakes = decode(notification.payload)
            except ValueError as error:
                # Anybody who may connect to the database may send on the channel.
                log(WORKER_LOOP_ERROR, loop="wakeups", error=f"ignored: {error}", retry_in=0.0)
            else:
                self._local.publish_nowait(wakes)

    async def _send_all(self) -> None:
        while self._batch is not None:
            batch, self._batch = self._batch, None
            error = await self._send(list(encode(batch.wakes)))
            if not self._listening:
                self._healthy = error is None
            batch.sent.set_result(error)
            try:
                await asyncio.wait_for(self._closing.wait(), self._gap)
            except TimeoutError:
                continue

    async def _send(self, payloads: list[str]) -> Exception | None:
        now = asyncio.get_running_loop().time
        if self._failure is not None and now() < self._send_again_at:
            return self._failure
        for _ in range(_SEND_TRIES):  # often only the connection is stale
            try:
                async with asyncio.timeout(_SEND_SECONDS):
                    await self._notify(payloads)
            except Exception as error:
                self._failure = error
                await self._drop_publisher()
            else:
                self._failure = None
                return None
        # The wakes are dropped: the rows remember, and the caller is told.
        self._send_again_at = now() + self._retry_first
        log(
            QUEUE_UNREACHABLE,
            wakeups="postgres",
            error=_text(self._failure),
            retry_in=self._retry_first,
        )
        return self._failure

    async def _notify(self, payloads: list[str]) -> None:
        if self._publisher is None:
            self._publisher = await self._connect()
            self._publisher_pid = self._publisher.info.backend_pid
        await self._publisher.execute(
            "SELECT pg_notify(%s, p) FROM unnest(%s::text[]) AS p", (self._channel, payloads)
        )

    async def _drop_publisher(self) -> None:
        publisher, self._publisher = self._publisher, None
        # The server may give the number to somebody else's connection now.
        self._publisher_pid = 0
        if publisher is not None:
            await publisher.close()


def _complete(conninfo: str) -> str:
    try:
        from psycopg import Error
        from psycopg.conninfo import conninfo_to_dict, make_conninfo
    except ImportError as error:
        raise SettingsError("wake-ups by PostgreSQL need penstock[postgres]") from error
    scheme, separator, rest = conninfo.partition("://")
    if separator:
        conninfo = f"{scheme.partition('+')[0]}://{rest}"  # SQLAlchemy's postgresql+psycopg://
    try:
        settings: dict[str, Any] = {**_CONNECTION, **conninfo_to_dict(conninfo)}
    except Error as error:
        raise SettingsError(f"the database URL cannot be read: {error}") from error
    return make_conninfo(**settings)


def _text(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}".strip()


def encode(wakes: dict[Key, float]) -> Iterator[str]:
    """The wakes (delay by kind and lane) as payloads of at most PAYLOAD_BYTES each."""
    parts: list[str] = []
    size = 1  # the closing bracket; each part brings an opening bracket or a comma
    for (kind, lane), delay in wakes.items():
        if delay > _LONGEST_DELAY:
            continue
        # ASCII only, so that a character is a byte in every server encoding.
        wake = [kind, lane, delay] if delay > 0 else [kind, lane]
        part = json.dumps(wake, separators=(",", ":"))
        if len(part) + 2 > PAYLOAD_BYTES:
            part = json.dumps([EVERYTHING, EVERYTHING], separators=(",", ":"))
        if size + 1 + len(part) > PAYLOAD_BYTES:
            yield f"[{','.join(parts)}]"
            parts, size = [], 1
        parts.append(part)
        size += 1 + len(part)
    if parts:
        yield f"[{','.join(parts)}]"


def decode(payload: str) -> list[Wake]:
    """The wakes of a payload; ValueError says what is wrong with it."""
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(found, list):
        raise ValueError("not a list")
    return [_wake(item) for item in found]


def _wake(item: object) -> Wake:
    match item:
        case [str(kind), str(lane)]:
            return Wake(kind, lane)
        case [str(kind), str(lane), int() | float() as delay] if 0 <= delay <= _LONGEST_DELAY:
            return Wake(kind, lane, delay)
        case _:
            raise ValueError("not a list of [kind, lane] or [kind, lane, delay]")

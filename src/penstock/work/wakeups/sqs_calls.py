"""Calls to Amazon SQS: the client, batches whose entries may fail one by one, and error texts."""

from __future__ import annotations

import asyncio
import hashlib
import re
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from importlib import import_module
from typing import Any, Final

from penstock.errors import SettingsError
from penstock.work.wakeups import WakeupsClosed

BATCH: Final = 10  # entries in one call, at most
LONG_POLL: Final = 20  # seconds, the longest there is
CONNECTIONS: Final = 32  # at once, for everything that one process does with its queues
_CONNECT: Final = 5.0  # seconds
_READ: Final = LONG_POLL + 10.0  # seconds
_PAUSES: Final = (0.1, 0.25, 0.5)  # seconds between tries of entries that failed
_BATCH_SECONDS: Final = 15.0  # for all tries together

_AWS: Final = re.compile(
    r"https://sqs(?:-fips)?\.(?P<region>[a-z]{2,4}(?:-[a-z]{2,10}){1,3}-[0-9])"
    r"\.(?:amazonaws\.com(?:\.cn)?|api\.aws)/"
)
_GROUP: Final = re.compile(r"""[A-Za-z0-9!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]{1,128}""")

Entry = dict[str, Any]


class EntryRefused(Exception):
    """SQS took the call but not this entry of it."""


def name_of(url: str) -> str:
    """The queue's name: what logs say instead of the URL, which tells the account."""
    return url.rstrip("/").rpartition("/")[2]


def group_of(account: str) -> str | None:
    """The message group of an account: what SQS shares a standard queue fairly between.

    At most 128 characters of letters, digits and punctuation, by SQS's quotas for messages;
    account names may be anything.
    """
    if not account:
        return None
    if _GROUP.fullmatch(account):
        return account
    return hashlib.sha256(account.encode(errors="surrogatepass")).hexdigest()


def region_of(urls: Sequence[str], given: str | None) -> str | None:
    """The one region of these queues; None = AWS's own tools decide. Raises SettingsError."""
    named = {found["region"] for url in urls if (found := _AWS.match(url))}
    if len(named) > 1:
        raise SettingsError(f"the queues are in several regions: {', '.join(sorted(named))}")
    return named.pop() if named else given


@asynccontextmanager
async def client(region: str | None, endpoint_url: str | None) -> AsyncIterator[Any]:
    """A client; SettingsError if what talks to AWS is missing or does not know where to.

    Credentials come from where AWS's own tools look: environment, profile, container, instance.
    """
    try:
        if "aiobotocore.session" not in sys.modules:  # a quarter of a second, once
            await asyncio.to_thread(import_module, "aiobotocore.session")
    except ImportError:
        raise SettingsError(
            "wake-ups by SQS need aiobotocore: pip install 'penstock[aws]'"
        ) from None
    from aiobotocore.config import AioConfig
    from botocore.exceptions import NoRegionError

    config = AioConfig(
        connect_timeout=_CONNECT,
        read_timeout=_READ,
        max_pool_connections=CONNECTIONS,
        retries={"total_max_attempts": 1},  # entries are retried here, one by one
    )
    making = _session().create_client(
        "sqs", region_name=region, endpoint_url=endpoint_url, config=config
    )
    try:
        made = await making.__aenter__()
    except NoRegionError:
        raise SettingsError(
            "the queues' URLs do not tell their region: set PENSTOCK_AWS_REGION"
        ) from None
    try:
        yield made
    finally:
        await making.__aexit__(None, None, None)


@cache
def _session() -> Any:
    from aiobotocore.session import get_session

    return get_session()  # one for all: it reads AWS's long tables once


def describe(exc: BaseException) -> str:
    """One line about what went wrong with a call."""
    from botocore.exceptions import ClientError

    if isinstance(exc, ClientError):
        error = exc.response.get("Error", {})
        return f"{error.get('Code')}: {error.get('Message')}"[:300]
    return f"{type(exc).__name__}: {exc}"[:300].rstrip(": ")


class Batches:
    """Entries for one batch operation of one queue, up to ten a call, several calls at a time.

    What arrives while every call is under way shares the next. With `linger`, a call that is not
    full waits so many seconds for more. Entries that fail through no fault of ours are tried
    again, under ids of our own: SQS may answer 200 and have taken none.
    """

    def __init__(
        self,
        call: Callable[[list[Entry]], Awaitable[Mapping[str, Any]]],
        *,
        at_once: int = 4,
        linger: float = 0.0,
    ) -> None:
        self._call = call
        self._at_once = at_once
        self._linger = linger
        self._waiting: deque[tuple[Entry, asyncio.Future[Exception | None]]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def put(self, entries: Sequence[Entry]) -> list[asyncio.Future[Exception | None]]:
        """Take the entries; each future tells what went wrong in the end, None = nothing."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Exception | None]] = []
        for entry in entries:
            futures.append(loop.create_future())
            self._waiting.append((entry, futures[-1]))
        if self._linger and len(self._waiting) < BATCH:
            if self._timer is None and self._waiting:
                self._timer = loop.call_later(self._linger, self._start)
        else:
            self._start()
        return futures

    async def flush(self) -> None:
        """Return when nothing is waiting or under way."""
        while self._waiting or self._running:
            self._start()
            await asyncio.wait(self._running)

    async def stop(self) -> None:
        """End what is under way; what has not been sent will not be."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, deque()
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for _, future in waiting:
            if not future.done():
                future.set_result(WakeupsClosed())

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and len(self._running) < self._at_once:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and self._waiting and self._timer is None:
            self._start()

    async def _run(self, batch: list[tuple[Entry, asyncio.Future[Exception | None]]]) -> None:
        left = dict(enumerate(batch))
        fault: Exception = TimeoutError(f"no answer in {_BATCH_SECONDS:g} s")
        try:
            async with asyncio.timeout(_BATCH_SECONDS):
                for pause in (*_PAUSES, None):
                    try:
                        fault = await self._try(left)
                    except Exception as exc:
                        fault = exc
                    if not left or pause is None:
                        return
                    await asyncio.sleep(pause)
        except TimeoutError:
            pass
        finally:
            for _, future in left.values():
                if not future.done():
                    future.set_result(fault)

    async def _try(
        self, left: dict[int, tuple[Entry, asyncio.Future[Exception | None]]]
    ) -> Exception:
        """Call once; what is settled, one way or the other, leaves `left`."""
        answer = await self._call([{"Id": str(id_), **entry} for id_, (entry, _) in left.items()])
        refused = {each["Id"]: each for each in answer.get("Failed", ())}
        fault = EntryRefused("")
        for id_ in list(left):
            found = refused.get(str(id_))
            if found is not None:
                fault = EntryRefused(f"{found.get('Code')}: {found.get('Message', '')}"[:300])
                if not found.get("SenderFault"):
                    continue
            _, future = left.pop(id_)
            if not future.done():
                future.set_result(None if found is None else fault)
        return fault

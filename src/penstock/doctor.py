"""What is well with a deployment, what is not, and what to do about it.

Looks at what the settings name, beside a server that runs or without one, and changes nothing: no
folder, table or key is made. No secret is in what it says; an error whose text is not Penstock's
own is told by its type alone.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from penstock import runfile
from penstock.backends import make_database, make_wakeups
from penstock.client import ApiError, Client, Unreachable
from penstock.clock import SECOND, SystemClock, to_iso
from penstock.durations import describe
from penstock.errors import PenstockError, SchemaNewer, SecretBoxError
from penstock.predictions import extra
from penstock.secretbox import SecretBox
from penstock.settings import Settings, load_secret_keys
from penstock.storage import Database, Tx, migrate, sql
from penstock.storage.objects import Folder
from penstock.storage.tables import metadata
from penstock.wiring import make_objects
from penstock.work.schedule import OFFICE

Status = Literal["ok", "warn", "fail"]

FREE_FAIL: Final = 100 * 1024 * 1024  # bytes
FREE_WARN: Final = 1024 * 1024 * 1024
PATIENCE: Final = 10.0  # seconds that one check may take
FAR: Final = 45.0  # seconds for a bucket, whose client takes its time to load
LATE: Final = 300.0  # seconds that due work may wait
SKEW: Final = 2.0  # seconds between this machine's clock and the database's
SOON: Final = 7 * 86400.0  # seconds

# Every table of work, whichever service's it is.
_WORK: Final = [t.name for t in metadata.sorted_tables if "lease_until" in t.c]
_MAY_DIE: Final = [
    t.name for t in metadata.sorted_tables if {"lease_until", "status"} <= {*t.c.keys()}
]
_SEALED: Final = (
    ("endpoints", "secret"),
    ("endpoints", "headers"),
    ("carrier_credentials", "sealed"),
)

_PASSING: Final = "NOT n.paused AND n.circuit = 'closed' AND n.open_at <= {now}"
_KEYS: Final = sql("""
SELECT count(*), min(CASE WHEN expires_at > {now} THEN expires_at END),
  sum(CASE WHEN expires_at <= {now} THEN 1 ELSE 0 END) FROM api_keys WHERE revoked_at IS NULL
""")
_STOPPED: Final = sql("""
SELECT id, paused, circuit FROM lanes
WHERE (paused OR circuit <> 'closed') ORDER BY id LIMIT 1000
""")
_LEADER: Final = sql(f"SELECT max(until_at) FROM leaders WHERE name LIKE '{OFFICE}%'")  # noqa: S608
_LATEST: Final = sql("SELECT max(created_at) FROM lanes")
_VERSION: Final = sql(sqlite="SELECT sqlite_version()", postgres="SHOW server_version")
_WRITABLE: Final = sql("DELETE FROM leaders WHERE name = 'doctor'")
_CREDENTIALS: Final = sql("SELECT DISTINCT carrier FROM carrier_credentials ORDER BY carrier")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; `cure` says what to do, unless all is well."""

    name: str
    status: Status
    message: str
    cure: str | None = None


async def examine(settings: Settings) -> list[Finding]:
    """Every check that can be made, in the order in which they should be read."""
    found = [
        await _checked("server", lambda: asyncio.to_thread(_server, settings)),
        await _checked("disk", lambda: asyncio.to_thread(_disk, settings)),
    ]
    schema = await _checked("migrations", lambda: asyncio.to_thread(_migrations, settings))
    usable = False
    there = settings.database_url is not None or settings.sqlite_path.exists()
    database = make_database(settings, SystemClock(), owner=False) if there else None
    if database is None:
        found.append(_no_database(settings))
    else:
        try:
            async with asyncio.timeout(PATIENCE):
                await database.open()
            usable = True
        except (PenstockError, TimeoutError, OSError) as exc:
            found.append(_failed("database", exc))
    try:
        if usable and database is not None:
            found += await _inside(settings, database, schema)
        elif there:
            found.append(schema)
    finally:
        if usable and database is not None:
            await database.close()
    found.append(await _checked("objects", lambda: asyncio.to_thread(_objects, settings), FAR))
    return found


async def _inside(settings: Settings, database: Database, schema: Finding) -> list[Finding]:
    """What can be seen in a database that is open; little unless it has this version's tables."""
    if schema.status != "ok":
        return [schema, await _checked("queue", lambda: _queue(settings, database))]
    return [
        await _checked("database", lambda: _database(settings, database)),
        schema,
        await _checked("queue", lambda: _queue(settings, database)),
        await _checked("work", lambda: _work(database)),
        await _checked("scheduler", lambda: _scheduler(settings, database)),
        await _checked("clock", lambda: _clock(database)),
        await _checked("secrets", lambda: _secrets(settings, database)),
        await _checked("keys", lambda: _keys(database)),
        await _checked("carriers", lambda: _carriers(settings, database)),
    ]


async def _checked(
    name: str, check: Callable[[], Awaitable[Finding]], within: float = PATIENCE
) -> Finding:
    try:
        async with asyncio.timeout(within):
            return await check()
    except TimeoutError:
        return _failed(name, TimeoutError(f"no answer in {within:g} s"))
    except Exception as exc:  # a check that fails is a finding, whatever it met
        return _failed(name, exc)


_CURES: Final = {
    "database": "check PENSTOCK_DATABASE_URL, and that the database runs and lets this user in",
    "migrations": "check that the database can be read, then run: penstock migrate",
    "objects": "check that what PENSTOCK_OBJECTS names is there and can be written to",
    "queue": "check that what PENSTOCK_WAKEUPS names can be reached from here",
}


def _failed(name: str, exc: BaseException) -> Finding:
    text = type(exc).__name__
    if isinstance(exc, PenstockError):
        text = str(exc)
    elif isinstance(exc, TimeoutError):
        text = str(exc) or f"no answer in {PATIENCE:g} s"
    elif isinstance(exc, OSError):
        text = exc.strerror or text
    return Finding(name, "fail", text, _CURES.get(name, "see the message; the log may say more"))


# ------------------------------------------------------------------ around the database


def _server(settings: Settings) -> Finding:
    run = runfile.read(settings.data_dir)
    if run is None:
        return Finding(
            "server", "warn", f"none runs on {settings.data_dir}", "start one: penstock up"
        )
    with Client(run.url, run.token, retries=0, timeout=PATIENCE / 2) as client:
        try:
            client.call("GET", "/health/ready")
            version = client.call("GET", "/version")["version"]
        except Unreachable:
            return Finding(
                "server",
                "fail",
                f"process {run.pid} runs at {run.url} and does not answer",
                "look into its log; stop it and start it again: nothing accepted is lost",
            )
        except ApiError as exc:
            return Finding(
                "server", "fail", f"{run.url}: {exc.detail}", "the checks below may say why"
            )
    return Finding("server", "ok", f"{version} runs at {run.url} and is ready")


def _disk(settings: Settings) -> Finding:
    folder = settings.data_dir
    if not folder.exists():
        if settings.database_url is not None:
            return Finding("disk", "ok", "no data folder, and none is needed but for run.json")
        return Finding("disk", "warn", f"{folder} does not exist", "penstock up makes it")
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(
            "disk",
            "fail",
            f"{folder} cannot be written to",
            f"run as its owner, or: chown -R $USER {folder}",
        )
    free = shutil.disk_usage(folder).free
    size = f"{free / 1024**3:.1f} GiB free in {folder}"
    if free < FREE_WARN:
        return Finding(
            "disk",
            "fail" if free < FREE_FAIL else "warn",
            size,
            "free space; `penstock prune` deletes what is past its time",
        )
    if folder.stat().st_mode & 0o077:
        return Finding(
            "disk",
            "warn",
            f"others may look into {folder}",
            f"chmod 700 {folder}: it holds secrets",
        )
    return Finding("disk", "ok", size)


def _migrations(settings: Settings) -> Finding:
    url = settings.database_url
    head = migrate.head()
    try:
        current = migrate.current(settings.sqlite_path if url is None else url.get_secret_value())
    except SchemaNewer as exc:
        return Finding("migrations", "fail", str(exc), "install the version that wrote it")
    if current == head:
        return Finding("migrations", "ok", f"revision {head}")
    how = "penstock up does it, or: penstock migrate" if url is None else "penstock migrate"
    return Finding(
        "migrations", "fail", f"the tables are at {current or 'nothing'}, needed is {head}", how
    )


def _no_database(settings: Settings) -> Finding:
    return Finding(
        "database",
        "warn",
        f"there is none yet: {settings.sqlite_path} does not exist",
        "penstock up makes it; if there should be one, check PENSTOCK_DATA_DIR",
    )


def _objects(settings: Settings) -> Finding:
    if "predictions" not in settings.services:
        return Finding("objects", "ok", "not needed: predictions are turned off")
    if lacking := extra.missing():
        return Finding(
            "objects",
            "warn",
            f"predictions do not run: {' and '.join(lacking)} missing",
            "pip install 'penstock[predictions]', or PENSTOCK_SERVICES=events,tracking",
        )
    objects = make_objects(settings)
    where = str(objects.root if isinstance(objects, Folder) else settings.objects)
    if isinstance(objects, Folder) and not objects.root.exists():
        return Finding("objects", "ok", f"none yet: {where} is made with the first")
    key = f"doctor/{secrets.token_hex(8)}"
    try:
        with objects.writing(key) as file:
            file.write(b"penstock")
        with objects.open(key) as read:
            whole = read.read() == b"penstock"
    finally:
        objects.delete(key)
    if not whole:
        return Finding("objects", "fail", "what was written is not what is read", _CURES["objects"])
    return Finding("objects", "ok", f"written, read and deleted in {where}")


# ------------------------------------------------------------------ in the database


async def _database(settings: Settings, database: Database) -> Finding:
    def look(tx: Tx) -> str:
        tx.run(_WRITABLE)
        row = tx.one(_VERSION)
        assert row is not None
        return str(row[0])

    began = SystemClock().monotonic()
    version = await database.unit(look)
    took = (SystemClock().monotonic() - began) * 1000
    what = "SQLite" if database.dialect == "sqlite" else "PostgreSQL"
    size = ""
    if database.dialect == "sqlite":
        size = f", {settings.sqlite_path.stat().st_size / 1024**2:,.1f} MiB"
    message = f"{what} {version} can be written to ({took:.0f} ms{size})"
    if took > 1000:
        return Finding(
            "database", "warn", message, "a commit should take some ms: look at its disk"
        )
    return Finding("database", "ok", message)


async def _queue(settings: Settings, database: Database) -> Finding:
    if database.dialect == "sqlite" or settings.wakeups == "local":
        return Finding("queue", "ok", "wake-ups stay within the process")
    wakeups = make_wakeups(settings, database)
    await wakeups.open()
    try:
        if not getattr(wakeups, "healthy", True):
            return Finding("queue", "fail", "wake-ups cannot be received", _CURES["queue"])
        stats = await wakeups.stats()
    finally:
        await wakeups.close()
    name = type(wakeups).__name__.removesuffix("Wakeups")
    return Finding("queue", "ok", f"{name} wake-ups are received; {stats.visible} wait")


async def _work(database: Database) -> Finding:
    def look(tx: Tx) -> tuple[int, int, int]:
        oldest, dead = None, 0
        for table in _WORK:
            row = tx.one(
                sql(f"""
SELECT min(w.due_at), {{now}} FROM {table} w JOIN lanes n ON n.id = w.lane
WHERE w.due_at IS NOT NULL AND w.lease_until IS NULL AND {_PASSING}
""")  # noqa: S608 - a table's name
            )
            assert row is not None
            if row[0] is not None:
                oldest = row[0] if oldest is None else min(oldest, row[0])
        for table in _MAY_DIE:
            count = tx.one(
                sql(
                    f"SELECT count(*) FROM (SELECT 1 FROM {table} WHERE status = 'dead'"  # noqa: S608
                    " LIMIT 1001) c"
                )
            )
            assert count is not None
            dead += count[0]
        stopped = len(tx.rows(_STOPPED))
        return (0 if oldest is None else max(0, tx.now() - oldest)), dead, stopped

    late, dead, stopped = await database.read(look)
    seconds = late / SECOND
    if seconds > LATE:
        return Finding(
            "work",
            "warn",
            f"work is due since {describe(round(seconds))} in a lane that is open",
            "is a worker running? if so, it has too much: `penstock lanes list`",
        )
    counted = f"{dead:,} dead" if dead <= 1000 else "over 1,000 dead"
    if dead:
        return Finding(
            "work", "warn", counted, "penstock dead list shows why; penstock dead redrive"
        )
    held = f", {stopped} lanes stopped (penstock lanes list --stopped)" if stopped else ""
    return Finding("work", "ok", f"nothing is late, nothing dead{held}")


async def _scheduler(settings: Settings, database: Database) -> Finding:
    if database.dialect == "sqlite":
        return Finding("scheduler", "ok", "it is the server's own")
    row = await database.read(lambda tx: tx.one(_LEADER))
    now = await database.read(lambda tx: tx.now())
    if row is None or row[0] is None or row[0] < now:
        return Finding(
            "scheduler",
            "warn",
            "no scheduler leads: lost leases, crons and pruning wait",
            "start one: penstock up, worker or scheduler",
        )
    return Finding("scheduler", "ok", "one leads")


async def _clock(database: Database) -> Finding:
    here = SystemClock()
    before = here.now()
    there, latest = await database.read(lambda tx: (tx.now(), tx.one(_LATEST)))
    skew = 0.0
    if database.dialect == "postgres":
        skew = abs(there - (before + here.now()) / 2) / SECOND
    cure = "turn on NTP (timedatectl set-ntp true): signatures and leases go by the clock"
    if skew > SKEW:
        return Finding("clock", "fail", f"{skew:.1f} s off the database's", cure)
    newest = latest[0] if latest is not None else None
    if newest is not None and newest > there + 60 * SECOND:
        return Finding("clock", "fail", f"it is behind what was written at {to_iso(newest)}", cure)
    if database.dialect == "postgres":
        return Finding("clock", "ok", f"{skew:.1f} s off the database's")
    return Finding("clock", "ok", f"{to_iso(there)}, not behind what was written last")


async def _secrets(settings: Settings, database: Database) -> Finding:
    sealed = await database.read(_some_sealed)
    file = settings.data_dir / "secret.key"
    cure = "restore secret.key, or set PENSTOCK_SECRET_KEY to the key they were sealed with"
    if not settings.secret_key and not file.exists():
        if sealed:
            return Finding("secrets", "fail", "there are secrets, and no key to open them", cure)
        return Finding("secrets", "ok", "none yet; the key is made with the first")
    box = SecretBox(load_secret_keys(settings))
    try:
        for text in sealed:
            box.open(text)
    except SecretBoxError as exc:
        return Finding("secrets", "fail", str(exc), cure)
    if not settings.secret_key and file.stat().st_mode & 0o077:
        return Finding("secrets", "warn", f"others may read {file}", f"chmod 600 {file}")
    return Finding("secrets", "ok", "the key opens what is sealed" if sealed else "there is a key")


def _some_sealed(tx: Tx) -> list[str]:
    """The first and the latest of each kind: a key that was lost shows in one of them."""
    found = []
    for table, column in _SEALED:
        order = "created_at"
        for way in ("ASC", "DESC"):
            row = tx.one(
                sql(
                    f"SELECT {column} FROM {table} WHERE {column} <> ''"  # noqa: S608
                    f" ORDER BY {order} {way} LIMIT 1"
                )
            )
            if row is not None:
                found.append(str(row[0]))
    return found


async def _keys(database: Database) -> Finding:
    row, now = await database.read(lambda tx: (tx.one(_KEYS), tx.now()))
    assert row is not None
    count, next_end, expired = row
    if not count:
        return Finding("keys", "ok", "no API keys yet: penstock keys create --name first")
    cure = "make new ones and revoke the old: penstock keys create, penstock keys revoke"
    if next_end is not None and next_end - now < SOON * SECOND:
        return Finding("keys", "warn", f"one expires at {to_iso(next_end)}", cure)
    if expired:
        return Finding("keys", "warn", f"{expired} of {count} have expired", cure)
    return Finding("keys", "ok", f"{count} valid")


async def _carriers(settings: Settings, database: Database) -> Finding:
    if "tracking" not in settings.services:
        return Finding("carriers", "ok", "not needed: tracking is turned off")
    own = [name for name, each in settings.carriers().items() if each.values]
    stored = [row[0] for row in await database.read(lambda tx: tx.rows(_CREDENTIALS))]
    stopped = await database.read(lambda tx: tx.rows(_STOPPED))
    opened = [
        lane for lane, _, circuit in stopped if lane.startswith("trk:") and circuit != "closed"
    ]
    if opened:
        return Finding(
            "carriers",
            "warn",
            f"the circuit is open: {_few(opened)}",
            f"penstock lanes show {opened[0]} says why; it closes when the carrier answers",
        )
    names = sorted({*own, *stored})
    if not names:
        return Finding("carriers", "ok", "no credentials; `sandbox` needs none")
    return Finding("carriers", "ok", f"credentials for {', '.join(names)}; no circuit is open")


def _few(names: Iterable[str]) -> str:
    shown = list(names)
    rest = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return ", ".join(shown[:3]) + rest

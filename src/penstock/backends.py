"""What a process stands on, as its settings name it: the data folder, the database, wake-ups."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from penstock.clock import Clock
from penstock.errors import SettingsError, StorageError
from penstock.settings import Settings
from penstock.storage import Database
from penstock.storage.sqlite import SqliteDatabase
from penstock.wiring import running
from penstock.work.wakeups import Wakeups
from penstock.work.wakeups.local import LocalWakeups

PATIENCE = 3.0  # seconds that another process may take to let go of the data folder
# The kinds of work of each service: who has a queue of its own sends them there.
KINDS = {
    "jobs": ("job",),
    "events": ("delivery", "fanout", "replay"),
    "tracking": ("shipment_check", "shipment_import"),
    "predictions": ("prediction", "model_training"),
}


def make_data_dir(settings: Settings) -> None:
    """Make the data folder if it is not there; SettingsError if it cannot be one."""
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise SettingsError(
            f"PENSTOCK_DATA_DIR is {str(settings.data_dir)!r}, which cannot be made a folder:"
            f" {exc.strerror}"
        ) from exc


def make_database(settings: Settings, clock: Clock, *, owner: bool) -> Database:
    """The database that the settings name, not yet open."""
    if settings.database_url is None:
        make_data_dir(settings)
        return SqliteDatabase(settings.sqlite_path, clock, owner=owner, patience=PATIENCE)
    try:
        from penstock.storage.postgres import PostgresDatabase
    except ImportError:
        raise SettingsError(
            "PENSTOCK_DATABASE_URL needs psycopg: pip install 'penstock[postgres]'"
        ) from None
    return PostgresDatabase(
        settings.database_url.get_secret_value(),
        clock,
        threads=settings.database_threads,
        prepare=settings.database_prepare,
    )


def make_wakeups(settings: Settings, database: Database, *, listen: bool = True) -> Wakeups:
    """The wake-ups that fit the database, unless a setting says otherwise.

    With `listen=False` the process only tells others, if there may be others.
    """
    if isinstance(database, SqliteDatabase):
        return LocalWakeups(watch=_others_committed(database))
    if settings.wakeups == "local":
        return LocalWakeups()
    if settings.wakeups == "sqs":
        return _sqs_wakeups(settings, listen=listen)
    from penstock.work.wakeups.postgres import PostgresWakeups

    assert settings.database_url is not None
    return PostgresWakeups(settings.database_url.get_secret_value(), listen=listen)


def queues(settings: Settings) -> dict[str, str]:
    """The URL of the SQS queue for each kind of work that the settings' services have."""
    found: dict[str, str] = {}
    for service in dict.fromkeys(("jobs", *running(settings))):
        if service not in settings.sqs_queues:
            raise SettingsError(
                f"PENSTOCK_SQS_{service.upper()}_QUEUE_URL is missing: PENSTOCK_WAKEUPS is sqs,"
                f" and this process has the service {service}"
            )
        found |= dict.fromkeys(KINDS[service], settings.sqs_queues[service])
    return found


def _sqs_wakeups(settings: Settings, *, listen: bool) -> Wakeups:
    from penstock.work.wakeups.sqs import SqsWakeups

    return SqsWakeups(
        queues(settings),
        region=settings.aws_region,
        endpoint_url=settings.aws_endpoint_url,
        listen=listen,
    )


def _others_committed(database: SqliteDatabase) -> Callable[[], Awaitable[bool]]:
    seen: list[int] = []

    async def changed() -> bool:
        try:
            version = await database.data_version()
        except StorageError:
            return False
        # The first call says yes: somebody may have committed since the worker's first look.
        new = not seen or seen[0] != version
        seen[:] = [version]
        return new

    return changed

"""The tables of the database that the settings name: are they this version's, and make them so."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from penstock.backends import PATIENCE, make_data_dir
from penstock.errors import SchemaNewer, SettingsError
from penstock.settings import Settings
from penstock.storage.lock import lock_of
from penstock.telemetry import MIGRATION_APPLIED, SCHEMA_NEWER, log


def migrate(settings: Settings) -> tuple[str | None, str]:
    """Bring the tables up to date; answers the revisions before and after.

    An SQLite file is copied first, to ``penstock.db.<revision>.<time>.bak`` beside it. Blocks.
    """
    from penstock.storage import migrate as schema

    head = schema.head()
    if settings.database_url is not None:
        url = settings.database_url.get_secret_value()
        return _upgrade(url, schema.current(url), head, None)
    make_data_dir(settings)
    path = settings.sqlite_path
    lock = lock_of(path)
    # A command that was run at the same time may be making the tables: it ends by itself.
    lock.acquire(PATIENCE)
    try:
        before = schema.current(path)
        backup = _backup(path, before) if before is not None and before != head else None
        return _upgrade(path, before, head, backup)
    finally:
        lock.release()


def _upgrade(
    target: str | Path, before: str | None, head: str, backup: str | None
) -> tuple[str | None, str]:
    from penstock.storage import migrate as schema

    if before != head:
        schema.upgrade(target)
        log(MIGRATION_APPLIED, from_revision=before, to_revision=head, backup=backup)
    return before, head


def check_migrated(settings: Settings, *, or_newer: bool = False) -> None:
    """SettingsError unless the database has the tables of this version. Blocks.

    With `or_newer`, those of a version that this one does not know will do: a migration only adds,
    so that the version before works on, and can be gone back to.
    """
    from penstock.storage import migrate as schema

    url = settings.database_url
    target = settings.sqlite_path if url is None else url.get_secret_value()
    head = schema.head()
    try:
        found = schema.current(target)
    except SchemaNewer as exc:
        if not or_newer:
            raise
        log(SCHEMA_NEWER, known=head, error=str(exc))
        return
    if found != head:
        raise SettingsError(
            f"the database is at schema {found or 'none'}, this version needs {head}:"
            " run `penstock migrate` first"
        )


def _backup(path: Path, revision: str) -> str:
    from penstock.storage.sqlite import backup

    target = path.with_name(f"{path.name}.{revision}.{datetime.now(UTC):%Y%m%dT%H%M%S}.bak")
    backup(path, target)
    shutil.copymode(path, target)
    return str(target)

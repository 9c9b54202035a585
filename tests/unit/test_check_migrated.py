"""Whether a process may work on the tables that it finds."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from penstock.errors import SchemaNewer, SettingsError
from penstock.schema import check_migrated, migrate
from penstock.settings import Settings, load_settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    found = load_settings(data_dir=tmp_path)
    migrate(found)
    return found


def at_revision(settings: Settings, revision: str) -> None:
    with sqlite3.connect(settings.sqlite_path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    connection.close()


def test_its_own_tables_are_well(settings: Settings) -> None:
    check_migrated(settings)
    check_migrated(settings, or_newer=True)


def test_older_tables_never_do(settings: Settings) -> None:
    at_revision(settings, "0001")
    for or_newer in (False, True):
        with pytest.raises(SettingsError, match=r"schema 0001.*penstock migrate"):
            check_migrated(settings, or_newer=or_newer)


def test_after_a_rollback_newer_tables_do_for_what_works_on_them(settings: Settings) -> None:
    at_revision(settings, "9999")
    check_migrated(settings, or_newer=True)
    with pytest.raises(SchemaNewer, match="9999"):
        check_migrated(settings)

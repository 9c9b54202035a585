from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, create_engine, inspect, text

from penstock import errors
from penstock.storage import migrate
from penstock.storage.tables import metadata


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without any table."""
    return make_target(request, tmp_path, "a")


def make_target(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> str:
    kind = request.node.callspec.params["target"]
    if kind == "sqlite":
        return str(tmp_path / f"{name}.db")
    create: Callable[[], str] = request.getfixturevalue("new_postgres")
    return create()


class Opened:
    def __init__(self, target: str) -> None:
        url = target.replace("postgresql://", "postgresql+psycopg://")
        self.engine = create_engine(url if "://" in url else f"sqlite:///{url}")

    def __enter__(self) -> Connection:
        self.connection = self.engine.connect()
        return self.connection

    def __exit__(self, *exc: object) -> None:
        self.connection.close()
        self.engine.dispose()


def objects(target: str) -> set[str]:
    """Everything a schema can leave behind."""
    with Opened(target) as connection:
        if connection.dialect.name == "sqlite":
            rows = connection.execute(text("SELECT type || ' ' || name FROM sqlite_master"))
        else:
            rows = connection.execute(
                text(
                    "SELECT relkind::text || ' ' || relname FROM pg_class"
                    " WHERE relnamespace = 'public'::regnamespace"
                    " UNION ALL SELECT 'type ' || typname FROM pg_type"
                    " WHERE typnamespace = 'public'::regnamespace"
                    " UNION ALL SELECT 'function ' || proname FROM pg_proc"
                    " WHERE pronamespace = 'public'::regnamespace"
                )
            )
        return {name for (name,) in rows if "alembic_version" not in name}


def definition(target: str) -> dict[str, Any]:
    """Columns, constraints and indexes, as the database itself describes them."""
    with Opened(target) as connection:
        if connection.dialect.name == "postgresql":
            queries = {
                "columns": "SELECT table_name, column_name, data_type, is_nullable, column_default"
                " FROM information_schema.columns WHERE table_schema = 'public'",
                "constraints": "SELECT conrelid::regclass::text, conname,"
                " pg_get_constraintdef(oid) FROM pg_constraint"
                " WHERE connamespace = 'public'::regnamespace",
                "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes"
                " WHERE schemaname = 'public'",
            }
            return {
                what: sorted(
                    map(tuple, (r for r in connection.execute(text(query)) if r[0] != VERSIONS)),
                    key=str,
                )
                for what, query in queries.items()
            }
        inspector = inspect(connection)
        indexes = connection.execute(
            text("SELECT name, sql FROM sqlite_master WHERE type = 'index' ORDER BY name")
        )
        tables = [name for name in inspector.get_table_names() if name != VERSIONS]
        return {
            "columns": {
                table: [
                    tuple(row) for row in connection.exec_driver_sql(f"PRAGMA table_xinfo({table})")
                ]
                for table in tables
            },
            "foreign keys": {table: inspector.get_foreign_keys(table) for table in tables},
            "unique": {
                table: sorted(inspector.get_unique_constraints(table), key=str) for table in tables
            },
            "checks": {
                table: sorted(inspector.get_check_constraints(table), key=str) for table in tables
            },
            "indexes": [tuple(row) for row in indexes if VERSIONS not in row[0]],
        }


VERSIONS = "alembic_version"


def test_up_down_up(target: str) -> None:
    assert migrate.current(target) is None
    migrate.upgrade(target)
    assert migrate.current(target) == migrate.head()
    first = definition(target)
    migrate.downgrade(target)
    assert migrate.current(target) is None
    assert objects(target) == set()
    migrate.upgrade(target)
    assert definition(target) == first
    migrate.upgrade(target)  # nothing left to do
    assert migrate.current(target) == migrate.head()


def test_the_migrations_arrive_at_the_tables_of_the_code(
    target: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    migrate.upgrade(target)
    with Opened(target) as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []
    # Alembic does not compare checks, nor the conditions of partial indexes.
    direct = make_target(request, tmp_path, "b")
    with Opened(direct) as connection:
        metadata.create_all(connection)
        connection.commit()
    assert definition(target) == definition(direct)


def test_there_is_one_head() -> None:
    from alembic.script import ScriptDirectory

    assert ScriptDirectory.from_config(migrate._config()).get_heads() == [migrate.head()]


def test_looking_makes_no_file(tmp_path: Path) -> None:
    assert migrate.current(tmp_path / "none.db") is None
    assert list(tmp_path.iterdir()) == []


def test_a_newer_schema_is_refused(target: str) -> None:
    migrate.upgrade(target)
    with Opened(target) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        connection.commit()
    before = definition(target)
    for call in (migrate.upgrade, migrate.downgrade, migrate.current):
        with pytest.raises(errors.SchemaNewer, match="9999"):
            call(target)
    assert definition(target) == before


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Migrations of which the last fails after it has changed something."""
    scripts = tmp_path / "with % sign"
    shutil.copytree(migrate._SCRIPTS, scripts)
    (scripts / "versions" / "9000_broken.py").write_text(
        "from alembic import op\n"
        "import sqlalchemy as sa\n"
        f"revision, down_revision = '9000', '{migrate.head()}'\n"
        "def upgrade():\n"
        "    op.create_table('half', sa.Column('id', sa.Text))\n"
        "    op.execute('ALTER TABLE accounts ADD COLUMN half TEXT')\n"
        "    op.execute('SELECT nonsense')\n"
        "def downgrade():\n"
        "    pass\n"
    )
    monkeypatch.setattr(migrate, "_SCRIPTS", scripts)


def test_a_migration_that_fails_leaves_the_old_schema(
    target: str, broken: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert migrate.head() == "9000"
    migrate.upgrade(target, "0001")
    before = definition(target)
    with pytest.raises(Exception, match="nonsense"):
        migrate.upgrade(target)
    assert migrate.current(target) == "0001"
    assert definition(target) == before


def test_from_nothing_a_migration_that_fails_leaves_nothing(target: str, broken: None) -> None:
    with pytest.raises(Exception, match="nonsense"):
        migrate.upgrade(target)
    assert migrate.current(target) is None
    assert objects(target) == set()


def test_processes_that_migrate_at_once_go_one_after_the_other(target: str) -> None:
    failed: list[BaseException] = []

    def up() -> None:
        try:
            migrate.upgrade(target)
        except BaseException as exc:
            failed.append(exc)

    threads = [threading.Thread(target=up) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert migrate.current(target) == migrate.head()


def test_rows_survive_a_second_upgrade(target: str) -> None:
    migrate.upgrade(target)
    with Opened(target) as connection:
        connection.execute(text("INSERT INTO accounts (id, created_at) VALUES ('a', 1)"))
        connection.commit()
    migrate.upgrade(target)
    with Opened(target) as connection:
        rows = connection.execute(text("SELECT id, endpoints_version FROM accounts")).all()
    assert [tuple(row) for row in rows] == [("a", 0)]


def test_a_migration_that_would_orphan_rows_is_undone(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    migrate.upgrade(path)
    connection = sqlite3.connect(path)
    connection.execute(
        "INSERT INTO fanouts (id, account, status, lane) VALUES ('gone', 'a', 'pending', 'l')"
    )
    connection.commit()
    connection.close()
    with pytest.raises(errors.StorageError, match="parent"):
        migrate.upgrade(path)


def test_a_url_works_as_well_as_a_path(tmp_path: Path) -> None:
    migrate.upgrade(f"sqlite:///{tmp_path}/a.db")
    assert migrate.current(tmp_path / "a.db") == migrate.head()


@pytest.mark.postgres
def test_busy_tables_are_kept_lean(new_postgres: Callable[[], str]) -> None:
    target = new_postgres()
    migrate.upgrade(target)
    with Opened(target) as connection:
        rows = connection.execute(
            text("SELECT relname, reloptions FROM pg_class WHERE reloptions IS NOT NULL")
        ).all()
    fill = {name: [o for o in options if o.startswith("fillfactor")] for name, options in rows}
    assert fill["lanes"] == ["fillfactor=50"]
    for table in ("jobs", "events", "fanouts", "deliveries"):
        assert fill[table] == ["fillfactor=80"]
    for options in [dict(tuple(row) for row in rows)[name] for name in ("lanes", "deliveries")]:
        assert any(o.startswith("autovacuum_vacuum_scale_factor") for o in options)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an installation holds: the package's files, elsewhere."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(
        Path(migrate.__file__).parents[1],
        folder / "penstock",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    return folder


def test_no_file_but_the_packages_is_needed(wheel: Path, tmp_path: Path) -> None:
    script = "from penstock.storage import migrate; migrate.upgrade('a.db'); print(migrate.head())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(wheel), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == migrate.head()
    assert migrate.current(tmp_path / "a.db") == migrate.head()

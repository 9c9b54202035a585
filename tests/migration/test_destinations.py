"""The step to endpoints of four kinds, with rows in the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, NullPool, create_engine, exc, text

from penstock.storage import migrate

ROW = {
    "id": "end_1",
    "account": "default",
    "kind": "webhook",
    "target": "https://example.com/",
    "description": "it's ours: 100%",
    "event_types": '["*"]',
    "headers": "sealed",
    "timeout": 7.5,
    "schedule": "[1.0]",
    "on_permanent": "dead",
    "secret": "sealed",
    "previous_secret": "sealed too",
    "previous_until": 1_767_225_600_000_001,
    "enabled": True,
    "disabled_reason": "manual",
    "lane": "delivery:end_1",
    "version": 1_767_225_600_000_000,
    "created_at": 1,
    "updated_at": 2,
}


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/a.db"
    new: Callable[[], str] = request.getfixturevalue("new_postgres")
    return new()


@pytest.fixture
def connection(target: str) -> Iterator[Connection]:
    migrate.upgrade(target, "0001")
    url = target.replace("postgresql://", "postgresql+psycopg://", 1)
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as opened:
        yield opened
    engine.dispose()


def insert(connection: Connection, **changes: Any) -> None:
    row = ROW | changes
    names = ", ".join(row)
    values = ", ".join(f":{name}" for name in row)
    connection.execute(text(f"INSERT INTO endpoints ({names}) VALUES ({values})"), row)
    connection.commit()


def rows(connection: Connection) -> list[dict[str, Any]]:
    found = connection.execute(text("SELECT * FROM endpoints ORDER BY id")).mappings().all()
    connection.commit()
    return [dict(row) for row in found]


def test_endpoints_stay_as_they_are_on_the_way_up_and_down(
    target: str, connection: Connection
) -> None:
    insert(connection)
    for step in (
        lambda: migrate.upgrade(target, "0002"),
        lambda: migrate.downgrade(target, "0001"),
        lambda: migrate.upgrade(target, "0002"),
    ):
        step()
        assert rows(connection) == [ROW]
    insert(connection, id="end_2", kind="sms", target="+14155552671")
    with pytest.raises(exc.IntegrityError):
        insert(connection, id="end_3", kind="sms", target="+12")
    connection.rollback()
    migrate.downgrade(target, "0001")
    assert [row["kind"] for row in rows(connection)] == ["webhook", "sms"]
    insert(connection, id="end_3", kind="sms", target="+12")


def test_both_checks_of_an_endpoint_hold_afterwards(target: str, connection: Connection) -> None:
    migrate.upgrade(target, "0002")
    for changes in ({"on_permanent": "short"}, {"target": None}, {"kind": "sms"}):
        with pytest.raises(exc.IntegrityError):
            insert(connection, **changes)
        connection.rollback()
    insert(connection)
    with pytest.raises(exc.IntegrityError):
        insert(connection)
    connection.rollback()

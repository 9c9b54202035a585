"""No page of the console costs the database more where there are more rows.

Each page is asked for beside some rows, and beside four times as many. What its statements cost is
counted in steps of SQLite's machine, which are the same on every computer, whatever else it does:
a table or an index that is gone through shows as four times as many.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from bench.console import pages
from bench.filled import fill_sqlite

from penstock.schema import migrate
from penstock.settings import load_settings
from penstock.storage.sql import Statement, compile_core
from penstock.storage.sqlite_tx import SqliteTx
from support.console import site

pytestmark = pytest.mark.anyio

ROWS = 4_000
EVERY = 20  # steps from one look at the counter to the next
# What pages look through, or count, at most: far below the rows that there are.
BOUNDS = {
    "penstock.events.query.SCAN": 200,
    "penstock.tracking.query.SCAN": 40,
    "penstock.jobs.query.SCAN": 40,
    "penstock.work.care.SCAN": 40,
    "penstock.work.care.MOST_COUNTED": 30,
    "penstock.operations.routes_figures.MOST_COUNTED": 100,
    "penstock.operations.lanes.MOST_COUNTED": 100,
    "penstock.events.figures.SAMPLE": 10,
}

Asked = tuple[str, Mapping[str, Any]]


def steps(database: sqlite3.Connection, statements: list[Asked]) -> int:
    """What it takes to run these."""
    taken = 0

    def look() -> int:
        nonlocal taken
        taken += EVERY
        return 0

    database.set_progress_handler(look, EVERY)
    for text, parameters in statements:
        database.execute(text, parameters).fetchall()
    database.set_progress_handler(None, 0)
    return taken


async def costs(data: Path, rows: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The steps of each page."""
    settings = load_settings(data_dir=data, port=0)
    await asyncio.to_thread(migrate, settings)
    filled = await asyncio.to_thread(fill_sqlite, settings.sqlite_path, rows)
    seen: list[Asked] = []
    execute = SqliteTx._execute

    def record(self: SqliteTx, statement: Any, params: dict[str, Any]) -> sqlite3.Cursor:
        cursor = execute(self, statement, params)
        if isinstance(statement, Statement):
            seen.append((statement.sqlite, dict(params)))
        else:
            seen.append(compile_core(statement, "sqlite", params))
        return cursor

    found = {}
    async with site(data, working=False) as penstock:
        async with penstock.browser(await penstock.key()) as browser:
            monkeypatch.setattr(SqliteTx, "_execute", record)
            asked: dict[str, list[Asked]] = {}
            for name, path in pages(filled).items():
                seen.clear()
                assert (await browser.get(path)).status == 200, path
                asked[name] = [each for each in seen if each[0].lstrip().startswith("SELECT")]
            monkeypatch.setattr(SqliteTx, "_execute", execute)
        database = sqlite3.connect(settings.sqlite_path)
        try:
            for name, statements in asked.items():
                assert statements, name
                found[name] = steps(database, statements)
        finally:
            database.close()
    return found


async def test_pages_cost_no_more_beside_more_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, bound in BOUNDS.items():
        monkeypatch.setattr(name, bound)
    few = await costs(tmp_path / "few", ROWS, monkeypatch)
    many = await costs(tmp_path / "many", 4 * ROWS, monkeypatch)
    assert len(few) >= 35
    grown = {name: (few[name], many[name]) for name in few if many[name] > 1.5 * few[name] + 2_000}
    assert not grown

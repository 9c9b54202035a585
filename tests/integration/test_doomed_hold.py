"""While somebody copies objects, none is deleted that they may have seen named."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.storage import Database, doomed, sql
from penstock.storage.objects import Folder

pytestmark = pytest.mark.anyio
HOLDS = sql("SELECT name FROM leaders ORDER BY name")


async def test_what_is_doomed_during_a_hold_is_deleted_after_it(
    database: Database, tmp_path: Path
) -> None:
    objects = Folder(tmp_path / "objects")
    with objects.writing("accounts/one") as file:
        file.write(b"1")

    async with doomed.hold(database), doomed.hold(database):
        await database.unit(lambda tx: doomed.doom(tx, "accounts/one"))
        assert await doomed.sweep(database, objects) == 0
        assert objects.size("accounts/one") == 1

    assert await database.read(lambda tx: tx.rows(HOLDS)) == []
    assert await doomed.sweep(database, objects) == 1
    assert objects.size("accounts/one") is None


async def test_a_holder_that_was_killed_is_not_waited_for_without_end(
    database: Database, clock: object, tmp_path: Path
) -> None:
    objects = Folder(tmp_path / "objects")
    with objects.writing("accounts/one") as file:
        file.write(b"1")
    held = doomed.hold(database)
    await held.__aenter__()  # and never left
    await database.unit(lambda tx: doomed.doom(tx, "accounts/one"))

    clock.advance(doomed.LONGEST_HOLD + 1)  # type: ignore[attr-defined]

    assert await doomed.sweep(database, objects) == 1
    async with doomed.hold(database):
        names = await database.read(lambda tx: tx.rows(HOLDS))
    assert len(names) == 2
    assert await database.read(lambda tx: tx.rows(HOLDS)) == []

"""Deleting objects: what names them in the database goes first, they follow.

A transaction cannot delete a file. It notes the key instead, and a periodic task deletes what was
noted; so nothing is deleted that a transaction which failed would still need, and nothing is
forgotten by a process that dies in between.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from penstock.clock import SECOND
from penstock.ids import new_id
from penstock.storage.database import Database, Tx
from penstock.storage.objects import Objects
from penstock.storage.sql import sql

AT_ONCE: Final = 100
LONGEST_HOLD: Final = 6 * 3600.0  # seconds that a holder which was killed is waited for
UNDER_WAY: Final = 600.0  # seconds that a step of work may take to notice that it was deleted

# A later time than the one that `sweep` has seen keeps it from being forgotten.
_DOOM = sql("""
INSERT INTO doomed_objects (prefix, at) VALUES (:prefix, {now} + :again)
ON CONFLICT (prefix) DO UPDATE SET at = {max}(doomed_objects.at, excluded.at)
""")
# In one snapshot with the hold: what is doomed after the hold began is not deleted before its end.
_DOOMED = sql("""
SELECT prefix, at FROM doomed_objects WHERE prefix > :after
  AND NOT EXISTS (SELECT 1 FROM leaders WHERE name LIKE 'hold!_%' ESCAPE '!' AND until_at > {now})
ORDER BY prefix LIMIT :limit
""")
_FORGET = sql("""
DELETE FROM doomed_objects WHERE prefix = :prefix AND at = :at AND at <= {now}
""")

_HOLD = sql("INSERT INTO leaders (name, holder, until_at) VALUES (:name, :name, {now} + :long)")
_LET_GO = sql("""
DELETE FROM leaders WHERE name LIKE 'hold!_%' ESCAPE '!' AND (name = :name OR until_at <= {now})
""")


def doom(tx: Tx, prefix: str, *, again: float = 0.0) -> None:
    """Have the objects below this key deleted once the transaction is committed.

    And again, until `again` seconds have passed: work that was under way may still write some.
    """
    tx.run(_DOOM, prefix=prefix, again=int(again * SECOND))


@contextlib.asynccontextmanager
async def hold(database: Database) -> AsyncIterator[None]:
    """While the block runs, no object is deleted that something refers to when it begins."""
    name = new_id("hold")
    await database.unit(lambda tx: tx.run(_HOLD, name=name, long=int(LONGEST_HOLD * SECOND)))
    try:
        yield
    finally:
        await database.unit(lambda tx: tx.run(_LET_GO, name=name))


async def sweep(database: Database, objects: Objects) -> int:
    """Delete what is noted; answers how many objects that were."""
    deleted, after = 0, ""
    while True:
        found = await database.read(
            lambda tx, after=after: tx.rows(_DOOMED, after=after, limit=AT_ONCE)  # type: ignore[misc]
        )
        for prefix, _ in found:
            deleted += await asyncio.to_thread(objects.delete, prefix)
        rows = [{"prefix": prefix, "at": at} for prefix, at in found]
        await database.unit(lambda tx, rows=rows: tx.many(_FORGET, rows))  # type: ignore[misc]
        if len(found) < AT_ONCE:
            return deleted
        after = found[-1][0]

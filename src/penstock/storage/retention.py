"""Deleting what is past its time, and everything of one account.

Both go in small transactions with a pause after each as long as it took: whoever wants to write
meanwhile finds the database free half of the time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Table, delete, select, tuple_

from penstock.storage.database import Database, Tx
from penstock.storage.doomed import UNDER_WAY, doom
from penstock.storage.sql import sql
from penstock.storage.tables import metadata

BATCH: Final = 500  # rows deleted in one transaction
_SHORTEST_PAUSE: Final = 0.005  # seconds

# Deletes up to `BATCH` rows, going on where the last call ended (None at first). Answers how many
# things that were, and where to go on; None = that is all.
Delete = Callable[[Tx, Any], tuple[int, Any]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of thing that is kept for a while only. `every`: seconds between prunings."""

    name: str
    delete: Delete
    count: Callable[[Tx], int]
    every: float = 86400.0


def batches(prune: Callable[[Tx], int]) -> Delete:
    """A `Delete` of a function that finds what is left by itself."""

    def delete(tx: Tx, at: Any) -> tuple[int, Any]:
        n = prune(tx)
        return n, True if n else None

    return delete


async def apply(database: Database, rule: Rule) -> int:
    """Delete all that is past its time under one rule; answers how many."""
    return await _repeat(database, rule.delete)


async def _repeat(database: Database, delete: Delete) -> int:
    total, at = 0, None
    while True:
        began = time.monotonic()
        n, at = await database.unit(lambda tx, at=at: delete(tx, at))  # type: ignore[misc]
        total += n
        if at is None:
            return total
        await asyncio.sleep(max(_SHORTEST_PAUSE, time.monotonic() - began))


# ------------------------------------------------------------------ erasure

_EVENTS = sql("""
SELECT e.id, 1 + e.delivery_attempts + (SELECT count(*) FROM deliveries d WHERE d.event_id = e.id)
FROM events e WHERE e.account = :account ORDER BY e.id LIMIT 100
""")
_DELETE_EVENTS = sql("DELETE FROM events WHERE id {in:ids}")
_DELETE_SOME = sql("""
DELETE FROM deliveries WHERE id IN
  (SELECT id FROM deliveries WHERE event_id = :event LIMIT 30)
""")
_HEADS = sql("""
DELETE FROM order_heads WHERE (endpoint_id, key) IN
  (SELECT h.endpoint_id, h.key FROM endpoints p JOIN order_heads h ON h.endpoint_id = p.id
   WHERE p.account = :account LIMIT :limit)
""")
_CIRCUITS = sql("""
DELETE FROM circuit_log WHERE id IN (SELECT c.id FROM lanes l JOIN circuit_log c ON c.lane = l.id
  WHERE l.account = :account LIMIT :limit)
""")
_SCANS = sql("""
DELETE FROM scans WHERE (shipment_id, fingerprint) IN
  (SELECT c.shipment_id, c.fingerprint FROM shipments s JOIN scans c ON c.shipment_id = s.id
   WHERE s.account = :account LIMIT :limit)
""")
_OUTCOMES = sql("""
DELETE FROM prediction_outcomes WHERE (prediction_id, customer_id) IN
  (SELECT o.prediction_id, o.customer_id FROM predictions p
   JOIN prediction_outcomes o ON o.prediction_id = p.id
   WHERE p.account = :account LIMIT :limit)
""")
_CHUNKS = sql("""
DELETE FROM prediction_chunks WHERE (prediction_id, number) IN
  (SELECT c.prediction_id, c.number FROM predictions p
   JOIN prediction_chunks c ON c.prediction_id = p.id
   WHERE p.account = :account LIMIT :limit)
""")
_ACCOUNT = sql("DELETE FROM accounts WHERE id = :account")
_COUNT_ACCOUNT = sql("SELECT count(*) FROM accounts WHERE id = :account")

# Before the others, so that nothing new comes in; and after them, because they name these.
_FIRST: Final = ("api_keys",)
_LAST: Final = ("endpoints", "lanes")
_BY_EVENT: Final = ("events", "deliveries", "attempts", "fanouts")


def _owned() -> list[Table]:
    """The tables with an account's rows that are deleted one by one, in order."""
    rest = [
        table.name
        for table in metadata.sorted_tables
        if "account" in table.c and table.name not in (*_FIRST, *_LAST, *_BY_EVENT)
    ]
    # What has objects goes by itself and not with what it belongs to, so that they are found.
    rest.sort(key=lambda name: "folder" not in metadata.tables[name].c)
    return [metadata.tables[name] for name in (*_FIRST, *rest, *_LAST)]


def count(tx: Tx, account: str) -> dict[str, int]:
    """How many rows of the account there are, by table."""
    counts = {}
    for name in (*(table.name for table in _owned()), "events", "deliveries"):
        table = metadata.tables[name]
        counts[name] = len(tx.rows(select(table.c.account).where(table.c.account == account)))
    ((counts["accounts"],),) = tx.rows(_COUNT_ACCOUNT, account=account)
    return {name: n for name, n in counts.items() if n}


async def erase(database: Database, account: str) -> dict[str, int]:
    """Delete every row of the account, in all tables; answers how many, by table.

    Of what work is under way for it, the settlement finds nothing. Whoever goes on writing for the
    account in the meantime is followed for a while.
    """
    erased: dict[str, int] = {}
    for _ in range(5):
        before = sum(erased.values())
        for name, delete_ in _steps(account):
            erased[name] = erased.get(name, 0) + await _repeat(database, delete_)
        if sum(erased.values()) == before:
            break
    return {name: n for name, n in erased.items() if n}


def _steps(account: str) -> list[tuple[str, Delete]]:
    def of(statement: Any) -> Delete:
        return batches(lambda tx: tx.run(statement, account=account, limit=BATCH))

    steps: list[tuple[str, Delete]] = []
    for table in _owned():
        if table.name == "endpoints":
            steps.append(("events", batches(lambda tx: _erase_events(tx, account))))
            steps.append(("order_heads", of(_HEADS)))
        if table.name == "shipments":
            steps.append(("scans", of(_SCANS)))
        if table.name == "predictions":
            steps.append(("prediction_outcomes", of(_OUTCOMES)))
            steps.append(("prediction_chunks", of(_CHUNKS)))
        if table.name == "lanes":
            steps.append(("circuit_log", of(_CIRCUITS)))
        steps.append((table.name, batches(_rows_of(table, account))))
    steps.append(("accounts", lambda tx, at: (tx.run(_ACCOUNT, account=account), None)))
    return steps


def _rows_of(table: Table, account: str) -> Callable[[Tx], int]:
    key = list(table.primary_key)
    chosen = select(*key).where(table.c.account == account).limit(BATCH)
    statement = delete(table).where(tuple_(*key).in_(chosen))
    if "folder" not in table.c:
        return lambda tx: tx.run(statement)
    folders = select(table.c.id, table.c.folder).where(table.c.account == account).limit(BATCH)

    def with_objects(tx: Tx) -> int:
        found = tx.rows(folders)
        for _, folder in found:
            doom(tx, folder, again=UNDER_WAY)
        if found:
            tx.run(delete(table).where(table.c.id.in_([id_ for id_, _ in found])))
        return len(found)

    return with_objects


def _erase_events(tx: Tx, account: str) -> int:
    """With their deliveries and attempts, `BATCH` rows or so."""
    chosen: list[str] = []
    rows = 0
    for id_, size in tx.rows(_EVENTS, account=account):
        if rows + size > BATCH:
            if not chosen:
                # Too much at once: some of its deliveries first.
                return tx.run(_DELETE_SOME, event=id_) or tx.run(_DELETE_EVENTS, ids=[id_])
            break
        rows += size
        chosen.append(id_)
    return tx.run(_DELETE_EVENTS, ids=chosen) if chosen else 0

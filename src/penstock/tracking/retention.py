"""Deleting shipments that are followed no more, with their scans, when they are old."""

from __future__ import annotations

from typing import Final

from penstock.clock import SECOND
from penstock.storage import Tx, sql
from penstock.storage.retention import Rule, batches

AT_ONCE: Final = 50  # shipments deleted in one transaction: each has some dozens of scans

_OLD = "FROM shipments WHERE ended_at < {now} - :age AND status <> 'pending'"
_PRUNE = sql(f"""
DELETE FROM shipments WHERE id IN (SELECT id {_OLD} ORDER BY ended_at LIMIT {AT_ONCE})
""")  # noqa: S608
_COUNT = sql(f"SELECT count(*) {_OLD}")


def rules(keep: float) -> tuple[Rule, ...]:
    """Shipments, `keep` seconds after they ended. What died is kept as long."""
    age = int(keep * SECOND)

    def prune(tx: Tx) -> int:
        return tx.run(_PRUNE, age=age)

    def count(tx: Tx) -> int:
        ((n,),) = tx.rows(_COUNT, age=age)
        return int(n)

    return (Rule("shipments", batches(prune), count),)

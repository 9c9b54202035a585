"""`/v1/figures/work`: what is owed, by kind of work."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from fastapi import APIRouter
from pydantic import BaseModel

from penstock.api.context import Caller, requires
from penstock.api.routing import router
from penstock.operations.lanes import STOPPED, accounts_of
from penstock.operations.routes_lanes import Counted
from penstock.storage import Database, Statement, Tx, sql
from penstock.work.kinds import AnyKind

MOST_COUNTED: Final = 10_000


class KindFigures(BaseModel):
    """One kind of work, in the account's lanes. `oldest_due` is in seconds."""

    kind: str
    due: Counted
    later: Counted
    in_flight: int
    oldest_due: float
    lanes_stopped: int


class WorkFigures(BaseModel):
    """Every kind of work that runs here."""

    kinds: list[KindFigures]


@cache
def _owed(table: str) -> Statement:
    mine = f"""
FROM lanes n JOIN {table} w ON w.lane = n.id
WHERE n.account {{in:accounts}} AND n.kind = :kind"""
    free = "w.due_at IS NOT NULL AND w.lease_until IS NULL"
    return sql(f"""
SELECT
  (SELECT count(*) FROM (SELECT 1 {mine} AND {free} AND w.due_at <= {{now}} LIMIT :most) d),
  (SELECT count(*) FROM (SELECT 1 {mine} AND {free} AND w.due_at > {{now}} LIMIT :most) l),
  (SELECT count(*) FROM (SELECT 1 {mine} AND w.lease_until IS NOT NULL) h),
  (SELECT {{now}} - min((SELECT min(w.due_at) FROM {table} w WHERE w.lane = n.id AND {free}))
   FROM lanes n WHERE n.account {{in:accounts}} AND n.kind = :kind),
  (SELECT count(*) FROM lanes n WHERE n.account {{in:accounts}} AND n.kind = :kind
     AND {STOPPED})
""")  # noqa: S608


def _figures(tx: Tx, kinds: Sequence[AnyKind], accounts: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for kind in kinds:
        row = tx.one(_owed(kind.table), accounts=accounts, kind=kind.name, most=MOST_COUNTED + 1)
        assert row is not None
        due, later, held, oldest, stopped = row
        found.append(
            {
                "kind": kind.name,
                "due": _counted(due),
                "later": _counted(later),
                "in_flight": held,
                "oldest_due": max(0.0, float(oldest or 0) / 1e6),
                "lanes_stopped": stopped,
            }
        )
    return found


def _counted(n: int) -> dict[str, Any]:
    return {"count": min(n, MOST_COUNTED), "more": n > MOST_COUNTED}


def routes(database: Database, kinds: Sequence[AnyKind], operator: str) -> APIRouter:
    """The routes, on `database`; the account `operator` sees the deployment's own lanes too."""
    api = router(tags=["Figures"])

    @api.get("/v1/figures/work", summary="What is owed")
    @requires("lanes:read")
    async def work_figures(caller: Caller) -> WorkFigures:
        """By kind of work, counted up to 10,000; in the account's own lanes."""
        accounts = accounts_of(caller.account, operator)
        found = await database.read(lambda tx: _figures(tx, kinds, accounts))
        return WorkFigures(kinds=[KindFigures(**each) for each in found])

    return api

"""Dead work across kinds: found, sent again, put away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from penstock.clock import to_iso
from penstock.errors import NotFound
from penstock.storage import Database, Tx
from penstock.work import care
from penstock.work.care import DeadWork, Wanted

CHUNK: Final = 250  # rows moved in one transaction
MOST_MOVED: Final = 2_000  # by one request

Move = Literal["redrive", "drop"]


def page(
    tx: Tx,
    kinds: Sequence[DeadWork],
    account: str,
    wanted: Wanted,
    before: str | None,
    limit: int,
) -> tuple[list[dict[str, Any]], str | None]:
    """Up to `limit` dead rows of these kinds, newest first; and where to go on, if anywhere.

    Ids of all kinds are a prefix and a time, and it is by the time that they are merged: `before`
    and what is answered is an id without its prefix.
    """
    found: list[tuple[str, dict[str, Any]]] = []
    edges: list[str] = []
    for work in kinds:
        bound = None if before is None else f"{work.prefix}_{before}"
        rows, more = care.page(tx, work, account, wanted, bound, limit)
        found += [(_time(row["id"]), _view(work, row)) for row in rows]
        if more is not None:
            edges.append(_time(more))
    found.sort(key=lambda each: each[0], reverse=True)
    # Below the highest edge one of the kinds has rows that were not looked at yet.
    edge = max(edges, default=None)
    complete = [each for each in found if edge is None or each[0] >= edge]
    shown = complete[:limit]
    if len(complete) > limit:
        edge = shown[-1][0]
    return [view for _, view in shown], edge


def get(tx: Tx, kinds: Sequence[DeadWork], account: str, id_: str) -> dict[str, Any]:
    """A dead row. NotFound if the account has none of that id."""
    for work in kinds:
        if id_.startswith(f"{work.prefix}_"):
            row = care.one(tx, work, account, id_)
            if row is not None:
                return _view(work, row)
    raise NotFound("There is no dead row of that id.")


def counts(tx: Tx, kinds: Sequence[DeadWork], account: str) -> dict[str, dict[str, Any]]:
    """How many there are of each kind."""
    found = {}
    for work in kinds:
        n, more = care.count(tx, work, account)
        found[work.kind] = {"count": n, "more": more}
    return found


async def move(
    database: Database, work: DeadWork, account: str, ids: Sequence[str], how: Move
) -> int:
    """Redrive or drop these rows; answers how many it were."""
    act = work.redrive if how == "redrive" else work.drop
    moved = 0
    for at in range(0, len(ids), CHUNK):
        chunk = ids[at : at + CHUNK]
        moved += await database.unit(lambda tx, chunk=chunk: act(tx, account, chunk))  # type: ignore[misc]
    return moved


async def move_all(
    database: Database,
    work: DeadWork,
    account: str,
    wanted: Wanted,
    how: Move,
    place: tuple[str, str] | None,
) -> tuple[int, tuple[str, str] | None]:
    """Redrive or drop what is wanted, oldest first, up to `MOST_MOVED` rows at once.

    Answers how many it were, and the place to go on from. A place is the last id that was looked
    at and the highest one there was at the beginning: what dies meanwhile is not taken again.
    """
    if place is None:
        upto = await database.read(lambda tx: care.newest(tx, work, account))
        if upto is None:
            return 0, None
        place = "", upto
    after, upto = place
    act = work.redrive if how == "redrive" else work.drop
    moved = looked_at = 0
    while looked_at < MOST_MOVED:

        def some(tx: Tx, after: str = after) -> tuple[int, int, str | None]:
            ids, go_on = care.chunk(tx, work, account, wanted, after, upto, CHUNK)
            return act(tx, account, ids) if ids else 0, len(ids), go_on

        n, found, go_on = await database.unit(some)
        moved += n
        if go_on is None:
            return moved, None
        looked_at += max(found, CHUNK)  # a look that rejects all takes its time too
        after = go_on
    return moved, (after, upto)


def _time(id_: str) -> str:
    return id_.partition("_")[2]


def _view(work: DeadWork, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": work.kind,
        "id": row["id"],
        "title": row["title"],
        "about": row["about"],
        "lane": row["lane"],
        "reason": row["last_error"],
        "attempts": row["attempts"],
        "created_at": to_iso(row["created_at"]),
        "died_at": None if row["died_at"] is None else to_iso(row["died_at"]),
    }

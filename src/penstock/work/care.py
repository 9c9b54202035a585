"""What a service brings so that people can look after its work: dead rows, and names for lanes.

Dead work is a row that gave up: as a rule its status is ``dead``. It stays until somebody sends it
again (redrive) or puts it away for good (drop). What either means is the service's to say; finding
dead rows is the same for all and is done here. Every table it is used on has an index on
``(account, id)`` under the condition that says that a row is dead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from penstock.ids import HIGHEST
from penstock.storage import Statement, Tx, sql
from penstock.work import lanes

# Of the account's rows of these ids: how many were moved.
Move = Callable[[Tx, str, Sequence[str]], int]
# Of the account's row of that id: the lane in which it is pending again; None = it is not.
Again = Callable[[Tx, str, str], str | None]

SCAN: Final = 2_000  # dead rows looked through for one page when filters reject most
MOST_COUNTED: Final = 10_000


@dataclass(frozen=True, slots=True)
class LaneNote:
    """What a service says of a lane: what it leads to, and why it keeps it paused, if it does.

    What the latter says counts only while the service does.
    """

    title: str
    page: str | None = None  # of what it leads to: an endpoint's id
    paused_because: str | None = None
    gone: bool = False  # it leads nowhere any more: shown only as long as something is in it


@dataclass(frozen=True, slots=True)
class DeadWork:
    """How people see and move dead rows of one kind of work.

    `redrive` and `drop` are given ids of dead rows of the account and answer how many they moved;
    rows that ended otherwise meanwhile are left alone.
    """

    kind: str
    area: str  # of the scopes that reading and moving it takes
    table: str
    prefix: str  # of its ids
    title: str  # SQL: what it is called; `w` is the row
    about: str  # SQL: the id of what a person would look at
    ended: str  # the column that says when it died
    redrive: Move
    drop: Move
    join: str = ""  # SQL, for the two above and the next
    created: str = "w.created_at"  # SQL: when it was accepted
    dead: str = "status = 'dead'"  # SQL: whether a row is


def redriving(kind: str, again: Again) -> Move:
    """Rows are made pending one by one, as two of them may exclude each other."""

    def redrive(tx: Tx, account: str, ids: Sequence[str]) -> int:
        woken = [lane for id_ in sorted(ids) if (lane := again(tx, account, id_)) is not None]
        for lane in sorted(set(woken)):
            lanes.wake(tx, kind, lane)
        return len(woken)

    return redrive


def by(statement: Statement) -> Again:
    """A statement makes the row `:id` of `:account` pending and returns its lane."""

    def again(tx: Tx, account: str, id_: str) -> str | None:
        row = tx.one(statement, id=id_, account=account)
        return None if row is None else str(row[0])

    return again


def dropping(statement: Statement) -> Move:
    """A statement ends the rows of `:ids` of `:account`."""
    return lambda tx, account, ids: tx.run(statement, ids=sorted(ids), account=account)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which dead rows: in this lane, and with this in their reason; None = whatever."""

    lane: str | None = None
    reason: str | None = None

    @property
    def parameters(self) -> dict[str, str | None]:
        """As the statements take them."""
        text = None
        if self.reason is not None:
            text = self.reason.lower()
            for sign in "!%_":
                text = text.replace(sign, f"!{sign}")
            text = f"%{text}%"
        return {"lane": self.lane, "reason": text}


_FITS = """
  (CAST(:lane AS TEXT) IS NULL OR w.lane = :lane)
  AND (CAST(:reason AS TEXT) IS NULL OR lower(w.last_error) LIKE :reason ESCAPE '!')
"""


@cache
def _page(work: DeadWork) -> Statement:
    return sql(f"""
SELECT w.id, w.lane, w.attempts, w.last_error,
  {work.created} AS created_at, w.{work.ended} AS died_at,
  {work.title} AS title, {work.about} AS about
FROM (SELECT w.id FROM (SELECT id, lane, last_error FROM {work.table}
        WHERE account = :account AND {work.dead} AND id < :before ORDER BY id DESC LIMIT :scan) w
      WHERE {_FITS} ORDER BY w.id DESC LIMIT :limit) f
CROSS JOIN {work.table} w {work.join}
WHERE w.id = f.id ORDER BY w.id DESC
""")  # noqa: S608 - the service's own words


@cache
def _edge(work: DeadWork) -> Statement:
    return sql(f"""
SELECT id FROM {work.table} WHERE account = :account AND {work.dead} AND id < :before
ORDER BY id DESC LIMIT 1 OFFSET :skip
""")  # noqa: S608


def page(
    tx: Tx, work: DeadWork, account: str, wanted: Wanted, before: str | None, limit: int
) -> tuple[list[dict[str, Any]], str | None]:
    """Up to `limit` dead rows below the id `before`, newest first; and where to go on looking.

    The latter is None when nothing is left. Filters look through `SCAN` rows at a time, so a page
    may be short, or empty, and yet not be the last.
    """
    bound = before or HIGHEST
    # Without a filter all rows fit, and no more of them need to be looked at.
    exact = wanted == Wanted()
    rows = tx.dicts(
        _page(work),
        account=account,
        before=bound,
        scan=limit + 1 if exact else SCAN,
        limit=limit + 1,
        **wanted.parameters,
    )
    if len(rows) > limit:
        return rows[:limit], str(rows[limit - 1]["id"])
    if exact:
        return rows, None
    edge = tx.one(_edge(work), account=account, before=bound, skip=SCAN - 1)
    return rows, None if edge is None else str(edge[0])


@cache
def _chunk(work: DeadWork) -> Statement:
    return sql(f"""
SELECT w.id FROM (SELECT id, lane, last_error FROM {work.table}
  WHERE account = :account AND {work.dead} AND id > :after AND id <= :upto
  ORDER BY id LIMIT :scan) w WHERE {_FITS} ORDER BY w.id LIMIT :limit
""")  # noqa: S608


@cache
def _far_edge(work: DeadWork) -> Statement:
    return sql(f"""
SELECT id FROM {work.table} WHERE account = :account AND {work.dead} AND id > :after AND id <= :upto
ORDER BY id LIMIT 1 OFFSET :skip
""")  # noqa: S608


def chunk(
    tx: Tx, work: DeadWork, account: str, wanted: Wanted, after: str, upto: str, limit: int
) -> tuple[list[str], str | None]:
    """Ids of the next `limit` dead rows, oldest first; and after which id to go on, if at all."""
    rows = tx.rows(
        _chunk(work),
        account=account,
        after=after,
        upto=upto,
        scan=SCAN,
        limit=limit,
        **wanted.parameters,
    )
    ids = [id_ for (id_,) in rows]
    if len(ids) == limit:
        return ids, ids[-1]
    edge = tx.one(_far_edge(work), account=account, after=after, upto=upto, skip=SCAN - 1)
    return ids, None if edge is None else str(edge[0])


@cache
def _one(work: DeadWork) -> Statement:
    return sql(f"""
SELECT w.id, w.lane, w.attempts, w.last_error,
  {work.created} AS created_at, w.{work.ended} AS died_at,
  {work.title} AS title, {work.about} AS about
FROM (SELECT * FROM {work.table} WHERE id = :id AND account = :account AND {work.dead}) w
{work.join}
""")  # noqa: S608


def one(tx: Tx, work: DeadWork, account: str, id_: str) -> dict[str, Any] | None:
    """A dead row; None if the account has none of that id."""
    return next(iter(tx.dicts(_one(work), account=account, id=id_)), None)


@cache
def _newest(work: DeadWork) -> Statement:
    return sql(f"""
SELECT max(id) FROM {work.table} WHERE account = :account AND {work.dead}
""")  # noqa: S608


def newest(tx: Tx, work: DeadWork, account: str) -> str | None:
    """The highest id of a dead row: what dies again while others are moved is above it or new."""
    row = tx.one(_newest(work), account=account)
    return None if row is None else row[0]


@cache
def _count(work: DeadWork) -> Statement:
    return sql(f"""
SELECT count(*) FROM (SELECT 1 FROM {work.table} WHERE account = :account AND {work.dead}
                      LIMIT :most) n
""")  # noqa: S608


def count(tx: Tx, work: DeadWork, account: str) -> tuple[int, bool]:
    """How many there are, counted up to `MOST_COUNTED`; and whether there are more."""
    ((n,),) = tx.rows(_count(work), account=account, most=MOST_COUNTED + 1)
    return min(n, MOST_COUNTED), n > MOST_COUNTED

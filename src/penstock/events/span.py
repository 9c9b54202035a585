"""Where in an account's events a stretch of time begins and ends.

Events have no index on their time. Their ids follow it, but for the difference between the clocks
of processes, so the place is found by halving the space between two ids; `SLACK` makes up for the
difference.
"""

from __future__ import annotations

from typing import Final

from penstock.clock import SECOND
from penstock.storage import Tx, sql

# Each by itself is a look at one end of the index; together they would go through all of it.
_ENDS = sql("""
SELECT (SELECT min(id) FROM events WHERE account = :account),
  (SELECT max(id) FROM events WHERE account = :account)
""")
_NEXT = sql("""
SELECT id, created_at FROM events WHERE account = :account AND id >= :id ORDER BY id LIMIT 1
""")
_BEFORE = sql("SELECT max(id) FROM events WHERE account = :account AND id < :id")
_HOW_MANY = sql("""
SELECT count(*) FROM (SELECT 1 FROM events WHERE account = :account AND id > :start AND id <= :upto
                      LIMIT :most) AS n
""")
SLACK: Final = 3600 * SECOND
COUNTED: Final = 1_000_000  # events up to which the size of a replay is told


def find(tx: Tx, account: str, since: int | None, until: int) -> tuple[str, str, int | None]:
    """The event before the first and the last one to look at, and how many there are between."""
    start, upto = bounds(tx, account, since, until)
    ((n,),) = tx.rows(_HOW_MANY, account=account, start=start, upto=upto, most=COUNTED + 1)
    return start, upto, n if n <= COUNTED else None


def bounds(tx: Tx, account: str, since: int | None, until: int | None) -> tuple[str, str]:
    """The event before the first and the last one to look at, without counting them."""
    first, last = _ends(tx, account)
    if first is None or last is None:
        return "", ""
    start, upto = "", last
    if since is not None:
        found = _reached(tx, account, first, last, since - SLACK)
        if found is None:
            return last, last
        start = _before(tx, account, found)
    if until is not None:
        later = _reached(tx, account, first, last, until + SLACK)
        if later is not None:
            upto = _before(tx, account, later)
    return start, upto


def _ends(tx: Tx, account: str) -> tuple[str | None, str | None]:
    row = tx.one(_ENDS, account=account)
    return (None, None) if row is None else (row[0], row[1])


def _before(tx: Tx, account: str, event_id: str) -> str:
    row = tx.one(_BEFORE, account=account, id=event_id)
    return "" if row is None or row[0] is None else str(row[0])


def _reached(tx: Tx, account: str, first: str, last: str, instant: int) -> str | None:
    """The first event created at `instant` or later; None = all are earlier."""
    low, high = _number(first), _number(last) + 1
    reached: str | None = None
    while low < high:
        middle = (low + high) // 2
        row = tx.one(_NEXT, account=account, id=_id(middle, first))
        if row is None or row[1] >= instant:
            high = middle
            if row is not None:
                reached = row[0]
        else:
            low = _number(row[0]) + 1
    return reached


_DIGITS: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUES: Final = {digit: value for value, digit in enumerate(_DIGITS)}


def _number(event_id: str) -> int:
    number = 0
    for digit in event_id.partition("_")[2]:
        number = number * 32 + _VALUES[digit]
    return number


def _id(number: int, like: str) -> str:
    prefix, _, digits = like.partition("_")
    text = ""
    for _ in digits:
        number, value = divmod(number, 32)
        text = _DIGITS[value] + text
    return f"{prefix}_{text}"

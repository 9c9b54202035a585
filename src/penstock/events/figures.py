"""How many events an account sends, and how long they take to be delivered.

Ids of events hold the millisecond in which they were made, so a span of time is a range of the
index on (account, id), and nothing is written to keep these figures. Each span is looked at up to
`SAMPLE` events: its count is exact below that, and above it what the sample's own pace comes to.
"""

from __future__ import annotations

from itertools import accumulate
from operator import itemgetter
from typing import Any, Final

from penstock.clock import SECOND, to_iso
from penstock.storage import Tx, sql

SPANS: Final = 60
SAMPLE: Final = 100  # events looked at in each span

_DIGITS: Final = "0123456789abcdefghjkmnpqrstvwxyz"

# One question for all spans: on PostgreSQL each would be a journey. SQLite has no LATERAL.
_LOOK = sql(
    sqlite=" UNION ALL ".join(
        f"SELECT * FROM (SELECT {index} AS span, id, created_at, delivered_at, status,"  # noqa: S608
        f" open_deliveries FROM events WHERE account = :account AND id >= :at{index}"
        f" AND id < :at{index + 1} ORDER BY id LIMIT :limit) AS s{index}"
        for index in range(SPANS)
    ),
    postgres="""
SELECT b.number - 1, e.id, e.created_at, e.delivered_at, e.status, e.open_deliveries
FROM unnest(CAST(:begins AS text[]), CAST(:ends AS text[])) WITH ORDINALITY
  AS b(begins, ends, number)
CROSS JOIN LATERAL (SELECT * FROM events WHERE account = :account AND id >= b.begins
  AND id < b.ends ORDER BY id LIMIT :limit) AS e
""",
)


def id_at(instant: int, prefix: str = "evt") -> str:
    """The lowest id that can have been made at `instant` (µs)."""
    value = max(0, instant // 1000) << 80
    return f"{prefix}_" + "".join(_DIGITS[value >> shift & 31] for shift in range(125, -1, -5))


def look(tx: Tx, account: str, minutes: int) -> dict[str, Any]:
    """The last `minutes`, in `SPANS` equal spans, the oldest first."""
    now = tx.now()
    length = minutes * 60 * SECOND // SPANS
    begin = now - now % length - (SPANS - 1) * length
    found: list[list[tuple[Any, ...]]] = [[] for _ in range(SPANS)]
    ids = [id_at(begin + index * length) for index in range(SPANS + 1)]
    bounds: dict[str, Any] = {f"at{index}": id_ for index, id_ in enumerate(ids)}
    if tx.dialect == "postgres":
        bounds = {"begins": ids[:-1], "ends": ids[1:]}
    for index, _, *row in sorted(
        tx.rows(_LOOK, account=account, limit=SAMPLE + 1, **bounds), key=itemgetter(0, 1)
    ):
        found[index].append(tuple(row))
    spans = []
    # By how many the events on their way become more, or fewer, from one span's end to the next.
    change = [0.0] * (SPANS + 1)
    for index, rows in enumerate(found):
        since = begin + index * length
        span = _span(rows, since, min(length, now - since))
        spans.append(span)
        for _, delivered, status, open_deliveries in rows:
            stood_for = span["events"] / len(rows)
            if delivered is not None:
                until = max(index, min(SPANS, (delivered - begin) // length))
            else:  # what waits in the inbox alone is on no way
                until = SPANS if status == "pending" and open_deliveries else index
            change[index] += stood_for
            change[until] -= stood_for
    under_way = accumulate(change)
    for span, waiting in zip(spans, under_way, strict=False):
        span["under_way"] = max(0, round(waiting))
    return {"span": length / SECOND, "spans": spans}


def _span(rows: list[tuple[Any, ...]], since: int, length: int) -> dict[str, Any]:
    sampled = len(rows) > SAMPLE
    count = len(rows)
    if sampled:
        took = max(1, rows[-1][0] - since)
        count = max(count, round(SAMPLE * length / took))
    delays = sorted((row[1] - row[0]) / SECOND for row in rows if row[1] is not None)
    return {
        "since": to_iso(since),
        "events": count,
        "estimated": sampled,
        "failed": sum(row[2] == "failed" for row in rows) / max(1, len(rows)),
        "p50": _quantile(delays, 0.5),
        "p95": _quantile(delays, 0.95),
    }


def _quantile(ordered: list[float], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None

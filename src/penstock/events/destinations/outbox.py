"""The local outbox: e-mails and texts that nothing here can carry, kept for people to read.

A row is written by the transaction that settles its delivery, so there is exactly one for each
delivery that was made.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from penstock.events.destinations import Answer, Verdict
from penstock.events.destinations.email import Letter
from penstock.events.destinations.sms import Text
from penstock.events.views import iso
from penstock.ids import HIGHEST, new_id
from penstock.storage import Tx, sql

_INSERT = sql("""
INSERT INTO outbox (id, account, kind, target, subject, body, event_id, delivery_id, created_at)
VALUES (:id, :account, :kind, :target, :subject, :body, :event_id, :delivery_id, {now})
""")
_PAGE = sql("""
SELECT id, kind, target, subject, body, event_id, delivery_id, created_at FROM outbox
WHERE account = :account AND id < :before ORDER BY id DESC LIMIT :limit
""")
_KEPT: Final = b"kept in the outbox of this server, which is set to send none"


async def keep_letter(letter: Letter, within: float) -> Answer:
    """Keep an e-mail instead of sending it."""
    return _kept(
        account=letter.account,
        kind="email",
        target=letter.to,
        subject=letter.subject,
        body=letter.text,
        event_id=letter.push.event_id,
        delivery_id=letter.push.delivery_id,
    )


async def keep_text(text: Text, within: float) -> Answer:
    """Keep a text message instead of sending it."""
    return _kept(
        account=text.account,
        kind="sms",
        target=text.to,
        subject=None,
        body=text.text,
        event_id=text.push.event_id,
        delivery_id=text.push.delivery_id,
    )


def page(tx: Tx, account: str, before: str | None, limit: int) -> list[dict[str, Any]]:
    """Up to `limit` of what was kept, newest first, below the id `before`."""
    # '~' sorts after every character of an id.
    rows = tx.dicts(_PAGE, account=account, before=before or HIGHEST, limit=limit)
    return [
        {"outbox_id": row.pop("id"), **row, "created_at": iso(row["created_at"])} for row in rows
    ]


def _kept(**row: str | None) -> Answer:
    return Answer(Verdict("delivered"), response=_KEPT, apply=partial(_write, row))


def _write(row: dict[str, str | None], tx: Tx) -> None:
    tx.run(_INSERT, id=new_id("out"), **row)

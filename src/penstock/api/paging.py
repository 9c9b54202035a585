"""Lists by cursor: ``?cursor=&limit=`` in, ``{items, next_cursor}`` out.

A cursor is the sort key of the last item that was sent, so a list goes on where it was even
while rows come and go. It is opaque but not secret: queries are bound to the account of the
caller, so a forged one shows nothing else.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Generic, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel

from penstock.api.problems import Problem

T = TypeVar("T")

DEFAULT: Final = 50
MOST: Final = 100
_MOST_CHARACTERS: Final = 1000
_INT64: Final = 2**63


class Items(BaseModel, Generic[T]):
    """One page of a list; `next_cursor` is null on the last one."""

    items: list[T]
    next_cursor: str | None = None


def encode(*key: str | int) -> str:
    """The cursor after the row with this sort key."""
    text = json.dumps(key, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def decode(cursor: str, *kinds: type[str] | type[int]) -> tuple[Any, ...]:
    """The sort key in `cursor`, which must have these types; `bad_cursor` otherwise."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        key = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        raise Problem("bad_cursor") from None
    if not isinstance(key, list) or [type(part) for part in key] != list(kinds):
        raise Problem("bad_cursor")
    for part in key:
        # Neither is made by encode(), and neither could be sent to the database.
        if isinstance(part, int) and not -_INT64 <= part < _INT64:
            raise Problem("bad_cursor")
        if isinstance(part, str) and ("\0" in part or not _encodable(part)):
            raise Problem("bad_cursor")
    return tuple(key)


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is asked for. Queries fetch `limit` + 1 rows to see a next page."""

    cursor: str | None = None
    limit: int = DEFAULT

    def after(self, *kinds: type[str] | type[int]) -> tuple[Any, ...] | None:
        """The sort key to go on after; None at the beginning."""
        return decode(self.cursor, *kinds) if self.cursor else None

    def of(
        self, rows: Sequence[T], key: Callable[[T], tuple[str | int, ...]]
    ) -> tuple[list[T], str | None]:
        """Of `limit` + 1 fetched rows: those to show, and the cursor of the next page."""
        shown = list(rows[: self.limit])
        return shown, encode(*key(shown[-1])) if len(rows) > self.limit else None


async def _page(
    cursor: Annotated[
        str | None,
        Query(max_length=_MOST_CHARACTERS, description="`next_cursor` of the previous page."),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MOST, description="Items a page.")] = DEFAULT,
) -> Page:
    return Page(cursor, limit)


# A parameter of a route: `page: Paged`.
Paged = Annotated[Page, Depends(_page)]


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

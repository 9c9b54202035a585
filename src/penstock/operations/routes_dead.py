"""`/v1/dead`: work that gave up, of every kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from penstock.api import paging
from penstock.api.auth import Principal, forbidden
from penstock.api.context import AUTHENTICATED, Caller, requires
from penstock.api.paging import Items, Paged
from penstock.api.problems import Problem
from penstock.api.routing import router
from penstock.operations import dead
from penstock.operations.routes_lanes import Counted
from penstock.storage import Database
from penstock.work.care import DeadWork, Wanted

_Id = Annotated[str, Field(min_length=1, max_length=100)]
_Text = Annotated[str, Field(min_length=1, max_length=200)]


class DeadView(BaseModel):
    """A dead row: what it is, and why it gave up."""

    kind: str
    id: str
    title: Annotated[str, Field(description="What it is, for people.")]
    about: Annotated[str, Field(description="The id of the event, the job, the model …")]
    lane: str
    reason: str | None
    attempts: int
    created_at: str
    died_at: str | None


class DeadCounts(BaseModel):
    """How much is dead, by kind."""

    kinds: dict[str, Counted]


class MoveIn(BaseModel):
    """Which dead rows: some by their ids, or all of a kind that fit."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: Annotated[str, Field(max_length=100, examples=["delivery"])]
    ids: Annotated[list[_Id], Field(min_length=1, max_length=1000)] | None = None
    all: Annotated[bool, Field(description="Every one that fits `lane` and `reason`.")] = False
    lane: _Text | None = None
    reason: Annotated[_Text | None, Field(description="Part of the reason, whatever its case.")] = (
        None
    )
    cursor: Annotated[
        str | None,
        Field(max_length=1000, description="`next_cursor` of the request before, to go on."),
    ] = None

    @model_validator(mode="after")
    def _either(self) -> Self:
        if (self.ids is None) == (not self.all):
            raise ValueError("give ids, or all: true")
        if self.ids is not None and (self.lane or self.reason or self.cursor):
            raise ValueError("lane, reason and cursor go with all: true")
        return self


class Moved(BaseModel):
    """How many rows were moved; `next_cursor` is null once none is left."""

    moved: int
    next_cursor: str | None


def routes(database: Database, kinds: Sequence[DeadWork]) -> APIRouter:
    """The routes, on `database`."""
    api = router(tags=["Dead work"])
    by_kind = {work.kind: work for work in kinds}

    def readable(caller: Principal, kind: str | None) -> list[DeadWork]:
        if kind is not None:
            return [allowed(caller, kind, "read")]
        return [work for work in kinds if f"{work.area}:read" in caller.scopes]

    def allowed(caller: Principal, kind: str, verb: str) -> DeadWork:
        work = by_kind.get(kind)
        if work is None:
            message = f"The kinds are: {', '.join(by_kind)}"
            failure = {"message": message, "pointer": "/kind"}
            raise Problem("validation_failed", f"{message}.", errors=[failure])
        if f"{work.area}:{verb}" not in caller.scopes:
            raise forbidden(f"{work.area}:{verb}")
        return work

    @api.get("/v1/dead", summary="List dead work")
    @requires(AUTHENTICATED)
    async def list_dead(
        page: Paged,
        caller: Caller,
        kind: Annotated[str | None, Query(max_length=100)] = None,
        lane: Annotated[str | None, Query(min_length=1, max_length=200)] = None,
        reason: Annotated[
            str | None,
            Query(min_length=1, max_length=200, description="Part of the reason."),
        ] = None,
    ) -> Items[DeadView]:
        """The latest accepted first; of the kinds that the caller may read.

        With a filter a page may be short, or empty, while there is a next one.
        """
        after = page.after(str)
        works, wanted = readable(caller, kind), Wanted(lane, reason)
        rows, edge = await database.read(
            lambda tx: dead.page(
                tx, works, caller.account, wanted, after[0] if after else None, page.limit
            )
        )
        cursor = None if edge is None else paging.encode(edge)
        return Items(items=[DeadView(**row) for row in rows], next_cursor=cursor)

    @api.get("/v1/dead/counts", summary="Count dead work")
    @requires(AUTHENTICATED)
    async def count_dead(caller: Caller) -> DeadCounts:
        """By kind, of those that the caller may read; counted up to 10,000."""
        works = readable(caller, None)
        found = await database.read(lambda tx: dead.counts(tx, works, caller.account))
        return DeadCounts(kinds={kind: Counted(**count) for kind, count in found.items()})

    @api.get("/v1/dead/{dead_id}", summary="Read a dead row")
    @requires(AUTHENTICATED)
    async def read_dead(dead_id: str, caller: Caller) -> DeadView:
        """What it is, and why it gave up."""
        works = readable(caller, None)
        found = await database.read(lambda tx: dead.get(tx, works, caller.account, dead_id))
        return DeadView(**found)

    @api.post("/v1/dead/redrive", status_code=202, summary="Redrive dead work")
    @requires(AUTHENTICATED)
    async def redrive_dead(asked: MoveIn, caller: Caller) -> Moved:
        """Makes it due again, with its attempts from the start.

        Of `all`, up to 2,000 rows are moved by one request, oldest first: repeat it with
        `next_cursor` until that is null. What is alive by now, deleted, or in the way of another
        of its kind is left alone.
        """
        return await _move(caller, asked, "redrive")

    @api.post("/v1/dead/drop", status_code=202, summary="Drop dead work")
    @requires(AUTHENTICATED)
    async def drop_dead(asked: MoveIn, caller: Caller) -> Moved:
        """Puts it away for good: it is cancelled, and deleted when its time is over."""
        return await _move(caller, asked, "drop")

    async def _move(caller: Principal, asked: MoveIn, how: dead.Move) -> Moved:
        work = allowed(caller, asked.kind, "write")
        if asked.ids is not None:
            moved = await dead.move(database, work, caller.account, asked.ids, how)
            return Moved(moved=moved, next_cursor=None)
        wanted = Wanted(asked.lane, asked.reason)
        place = None
        if asked.cursor is not None:
            after, upto = paging.decode(asked.cursor, str, str)
            place = after, upto
        moved, go_on = await dead.move_all(database, work, caller.account, wanted, how, place)
        return Moved(moved=moved, next_cursor=None if go_on is None else paging.encode(*go_on))

    return api

"""`/v1/lanes`: the gates that work passes through."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from penstock.api.auth import Principal
from penstock.api.context import Caller, requires
from penstock.api.paging import Items, Paged
from penstock.api.problems import Problem
from penstock.api.routing import router
from penstock.durations import seconds
from penstock.operations.lanes import Lanes
from penstock.storage import Database, Tx

LONGEST_HOLD = 7 * 86400.0  # seconds

State = Literal["passing", "paused", "waiting", "circuit_open", "probing"]
Circuit = Literal["closed", "open", "half_open"]


class Counted(BaseModel):
    """A count, given up at a bound: `more` says that there are more."""

    count: int
    more: bool


class LaneView(BaseModel):
    """A lane: what it lets through, and what waits behind it."""

    lane: str
    kind: str
    title: Annotated[str, Field(description="What it leads to, for people.")]
    leads_to: Annotated[str | None, Field(description="The id of the endpoint, if it is one.")]
    state: State
    paused: Annotated[bool, Field(description="By a person.")]
    paused_because: Annotated[
        str | None, Field(description="Why its service keeps it paused, if it does.")
    ]
    opens_at: str | None
    rate: Annotated[float | None, Field(description="Rows a second; null = no limit.")]
    max_in_flight: int
    in_flight: int
    waiting: Counted
    next_due_at: str | None
    late: Annotated[float, Field(description="Seconds since the earliest waiting row was due.")]
    circuit: Circuit
    failures_in_a_row: int
    trips_at: Annotated[int | None, Field(description="null = it has no circuit breaker.")]
    trips: int
    held: Annotated[Literal["open", "closed"] | None, Field(description="By a person.")]
    held_until: str | None
    created_at: str


class Transition(BaseModel):
    """A change of the circuit."""

    at: str
    state: str
    open_until: str | None
    reason: str
    actor: str


class LaneDetail(LaneView):
    """A lane with the latest changes of its circuit."""

    log: list[Transition]


class LanePatch(BaseModel):
    """Changes to a lane: only the fields that are given."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    paused: bool | None = None
    rate: Annotated[
        Annotated[float, Field(gt=0, le=100_000)] | None,
        Field(description="Rows a second; null takes the limit away."),
    ] = None
    max_in_flight: Annotated[int, Field(ge=1, le=10_000)] | None = None

    def changes(self) -> dict[str, Any]:
        """The fields that were given."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return {name: value for name, value in given.items() if value is not None or name == "rate"}


def _duration(value: object) -> object:
    return seconds(value) if isinstance(value, str) else value


class Hold(BaseModel):
    """A circuit that a person holds open or closed for a while."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True
    )

    state: Literal["open", "closed"]
    for_: Annotated[
        float,
        BeforeValidator(_duration),
        Field(
            alias="for",
            gt=0,
            le=LONGEST_HOLD,
            description="Seconds, or a duration such as `30m`; at most 7 days.",
            json_schema_extra={"type": ["number", "string"]},
        ),
    ]
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]


def routes(database: Database, lanes: Lanes) -> APIRouter:
    """The routes, on `database`."""
    api = router(tags=["Lanes"])

    async def view(account: str, lane: str) -> LaneDetail:
        return LaneDetail(**await database.read(lambda tx: lanes.get(tx, account, lane)))

    @api.get("/v1/lanes", summary="List lanes")
    @requires("lanes:read")
    async def list_lanes(
        page: Paged,
        caller: Caller,
        kind: Annotated[str | None, Query(max_length=100)] = None,
        stopped: Annotated[
            bool, Query(description="Only those that let nothing, or only a probe, through.")
        ] = False,
    ) -> Items[LaneView]:
        """By their ids: lanes of one kind are together."""
        after = page.after(str)
        found = await database.read(
            lambda tx: lanes.page(
                tx,
                caller.account,
                kind=kind,
                stopped=stopped,
                after=after[0] if after else "",
                limit=page.limit + 1,
            )
        )
        shown, cursor = page.of(found, lambda item: (item["lane"],))
        return Items(items=[LaneView(**item) for item in shown], next_cursor=cursor)

    # Ids may hold a slash, so what ends in something else comes first.
    @api.post("/v1/lanes/{lane:path}/circuit", summary="Hold a lane's circuit")
    @requires("lanes:write")
    async def hold_lane_circuit(lane: str, asked: Hold, caller: Caller) -> LaneDetail:
        """Opens or closes it and keeps it so for a while; then it is left to itself again.

        Held open, nothing passes; held closed, no failure opens it. Who and why is logged.
        """

        def hold(tx: Tx) -> None:
            account, actor = caller.account, _actor(caller)
            lanes.hold(tx, account, lane, asked.state, asked.for_, actor, asked.reason)

        await database.unit(hold)
        return await view(caller.account, lane)

    @api.post("/v1/lanes/{lane:path}/circuit/release", summary="Release a lane's circuit")
    @requires("lanes:write")
    async def release_lane_circuit(lane: str, caller: Caller) -> LaneDetail:
        """Leaves it to itself before its time. Held open, a probe goes ahead now."""
        await database.unit(
            lambda tx: lanes.release(
                tx, caller.account, lane, _actor(caller), "released before its time"
            )
        )
        return await view(caller.account, lane)

    @api.get("/v1/lanes/{lane:path}", summary="Read a lane")
    @requires("lanes:read")
    async def read_lane(lane: str, caller: Caller) -> LaneDetail:
        """With the latest changes of its circuit."""
        return await view(caller.account, lane)

    @api.patch("/v1/lanes/{lane:path}", summary="Change a lane")
    @requires("lanes:write")
    async def change_lane(lane: str, patch: LanePatch, caller: Caller) -> LaneDetail:
        """Pauses or resumes it, or gives it other limits; what waits in it is not touched.

        The limits of jobs' lanes are their code's, those of carriers' lanes the settings': they
        are back at the next start. A disabled endpoint's lane lets nothing through, resumed or not.
        """
        changes = patch.changes()
        if not changes:
            raise Problem("validation_failed", "Give at least one field to change.", errors=[])
        await database.unit(lambda tx: lanes.change(tx, caller.account, lane, changes))
        return await view(caller.account, lane)

    return api


def _actor(caller: Principal) -> str:
    """Whom the log names."""
    if caller.key_id is not None:
        return f"key {caller.key_id}"
    return f"{caller.account} {caller.subject}" if caller.subject else caller.account

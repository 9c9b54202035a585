"""Shipments on a database, checked by hand against carriers whose answers the test makes up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from penstock.clock import SECOND, Clock
from penstock.events.accept import Acceptor
from penstock.secretbox import SecretBox
from penstock.storage import Database, Tx, sql
from penstock.tracking import shipments
from penstock.tracking.carriers.base import (
    Answer,
    Budget,
    Carrier,
    Credential,
    Field,
    Found,
    NotFound,
    Query,
    Spec,
)
from penstock.tracking.census import Census
from penstock.tracking.clients import Clients
from penstock.tracking.credentials import CHECK, Credentials, lane_of
from penstock.tracking.grouper import Grouper
from penstock.tracking.parcels import Parcel
from penstock.tracking.poll import check_kind
from penstock.tracking.shipments import NewShipment
from penstock.tracking.status import Scan, Status
from penstock.tracking.tell import circuits
from penstock.work import lanes, ledger
from penstock.work.kinds import Claim, Kind, Task
from penstock.work.settlement import decide

BOX = SecretBox(["a key for the tests"])
T0 = 1_700_000_000 * SECOND
PLENTY = Budget(per_second=100_000.0, per_day=10_000_000)
ROW = sql("SELECT * FROM shipments WHERE id = :id")
EVENTS = sql("SELECT event_type, payload, source_key, account FROM events ORDER BY id")
SCANS = sql("SELECT at, text FROM scans WHERE shipment_id = :id ORDER BY at")
LANE = sql("""
SELECT circuit, circuit_generation, consecutive, trips, open_at, paused, tokens, rate
FROM lanes WHERE id = :id
""")


def scan(at: float, status: Status | None, text: str = "", offset: int | None = -300) -> Scan:
    """A scan `at` hours after T0."""
    said = text or (status or "")
    return Scan(T0 + int(at * 3600 * SECOND), offset, status, None, status, said, "Denver, CO, US")


def found(number: str, *scans: Scan, **more: Any) -> Found:
    """The parcel, its status that of its latest scan."""
    last = max(scans, key=lambda each: each.at)
    assert last.status is not None
    more.setdefault("delivered_at", last.at if last.status == "delivered" else None)
    more.setdefault("delivered_offset", last.offset if last.status == "delivered" else None)
    return Found(number, last.status, None, last.code, last.text, scans, **more)


# (the credential's id, the numbers that are asked for): an answer for each, or for all.
Answers = Callable[[str, Sequence[Query]], Awaitable[dict[str, Answer] | Answer]]


@dataclass(eq=False)
class Scripted:
    """A carrier with one credential."""

    name: str
    per_call: int
    credential: Credential
    world: World

    async def fetch(self, queries: Sequence[Query]) -> dict[str, Answer]:
        self.world.calls.append((self.name, self.credential.id, [q.number for q in queries]))
        answer = self.world.answers[self.name]
        said = answer(self.credential.id, queries) if callable(answer) else answer
        if asyncio.iscoroutine(said):
            said = await said
        if isinstance(said, dict):
            return said
        return {query.number: said for query in queries}

    async def close(self) -> None:
        self.world.closed += 1


@dataclass
class World:
    """`alpha` takes one number a call and needs a key, `bulk` thirty, `free` needs no credential.

    `answers` is what a carrier says: an answer for every number, or a function of them.
    """

    database: Database
    clock: Clock
    budget: Budget = PLENTY
    own: dict[str, dict[str, str]] = field(
        default_factory=lambda: {"alpha": {"key": "own-alpha"}, "bulk": {"key": "own-bulk"}}
    )
    answers: dict[str, Any] = field(default_factory=dict)
    calls: list[tuple[str, str, list[str]]] = field(default_factory=list)
    closed: int = 0
    where: Path | str = ""  # of the database, for who opens it again

    def __post_init__(self) -> None:
        self.answers = {
            name: NotFound("x", "not known") for name in ("alpha", "bulk", "free")
        } | self.answers
        self.specs = {
            "alpha": self._spec("alpha", 1, (Field("key", "API Key", secret=True),)),
            "bulk": self._spec("bulk", 30, (Field("key", "API Key", secret=True),)),
            "free": self._spec("free", 1, ()),
        }
        self.acceptor = Acceptor(86_400.0)
        self.session: aiohttp.ClientSession | None = None
        self.kind = self.kind_of(self.clock)

    def _spec(self, name: str, per_call: int, fields: tuple[Field, ...]) -> Spec:
        def make(
            credential: Credential, base_url: str, session: aiohttp.ClientSession, clock: Clock
        ) -> Carrier:
            return Scripted(name, per_call, credential, self)

        return Spec(name, name.title(), fields, per_call, self.budget, "https://x", None, make)

    def kind_of(self, clock: Clock) -> Kind[Parcel]:
        """The kind of work as one process has it, with clients of its own."""
        self.credentials = Credentials(BOX, self.specs, self.own)
        session: Any = None  # scripted carriers make no connections
        self.clients = Clients(self.credentials, session, clock, {})
        self.grouper = Grouper(clock)
        return check_kind(
            credentials=self.credentials,
            clients=self.clients,
            grouper=self.grouper,
            census=Census(clock),
            clock=clock,
            emit=self.acceptor.emit,
            on_circuit=circuits(self.acceptor.emit, "default"),
            lease=60.0,
        )

    # ------------------------------------------------------------------ shipments

    async def create(self, number: str = "N1", carrier: str = "alpha", **fields: Any) -> str:
        account = fields.pop("account", "default")
        made = await self.database.unit(
            lambda tx: shipments.create(
                tx,
                account,
                NewShipment(carrier, number, **fields),
                credentials=self.credentials,
                emit=self.acceptor.emit,
            )
        )
        return made.id

    async def create_many(self, n: int, carrier: str = "alpha", account: str = "default") -> None:
        """Due at once, as if each had come for itself."""

        def make(tx: Tx) -> None:
            for at in range(n):
                shipments.create(
                    tx,
                    account,
                    NewShipment(carrier, f"{carrier}-{at:04}"),
                    credentials=self.credentials,
                    emit=lambda *_: None,
                )
            tx.run(sql("UPDATE shipments SET due_at = {now} WHERE due_at IS NOT NULL"))
            # Many workers' worth of calls at once: what is tried out is not the cap.
            lanes.configure(tx, lane_of(carrier, None), max_in_flight=1000)

        await self.database.unit(make)

    async def row(self, id_: str) -> dict[str, Any]:
        (row,) = await self.database.read(lambda tx: tx.dicts(ROW, id=id_))
        return row

    async def lane(self, carrier: str = "alpha", account: str | None = None) -> dict[str, Any]:
        id_ = lane_of(carrier, account)
        (row,) = await self.database.read(lambda tx: tx.dicts(LANE, id=id_))
        return row

    async def scans(self, id_: str) -> list[tuple[Any, ...]]:
        return await self.database.read(lambda tx: tx.rows(SCANS, id=id_))

    async def events(self) -> list[str]:
        """The types of what was told, but for the circuits'."""
        rows = await self.database.read(lambda tx: tx.rows(EVENTS))
        return [row[0] for row in rows if row[0].startswith("shipment.")]

    # ------------------------------------------------------------------ work, by hand

    async def claim(self, *lanes: str, slots: int = 256) -> list[tuple[Claim, Parcel]]:
        named = lanes or tuple(lane_of(name, None) for name in ("alpha", "bulk"))

        def take(tx: Tx) -> list[tuple[Claim, Parcel]]:
            claims = ledger.claim(tx, self.kind, slots, named).claims
            loaded = self.kind.load(tx, claims) if claims else {}
            return [(claim, loaded[claim.id]) for claim in claims]

        return await self.database.unit(take)

    async def handle(self, held: Sequence[tuple[Claim, Parcel]]) -> list[Any]:
        """Settlements of what was claimed, its handlers having run at the same time."""

        async def one(claim: Claim, parcel: Parcel) -> Any:
            try:
                outcome = await self.kind.handle(Task(claim, parcel, 60.0))
            except Exception as exc:
                outcome = self.kind.classify(exc)
            return decide(self.kind, claim, outcome, self.clock.now())

        return await asyncio.gather(*(one(*each) for each in held))

    async def settle(self, settlements: Sequence[Any]) -> int:
        return len(await self.database.unit(lambda tx: ledger.settle(tx, self.kind, settlements)))

    async def check(self, *lanes: str, slots: int = 256) -> int:
        """Claim, ask and settle what may be; how many rows that were."""
        held = await self.claim(*lanes, slots=slots)
        return await self.settle(await self.handle(held)) if held else 0

    async def refresh(self, id_: str, account: str = "default") -> None:
        await self.database.unit(lambda tx: shipments.refresh(tx, account, id_))


async def checked(world: World, id_: str, answer: Any, carrier: str = "alpha") -> dict[str, Any]:
    """Ask again now and be answered so; the row after it."""
    world.answers[carrier] = answer
    await world.database.unit(
        lambda tx: tx.run(sql("UPDATE shipments SET due_at = {now} WHERE id = :id"), id=id_)
    )
    assert await world.check() == 1
    return await world.row(id_)


__all__ = ["CHECK", "World", "checked", "found", "scan"]

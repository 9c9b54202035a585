"""A day of parcels, by a clock that is moved: what each carrier is asked, and how soon we know.

The ledger, the lanes, the polling and the intervals are the real ones, on SQLite; the carriers are
made up, with the real ones' budgets. Parcels are followed since before midnight or come in during
the day, some hundreds of them at once in an import at ten. Nothing is waited for: from one look at
the lanes to the next the clock is moved to when the lanes say something may pass.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import random
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import figures
from bench.tracking_plot import Panel, draw
from penstock import telemetry
from penstock.clock import SECOND, ManualClock, from_iso
from penstock.secretbox import SecretBox, generate_key
from penstock.storage import Tx, migrate, sql
from penstock.storage.sqlite import SqliteDatabase
from penstock.tracking import shipments
from penstock.tracking.carriers.base import Answer, Budget, Carrier, Found, NotFound, Query
from penstock.tracking.carriers.http import carrier_session
from penstock.tracking.carriers.registry import CARRIERS
from penstock.tracking.census import Census
from penstock.tracking.clients import Clients
from penstock.tracking.credentials import CHECK, Credentials, lane_of
from penstock.tracking.grouper import Grouper
from penstock.tracking.intervals import Facts, next_check, stretched
from penstock.tracking.poll import check_kind
from penstock.tracking.shipments import NewShipment
from penstock.tracking.status import Scan, Status
from penstock.work import lanes, ledger
from penstock.work.circuit import unheard
from penstock.work.emit import nobody
from penstock.work.kinds import Task
from penstock.work.outcomes import Done
from penstock.work.settlement import decide

MIDNIGHT = from_iso("2026-03-03T00:00:00Z")
DAY = 86_400
SHARES = {"ups": 0.58, "fedex": 0.3, "usps": 0.1, "dhl": 0.02}  # of all shipments
NEW = 0.1  # of each carrier's, created during the day
IMPORTED = 0.05  # of UPS's, created all at once at ten
URGENT: Status = "out_for_delivery"


def run(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("bench tracking_day", description=__doc__)
    parser.add_argument("--shipments", type=int, default=10_000)
    parser.add_argument("--budget", type=float, default=1.0, help="times the carriers' usual")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--plot", type=Path, help="write the day as SVG here")
    given = parser.parse_args(arguments)
    telemetry.configure_logging("error")
    report, panels = asyncio.run(_simulate(given.shipments, given.budget, given.seed))
    if given.plot:
        given.plot.write_text(draw(panels))
    if given.json:
        print(json.dumps(report))
        return
    figures.show(
        figures.row(
            f"{name}, {found['shipments']:,} shipments",
            figures.percent(found["calls"], found["per_day"]),
            f"{found['calls']:,} calls, {found['looks']:,} looks; "
            f"at most {found['most_in_a_second']} in a second; "
            f"on the van, looked at {found['urgent_late'] / 60:.1f} min late (95 of 100), "
            f"others {found['others_late'] / 60:.1f}",
            f"budget {found['per_day']:,} a day, {found['per_second']:g} a second",
            "≤ 100 %",
        )
        for name, found in report.items()
    )


# --------------------------------------------------------------------------- parcels


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """A made-up parcel: when we hear of it, and what happens to it, in order."""

    number: str
    created: int
    events: tuple[Scan, ...]
    eta: int

    def told(self, now: int) -> tuple[Scan, ...]:
        return tuple(scan for scan in self.events if scan.at <= now)


def _parcels(carrier: str, count: int, dice: random.Random) -> list[Made]:
    found = []
    for number in range(count):
        new = number < NEW * count
        imported = carrier == "ups" and new and number < IMPORTED * count
        if new:
            created = MIDNIGHT + int((10 if imported else dice.uniform(0, 24)) * 3600 * SECOND)
            begins, days = created - int(dice.uniform(0, 30) * 3600 * SECOND), 2
        else:
            begins = MIDNIGHT - int(dice.uniform(12, 72) * 3600 * SECOND)
            created, days = begins, 0
        # On the van on one of the next mornings; one in twenty never is.
        day = days + dice.choices((0, 1, 2, 3, 60), (25, 30, 25, 15, 5))[0]
        out = MIDNIGHT + int((day * 24 + dice.uniform(6.5, 9.5)) * 3600 * SECOND)
        handed = out + int(dice.uniform(1, 9) * 3600 * SECOND)
        way: list[tuple[int, Status]] = [
            (begins, "pre_transit"),
            (begins + 6 * 3600 * SECOND, "in_transit"),
            (begins + 20 * 3600 * SECOND, "in_transit"),
        ]
        way = [(at, status) for at, status in way if at < out]
        way += [(out, URGENT), (handed, "delivered")]
        scans = tuple(Scan(at, 0, status, None, str(i), status, None) for i, (at, status)
                      in enumerate(way))  # fmt: skip
        found.append(Made(f"{carrier.upper()}{number:08}", created, scans, handed))
    return found


class MadeUp:
    """A carrier that knows the parcels, and notes when it was called."""

    def __init__(self, name: str, per_call: int, clock: ManualClock, made: list[Made]) -> None:
        self.name = name
        self.per_call = per_call
        self._clock = clock
        self._parcels = {parcel.number: parcel for parcel in made}
        self.calls: list[int] = []  # instants

    async def fetch(self, queries: Sequence[Query]) -> dict[str, Answer]:
        assert len(queries) <= self.per_call
        now = self._clock.now()
        self.calls.append(now)
        return {query.number: self._answer(query.number, now) for query in queries}

    def _answer(self, number: str, now: int) -> Answer:
        parcel = self._parcels[number]
        told = parcel.told(now)
        if not told:
            return NotFound(number, "not yet")
        last = told[-1]
        handed = last.at if last.status == "delivered" else None
        assert last.status is not None
        return Found(
            number, last.status, scans=told, eta=parcel.eta, eta_offset=0, delivered_at=handed
        )

    async def close(self) -> None:
        pass


# --------------------------------------------------------------------------- the day


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """One shipment was looked at: at which instant, how late (seconds), with how many in a call."""

    at: int
    urgent: bool
    late: float
    share: float  # of the call


_START = sql("""
UPDATE shipments SET created_at = :created, news_at = :news, tracking_status = :status,
  status_at = :news, eta_at = :eta, last_checked_at = :news, due_at = :due
WHERE id = :id
""")


class Simulation:
    def __init__(self, path: Path, count: int, budget: float, seed: int) -> None:
        self.dice = random.Random(seed)
        self.clock = ManualClock(MIDNIGHT)
        self.database = SqliteDatabase(path, self.clock)
        self.made = {
            name: _parcels(name, max(1, round(share * count)), self.dice)
            for name, share in SHARES.items()
        }
        self.carriers = {
            name: MadeUp(name, CARRIERS[name].per_call, self.clock, made)
            for name, made in self.made.items()
        }
        self.budgets = {
            name: Budget(
                CARRIERS[name].budget.per_second, round(CARRIERS[name].budget.per_day * budget)
            )
            for name in SHARES
        }
        specs = {
            name: dataclasses.replace(
                CARRIERS[name], fields=CARRIERS[name].fields, make=self._maker(name)
            )
            for name in SHARES
        }
        own = {name: {field.name: "x" for field in CARRIERS[name].fields} for name in SHARES}
        self.credentials = Credentials(
            SecretBox([generate_key()]), specs, own, budgets=self.budgets
        )
        self.looks: dict[str, list[Look]] = {lane_of(name, None): [] for name in SHARES}
        self.planned: dict[str, int] = {}  # when each shipment ought to be looked at next

    def _maker(self, name: str) -> Any:
        def make(*_: object) -> Carrier:
            return self.carriers[name]

        return make

    async def run(self) -> None:
        random.seed(self.dice.random())  # for the jitter
        grouper = Grouper(self.clock)
        clients = Clients(self.credentials, carrier_session(), self.clock, {})
        self.kind = check_kind(
            credentials=self.credentials,
            clients=clients,
            grouper=grouper,
            census=Census(self.clock),
            clock=self.clock,
            emit=nobody,
            on_circuit=unheard,
            lease=60.0,
        )
        await self.database.open()
        try:
            await self._begin()
            await self._day()
        finally:
            await grouper.close()
            await clients.close()
            await self.database.close()

    async def _begin(self) -> None:
        """Those that were followed before midnight, their next looks spread as they would be."""
        self.coming: deque[tuple[str, Made]] = deque()
        coming = []
        for name, made in self.made.items():
            old = [parcel for parcel in made if parcel.created < MIDNIGHT]
            coming += [(name, parcel) for parcel in made if parcel.created >= MIDNIGHT]
            counts: dict[Status, int] = {}
            for parcel in old:
                status = parcel.told(MIDNIGHT)[-1].status or "pending"
                counts[status] = counts.get(status, 0) + 1
            stretch = stretched(counts, self.credentials.rows_per_day(name))

            def put(
                tx: Tx, name: str = name, old: list[Made] = old, stretch: Any = stretch
            ) -> None:
                for parcel in old:
                    last = parcel.told(MIDNIGHT)[-1]
                    status = last.status or "pending"
                    wait = next_check(
                        Facts(status, None, parcel.created, last.at, last.at, parcel.eta),
                        MIDNIGHT,
                        stretch,
                    )
                    assert wait is not None
                    due = MIDNIGHT + int(self.dice.random() * wait * SECOND)
                    id_ = self._create(tx, name, parcel)
                    tx.run(_START, id=id_, created=parcel.created, news=last.at, status=status,
                           eta=parcel.eta, due=due)  # fmt: skip
                    self.planned[id_] = due

            await self.database.unit(put)
        self.coming.extend(sorted(coming, key=lambda each: each[1].created))

    def _create(self, tx: Tx, name: str, parcel: Made) -> str:
        new = NewShipment(name, parcel.number)
        return shipments.create(tx, "a", new, credentials=self.credentials, emit=nobody).id

    async def _day(self) -> None:
        end = MIDNIGHT + DAY * SECOND
        named = list(self.looks)
        wakes = await self.database.read(lambda tx: lanes.look(tx, CHECK, "shipments", named))
        while True:
            moments = [self.clock.now() + int(wake.delay * SECOND) + 1 for wake in wakes]
            if self.coming:
                moments.append(self.coming[0][1].created)
            now = max(self.clock.now(), min(moments, default=end))
            if now >= end:
                return
            self.clock.advance((now - self.clock.now()) / SECOND)
            wakes = await self._turn(named)

    async def _turn(self, named: Sequence[str]) -> list[Any]:
        """Create what comes in, take what may pass, ask, settle, and look when to come back."""
        now = self.clock.now()
        arrived = []
        while self.coming and self.coming[0][1].created <= now:
            arrived.append(self.coming.popleft())

        def take(tx: Tx) -> tuple[list[Any], Any]:
            for name, parcel in arrived:
                self.planned[self._create(tx, name, parcel)] = -1  # any time is right
            claims = ledger.claim(tx, self.kind, self.kind.slots, named).claims
            return claims, self.kind.load(tx, claims)

        claims, data = await self.database.unit(take)
        outcomes = await asyncio.gather(
            *(self.kind.handle(Task(claim, data[claim.id], 90.0)) for claim in claims)
        )
        together = {lane: sum(c.lane == lane for c in claims) for lane in {c.lane for c in claims}}
        settlements = []
        for claim, outcome in zip(claims, outcomes, strict=True):
            parcel = data[claim.id]
            due = self.planned[claim.id]
            late = 0.0 if due < 0 else max(0, now - due) / SECOND
            calls = -(-together[claim.lane] // self.carriers[parcel.carrier].per_call)
            urgent = parcel.state.status == URGENT
            self.looks[claim.lane].append(Look(now, urgent, late, calls / together[claim.lane]))
            assert isinstance(outcome, Done), outcome
            if outcome.again is not None:
                self.planned[claim.id] = now + int(outcome.again * SECOND)
            settlements.append(decide(self.kind, claim, outcome, now))

        def settle(tx: Tx) -> list[Any]:
            ledger.settle(tx, self.kind, settlements)
            return lanes.look(tx, CHECK, "shipments", named)

        return await self.database.unit(settle)


async def _simulate(
    count: int, budget: float, seed: int
) -> tuple[dict[str, dict[str, Any]], list[Panel]]:
    # In memory where there is such a folder: no figure here is about the disk.
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        path = Path(folder) / "penstock.db"
        migrate.upgrade(path)
        simulation = Simulation(path, count, budget, seed)
        await simulation.run()
    report, panels = {}, []
    for name in SHARES:
        looks = simulation.looks[lane_of(name, None)]
        calls, budget_ = simulation.carriers[name].calls, simulation.budgets[name]
        report[name] = {
            "shipments": len(simulation.made[name]),
            "calls": len(calls),
            "looks": len(looks),
            "per_day": budget_.per_day,
            "per_second": budget_.per_second,
            "most_in_a_second": _most_within(calls, SECOND),
            "urgent_looks": sum(look.urgent for look in looks),
            "urgent_late": _most([look.late for look in looks if look.urgent]),
            "others_late": _most([look.late for look in looks if not look.urgent]),
            "urgent_late_median": figures.middle([look.late for look in looks if look.urgent]),
        }
        panels.append(
            Panel(
                f"{CARRIERS[name].title}: {len(simulation.made[name]):,} shipments, "
                f"{len(calls):,} of {budget_.per_day:,} calls",
                [((look.at - MIDNIGHT) / SECOND, look.share, look.urgent) for look in looks],
                budget_.per_day / DAY,
            )
        )
    return report, panels


def _most(values: Sequence[float]) -> float:
    """What 95 of 100 do not exceed."""
    return sorted(values)[int(0.95 * (len(values) - 1))] if values else 0.0


def _most_within(instants: Sequence[int], span: int) -> int:
    """The most calls in any `span`, its end not included."""
    most, first = 0, 0
    for last, at in enumerate(instants):
        while at - instants[first] >= span:
            first += 1
        most = max(most, last - first + 1)
    return most


if __name__ == "__main__":
    run(sys.argv[1:])

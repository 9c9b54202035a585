"""Imports as work: a CSV's rows become shipments once each, on both databases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from penstock.clock import Clock
from penstock.errors import NotFound
from penstock.secretbox import SecretBox
from penstock.storage import Database, Tx, retention, sql
from penstock.tracking import columns, imports, shipments
from penstock.tracking.carriers.registry import CARRIERS
from penstock.tracking.credentials import Credentials
from penstock.tracking.dead import DEAD_IMPORTS
from penstock.tracking.imports import PART, ROWS, Import
from penstock.tracking.sheet import Fault
from penstock.work import ledger
from penstock.work.kinds import Claim, Kind, Task
from penstock.work.outcomes import Dead
from penstock.work.settlement import decide

pytestmark = pytest.mark.anyio

NUMBERS = sql("SELECT tracking_number FROM shipments WHERE account = :account ORDER BY id")
PARTS = sql("SELECT count(*) FROM shipment_import_parts")
STATUS = sql("SELECT status, lapses, last_error FROM shipment_imports")


class Desk:
    """Takes files in and works them off by hand, one step at a time."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.database = database
        self.clock = clock
        self.told: list[tuple[str, str]] = []
        self.credentials = Credentials(
            SecretBox(["a key for the tests"]),
            CARRIERS,
            {"ups": {"client_id": "a", "client_secret": "b"}},
        )
        self.kind: Kind[Import] = imports.import_kind(
            database=database, credentials=self.credentials, emit=self._emit
        )

    def _emit(
        self, tx: Tx, account: str, event_type: str, payload: Mapping[str, Any], key: str
    ) -> None:
        self.told.append((account, event_type))

    async def take(self, data: bytes, account: str = "acme", carrier: str | None = None) -> str:
        """Store the file as the route does; the import's id."""
        found = columns.head(data[:PART], final=len(data) <= PART, carrier=carrier)
        assert not isinstance(found, list), found
        head, place = found

        def store(tx: Tx) -> str:
            id_ = imports.begin(tx, account, head, place, carrier=carrier, filename="f.csv")
            for number, at in enumerate(range(0, len(data), PART)):
                imports.append(tx, id_, number, data[at : at + PART])
            imports.complete(tx, id_, len(data))
            return id_

        return await self.database.unit(store)

    async def claim(self, account: str = "acme") -> tuple[Claim, Import] | None:
        lane = f"{imports.IMPORT}:{account}"

        def take(tx: Tx) -> tuple[Claim, Import] | None:
            claims = ledger.claim(tx, self.kind, 1, [lane]).claims
            return (claims[0], self.kind.load(tx, claims)[claims[0].id]) if claims else None

        return await self.database.unit(take)

    async def finish(self, held: tuple[Claim, Import]) -> bool:
        """Handle and settle what was claimed; whether the fence matched."""
        claim, data = held
        outcome = await self.kind.handle(Task(claim, data, 60.0))
        settlement = decide(self.kind, claim, outcome, self.clock.now())
        settled = await self.database.unit(lambda tx: ledger.settle(tx, self.kind, [settlement]))
        return claim in settled

    async def work(self, account: str = "acme") -> int:
        """Steps until there is nothing more to do."""
        steps = 0
        while held := await self.claim(account):
            assert await self.finish(held)
            steps += 1
        return steps

    async def view(self, import_id: str, account: str = "acme") -> dict[str, Any]:
        return await self.database.read(lambda tx: imports.get(tx, account, import_id))

    async def errors(self, import_id: str) -> list[dict[str, Any]]:
        return await self.database.read(
            lambda tx: imports.errors(tx, "acme", import_id, None, 20_000)
        )

    async def numbers(self, account: str = "acme") -> list[str]:
        rows = await self.database.read(lambda tx: tx.rows(NUMBERS, account=account))
        return [number for (number,) in rows]


@pytest.fixture
def desk(database: Database, clock: Clock) -> Desk:
    return Desk(database, clock)


def number(n: int) -> str:
    return f"1ZTEST{n:012d}"


def sheet(count: int, start: int = 0) -> bytes:
    rows = (f"ups,{number(n)},parcel {n}\r\n" for n in range(start, start + count))
    return ("carrier,tracking_number,label\r\n" + "".join(rows)).encode()


async def test_rows_become_shipments_step_by_step(desk: Desk) -> None:
    count = 3 * ROWS + 7
    id_ = await desk.take(sheet(count))

    assert await desk.work() == 4

    view = await desk.view(id_)
    assert view["status"] == "done"
    assert (view["created"], view["existing"], view["failed"]) == (count, 0, 0)
    assert view["rows_done"] == count + 1
    assert view["bytes_done"] == view["bytes_total"]
    assert view["ended_at"] is not None
    assert view["filename"] == "f.csv"
    assert await desk.numbers() == [number(n) for n in range(count)]
    assert Counter(desk.told) == {("acme", "shipment.created"): count}
    # What was sent is not kept once it is worked off.
    assert await desk.database.read(lambda tx: tx.one(PARTS)) == (0,)


async def test_a_file_of_many_parts_is_read_across_them(desk: Desk) -> None:
    rows = "".join(f'ups,{number(n)},"{"x" * 150}\r\n{n}"\r\n' for n in range(1700))
    data = b"carrier,tracking_number,label\r\n" + rows.encode()
    assert len(data) > PART
    id_ = await desk.take(data)

    await desk.work()

    view = await desk.view(id_)
    assert (view["created"], view["failed"], view["rows_done"]) == (1700, 0, 1701)
    assert await desk.numbers() == [number(n) for n in range(1700)]


async def test_rows_that_cannot_be_used_are_listed_and_the_others_are_not_held_up(
    desk: Desk,
) -> None:
    data = (
        b"carrier,tracking_number,label\r\n"
        + f"ups,{number(1)},fine\r\n".encode()
        + b"hermes,123456789,unknown\r\n"
        + b"\r\n"
        + b"fedex,123456789012,no credential\r\n"
        + b"ups,caf\xe9,latin\r\n"
        + f'ups,{number(2)},"over\r\ntwo lines"\r\n'.encode()
        + f"ups,{number(1)},again\r\n".encode()
        + f"ups,{number(3)},a,b\r\n".encode()
        + f'ups,{number(4)},"open\r\n'.encode()
        + f"ups,{number(5)},last".encode()
    )
    id_ = await desk.take(data)

    await desk.work()

    view = await desk.view(id_)
    assert (view["created"], view["existing"], view["failed"]) == (3, 1, 5)
    found = await desk.errors(id_)
    assert [(error["row"], error["code"], error["column"]) for error in found] == [
        (3, "unknown_carrier", "carrier"),
        (5, "carrier_not_configured", "carrier"),
        (6, "not_utf8", None),
        (9, "too_many_columns", None),
        (10, "quote_not_closed", None),
    ]
    assert all(error["message"].endswith(".") for error in found)
    assert await desk.numbers() == [number(1), number(2), number(5)]


async def test_importing_a_file_again_makes_no_shipment_twice(desk: Desk) -> None:
    await desk.take(sheet(5))
    await desk.work()
    id_ = await desk.take(sheet(8))
    await desk.work()
    view = await desk.view(id_)
    assert (view["created"], view["existing"]) == (3, 5)
    assert await desk.numbers() == [number(n) for n in range(8)]


async def test_a_step_that_dies_is_done_again_and_nothing_twice(desk: Desk, clock: Any) -> None:
    """Whatever the step had done was not committed; whoever is late changes nothing."""
    count = 2 * ROWS + 1
    id_ = await desk.take(sheet(count))
    late = None
    for _ in range(2):
        late = await desk.claim()  # and its worker dies
        assert late is not None
        clock.advance(61)
        await desk.database.unit(lambda tx: ledger.sweep(tx, desk.kind))
    held = await desk.claim()
    assert held is not None
    assert await desk.finish(held)
    assert late is not None
    assert not await desk.finish(late)  # it was not dead after all, but too late

    await desk.work()

    view = await desk.view(id_)
    assert (view["status"], view["created"], view["existing"]) == ("done", count, 0)
    assert await desk.numbers() == [number(n) for n in range(count)]


async def test_an_import_that_gave_up_goes_on_when_somebody_says_so(desk: Desk, clock: Any) -> None:
    id_ = await desk.take(sheet(ROWS + 3))
    held = await desk.claim()
    assert held is not None
    assert await desk.finish(held)
    for _ in range(ledger.MAX_LAPSES):  # whoever takes it dies
        assert await desk.claim() is not None
        clock.advance(61)
        await desk.database.unit(lambda tx: ledger.sweep(tx, desk.kind))
    view = await desk.view(id_)
    assert (view["status"], view["created"]) == ("dead", ROWS)
    assert view["ended_at"] is not None
    assert await desk.database.unit(lambda tx: DEAD_IMPORTS.redrive(tx, "acme", [id_])) == 1
    await desk.work()
    view = await desk.view(id_)
    assert (view["status"], view["created"], view["existing"]) == ("done", ROWS + 3, 0)
    assert await desk.database.unit(lambda tx: DEAD_IMPORTS.drop(tx, "acme", [id_])) == 0


async def test_a_cancelled_import_makes_no_more_shipments(desk: Desk) -> None:
    id_ = await desk.take(sheet(3 * ROWS))
    held = await desk.claim()
    assert held is not None
    assert await desk.finish(held)
    held = await desk.claim()
    assert held is not None
    await desk.database.unit(lambda tx: imports.cancel(tx, "acme", id_))
    await desk.finish(held)  # it was under way

    assert await desk.claim() is None
    view = await desk.view(id_)
    assert (view["status"], view["created"]) == ("cancelled", ROWS)
    assert len(await desk.numbers()) == ROWS
    assert await desk.database.read(lambda tx: tx.one(PARTS)) == (0,)
    await desk.database.unit(lambda tx: imports.cancel(tx, "acme", id_))  # again: no harm
    assert (await desk.view(id_))["status"] == "cancelled"


async def test_rows_that_were_read_before_it_was_cancelled_make_no_shipments(desk: Desk) -> None:
    id_ = await desk.take(sheet(3))
    held = await desk.claim()
    assert held is not None
    claim, data = held
    outcome = await desk.kind.handle(Task(claim, data, 60.0))
    await desk.database.unit(lambda tx: imports.cancel(tx, "acme", id_))
    settlement = decide(desk.kind, claim, outcome, desk.clock.now())
    await desk.database.unit(lambda tx: ledger.settle(tx, desk.kind, [settlement]))
    assert await desk.numbers() == []
    assert desk.told == []
    view = await desk.view(id_)
    assert (view["status"], view["created"], view["rows_done"]) == ("cancelled", 0, 1)


async def test_a_file_that_did_not_come_to_its_end_is_no_work(desk: Desk, clock: Any) -> None:
    data = sheet(3)
    found = columns.head(data, final=True, carrier=None)
    assert not isinstance(found, list)

    def half(tx: Tx) -> str:
        id_ = imports.begin(tx, "acme", *found, carrier=None, filename=None)
        imports.append(tx, id_, 0, data)
        return id_

    id_ = await desk.database.unit(half)
    assert await desk.claim() is None
    (rule,) = imports.rules()
    assert await retention.apply(desk.database, rule) == 0
    clock.advance(imports.ABANDONED + 1)
    assert await retention.apply(desk.database, rule) == 1
    with pytest.raises(NotFound):
        await desk.view(id_)
    with pytest.raises(NotFound):
        await desk.database.unit(lambda tx: imports.complete(tx, id_, len(data)))


async def test_an_import_is_kept_for_a_while_and_its_shipments_longer(
    desk: Desk, clock: Any
) -> None:
    id_ = await desk.take(sheet(2) + b"hermes,1,x\r\n")
    await desk.work()
    waiting = await desk.take(sheet(2))
    (rule,) = imports.rules()
    clock.advance(imports.KEEP + 1)
    assert await desk.database.read(rule.count) == 1
    assert await retention.apply(desk.database, rule) == 1
    with pytest.raises(NotFound):
        await desk.view(id_)
    assert (await desk.view(waiting))["status"] == "pending"  # what is owed is never pruned
    assert len(await desk.numbers()) == 2


async def test_an_import_belongs_to_its_account(desk: Desk) -> None:
    id_ = await desk.take(sheet(1) + b"hermes,1,x\r\n")
    for look in (
        lambda tx: imports.get(tx, "other", id_),
        lambda tx: imports.errors(tx, "other", id_, None, 10),
        lambda tx: imports.cancel(tx, "other", id_),
    ):
        with pytest.raises(NotFound):
            await desk.database.unit(look)
    assert await desk.database.read(lambda tx: imports.page(tx, "other", None, 10)) == []
    await desk.work()
    assert (await desk.view(id_))["created"] == 1
    assert await desk.numbers("other") == []


async def test_everything_of_an_account_is_erased_with_its_imports(desk: Desk) -> None:
    await desk.take(sheet(3) + b"hermes,1,x\r\n")
    held = await desk.claim()
    assert held is not None
    await retention.erase(desk.database, "acme")
    assert not await desk.finish(held)
    assert await desk.numbers() == []
    assert await desk.database.read(lambda tx: tx.one(PARTS)) == (0,)


async def test_errors_without_end_are_counted_and_the_first_are_kept(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "MOST_ERRORS", 150)
    data = b"carrier,tracking_number\r\n" + b"hermes,1\r\n" * 320
    id_ = await desk.take(data)
    await desk.work()
    assert (await desk.view(id_))["failed"] == 320
    assert [error["row"] for error in await desk.errors(id_)] == list(range(2, 152))


async def test_an_import_that_is_given_up_keeps_its_reason(desk: Desk) -> None:
    id_ = await desk.take(sheet(1))
    held = await desk.claim()
    assert held is not None
    settlement = decide(desk.kind, held[0], Dead("no use"), desk.clock.now())
    await desk.database.unit(lambda tx: ledger.settle(tx, desk.kind, [settlement]))
    view = await desk.view(id_)
    assert (view["status"], view["last_error"]) == ("dead", "no use")
    assert view["ended_at"] is not None


async def test_a_shipment_that_was_stopped_may_be_imported_anew(desk: Desk) -> None:
    await desk.take(sheet(1))
    await desk.work()
    (first,) = await desk.database.read(
        lambda tx: tx.rows(sql("SELECT id FROM shipments WHERE account = 'acme'"))
    )
    await desk.database.unit(lambda tx: shipments.stop(tx, "acme", first[0]))
    id_ = await desk.take(sheet(1))
    await desk.work()
    assert (await desk.view(id_))["created"] == 1


def test_a_refused_head_names_the_row() -> None:
    found = columns.head(b"nothing,known\r\n", final=True, carrier=None)
    assert isinstance(found, list)
    assert isinstance(found[0], Fault)
    assert (found[0].number, found[0].code) == (1, "missing_header")

"""A prediction chunk by chunk, on both databases: what the ledger holds, and what is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from penstock.errors import NotFound
from penstock.predictions import jobs, outcomes, views
from penstock.storage import Database, sql
from penstock.storage.doomed import sweep
from penstock.work import ledger
from penstock.work.isolate import run_one
from support.predicting import House
from support.scoring import starter_csv, wide_csv

pytestmark = pytest.mark.anyio

ROWS = 11_000  # three chunks

CHUNKS = sql("""
SELECT number, start_byte, end_byte, first_row, rows_scored, rows_set_aside, sha256
FROM prediction_chunks WHERE prediction_id = :id ORDER BY number
""")
ROW = sql("SELECT attempts, lapses, generation, last_error FROM predictions WHERE id = :id")
DOOMED = sql("SELECT prefix FROM doomed_objects ORDER BY prefix")


@pytest.fixture(scope="module")
def content() -> bytes:
    return wide_csv(ROWS)


@pytest.fixture
async def house(database: Database, clock: object, tmp_path: Path) -> AsyncIterator[House]:
    made = House(database, clock, tmp_path)  # type: ignore[arg-type]
    yield made
    await made.made.close()


async def test_each_chunk_is_a_step_and_the_last_one_tells(house: House, content: bytes) -> None:
    upload = await house.upload(content)
    id_, new = await house.predict(upload)
    assert new
    assert (await house.prediction(id_)).status == "QUEUED"

    seen, etas = [], []
    start = len(content[: content.index(b"\n") + 1])
    while await house.step(house.score):
        house.clock.advance(3)  # type: ignore[attr-defined]
        found = await house.prediction(id_)
        seen.append((found.status, found.chunks, found.rows_scored))
        shown = views.prediction(found, house.clock.now())
        assert (shown["bytes_done"], shown["bytes_total"]) == (found.next_byte, len(content))
        etas.append(shown["eta_seconds"])
        pace = (found.next_byte - start) / (3.0 * len(seen))  # bytes a second
        expected = None if found.status == "COMPLETED" else (len(content) - found.next_byte) / pace
        assert etas[-1] == pytest.approx(expected, abs=0.1)
    assert etas[0] > etas[1] > etas[2] == 0
    assert [each[:2] for each in seen] == [
        ("RUNNING", 1),
        ("RUNNING", 2),
        ("RUNNING", 3),
        ("COMPLETED", 3),
    ]
    assert seen[-1][2] == ROWS
    chunks = await house.database.read(lambda tx: tx.rows(CHUNKS, id=id_))
    ends = [end for _, _, end, *_ in chunks]
    assert [start for _, start, *_ in chunks[1:]] == ends[:-1]
    assert ends[-1] == len(content)
    assert [first for *_, first, _, _, _ in chunks] == [
        2,
        2 + chunks[0][4],
        2 + chunks[0][4] + chunks[1][4],
    ]
    ((_, event, payload, key),) = house.told
    assert (event, payload["rows_scored"]) == ("prediction.completed", ROWS)
    assert key == f"prediction.completed:{id_}"
    found = await house.prediction(id_)
    assert found.result is not None
    assert found.result["notes"][0]["code"] == "demo_model"
    # What it was put together from is deleted; what people fetch stays.
    assert [key for key in house.stored() if f"{id_}/parts/" in key]
    await sweep(house.database, house.objects)
    assert [key.rpartition("/")[2] for key in house.stored() if id_ in key] == [
        "errors.csv",
        "report.html",
        "result.csv",
        "result.parquet",
    ]
    assert await house.database.read(lambda tx: tx.rows(DOOMED)) == []


async def test_a_step_that_was_lost_is_done_again_to_the_same_bytes(
    house: House, content: bytes
) -> None:
    """The chunk of a worker that died before its settlement: once in the ledger, same bytes."""
    upload = await house.upload(content)
    first, _ = await house.predict(upload)
    await house.steps(house.score)
    second, _ = await house.predict(upload, force=True)
    assert await house.step(house.score)
    lost = await house.claim(house.score)
    assert lost is not None
    work = (await house.database.read(lambda tx: house.score.load(tx, [lost])))[second]
    assert (
        await house.made.deps.scoring.run(  # scored and stored, and then it died
            "score:chunk",
            _spec(house, work),
            work.folder,
            work.at,
            within=60.0,
        )
    ).number == 1
    lapsed = await house.database.unit(lambda tx: ledger.sweep(tx, house.score, everything=True))
    assert [row.id for row in lapsed] == [second]
    assert not await run_one(house.database, house.score, lost, house.clock)  # it is fenced off
    (row,) = await house.database.read(lambda tx: tx.dicts(ROW, id=second))
    assert row["lapses"] == 1

    assert await house.step(house.score)
    (row,) = await house.database.read(lambda tx: tx.dicts(ROW, id=second))
    assert (row["lapses"], row["attempts"]) == (0, 0)  # a committed chunk is progress
    await house.steps(house.score)
    one, other = [
        [tuple(chunk) for chunk in await house.database.read(lambda tx, i=i: tx.rows(CHUNKS, id=i))]
        for i in (first, second)
    ]
    assert one == other
    results = [(await house.prediction(i)).result for i in (first, second)]
    assert results[0] is not None
    assert results[1] is not None
    assert results[0]["files"] == results[1]["files"]
    assert len(house.events("prediction.completed")) == 2


def _spec(house: House, work: object) -> object:
    from penstock.predictions.run import _spec as spec

    return spec(house.made.deps, work)  # type: ignore[arg-type]


async def test_a_cancellation_takes_effect_between_two_chunks(house: House, content: bytes) -> None:
    id_, _ = await house.predict(await house.upload(content))
    assert await house.step(house.score)
    under_way = await house.claim(house.score)
    assert under_way is not None
    await house.database.unit(lambda tx: jobs.cancel(tx, "acme", id_))
    await sweep(house.database, house.objects)

    assert await run_one(house.database, house.score, under_way, house.clock)

    found = await house.prediction(id_)
    assert (found.status, found.chunks) == ("CANCELLED", 1)
    assert not await house.step(house.score)
    await sweep(house.database, house.objects)
    assert not [key for key in house.stored() if id_ in key]
    assert house.told == []
    # The same may be asked for again.
    again, new = await house.predict(await house.upload(content))
    assert new
    assert again != id_


async def test_one_that_is_cancelled_while_its_files_are_put_together_has_none(
    house: House, content: bytes
) -> None:
    id_, _ = await house.predict(await house.upload(content))
    for _ in range(3):
        assert await house.step(house.score)
    last = await house.claim(house.score)
    assert last is not None
    await house.database.unit(lambda tx: jobs.cancel(tx, "acme", id_))
    await sweep(house.database, house.objects)

    assert await run_one(house.database, house.score, last, house.clock)

    found = await house.prediction(id_)
    assert (found.status, found.result) == ("CANCELLED", None)
    await sweep(house.database, house.objects)
    assert not [key for key in house.stored() if id_ in key]
    assert house.told == []


async def test_rows_are_counted_across_chunks(
    database: Database, clock: object, tmp_path: Path, content: bytes
) -> None:
    """One row more than the most, in the third chunk of a file, and it is refused whole."""
    house = House(database, clock, tmp_path, max_rows=ROWS - 1)  # type: ignore[arg-type]
    try:
        id_, _ = await house.predict(await house.upload(content))
        assert await house.steps(house.score) == 3
        found = await house.prediction(id_)
        assert (found.status, found.error_code) == ("FAILED", "too_many_rows")
        await sweep(house.database, house.objects)
        assert not [key for key in house.stored() if id_ in key]
    finally:
        await house.made.close()


async def test_what_is_deleted_under_way_leaves_nothing_behind(
    house: House, content: bytes, clock: object
) -> None:
    id_, _ = await house.predict(await house.upload(content))
    assert await house.step(house.score)
    under_way = await house.claim(house.score)
    assert under_way is not None
    await house.database.unit(lambda tx: jobs.delete(tx, "acme", id_))
    await sweep(house.database, house.objects)
    assert not [key for key in house.stored() if id_ in key]
    # A process that does not know it yet writes once more.
    with house.objects.writing(f"accounts/acme/predictions/{id_}/parts/000001") as out:
        out.write(b"late")
    clock.advance(700)  # type: ignore[attr-defined]
    await sweep(house.database, house.objects)
    assert not [key for key in house.stored() if id_ in key]
    assert await house.database.read(lambda tx: tx.rows(DOOMED)) == []
    with pytest.raises(NotFound):
        await house.prediction(id_)


async def test_a_process_that_dies_counts_as_a_try_and_five_are_all(
    house: House, clock: object
) -> None:
    """Between tries it is QUEUED; then FAILED, which is told once."""
    id_, _ = await house.predict(await house.upload(starter_csv(100)))

    async def dies(*_: object, within: float) -> None:
        from penstock.predictions.pool import ProcessDied

        raise ProcessDied("the process that did the work ended with signal 9")

    house.made.deps.scoring.run = dies  # type: ignore[method-assign]
    statuses = []
    for _ in range(5):
        assert await house.step(house.score)
        assert not await house.step(house.score)  # not before its time
        statuses.append((await house.prediction(id_)).status)
        clock.advance(4000)  # type: ignore[attr-defined]
    assert statuses == ["QUEUED"] * 4 + ["FAILED"]
    found = await house.prediction(id_)
    assert found.error_code == "internal_error"
    assert "signal 9" in (found.error or "")
    (payload,) = house.events("prediction.failed")
    assert payload["error"]["code"] == "internal_error"
    assert not await house.step(house.score)


async def test_a_refusal_is_final_at_once(house: House) -> None:
    bad = starter_csv(100) + b"C1,twelve,Monthly,1,1,1,1,Card,yes\n"
    id_, _ = await house.predict(await house.upload(bad), reject=True)
    assert await house.steps(house.score) == 1
    found = await house.prediction(id_)
    assert (found.status, found.error_code) == ("FAILED", "bad_row")
    assert len(house.events("prediction.failed")) == 1
    assert not [key for key in house.stored() if f"{id_}/result" in key]


async def test_a_part_that_was_changed_is_refused(house: House, content: bytes) -> None:
    id_, _ = await house.predict(await house.upload(content))
    for _ in range(3):
        assert await house.step(house.score)
    (part,) = [key for key in house.stored() if key.endswith(f"{id_}/parts/000001")]
    path = house.objects.root / part
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    await house.steps(house.score)
    found = await house.prediction(id_)
    assert (found.status, found.error_code) == ("FAILED", "result_damaged")


async def test_files_whose_ids_repeat_or_whose_rows_are_all_bad(house: House) -> None:
    head, _, rest = starter_csv(300).partition(b"\n")
    row = rest.partition(b"\n")[0]
    id_, _ = await house.predict(await house.upload(head + b"\n" + rest + row + b"\n"))
    await house.steps(house.score)
    found = await house.prediction(id_)
    assert found.result is not None
    notes = {note["code"]: note["message"] for note in found.result["notes"]}
    assert "rows 2 and 302" in notes["duplicate_id"]
    # What became of a customer who is there twice cannot be told.
    name, other = (line.partition(b",")[0].decode() for line in rest.splitlines()[:2])
    scores, twice = await house.made.deps.aside.run(
        "outcomes:scores",
        house.objects,
        outcomes.result_key(found),
        [name, other, "nobody"],
        within=60.0,
    )
    assert (list(scores), twice) == ([other], [name])
    only_bad, _ = await house.predict(await house.upload(head + b"\n,,\n\n,,\n"))
    await house.steps(house.score)
    found = await house.prediction(only_bad)
    assert (found.status, found.rows_scored, found.rows_set_aside) == ("COMPLETED", 0, 2)
    assert found.result is not None
    assert found.result["mean_probability"] is None

"""The end of a prediction: its chunks put together into the files that people get."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from penstock.errors import NotFound
from penstock.predictions import drift, notes
from penstock.predictions.beside.score import counts_of, job_of, scored_of
from penstock.predictions.check import one
from penstock.predictions.chunks import changed
from penstock.predictions.duplicates import Ids, hashes
from penstock.predictions.files import refuse_empty
from penstock.predictions.mapping import Match
from penstock.predictions.output import ERROR_COLUMNS, ParquetWriter, error_lines
from penstock.predictions.pipeline import Counts, Job
from penstock.predictions.refusal import Unusable
from penstock.predictions.report import Facts, named_as_reason, render
from penstock.predictions.sniff import Note
from penstock.predictions.specs import ChunkAt, FinishSpec, JobSpec, part_key
from penstock.storage.objects import Objects

_BLOCK = 1 << 20


def finish(spec: FinishSpec) -> dict[str, Any]:
    """Write the result, the errors and the report; answers what the prediction's row shows.

    The same chunks give the same bytes. Raises `Unusable`.
    """
    _refuse_changed(spec.job)
    job = job_of(spec.job)
    objects = spec.job.objects
    counts = Counts.none(job)
    with ExitStack() as stack:

        def file(name: str) -> IO[bytes]:
            return stack.enter_context(objects.writing(f"{spec.folder}/{name}"))

        csv, errors, packed = file("result.csv"), file("errors.csv"), file("result.parquet")
        ids = stack.enter_context(Ids(Path(tempfile.gettempdir())))
        parquet = ParquetWriter(packed, job.id_name, job.scorer)
        try:
            csv.write(job.csv.head)
            errors.write(error_lines([ERROR_COLUMNS]))
            for lines, faulty, stream, facts in _parts(objects, spec.folder, spec.chunks):
                csv.write(lines)
                errors.write(faulty)
                scored, rows = scored_of(stream)
                parquet.add(scored)
                ids.add(hashes(one(scored.ids)), rows)
                counts += counts_of(facts)
            parquet.close()
        except BaseException:
            parquet.abandon()
            raise
        refuse_empty(job, counts)
        told = (
            *(Note(**note) for note in spec.notes),
            *notes.about_columns(job, [Match(**match) for match in spec.matches]),
            *notes.about_rows(job, counts, ids.duplicates()),
        )
        report = file("report.html")
        report.write(render(Facts(spec.filename, job, counts, told)).encode())
        files = {
            name: _told(written)
            for name, written in (
                ("result.csv", csv),
                ("result.parquet", packed),
                ("errors.csv", errors),
                ("report.html", report),
            )
        }
    return {"files": files, **_summary(job, counts, told)}


def _refuse_changed(spec: JobSpec) -> None:
    """Refuse if the file is not byte for byte what was confirmed."""
    digest = hashlib.sha256()
    try:
        with spec.objects.open(spec.file.key) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except NotFound:
        raise Unusable("file_gone", "The uploaded file is not there any more.") from None
    if digest.hexdigest() != spec.file.sha256:
        raise changed()


def _parts(
    objects: Objects, folder: str, chunks: tuple[ChunkAt, ...]
) -> Iterator[tuple[bytes, bytes, bytes, bytes]]:
    for chunk in chunks:
        with objects.open(part_key(folder, chunk.number)) as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != chunk.sha256:
            raise Unusable(
                "result_damaged",
                f"Part {chunk.number} of the result was changed after it was written. Score the "
                "file anew.",
            )
        ends = [sum(chunk.sizes[: i + 1]) for i in range(4)]
        yield (
            data[: ends[0]],
            data[ends[0] : ends[1]],
            data[ends[1] : ends[2]],
            data[ends[2] : ends[3]],
        )


def _told(file: IO[bytes]) -> dict[str, Any]:
    file.flush()
    file.seek(0)
    digest, size = hashlib.sha256(), 0
    while block := file.read(_BLOCK):
        digest.update(block)
        size += len(block)
    return {"size": size, "sha256": digest.hexdigest()}


def _summary(job: Job, counts: Counts, told: tuple[Note, ...]) -> dict[str, Any]:
    low, medium, high = (int(n) for n in counts.levels)
    shifts = []
    if counts.rows:
        found = [drift.score(job.model, counts.scores), *drift.features(job.model, counts.slots)]
        shifts = [
            {"column": each.name, "psi": round(each.psi, 4), "level": each.level}
            for each in found
            if each.level != "stable"
        ]
    return {
        "risk": {"high": high, "medium": medium, "low": low},
        "risk_from": {"medium": job.model.risk.medium, "high": job.model.risk.high},
        "spread": counts.spread.tolist(),
        "reasons": _reasons(job, counts),
        "mean_probability": round(counts.probability / counts.rows, 6) if counts.rows else None,
        "blank_rows": counts.blank,
        "errors": [
            {"column": column or None, "code": code, "count": n}
            for (column, code), n in sorted(counts.faults.items())
        ],
        "notes": [{"code": note.code, "message": note.message} for note in told],
        "drift": shifts,
    }


def _reasons(job: Job, counts: Counts) -> list[dict[str, Any]]:
    """How often each column is a reason, the most frequent first."""
    raising, lowering = named_as_reason(job, counts)
    found = [
        {"column": feature.column.name, "raises": int(up), "lowers": int(down)}
        for feature, up, down in zip(job.model.features, raising, lowering, strict=True)
        if up or down
    ]
    return sorted(found, key=lambda each: (-each["raises"] - each["lowers"], each["column"]))

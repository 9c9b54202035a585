"""One chunk of a prediction: read, scored, stored as an object of four sections.

The sections are the chunk's lines of the result CSV and of the errors CSV, its scored rows as an
Arrow stream (for Parquet and for ids that occur twice), and what was counted, as JSON. The same
chunk gives the same bytes in any process, so one that is scored twice replaces itself.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.errors import NotFound
from penstock.predictions.beside.models import loaded
from penstock.predictions.check import Mapped
from penstock.predictions.chunks import Layout, changed, chunks
from penstock.predictions.output import Scored
from penstock.predictions.pipeline import Counts, Job, Outcome, score_chunk
from penstock.predictions.refusal import Unusable
from penstock.predictions.specs import ChunkDone, JobSpec, ModelSpec, Place, part_key
from penstock.storage.objects import Objects

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("row", pa.int64()),
        ("probability", pa.float64()),
        ("level", pa.int8()),
        ("reason_1", pa.uint16()),
        ("reason_2", pa.uint16()),
        ("reason_3", pa.uint16()),
    ]
)


def chunk(spec: JobSpec, folder: str, at: Place) -> ChunkDone | None:
    """Score the chunk that begins there; None = nothing is left. Raises `Unusable`."""
    began = time.perf_counter()
    job = job_of(spec)
    try:
        file = spec.objects.open(spec.file.key)
    except NotFound:
        raise Unusable("file_gone", "The uploaded file is not there any more.") from None
    with file:
        if spec.objects.size(spec.file.key) != spec.file.size:
            raise changed()
        from_here = replace(job.layout, start=at.byte, row=at.row, line=at.line)
        found = next(chunks(file, from_here), None)
        if found is None:
            return None
        where, text = found
        following = next_place(at, where.end, where.records, text)
        outcome = score_chunk(job, replace(where, number=at.number), text)
    if spec.reject and outcome.first_error:
        error = outcome.first_error
        raise Unusable("bad_row", f"{error[:1].upper()}{error[1:]}. Nothing was scored.")
    sections = pack(outcome)
    digest = hashlib.sha256()
    with spec.objects.writing(part_key(folder, at.number)) as out:
        for section in sections:
            out.write(section)
            digest.update(section)
    return ChunkDone(
        at.number,
        at.byte,
        following,
        outcome.counts.rows,
        outcome.counts.bad,
        outcome.first_error,
        tuple(len(section) for section in sections),
        digest.hexdigest(),
        time.perf_counter() - began,
    )


def next_place(at: Place, end: int, records: int, text: bytes) -> Place:
    """Where the chunk after this one begins."""
    from penstock.predictions.records import line_ends

    return Place(at.number + 1, end, at.row + records, at.line + line_ends(text))


def job_of(spec: JobSpec) -> Job:
    """The job, ready to score; the last few are kept."""
    text = json.dumps([spec.layout, spec.id, spec.features, spec.as_of])
    return _job(spec.objects, spec.model, text)


@lru_cache(maxsize=8)
def _job(objects: Objects, model: ModelSpec, text: str) -> Job:
    layout, id_, features, as_of = json.loads(text)
    return Job(
        loaded(objects, model),
        layout_of(layout),
        Mapped(id_, tuple(features)),
        None if as_of is None else datetime.date.fromisoformat(as_of),
    )


def layout_of(document: Mapping[str, Any]) -> Layout:
    """A layout as it was stored."""
    return Layout(**{**document, "names": tuple(document["names"])})


# ------------------------------------------------------------------ the object of a chunk


def pack(outcome: Outcome) -> tuple[bytes, bytes, bytes, bytes]:
    """The sections of its object."""
    scored = outcome.scored
    batch = pa.record_batch(
        [
            scored.ids,
            pa.array(outcome.numbers),
            pa.array(scored.probabilities),
            pa.array(scored.levels),
            *(pa.array(row) for row in scored.reasons),
        ],
        schema=_SCHEMA,
    )
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, _SCHEMA) as writer:
        writer.write_batch(batch)
    counted = {**asdict(outcome.counts)}
    for name, value in counted.items():
        if isinstance(value, np.ndarray):
            counted[name] = value.tolist()
    counted["faults"] = [[*fault, n] for fault, n in sorted(outcome.counts.faults.items())]
    facts = json.dumps(counted, separators=(",", ":")).encode()
    return outcome.csv, outcome.errors, stream.getvalue(), facts


def counts_of(facts: bytes) -> Counts:
    """What was counted, as it was stored."""
    document = json.loads(facts)
    document["faults"] = {(column, code): n for column, code, n in document["faults"]}
    for name in ("slots", "reasons", "scores", "spread", "levels", "flags"):
        document[name] = np.array(document[name], dtype=np.int64)
    return Counts(**document)


def scored_of(stream: bytes) -> tuple[Scored, Any]:
    """The scored rows and their numbers, as they were stored."""
    table = pa.ipc.open_stream(stream).read_all().combine_chunks()
    columns = [
        column.chunk(0) if column.num_chunks else pa.array([], column.type)
        for column in table.columns
    ]
    ids, rows, probabilities, levels, *reasons = columns
    scored = Scored(
        ids,
        probabilities.to_numpy(),
        levels.to_numpy(),
        np.array([each.to_numpy() for each in reasons], dtype=np.uint16),
    )
    return scored, rows.to_numpy()

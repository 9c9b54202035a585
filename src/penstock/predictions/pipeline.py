"""From a file to scores, chunk by chunk.

`score_chunk` is a pure function of a chunk's text and the job: the same bytes, model and answers
give the same bytes, in any process and any order. So a chunk that was done need not be done
again, and one that was lost can be.
"""

from __future__ import annotations

import datetime
import signal
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from penstock.errors import PenstockError
from penstock.predictions import chunks as chunking
from penstock.predictions import duplicates, records
from penstock.predictions.check import Mapped, RowError, check, one, types
from penstock.predictions.chunks import CHUNK, Chunk, Layout, chunks
from penstock.predictions.contract import Column
from penstock.predictions.encoding import raw_length
from penstock.predictions.model import Model
from penstock.predictions.output import DECIMALS, CsvWriter, Scored, error_lines, shown
from penstock.predictions.score import NO_REASON, Scorer, probability, risk_levels
from penstock.predictions.table import read_rows

# What is counted of each feature, beside its slots.
BINS = 20
FLAGS: Final = ("missing", "unseen", "not_finite", "out_of_range", "future")


@dataclass(frozen=True)
class Job:
    """All that a chunk's result depends on, beside the file's bytes.

    `as_of` is the day from which dates are counted, for a model that has dates.
    """

    model: Model
    layout: Layout
    mapped: Mapped
    as_of: datetime.date | None = None

    @cached_property
    def scorer(self) -> Scorer:
        """The model, ready to score."""
        return Scorer(self.model)

    @cached_property
    def csv(self) -> CsvWriter:
        """What writes its results."""
        return CsvWriter(self.id_name, self.scorer)

    @property
    def id_name(self) -> str:
        """What the file calls its id column."""
        return self.layout.names[self.mapped.id]

    @property
    def contract(self) -> list[Column]:
        """The contract of each feature."""
        return [feature.column for feature in self.model.features]

    def __getstate__(self) -> dict[str, Any]:
        # What is made of a job is made again in another process.
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


@dataclass(frozen=True)
class Counts:
    """What is counted of rows: all sums, so that chunks add up in any order.

    `slots` and `reasons` are by slot number (rows in it; rows that name it as a reason), `scores`
    by the bins of the model's histogram, `spread` by twentieths of the probability, `levels` low,
    medium, high, `flags` by feature and `FLAGS`, `faults` by column and error code.
    """

    slots: NDArray[np.int64]
    reasons: NDArray[np.int64]
    scores: NDArray[np.int64]
    spread: NDArray[np.int64]
    levels: NDArray[np.int64]
    flags: NDArray[np.int64]
    rows: int = 0
    bad: int = 0
    blank: int = 0
    neutralized: int = 0
    probability: float = 0.0
    faults: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @classmethod
    def none(cls, job: Job) -> Counts:
        """No rows yet."""
        slots, features = len(job.scorer.logits), len(job.model.features)
        return cls(
            np.zeros(slots, dtype=np.int64),
            np.zeros(slots, dtype=np.int64),
            np.zeros(len(job.model.scores.counts), dtype=np.int64),
            np.zeros(BINS, dtype=np.int64),
            np.zeros(3, dtype=np.int64),
            np.zeros((features, len(FLAGS)), dtype=np.int64),
        )

    def __add__(self, other: Counts) -> Counts:
        faults = dict(self.faults)
        for fault, count in other.faults.items():
            faults[fault] = faults.get(fault, 0) + count
        return Counts(
            self.slots + other.slots,
            self.reasons + other.reasons,
            self.scores + other.scores,
            self.spread + other.spread,
            self.levels + other.levels,
            self.flags + other.flags,
            self.rows + other.rows,
            self.bad + other.bad,
            self.blank + other.blank,
            self.neutralized + other.neutralized,
            self.probability + other.probability,
            faults,
        )


@dataclass(frozen=True)
class Outcome:
    """What became of a chunk: its part of the result and of the errors file, and its counts.

    `ids` are hashes of the ids of the rows that were scored, and `numbers` their row numbers.
    """

    chunk: Chunk
    csv: bytes
    errors: bytes
    first_error: str
    counts: Counts
    ids: NDArray[np.uint64]
    numbers: NDArray[np.int64]
    scored: Scored


def score_chunk(job: Job, chunk: Chunk, text: bytes) -> Outcome:
    """Score one chunk."""
    contract = job.contract
    rows = read_rows(text, job.layout, chunk.records, types(job.mapped, contract))
    good = check(rows, job.mapped, contract, job.layout.names, job.as_of)
    scorer = job.scorer
    slots = scorer.slots(good.columns)
    # Rounded as it is written, so that the level is the written number's.
    scores = np.round(probability(scorer.logit(slots)), DECIMALS)
    levels = risk_levels(job.model, scores)
    reasons = scorer.strongest(slots)
    scored = Scored(good.ids, scores, levels, reasons)
    lines, neutralized = job.csv.rows(scored)
    faults = Counter((error.column, error.code) for error in good.errors)
    errors, first_error = _errors(job, chunk, text, good.errors)
    counts = Counts(
        scorer.count(slots),
        np.bincount(reasons[reasons != NO_REASON], minlength=len(scorer.logits)),
        _by_bin(scores, job.model.scores.edges),
        np.bincount(np.minimum((scores * BINS).astype(np.int64), BINS - 1), minlength=BINS),
        np.bincount(levels, minlength=3),
        np.array([[getattr(column, flag) for flag in FLAGS] for column in good.columns]),
        len(good.record),
        good.bad,
        rows.blank,
        neutralized,
        float(scores.sum()),
        faults,
    )
    return Outcome(
        chunk,
        lines,
        errors,
        first_error,
        counts,
        duplicates.hashes(one(good.ids)),
        good.record + chunk.row,
        scored,
    )


def _by_bin(scores: NDArray[np.float64], edges: Sequence[float]) -> NDArray[np.int64]:
    """How many scores are in each bin; a score on an edge is in the lower one."""
    # A comparison of the whole column for each of a few edges is faster than a search per row.
    above = np.array([len(scores), *((scores > edge).sum() for edge in edges), 0], dtype=np.int64)
    bins: NDArray[np.int64] = above[:-1] - above[1:]
    return bins


def _errors(job: Job, chunk: Chunk, text: bytes, errors: Any) -> tuple[bytes, str]:
    """Lines of the errors file, and the first error in words."""
    if not errors:
        return b"", ""
    ends = records.record_ends(text, job.layout.delimiter, final=True)
    starts = np.concatenate(([0], ends[:-1]))
    lines = []
    at, line, byte = 0, chunk.line, chunk.start
    error: RowError
    for error in errors:
        begins = int(starts[error.record])
        # Errors are in the order of their rows: each stretch of text is looked at once.
        between = text[at:begins]
        line += records.line_ends(between)
        byte += raw_length(between, job.layout.encoding)
        at = begins
        lines.append(
            (
                chunk.row + error.record,
                line,
                byte,
                shown(error.id),
                error.column,
                error.code,
                shown(error.value),
                error.message,
            )
        )
    row, _, _, _, column, _, value, message = lines[0]
    first = f"row {row:,}" + (f", column {column!r}, value {value!r}" if column else "")
    return error_lines(lines), f"{first}: {message}"


def outcomes(
    file: BinaryIO, job: Job, *, size: int = CHUNK, processes: int = 1
) -> Iterator[Outcome]:
    """Score the file's chunks, in order. With several processes, each takes a chunk at a time."""
    if processes <= 1:
        for chunk, text in chunks(file, job.layout, size):
            yield score_chunk(job, chunk, text)
        return
    path = Path(file.name)
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_begin, initargs=(job, path)
    ) as pool:
        waiting: deque[Future[Outcome]] = deque()
        try:
            for chunk, _ in chunks(file, job.layout, size):
                waiting.append(pool.submit(_score_again, chunk))
                # No more under way than keeps all busy, or results would pile up in memory.
                if len(waiting) > 2 * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise PenstockError(
                "A scoring process was ended from outside, perhaps for lack of memory. "
                "Use fewer processes."
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_here: dict[str, Any] = {}


def _begin(job: Job, path: Path) -> None:
    # Ctrl-C is for the process that reads the results: it ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _here["job"] = job
    _here["file"] = path.open("rb")


def _score_again(chunk: Chunk) -> Outcome:
    job: Job = _here["job"]
    return score_chunk(job, chunk, chunking.read(_here["file"], job.layout, chunk))

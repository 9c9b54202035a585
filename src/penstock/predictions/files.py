"""A file on disk scored into files on disk, without a server."""

from __future__ import annotations

import datetime
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO

from penstock.predictions import notes as noting
from penstock.predictions.duplicates import Ids
from penstock.predictions.mapping import settle
from penstock.predictions.model import Model
from penstock.predictions.output import ERROR_COLUMNS, ParquetWriter, error_lines
from penstock.predictions.pipeline import Counts, Job, Outcome, outcomes
from penstock.predictions.refusal import Unusable, quoted
from penstock.predictions.report import Facts, render
from penstock.predictions.sniff import Given, Note, sniff
from penstock.predictions.unpack import opened

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Targets:
    """What to write. A result whose name ends in .parquet is Parquet, any other CSV."""

    out: Path
    errors: Path | None = None
    report: Path | None = None


@dataclass(frozen=True, slots=True)
class Answers:
    """What the owner of the file says.

    `mapping` is from the model's names to the file's; features in `allow_missing` may be absent.
    `as_of` is the day from which dates are counted, today if it is not said. With `reject` one bad
    row stops it all; so do more rows than `max_rows`.
    """

    given: Given = field(default_factory=Given)
    id_column: str | None = None
    mapping: Mapping[str, str] = field(default_factory=dict)
    allow_missing: tuple[str, ...] = ()
    as_of: datetime.date | None = None
    reject: bool = False
    max_rows: int | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of a file."""

    job: Job
    counts: Counts
    notes: tuple[Note, ...]
    first_error: str


def predict(
    source: Path,
    model: Model,
    targets: Targets,
    answers: Answers,
    *,
    today: datetime.date,
    processes: int = 1,
    progress: Progress = lambda done, size: None,
) -> Summary:
    """Score a file. `progress` gets the bytes done, and all there are.

    Targets appear complete or not at all, the result last. Raises `Unusable`, its kind
    `Question`, and OSError.
    """
    _refuse_clashes(source, targets)
    with ExitStack() as stack:
        file = stack.enter_context(opened(source, targets.out.parent))
        before = _stamp(file)
        known = [model.id_column, *(feature.column.name for feature in model.features)]
        sniffed = sniff(file, answers.given, known=known)
        mapped, matches = settle(
            model,
            sniffed.layout.names,
            id_column=answers.id_column,
            given=answers.mapping,
            allow_missing=answers.allow_missing,
        )
        dated = any(feature.column.kind == "date" for feature in model.features)
        job = Job(model, sniffed.layout, mapped, (answers.as_of or today) if dated else None)
        results = outcomes(file, job, processes=processes)
        ids = stack.enter_context(Ids(targets.out.parent))
        # The result is opened first and so gets its name last, when all else is in place.
        out = stack.enter_context(_emerging(targets.out))
        errors = stack.enter_context(_emerging(targets.errors)) if targets.errors else None
        counts, first_error = _write(
            job, results, out, errors, ids, answers, lambda done: progress(done, before[0])
        )
        if _stamp(file) != before:
            raise Unusable("file_changed", "The file changed while it was read. Run it once more.")
        refuse_empty(job, counts)
        notes = (
            *sniffed.notes,
            *noting.about_columns(job, matches),
            *noting.about_rows(job, counts, ids.duplicates()),
        )
        if targets.report is not None:
            report = stack.enter_context(_emerging(targets.report))
            report.write(render(Facts(source.name, job, counts, notes)).encode())
        return Summary(job, counts, notes, first_error)


def _write(
    job: Job,
    results: Iterator[Outcome],
    out: IO[bytes],
    errors: IO[bytes] | None,
    ids: Ids,
    answers: Answers,
    done: Callable[[int], None],
) -> tuple[Counts, str]:
    counts, first_error = Counts.none(job), ""
    parquet = ParquetWriter(out, job.id_name, job.scorer) if _is_parquet(out.name) else None
    if parquet is None:
        out.write(job.csv.head)
    if errors is not None:
        errors.write(error_lines([ERROR_COLUMNS]))
    try:
        for outcome in results:
            first_error = first_error or outcome.first_error
            if answers.reject and first_error:
                raise Unusable("bad_row", f"{_capital(first_error)}. Nothing was written.")
            if parquet is None:
                out.write(outcome.csv)
            else:
                parquet.add(outcome.scored)
            if errors is not None:
                errors.write(outcome.errors)
            counts += outcome.counts
            if answers.max_rows is not None and counts.rows + counts.bad > answers.max_rows:
                raise Unusable(
                    "too_many_rows",
                    f"The file has more than {answers.max_rows:,} rows. Divide it, or allow more.",
                )
            ids.add(outcome.ids, outcome.numbers)
            done(outcome.chunk.end)
        if parquet is not None:
            parquet.close()
    except BaseException:
        if parquet is not None:
            parquet.abandon()
        raise
    return counts, first_error


def refuse_empty(job: Job, counts: Counts) -> None:
    """Refuse a file without rows, and one that lacks what most rows must have."""
    if not counts.rows and not counts.bad:
        raise Unusable("no_rows", "The file has column names and no rows below them.")
    for (column, code), count in counts.faults.items():
        if code == "missing_value" and count * 2 > counts.rows + counts.bad:
            raise Unusable(
                "empty_column",
                f"{quoted(column)} is empty in {count:,} of {counts.rows + counts.bad:,} rows, and "
                "the model was trained to require it. Fill it, or train a model without.",
            )


def _refuse_clashes(source: Path, targets: Targets) -> None:
    """Refuse to write over the input, or two outputs into one file."""
    seen = {source.resolve(): "the input"}
    for path in (targets.out, targets.errors, targets.report):
        if path is None:
            continue
        real = path.resolve()
        if real in seen:
            raise Unusable("same_file", f"{path} is {seen[real]} already. Name another file.")
        if not path.parent.is_dir():
            raise Unusable("no_folder", f"{path.parent} is not a folder. Create it first.")
        if path.is_dir():
            raise Unusable("not_a_file", f"{path} is a folder. Name a file.")
        seen[real] = "another output"


@contextmanager
def _emerging(path: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name when it is complete, and leaves nothing behind if it never is."""
    # The ending stays, since it says what the file is.
    with tempfile.NamedTemporaryFile(
        prefix=f".{path.stem[:100]}.", suffix=f".part{path.suffix}", dir=path.parent, delete=False
    ) as file:
        part = Path(file.name)
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            _permit(part, path)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _permit(part: Path, path: Path) -> None:
    """Temporary files are the owner's alone; give this one the rights a new file would have."""
    if path.exists():
        shutil.copymode(path, part)
        return
    mask = os.umask(0)
    os.umask(mask)
    part.chmod(0o666 & ~mask)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(".parquet")


def _stamp(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns

"""What the owner of a file should know after it was scored, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from penstock.predictions import drift
from penstock.predictions.duplicates import Duplicates
from penstock.predictions.mapping import Match, label_position
from penstock.predictions.pipeline import FLAGS, Counts, Job
from penstock.predictions.refusal import quoted
from penstock.predictions.sniff import Note


def about_columns(job: Job, matches: Sequence[Match]) -> Iterator[Note]:
    """How columns were found."""
    if job.model.demo:
        yield Note("demo_model", "The model is a demonstration: its scores mean nothing.")
    for match, at in zip(matches, (job.mapped.id, *job.mapped.features), strict=True):
        if at is None:
            yield Note(
                "absent_column", f"{quoted(match.wanted)} is not in the file: missing in each row."
            )
        elif match.how == "spelling":
            yield Note("renamed", f"{quoted(match.name or '')} was read as {quoted(match.wanted)}.")
    if label_position(job.model, job.layout.names) is not None:
        yield Note(
            "label_present",
            f"The file holds {quoted(job.model.label.column)}, which the model predicts; it was "
            "not used.",
        )


def about_rows(job: Job, counts: Counts, again: Duplicates) -> Iterator[Note]:
    """What the rows were like."""
    rows = max(counts.rows, 1)
    for i, feature in enumerate(job.model.features):
        if job.mapped.features[i] is None:
            continue
        name = quoted(feature.column.name)
        flags = dict(zip(FLAGS, counts.flags[i].tolist(), strict=True))
        if counts.rows and flags["missing"] == counts.rows:
            yield Note("empty_column", f"{name} is empty in every row.")
        if flags["unseen"] > drift.WARN * rows:
            much = "Do not trust scores" if flags["unseen"] > drift.ALARM * rows else "Check"
            yield Note(
                "unseen_category",
                f"{name} has a value that the model does not know in {flags['unseen']:,} rows "
                f"({flags['unseen'] / rows:.0%}). {much}: is the column spelled as at training?",
            )
        if flags["not_finite"]:
            yield Note(
                "not_finite",
                f"{name} is infinite in {flags['not_finite']:,} rows: read as missing.",
            )
        if flags["out_of_range"] > drift.WARN * rows:
            yield Note(
                "out_of_training_range",
                f"{name} is outside of what training saw ({feature.column.low:g} to "
                f"{feature.column.high:g}) in {flags['out_of_range']:,} rows; they were scored as "
                "they are.",
            )
        if flags["future"]:
            yield Note(
                "future_date", f"{name} is after the as-of date in {flags['future']:,} rows."
            )
    if counts.rows:
        for each in (
            *drift.features(job.model, counts.slots),
            drift.score(job.model, counts.scores),
        ):
            if each.level == "large":
                yield Note(
                    "drift",
                    f"{quoted(each.name)} is far from the training rows (PSI {each.psi:.2f}).",
                )
    if again.rows:
        pairs = ", ".join(f"{first:,} and {second:,}" for first, second in again.examples)
        yield Note(
            "duplicate_id",
            f"{again.rows:,} rows have an id that an earlier row has too, such as rows {pairs}; "
            "all were scored.",
        )
    if counts.neutralized:
        yield Note(
            "formula_neutralized",
            f"{counts.neutralized:,} ids begin like a formula: they have an apostrophe before "
            "them in the CSV.",
        )

"""What became of a file, as one HTML page that stands alone: no script, no network.

Names and values of the file are escaped; so is the file's own name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from penstock.predictions import drift, paper
from penstock.predictions.drift import Drift
from penstock.predictions.pipeline import BINS, FLAGS, Counts, Job
from penstock.predictions.score import RISK_LEVELS
from penstock.predictions.sniff import Note

_WIDTH = 640.0
_SHOWN = 25  # features in a plot


@dataclass(frozen=True, slots=True)
class Facts:
    """What a report tells of: the file's name as it was given, the job and what was counted."""

    file: str
    job: Job
    counts: Counts
    notes: Sequence[Note]


def render(facts: Facts) -> str:
    """The page."""
    job, counts = facts.job, facts.counts
    title = f"Churn risk: {facts.file}"
    drifts = drift.features(job.model, counts.slots)
    parts = [
        f"<h1>{escape(title)}</h1>",
        _summary(facts),
        _section("Take note", _list(note.message for note in facts.notes)) if facts.notes else "",
        _section("Rows set aside", _faults(counts)) if counts.bad else "",
    ]
    if counts.rows:
        parts += [
            _section("How the risk is spread", _levels(counts), _spread(job, counts)),
            _section(
                "Why",
                "<p>How often each column is among a customer's three strongest reasons: to the "
                "right where it raises the risk, to the left where it lowers it.</p>",
                _reasons(job, counts),
            ),
            _section(
                "How far these customers are from those of the training",
                "<p>The population stability index (PSI) of each column and of the score. Below "
                f"{drift.SOME:g} is stable, from {drift.LARGE:g} on the model sees customers "
                "unlike those it has learned from.</p>",
                _drift_plot([drift.score(job.model, counts.scores), *drifts]),
                _columns(job, counts, drifts),
            ),
        ]
    parts.append(_section("Where it comes from", _origin(facts)))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{paper.POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{paper.STYLE}</style></head><body><main>
{"".join(parts)}
</main></body></html>
"""


def _summary(facts: Facts) -> str:
    job, counts = facts.job, facts.counts
    demo = (
        '<p class="demo">The model is a demonstration: it was trained on invented customers. '
        "Do not act on its scores.</p>"
        if job.model.demo
        else ""
    )
    text = f"{counts.rows:,} customers were scored by the model {escape(job.model.name)}"
    if counts.rows:
        text += f", with a mean probability of {counts.probability / counts.rows:.1%}"
    if counts.bad:
        text += f"; {counts.bad:,} rows could not be read and were set aside"
    blank = f" {counts.blank:,} blank lines were skipped." if counts.blank else ""
    return f"{demo}<p>{text}.{blank}</p>"


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def _list(texts: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; texts are escaped, whole numbers stand at the right."""
    lines = [list(row) for row in rows]
    whole = [isinstance(value, int) for value in lines[0]] if lines else [False] * len(head)

    def cell(value: object) -> str:
        if isinstance(value, int):
            return f'<td class="n">{value:,}</td>'
        return f"<td>{escape(str(value))}</td>"

    names = "".join(
        '<th scope="col"' + (' class="n">' if number else ">") + escape(name) + "</th>"
        for name, number in zip(head, whole, strict=True)
    )
    body = "".join(f"<tr>{''.join(cell(value) for value in row)}</tr>" for row in lines)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"


def _faults(counts: Counts) -> str:
    rows = sorted(counts.faults.items(), key=lambda item: (-item[1], item[0]))
    return _table(
        ("Column", "Code", "Cells or rows"),
        ((column or "(the whole row)", code, count) for (column, code), count in rows),
    )


def _levels(counts: Counts) -> str:
    return _table(
        ("Risk", "Customers", "Share"),
        (
            (name, int(count), f"{count / counts.rows:.1%}")
            for name, count in reversed(list(zip(RISK_LEVELS, counts.levels, strict=True)))
        ),
    )


def _spread(job: Job, counts: Counts) -> str:
    """Customers by probability, each bar in the colour of its level."""
    left, high, foot = 8.0, 180.0, 20.0
    wide = (_WIDTH - 2 * left) / BINS
    most = max(int(counts.spread.max()), 1)
    bars = []
    for i, count in enumerate(counts.spread.tolist()):
        middle = (i + 0.5) / BINS
        level = RISK_LEVELS[
            int(middle >= job.model.risk.medium) + int(middle >= job.model.risk.high)
        ]
        tall = count / most * (high - 12)
        bars.append(
            f'<rect class="{level}" x="{left + i * wide + 1:.1f}" y="{high - tall:.1f}" '
            f'width="{wide - 2:.1f}" height="{tall:.1f}"><title>{i / BINS:.0%} to '
            f"{(i + 1) / BINS:.0%}: {count:,} customers</title></rect>"
        )
    marks = "".join(
        f'<text x="{left + share * (_WIDTH - 2 * left):.1f}" y="{high + 15}" '
        f'text-anchor="{anchor}">{share:.0%}</text>'
        for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end"))
    )
    return _svg(
        "Customers by probability of churn",
        high + foot,
        f'<line class="axis" x1="{left}" y1="{high}" x2="{_WIDTH - left}" y2="{high}"/>'
        + "".join(bars)
        + marks,
    )


def named_as_reason(job: Job, counts: Counts) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of how many customers each feature raises the risk, and of how many it lowers it."""
    scorer = job.scorer
    features = len(job.model.features)
    raises = scorer.logits > 0
    raising, lowering = (
        np.bincount(scorer.feature, np.where(side, counts.reasons, 0), minlength=features)
        for side in (raises, ~raises)
    )
    return raising.astype(np.int64), lowering.astype(np.int64)


def _reasons(job: Job, counts: Counts) -> str:
    """How often features raise and lower, the most frequent first."""
    raising, lowering = named_as_reason(job, counts)
    order = np.argsort(-(raising + lowering), kind="stable")[:_SHOWN]
    order = order[(raising + lowering)[order] > 0]
    most = max(float(raising.max()), float(lowering.max()), 1.0)
    half, middle, tall = 170.0, 400.0, 20.0
    lines = []
    for place, i in enumerate(order.tolist()):
        name, y = job.model.features[i].column.name, place * tall
        up, down = raising[i] / most * half, lowering[i] / most * half
        lines.append(
            f'<text x="{middle - half - 10}" y="{y + 14}" text-anchor="end">{_short(name)}</text>'
            f'<rect class="down" x="{middle - down:.1f}" y="{y + 3}" width="{down:.1f}" '
            f'height="{tall - 6}"><title>{escape(name)} lowers the risk of '
            f"{int(lowering[i]):,} customers</title></rect>"
            f'<rect class="up" x="{middle}" y="{y + 3}" width="{up:.1f}" height="{tall - 6}">'
            f"<title>{escape(name)} raises the risk of {int(raising[i]):,} customers</title></rect>"
        )
    high = len(order) * tall
    axis = f'<line class="axis" x1="{middle}" y1="0" x2="{middle}" y2="{high}"/>'
    return _svg("Reasons by column", high, axis + "".join(lines))


def _drift_plot(drifts: Sequence[Drift]) -> str:
    """PSI by feature, the largest first."""
    shown = sorted(drifts, key=lambda each: -each.psi)[:_SHOWN]
    most = max(shown[0].psi, drift.LARGE) * 1.05
    left, tall = 230.0, 20.0
    scale = (_WIDTH - left - 60) / most
    high = len(shown) * tall
    lines = [
        f'<line class="limit" x1="{left + limit * scale:.1f}" y1="0" '
        f'x2="{left + limit * scale:.1f}" y2="{high}"/>'
        for limit in (drift.SOME, drift.LARGE)
    ]
    for place, each in enumerate(shown):
        y, wide = place * tall, max(each.psi, 0.0) * scale
        colour = {"stable": "low", "some": "medium", "large": "high"}[each.level]
        lines.append(
            f'<text x="{left - 10}" y="{y + 14}" text-anchor="end">{_short(each.name)}</text>'
            f'<rect class="{colour}" x="{left}" y="{y + 3}" width="{wide:.1f}" '
            f'height="{tall - 6}"/><text x="{left + wide + 6:.1f}" y="{y + 14}">'
            f"{each.psi:.3f}</text>"
        )
    return _svg("Population stability index by column", high, "".join(lines))


def _columns(job: Job, counts: Counts, drifts: Sequence[Drift]) -> str:
    rows = []
    for i, each in enumerate(drifts):
        flags = dict(zip(FLAGS, counts.flags[i].tolist(), strict=True))
        rows.append(
            (
                each.name,
                f"{each.psi:.3f} ({each.level})",
                f"{each.by_chance:.3f}",
                f"{flags['missing'] / counts.rows:.1%}",
                flags["unseen"],
                flags["out_of_range"],
            )
        )
    return _table(
        ("Column", "PSI", "By chance", "Missing", "Unknown values", "Outside of training"), rows
    )


def _origin(facts: Facts) -> str:
    job, model = facts.job, facts.job.model
    layout = job.layout
    columns = (
        f"{layout.names[at]} for {feature.column.name}"
        for at, feature in zip(job.mapped.features, model.features, strict=True)
        if at is not None and layout.names[at] != feature.column.name
    )
    rows = [
        ("File", facts.file),
        ("Read as", f"{layout.encoding}, delimiter {layout.delimiter!r}"),
        ("Id column", job.id_name),
        ("Model", f"{model.name}, trained {model.created_at} on {model.training.rows:,} customers"),
        ("Risk levels", f"medium from {model.risk.medium:.0%}, high from {model.risk.high:.0%}"),
        ("Columns under other names", ", ".join(columns) or "none"),
    ]
    if job.as_of is not None:
        rows.append(("Dates count back from", job.as_of.isoformat()))
    return _table(("What", "Value"), rows)


def _short(name: str) -> str:
    return escape(name if len(name) <= 32 else name[:31] + "…")


def _svg(label: str, high: float, inside: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH:.0f} {high:.0f}" role="img" aria-label="{escape(label)}">'
        f"{inside}</svg>"
    )

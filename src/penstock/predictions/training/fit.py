"""Training from end to end: a sheet and the answers in, a model out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock._version import __version__
from penstock.predictions.contract import Column
from penstock.predictions.model import (
    MAX_FEATURES,
    Calibration,
    Feature,
    Histogram,
    Metrics,
    Model,
    Training,
)
from penstock.predictions.refusal import Unusable
from penstock.predictions.score import probability
from penstock.predictions.training import boost, measure
from penstock.predictions.training.compile import compile_tables, encode
from penstock.predictions.training.infer import infer
from penstock.predictions.training.labels import labelled
from penstock.predictions.training.options import FEW_ROWS, Options, Sheet

FOLDS = 5
BADLY_CALIBRATED = 0.05  # expected calibration error from which a line is laid through
SUSPICIOUS = 0.95  # AUC; churn is not that predictable

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Judged:
    """Scores of rows by boosters that did not see them, in logits."""

    logit: Floats
    truth: Floats


def train(
    sheet: Sheet, options: Options, *, created_at: str, progress: Progress = lambda done, of: None
) -> Model:
    """Train a model. `progress(done, of)` counts boosters.

    Raises `Unusable`, its kind `Question`, and `MissingExtra`.
    """
    boost.lightgbm()  # before any other question: without it all answers are in vain
    known = labelled(sheet, options)
    found = infer(sheet, known.rows, known.truth, options)
    if len(found.columns) > MAX_FEATURES:
        raise Unusable(
            "too_many_columns",
            f"{len(found.columns):,} columns are more than a model takes ({MAX_FEATURES:,}). "
            "Drop some.",
        )
    values = [column.values for column in found.parsed]
    matrix = design(found.columns, values)
    categorical = [i for i, column in enumerate(found.columns) if column.kind == "category"]
    plan = boost.plan(len(known.truth))
    total, done = plan.bags * (FOLDS + 1), 0

    def tick() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    judged = cross_validate(
        matrix, known.truth, known.group, categorical, plan, seed=options.seed, done=tick
    )
    boosters = boost.fit(matrix, known.truth, categorical, plan, seed=options.seed, done=tick)
    features, intercept, error = compile_tables(boosters, found.columns, matrix, values)
    line = calibration(judged)
    if line is not None:
        features, intercept = along(line, features, intercept)
        judged = Judged(line.slope * judged.logit + line.offset, judged.truth)
    scored = boost.predict(boosters, matrix)
    if line is not None:
        scored = line.slope * scored + line.offset
    metrics = measured(judged)
    return Model(
        name=options.name,
        created_at=created_at,
        demo=options.demo,
        columns=sheet.names,
        id_column=options.id,
        label=known.label,
        as_of=None if options.as_of is None else options.as_of.isoformat(),
        features=features,
        intercept=intercept,
        risk=options.risk,
        scores=histogram(probability(scored)),
        calibration=line,
        training=Training(
            rows=len(known.truth),
            positives=int(known.truth.sum()),
            sha256=sheet.sha256,
            penstock=__version__,
            bags=plan.bags,
            rounds=plan.rounds,
            compiled_error=error,
        ),
        metrics=metrics,
        reliability=measure.reliability(judged.truth, probability(judged.logit)),
        left=found.left,
        warnings=(*known.warnings, *found.warnings, *_warnings(metrics, len(known.truth))),
    )


def design(columns: tuple[Column, ...], values: list[Floats]) -> Floats:
    """The matrix that the boosters see."""
    return np.column_stack(
        [encode(column, value) for column, value in zip(columns, values, strict=True)]
    )


def cross_validate(
    matrix: Floats,
    truth: Floats,
    group: NDArray[np.int64],
    categorical: list[int],
    plan: boost.Plan,
    *,
    seed: int,
    done: Callable[[], None],
) -> Judged:
    """Every row's score by boosters trained on the other folds."""
    fold = folds(truth, group, seed)
    logit = np.empty(len(truth))
    for i in range(FOLDS):
        mine = fold == i
        boosters = boost.fit(matrix[~mine], truth[~mine], categorical, plan, seed=seed, done=done)
        logit[mine] = boost.predict(boosters, matrix[mine])
    return Judged(logit, truth)


def folds(truth: Floats, group: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """A fold for each row: as many positives in each, a customer's rows together."""
    _, first, customer = np.unique(group, return_index=True, return_inverse=True)
    of_customer = np.empty(len(first), dtype=np.int64)
    random = np.random.default_rng(seed)
    for value in (0.0, 1.0):
        members = np.flatnonzero(truth[first] == value)
        random.shuffle(members)
        of_customer[members] = np.arange(len(members)) % FOLDS
    chosen: NDArray[np.int64] = of_customer[customer]
    return chosen


def calibration(judged: Judged) -> Calibration | None:
    """A line through the logits if the probabilities are far off and there is enough to tell."""
    if len(judged.truth) < FEW_ROWS:
        return None
    if measure.ece(judged.truth, probability(judged.logit)) <= BADLY_CALIBRATED:
        return None
    slope, offset = measure.platt(judged.truth, judged.logit)
    return Calibration(slope, offset) if slope > 0 else None


def along(
    line: Calibration, features: tuple[Feature, ...], intercept: float
) -> tuple[tuple[Feature, ...], float]:
    """The tables and the intercept on that line: a line keeps the sum a sum."""
    scaled = tuple(
        Feature(
            feature.column,
            feature.edges,
            tuple(line.slope * logit for logit in feature.table),
            feature.counts,
        )
        for feature in features
    )
    return scaled, line.slope * intercept + line.offset


def measured(judged: Judged) -> Metrics:
    """The figures of the card."""
    truth, said = judged.truth, probability(judged.logit)
    base = np.full(len(truth), truth.mean())
    return Metrics(
        folds=FOLDS,
        auc=measure.auc(truth, judged.logit),
        pr_auc=measure.pr_auc(truth, judged.logit),
        log_loss=float(measure.losses(truth, said).mean()),
        brier=measure.brier(truth, said),
        ece=measure.ece(truth, said),
        lift=measure.lift(truth, said),
        base_log_loss=float(measure.losses(truth, base).mean()),
        base_brier=measure.brier(truth, base),
    )


def histogram(said: Floats) -> Histogram:
    """Tenths of the training rows by probability: the yardstick for later files."""
    edges = np.unique(np.quantile(said, np.linspace(0, 1, 11)[1:-1]))
    counts = np.bincount(np.searchsorted(edges, said, side="left"), minlength=len(edges) + 1)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


def _warnings(metrics: Metrics, rows: int) -> list[str]:
    warnings = []
    if rows < FEW_ROWS:
        warnings.append(
            f"{rows:,} rows are few; expect other figures on other customers. "
            f"From {FEW_ROWS:,} on they are steadier."
        )
    if metrics.auc > SUSPICIOUS:
        warnings.append(
            f"AUC {metrics.auc:.3f} is more than churn usually allows. Look for columns that were "
            "written after customers left."
        )
    if metrics.log_loss >= metrics.base_log_loss:
        warnings.append(
            "The model is not better than the same probability for everybody. "
            "Do not act on its scores."
        )
    return warnings

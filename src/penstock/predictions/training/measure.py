"""How good probabilities are. Plain numpy; `truth` is 0 or 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.predictions.model import ReliabilityBin

Floats = NDArray[np.float64]
CALIBRATION_BINS = 15
RELIABILITY_BINS = 10


def auc(truth: Floats, score: Floats) -> float:
    """Area under the ROC curve: how often a positive is above a negative; ties count half."""
    positives = truth.sum()
    negatives = len(truth) - positives
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2
    ranks = middle[inverse]
    above = ranks[truth > 0].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def pr_auc(truth: Floats, score: Floats) -> float:
    """Average precision: the mean precision over the positives, ties taken together."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(truth[order])
    last = np.append(np.diff(score[order]) != 0, True)
    hits, seen = hits[last], np.arange(1, len(truth) + 1)[last]
    return float(np.sum(np.diff(hits, prepend=0) * hits / seen) / hits[-1])


def losses(truth: Floats, probability: Floats) -> Floats:
    """Each row's log loss, in nats."""
    safe = np.clip(probability, 1e-15, 1 - 1e-15)
    return -np.log(np.where(truth > 0, safe, 1 - safe))


def brier(truth: Floats, probability: Floats) -> float:
    """The mean squared difference between what was said and what happened."""
    return float(np.mean((probability - truth) ** 2))


def ece(truth: Floats, probability: Floats) -> float:
    """Expected calibration error: mean gap of said and observed over 15 bins of equal width."""
    bins = np.minimum((probability * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, probability - truth, CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(truth))


def reliability(truth: Floats, probability: Floats) -> tuple[ReliabilityBin, ...]:
    """Said against observed in ten bins of equal size."""
    order = np.argsort(probability, kind="stable")
    return tuple(
        ReliabilityBin(len(part), float(probability[part].mean()), float(truth[part].mean()))
        for part in np.array_split(order, RELIABILITY_BINS)
        if len(part)
    )


def lift(truth: Floats, probability: Floats) -> float:
    """How many times the base rate churns in the tenth with the highest probabilities."""
    tenth = max(1, len(truth) // 10)
    top = np.argsort(-probability, kind="stable")[:tenth]
    return float(truth[top].mean() / truth.mean())


def platt(truth: Floats, logit: Floats) -> tuple[float, float]:
    """Slope and offset of the line through the logits with the least log loss."""
    design = np.column_stack((logit, np.ones_like(logit)))
    beta = np.array([1.0, 0.0])
    loss = _loss(truth, design @ beta)
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(design @ beta, -500, 500)))
        gradient = design.T @ (truth - p)
        curvature = (design * (p * (1 - p))[:, None]).T @ design + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        # Newton's step may go too far where the curve is flat.
        while (next_loss := _loss(truth, design @ (beta + step))) > loss:
            step /= 2
            if np.abs(step).max() < 1e-10:
                return float(beta[0]), float(beta[1])
        beta, loss = beta + step, next_loss
        if np.abs(step).max() < 1e-10:
            break
    return float(beta[0]), float(beta[1])


def _loss(truth: Floats, logit: Floats) -> float:
    return float(np.mean(np.logaddexp(0, logit) - truth * logit))

"""Columns that are too good to be true: written when, or because, the customer left."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.predictions.training.measure import auc

LEAK = 0.97  # AUC of one column alone
_PRIOR = 10.0  # rows of the base rate that each value starts with


def cross_fitted_auc(codes: NDArray[np.intp], truth: NDArray[np.float64]) -> float:
    """How well one column tells who churned, each half judged by the other half's rates.

    In-sample rates would find every column of rare values a leak. At least 0.5.
    """
    half = np.random.default_rng(0).random(len(truth)) < 0.5
    size = int(codes.max()) + 1
    score: NDArray[Any] = np.empty(len(truth))
    for mine in (half, ~half):
        other = ~mine
        base = truth[other].mean()
        churned = np.bincount(codes[other], truth[other], size)
        total = np.bincount(codes[other], minlength=size)
        score[mine] = ((churned + _PRIOR * base) / (total + _PRIOR))[codes[mine]]
    parts = [auc(truth[mine], score[mine]) for mine in (half, ~half) if 0 < truth[mine].mean() < 1]
    return max(0.5, float(np.mean(parts))) if parts else 0.5

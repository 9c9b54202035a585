"""How good the trained model is, beside EBM and logistic regression on the same customers.

The Telco set (7,043 customers; ../shared/data beside the checkout, or PENSTOCK_TELCO), five folds,
twice. Differences are paired: fold by fold, with the standard error of their mean. EBM is measured
where interpret-core is installed (it is no dependency), with and without interactions.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.support.churn import Splits, logistic, telco_splits

from penstock.predictions.score import Scorer, probability
from penstock.predictions.training import measure

Rows = NDArray[np.int64]
Said = NDArray[np.float64]
Method = Callable[[Splits, Rows, Rows], Said]
FIGURES = ("ROC AUC", "PR AUC", "log loss", "Brier", "calibration error")


def run(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench churn_quality", description=__doc__)
    parser.add_argument("--interactions", action="store_true", help="EBM with interactions too")
    given = parser.parse_args(arguments)
    try:
        splits = telco_splits()
    except pytest.skip.Exception as missing:
        print(f"Not measured: {missing}")
        return
    methods: dict[str, Method] = {"Penstock": ours, "logistic regression": logistic}
    if importlib.util.find_spec("interpret") is None:
        print("EBM is not measured: interpret-core is not installed here.")
    else:
        methods["EBM without interactions"] = lambda *each: ebm(*each, interactions=0)
        if given.interactions:
            methods["EBM"] = lambda *each: ebm(*each, interactions=None)
    found, seconds = {}, {}
    for name, method in methods.items():
        began = time.process_time()
        found[name] = np.array(
            [
                figures(splits.truth[test], method(splits, train, test))
                for train, test in splits.folds
            ]
        )
        seconds[name] = (time.process_time() - began) / len(splits.folds)
    show(found, seconds)


def ours(splits: Splits, train: Rows, test: Rows) -> Said:
    _, model = splits.fit(train)
    scorer = Scorer(model)
    return probability(scorer.logit(scorer.slots(splits.rows(test))))


def ebm(splits: Splits, train: Rows, test: Rows, *, interactions: int | None) -> Said:
    from interpret.glassbox import ExplainableBoostingClassifier

    kinds = ["continuous" if c.kind == "number" else "nominal" for c in splits.columns]
    given = {} if interactions is None else {"interactions": interactions}
    model = ExplainableBoostingClassifier(
        feature_types=kinds, n_jobs=1, random_state=int(test[0]), **given
    )
    model.fit(splits.matrix[train], splits.truth[train].astype(int))
    said: Said = model.predict_proba(splits.matrix[test])[:, 1]
    return said


def figures(truth: Said, said: Said) -> tuple[float, ...]:
    return (
        measure.auc(truth, said),
        measure.pr_auc(truth, said),
        float(measure.losses(truth, said).mean()),
        measure.brier(truth, said),
        measure.ece(truth, said),
    )


def show(found: dict[str, NDArray[np.float64]], seconds: dict[str, float]) -> None:
    print("| model | " + " | ".join(FIGURES) + " | CPU s for a fit |")
    print("|---|" + "---|" * (len(FIGURES) + 1))
    for name, values in found.items():
        cells = (f"{value:.4f}" for value in values.mean(axis=0))
        print(f"| {name} | " + " | ".join(cells) + f" | {seconds[name]:.1f} |")
    print("\nPenstock minus the others, paired (mean ± standard error):\n")
    print("| against | ROC AUC | log loss |\n|---|---|---|")
    for name, values in found.items():
        if name == "Penstock":
            continue
        gap = found["Penstock"] - values
        mean, error = gap.mean(axis=0), gap.std(axis=0, ddof=1) / np.sqrt(len(gap))
        print(f"| {name} | {mean[0]:+.5f} ± {error[0]:.5f} | {mean[2]:+.5f} ± {error[2]:.5f} |")
    print(flush=True)

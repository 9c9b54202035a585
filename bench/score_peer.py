"""The peer of `score`: pandas and LightGBM, as most would write it. Runs without Penstock.

``score_peer.py train|predict|explain CSV BOOSTER [OUT]``
"""

from __future__ import annotations

import sys

import lightgbm
import numpy as np
import pandas as pd

PARAMETERS = {
    "objective": "binary",
    "learning_rate": 0.03,
    "num_leaves": 6,
    "min_data_in_leaf": 20,
    "verbosity": -1,
    "seed": 7,
}
ROUNDS = 300


def read(path: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    frame = pd.read_csv(path)
    features = frame.drop(columns=["customer", "churned"], errors="ignore")
    for name in features.select_dtypes(exclude="number"):
        # Sorted, so that a code means the same in every file that has all values.
        features[name] = features[name].astype("category")
    return frame, features


def train(path: str, to: str) -> None:
    frame, features = read(path)
    label = (frame["churned"] == "yes").astype(int)
    lightgbm.train(PARAMETERS, lightgbm.Dataset(features, label), ROUNDS).save_model(to)


def predict(path: str, booster: str, to: str, *, explain: bool) -> None:
    frame, features = read(path)
    model = lightgbm.Booster(model_file=booster)
    result = pd.DataFrame(
        {"customer": frame["customer"], "churn_probability": model.predict(features).round(6)}
    )
    if explain:
        parts = model.predict(features, pred_contrib=True)[:, :-1]
        strongest = np.argsort(-np.abs(parts), axis=1)[:, :3]
        names = np.array(features.columns)
        for place in range(3):
            chosen = strongest[:, place]
            raises = parts[np.arange(len(parts)), chosen] > 0
            result[f"reason_{place + 1}"] = names[chosen] + np.where(
                raises, " (raises risk)", " (lowers risk)"
            )
    result.to_csv(to, index=False)


if __name__ == "__main__":
    command, *paths = sys.argv[1:]
    if command == "train":
        train(*paths)
    else:
        predict(*paths, explain=command == "explain")

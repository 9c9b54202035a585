"""A file of customers scored by `penstock predict`: CPU seconds and memory, beside pandas.

The peers need pandas and LightGBM, which Penstock does not: they run where these are installed,
or with ``--peers`` in an environment that is made for them in a temporary folder.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import figures
from bench.processes import ROOT, folder

WORDS = {
    "gender": ("Female", "Male"),
    "senior": ("No", "Yes"),
    "partner": ("No", "Yes"),
    "dependents": ("No", "Yes"),
    "phone": ("Yes", "No"),
    "lines": ("No", "Yes", "No phone service"),
    "internet": ("Fiber optic", "DSL", "No"),
    "security": ("No", "Yes", "No internet service"),
    "backup": ("No", "Yes", "No internet service"),
    "protection": ("No", "Yes", "No internet service"),
    "support": ("No", "Yes", "No internet service"),
    "television": ("No", "Yes", "No internet service"),
    "movies": ("No", "Yes", "No internet service"),
    "contract": ("Month-to-month", "Two year", "One year"),
    "paperless": ("Yes", "No"),
    "payment": ("Electronic check", "Mailed check", "Bank transfer (automatic)", "Credit card"),
}
BLOCK = 50_000
TRAINED_ON = 7_000


@dataclass(frozen=True)
class Cost:
    """Seconds of the clock and of all CPUs, and the most memory, of a process from start to end."""

    wall: float
    cpu: float
    megabytes: float

    def __str__(self) -> str:
        return f"{self.cpu:.2f} s CPU, {self.wall:.2f} s, {self.megabytes:.0f} MB"


def write(path: Path, rows: int, *, label: bool = False) -> None:
    """Customers with an id, sixteen words and three numbers each, as a public set has them."""
    random = np.random.default_rng(1)
    names = ["customer", *WORDS, "tenure", "monthly", "total", *(["churned"] if label else [])]
    with path.open("w") as file:
        file.write(",".join(names) + "\n")
        for begins in range(0, rows, BLOCK):
            count = min(BLOCK, rows - begins)
            chosen = [random.integers(0, len(words), count) for words in WORDS.values()]
            tenure = random.integers(0, 73, count)
            monthly = np.round(random.uniform(18, 119, count), 2)
            total = np.round(tenure * monthly, 2)
            logit = 0.5 - 0.05 * tenure + 0.9 * (chosen[13] == 0) + 0.01 * (monthly - 65)
            churned = random.random(count) < 1 / (1 + np.exp(-logit))
            columns: list[Sequence[str]] = [
                [f"C{number:08}" for number in range(begins, begins + count)],
                *(
                    [words[i] for i in picked]
                    for words, picked in zip(WORDS.values(), chosen, strict=True)
                ),
                [str(value) for value in tenure],
                [str(value) for value in monthly],
                [str(value) if value else "" for value in total],
            ]
            if label:
                columns.append(["yes" if value else "no" for value in churned])
            file.writelines(",".join(row) + "\n" for row in zip(*columns, strict=True))


def measured(command: Sequence[str | Path], *, threads: int | None = None) -> Cost:
    """Run a command that has no children, or waits for them, to its end."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    began = time.monotonic()
    process = subprocess.Popen(
        [str(word) for word in command], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}")
    return Cost(time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def best(costs: Sequence[Cost]) -> Cost:
    """The run that was disturbed least."""
    return min(costs, key=lambda cost: cost.cpu)


def peer_python(at: Path, install: bool) -> str | None:
    """An interpreter that has pandas and LightGBM."""
    if all(importlib.util.find_spec(name) for name in ("pandas", "lightgbm")):
        return sys.executable
    if not install:
        return None
    print("Installing pandas and LightGBM into a temporary folder ...", file=sys.stderr)
    venv.create(at, with_pip=True)
    python = str(at / "bin" / "python")
    packages = ["pandas", "lightgbm"]
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages],
        check=True,
    )
    return python


def run(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench score", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=3, help="of which the best counts")
    parser.add_argument("--peers", action="store_true", help="install pandas and LightGBM")
    parser.add_argument("--shap-rows", type=int, default=100_000, help="of the peer with reasons")
    chosen = parser.parse_args(arguments)
    with folder() as at:
        past, some, many, few = (at / f"{name}.csv" for name in ("past", "some", "many", "few"))
        write(past, TRAINED_ON, label=True)
        write(some, chosen.rows)
        write(many, 5 * chosen.rows)
        write(few, chosen.shap_rows)
        model = at / "model.json"
        penstock = [sys.executable, "-m", "penstock"]
        train = ["train", past, "--label", "churned", "--positive", "yes", "--id", "customer"]
        subprocess.run(
            [*penstock, *train, "--out", model], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
        )
        predict = [*penstock, "predict", "--model", model, "--out", at / "scored.csv"]
        ours = best([measured([*predict, some]) for _ in range(chosen.times)])
        more = measured([*predict, many])
        rows = f"{chosen.rows:,} rows"
        lines = [
            figures.row(
                f"{rows}, 3 reasons each",
                "",
                str(ours),
                "",
                "≤ 2.5 s CPU, ≤ 200 MB",
            ),
            figures.row(
                f"{5 * chosen.rows:,} rows, 3 reasons each",
                f"{more.megabytes / ours.megabytes:.2f} × the memory",
                str(more),
                str(ours),
                "the same memory",
            ),
        ]
        python = peer_python(at / "peers", chosen.peers)
        if python is None:
            print("pandas and LightGBM are not installed: no peers (--peers installs them)\n")
        else:
            lines += _peers(python, at, chosen, ours)
        figures.show(lines)


def _peers(python: str, at: Path, chosen: argparse.Namespace, ours: Cost) -> list[str]:
    peer: list[str | Path] = [python, ROOT / "bench" / "score_peer.py"]
    booster = at / "booster.txt"
    subprocess.run([str(word) for word in (*peer, "train", at / "past.csv", booster)], check=True)
    out = at / "peer.csv"
    plain = best(
        [measured([*peer, "predict", at / "some.csv", booster, out]) for _ in range(chosen.times)]
    )
    shap = measured([*peer, "explain", at / "few.csv", booster, out])
    empty = measured([*peer, "explain", at / "past.csv", booster, out])
    # What one row costs, without what starting costs.
    share = (chosen.rows - TRAINED_ON) / (chosen.shap_rows - TRAINED_ON)
    whole = empty.cpu + (shap.cpu - empty.cpu) * share
    return [
        figures.row(
            "pandas + LightGBM, no reasons",
            f"{plain.cpu / ours.cpu:.1f} × the CPU, {plain.megabytes / ours.megabytes:.1f} × the "
            "memory",
            str(plain),
            str(ours),
        ),
        figures.row(
            f"pandas + LightGBM + TreeSHAP, 3 reasons each (from {chosen.shap_rows:,} rows)",
            f"{whole / ours.cpu:.0f} × the CPU",
            f"{whole:.0f} s CPU",
            str(ours),
        ),
    ]

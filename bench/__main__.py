"""``python -m bench`` runs every figure; ``python -m bench NAME …`` one of them."""

from __future__ import annotations

import importlib
import sys
import time

from bench.processes import machine

NAMES = (
    "accept",
    "deliver",
    "claims",
    "sqs",
    "backlog",
    "idle",
    "replay",
    "tracking_day",
    "dispatch",
    "score",
    "churn_quality",
    "cold_start",
    "console",
)


def main() -> int:
    names = sys.argv[1:2] or NAMES
    if not set(names) <= set(NAMES):
        print(f"usage: python -m bench [{'|'.join(NAMES)}] [--help]", file=sys.stderr)
        return 2
    print(f"{machine()}\n")
    for name in names:
        began = time.monotonic()
        importlib.import_module(f"bench.{name}").run(sys.argv[2:])
        print(f"({name}: {time.monotonic() - began:.0f} s)\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

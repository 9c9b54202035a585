"""What a server costs that has nothing to do: CPU, and calls to its database.

Beside it, in the same run and as long, the peer of `accept`: FastAPI and uvicorn, just as idle.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from bench import figures
from bench.processes import Process, folder, module, penstock


def run(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("bench idle", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    given = parser.parse_args(arguments)
    with (
        folder() as data,
        module("bench.bare") as bare,
        penstock(data, module="bench.counted") as server,
    ):
        time.sleep(3.0)
        before, cpu, cpu_bare = _calls(server, data), server.cpu(), bare.cpu()
        time.sleep(given.seconds)
        cpu, cpu_bare = server.cpu() - cpu, bare.cpu() - cpu_bare
        after = _calls(server, data)
        per_minute = {
            name: (after.get(name, 0) - before.get(name, 0)) / given.seconds * 60
            for name in ("unit", "read")
        }
    mine, other = cpu / given.seconds * 1e3, cpu_bare / given.seconds * 1e3
    figures.show(
        [
            figures.row(
                "idle",
                f"{mine / other:.1f} ×" if other else "–",
                f"{mine:.1f} ms CPU a second; {per_minute['unit']:.0f} units and "
                f"{per_minute['read']:.0f} reads of the database a minute",
                f"bare FastAPI {other:.1f} ms CPU a second",
            )
        ]
    )


def _calls(server: Process, data: Path) -> dict[str, int]:
    answer = data / "calls.json"
    answer.unlink(missing_ok=True)
    os.kill(server.pid, signal.SIGUSR1)
    while not answer.exists():
        time.sleep(0.02)
    counts: dict[str, int] = json.loads(answer.read_text())
    return counts

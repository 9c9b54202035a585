"""One claimed row in a process of its own.

A row whose worker died twice while holding it may be what killed the worker. From then on it runs
in a child, so that it takes no neighbours along: the child is given the claim, runs the handler and
settles the row itself, under the same fence; the parent renews the lease meanwhile and counts a
lapse when the child ends without having settled.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from penstock.clock import Clock
from penstock.storage import Database, Tx
from penstock.work import ledger
from penstock.work.kinds import AnyKind, Claim, Task
from penstock.work.line import Isolate
from penstock.work.outcomes import Outcome, Retry
from penstock.work.settlement import decide

START = 30.0  # seconds a child may take beyond its handler's time, to start and to settle


def child_process(arguments: Sequence[str], environment: Mapping[str, str]) -> Isolate:
    """Isolation by ``python -m penstock <arguments>``, with the claim as JSON on its input."""

    async def isolate(claim: Claim, limit: float) -> str | None:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "penstock",
            *arguments,
            env=dict(environment),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is the parent's to act on
        )
        try:
            async with asyncio.timeout(limit + START):
                await child.communicate(json.dumps(asdict(claim)).encode())
        except TimeoutError:
            return f"killed: not done after {limit:g} s"
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        code = child.returncode or 0
        if code == 0:
            return None
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"its process {how}"

    return isolate


async def run_one(database: Database, kind: AnyKind, claim: Claim, clock: Clock) -> bool:
    """The child's part: handle the row and settle it. False = the claim no longer held it."""

    def load(tx: Tx) -> dict[str, Any]:
        return dict(kind.load(tx, [claim]))

    loaded = await database.read(load)
    if claim.id not in loaded:
        return False
    data = loaded[claim.id]
    limit = kind.timeout_of(data) or kind.timeout
    try:
        async with asyncio.timeout(limit) as deadline:
            outcome: Outcome = await kind.handle(Task(claim, data, limit))
    except Exception as exc:
        expired = isinstance(exc, TimeoutError) and deadline.expired()
        outcome = Retry(reason=f"timed out after {limit:g} s") if expired else kind.classify(exc)
    settlement = decide(kind, claim, outcome, clock.now())
    settled = await database.unit(lambda tx: ledger.settle(tx, kind, [settlement]))
    return claim in settled


def claim_from(text: str) -> Claim:
    """The claim a parent wrote to its child's input."""
    return Claim(**json.loads(text))

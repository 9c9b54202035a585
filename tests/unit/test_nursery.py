"""What the tests' own processes leave behind: nothing, also when they are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import nursery
from support.procfs import gone

TESTS = Path(__file__).parents[1]
KEEP = """
import subprocess, sys
from support import scratch
made = scratch.folder("kept-", sys.argv[1])
other = subprocess.Popen(["sleep", "600"], env={"PATH": "/bin:/usr/bin", "TMPDIR": str(made)})
print(made, other.pid, flush=True)
sys.stdin.read()
"""
NURSE = """
import os, pathlib, sys
from support.nursery import NURSERY
with open(os.devnull, "wb") as nothing:
    child = NURSERY.start(
        ("-c", "import time; time.sleep(600)"),
        env=os.environ, cwd=pathlib.Path.cwd(), stdout=nothing, stderr=nothing,
    )
print(child.pid, flush=True)
sys.stdin.read()
"""

forks = pytest.mark.skipif(not nursery.possible(os.environ), reason="nothing is forked here")


def started(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.anyio
@pytest.mark.parametrize("killed", [False, True])
async def test_a_folder_goes_with_its_process(tmp_path: Path, killed: bool) -> None:
    with started(KEEP, str(tmp_path)) as process:
        assert process.stdout is not None
        name, pid = process.stdout.readline().split()
        made = Path(name)
        assert list(tmp_path.iterdir()) == [made]
        (made / "below").mkdir()
        (made / "below" / "file").write_text("something")
        if killed:
            process.kill()
    deadline = time.monotonic() + 60
    while killed and made.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []
    await gone(int(pid))


@forks
@pytest.mark.anyio
async def test_forked_processes_end_with_who_asked_for_them() -> None:
    with started(NURSE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
    await gone(child, within=60.0)


@forks
def test_who_is_gone_before_the_answer_does_no_harm(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        streams = (out.fileno(),) * 3
        for _ in range(5):
            asked = nursery._ask(
                nursery.NURSERY.path, ["-c", "pass"], os.environ, str(tmp_path), streams
            )
            asked.close()
        command = ("-c", "print('still there')")
        process = nursery.NURSERY.start(
            command, env=os.environ, cwd=tmp_path, stdout=out, stderr=out
        )
        assert process.wait(60) == 0
    assert (tmp_path / "out").read_text() == "still there\n"

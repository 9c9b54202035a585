"""The Dockerfile: linted, and what it promises."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from support.tools import tool

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """Every instruction with its arguments, continued lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def test_it_is_linted() -> None:
    done = subprocess.run(
        [tool("hadolint"), "--failure-threshold", "style", str(DOCKERFILE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_it_is_built_on_is_for_the_builder_to_name() -> None:
    found = instructions()
    assert found[0] == ("ARG", "BASE")
    assert [rest for word, rest in found if word == "FROM"] == ["${BASE} AS build", "${BASE}"]


def test_it_does_not_run_as_root() -> None:
    last = instructions()[::-1]
    users = [rest for word, rest in last if word == "USER"]
    assert users == ["10001:10001"]
    # As in the task definition, which says it again.
    worker = ROOT / "infra" / "terraform" / "modules" / "ecs_worker" / "main.tf"
    assert f'= "{users[0]}"' in worker.read_text()


def test_nothing_of_the_build_but_the_environment_is_in_it() -> None:
    found = instructions()
    last = len(found) - [word for word, _ in found][::-1].index("FROM")
    copied = [rest for word, rest in found[last:] if word in ("COPY", "ADD")]
    assert copied == ["--from=build /opt/penstock /opt/penstock"]


def test_dependencies_are_those_of_the_lock() -> None:
    installs = [rest for word, rest in instructions() if word == "RUN" and "pip" in rest]
    for step in " && ".join(installs).split("&&"):
        if " install " in step:
            assert "--require-hashes" in step or "--no-index" in step, step


def test_it_holds_what_its_processes_need() -> None:
    """Tasks score and train; functions are started by Lambda's client and answer the API."""
    lock = (ROOT / "requirements" / "image.lock").read_text()
    locked = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    assert locked >= {"numpy", "pyarrow", "lightgbm"}
    assert locked >= {"awslambdaric", "mangum", "aiobotocore", "psycopg"}
    functions = ROOT / "infra" / "terraform" / "modules" / "function" / "main.tf"
    assert '["python", "-m", "awslambdaric"]' in functions.read_text()


def test_only_what_is_copied_is_sent_to_the_builder() -> None:
    allowed = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    sources = {
        source
        for word, rest in instructions()
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert sources == allowed

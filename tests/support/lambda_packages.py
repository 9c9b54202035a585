"""The built packages, unpacked, and the Python that Lambda runs, where both are there."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.lambda_account import Account

ROOT = Path(__file__).parents[2]
PACKAGES = ROOT / "dist" / "lambda"
PYTHON = ROOT / ".venv" / "lambda" / "bin" / "python"
SETS = ("api", "worker", "migrate")


def python() -> str:
    """A Python 3.13 with Lambda's runtime client; skips where there is none."""
    if not PYTHON.exists():
        pytest.skip("no Python 3.13 with Lambda's runtime client: make test-infra")
    return str(PYTHON)


def unpacked(into: Path) -> dict[str, Path]:
    """Where each package was unpacked; skips where they were not built from this source."""
    folders = {}
    for name in SETS:
        path = PACKAGES / f"penstock-{name}.zip"
        if not path.exists():
            pytest.skip(f"dist/lambda/{path.name} is not there: make package")
        folders[name] = into / name
        with zipfile.ZipFile(path) as package:
            package.extractall(folders[name])
        if stale := _differing(folders[name]):
            pytest.skip(f"{path.name} was built from another {stale}: make package")
    return folders


def _differing(task: Path) -> str | None:
    for path in sorted((task / "penstock").rglob("*.py")):
        source = ROOT / "src" / path.relative_to(task)
        if not source.exists() or source.read_bytes() != path.read_bytes():
            return str(source.relative_to(ROOT))
    return None


def size(task: Path) -> int:
    """Bytes of a package when it is unpacked."""
    return sum(path.stat().st_size for path in task.rglob("*") if path.is_file())


class Built(Account):
    """An account whose functions run what `make package` made of Penstock."""

    tasks: Mapping[str, Path]

    def code(self, handler: str) -> dict[str, Any]:
        name = handler if handler in SETS else "worker"
        return {"task": self.tasks[name], "python": python()}

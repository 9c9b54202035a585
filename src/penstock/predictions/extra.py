"""Whether what the service needs is installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

NEEDED: Final = ("numpy", "pyarrow")


def missing() -> list[str]:
    """The packages of the extra `predictions` that are not installed."""
    return [name for name in NEEDED if find_spec(name) is None]


def can_train() -> bool:
    """Whether the extra `train` is installed."""
    return find_spec("lightgbm") is not None

"""The starter model: it ships with Penstock, so that the first file can be scored at once.

It was trained on invented customers by ``python -m penstock.predictions.training.starter`` and
says so wherever it shows: it is a demonstration.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from typing import Final

NAME: Final = "starter"


@cache
def data() -> bytes:
    """The model file."""
    return resources.files("penstock.predictions").joinpath("starter.json").read_bytes()


@cache
def sha256() -> str:
    """What the model file is known by."""
    return hashlib.sha256(data()).hexdigest()

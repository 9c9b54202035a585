"""The service's refusals as the API tells them."""

from __future__ import annotations

from typing import Any

from penstock.api.problems import Problem
from penstock.errors import Refused


def problem_of(refused: Refused) -> Problem:
    """The problem that names the field at fault."""
    sentence = f"{refused.message[:1].upper()}{refused.message[1:].removesuffix('.')}."
    extra: dict[str, Any] = {}
    if refused.pointer is not None:
        extra["errors"] = [{"message": sentence, "pointer": refused.pointer}]
    return Problem(refused.code, sentence, **extra)

"""How commands speak: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, NoReturn

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def document(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, ensure_ascii=False))


def say(line: str = "") -> None:
    """A line of the result."""
    print(line, flush=True)


def fail(message: str, *, code: int = 1) -> NoReturn:
    """Say what went wrong and exit with `code`."""
    print(f"penstock: {message}", file=sys.stderr)
    sys.exit(code)

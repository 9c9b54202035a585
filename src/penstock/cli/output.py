"""How commands speak: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, NoReturn

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def document(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, ensure_ascii=False))


def say(line: str = "") -> None:
    """A line of the result."""
    print(line, flush=True)


def note(line: str) -> None:
    """Something to know beside the result, on stderr."""
    print(f"penstock: {line}", file=sys.stderr, flush=True)


def fail(message: str, *, code: int = 1) -> NoReturn:
    """Say what went wrong and exit with `code`."""
    print(f"penstock: {message}", file=sys.stderr)
    sys.exit(code)


def columns(rows: Iterable[Sequence[object]]) -> None:
    """Rows whose cells stand below one another; None is empty."""
    texts = [["" if cell is None else one_line(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        say("  ".join(cells).rstrip())


def fields(values: Mapping[str, object]) -> None:
    """Names and what they are, one a line; what is None is left out."""
    shown = {name: value for name, value in values.items() if value is not None}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        say(f"{name.ljust(width)}  {one_line(str(value))}".rstrip())


def one_line(text: str) -> str:
    """The text without line ends, nor anything else that moves a terminal's cursor."""
    return "".join(char if char.isprintable() else " " for char in text)


def shown_all(items: list[dict[str, Any]], more: bool, as_json: bool, nothing: str) -> bool:
    """What every list says: JSON, that there are more, or what to do as there is nothing.

    Answers whether the items are still to be printed.
    """
    if as_json:
        document({"items": items, "more": more})
        return False
    if more:
        note(f"these are the first {len(items)}; --limit 0 shows all")
    if not items:
        say(nothing)
    return bool(items)


def confirm(question: str, yes: bool) -> None:
    """Go on only if a person agrees; where nobody can be asked, only with --yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{question} Say --yes; nothing was done", code=2)
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        fail("nothing was done")

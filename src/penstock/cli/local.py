"""What the commands share that work on files of their own and need no server."""

from __future__ import annotations

import datetime
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from penstock.cli.output import fail

Show = Callable[[str, int, int], None]


def needed(extra: str) -> None:
    """Exit with what to install if numpy or pyarrow are missing."""
    for package in ("numpy", "pyarrow"):
        try:
            importlib.import_module(package)
        except ImportError:
            fail(f"{package} is missing: pip install 'penstock[{extra}]'")


def day(option: str, text: str | None) -> datetime.date | None:
    """The date that an option gives."""
    try:
        return None if text is None else datetime.date.fromisoformat(text)
    except ValueError:
        fail(f"{option}: it is a date such as 2026-01-31, not {text}", code=2)


def note(text: str) -> None:
    """Something to know, beside the result."""
    print(f"note: {text}", file=sys.stderr)


@contextmanager
def bar() -> Iterator[Show]:
    """A function of (what, done, of) that draws a bar on a terminal and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda what, done, of: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda what, done, of: progress.update(
            task, description=what, completed=done, total=of
        )

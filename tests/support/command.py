"""Commands run within the test's own process: no interpreter has to start for each."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from penstock.cli import main
from support.process import Ran


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def cli(
    *arguments: str,
    data: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    terminal: bool = False,
) -> Ran:
    """What `penstock …` prints and ends with; on a terminal, `stdin` is what a person types."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    kept |= {"PENSTOCK_DATA_DIR": str(data)} if data is not None else {}
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        mock.patch.dict(os.environ, kept | dict(env or {}), clear=True),
        mock.patch.object(sys, "argv", ["penstock", *arguments]),
        mock.patch.object(sys, "stdin", (_Terminal if terminal else io.StringIO)(stdin or "")),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    return Ran(code, out.getvalue(), err.getvalue())

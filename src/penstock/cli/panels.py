"""Under which headings `penstock --help` lists commands."""

from __future__ import annotations

from typing import Final

RUN: Final = "Run"
CARE: Final = "Keep it well"
WORK: Final = "Work of a server"
ALONE: Final = "Without a server"

"""One command for each figure of docs/performance.md: ``python -m bench NAME``."""

from __future__ import annotations

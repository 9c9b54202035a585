"""How much is logged and how: what settings share with the log, without loading it."""

from __future__ import annotations

from typing import Literal

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["json", "console"]

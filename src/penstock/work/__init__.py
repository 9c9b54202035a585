"""The engine: rows that are owed, lanes that gate them, workers that settle them."""

from __future__ import annotations

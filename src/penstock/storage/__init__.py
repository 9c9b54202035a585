"""Where rows live: the database port, its two implementations, tables and migrations."""

from __future__ import annotations

from penstock.storage.database import Database, Tx
from penstock.storage.sql import Statement, sql

__all__ = ["Database", "Statement", "Tx", "sql"]

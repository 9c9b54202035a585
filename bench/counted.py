"""`penstock` whose SQLite database counts its calls.

``python -m bench.counted up …`` is ``penstock up …``; SIGUSR1 writes the counts so far to
``calls.json`` in the data folder.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from penstock.cli import main
from penstock.storage.sqlite import SqliteDatabase

counts: Counter[str] = Counter()


def _count(name: str) -> None:
    method = getattr(SqliteDatabase, name)

    async def counting(self: SqliteDatabase, *arguments: Any) -> Any:
        counts[name] += 1
        return await method(self, *arguments)

    setattr(SqliteDatabase, name, counting)


def _tell(*_: object) -> None:
    folder = Path(sys.argv[sys.argv.index("--data") + 1])
    (folder / "calls.json.tmp").write_text(json.dumps(counts))
    (folder / "calls.json.tmp").replace(folder / "calls.json")


if __name__ == "__main__":
    for name in ("unit", "read"):
        _count(name)
    signal.signal(signal.SIGUSR1, _tell)
    main()

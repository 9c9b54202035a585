"""What is in a folder that a server writes to and deletes from meanwhile."""

from __future__ import annotations

import os
from pathlib import Path


def below(folder: Path) -> list[Path]:
    """All files and folders below it.

    `Path.rglob` fails where a folder is deleted after it was found and before it is read.
    """
    return [
        Path(top, name) for top, folders, files in os.walk(folder) for name in (*folders, *files)
    ]

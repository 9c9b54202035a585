"""Packages from npm for the examples that are written for Node, installed once for each lock."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

_OUT_OF_REACH = re.compile(
    r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|EPROXY"
)
_SILENT = ["--no-audit", "--no-fund", "--no-update-notifier", "--ignore-scripts"]
_RETRIES = ["--fetch-retries=2", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=3000"]


def installed(example: Path, into: Path) -> Path:
    """A copy of the example below `into` with its packages beside it; skips where that cannot be.

    The packages are kept in the user's cache, by the content of package-lock.json.
    """
    found = packages(example)
    copy = into / example.name
    shutil.copytree(example, copy, ignore=shutil.ignore_patterns("node_modules"))
    (copy / "node_modules").symlink_to(found / "node_modules")
    return copy


def packages(example: Path) -> Path:
    """Where the packages of the folder's package-lock.json are; skips where that cannot be."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    lock = (example / "package-lock.json").read_bytes()
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "penstock-tests"
    kept = home / hashlib.sha256(lock).hexdigest()[:16]
    if kept.exists():
        return kept
    # Installed aside and put in place at once: other tests may be doing the same.
    aside = kept.with_name(f"{kept.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(example / name, aside)
    done = subprocess.run(
        ["npm", "ci", *_SILENT, *_RETRIES], cwd=aside, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        shutil.rmtree(aside)
        if reason := _OUT_OF_REACH.search(done.stderr):
            pytest.skip(f"npm's registry is out of reach ({reason[0]})")
        raise AssertionError(f"npm ci failed in {example}:\n{done.stderr}")
    try:
        aside.rename(kept)
    except OSError:  # another was first
        shutil.rmtree(aside)
    return kept

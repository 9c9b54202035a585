"""Which server a client talks to, and as whom."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from penstock import runfile
from penstock.client.calls import Unreachable
from penstock.errors import SettingsError

DATA_DIR = "penstock-data"  # as for the server
_PRINTABLE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Address:
    """A server and the credential to use with it."""

    url: str  # without a slash at its end
    key: str = field(repr=False)


def find(url: str | None, key: str | None, data_dir: str | Path | None) -> Address:
    """The server that the arguments name, else the environment's, else the local one.

    SettingsError for a value that cannot be right, Unreachable if no local server runs.
    """
    if url is None and data_dir is None:
        url = os.environ.get("PENSTOCK_URL") or None
    if url is not None:
        key = key if key is not None else os.environ.get("PENSTOCK_KEY")
        if not key:
            raise SettingsError(f"{url} needs an API key: give `key`, or set PENSTOCK_KEY")
        return Address(_checked_url(url), _checked_key(key))
    folder = Path(data_dir or os.environ.get("PENSTOCK_DATA_DIR") or DATA_DIR).expanduser()
    run = runfile.read(folder)
    if run is None:
        raise Unreachable(
            f"no server runs on {folder}: start one with `penstock up`,"
            " or set PENSTOCK_URL and PENSTOCK_KEY"
        )
    return Address(_checked_url(run.url), run.token if key is None else _checked_key(key))


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        right = (
            _PRINTABLE.fullmatch(url) is not None
            and parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and not (parts.query or parts.fragment or parts.username)
        )
    except ValueError:
        right = False
    if not right:
        raise SettingsError("the server's URL must look like https://penstock.example.com")
    return url.rstrip("/")


def _checked_key(key: str) -> str:
    key = key.strip()  # a file it was read from ends with a newline
    if not _PRINTABLE.fullmatch(key):
        raise SettingsError("the API key must be printable ASCII without spaces")
    return key

"""The file of profiles: servers elsewhere by a name, each with its key.

``penstock/profiles.toml`` in $XDG_CONFIG_HOME, by default ~/.config. It holds keys, so nobody
but its owner may read it (0600), and it is not read as long as somebody else could.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from penstock.errors import SettingsError

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Profile:
    """A server and the key to use with it."""

    url: str
    key: str = field(repr=False)


def path() -> Path:
    """Where the file is, or would be."""
    home = os.environ.get("XDG_CONFIG_HOME", "")
    # The specification of these folders has relative ones ignored.
    folder = Path(home) if home and Path(home).is_absolute() else Path.home() / ".config"
    return folder / "penstock" / "profiles.toml"


def read() -> dict[str, Profile]:
    """Every profile by its name; SettingsError if the file cannot be used."""
    file = path()
    try:
        if file.stat().st_mode & 0o077:
            raise SettingsError(f"{file} holds keys and others may read it: chmod 600 {file}")
        found = tomllib.loads(file.read_text("utf-8"))
        return {name: Profile(str(each["url"]), str(each["key"])) for name, each in found.items()}
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise SettingsError(f"{file} cannot be read: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError):
        pass
    # Outside of the handler: a chained error would carry what the file holds.
    raise SettingsError(f"{file} is damaged: delete it, and add the profiles again")


def get(name: str) -> Profile:
    """The profile of that name; SettingsError if there is none."""
    found = read()
    if name not in found:
        known = f"known are {', '.join(found)}" if found else "there are none yet"
        raise SettingsError(
            f"there is no profile {name!r}; {known}: `penstock profiles add {name} --url URL`"
        )
    return found[name]


def check_name(name: str) -> None:
    """SettingsError unless a profile may be called so."""
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"a profile cannot be called {name!r}: use letters, digits, - and _, 64 at most"
        )


def write(profiles: Mapping[str, Profile]) -> None:
    """Replace the file."""
    file = path()
    text = "# Written by `penstock profiles`.\n" + "".join(
        # JSON's strings are TOML's, too.
        f"\n[{name}]\nurl = {json.dumps(each.url)}\nkey = {json.dumps(each.key)}\n"
        for name, each in sorted(profiles.items())
    )
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(text)
        draft.replace(file)
    except OSError as exc:
        draft.unlink(missing_ok=True)
        raise SettingsError(f"{file} cannot be written: {exc.strerror}") from exc

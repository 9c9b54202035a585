"""Secrets at rest: sealed before they reach the database.

Fernet (AES-128-CBC with HMAC-SHA256, https://github.com/fernet/spec) under keys derived by
SHA-256 from strings of any form. Several keys make rotation possible: the first seals, every
one of them opens.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from penstock.errors import SecretBoxError

MIN_KEY_LENGTH: Final = 16
# Part of the derivation, so that the same string used elsewhere is not the same key.
_CONTEXT: Final = b"penstock secretbox v1\x00"


def generate_key() -> str:
    """A new key: 32 random bytes as URL-safe text."""
    return secrets.token_urlsafe(32)


def _derive(key: str) -> Fernet:
    if len(key) < MIN_KEY_LENGTH:
        raise SecretBoxError(f"a secret key needs at least {MIN_KEY_LENGTH} characters")
    digest = hashlib.sha256(_CONTEXT + key.encode()).digest()
    return Fernet(base64.urlsafe_b64encode(digest))


class SecretBox:
    """Seals and opens short texts."""

    __slots__ = ("_fernet",)

    def __init__(self, keys: Sequence[str]) -> None:
        if isinstance(keys, str) or not keys:
            raise SecretBoxError("a list of at least one secret key is needed")
        self._fernet = MultiFernet([_derive(key) for key in keys])

    def seal(self, text: str) -> str:
        """`text` sealed with the first key; each call gives another result."""
        return self._fernet.encrypt(text.encode()).decode("ascii")

    def open(self, sealed: str) -> str:
        """What was sealed. Raises SecretBoxError if no key fits or it was altered."""
        try:
            return self._fernet.decrypt(sealed).decode()
        except (InvalidToken, ValueError):
            raise SecretBoxError(
                "the secret was sealed with a key that is not configured, or was altered"
            ) from None


def key_in_file(path: Path) -> str:
    """The key kept in `path`; it is generated, readable by its owner only, if absent.

    Processes that start together agree on one key: the file appears complete or not at all.
    """
    try:
        return path.read_text("ascii").strip()
    except FileNotFoundError:
        pass
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(generate_key() + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)  # unlike a rename, it fails if another process was first
        _sync_folder(path.parent)  # a key lost to a power cut would take every secret along
    finally:
        draft.unlink(missing_ok=True)
    return path.read_text("ascii").strip()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

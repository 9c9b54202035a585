"""Bytes of a file as UTF-8 text, and places in that text as bytes of the file again."""

from __future__ import annotations

import codecs
from typing import Final, Literal, get_args

from penstock.predictions.refusal import Unusable, quoted

Encoding = Literal[
    "utf-8",
    "utf-16-le",
    "utf-16-be",
    "cp1250",
    "cp1251",
    "cp1252",
    "latin-1",
    "iso-8859-2",
    "iso-8859-15",
]
ENCODINGS: Final[tuple[Encoding, ...]] = get_args(Encoding)
UTF_16 = "utf-16"  # either of the two, as the mark at the beginning says
_ALIASES: Final = {
    "utf-8-sig": "utf-8",
    "ascii": "utf-8",
    "iso8859-1": "latin-1",
    "iso8859-2": "iso-8859-2",
    "iso8859-15": "iso-8859-15",
}
_WIDTH: Final = {"utf-16-le": 2, "utf-16-be": 2}


def named(name: str) -> str:
    """The encoding of this name or alias, or `UTF_16`."""
    try:
        found = codecs.lookup(name).name
    except (LookupError, ValueError):
        found = ""
    found = _ALIASES.get(found, found)
    if found != UTF_16 and found not in ENCODINGS:
        raise Unusable(
            "unknown_encoding",
            f"The encoding {quoted(name)} is not known. It is one of "
            + ", ".join((UTF_16, *ENCODINGS))
            + ".",
        )
    return found


def decode(raw: bytes, encoding: Encoding, *, offset: int, final: bool) -> bytes:
    """The bytes as UTF-8; half a character at the end is left out unless they are the last.

    UTF-8 itself is passed on unchecked, as the caller looks only at what it uses (`check`).
    Raises `Unusable` for bytes that stand for nothing; `offset` is where they are in the file.
    """
    if encoding == "utf-8":
        return raw
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    try:
        return decoder.decode(raw, final).encode()
    except UnicodeDecodeError as error:
        at = offset + error.start
        raise Unusable(
            "bad_encoding",
            f"Byte {at:,} of the file (0x{raw[error.start]:02x}) is not {encoding.upper()}. "
            "Name the encoding that the file is in, or save it as UTF-8.",
        ) from None


def check(text: bytes, *, offset: int) -> None:
    """Refuse text that is not UTF-8; `offset` is where it begins in the file."""
    if text.isascii():
        return
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise not_utf8(text, error, offset) from None


def not_utf8(text: bytes, error: UnicodeDecodeError, offset: int) -> Unusable:
    """What to say of a byte that is not UTF-8: where it is, and what it could be."""
    around = text[max(error.start - 12, 0) : error.start + 12]
    line = min(around[: min(error.start, 12)].rfind(b"\n") + 1, len(around))
    looks = around[line:].split(b"\n")[0].decode("cp1252", "replace").strip()
    return Unusable(
        "not_utf8",
        f"Byte {offset + error.start:,} of the file (0x{text[error.start]:02x}) is not UTF-8. "
        f"Read as cp1252 the place says {looks!r}: if that is right, give the encoding cp1252, "
        "else save the file as UTF-8.",
    )


def raw_length(text: bytes, encoding: Encoding) -> int:
    """How many bytes of the file this UTF-8 text is."""
    if encoding == "utf-8" or text.isascii():
        return len(text) * _WIDTH.get(encoding, 1)
    return len(text.decode().encode(encoding))

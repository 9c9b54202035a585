"""A file opened for reading; one of gzip unpacked to disk, as far as it is what it says it is."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, BinaryIO

from penstock.predictions.refusal import Unusable

MAX_RATIO = 100  # of unpacked to packed bytes; text with many repetitions reaches 20
MAX_BYTES = 100 << 30
_BLOCK = 1 << 18
_GRACE = 1 << 20  # bytes for which the ratio does not count


@contextmanager
def opened(source: Path, folder: Path) -> Iterator[BinaryIO]:
    """The file's bytes; those of a .gz unpacked in a temporary file in `folder`.

    Raises `Unusable` and OSError.
    """
    if not source.is_file():
        what = "is not a file" if source.exists() else "does not exist"
        raise Unusable("no_file", f"{source} {what}.")
    with ExitStack() as stack:
        file = stack.enter_context(source.open("rb"))
        if source.suffix.lower() == ".gz":
            unpacked = stack.enter_context(tempfile.NamedTemporaryFile(dir=folder))
            gunzip(file, unpacked)
            unpacked.flush()
            yield stack.enter_context(Path(unpacked.name).open("rb"))
        else:
            yield file


def gunzip(packed: IO[bytes], out: IO[bytes], *, max_bytes: int = MAX_BYTES) -> None:
    """Unpack. Raises `Unusable` for what is no gzip, is cut short, or grows beyond measure."""
    unpacker = zlib.decompressobj(wbits=31)
    read = written = 0
    block = b""
    while True:
        if not block:
            block = packed.read(_BLOCK)
            read += len(block)
        if not block:
            break
        try:
            if unpacker.eof:  # another member of the same file
                unpacker = zlib.decompressobj(wbits=31)
            text = unpacker.decompress(block, _BLOCK)
        except zlib.error:
            raise Unusable(
                "not_gzip", "The file is named as gzip and is not, or is damaged."
            ) from None
        block = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
        written += len(text)
        if written > max_bytes or written > _GRACE + MAX_RATIO * read:
            raise Unusable(
                "too_large_unpacked",
                f"The file unpacks to more than {written:,} bytes, which is more than a table "
                "would. Unpack it yourself if it is right.",
            )
        out.write(text)
    if not unpacker.eof:
        raise Unusable("not_gzip", "The gzip file is cut short. Copy it once more.")

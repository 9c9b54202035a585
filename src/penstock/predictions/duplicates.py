"""Ids that occur more than once, found in bounded memory among any number of rows.

Each id is remembered as a 64-bit hash and its row number in a temporary file. At the end the
hashes are looked at a share at a time, so that memory does not grow with the file; two different
ids have the same hash by accident once in some ten million files of a million rows.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

_SHORT = 32  # bytes that are hashed by columns of machine words
_SHARE = 1 << 19  # hashes that are compared at once; bytes that are read at once
EXAMPLES = 5

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MASKS = np.array([(1 << (8 * n)) - 1 for n in range(9)], dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Rows whose id stands in an earlier row too, and some (earlier, later) pairs of rows."""

    rows: int
    examples: tuple[tuple[int, int], ...]


class Ids:
    """Every id so far, as hashes on disk in `folder`."""

    def __init__(self, folder: Path | None = None) -> None:
        self._hashes = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self._rows = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._hashes.close()
        self._rows.close()

    def add(self, hashes: NDArray[np.uint64], rows: NDArray[np.int64]) -> None:
        """Remember the ids of a chunk, with their row numbers."""
        self._hashes.write(hashes.astype("<u8").tobytes())
        self._rows.write(rows.astype("<i8").tobytes())
        self._count += len(hashes)

    def duplicates(self) -> Duplicates:
        """What occurs more than once."""
        shares = -(-self._count // _SHARE)
        rows = 0
        some: list[int] = []
        for share in range(shares):
            found = np.sort(self._share(share, shares))
            again = found[1:][found[1:] == found[:-1]]
            rows += len(again)
            some += np.unique(again)[:EXAMPLES].tolist()
        return Duplicates(rows, self._examples(some[:EXAMPLES]) if some else ())

    def _blocks(self) -> Iterator[NDArray[np.uint64]]:
        self._hashes.seek(0)
        while block := self._hashes.read(_SHARE):
            yield np.frombuffer(block, dtype="<u8")

    def _share(self, share: int, shares: int) -> NDArray[np.uint64]:
        """The hashes whose upper half has this remainder."""
        found = [np.empty(0, dtype=np.uint64)]
        for block in self._blocks():
            found.append(block[(block >> np.uint64(32)) % np.uint64(shares) == share])
        return np.concatenate(found)

    def _examples(self, some: list[int]) -> tuple[tuple[int, int], ...]:
        """The first two rows of each of these hashes."""
        places: dict[int, list[int]] = {each: [] for each in some}
        wanted = np.array(some, dtype=np.uint64)
        begins = 0
        for block in self._blocks():
            for at in np.flatnonzero(np.isin(block, wanted)).tolist():
                places[int(block[at])].append(begins + at)
            begins += len(block)
        return tuple(sorted((self._row(at[0]), self._row(at[1])) for at in places.values()))

    def _row(self, place: int) -> int:
        self._rows.seek(place * 8)
        return int.from_bytes(self._rows.read(8), "little", signed=True)


def hashes(ids: Any) -> NDArray[np.uint64]:
    """A hash of each text; it depends on that text alone."""
    count = len(ids)
    _, offsets_buffer, data_buffer = ids.buffers()
    if not count or data_buffer is None:
        return np.zeros(count, dtype=np.uint64)
    offsets = np.frombuffer(offsets_buffer, dtype=np.int32)[ids.offset :][: count + 1]
    offsets = offsets.astype(np.int64)
    begin, length = offsets[:-1], np.diff(offsets)
    low, high = int(offsets[0]), int(offsets[-1])
    data = bytes(memoryview(data_buffer)[low:high]) + bytes(_SHORT + 8)
    # The eight bytes from each place on, as one number.
    words: NDArray[np.uint64] = np.ndarray(len(data) - 7, dtype="<u8", buffer=data, strides=(1,))
    mixed = length.astype(np.uint64) * _MULTIPLIER
    at = begin - low
    for place in range(0, min(int(length.max()), _SHORT), 8):
        left = np.clip(length - place, 0, 8)
        word = words[np.where(left > 0, at + place, 0)] & _MASKS[left]
        mixed = np.where(left > 0, _mix(mixed ^ word), mixed)
    for i in np.flatnonzero(length > _SHORT):
        text = data[at[i] : at[i] + length[i]]
        digest = hashlib.blake2b(text, digest_size=8).digest()
        mixed[i] = np.frombuffer(digest, dtype="<u8")[0]
    return _mix(mixed)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection that spreads each bit (the finalizer of SplitMix64, Steele et al. 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))

"""What the processes of the pool are told: plain values that can be pickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.storage.objects import Objects

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model file: its key (None = the starter model's) and the SHA-256 it was registered with."""

    key: str | None
    sha256: str


@dataclass(frozen=True, slots=True)
class FileSpec:
    """An uploaded file, and what it was when it was confirmed."""

    key: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class JobSpec:
    """All that the chunks of one prediction depend on.

    `layout` is a `chunks.Layout` as JSON; `id` and `features` are positions of columns.
    """

    objects: Objects
    file: FileSpec
    model: ModelSpec
    layout: Mapping[str, Any]
    id: int
    features: tuple[int | None, ...]
    as_of: str | None
    reject: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Where scoring goes on: the number of the chunk, and where it begins."""

    number: int
    byte: int
    row: int
    line: int


@dataclass(frozen=True, slots=True)
class ChunkDone:
    """A chunk that was scored and stored. `sizes` are those of its object's sections."""

    number: int
    start: int
    next: Place
    rows_scored: int
    rows_set_aside: int
    first_error: str
    sizes: tuple[int, ...]
    sha256: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ChunkAt:
    """A chunk as the ledger remembers it."""

    number: int
    sizes: tuple[int, ...]
    sha256: str


@dataclass(frozen=True, slots=True)
class FinishSpec:
    """What is put together at the end. `notes` and `matches` are from the beginning, as JSON."""

    job: JobSpec
    folder: str
    filename: str
    chunks: tuple[ChunkAt, ...]
    notes: tuple[JsonObject, ...]
    matches: tuple[JsonObject, ...]


def part_key(folder: str, number: int) -> str:
    """The object of a chunk."""
    return f"{folder}/parts/{number:06}"

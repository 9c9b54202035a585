"""What an uploaded file is, and which of its columns are a model's."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from penstock.predictions import records
from penstock.predictions.beside.models import loaded
from penstock.predictions.chunks import Layout
from penstock.predictions.encoding import decode, raw_length
from penstock.predictions.mapping import Match, label_position, propose, settle
from penstock.predictions.model import Model
from penstock.predictions.refusal import Question, Unusable
from penstock.predictions.sniff import SAMPLE, Given, sniff
from penstock.predictions.specs import ModelSpec
from penstock.predictions.unpack import gunzip
from penstock.storage.objects import Objects

SHOWN = 100  # characters of a sample


def unpack(objects: Objects, packed: str, key: str, most: int) -> tuple[int, str]:
    """Unpack a gzip; the size and the SHA-256 of what was in it."""
    with objects.open(packed) as file, objects.writing(key) as out:
        gunzip(file, out, max_bytes=most)
        out.flush()
        out.seek(0)
        digest = hashlib.sha256()
        while block := out.read(1 << 20):
            digest.update(block)
        return out.tell(), digest.hexdigest()


def usable(objects: Objects, known: ModelSpec) -> bool:
    """Whether the model's file is there and whole."""
    try:
        loaded(objects, known)
    except Unusable:
        return False
    return True


def look(
    objects: Objects, key: str, given: Mapping[str, Any], known: ModelSpec | None
) -> dict[str, Any]:
    """How a file is laid out, as JSON: `layout` and `facts`; or the `question` that it raises.

    Raises `Unusable`.
    """
    model = None if known is None else loaded(objects, known)
    with objects.open(key) as file:
        try:
            found = sniff(file, Given(**given), known=_names(model))
        except Question as question:
            asked = {
                "code": question.code,
                "message": question.message,
                "option": question.option,
            }
            return {"layout": None, "facts": {"question": asked}}
        layout = found.layout
        width = len(layout.names) - layout.trailing
        file.seek(layout.start)
        about = _rows(file.read(SAMPLE), layout, (objects.size(key) or 0) - layout.start)
    samples = [[cell[:SHOWN] for cell in row[:width]] for row in found.samples]
    facts = {
        "samples": samples,
        "notes": [asdict(note) for note in found.notes],
        "rows_about": about,
    }
    return {"layout": asdict(layout), "facts": facts}


def _names(model: Model | None) -> Collection[str]:
    if model is None:
        return ()
    return [model.id_column, *(feature.column.name for feature in model.features)]


def _rows(raw: bytes, layout: Layout, size: int) -> int:
    """About how many rows there are, by the length of the first."""
    final = len(raw) < SAMPLE
    text = decode(raw, layout.encoding, offset=layout.start, final=final)
    if layout.encoding == "utf-8":
        text = text.decode("utf-8", "ignore").encode()  # half a character at the end
    ends = records.record_ends(text, layout.delimiter, final=final)
    if not ends.size:
        return 1
    if final:
        return int(ends.size)
    return round(size * int(ends.size) / raw_length(text[: int(ends[-1])], layout.encoding))


def proposed(
    objects: Objects, spec: ModelSpec, names: Sequence[str], given: Mapping[str, str]
) -> dict[str, Any]:
    """For each column of the model the one of the file that is proposed, as JSON.

    `given` are the answers of earlier files with this header.
    """
    model = loaded(objects, spec)
    wanted = [model.id_column, *(feature.column.name for feature in model.features)]
    by_name = {match.wanted: match for match in propose(wanted, names)}
    for want, place in given.items():
        if want in by_name:
            position = int(place[1:]) - 1
            by_name[want] = Match(want, position, names[position], 1.0, "given")
    return {
        "matches": [asdict(by_name[want]) for want in wanted],
        "label": label_position(model, names),
        "required": [
            model.id_column,
            *(each.column.name for each in model.features if each.column.required),
        ],
    }


def settled(
    objects: Objects,
    spec: ModelSpec,
    names: Sequence[str],
    given: Mapping[str, str],
    remembered: Mapping[str, str],
    allow_missing: Sequence[str],
) -> dict[str, Any]:
    """The mapping by which a file will be scored, as JSON. Raises `Question` and `Unusable`.

    What was remembered holds unless something else is said; what of it the model does not have
    any more is left out.
    """
    model = loaded(objects, spec)
    wanted = {model.id_column, *(feature.column.name for feature in model.features)}
    taken = set(given.values())
    earlier = {
        want: place
        for want, place in remembered.items()
        if want in wanted and want not in allow_missing and place not in taken
    }
    for name in allow_missing:
        if name == model.id_column:
            raise Unusable("missing_column", "The id column cannot be missing.")
    mapped, matches = settle(model, names, given={**earlier, **given}, allow_missing=allow_missing)
    return {
        "id": mapped.id,
        "features": list(mapped.features),
        "matches": [asdict(match) for match in matches],
        "dated": any(feature.column.kind == "date" for feature in model.features),
        "demo": model.demo,
    }

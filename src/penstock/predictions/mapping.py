"""Which column of a file is which column of the model.

Names are proposed to belong together with a confidence; only what is certain is taken without
asking. From then on columns are known by their position, so that a header that is odd, or cleaned
on the way, cannot shift anything.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from penstock.predictions.check import Mapped
from penstock.predictions.contract import fold
from penstock.predictions.model import Model
from penstock.predictions.refusal import Question, Unusable, quoted

CERTAIN: Final = 0.95
_WORTH_ASKING = 0.5
_DOUBT = 0.9  # of a likeness: names that are only similar are never certain
_PAIRS = 50_000  # more are not compared letter by letter
_NOT_A_LETTER = re.compile(r"[\W_]+")

How = Literal["same", "spelling", "similar", "given", "none"]


@dataclass(frozen=True, slots=True)
class Match:
    """The column that is proposed for `wanted`: its position and name, or None.

    `confidence` is 1 for the same name, 0.99 if only case, width or blanks differ, 0.95 if only
    punctuation does, and less for a likeness that has to be confirmed.
    """

    wanted: str
    position: int | None
    name: str | None
    confidence: float
    how: How


def propose(wanted: Sequence[str], names: Sequence[str]) -> tuple[Match, ...]:
    """The best column for each name that is wanted; no column is proposed twice."""
    chosen: dict[int, Match] = {}
    taken: set[int] = set()
    for alike, confidence, how in _ALIKE:
        by_key: dict[str, int] = {}
        for position, name in enumerate(names):
            if position not in taken and (key := alike(name)):
                by_key.setdefault(key, position)
        for i, want in enumerate(wanted):
            found = by_key.pop(alike(want), None) if i not in chosen else None
            if found is not None:
                chosen[i] = Match(want, found, names[found], confidence, how)
                taken.add(found)
    for i, position, confidence in _similar(wanted, names, chosen, taken):
        if i not in chosen and position not in taken:
            chosen[i] = Match(wanted[i], position, names[position], confidence, "similar")
            taken.add(position)
    return tuple(
        chosen.get(i) or Match(want, None, None, 0.0, "none") for i, want in enumerate(wanted)
    )


def _same(name: str) -> str:
    return name


def _letters(name: str) -> str:
    return _NOT_A_LETTER.sub("", fold(name))


_ALIKE: Final[tuple[tuple[Callable[[str], str], float, How], ...]] = (
    (_same, 1.0, "same"),
    (fold, 0.99, "spelling"),
    (_letters, CERTAIN, "spelling"),
)


def _similar(
    wanted: Sequence[str], names: Sequence[str], chosen: Collection[int], taken: Collection[int]
) -> list[tuple[int, int, float]]:
    """Pairs of what is left that are alike, the most alike first."""
    wants = [i for i in range(len(wanted)) if i not in chosen]
    free = [position for position in range(len(names)) if position not in taken]
    if len(wants) * len(free) > _PAIRS:
        return []
    found = []
    for i in wants:
        matcher = difflib.SequenceMatcher(None, b=_letters(wanted[i]), autojunk=False)
        for position in free:
            matcher.set_seq1(_letters(names[position])[:100])
            if matcher.quick_ratio() * _DOUBT >= _WORTH_ASKING:
                confidence = round(matcher.ratio() * _DOUBT, 2)
                if confidence >= _WORTH_ASKING:
                    found.append((i, position, confidence))
    return sorted(found, key=lambda pair: -pair[2])


def settle(
    model: Model,
    names: Sequence[str],
    *,
    id_column: str | None = None,
    given: Mapping[str, str] | None = None,
    allow_missing: Collection[str] = (),
) -> tuple[Mapped, tuple[Match, ...]]:
    """The mapping of a file with this header to the model, and how each column was found.

    `given` maps the model's names to the file's, or to positions such as ``#3``. Features in
    `allow_missing` may be absent from the file. Raises `Question` where a name is only similar,
    `Unusable` where there is nothing, or two columns have the name.
    """
    given = dict(given or {})
    if id_column is not None:
        given[model.id_column] = id_column
    wanted = [model.id_column, *(feature.column.name for feature in model.features)]
    _known(set(given) | set(allow_missing), wanted)
    # A column that the model knows by another role is no candidate for these.
    open_ones = [want for want in wanted if want not in given]
    proposed = {match.wanted: match for match in propose(open_ones, names)}
    for want, name in given.items():
        position = _find(name, names)
        proposed[want] = Match(want, position, names[position], 1.0, "given")
    matches = tuple(proposed[want] for want in wanted)
    _refuse_duplicates(matches, names)
    _refuse_missing(matches, names, allow_missing)
    _refuse_sharing(matches)
    certain = [match.position if match.confidence >= CERTAIN else None for match in matches]
    assert certain[0] is not None
    return Mapped(certain[0], tuple(certain[1:])), matches


def label_position(model: Model, names: Sequence[str]) -> int | None:
    """Where the file has the column that the model predicts, if it has."""
    wanted = fold(model.label.column)
    return next((i for i, name in enumerate(names) if fold(name) == wanted), None)


def _known(asked: Collection[str], wanted: Sequence[str]) -> None:
    for name in sorted(asked):
        if name not in wanted:
            raise Unusable(
                "unknown_column",
                f"The model has no column {quoted(name)}. It has " + ", ".join(wanted) + ".",
            )


def _find(name: str, names: Sequence[str]) -> int:
    if re.fullmatch(r"#[0-9]{1,4}", name):
        position = int(name[1:]) - 1
        if not 0 <= position < len(names):
            raise Unusable("unknown_column", f"The file has no column {name}: it has {len(names)}.")
        return position
    found = [i for i, each in enumerate(names) if each == name]
    found = found or [i for i, each in enumerate(names) if fold(each) == fold(name)]
    if not found:
        raise Unusable(
            "unknown_column",
            f"The file has no column {quoted(name)}. It has " + ", ".join(names[:50]) + ".",
        )
    if len(found) > 1:
        raise _duplicate(names[found[0]], found)
    return found[0]


def _duplicate(name: str, positions: Sequence[int]) -> Question:
    which = " and ".join(f"#{i + 1}" for i in positions)
    return Question(
        "duplicate_column",
        f"The columns {which} are both named {quoted(name)}, and the model needs one of that "
        "name. Rename the other, or name the right one by its number.",
        "map",
    )


def _refuse_duplicates(matches: Sequence[Match], names: Sequence[str]) -> None:
    for match in matches:
        if match.name is None or match.how == "given" or match.confidence < CERTAIN:
            continue
        key = fold(match.name)
        same = [i for i, name in enumerate(names) if fold(name) == key]
        if len(same) > 1:
            raise _duplicate(match.name, same)


def _refuse_missing(
    matches: Sequence[Match], names: Sequence[str], allowed: Collection[str]
) -> None:
    lacking = [m for m in matches if m.confidence < CERTAIN and m.wanted not in allowed]
    if not lacking:
        return
    similar = [match for match in lacking if match.position is not None]
    nothing = [match.wanted for match in lacking if match.position is None]
    if nothing:
        raise Question(
            "missing_column",
            "The model needs "
            + ", ".join(quoted(name) for name in nothing)
            + ", which the file does not have under that name (it has "
            + ", ".join(names[:30])
            + (", …" if len(names) > 30 else "")
            + "). Map another column to it, or allow it to be missing.",
            "map",
        )
    raise Question(
        "unclear_mapping",
        " ".join(
            f"Is the file's {quoted(match.name or '')} the model's {quoted(match.wanted)}?"
            for match in similar
        )
        + " Confirm by mapping it, or allow the column to be missing.",
        "map",
    )


def _refuse_sharing(matches: Sequence[Match]) -> None:
    seen: dict[int, str] = {}
    for match in matches:
        if match.position is None or match.confidence < CERTAIN:
            continue
        if match.position in seen:
            raise Unusable(
                "duplicate_column",
                f"{quoted(match.name or '')} is mapped to {quoted(seen[match.position])} and to "
                f"{quoted(match.wanted)}. It can be one of them.",
            )
        seen[match.position] = match.wanted

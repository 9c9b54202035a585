"""How a column of text writes numbers or dates: decided from all of it, or asked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, cast

from penstock.predictions.contract import DateOrder, NumberFormat, is_affix, is_optional
from penstock.predictions.refusal import Answer, Question, quoted

# Optional sign or parenthesis, something before, digits with separators, something after. What
# stands beside the number is short, or trying how far it reaches would take a long cell for ever.
_NUMBER = re.compile(
    r"(?P<open>\()?[+-]?\s*(?:(?P<prefix>[^0-9\s.,'()+-][^0-9.,'()+-]{0,15}?)\s*)?[+-]?"
    r"(?P<core>[0-9](?:[0-9.,'\u00a0\u202f\u2009 ]*[0-9])?\.?|[.,][0-9]+)"
    r"(?P<exponent>[eE][+-]?[0-9]+)?\s*"
    r"(?:(?P<suffix>[^0-9\s.,'()+-][^0-9.,'()+-]{0,15}?)\s*)?(?(open)\))"
)
_CODE = re.compile(r"[A-Z]{3}")  # of a currency
_SPACES = re.compile("[\u00a0\u202f\u2009 ]")
Shape = tuple[str, str, str]  # prefix, core, suffix


def shape(text: str) -> Shape | None:
    """The parts of a cell that looks like a number in some way of writing; None for others."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    prefix, suffix = match["prefix"] or "", match["suffix"] or ""
    # "Plan 5" and "Tier 1" are names; "$ 5" and "EUR 5" are amounts.
    if prefix and not (is_optional(prefix) or _CODE.fullmatch(prefix)):
        return None
    if not is_affix(prefix) or not is_affix(suffix):
        return None
    return prefix, _SPACES.sub(" ", match["core"]), suffix


def number_format(
    name: str, shapes: Sequence[Shape], decimal: Literal["point", "comma"] | None
) -> NumberFormat:
    """The format of a column whose cells have these shapes. Raises `Question`."""
    prefix = _affix(name, {before for before, _, _ in shapes})
    suffix = _affix(name, {after for _, _, after in shapes})
    cores = [core for _, core, _ in shapes]
    point, group = _separators(name, cores, decimal)
    return NumberFormat(point, group, prefix, suffix)


def _affix(name: str, found: set[str]) -> str:
    """The one thing that stands beside the column's numbers, if any."""
    named = sorted(found - {""})
    if not named:
        return ""
    if len(named) > 1 or ("" in found and not is_optional(named[0])):
        texts = ", ".join(quoted(text) for text in (*named, *([""] if "" in found else [])))
        raise Question(
            "mixed_units",
            f"The numbers of {quoted(name)} come with different units ({texts}), so they cannot "
            "be compared. Bring them to one unit, or drop the column.",
            "drop",
            (Answer("drop", column=name),),
        )
    return named[0]


Decimal = Literal[".", ","]
Group = Literal["", ",", ".", "'", " "]


def _separators(
    name: str, cores: Iterable[str], decimal: Literal["point", "comma"] | None
) -> tuple[Decimal, Group]:
    """Which character is the decimal separator and which one separates thousands.

    A lone separator with three digits behind it ("1,234") can be either. If no other cell of the
    column decides, it is asked.
    """
    points: dict[str, str] = {}
    groups: dict[str, str] = {}
    unclear: dict[str, str] = {}
    for core in cores:
        used = [char for char in core if char in ".,' "]
        kinds = list(dict.fromkeys(used))
        if not used:
            continue
        if kinds[0] in "' ":
            groups.setdefault(kinds[0], core)
            if len(kinds) > 1:
                points.setdefault(kinds[1], core)
        elif len(kinds) > 1:
            groups.setdefault(kinds[0], core)
            points.setdefault(kinds[-1], core)
        elif len(used) > 1:
            groups.setdefault(kinds[0], core)
        else:
            whole, _, rest = core.partition(kinds[0])
            if len(rest) == 3 and 1 <= len(whole) <= 3 and not whole.startswith("0"):
                unclear.setdefault(kinds[0], core)
            else:
                points.setdefault(kinds[0], core)
    if decimal is not None:
        points = {"." if decimal == "point" else ",": "", **points}
    elif not points and not groups and unclear:
        example = next(iter(unclear.values()))
        raise Question(
            "decimal_separator",
            f"{quoted(name)} has numbers such as {quoted(example)}, which may be a thousand and "
            "something or one and a fraction. Say what separates the decimals.",
            "decimal",
            (Answer("decimal", "point"), Answer("decimal", "comma")),
        )
    if len(points) > 1 or (len(points) == 1 and next(iter(points)) in groups) or len(groups) > 1:
        seen = [core for core in (*points.values(), *groups.values()) if core]
        examples = ", ".join(quoted(core) for core in dict.fromkeys(seen))
        raise Question(
            "mixed_decimals",
            f"The numbers of {quoted(name)} are not written in one way: {examples}. Write them "
            "alike, or drop the column.",
            "drop",
            (Answer("drop", column=name),),
        )
    point = next(iter(points), None)
    group = next(iter(groups), None)
    for separator in unclear:
        if point is None and separator != group:
            point = separator
        elif separator not in (point, group):
            group = separator
    if point is None:
        point = "," if group == "." else "."
    return cast(Decimal, point), cast(Group, group or "")


_DAY = re.compile(r"([0-9]{1,4})([-/.])([0-9]{1,2})\2([0-9]{1,4})(?:[T ].*)?")


def is_date(text: str) -> bool:
    """Whether a cell looks like a date with a year of four digits."""
    match = _DAY.fullmatch(text.strip())
    return match is not None and {len(match[1]), len(match[4])} & {4} == {4}


def date_order(name: str, texts: Iterable[str], told: DateOrder | None) -> DateOrder:
    """The order of day, month and year in cells that all look like dates. Raises `Question`."""
    orders: dict[str, str] = {}
    example = ""
    for text in texts:
        match = _DAY.fullmatch(text.strip())
        if match is None:
            continue
        example = example or text
        if len(match[1]) == 4:
            orders.setdefault("ymd", text)
        elif int(match[1]) > 12:
            orders.setdefault("dmy", text)
        elif int(match[3]) > 12:
            orders.setdefault("mdy", text)
        else:
            orders.setdefault("", text)
    decided = [order for order in orders if order]
    if len(decided) > 1 or ("ymd" in decided and "" in orders):
        examples = ", ".join(quoted(text) for text in orders.values())
        raise Question(
            "mixed_dates",
            f"The dates of {quoted(name)} are not written in one way: {examples}. Write them as "
            "2026-01-31, or drop the column.",
            "drop",
            (Answer("drop", column=name),),
        )
    if decided:
        return cast(DateOrder, decided[0])
    if told is None:
        raise Question(
            "date_order",
            f"{quoted(name)} has dates such as {quoted(example)}, where day and month cannot be "
            "told apart. Say their order.",
            "date_order",
            (Answer("date_order", "dmy"), Answer("date_order", "mdy")),
        )
    return told

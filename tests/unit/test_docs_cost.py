"""The arithmetic of docs/cost.md."""

from __future__ import annotations

import ast
import operator
import re
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "cost.md"
TEXT = PAGE.read_text()

# What is calculated: digits, signs and brackets, then what comes of it.
_SUM = re.compile(r"(\(?[\d.][\d.()×/+\s-]*[×/+-][\d.()×/+\s-]*) = ([\d.]+\d)")
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def value(text: str) -> Decimal:
    """What a formula comes to."""

    def of(node: ast.expr) -> Decimal:
        if isinstance(node, ast.Constant):
            assert node.value is not None
            return Decimal(ast.get_source_segment(source, node) or "")
        assert isinstance(node, ast.BinOp), ast.dump(node)
        found: Decimal = _OPERATORS[type(node.op)](of(node.left), of(node.right))
        return found

    source = " ".join(text.replace("×", "*").split())
    return of(ast.parse(source, mode="eval").body)


def rounded(what: Decimal, like: str) -> Decimal:
    return what.quantize(Decimal(like), ROUND_HALF_UP)


def tables() -> list[list[list[str]]]:
    """Every table's rows, the head left out."""
    found: list[list[list[str]]] = []
    for block in re.findall(r"(?:^\|.*\n)+", TEXT, re.M):
        rows = [line.strip("|").split("|") for line in block.splitlines()]
        found.append([[cell.strip() for cell in row] for row in rows[2:]])
    return found


def test_every_formula_comes_to_what_is_said() -> None:
    prose = re.sub(r"`[^`]*`", "", TEXT)
    found = _SUM.findall(prose)
    assert len(found) > 50
    assert prose.count(" = ") == len(found)
    for formula, said in found:
        assert rounded(value(formula), said) == Decimal(said), f"{formula} = {said}"


def test_columns_add_up() -> None:
    summed = 0
    for table in tables():
        *rows, last = table
        if last[0] != "**together**":
            continue
        money = [row for row in rows if not row[0].startswith(("events a month", "stored"))]
        for column in range(1, len(last)):
            parts = [Decimal(row[column].rpartition(" = ")[2]) for row in money]
            assert sum(parts) == Decimal(last[column].strip("*")), last
            summed += 1
    assert summed == 8


def test_every_price_that_is_listed_is_used_and_says_where_it_is_from() -> None:
    listed = set(re.findall(r"\d+\.\d+", "\n".join(row[1] for row in tables()[0])))
    for row in tables()[0]:
        assert row[2] == "the same" or row[2].startswith("aws.amazon.com/"), row
    used = set()
    for formula, _ in _SUM.findall(TEXT):
        used |= set(re.findall(r"\d+\.\d+", formula))
    assert listed <= used

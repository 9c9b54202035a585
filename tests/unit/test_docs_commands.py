"""Every `penstock …` in the docs is a command that there is, with options that it has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from penstock.cli import app

DOCS = Path(__file__).parents[2] / "docs"
# reference/cli.md is written from the commands themselves.
PAGES = sorted(set(DOCS.rglob("*.md")) - {DOCS / "reference" / "cli.md"})
ROOT: Any = typer.main.get_command(app)

_CODE = re.compile(r"^```sh[^\n]*\n(.*?)^```|`([^`\n]+)`", re.M | re.S)
_COMMAND = re.compile(
    r"(?:^|[\s(;&|])penstock( +(?:[a-z]|--)[^\s|;&)<>]*(?: +[^\s|;&)<>]+)*)", re.M
)


def commands(text: str) -> Iterator[list[str]]:
    """The words after `penstock`, wherever it is called."""
    for block, span in _CODE.findall(text):
        code = re.sub(r"\$\([^()]*\)", "VALUE", (block or span).replace("\\\n", " "))
        for words in _COMMAND.findall(code):
            yield words.split()


def problem(words: list[str]) -> str | None:
    """What is wrong with a call, if anything is."""
    found = ROOT
    rest = list(words)
    while hasattr(found, "commands"):  # typer brings a click of its own
        if not rest or rest[0].startswith("-") or not re.fullmatch(r"[a-z-]+", rest[0]):
            break
        name = rest.pop(0)
        inner = found.commands.get(name)
        if inner is None:
            return f"there is no command {name}"
        found = inner
    options = {option for each in found.params for option in [*each.opts, *each.secondary_opts]}
    given = [word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)]
    unknown = [name for name in given if name not in {*options, "--help", "-h"}]
    return f"{found.name} has no {unknown[0]}" if unknown else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_commands_and_options_exist(page: Path) -> None:
    wrong = [
        f"penstock {' '.join(words)}: {reason}"
        for words in commands(page.read_text())
        if (reason := problem(words)) is not None
    ]
    assert wrong == []


def test_it_looks_at_what_is_called() -> None:
    text = "`penstock dead redrive dlv_…` and\n```sh no-run\nx | penstock nothing --at all\n```\n"
    first, second = commands(text)
    assert problem(first) is None
    assert problem(second) == "there is no command nothing"
    assert problem(["queue", "stats", "--jsn"]) == "stats has no --jsn"

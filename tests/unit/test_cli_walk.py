"""What every command has in common, looked at command by command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from penstock.cli import app
from support.command import cli

# These run until they are stopped, or are another program's.
PROCESSES = {"up", "api", "worker", "scheduler", "demo", "run-claimed-row"}
# Those that also work on a data folder without a server.
EITHER = {"keys create", "keys list", "keys revoke"}
DUMMIES = {
    "payload": "{}",
    "rate": "1",
    "version": "1",
    "since": "2026-01-01T00:00:00Z",
    "for_": "1m",
    "url": "https://x.example",
}


def _walk(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    for word, sub in command.commands.items():
        full = f"{name} {word}".strip()
        if hasattr(sub, "commands"):
            yield from _walk(sub, full)
        else:
            yield full, sub


COMMANDS = dict(_walk(typer.main.get_command(app)))
REMOTE = sorted(
    name for name, each in COMMANDS.items() if "profile" in {p.name for p in each.params}
)


def _options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - PROCESSES))
def test_each_prints_json_if_asked_and_says_what_it_is_for(name: str) -> None:
    command = COMMANDS[name]

    assert "--json" in _options(command)
    assert command.help.strip().splitlines()[0].endswith((".", ":"))
    assert all(p.help for p in command.params if p.param_type_name == "option")


@pytest.mark.parametrize("name", REMOTE)
def test_each_that_asks_a_server_says_so_when_there_is_none(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.csv").write_text("a\n")
    command = COMMANDS[name]
    assert {"--data", "--url", "--key", "--profile"} <= _options(command)
    if name in EITHER:
        return
    given: list[str] = []
    for parameter in command.params:
        if not parameter.required:
            continue
        dummy = DUMMIES.get(parameter.name, "file.csv")
        given += [dummy] if parameter.param_type_name == "argument" else [parameter.opts[0], dummy]
    if name in ("dead redrive", "dead drop", "events replay"):
        given += ["--all"] if name == "events replay" else ["dlv_1"]

    ran = cli(*name.split(), *given, data=tmp_path / "none")

    assert (ran.code, ran.stdout) == (4, ""), ran
    (line,) = ran.stderr.splitlines()
    assert "no server runs on" in line
    assert "penstock up" in line

"""Fixtures for tests that play against real processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from support.client import Api
from support.ports import reserved
from support.process import Process, Up
from support.receiver import Receiver


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A server that the tests of a module share; none may stop it."""
    with Up(tmp_path_factory.mktemp("shared") / "data") as running:
        yield running


@pytest.fixture
async def api(server: Up) -> AsyncIterator[Api]:
    """The shared server's API, as its admin."""
    async with Api(server.url, server.token) as client:
        yield client


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as running:
        yield running


@pytest.fixture
def port() -> Iterator[int]:
    """A port that nobody listens on, kept for the servers that the test starts there."""
    with reserved() as kept:
        yield kept


_numbers = count(1)


@pytest.fixture
def topic() -> str:
    """An event type that no other test uses."""
    return f"topic{next(_numbers)}"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts processes: `start(Up, data, …)`; those that still run at the end are killed."""
    with ExitStack() as stack:

        def begin(kind: Callable[..., Process], *arguments: Any, **options: Any) -> Process:
            return stack.enter_context(kind(*arguments, **options))

        yield begin

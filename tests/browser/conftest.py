"""A server, a receiver and a browser that the tests of a module share."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from support import chromium
from support.chromium import Visitor
from support.process import Up


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def server(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("console") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def receiver() -> Iterator[str]:
    with chromium.receiver() as address:
        yield address


Call = Callable[[str, str, Any], Any]


@pytest.fixture(scope="module")
def call(server: Up) -> Call:
    """Asks the API as the operator: method, path, body."""

    def ask(method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(server.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            raw = answer.read()
            return json.loads(raw) if raw else None

    return ask


@pytest.fixture(scope="module")
def key(call: Call) -> str:
    """An API key that may do everything."""
    return str(call("POST", "/v1/keys", {"name": "the tests"})["key"])


@pytest.fixture
def visit(browser: Browser, server: Up, key: str) -> Iterator[Callable[..., Visitor]]:
    """Opens a browser window of its own, signed in unless told otherwise."""
    opened: list[Visitor] = []

    def begin(*, signed_in: bool = True, **options: Any) -> Visitor:
        visitor = Visitor(browser, server.url, **options)
        opened.append(visitor)
        if signed_in:
            visitor.sign_in(key)
        return visitor

    yield begin
    for visitor in opened:
        visitor.close()

"""The page at `/`, through the application."""

from __future__ import annotations

import base64
import hashlib
import re
from html import unescape

import pytest

from penstock.api import welcome
from penstock.api.routing import Route


def test_it_says_what_runs_and_that_it_is_ready() -> None:
    text = welcome.page("1.2.3", ["jobs", "events"], {"database": None, "wakeups": None})
    assert "1.2.3" in text
    assert "jobs, events" in text
    assert '<span class="good">yes</span>' in text


def test_it_says_what_is_wrong() -> None:
    text = welcome.page("1", [], {"database": "no <answer>", "wakeups": None})
    assert "no: database: no &lt;answer&gt;" in text
    assert "wakeups" not in text


def test_commands_can_be_copied_as_they_are() -> None:
    text = welcome.page("1", [], {})
    shown = [unescape(found) for found in re.findall(r"<code>(.*?)</code>", text)]
    assert shown == [command for _, command in welcome.COMMANDS]


def test_nothing_but_its_own_style_may_be_loaded() -> None:
    text = welcome.page("1", [], {})
    policy = welcome._HEADERS["Content-Security-Policy"]
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert not re.search(r"<script|\ssrc=|\sstyle=|\son[a-z]+=|https?://", text)


@pytest.mark.anyio
async def test_the_answer_is_a_page_with_its_policy() -> None:
    class Passed:
        async def run(self) -> dict[str, str | None]:
            return {"database": None}

    (route,) = welcome.routes(check=Passed(), version="1.2.3", services=["jobs"]).routes  # type: ignore[arg-type]
    assert isinstance(route, Route)
    assert route.path == "/"
    answer = await route.endpoint()
    assert answer.status_code == 200
    assert answer.media_type == "text/html"
    assert all(answer.headers[name] == value for name, value in welcome._HEADERS.items())
    assert b"1.2.3" in answer.body

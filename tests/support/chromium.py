"""Headless Chromium, driven by Playwright; a receiver for what the console sends."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, sync_playwright

from support.node import packages

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 30.0  # seconds, on a busy machine
SIZES = {"narrow": {"width": 360, "height": 740}, "wide": {"width": 1440, "height": 900}}
# Pages look for news as often as people can follow; the tests need not wait that long.
HASTE = """{
  const later = window.setTimeout;
  window.setTimeout = (act, wait, ...given) => later(act, wait / 6, ...given);
}"""
MARKUP = '<img src=x onerror="document.title=1"><b>bold</b>'


@contextmanager
def chromium() -> Iterator[Browser]:
    """The machine's own Chromium (Debian's package is called so); skips where there is none."""
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        # Its own sandbox wants privileges that containers do not give; the pages are ours.
        browser = playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--disable-dev-shm-usage"],
            timeout=PATIENCE * 2000,
        )
        try:
            yield browser
        finally:
            browser.close()


def axe() -> str:
    """The source of axe-core, in the version that tests/browser/package-lock.json pins."""
    found = packages(Path(__file__).parents[1] / "browser")
    return (found / "node_modules" / "axe-core" / "axe.min.js").read_text()


class Visitor:
    """A person at a browser. Without JavaScript they load a page again to see what changed."""

    def __init__(self, browser: Browser, url: str, *, script: bool = True, **options: Any) -> None:
        self.url = url
        self.script = script
        self.complaints: list[str] = []
        self.context: BrowserContext = browser.new_context(
            base_url=url, java_script_enabled=script, **options
        )
        self.context.set_default_timeout(PATIENCE * 1000)
        self.context.add_init_script(HASTE)
        self.page: Page = self.context.new_page()
        self.page.on("dialog", lambda dialog: dialog.accept())
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._hear)

    def _hear(self, message: Any) -> None:
        # Chromium says so of every answer that is no 2xx, also where the page is meant to be.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def sign_in(self, key: str) -> None:
        self.page.goto("/sign-in")
        self.page.fill("input[name=key]", key)
        self.press("Sign in")

    def press(self, label: str, within: str = "body") -> None:
        """Press a button, of which each leads to a page; returns when that is there."""
        self.leads(self.page.locator(within).get_by_role("button", name=label, exact=True))

    def follow(self, label: str) -> None:
        """Follow a link; returns when the page is there."""
        self.leads(self.page.get_by_role("link", name=label, exact=True))

    def leads(self, to: Locator) -> None:
        """Click what leads to another page, and wait for all of that.

        A click alone returns sooner: what is read then may be half of a page, or of the one before.
        """
        with self.page.expect_navigation():
            to.first.click()

    def fill(self, **fields: str) -> None:
        for name, value in fields.items():
            box = self.page.locator(f"main [name={name.rstrip('_')}]").first
            if box.evaluate_handle("box => box.tagName").json_value() == "SELECT":
                box.select_option(value)
            else:
                box.fill(value)

    @property
    def text(self) -> str:
        return self.page.inner_text("body")

    def until(self, holds: str | Callable[[str], bool]) -> str:
        """The page's text once it shows what is waited for."""
        deadline = time.monotonic() + PATIENCE
        while True:
            text = self.text
            if holds in text if isinstance(holds, str) else holds(text):
                return text
            assert time.monotonic() < deadline, text
            self.page.wait_for_timeout(100)
            if not self.script:
                self.page.reload()

    def close(self) -> None:
        self.context.close()
        assert self.complaints == []


def wrong_with(person: Visitor, source: str) -> list[str]:
    """What axe-core, whose source is given, finds on the page."""
    person.page.evaluate(source)
    violations = person.page.evaluate(
        "async () => (await axe.run({resultTypes: ['violations']})).violations"
    )
    return [
        f"{each['id']} ({each['impact']}): {each['nodes'][0]['html']}"
        for each in violations
        if each["impact"] in ("serious", "critical", "moderate")
    ]


@contextmanager
def receiver() -> Iterator[str]:
    """Takes what comes to /ok, never takes what comes to /later, refuses all else with markup."""
    answers = {"/ok": (200, b"thank you"), "/later": (503, b'{"error": "maintenance"}')}

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, body = answers.get(self.path, (422, MARKUP.encode()))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Take)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

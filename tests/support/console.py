"""The console over real sockets, as a browser without JavaScript sees it."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn

from penstock.api import keys
from penstock.runtime import Runtime, open_runtime
from penstock.schema import migrate
from penstock.settings import load_settings

TOKEN = "operator-token-of-the-tests-012345"


@dataclass
class Form:
    """A form: where it goes, its fields with their values, its buttons' own targets."""

    action: str
    method: str
    fields: list[tuple[str, str]] = field(default_factory=list)
    buttons: list[str] = field(default_factory=list)
    boxes: list[tuple[str, str]] = field(default_factory=list)  # that are not ticked
    files: list[str] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: Form | None = None
        self._choice: str | None = None
        self._taken = False  # an option of it
        self._writing: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag == "form":
            self._open = Form(found.get("action") or "", found.get("method") or "get")
            self.forms.append(self._open)
        elif self._open is not None:
            self._in_form(self._open, tag, found)

    def _in_form(self, form: Form, tag: str, found: dict[str, str | None]) -> None:
        name, value = found.get("name") or "", found.get("value") or ""
        if tag == "button":
            form.buttons.append(found.get("formaction") or form.action)
        elif tag == "select":
            self._choice, self._taken = name, False
            form.fields.append((name, ""))
        elif tag == "option" and self._choice is not None:
            # The first one, unless another is selected; one without a value is its own text.
            if not self._taken or "selected" in found:
                self._taken = True
                form.fields[-1] = (self._choice, value)
                if "value" not in found:
                    self._writing = "option"
        elif tag == "textarea":
            form.fields.append((name, ""))
            self._writing = tag
        elif found.get("type") == "checkbox" and "checked" not in found:
            form.boxes.append((name, value))
        elif found.get("type") == "file":
            form.files.append(name)
        elif name:
            form.fields.append((name, value))

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._open = None
        elif tag == "select":
            self._choice = None
        if tag == self._writing:
            self._writing = None

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._writing is not None and self._open is not None:
            name, value = self._open.fields[-1]
            self._open.fields[-1] = (name, value + data)


@dataclass
class Page:
    """An answer that is a page."""

    status: int
    path: str
    html: str
    headers: Mapping[str, str]

    def __post_init__(self) -> None:
        reader = _Reader()
        reader.feed(self.html)
        self.forms, self.tags = reader.forms, reader.tags
        self.text = re.sub(r"\s+", " ", " ".join(reader.text))

    def form(self, action: str) -> Form:
        """The form, one of whose buttons leads there; rather one that does something."""
        for form in sorted(self.forms, key=lambda form: form.method != "post"):
            if action in (form.action, *form.buttons):
                return form
        raise AssertionError(f"no form leads to {action}: {[f.action for f in self.forms]}")


@dataclass
class Browser:
    """Follows links and redirects, keeps cookies, sends forms."""

    url: str
    session: aiohttp.ClientSession

    async def get(self, path: str, **headers: str) -> Page:
        async with self.session.get(self.url + path, headers=headers) as answer:
            return Page(answer.status, str(answer.url.path_qs), await answer.text(), answer.headers)

    async def post(
        self, path: str, fields: Sequence[tuple[str, str]], headers: Mapping[str, str] | None = None
    ) -> Page:
        body = aiohttp.FormData(list(fields))
        async with self.session.post(
            self.url + path, data=body if fields else {"": ""}, headers=headers
        ) as answer:
            return Page(answer.status, str(answer.url.path_qs), await answer.text(), answer.headers)

    async def send(self, page: Page, action: str, **values: str | Sequence[str]) -> Page:
        """Send the page's form with some of its fields filled in."""
        fields = [(n, v) for n, v in page.form(action).fields if n not in values]
        for name, value in values.items():
            fields += [(name, value)] if isinstance(value, str) else [(name, v) for v in value]
        return await self.post(action, fields)

    async def upload(self, page: Page, action: str, content: bytes, filename: str) -> Page:
        """Send the page's form with a file, as browsers do: fields in their order."""
        form = page.form(action)
        body = aiohttp.FormData()
        for name, value in form.fields:
            body.add_field(name, value)
        body.add_field(form.files[0], content, filename=filename, content_type="text/csv")
        async with self.session.post(self.url + action, data=body) as answer:
            return Page(answer.status, str(answer.url.path_qs), await answer.text(), answer.headers)

    async def fetch(self, path: str) -> tuple[int, Mapping[str, str], bytes]:
        """A file: status, headers, content."""
        async with self.session.get(self.url + path) as answer:
            return answer.status, answer.headers, await answer.read()

    async def sign_in(self, key: str) -> Page:
        return await self.send(await self.get("/sign-in"), "/sign-in", key=key)


@dataclass
class Site:
    """A running server with its console."""

    url: str
    runtime: Runtime

    async def key(self, *scopes: str, account: str = "default") -> str:
        _, secret = await self.runtime.database.unit(
            lambda tx: keys.create(tx, account, "test", scopes or None)
        )
        return secret

    @asynccontextmanager
    async def browser(self, key: str | None = None) -> AsyncIterator[Browser]:
        jar = aiohttp.CookieJar(unsafe=True)  # addresses without a name have cookies too
        async with aiohttp.ClientSession(cookie_jar=jar) as session:
            browser = Browser(self.url, session)
            if key is not None:
                page = await browser.sign_in(key)
                assert page.status == 200, page.text
            yield browser


@asynccontextmanager
async def site(data: Path, *, working: bool = True, **given: Any) -> AsyncIterator[Site]:
    """A server with everything in this process, its worker too if it is `working`.

    `given` are settings.
    """
    settings = load_settings(data_dir=data, port=0, **given)
    await asyncio.to_thread(migrate, settings)
    async with open_runtime(settings, isolate=False) as runtime:
        listening = socket.create_server(("127.0.0.1", 0))
        # On a machine that pauses, an idle connection must not end just as it is used again.
        config = uvicorn.Config(
            runtime.http(TOKEN), log_config=None, access_log=False, timeout_keep_alive=600
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        tasks = [serving, *([runtime.start()] if working else [])]
        try:
            yield Site(f"http://127.0.0.1:{listening.getsockname()[1]}", runtime)
        finally:
            server.should_exit = True
            runtime.stop()
            await asyncio.gather(*tasks)
            listening.close()

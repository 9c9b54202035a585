"""`GET /`: a page that says what is running here, whether it is ready, and what to try first.

It holds no script and loads nothing; its one style sheet is inside it, named by its hash in
the Content-Security-Policy.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from typing import Final

from fastapi import APIRouter
from starlette.responses import HTMLResponse

from penstock.api.context import public
from penstock.api.health import Check
from penstock.api.routing import router

# Run on the server's machine; the second prints nothing before an event is sent.
COMMANDS: Final = (
    ("Make an API key", "penstock keys create --name first"),
    ("Watch events as they come", "penstock events tail"),
    ("Send one", 'penstock events send demo.hello \'{"text": "hello"}\''),
)
_LINKS: Final = (
    ("/openapi.json", "the API, as OpenAPI 3.1"),
    ("/health/ready", "can it take work?"),
    ("/metrics", "figures for Prometheus"),
)

_STYLE: Final = """
:root { color-scheme: light dark; --text: #1c2733; --dim: #55636f; --page: #fbfcfd;
  --box: #eef2f5; --line: #d5dde3; --link: #0b5a8f; --good: #17643a; --bad: #a32020; }
@media (prefers-color-scheme: dark) { :root { --text: #e4eaef; --dim: #a3b1bc; --page: #13191f;
  --box: #1d262e; --line: #33404b; --link: #83c4f2; --good: #7fd6a1; --bad: #ff9d94; } }
body { margin: 0; background: var(--page); color: var(--text);
  font: 1rem/1.55 system-ui, sans-serif; }
main { max-width: 40rem; margin: 0 auto; padding: 2.5rem 1.25rem; }
h1 { font-size: 1.6rem; margin: 0; }
h1 small { font-size: 1rem; font-weight: 400; color: var(--dim); }
h2 { font-size: 1rem; margin: 2rem 0 .5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.25rem; margin: 1rem 0; }
dt, p { color: var(--dim); }
dd { margin: 0; overflow-wrap: anywhere; }
.good { color: var(--good); } .bad { color: var(--bad); }
pre { background: var(--box); border: 1px solid var(--line); border-radius: .4rem;
  padding: .6rem .8rem; margin: .2rem 0 .9rem; overflow-x: auto; user-select: all; }
code { font: .9rem/1.5 ui-monospace, monospace; }
a { color: var(--link); }
"""
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS: Final = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def routes(*, check: Check, version: str, services: Sequence[str]) -> APIRouter:
    """The route `/`."""
    api = router(include_in_schema=False)

    @api.get("/", response_class=HTMLResponse)
    @public
    async def welcome() -> HTMLResponse:
        failures = await check.run()
        return HTMLResponse(page(version, services, failures), headers=_HEADERS)

    return api


def page(version: str, services: Sequence[str], failures: dict[str, str | None]) -> str:
    """The page; `failures` are the checks by name, None = passed."""
    failed = [f"{name}: {failure}" for name, failure in failures.items() if failure]
    ready = (
        f'<span class="bad">no: {escape("; ".join(failed))}</span>'
        if failed
        else ('<span class="good">yes</span>')
    )
    commands = "\n".join(
        f"<p>{escape(title)}</p>\n<pre><code>{escape(command, quote=False)}</code></pre>"
        for title, command in COMMANDS
    )
    links = "\n".join(
        f'<dt><a href="{path}">{path}</a></dt><dd>{escape(text)}</dd>' for path, text in _LINKS
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Penstock</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>Penstock <small>{escape(version)}</small></h1>
<dl>
<dt>Services</dt><dd>{escape(", ".join(services))}</dd>
<dt>Ready</dt><dd>{ready}</dd>
</dl>
<h2>First steps, in a terminal on this machine</h2>
{commands}
<h2>More</h2>
<dl>
{links}
</dl>
</main>
</body>
</html>
"""

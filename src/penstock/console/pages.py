"""What all pages have in common: who sees them, how they are rendered, how they fail.

Pages are added with `Desk.page` and forms' targets with `Desk.action`. Neither can be reached
without a session, and an action not without the session's secret from the form either; only what
is added with ``anyone=True`` is open.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from fastapi import APIRouter
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from penstock.api import bodies
from penstock.api.auth import Principal
from penstock.api.context import of, public
from penstock.api.problems import PROBLEMS, from_exception
from penstock.api.routing import router
from penstock.clock import Clock
from penstock.console import files, shown
from penstock.console.calls import Fetched, Refused, Sent, call, refusal_of
from penstock.console.sessions import Note, Session, Sessions, from_elsewhere, same
from penstock.errors import StorageError
from penstock.telemetry import REQUEST_FAILED, log

HERE: Final = Path(__file__).parent
MOST_FORM: Final = 512 * 1024  # bytes
_MOST_FIELDS: Final = 2_500  # a file may have a thousand columns, each with two fields

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

# Addresses, names, and the service without which the page is not there.
NAVIGATION: Final = (
    ("/", "Overview", None),
    ("/events", "Events", "events"),
    ("/endpoints", "Endpoints", "events"),
    ("/shipments", "Shipments", "tracking"),
    ("/predictions", "Predictions", "predictions"),
    ("/models", "Models", "predictions"),
    ("/jobs", "Jobs", None),
    ("/lanes", "Lanes", None),
    ("/dead", "Dead work", None),
    ("/keys", "Keys", None),
)

Handler = Callable[["Visit"], Awaitable[Response]]


class Form:
    """The fields of a form that was sent."""

    def __init__(self, fields: Sequence[tuple[str, str]]) -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> str:
        """The field's text without spaces around it; '' if it was not sent."""
        return next((value.strip() for key, value in self._fields if key == name), "")

    def all(self, name: str) -> list[str]:
        """All values of the field."""
        return [value for key, value in self._fields if key == name]

    def given(self) -> dict[str, str]:
        """Each field's first value, to fill the form with again."""
        return {key: value for key, value in reversed(self._fields) if key != "csrf"}


@dataclass(slots=True)
class Visit:
    """One request for a page, or one form that was sent."""

    desk: Desk
    request: Request
    session: Session | None = None
    principal: Principal | None = None
    form: Form = field(default_factory=lambda: Form(()))
    sent: Sent | None = None  # the whole form, if it may hold a file

    @property
    def query(self) -> Mapping[str, str]:
        """What the address asks for."""
        return self.request.query_params

    def path(self, name: str) -> str:
        """A part of the address."""
        return str(self.request.path_params[name])

    async def api(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        media: str = "application/json",
    ) -> Any:
        """Ask the API as the one who signed in; Refused if it refuses."""
        assert self.principal is not None, "only pages that need a session ask"
        return await call(
            self.request, self.principal, method, path, query=query, body=body, media=media
        )

    async def pass_file(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """Have the API take the file of the form that was sent; Refused if it refuses."""
        assert self.principal is not None, "only pages that need a session ask"
        if self.sent is None:
            raise Refused(422, "bad_request", "Choose a file first.")
        return await call(self.request, self.principal, "POST", path, query=query, sent=self.sent)

    def fetch(
        self,
        path: str,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """A file of the API's, with these headers besides; a page that says why not."""
        assert self.principal is not None, "only pages that need a session ask"
        own = {"Cache-Control": "no-store", **(headers or {})}
        return Fetched(
            self.request,
            self.principal,
            path,
            query or {},
            own,
            lambda refused: self.desk.stopped(self, refused),
        )

    async def maybe(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """Read something that the page can do without: None where the key may not."""
        try:
            return await self.api("GET", path, query)
        except Refused as refused:
            if refused.code == "insufficient_scope":
                return None
            raise

    def render(self, template: str, status: int = 200, **values: Any) -> Response:
        """A page."""
        return self.desk.render(self, template, status, **values)

    def go(self, path: str, text: str | None = None) -> Response:
        """To another page, which tells `text`."""
        response = RedirectResponse(path, 303, headers=HEADERS)
        if text is not None:
            self.desk.sessions.note(self.request, response, Note(text))
        return response

    def back(self, otherwise: str, text: str) -> Response:
        """To the page that the form was on."""
        asked = self.form["back"]
        # Only addresses of our own: a path, and not one that browsers take for a host.
        inside = asked.startswith("/") and not asked.startswith(("//", "/\\"))
        return self.go(asked if inside and "\n" not in asked else otherwise, text)


class Desk:
    """The console of one process."""

    def __init__(
        self, *, sessions: Sessions, clock: Clock, version: str, services: Sequence[str]
    ) -> None:
        self.sessions = sessions
        self.clock = clock
        self.services = tuple(services)
        self.router: APIRouter = router(include_in_schema=False)
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(shown.FILTERS)
        self._templates.globals.update(
            version=version,
            asset=_assets(self.router),
            navigation=[
                (path, name) for path, name, service in NAVIGATION
                if service is None or service in services
            ],
            services=self.services,
        )  # fmt: skip

    def show(self, **filters: Callable[..., Any]) -> None:
        """Add filters for the templates of a service."""
        self._templates.filters.update(filters)

    def page(self, path: str, *, anyone: bool = False) -> Callable[[Handler], Handler]:
        """Add a page."""

        def add(handler: Handler) -> Handler:
            @self.router.get(path, name=handler.__name__)
            @public
            async def serve(request: Request) -> Response:
                return await self._serve(handler, Visit(self, request), anyone)

            return handler

        return add

    def action(
        self, path: str, *, anyone: bool = False, file: bool = False
    ) -> Callable[[Handler], Handler]:
        """Add what a form is sent to; with `file`, it is a form that ends in one."""

        def add(handler: Handler) -> Handler:
            @self.router.post(path, name=handler.__name__)
            @public
            async def serve(request: Request) -> Response:
                visit = Visit(self, request)
                if from_elsewhere(request):
                    return self.stopped(visit, _FOREIGN)
                try:
                    if file and _media(request) == files.MEDIA:
                        fields, visit.sent = await files.opening(request)
                        visit.form = Form(fields)
                    else:
                        visit.form = await _form(request)
                except Refused as refused:
                    return self.stopped(visit, refused)
                return await self._serve(handler, visit, anyone, secret=visit.form["csrf"])

            return handler

        return add

    async def _serve(
        self, handler: Handler, visit: Visit, anyone: bool, *, secret: str | None = None
    ) -> Response:
        request = visit.request
        try:
            visit.session = self.sessions.read(request)
            if visit.session is not None:
                visit.principal = await self.sessions.principal(
                    visit.session, of(request).authenticator
                )
            if not anyone:
                if visit.session is None or visit.principal is None:
                    return self._sign_in(visit)
                of(request).principal = visit.principal
                if secret is not None and not same(secret, visit.session.csrf):
                    return self.stopped(visit, _FOREIGN)
            return await handler(visit)
        except Refused as refused:
            return self.stopped(visit, refused)
        except StorageError as exc:
            return self.stopped(visit, refusal_of(from_exception(exc)))
        except Exception as exc:
            log(
                REQUEST_FAILED,
                exc_info=exc,
                method=request.method,
                route=request.scope["route"].path,
                error=f"{type(exc).__name__}: {exc}",
            )
            return self.stopped(visit, refusal_of(from_exception(exc)))

    def _sign_in(self, visit: Visit) -> Response:
        wanted = visit.request.url.path
        if visit.request.url.query:
            wanted += f"?{visit.request.url.query}"
        there = visit.request.method == "GET" and wanted != "/"
        return visit.go(f"/sign-in?{urlencode({'next': wanted})}" if there else "/sign-in")

    def stopped(self, visit: Visit, refused: Refused) -> Response:
        """A page that says what the API refused."""
        kind = PROBLEMS.get(refused.code)
        title = kind.title if kind is not None else "Refused"
        return self.render(visit, "stopped.html", refused.status, refused=refused, title=title)

    def render(self, visit: Visit, template: str, status: int = 200, **values: Any) -> Response:
        """The page that `template` makes of the values."""
        note = self.sessions.noted(visit.request)
        for name in values.keys() & {"given", "errors"}:  # of a form: fields not sent are empty
            values[name] = defaultdict(str, values[name])
        html = self._templates.get_template(template).render(
            here=visit.request.url.path,
            address=_address(visit.request),
            origin=str(visit.request.base_url).rstrip("/"),
            session=visit.session if visit.principal is not None else None,
            principal=visit.principal,
            note=note,
            now=self.clock.now(),
            **values,
        )
        response = HTMLResponse(html, status, headers=HEADERS)
        if note is not None:
            self.sessions.told(response)
        return response


_FOREIGN: Final = Refused(
    403,
    "form_refused",
    "This form was not sent by a page of this session. Nothing was done; open the page again and "
    "send it from there.",
)


def _media(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _form(request: Request) -> Form:
    if _media(request) != "application/x-www-form-urlencoded":
        raise Refused(415, "unsupported_media_type", "A form is expected.")
    try:
        text = (await bodies.read(request, MOST_FORM)).decode()
        fields = parse_qsl(
            text, keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS
        )
    except (UnicodeDecodeError, ValueError):
        raise Refused(400, "bad_request", "The form cannot be read.") from None
    if "\0" in text or any("\0" in value for _, value in fields):
        raise Refused(400, "nul_character", "The form holds a NUL character.")
    return Form([(name, value.replace("\r\n", "\n")) for name, value in fields])


def _address(request: Request) -> str:
    """The page's own address without the server, for forms that come back to it."""
    parts = urlsplit(str(request.url))
    return parts.path + (f"?{parts.query}" if parts.query else "")


def _assets(api: APIRouter) -> Callable[[str], str]:
    """Serve the stylesheet, the script and the icon; answers what tells their addresses."""
    kinds = {
        "console.css": "text/css",
        "console.js": "text/javascript",
        "icon.svg": "image/svg+xml",
    }
    addresses = {}
    for name, media in kinds.items():
        content = (HERE / "static" / name).read_bytes()
        digest = hashlib.sha256(content).hexdigest()[:16]
        addresses[name] = f"/console/{digest}/{name}"
        _serve_asset(api, addresses[name], content, media)
    return addresses.__getitem__


def _serve_asset(api: APIRouter, path: str, content: bytes, media: str) -> None:
    @api.get(path)
    @public
    async def asset(request: Request) -> Response:
        # The address changes with the content, so it can be kept for ever.
        kept = {
            "Cache-Control": "public, max-age=31536000, immutable",
            "X-Content-Type-Options": "nosniff",
        }
        return Response(content, media_type=media, headers=kept)

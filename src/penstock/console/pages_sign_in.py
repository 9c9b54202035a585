"""Signing in with an API key or a one-time link, and out."""

from __future__ import annotations

from starlette.responses import Response

from penstock.api.auth import OPERATOR, PREFIX
from penstock.api.context import AUTHENTICATED, Caller, of, requires
from penstock.api.problems import Problem
from penstock.console.pages import Desk, Visit
from penstock.console.sessions import Session
from penstock.telemetry import CONSOLE_REFUSED, CONSOLE_SIGNED_IN, log


def add(desk: Desk) -> None:
    """Add the pages."""
    sessions = desk.sessions

    @desk.page("/sign-in", anyone=True)
    async def sign_in_page(visit: Visit) -> Response:
        code = visit.query.get("link")
        if code is not None:
            if sessions.links.use(code):
                log(CONSOLE_SIGNED_IN, by="one-time link")
                return _begin(visit, sessions.with_link(), "/")
            log(CONSOLE_REFUSED, reason="the one-time link was used or is too old")
            message = "This link was used already, or is more than ten minutes old."
            return visit.render("sign_in.html", 403, wanted="", message=message)
        if visit.principal is not None:
            return visit.go("/")
        return visit.render("sign_in.html", wanted=_inside(visit.query.get("next", "")), message="")

    @desk.action("/sign-in", anyone=True)
    async def sign_in(visit: Visit) -> Response:
        key, wanted = visit.form["key"], _inside(visit.form["next"])
        message = "An API key begins with psk_."
        if key.startswith(PREFIX) and key.isascii():
            authenticator = of(visit.request).authenticator
            try:
                principal = await authenticator.authenticate(b"Bearer " + key.encode("ascii"))
                assert principal.key_id is not None, "it was a key of ours"
                log(CONSOLE_SIGNED_IN, by=f"key {principal.key_id}")
                return _begin(visit, sessions.with_key(principal.key_id), wanted or "/")
            except Problem as problem:
                message = str(problem.detail)
        log(CONSOLE_REFUSED, reason=message)
        return visit.render("sign_in.html", 401, wanted=wanted, message=message)

    @desk.router.post("/sign-in/link")
    @requires(AUTHENTICATED)
    async def new_link(caller: Caller) -> dict[str, str]:
        # What it gives is more than any key may: it takes the token in run.json.
        if caller.subject != OPERATOR:
            raise Problem("insufficient_scope", "Only the command line of the server may do this.")
        return {"path": link_path(desk)}

    @desk.action("/sign-out")
    async def sign_out(visit: Visit) -> Response:
        response = visit.go("/sign-in")
        sessions.end(response)
        return response


def link_path(desk: Desk) -> str:
    """The address of a new one-time link, below the server's."""
    return f"/sign-in?link={desk.sessions.links.new()}"


def _begin(visit: Visit, session: Session, wanted: str) -> Response:
    response = visit.go(wanted)
    visit.desk.sessions.keep(visit.request, response, session)
    return response


def _inside(path: str) -> str:
    """An address of our own, or nothing: never where somebody else's link would lead."""
    if not path.startswith("/") or path.startswith(("//", "/\\")) or not path.isprintable():
        return ""
    return path

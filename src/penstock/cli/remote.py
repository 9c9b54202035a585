"""The server a command talks to: the one named by a setting, or the local one."""

from __future__ import annotations

from penstock import runfile
from penstock.cli.output import fail
from penstock.client import Client
from penstock.settings import Settings


def running(settings: Settings) -> Client | None:
    """The server to talk to; None if none is named and none runs here.

    Nothing is tried again: a person who waits for a prompt decides better.
    """
    if settings.url is not None:
        if settings.key is None:
            fail("PENSTOCK_URL is set but PENSTOCK_KEY is not: give the API key to use", code=2)
        return Client(settings.url, settings.key.get_secret_value(), retries=0)
    found = runfile.read(settings.data_dir)
    return None if found is None else Client(found.url, found.token, retries=0)


def required(settings: Settings) -> Client:
    """The server to talk to; exit 4 if there is none."""
    server = running(settings)
    if server is None:
        fail(
            f"no server runs on {settings.data_dir}: start one with `penstock up`,"
            " or set PENSTOCK_URL and PENSTOCK_KEY",
            code=4,
        )
    return server

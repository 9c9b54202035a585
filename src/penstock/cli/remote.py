"""The server a command talks to: the one named by a setting, or the local one."""

from __future__ import annotations

from penstock.client import Client, Unreachable
from penstock.settings import Settings


def required(settings: Settings) -> Client:
    """The server to talk to; Unreachable if none is named and none runs here.

    Nothing is tried again: a person who waits for a prompt decides better.
    """
    # A key in the settings is for the server that they name; the local one has its own.
    key = settings.key.get_secret_value() if settings.url and settings.key else None
    return Client(settings.url, key, data_dir=settings.data_dir, retries=0)


def running(settings: Settings) -> Client | None:
    """The server to talk to; None if none is named and none runs here."""
    try:
        return required(settings)
    except Unreachable:
        return None

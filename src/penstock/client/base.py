"""What both clients are made of, but for the way in which requests travel."""

from __future__ import annotations

from pathlib import Path

from penstock.client.address import find


class BaseClient:
    """A server, a credential and some patience.

    `url`, `key` and `data_dir` say which server and as whom (see `penstock.client`).
    `timeout`: seconds to wait for a connection, and for each further piece of an answer.
    `retries`: how often a call is tried again.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        data_dir: str | Path | None = None,
        timeout: float = 30.0,
        retries: int = 5,
    ) -> None:
        self._address = find(url, key, data_dir)
        self._timeout = timeout
        self._retries = retries
        self._set_up()

    def _set_up(self) -> None:
        """Make what this client needs of its own."""

    @property
    def url(self) -> str:
        """The server's address."""
        return self._address.url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

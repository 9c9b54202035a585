"""The server a command talks to: the one named by a setting, or the local one."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from penstock import runfile
from penstock.cli.output import fail
from penstock.settings import Settings

TIMEOUT = 30.0  # seconds


@dataclass(frozen=True, slots=True)
class Server:
    """A running Penstock and the credential to use with it."""

    url: str
    token: str

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """The answer's JSON; on a problem, its sentence and exit 1; exit 4 if nobody answers."""
        parts = urlsplit(self.url)
        connect = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        connection = connect(parts.hostname or "", parts.port, timeout=TIMEOUT)
        target = parts.path.rstrip("/") + path
        if query:
            target += "?" + urlencode({k: v for k, v in query.items() if v is not None})
        sent = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        if body is not None:
            sent["Content-Type"] = "application/json"
        try:
            connection.request(
                method, target, body=None if body is None else json.dumps(body), headers=sent
            )
            response = connection.getresponse()
            raw = response.read()
        except (OSError, http.client.HTTPException) as exc:
            fail(f"{self.url} does not answer: {exc}", code=4)
        finally:
            connection.close()
        try:
            answer = json.loads(raw) if raw else None
        except ValueError:
            fail(f"{self.url} answered {response.status} with something that is not JSON")
        if response.status >= 400:
            problem = answer if isinstance(answer, dict) else {}
            says = problem.get("detail") or problem.get("title") or f"status {response.status}"
            fail(f"{says} [{problem.get('code', response.status)}]")
        return answer


def running(settings: Settings) -> Server | None:
    """The server to talk to; None if none is named and none runs here."""
    if settings.url is not None:
        if settings.key is None:
            fail("PENSTOCK_URL is set but PENSTOCK_KEY is not: give the API key to use", code=2)
        return Server(settings.url, settings.key.get_secret_value())
    found = runfile.read(settings.data_dir)
    return None if found is None else Server(found.url, found.token)


def required(settings: Settings) -> Server:
    """The server to talk to; exit 4 if there is none."""
    server = running(settings)
    if server is None:
        fail(
            f"no server runs on {settings.data_dir}: start one with `penstock up`,"
            " or set PENSTOCK_URL and PENSTOCK_KEY",
            code=4,
        )
    return server

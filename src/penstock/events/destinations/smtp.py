"""Letters by SMTP, each over a connection of its own.

============================================  ============================================
what happens                                  what it means
============================================  ============================================
250 after the message                         delivered (quitting may then fail)
no connection, a timeout, a broken one        transient
any refusal before a letter is offered:       transient: it is about this server's
greeting, STARTTLS, log-in                    settings, not about the letter
4xx to sender, recipient or message           transient
5xx to sender, recipient or message           permanent
============================================  ============================================
"""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import suppress
from typing import Final, Literal

import aiosmtplib

from penstock.events.destinations import Answer, Verdict, failed, one_line
from penstock.events.destinations.email import Letter, mime
from penstock.mail import Sender, SmtpServer

CONNECTIONS: Final = 10  # at once: mail servers take few from one client
_QUIT: Final = 2.0  # seconds
_START_TLS: Final = {"always": True, "auto": None, "never": False}

_LOGIN: Final = frozenset((530, 534, 535, 538))  # RFC 4954, section 6

Stage = Literal["wait", "connect", "message"]


class Smtp:
    """Carries letters to one server."""

    def __init__(
        self, server: SmtpServer, sender: Sender, *, tls: ssl.SSLContext | None = None
    ) -> None:
        self._server = server
        self._sender = sender
        self._tls = tls
        self._slots = asyncio.Semaphore(CONNECTIONS)

    async def __call__(self, letter: Letter, within: float) -> Answer:
        """Offer the letter to the server."""
        began = time.monotonic()
        content = mime(letter, self._sender)
        client: aiosmtplib.SMTP | None = None
        stage: Stage = "wait"
        try:
            async with asyncio.timeout(within), self._slots:
                stage = "connect"
                client = self._client(within)
                await client.connect()
                stage = "message"
                _, said = await client.sendmail(self._sender.address, [letter.to], content)
        except (aiosmtplib.SMTPException, TimeoutError, OSError) as exc:
            return _answer(exc, stage, _peer(client), time.monotonic() - began)
        else:
            peer, duration = _peer(client), time.monotonic() - began
            with suppress(aiosmtplib.SMTPException, TimeoutError, OSError):
                async with asyncio.timeout(_QUIT):
                    await client.quit()
            return Answer(
                Verdict("delivered"),
                duration,
                status_code=250,
                address=peer,
                response=one_line(said).encode(),
            )
        finally:
            if client is not None:
                client.close()

    def _client(self, timeout: float) -> aiosmtplib.SMTP:
        server = self._server
        if self._tls is None and (server.tls or server.starttls != "never"):
            self._tls = ssl.create_default_context()
        return aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            username=server.user,
            password=server.password,
            use_tls=server.tls,
            start_tls=False if server.tls else _START_TLS[server.starttls],
            tls_context=self._tls,
            # A name that exists: looking up this machine's own may take seconds, for nothing.
            local_hostname=self._sender.domain,
            timeout=timeout,
        )


def _answer(exc: Exception, stage: Stage, peer: str | None, duration: float) -> Answer:
    if isinstance(exc, aiosmtplib.SMTPRecipientsRefused):
        exc = exc.recipients[0]
    if isinstance(exc, aiosmtplib.SMTPResponseException):
        code, said = exc.code, f"{exc.code} {exc.message}"
        if stage != "message" or code in _LOGIN:
            kind = "smtp_login" if code in _LOGIN else "smtp"
            return failed(kind, said, duration, status_code=code, address=peer)
        if code >= 500:
            return failed(
                "smtp",
                said,
                duration,
                means="permanent",
                health="ok",
                status_code=code,
                address=peer,
            )
        # 421: the server is closing the channel, whomever the letter is for.
        health: Literal["ok", "bad"] = "bad" if code == 421 else "ok"
        return failed("smtp", said, duration, health=health, status_code=code, address=peer)
    if isinstance(exc, TimeoutError):
        if stage == "wait":
            text = "all connections to the mail server were busy"
            return failed("busy", text, duration, health=None)
        if stage == "connect":
            return failed("timeout_connect", "no connection in time", duration, address=peer)
        return failed("timeout", "no answer in time", duration, address=peer)
    if isinstance(exc, ssl.SSLError) or isinstance(exc.__cause__, ssl.SSLError):
        return failed("tls", str(exc), duration, address=peer)
    if isinstance(exc, aiosmtplib.SMTPServerDisconnected | ConnectionResetError):
        text = "the connection was closed without an answer"
        return failed("connection_reset", text, duration, address=peer)
    if isinstance(exc, OSError):
        return failed("connection", str(exc) or type(exc).__name__, duration, address=peer)
    return failed("smtp", str(exc), duration, address=peer)


def _peer(client: aiosmtplib.SMTP | None) -> str | None:
    found = client.transport.get_extra_info("peername") if client and client.transport else None
    match found:
        case (str(host), int(port), *_):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case _:
            return None

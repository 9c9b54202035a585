"""A mail server on loopback that keeps what it is given and answers what the test says."""

from __future__ import annotations

import asyncio
import ssl
import warnings
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any, Self

from aiosmtpd.smtp import SMTP, AuthResult

from support.accepting import stop_accepting


@dataclass(frozen=True, slots=True)
class Mail:
    """One message as it came in."""

    sender: str
    to: list[str]
    content: bytes

    @property
    def message(self) -> EmailMessage:
        found = message_from_bytes(self.content, policy=policy.default)
        assert isinstance(found, EmailMessage)
        return found


@dataclass
class MailServer:
    """Answers 250 until told otherwise; `gate`, while it is not set, holds the answer to DATA."""

    tls: ssl.SSLContext | None = None
    login: tuple[str, str] | None = None
    got: list[Mail] = field(default_factory=list)
    rcpt: str = "250 OK"
    data: str = "250 2.0.0 queued as 4711"
    gate: asyncio.Event | None = None
    quits: bool = True
    secured: list[bool] = field(default_factory=list)
    _open: list[SMTP] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._session, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await stop_accepting(self._server)
        self._server.close()
        talking = [one._handler_coroutine for one in self._open if one._handler_coroutine]
        for task in talking:
            task.cancel()
        await asyncio.gather(*talking, return_exceptions=True)
        for session in self._open:
            if session.transport is not None:
                session.transport.abort()
        await asyncio.sleep(0.01)

    def _session(self) -> asyncio.Protocol:
        with warnings.catch_warnings(action="ignore"):  # that it takes passwords in plain
            made = SMTP(
                self,
                hostname="mail.example.com",
                loop=asyncio.get_running_loop(),
                tls_context=self.tls,
                auth_require_tls=False,
                auth_required=self.login is not None,
                authenticator=self._authenticate,
            )
        self._open.append(made)
        return made

    def _authenticate(
        self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any
    ) -> AuthResult:
        given = (data.login.decode(), data.password.decode())
        return AuthResult(success=given == self.login, handled=False)

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        if self.rcpt.startswith("2"):
            envelope.rcpt_tos.append(address)
        return self.rcpt

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.gate is not None:
            await self.gate.wait()
        if self.data.startswith("2"):
            self.secured.append(session.ssl is not None)
            self.got.append(Mail(envelope.mail_from, list(envelope.rcpt_tos), envelope.content))
        return self.data

    async def handle_QUIT(self, server: Any, session: Any, envelope: Any) -> str:
        if not self.quits:
            await asyncio.sleep(60)
        return "221 Bye"

"""A server that speaks as SQS, SNS and SES do over HTTP, as far as Penstock talks to them.

SQS is JSON 1.0 with the names of errors from its older protocol in a header, SNS is a form that
is answered in XML, SES (v2) is REST with JSON.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qsl

from aiohttp import web

from support.accepting import stop_accepting

ID = "a7d1f9a6-0000-4000-8000-000000000001"
_SNS = 'xmlns="http://sns.amazonaws.com/doc/2010-03-31/"'


@dataclass(frozen=True, slots=True)
class Call:
    """One call: `service` and `region` are those that it was signed for."""

    service: str
    region: str
    operation: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Error:
    """What to answer instead of doing it."""

    status: int
    code: str
    message: str = "as the test says"


@dataclass
class AwsServer:
    """Does what it is asked to until told otherwise."""

    calls: list[Call] = field(default_factory=list)
    error: Error | None = None
    gate: asyncio.Event | None = None

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=2**23)
        application.router.add_post("/", self._take)
        application.router.add_post("/v2/email/outbound-emails", self._take)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.gate is not None:
            self.gate.set()
        await stop_accepting(self._runner)
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        signed = request.headers["Authorization"].partition("Credential=")[2].split("/")
        region, service = signed[2], signed[3]
        if self.gate is not None:
            await self.gate.wait()
        answer = {"sqs": _sqs, "sns": _sns, "ses": _ses}[service]
        operation, parameters, response = answer(request, body, self.error)
        if self.error is None:
            self.calls.append(Call(service, region, operation, parameters))
        return response


def _sqs(
    request: web.Request, body: bytes, error: Error | None
) -> tuple[str, dict[str, Any], web.Response]:
    parameters = json.loads(body)
    headers = {"Content-Type": "application/x-amz-json-1.0", "x-amzn-RequestId": ID}
    if error is None:
        md5 = hashlib.md5(parameters["MessageBody"].encode()).hexdigest()
        answer: dict[str, Any] = {"MessageId": ID, "MD5OfMessageBody": md5}
    else:
        answer = {"__type": f"com.amazonaws.sqs#{error.code}", "message": error.message}
        headers["x-amzn-query-error"] = f"{error.code};Sender"
    operation = request.headers["X-Amz-Target"].partition(".")[2]
    return operation, parameters, _response(error, json.dumps(answer), headers)


def _sns(
    request: web.Request, body: bytes, error: Error | None
) -> tuple[str, dict[str, Any], web.Response]:
    parameters = dict(parse_qsl(body.decode()))
    if error is None:
        text = (
            f"<PublishResponse {_SNS}><PublishResult><MessageId>{ID}</MessageId></PublishResult>"
            f"<ResponseMetadata><RequestId>{ID}</RequestId></ResponseMetadata></PublishResponse>"
        )
    else:
        text = (
            f"<ErrorResponse {_SNS}><Error><Type>Sender</Type><Code>{error.code}</Code>"
            f"<Message>{error.message}</Message></Error><RequestId>{ID}</RequestId></ErrorResponse>"
        )
    return parameters["Action"], parameters, _response(error, text, {"Content-Type": "text/xml"})


def _ses(
    request: web.Request, body: bytes, error: Error | None
) -> tuple[str, dict[str, Any], web.Response]:
    parameters = json.loads(body)
    raw = parameters["Content"]["Raw"]
    raw["Data"] = base64.b64decode(raw["Data"])
    headers = {"Content-Type": "application/json", "x-amzn-RequestId": ID}
    if error is None:
        answer = {"MessageId": ID}
    else:
        answer = {"message": error.message}
        headers["x-amzn-ErrorType"] = error.code
    return "SendEmail", parameters, _response(error, json.dumps(answer), headers)


def _response(error: Error | None, text: str, headers: dict[str, str]) -> web.Response:
    return web.Response(
        status=200 if error is None else error.status, body=text.encode(), headers=headers
    )

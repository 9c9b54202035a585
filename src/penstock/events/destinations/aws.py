"""What the destinations on AWS share: clients, and what an error of theirs means.

=======================================  ==============================================
error                                    what it means
=======================================  ==============================================
throttled                                transient, and the lane closes for a moment
5xx, no connection, a timeout            transient
credentials missing, expired, unknown;   transient: it is about this process, not about
no region; sending paused                the target
any other: no permission, no such        permanent
queue, an invalid parameter
=======================================  ==============================================
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import sys
import time
from contextlib import AsyncExitStack
from typing import Any, Final

from penstock.events.destinations import Answer, TargetRefused, Verdict, failed, one_line

THROTTLED: Final = 5.0  # seconds that the lane is closed for
_CONNECT: Final = 5.0  # seconds
_MAKE: Final = 30.0  # seconds that the first call to a service may take to get ready
_CONNECTIONS: Final = 64  # at once, to each service in each region
_THROTTLED: Final = frozenset(
    ("TooManyRequestsException", "RequestLimitExceeded", "LimitExceededException", "OverLimit")
)
_OURS: Final = frozenset(
    (
        "AccountSuspendedException",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "RequestExpired",
        "SendingPausedException",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    )
)


def require() -> None:
    """TargetRefused unless what talks to AWS is installed."""
    if importlib.util.find_spec("aiobotocore") is None:
        raise TargetRefused("this server cannot talk to AWS: it needs penstock[aws]")


class Aws:
    """Clients by service and region, made when they are first used.

    Credentials come from where AWS's own tools look: environment, profile, container, instance.
    `endpoint_url` is for servers that stand in for AWS; every service is then asked there.
    """

    def __init__(self, region: str | None = None, endpoint_url: str | None = None) -> None:
        self.region = region
        self.endpoint_url = endpoint_url
        self._clients: dict[tuple[str, str | None], Any] = {}
        self._session: Any = None
        self._making = asyncio.Lock()
        self._stack = AsyncExitStack()

    async def call(
        self,
        service: str,
        operation: str,
        within: float,
        *,
        region: str | None = None,
        **parameters: Any,
    ) -> Answer:
        """Call the operation once, for at most `within` seconds."""
        try:
            require()
        except TargetRefused as exc:
            return failed("unsupported", str(exc), 0.0, health=None)
        began = time.monotonic()
        if "aiobotocore.session" not in sys.modules:  # a quarter of a second, once
            await asyncio.to_thread(importlib.import_module, "aiobotocore.session")
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        try:
            # Making a client reads long tables, once: not at the expense of the call's time.
            async with asyncio.timeout(_MAKE):
                client = await self._client(service, region or self.region)
            async with asyncio.timeout(within):
                found = await getattr(client, operation)(**parameters)
        except TimeoutError:
            return failed("timeout", "no answer in time", time.monotonic() - began)
        except ClientError as exc:
            return of_error(exc.response, time.monotonic() - began)
        except ResponseParserError as exc:
            return failed("protocol", str(exc), time.monotonic() - began)
        except (BotoCoreError, OSError) as exc:
            return _of_exception(exc, time.monotonic() - began)
        return Answer(
            Verdict("delivered"),
            time.monotonic() - began,
            status_code=found["ResponseMetadata"]["HTTPStatusCode"],
            response=f"MessageId {one_line(str(found.get('MessageId')))}".encode(),
        )

    async def close(self) -> None:
        """Close every client."""
        self._clients.clear()
        await self._stack.aclose()

    async def _client(self, service: str, region: str | None) -> Any:
        known = self._clients.get((service, region))
        if known is not None:
            return known
        from aiobotocore.config import AioConfig
        from aiobotocore.session import get_session

        async with self._making:
            known = self._clients.get((service, region))
            if known is not None:
                return known
            if self._session is None:  # one for all: it reads AWS's long tables once
                self._session = get_session()
            made = await self._stack.enter_async_context(
                self._session.create_client(
                    service,
                    region_name=region,
                    endpoint_url=self.endpoint_url,
                    config=AioConfig(
                        connect_timeout=_CONNECT,
                        read_timeout=60,  # the caller's own timeout comes first
                        max_pool_connections=_CONNECTIONS,
                        retries={"total_max_attempts": 1},  # the schedule is the endpoint's
                        parameter_validation=True,
                    ),
                )
            )
            self._clients[service, region] = made
            return made


def of_error(response: Any, duration: float) -> Answer:
    """What AWS answered instead of doing it."""
    error, metadata = response.get("Error", {}), response.get("ResponseMetadata", {})
    code, status = str(error.get("Code", "")), metadata.get("HTTPStatusCode")
    status = status if isinstance(status, int) else None
    text = f"{code}: {error.get('Message', '')}"
    if "throttl" in code.lower() or code in _THROTTLED or status == 429:
        return failed("throttled", text, duration, health="ok", pause=THROTTLED, status_code=status)
    if code in _OURS:
        return failed("aws", text, duration, health=None, status_code=status)
    if status is None or status >= 500:
        return failed("aws", text, duration, status_code=status)
    return failed("aws", text, duration, means="permanent", health="ok", status_code=status)


def _of_exception(exc: Exception, duration: float) -> Answer:
    from botocore import exceptions as aws

    text = str(exc) or type(exc).__name__
    if isinstance(exc, aws.ParamValidationError):
        return failed("aws", text, duration, means="permanent", health=None)
    if isinstance(exc, aws.ConnectTimeoutError):
        return failed("timeout_connect", "no connection in time", duration)
    if isinstance(exc, aws.ReadTimeoutError):
        return failed("timeout", "no answer in time", duration)
    if isinstance(exc, aws.HTTPClientError | aws.ConnectionError | OSError):
        return failed("connection", text, duration)
    return failed("aws_configuration", text, duration, health=None)

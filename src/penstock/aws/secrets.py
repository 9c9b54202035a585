"""Settings whose values are in AWS Secrets Manager.

A function's configuration can be read by many; so it names secrets instead of holding them:
``PENSTOCK_DATABASE_PASSWORD_SECRET_ARN`` (JSON with `username` and `password`, as RDS keeps it) and
``PENSTOCK_SECRET_KEY_SECRET_ARN`` (the text itself).
"""

from __future__ import annotations

import json
import os
from typing import Any, Final

from penstock.errors import SettingsError

PASSWORD: Final = "PENSTOCK_DATABASE_PASSWORD_SECRET_ARN"  # noqa: S105 - a variable's name
KEY: Final = "PENSTOCK_SECRET_KEY_SECRET_ARN"
_CONNECT: Final = 3.0  # seconds
_READ: Final = 5.0  # seconds


class Secrets:
    """Puts the secrets that the environment names where the rest of Penstock looks.

    The names themselves leave the environment: they are no settings of Penstock's.
    """

    def __init__(self, endpoint_url: str | None = None) -> None:
        self._password_arn = os.environ.pop(PASSWORD, None)
        self._key_arn = os.environ.pop(KEY, None)
        self._endpoint_url = endpoint_url

    async def read(self) -> None:
        """Read them all; SettingsError says which cannot be had."""
        if self._key_arn or self._password_arn:
            async with self._client() as client:
                if self._key_arn:
                    os.environ["PENSTOCK_SECRET_KEY"] = await _value(client, KEY, self._key_arn)
                if self._password_arn:
                    await self._read_password(client, self._password_arn)

    async def read_password_again(self) -> bool:
        """Whether there is a password that may have been rotated; it is read anew."""
        if self._password_arn is None:
            return False
        async with self._client() as client:
            return await self._read_password(client, self._password_arn)

    async def _read_password(self, client: Any, arn: str) -> bool:
        text = await _value(client, PASSWORD, arn)
        try:
            password = json.loads(text)["password"]
        except (ValueError, KeyError, TypeError):
            raise SettingsError(f"{PASSWORD}: the secret is no JSON with a password") from None
        changed = bool(os.environ.get("PGPASSWORD") != password)
        # libpq's own variable: every new connection reads it, and no URL holds the password.
        os.environ["PGPASSWORD"] = password
        return changed

    def _client(self) -> Any:
        from aiobotocore.config import AioConfig
        from aiobotocore.session import get_session

        config = AioConfig(
            connect_timeout=_CONNECT, read_timeout=_READ, retries={"total_max_attempts": 3}
        )
        return get_session().create_client(
            "secretsmanager", endpoint_url=self._endpoint_url, config=config
        )


async def _value(client: Any, name: str, arn: str) -> str:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer = await client.get_secret_value(SecretId=arn)
    except ClientError as exc:
        code = exc.response.get("Error", {}).get("Code")
        raise SettingsError(f"{name}: the secret cannot be read ({code})") from None
    except BotoCoreError as exc:
        raise SettingsError(f"{name}: the secret cannot be read ({type(exc).__name__})") from None
    found: str = answer["SecretString"]
    return found

from __future__ import annotations

from typing import Any

import pytest

from penstock.api import keys
from penstock.api.auth import Authenticator, Principal, fingerprint
from penstock.api.problems import Problem
from penstock.api.scopes import ALL
from penstock.clock import SECOND, ManualClock
from penstock.errors import StorageFull
from penstock.storage import Database, sql

pytestmark = pytest.mark.anyio


def bearer(secret: str) -> bytes:
    return b"Bearer " + secret.encode()


async def make(database: Database, *scopes: str, **options: Any) -> tuple[keys.Key, str]:
    return await database.unit(
        lambda tx: keys.create(tx, "acme", "test", scopes or None, **options)
    )


async def refusal(authenticator: Authenticator, header: bytes | None) -> Problem:
    with pytest.raises(Problem) as caught:
        await authenticator.authenticate(header)
    assert caught.value.status_code == 401
    assert (caught.value.headers or {})["WWW-Authenticate"].startswith('Bearer realm="penstock"')
    return caught.value


@pytest.fixture
def authenticator(database: Database, clock: ManualClock) -> Authenticator:
    return Authenticator(database, clock=clock)


async def test_a_key_is_its_account_and_scopes(
    database: Database, authenticator: Authenticator
) -> None:
    key, secret = await make(database, "events:write")
    principal = await authenticator.authenticate(bearer(secret))
    assert principal == Principal("acme", frozenset({"events:write", "events:read"}), key.id)
    _, everything = await make(database)
    assert (await authenticator.authenticate(b"bearer  " + everything.encode())).scopes == ALL
    await authenticator.close()


async def test_only_the_hash_is_stored(database: Database) -> None:
    key, secret = await make(database)
    assert secret.startswith("psk_")
    assert len(secret) == 47
    (row,) = await database.read(lambda tx: tx.dicts(sql("SELECT * FROM api_keys")))
    assert row["hash"] == fingerprint(secret)
    assert row["hint"] == secret[-4:] == key.hint
    assert secret not in str(row)
    assert await database.read(lambda tx: tx.rows(sql("SELECT id FROM accounts"))) == [("acme",)]


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "unauthenticated"),
        (b"", "invalid_token"),
        (b"Bearer", "invalid_token"),
        (b"Bearer ", "invalid_token"),
        (b"Basic dXNlcjpwYXNz", "invalid_token"),
        (b"Bearer psk_short", "invalid_token"),
        (b"Bearer psk_" + b"A" * 43, "invalid_token"),
        (b"Bearer \xff\xfe", "invalid_token"),
        (b"Bearer a.b.c", "invalid_token"),
        (b"Bearer token with spaces", "invalid_token"),
    ],
)
async def test_who_is_nobody(authenticator: Authenticator, header: bytes | None, code: str) -> None:
    problem = await refusal(authenticator, header)
    assert problem.code == code
    credential = (header or b"").partition(b" ")[2].decode("latin-1")
    assert not credential or credential not in problem.detail


async def test_a_key_ends_at_its_expiry_even_if_remembered(
    database: Database, authenticator: Authenticator, clock: ManualClock
) -> None:
    _, secret = await make(database, expires_at=clock.now() + SECOND)
    await authenticator.authenticate(bearer(secret))
    clock.advance(0.9)
    assert authenticator.remembered(bearer(secret)) is not None
    clock.advance(0.1)
    assert authenticator.remembered(bearer(secret)) is None
    assert "expired" in (await refusal(authenticator, bearer(secret))).detail
    await authenticator.close()


async def test_a_key_is_remembered_for_two_seconds(
    database: Database, authenticator: Authenticator, clock: ManualClock
) -> None:
    _, secret = await make(database)
    assert authenticator.remembered(bearer(secret)) is None
    principal = await authenticator.authenticate(bearer(secret))
    clock.advance(1.9)
    assert authenticator.remembered(bearer(secret)) is principal
    assert authenticator.remembered(bearer(secret[:-1] + "_")) is None
    assert authenticator.remembered(None) is None
    clock.advance(0.2)
    assert authenticator.remembered(bearer(secret)) is None
    await authenticator.close()


async def test_a_revoked_key_is_refused_at_once(
    database: Database, authenticator: Authenticator
) -> None:
    key, secret = await make(database)
    _, other = await make(database)
    for known in (secret, other):
        await authenticator.authenticate(bearer(known))
    assert not await database.unit(lambda tx: keys.revoke(tx, "somebody-else", key.id))
    assert authenticator.remembered(bearer(secret)) is not None
    assert await database.unit(lambda tx: keys.revoke(tx, "acme", key.id))
    assert authenticator.remembered(bearer(secret)) is None
    assert authenticator.remembered(bearer(other)) is not None
    assert "revoked" in (await refusal(authenticator, bearer(secret))).detail
    assert not await database.unit(lambda tx: keys.revoke(tx, "acme", key.id))
    await authenticator.close()


async def test_a_key_revoked_while_it_is_looked_up_is_not_remembered(
    database: Database, clock: ManualClock
) -> None:
    key, secret = await make(database)

    class RevokedMeanwhile:
        subscribe = staticmethod(database.subscribe)
        unit = staticmethod(database.unit)

        @staticmethod
        async def read(fn: Any) -> Any:
            found = await database.read(fn)
            await database.unit(lambda tx: keys.revoke(tx, "acme", key.id))
            return found

    authenticator = Authenticator(RevokedMeanwhile(), clock=clock)  # type: ignore[arg-type]
    await authenticator.authenticate(bearer(secret))
    assert authenticator.remembered(bearer(secret)) is None
    await authenticator.close()


async def test_use_is_noted_once_a_minute(
    database: Database, authenticator: Authenticator, clock: ManualClock
) -> None:
    _, secret = await make(database)

    async def last_used() -> int | None:
        await authenticator.close()
        (key,) = await database.read(lambda tx: keys.page(tx, "acme"))
        return key.last_used_at

    assert await last_used() is None
    first = clock.now()
    await authenticator.authenticate(bearer(secret))
    assert await last_used() == first
    clock.advance(59)
    await authenticator.authenticate(bearer(secret))
    assert await last_used() == first
    clock.advance(2)
    await authenticator.authenticate(bearer(secret))
    assert await last_used() == clock.now()


async def test_a_full_disk_does_not_lock_anybody_out(
    database: Database, clock: ManualClock
) -> None:
    _, secret = await make(database)

    class Full:
        subscribe = staticmethod(database.subscribe)
        read = staticmethod(database.read)

        @staticmethod
        async def unit(fn: Any) -> Any:
            raise StorageFull

    authenticator = Authenticator(Full(), clock=clock)  # type: ignore[arg-type]
    assert (await authenticator.authenticate(bearer(secret))).account == "acme"
    await authenticator.close()


async def test_the_token_of_the_local_command_line(database: Database, clock: ManualClock) -> None:
    authenticator = Authenticator(database, clock=clock, admin_token="local-secret")
    principal = await authenticator.authenticate(b"Bearer local-secret")
    assert (principal.account, principal.scopes) == ("default", ALL)
    await refusal(authenticator, b"Bearer local-secreT")


async def test_what_is_remembered_is_bounded(
    database: Database, authenticator: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.api.auth._MOST_REMEMBERED", 3)
    for _ in range(5):
        _, secret = await make(database)
        await authenticator.authenticate(bearer(secret))
        assert authenticator.remembered(bearer(secret)) is not None
        assert len(authenticator._known) <= 3
    await authenticator.close()


async def test_keys_are_listed_newest_first_and_by_account(database: Database) -> None:
    made = [(await make(database))[0] for _ in range(5)]
    await database.unit(lambda tx: keys.create(tx, "other", "theirs"))
    await database.unit(lambda tx: keys.revoke(tx, "acme", made[1].id))
    expected = [made[n].id for n in (4, 3, 2, 0)]
    first = await database.read(lambda tx: keys.page(tx, "acme", limit=2))
    rest = await database.read(lambda tx: keys.page(tx, "acme", after=first[-1].id, limit=9))
    assert [key.id for key in first + rest] == expected


@pytest.mark.parametrize(
    "options",
    [
        {"name": ""},
        {"name": "  "},
        {"name": "x" * 101},
        {"scopes": []},
        {"scopes": ["everything"]},
        {"expires_at": 1},
    ],
)
async def test_a_key_that_cannot_be_made(database: Database, options: dict[str, Any]) -> None:
    given = {"name": "n", "scopes": None} | options
    with pytest.raises(ValueError, match=r"name|scope|expiry"):
        await database.unit(lambda tx: keys.create(tx, "acme", **given))
    assert await database.read(lambda tx: keys.page(tx, "acme")) == []

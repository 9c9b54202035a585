from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from penstock.api.oidc import OidcVerifier
from penstock.api.problems import Problem
from penstock.clock import ManualClock

pytestmark = pytest.mark.anyio

ISSUER = "https://issuer.example/"
JWKS = "https://issuer.example/keys"
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def jwk(key: Any, kid: str, **extra: Any) -> dict[str, Any]:
    algorithm: Any = {
        rsa.RSAPublicKey: RSAAlgorithm,
        ec.EllipticCurvePublicKey: ECAlgorithm,
        ed25519.Ed25519PublicKey: OKPAlgorithm,
    }
    public = key.public_key()
    (kind,) = [kind for kind in algorithm if isinstance(public, kind)]
    return {**json.loads(algorithm[kind].to_jwk(public)), "kid": kid, "use": "sig", **extra}


KEYS = [jwk(RSA, "rsa"), jwk(EC, "ec"), jwk(ED, "ed")]


class Issuer:
    """Stands in for the network."""

    def __init__(self, keys: list[dict[str, Any]]) -> None:
        self.documents: dict[str, Any] = {
            JWKS: {"keys": keys},
            ISSUER + ".well-known/openid-configuration": {"issuer": ISSUER, "jwks_uri": JWKS},
        }
        self.asked: list[str] = []

    async def fetch(self, url: str) -> Any:
        self.asked.append(url)
        await asyncio.sleep(0)
        document = self.documents[url]
        if isinstance(document, Exception):
            raise document
        return document


@pytest.fixture
def issuer() -> Issuer:
    return Issuer(KEYS)


@pytest.fixture
def verifier(issuer: Issuer, clock: ManualClock) -> OidcVerifier:
    return OidcVerifier(ISSUER, "penstock", clock=clock, fetch=issuer.fetch)


def token(key: Any = RSA, kid: str | None = "rsa", alg: str = "RS256", **claims: Any) -> str:
    now = int(time.time())
    given = {"iss": ISSUER, "aud": "penstock", "sub": "acme", "exp": now + 600} | claims
    given = {name: value for name, value in given.items() if value is not ...}
    return jwt.encode(given, key, algorithm=alg, headers={"kid": kid} if kid else {})


async def refusal(verifier: OidcVerifier, forged: str) -> str:
    with pytest.raises(Problem) as caught:
        await verifier.verify(forged)
    assert caught.value.code == "invalid_token"
    return str(caught.value.detail)


@pytest.mark.parametrize(
    ("key", "kid", "alg"), [(RSA, "rsa", "RS256"), (EC, "ec", "ES256"), (ED, "ed", "EdDSA")]
)
async def test_a_token_of_the_issuer(verifier: OidcVerifier, key: Any, kid: str, alg: str) -> None:
    principal, lifetime = await verifier.verify(token(key, kid, alg, scope="openid jobs:write"))
    assert principal.account == principal.subject == "acme"
    assert principal.scopes == {"jobs:write", "jobs:read"}
    assert principal.key_id is None
    assert lifetime == 2.0


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({}, set()),
        ({"scope": "*"}, set()),
        ({"scope": "https://api.example/events:read"}, {"events:read"}),
        (
            {"scp": ["lanes:read"], "permissions": ["jobs:read", 7, None]},
            {"lanes:read", "jobs:read"},
        ),
        ({"scp": "lanes:read keys:read"}, {"lanes:read", "keys:read"}),
        ({"permissions": {"events:read": True}}, set()),
    ],
)
async def test_scopes(verifier: OidcVerifier, claims: dict[str, Any], scopes: set[str]) -> None:
    principal, _ = await verifier.verify(token(**claims))
    assert principal.scopes == scopes


NOW = int(time.time())


@pytest.mark.parametrize(
    ("claims", "word"),
    [
        ({"exp": NOW - 120}, "expired"),
        ({"exp": ...}, "'exp'"),
        ({"nbf": NOW + 86_400}, "not valid yet"),
        ({"iss": "https://other.example/"}, "another issuer"),
        ({"iss": ...}, "'iss'"),
        ({"aud": "other"}, "another audience"),
        ({"aud": ...}, "'aud'"),
        ({"sub": ...}, "names no account"),
        ({"sub": ""}, "names no account"),
        ({"sub": "x" * 129}, "names no account"),
        ({"sub": "a\0b"}, "names no account"),
    ],
)
async def test_claims_that_do_not_hold(
    verifier: OidcVerifier, claims: dict[str, Any], word: str
) -> None:
    assert word in await refusal(verifier, token(**claims))


async def test_a_small_difference_of_clocks_is_forgiven(verifier: OidcVerifier) -> None:
    now = int(time.time())
    principal, lifetime = await verifier.verify(token(exp=now - 15, nbf=now + 20))
    assert principal.account == "acme"
    assert lifetime <= 2.0


async def test_forgeries(verifier: OidcVerifier) -> None:
    stranger = rsa.generate_private_key(65537, 2048)
    await refusal(verifier, token(stranger))
    await refusal(verifier, token(stranger, "unknown"))
    await refusal(verifier, token(RSA, kid=None))  # three keys: which one is not said
    await refusal(verifier, token(EC, "rsa", "ES256"))
    await refusal(verifier, token(RSA, "rsa", "RS512"))
    await refusal(verifier, token("x" * 64, "rsa", "HS256"))
    await refusal(verifier, jwt.encode({"sub": "acme"}, "", algorithm="none"))
    head, payload, signature = token().split(".")
    await refusal(verifier, f"{head}.{payload}.")
    await refusal(verifier, f"{head}.{token(sub='root').split('.')[1]}.{signature}")
    for rubbish in ("..", "a.b.c", "é.é.é", f"{head}.x.{signature}"):
        await refusal(verifier, rubbish)


async def test_keys_are_fetched_once_for_all_who_wait(
    issuer: Issuer, verifier: OidcVerifier
) -> None:
    await asyncio.gather(*(verifier.verify(token()) for _ in range(20)))
    assert issuer.asked == [ISSUER + ".well-known/openid-configuration", JWKS]


async def test_a_new_key_is_found_but_not_more_than_once_a_minute(
    issuer: Issuer, verifier: OidcVerifier, clock: ManualClock
) -> None:
    new = rsa.generate_private_key(65537, 2048)
    await verifier.verify(token())
    issuer.documents[JWKS] = {"keys": [*KEYS, jwk(new, "new")]}
    for _ in range(3):
        await refusal(verifier, token(new, "new"))
    assert issuer.asked.count(JWKS) == 1
    clock.advance(61)
    await verifier.verify(token(new, "new"))
    for n in range(5):
        await refusal(verifier, token(new, f"invented-{n}"))
    assert issuer.asked.count(JWKS) == 2


async def test_a_withdrawn_key_ends_within_the_hour(
    issuer: Issuer, verifier: OidcVerifier, clock: ManualClock
) -> None:
    await verifier.verify(token())
    issuer.documents[JWKS] = {"keys": KEYS[1:]}
    clock.advance(3601)
    await refusal(verifier, token())


async def test_known_keys_outlive_an_outage(
    issuer: Issuer, verifier: OidcVerifier, clock: ManualClock
) -> None:
    await verifier.verify(token())
    issuer.documents[JWKS] = OSError("unreachable")
    clock.advance(3601)
    await verifier.verify(token())
    assert issuer.asked.count(JWKS) == 2


@pytest.mark.parametrize(
    "document",
    [
        OSError("unreachable"),
        TimeoutError(),
        [],
        {},
        {"keys": None},
        {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "rsa"}]},
        {"keys": [{"kty": "RSA", "n": "!", "e": "AQAB", "kid": "rsa"}, "x", None]},
        {"keys": [jwk(RSA, "rsa", use="enc")]},
    ],
    ids=["unreachable", "slow", "list", "empty", "null", "symmetric", "damaged", "encryption"],
)
async def test_without_keys_it_is_not_the_clients_fault(
    issuer: Issuer, verifier: OidcVerifier, clock: ManualClock, document: Any
) -> None:
    issuer.documents[JWKS] = document
    for _ in range(2):
        with pytest.raises(Problem) as caught:
            await verifier.verify(token())
        assert caught.value.code == "issuer_unavailable"
    assert issuer.asked.count(JWKS) == 1
    issuer.documents[JWKS] = {"keys": KEYS}
    clock.advance(1.5)
    await verifier.verify(token())


@pytest.mark.parametrize(
    "discovery",
    [
        {"issuer": "https://other.example/", "jwks_uri": JWKS},
        {"issuer": ISSUER},
        {"issuer": ISSUER, "jwks_uri": "http://issuer.example/keys"},
        {"issuer": ISSUER, "jwks_uri": "file:///etc/passwd"},
        "no",
    ],
)
async def test_a_discovery_document_that_is_not_followed(
    issuer: Issuer, verifier: OidcVerifier, discovery: Any
) -> None:
    issuer.documents[ISSUER + ".well-known/openid-configuration"] = discovery
    with pytest.raises(Problem) as caught:
        await verifier.verify(token())
    assert caught.value.code == "issuer_unavailable"
    assert JWKS not in issuer.asked


async def test_the_only_key_needs_no_id(clock: ManualClock) -> None:
    issuer = Issuer([jwk(EC, "only")])
    verifier = OidcVerifier(ISSUER, "penstock", jwks_url=JWKS, clock=clock, fetch=issuer.fetch)
    await verifier.verify(token(EC, None, "ES256"))
    assert issuer.asked == [JWKS]


async def test_account_and_audience_from_other_claims(issuer: Issuer, clock: ManualClock) -> None:
    verifier = OidcVerifier(
        ISSUER,
        "app-1",
        account_claim="org_id",
        audience_claim="client_id",
        clock=clock,
        fetch=issuer.fetch,
    )
    claims: dict[str, Any] = {"aud": ..., "client_id": "app-1", "org_id": "org-9"}
    principal, _ = await verifier.verify(token(**claims))
    assert (principal.account, principal.subject) == ("org-9", "acme")
    await refusal(verifier, token(**claims | {"client_id": "app-2"}))
    await refusal(verifier, token(**claims | {"client_id": ...}))
    await refusal(verifier, token(**claims | {"org_id": 7}))


@pytest.mark.parametrize(
    ("answer", "works"),
    [
        (lambda _request: web.json_response({"keys": KEYS}), True),
        (lambda _request: web.Response(status=500), False),
        (lambda _request: web.Response(text="<html>"), False),
        (lambda _request: web.Response(text=" " * 2_000_000), False),
        (lambda _request: web.Response(status=302, headers={"Location": "/elsewhere"}), False),
    ],
)
async def test_over_http(
    answer: Callable[[web.Request], web.Response], works: bool, clock: ManualClock
) -> None:
    async def handle(request: web.Request) -> web.Response:
        return answer(request)

    application = web.Application()
    application.router.add_get("/keys", handle)
    async with TestServer(application) as server:
        verifier = OidcVerifier(
            ISSUER, "penstock", jwks_url=str(server.make_url("/keys")), clock=clock
        )
        if works:
            await verifier.verify(token())
        else:
            with pytest.raises(Problem) as caught:
                await verifier.verify(token())
            assert caught.value.code == "issuer_unavailable"

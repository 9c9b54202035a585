"""What every carrier's client must bear: each test runs for each of them.

A carrier takes part with its line in `support.carriers.SPOKEN`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from email.utils import format_datetime
from typing import Any

import aiohttp
import pytest

from penstock.clock import ManualClock, to_datetime
from penstock.tracking.carriers.base import (
    HIDDEN,
    Answer,
    Carrier,
    Credential,
    Forbidden,
    Found,
    Malformed,
    NotFound,
    Query,
    RateLimited,
    Unavailable,
)
from penstock.tracking.carriers.http import carrier_session
from penstock.tracking.carriers.registry import CARRIERS
from support.carriers import HTML, SECRET, SPOKEN, Call, CarrierServer, Reply, Spoken
from support.ports import reserved

pytestmark = pytest.mark.anyio

Make = Callable[..., Carrier]
REMOTE = sorted(SPOKEN)
WITH_TOKENS = sorted(name for name in SPOKEN if SPOKEN[name].tokens)


@pytest.fixture
async def server() -> AsyncIterator[CarrierServer]:
    async with CarrierServer() as started:
        yield started


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with carrier_session(connect=60.0, read=60.0) as opened:
        yield opened


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=REMOTE)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def spoken(name: str) -> Spoken:
    return SPOKEN[name]


@pytest.fixture
async def carrier(
    name: str, server: CarrierServer, session: aiohttp.ClientSession, clock: ManualClock
) -> AsyncIterator[Carrier]:
    made = made_for(name, server.url, session, clock)
    yield made
    await made.close()


def made_for(name: str, url: str, session: aiohttp.ClientSession, clock: ManualClock) -> Carrier:
    credential = Credential("settings", SPOKEN[name].values)
    return CARRIERS[name].make(credential, url, session, clock)


async def ask(carrier: Carrier) -> Answer:
    """The answer about the carrier's first number."""
    number = SPOKEN[carrier.name].numbers[0]
    answers = await carrier.fetch([Query(number)])
    assert list(answers) == [number]
    return answers[number]


def test_every_carrier_with_a_network_takes_part() -> None:
    assert set(REMOTE) == set(CARRIERS) - {"sandbox"}


def test_what_a_carrier_says_of_itself_fits(name: str) -> None:
    spec = CARRIERS[name]
    assert {field.name for field in spec.fields} == set(SPOKEN[name].values)
    assert any(field.secret for field in spec.fields)
    assert spec.base_url.startswith("https://")
    assert not spec.base_url.endswith("/")
    assert spec.page is None or "{number}" in spec.page
    assert spec.budget.per_second > 0
    assert spec.budget.per_day > 0


async def test_a_parcel_on_its_way_is_found(
    server: CarrierServer, carrier: Carrier, spoken: Spoken
) -> None:
    server.answers(spoken.found)
    found = await ask(carrier)
    assert isinstance(found, Found), found
    assert found.number == spoken.numbers[0]
    assert found.status == "in_transit"
    assert found.scans
    assert found.text


async def test_each_number_gets_its_own_answer(
    server: CarrierServer, carrier: Carrier, spoken: Spoken
) -> None:
    server.answers(spoken.found)
    answers = await carrier.fetch([Query(number) for number in spoken.numbers])
    assert set(answers) == set(spoken.numbers)
    for number, answer in answers.items():
        assert isinstance(answer, Found)
        assert answer.number == number


async def test_a_number_that_is_given_twice_is_asked_for_once(
    server: CarrierServer, carrier: Carrier, spoken: Spoken
) -> None:
    server.answers(spoken.found)
    answers = await carrier.fetch([Query(spoken.numbers[0])] * 3)
    assert list(answers) == [spoken.numbers[0]]
    assert len(server.calls) == 1
    assert server.calls[0].body.count(spoken.numbers[0].encode()) <= 1


async def test_a_parcel_that_the_carrier_does_not_know_is_not_found(
    server: CarrierServer, carrier: Carrier, spoken: Spoken
) -> None:
    server.answers(spoken.unknown)
    answer = await ask(carrier)
    assert isinstance(answer, NotFound), answer
    assert answer.text


async def test_a_number_of_impossible_characters_is_not_sent(
    server: CarrierServer, carrier: Carrier
) -> None:
    answers = await carrier.fetch([Query("../../oauth/token?x=")])
    assert [type(answer).__name__ for answer in answers.values()] == ["Invalid"]
    assert server.calls == []


async def test_a_parcel_that_cannot_be_read_is_malformed_not_an_outage(
    server: CarrierServer, carrier: Carrier, spoken: Spoken
) -> None:
    server.answers(spoken.malformed)
    answer = await ask(carrier)
    assert isinstance(answer, Malformed), answer


@pytest.mark.parametrize("body", [None, [], {}, "text", 7, [[]], {"trackResponse": []}])
async def test_json_of_another_shape_raises_nothing(
    server: CarrierServer, carrier: Carrier, body: Any
) -> None:
    server.answers(Reply(body))
    answer = await ask(carrier)
    assert isinstance(answer, Malformed | NotFound), answer


@pytest.mark.parametrize("name", WITH_TOKENS)
async def test_a_token_that_is_not_accepted_is_renewed_once(
    server: CarrierServer, carrier: Carrier, spoken: Spoken
) -> None:
    server.answers(spoken.found)
    assert isinstance(await ask(carrier), Found)
    server.revoke()
    assert isinstance(await ask(carrier), Found)
    assert len(server.token_calls) == 2
    assert len(server.calls) == 3  # the one that was refused, too


@pytest.mark.parametrize("name", WITH_TOKENS)
async def test_a_credential_that_may_not_track_is_forbidden_after_one_renewal(
    server: CarrierServer, carrier: Carrier, spoken: Spoken
) -> None:
    server.answers(spoken.error(401))
    answer = await ask(carrier)
    assert isinstance(answer, Forbidden), answer
    assert answer.number is None
    assert len(server.token_calls) == 2
    assert len(server.calls) == 2


@pytest.mark.parametrize(("name", "product"), [("usps", "Tracking API"), ("fedex", "Track API")])
async def test_an_application_without_the_product_is_told_what_to_look_at(
    server: CarrierServer, carrier: Carrier, spoken: Spoken, product: str
) -> None:
    server.answers(spoken.error(401))
    answer = await ask(carrier)
    assert isinstance(answer, Forbidden), answer
    assert product in answer.text


@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.parametrize("name", WITH_TOKENS)
async def test_a_wrong_secret_is_forbidden_and_nothing_is_tracked(
    server: CarrierServer, carrier: Carrier, status: int
) -> None:
    server.answers_token_calls(Reply({"error": "invalid_client"}, status))
    answer = await ask(carrier)
    assert isinstance(answer, Forbidden), answer
    assert answer.number is None
    assert "invalid_client" in answer.text
    assert server.calls == []


async def test_403_is_about_the_credential(
    server: CarrierServer, carrier: Carrier, spoken: Spoken
) -> None:
    server.answers(spoken.error(403))
    answer = await ask(carrier)
    assert isinstance(answer, Forbidden), answer


async def test_429_with_seconds_waits_so_long(
    server: CarrierServer, carrier: Carrier, spoken: Spoken
) -> None:
    server.answers(spoken.error(429, **{"Retry-After": "120"}))
    assert await ask(carrier) == RateLimited(120.0)


async def test_429_with_a_date_waits_until_then(
    server: CarrierServer, carrier: Carrier, spoken: Spoken, clock: ManualClock
) -> None:
    until = format_datetime(to_datetime(clock.now() + 90 * 1_000_000), usegmt=True)
    server.answers(spoken.error(429, **{"Retry-After": until}))
    assert await ask(carrier) == RateLimited(90.0)


async def test_429_without_a_word_about_how_long(
    server: CarrierServer, carrier: Carrier, spoken: Spoken
) -> None:
    server.answers(spoken.error(429))
    assert await ask(carrier) == RateLimited(None)


@pytest.mark.parametrize("name", WITH_TOKENS)
async def test_a_token_call_that_is_asked_too_often(
    server: CarrierServer, carrier: Carrier, spoken: Spoken
) -> None:
    server.answers_token_calls(spoken.error(429, **{"Retry-After": "30"}))
    assert await ask(carrier) == RateLimited(30.0)


async def test_an_error_of_another_kind_is_no_verdict_on_the_number(
    server: CarrierServer, carrier: Carrier, spoken: Spoken
) -> None:
    """Nor on the carrier: it answered, and what it minds may be our own doing."""
    server.answers(spoken.error(409))
    answer = await ask(carrier)
    assert isinstance(answer, Malformed), answer
    assert "409" in answer.reason or "SOME.ERROR" in answer.reason


async def test_a_slash_at_the_end_of_the_base_url_does_no_harm(
    name: str,
    server: CarrierServer,
    session: aiohttp.ClientSession,
    clock: ManualClock,
    spoken: Spoken,
) -> None:
    carrier = made_for(name, f"{server.url}/", session, clock)
    server.answers(spoken.found)
    assert isinstance(await ask(carrier), Found)
    await carrier.close()
    assert "//" not in server.calls[0].path


async def test_503_in_html_is_an_outage(server: CarrierServer, carrier: Carrier) -> None:
    server.answers(Reply(HTML, 503, {"Content-Type": "text/html"}))
    answer = await ask(carrier)
    assert isinstance(answer, Unavailable), answer
    assert answer.kind == "http_503"


async def test_html_with_a_200_is_an_outage(server: CarrierServer, carrier: Carrier) -> None:
    server.answers(Reply(HTML, 200, {"Content-Type": "text/html"}))
    answer = await ask(carrier)
    assert isinstance(answer, Unavailable), answer
    assert answer.kind == "not_json"


async def test_a_404_that_is_not_the_carriers_is_not_a_verdict_on_the_parcel(
    server: CarrierServer, carrier: Carrier
) -> None:
    """A wrong base URL must not make every parcel look unknown."""
    server.answers(Reply(HTML, 404, {"Content-Type": "text/html"}))
    answer = await ask(carrier)
    assert isinstance(answer, Unavailable), answer
    assert answer.kind == "http_404"


async def test_json_that_is_cut_off_is_an_outage(
    server: CarrierServer, carrier: Carrier, spoken: Spoken
) -> None:
    server.answers(lambda call: Reply(spoken.found(call).content[:-20]))
    answer = await ask(carrier)
    assert isinstance(answer, Unavailable), answer
    assert answer.kind == "not_json"


async def test_a_connection_that_ends_in_the_middle_is_an_outage(
    server: CarrierServer, carrier: Carrier
) -> None:
    server.answers(Reply(b'{"a":', cut=True))
    answer = await ask(carrier)
    assert isinstance(answer, Unavailable), answer
    assert answer.kind in ("protocol", "connection")


async def test_a_body_without_end_is_not_read_to_its_end(
    server: CarrierServer, carrier: Carrier
) -> None:
    server.answers(Reply(b" " * (5 * 2**20)))
    answer = await ask(carrier)
    assert isinstance(answer, Unavailable), answer
    assert answer.kind == "too_large"


async def test_a_redirect_is_not_followed(server: CarrierServer, carrier: Carrier) -> None:
    server.answers(Reply(None, 302, {"Location": f"{server.url}/elsewhere"}))
    answer = await ask(carrier)
    assert isinstance(answer, Unavailable), answer
    assert answer.kind == "redirect"
    assert all(call.path != "/elsewhere" for call in server.calls)


async def test_a_carrier_that_does_not_answer_in_time(
    name: str, server: CarrierServer, clock: ManualClock, spoken: Spoken
) -> None:
    gate = asyncio.Event()
    async with carrier_session(connect=60.0, read=0.3) as impatient:
        carrier = made_for(name, server.url, impatient, clock)
        server.answers(Reply({}, gate=gate))
        answer = await ask(carrier)
        await carrier.close()
    gate.set()
    assert isinstance(answer, Unavailable), answer
    assert answer.kind == "timeout"


async def test_a_carrier_that_nobody_answers_for(
    name: str, session: aiohttp.ClientSession, clock: ManualClock
) -> None:
    with reserved() as port:
        carrier = made_for(name, f"http://127.0.0.1:{port}", session, clock)
        answer = await ask(carrier)
    await carrier.close()
    assert isinstance(answer, Unavailable), answer
    assert answer.kind == "connection_refused"


@pytest.mark.parametrize("name", WITH_TOKENS)
async def test_twenty_cold_fetches_at_once_make_one_token_call(
    server: CarrierServer, carrier: Carrier, spoken: Spoken
) -> None:
    gate = asyncio.Event()
    server.answers(spoken.found)

    def slow(_: object) -> Reply:
        issued = server.issue()
        return Reply(issued.body, gate=gate)

    server.answers_token_calls(slow)
    asked = [asyncio.create_task(ask(carrier)) for _ in range(20)]
    while not server.token_calls:
        await asyncio.sleep(0.01)
    gate.set()
    assert all(isinstance(answer, Found) for answer in await asyncio.gather(*asked))
    assert len(server.token_calls) == 1
    assert len(server.calls) == 20


@pytest.mark.parametrize("name", WITH_TOKENS)
async def test_twenty_fetches_with_a_token_that_is_no_longer_good_make_one_more(
    server: CarrierServer, carrier: Carrier, spoken: Spoken
) -> None:
    server.answers(spoken.found)
    await ask(carrier)
    server.revoke()
    answers = await asyncio.gather(*(ask(carrier) for _ in range(20)))
    assert all(isinstance(answer, Found) for answer in answers)
    assert len(server.token_calls) == 2


@pytest.mark.parametrize("name", WITH_TOKENS)
async def test_a_token_is_renewed_before_its_end(
    server: CarrierServer, carrier: Carrier, spoken: Spoken, clock: ManualClock
) -> None:
    server.life = "1000"  # as UPS writes it
    server.answers(spoken.found)
    await ask(carrier)
    clock.advance(799)
    await ask(carrier)
    assert len(server.token_calls) == 1
    clock.advance(2)
    await ask(carrier)
    assert len(server.token_calls) == 2


@pytest.mark.parametrize("name", WITH_TOKENS)
async def test_one_who_gives_up_does_not_take_the_token_along(
    server: CarrierServer, carrier: Carrier, spoken: Spoken
) -> None:
    gate = asyncio.Event()
    server.answers(spoken.found)

    def slow(_: object) -> Reply:
        issued = server.issue()
        return Reply(issued.body, gate=gate)

    server.answers_token_calls(slow)
    impatient = asyncio.create_task(ask(carrier))
    while not server.token_calls:
        await asyncio.sleep(0.01)
    patient = asyncio.create_task(ask(carrier))
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    gate.set()
    assert isinstance(await patient, Found)
    assert len(server.token_calls) == 1


async def test_an_outage_ends_a_fetch_of_many_calls(
    server: CarrierServer, carrier: Carrier, spoken: Spoken
) -> None:
    server.answers(Reply(HTML, 503))
    several = [Query(number) for number in spoken.numbers] * carrier.per_call
    answers = await carrier.fetch(several)
    assert set(answers) == set(spoken.numbers)
    assert all(isinstance(answer, Unavailable) for answer in answers.values())
    assert len(server.calls) == 1


async def test_secrets_are_in_no_answer_log_or_repr(
    name: str,
    server: CarrierServer,
    carrier: Carrier,
    spoken: Spoken,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not even where the carrier repeats in its errors what was sent to it."""
    caplog.set_level(logging.DEBUG)

    def parrot(status: int) -> Callable[[Call], Reply]:
        def answer(call: Call) -> Reply:
            heard = [SECRET, *call.headers.values(), call.body.decode()]
            return spoken.error(status, "; ".join(heard))

        return answer

    texts = []
    for status in (400, 403, 404, 409, 500):
        server.answers(parrot(status))
        texts.append(repr(await ask(carrier)))
    assert any(HIDDEN in text for text in texts)  # so the carrier's words are told at all
    server.revoke()
    server.answers(spoken.error(401))
    texts.append(repr(await ask(carrier)))
    server.answers_token_calls(Reply({"error": SECRET, "error_description": SECRET}, 401))
    texts.append(repr(await ask(carrier)))
    texts += [repr(carrier), repr(Credential("settings", spoken.values))]
    texts += [f"{record.getMessage()} {record.args}" for record in caplog.records]
    for text in texts:
        assert SECRET not in text
        assert "token-" not in text

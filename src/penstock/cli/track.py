"""`penstock track`: ask a carrier about one parcel, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.output import JsonOption, document, fail, say
from penstock.cli.panels import ALONE
from penstock.cli.serve import DataOption

if TYPE_CHECKING:
    from penstock.tracking.carriers.base import Answer, Found, Query, Spec

# A carrier that cannot be asked is unreachable; what it refuses is an unusable input.
_EXIT = {"invalid": 2, "credential_refused": 2, "unavailable": 4}
_OF_THE_NUMBER = ("not_found", "invalid", "forbidden", "malformed")


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command(rich_help_panel=ALONE)(track)


def track(
    carrier: Annotated[str, typer.Argument(help="Such as ups; `sandbox` needs no network.")],
    number: Annotated[str, typer.Argument(help="As printed; quote it if it has spaces.")],
    ship_date: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", help="When it was sent, if known.")
    ] = None,
    postal_code: Annotated[
        str | None, typer.Option(help="The recipient's, for carriers that ask for it.")
    ] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a carrier about one parcel, once, and print what it says.

    The credential is that of the settings, such as PENSTOCK_UPS_CLIENT_ID. Nothing is stored.
    """
    from penstock.settings import load_settings
    from penstock.tracking import numbers
    from penstock.tracking.carriers.base import Query
    from penstock.tracking.carriers.registry import CARRIERS

    spec = CARRIERS.get(carrier.strip().lower().replace("-", "_"))
    if spec is None:
        fail(f"there is no carrier {carrier!r}; known are {', '.join(CARRIERS)}", code=2)
    try:
        query = Query(
            numbers.normalise(spec.name, number),
            None if ship_date is None else date.fromisoformat(ship_date),
            postal_code,
        )
    except numbers.NumberRefused as exc:
        fail(str(exc), code=2)
    except ValueError:
        fail(f"{ship_date!r} is no date: write it as 2026-01-31", code=2)
    access = load_settings(data_dir=data).carriers().get(spec.name)
    values: Mapping[str, str] = {} if access is None else access.values
    if not values and spec.fields:
        names = ", ".join(f"PENSTOCK_{spec.name}_{field.name}".upper() for field in spec.fields)
        fail(f"there is no credential for {spec.title}: set {names}", code=2)
    base_url = (None if access is None else access.url) or spec.base_url
    answer = asyncio.run(_ask(spec, values, base_url, query))
    outcome, shown = _outcome(answer)
    if as_json:
        asked = {"carrier": spec.name, "tracking_number": query.number, "outcome": outcome}
        document(asked | shown)
    elif outcome == "found":
        _print(spec, query.number, shown)
    if outcome != "found":
        said = shown["message"].rstrip(".")
        # Where the carrier itself is the trouble, the number is not.
        hint = _hint(spec, query.number) if outcome in _OF_THE_NUMBER else ""
        message = f"{spec.title}: {said}{hint}"
        fail(message, code=_EXIT.get(outcome, 1))


async def _ask(spec: Spec, values: Mapping[str, str], base_url: str, query: Query) -> Answer:
    from penstock.clock import SystemClock
    from penstock.tracking.carriers.base import Credential
    from penstock.tracking.carriers.http import carrier_session

    async with carrier_session() as session:
        client = spec.make(Credential("settings", values), base_url, session, SystemClock())
        try:
            return (await client.fetch([query]))[query.number]
        finally:
            await client.close()


def _outcome(answer: Answer) -> tuple[str, dict[str, Any]]:
    """What came of it in a word, and what there is to say."""
    from penstock.tracking.carriers.base import (
        Forbidden,
        Found,
        Invalid,
        Malformed,
        NotFound,
        RateLimited,
        Unavailable,
    )

    match answer:
        case Found():
            return "found", _found(answer)
        case NotFound(text=text):
            return "not_found", {"message": text or "it does not know the number"}
        case Invalid(text=text):
            return "invalid", {"message": text or "it does not take the number"}
        case Forbidden(number=None, text=text):
            return "credential_refused", {"message": text}
        case Forbidden(text=text):
            return "forbidden", {"message": text or "the credential may not see this parcel"}
        case RateLimited(retry_after=seconds):
            when = "later" if seconds is None else f"in {seconds:.0f} seconds"
            return "rate_limited", {"message": f"it was asked too often; try again {when}"}
        case Unavailable(reason=reason, kind=kind):
            return "unavailable", {"message": reason, "kind": kind}
        case Malformed(reason=reason):
            return "malformed", {"message": f"its answer cannot be read: {reason}"}


def _found(found: Found) -> dict[str, Any]:
    from penstock.clock import SystemClock
    from penstock.tracking import views
    from penstock.tracking.status import State, fold, in_order

    now = SystemClock().now()
    state = fold(State(), found, now=now)
    return {
        "status": state.status,
        "sub_status": state.sub_status,
        "carrier_code": state.code,
        "carrier_text": state.text,
        "status_at": views.iso(state.status_at),
        "estimated_delivery_at": views.iso(state.eta),
        "estimated_delivery_local_time": views.local(state.eta, found.eta_offset),
        "delivered_at": views.iso(state.delivered_at),
        "delivered_local_time": views.local(state.delivered_at, found.delivered_offset),
        "signed_by": state.signed_by,
        "service": found.service,
        "scans": [
            {
                "at": views.iso(scan.at),
                "local_time": views.local(scan.at, scan.offset),
                "status": scan.status,
                "sub_status": scan.sub_status,
                "code": scan.code,
                "text": scan.text,
                "place": scan.place,
            }
            for scan in reversed(in_order(found.scans))
        ],
    }


def _print(spec: Spec, number: str, shown: Mapping[str, Any]) -> None:
    detail = f" ({shown['sub_status']})" if shown["sub_status"] else ""
    text = f": {shown['carrier_text']}" if shown["carrier_text"] else ""
    say(f"{spec.title} {number}  {shown['status']}{detail}{text}")
    for title, name in (
        ("Service", "service"),
        ("Estimated delivery", "estimated_delivery_local_time"),
        ("Delivered", "delivered_local_time"),
        ("Signed by", "signed_by"),
    ):
        if shown[name]:
            say(f"{title:20}{shown[name]}")
    if shown["scans"]:
        say()
    for scan in shown["scans"]:
        place = f"  [{scan['place']}]" if scan["place"] else ""
        say(f"{scan['local_time']:27}{scan['status'] or '':22}{scan['text']}{place}")


def _hint(spec: Spec, number: str) -> str:
    """What the number itself says, where the carrier knew nothing."""
    from penstock.tracking import numbers
    from penstock.tracking.carriers.registry import CARRIERS

    hint = ""
    if numbers.check(spec.name, number) is False:
        hint = f". The number's check digit is wrong for {spec.title}"
    others = [
        CARRIERS[each.carrier].title
        for each in numbers.detect(number)
        if each.checksum == "valid" and each.carrier != spec.name and each.carrier in CARRIERS
    ]
    return f"{hint}. It may be one of {' or '.join(others)}" if others else hint

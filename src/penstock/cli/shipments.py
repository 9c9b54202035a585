"""`penstock shipments`: parcels that a server follows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from penstock.cli.output import JsonOption, columns, document, fail, fields, note, say, shown_all
from penstock.cli.remote import LimitOption, listed, with_server
from penstock.client import Client
from penstock.client.calls import at

app = typer.Typer(help="Shipments: parcels that the server follows.", no_args_is_help=True)

ShipmentArgument = Annotated[str, typer.Argument(metavar="SHIPMENT_ID")]


@app.command()
@with_server
def add(
    server: Client,
    carrier: Annotated[str, typer.Argument(help="Such as ups; `sandbox` needs no network.")],
    number: Annotated[str, typer.Argument(help="As printed; quote it if it has spaces.")],
    label: Annotated[str | None, typer.Option(help="What to call it.")] = None,
    reference: Annotated[str | None, typer.Option(help="Your own, such as an order's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Follow a parcel; one that is followed already is shown as it is."""
    body = {"carrier": carrier, "tracking_number": number}
    body |= {k: v for k, v in {"label": label, "reference": reference}.items() if v is not None}
    _tell(server.call("POST", "/v1/shipments", body, repeatable=True), as_json)


@app.command("import")
@with_server
def import_(
    server: Client,
    file: Annotated[Path, typer.Argument(help="A CSV with a column of tracking numbers.")],
    carrier: Annotated[str | None, typer.Option(help="Of the rows that name none.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Follow the parcels of a CSV. Importing a file again follows none twice."""
    try:
        content = file.read_bytes()
    except OSError as exc:
        fail(f"{file}: {exc.strerror}", code=2)
    found = server.shipments.import_csv(content, carrier=carrier)
    if as_json:
        document(found.to_json())
    else:
        say(f"{found.import_id}  {found.status}")
        note("it goes on in the server: `penstock shipments list` shows what came of it")


@app.command("list")
@with_server
def list_(
    server: Client,
    carrier: Annotated[str | None, typer.Option(help="Of this carrier alone.")] = None,
    status: Annotated[str | None, typer.Option(help="Such as in_transit or delivered.")] = None,
    search: Annotated[str | None, typer.Option(help="In its number, label or reference.")] = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """List shipments, newest first."""
    items, more = listed(
        server, "/v1/shipments", limit, carrier=carrier, status=status, search=search
    )
    nothing = "No shipments. Try one: penstock shipments add sandbox SBXDELIVERED1"
    if shown_all(items, more, as_json, nothing):
        columns(
            (
                each["shipment_id"],
                each["status"],
                each["carrier"],
                each["tracking_number"],
                each["status_at"],
                each["label"],
            )
            for each in items
        )


@app.command()
@with_server
def show(server: Client, shipment_id: ShipmentArgument, as_json: JsonOption = False) -> None:
    """Show a shipment with its scans, and when it is looked at next."""
    _tell(server.call("GET", at("shipments", shipment_id)), as_json)


@app.command()
@with_server
def refresh(server: Client, shipment_id: ShipmentArgument, as_json: JsonOption = False) -> None:
    """Ask the carrier as soon as its budget allows."""
    path = at("shipments", shipment_id, "refresh")
    _tell(server.call("POST", path, repeatable=True), as_json)


@app.command()
@with_server
def stop(server: Client, shipment_id: ShipmentArgument, as_json: JsonOption = False) -> None:
    """Follow a parcel no more; what is known of it stays."""
    _tell(server.call("POST", at("shipments", shipment_id, "stop"), repeatable=True), as_json)


@app.command()
@with_server
def delete(server: Client, shipment_id: ShipmentArgument, as_json: JsonOption = False) -> None:
    """Delete a shipment with its scans."""
    server.shipments.delete(shipment_id)
    if as_json:
        document({"deleted": shipment_id})
    else:
        say(f"Deleted {shipment_id}.")


def _tell(shipment: dict[str, Any], as_json: bool) -> None:
    if as_json:
        document(shipment)
        return
    scans = shipment.pop("scans", [])
    why = shipment.get("why")
    shown = {name: value for name, value in shipment.items() if value != ""}
    fields({**shown, "why": why["message"] if why else None})
    if scans:
        say()
    columns(
        (
            scan.get("local_time") or scan["at"],
            scan["status"],
            scan["text"],
            scan["place"],
        )
        for scan in scans
    )

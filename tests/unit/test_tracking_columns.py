"""What the columns of an import mean, and what is said of rows that cannot be used."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.tracking.carriers.registry import CARRIERS
from penstock.tracking.columns import MOST_COLUMNS, TEMPLATE, Head, head, shipment
from penstock.tracking.sheet import MOST_BYTES, Fault, Place, Row, read
from penstock.tracking.shipments import NewShipment

UPS = "1Z999AA10123456784"
HEAD = "carrier,tracking_number,label,reference,ship_date,postal_code,metadata.Order No"
COLUMNS = tuple(HEAD.split(","))


def of(*fields: str, carrier: str | None = None, columns: tuple[str, ...] = COLUMNS) -> Any:
    return shipment(Row(7, fields), columns, carrier, CARRIERS)


def head_of(data: bytes, carrier: str | None = None) -> Any:
    return head(data, final=True, carrier=carrier)


# ------------------------------------------------------------------ heads


def test_a_head_names_the_columns_in_any_order_and_spelling() -> None:
    found = head_of(b'Tracking Number;CARRIER;"metadata.Order No";ship-date;;\r\nx;y\r\n')
    names = ("tracking_number", "carrier", "metadata.Order No", "ship_date")
    assert found == (Head(";", names), Place(57, 2))


def test_empty_rows_above_the_head_are_passed_over() -> None:
    data = b"\n,,\ncarrier,tracking_number\nups,1\n"
    assert head_of(data) == (Head(",", ("carrier", "tracking_number")), Place(28, 4))


def test_with_a_carrier_for_all_rows_its_column_may_be_missing() -> None:
    assert head_of(b"tracking_number\n", "ups") == (Head(",", ("tracking_number",)), Place(16, 2))


@pytest.mark.parametrize(
    ("data", "codes"),
    [
        (b"", ["empty_file"]),
        (b"\n\n , \n", ["empty_file"]),
        (b"ups,1Z999AA10123456784\n", ["missing_header"]),
        (b"\n" * 5000 + b"carrier,tracking_number\n", ["missing_header"]),
        (b"label\nx\n", ["missing_column", "missing_column"]),
        (b"carrier,label\n", ["missing_column"]),
        (b"carrier,tracking_number,Weight,Height\n", ["unknown_column", "unknown_column"]),
        (b"carrier,tracking_number,metadata.\n", ["unknown_column"]),
        (b"carrier,tracking_number,carrier\n", ["duplicate_column"]),
        (b"carrier,tracking_number,metadata.a,metadata.a\n", ["duplicate_column"]),
        (b"carrier,tracking_number" + b",x" * MOST_COLUMNS + b"\n", ["too_many_columns"]),
        (b'"carrier,tracking_number\n', ["quote_not_closed"]),
        (b"carrier,\0\n", ["nul_character"]),
        (b"carrier,\xff\n", ["not_utf8"]),
        (b"x" * (MOST_BYTES + 1), ["row_too_long"]),
    ],
)
def test_what_is_wrong_with_a_head_is_said(data: bytes, codes: list[str]) -> None:
    found = head_of(data)
    assert isinstance(found, list), found
    assert [fault.code for fault in found] == codes
    assert all(fault.message.endswith(".") and fault.number >= 1 for fault in found)


# ------------------------------------------------------------------ rows


def test_a_row_becomes_a_shipment() -> None:
    assert of("UPS", " 1z 999-AA1 01 2345 6784", "Chair", "c7", "2026-01-31", "40202", "1042") == (
        NewShipment("ups", UPS, "Chair", "c7", "2026-01-31", "40202", '{"Order No":"1042"}')
    )


def test_fields_that_are_empty_or_missing_are_not_there() -> None:
    assert of("ups", UPS, "", "") == NewShipment("ups", UPS)
    assert of("ups", UPS, *[""] * 20) == NewShipment("ups", UPS)


def test_a_carrier_as_people_write_it() -> None:
    number = "RR123456785GB"
    for name in ("Royal Mail", "royal-mail", "ROYAL_MAIL"):
        assert of(name, number) == NewShipment("royal_mail", number)


def test_the_carrier_of_all_rows_is_for_those_that_name_none() -> None:
    assert of("", UPS, carrier="ups") == NewShipment("ups", UPS)
    assert of("fedex", UPS, carrier="ups") == NewShipment("fedex", UPS)


@pytest.mark.parametrize(
    ("fields", "code", "column"),
    [
        (("", UPS), "missing_value", "carrier"),
        (("ups",), "missing_value", "tracking_number"),
        (("ups", ""), "missing_value", "tracking_number"),
        (("hermes", UPS), "unknown_carrier", "carrier"),
        (("U.P.S.", UPS), "unknown_carrier", "carrier"),
        (("ups", "n/a"), "bad_number", "tracking_number"),
        (("ups", "1.23457E+17"), "bad_number", "tracking_number"),
        (("ups", "1Z"), "bad_number", "tracking_number"),
        (("ups", "1" * 200), "too_long", "tracking_number"),
        (("ups", UPS, "x" * 201), "too_long", "label"),
        (("ups", UPS, "", "", "31.01.2026"), "bad_date", "ship_date"),
        (("ups", UPS, "", "", "2026-02-30"), "bad_date", "ship_date"),
        (("ups", UPS, "", "", "", "x" * 21), "too_long", "postal_code"),
        (("ups", UPS, "", "", "", "", "x" * 9000), "bad_value", "metadata"),
        (("ups", UPS, "", "", "", "", "", "more"), "too_many_columns", None),
    ],
)
def test_what_is_wrong_with_a_row_is_said(
    fields: tuple[str, ...], code: str, column: str | None
) -> None:
    found = of(*fields)
    assert isinstance(found, Fault), found
    assert (found.number, found.code, found.column) == (7, code, column)
    assert found.message.endswith(".")
    assert found.message[0].isupper()


def test_a_value_in_a_column_without_a_name_is_a_fault() -> None:
    columns = ("carrier", "", "tracking_number")
    assert of("ups", "", UPS, columns=columns) == NewShipment("ups", UPS)
    found = of("ups", "what is this", UPS, columns=columns)
    assert (found.code, found.column) == ("too_many_columns", None)


def test_the_template_can_be_imported() -> None:
    data = TEMPLATE.encode()
    found = head_of(data)
    assert not isinstance(found, list), found
    names, place = found
    (row,), _ = read(data[place.at :], place, final=True, delimiter=names.delimiter, most=10)
    assert isinstance(row, Row)
    made = shipment(row, names.columns, None, CARRIERS)
    assert isinstance(made, NewShipment), made
    assert made.carrier == "sandbox"

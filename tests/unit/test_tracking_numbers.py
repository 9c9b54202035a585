"""Tracking numbers: published examples, and numbers whose check digit is worked out here.

The arithmetic below is written from the rules' wording, not from the code under test: digit by
digit, with the position counted from the left.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.tracking.numbers import (
    LONGEST,
    POSTAL,
    Candidate,
    NumberRefused,
    check,
    detect,
    normalise,
)


def first(text: str) -> tuple[str, str, str]:
    found = detect(text)
    assert found, f"nobody's: {text}"
    return found[0].carrier, found[0].format, found[0].checksum


# --------------------------------------------------------------------------- arithmetic


def ups_digit(body: str) -> str:
    """`body`: the 15 characters after 1Z."""
    letters = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "23456789012345678901234567", strict=True))
    total = 0
    for place, character in enumerate(body, start=1):
        value = int(letters.get(character, character))
        total += value if place % 2 == 1 else value + value
    return str((10 - total % 10) % 10)


def gs1_digit(body: str) -> str:
    """The weights are 3, 1, 3 … from the right; the digit fills up to the next ten."""
    odd = sum(int(character) for character in body[::-2])
    even = sum(int(character) for character in body[-2::-2])
    return str(-(3 * odd + even) % 10)


def fedex_digit(body: str) -> str:
    weights = {11: "31731731731", 13: "1731731731731"}[len(body)]
    total = sum(int(a) * int(b) for a, b in zip(body, weights, strict=True))
    return str(total % 11)[-1]  # ten is written as 0


def s10_digit(serial: str) -> str:
    total = 0
    for weight, character in zip((8, 6, 4, 2, 3, 5, 9, 7), serial, strict=True):
        total += weight * int(character)
    digit = 11 - total % 11
    return {10: "0", 11: "5"}.get(digit, str(digit))


def digits(count: int) -> st.SearchStrategy[str]:
    return st.text("0123456789", min_size=count, max_size=count)


@given(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=15, max_size=15))
def test_ups_1z(body):
    right = ups_digit(body)
    assert first(f"1Z{body}{right}") == ("ups", "UPS 1Z", "valid")
    assert check("ups", f"1Z{body}{right}") is True
    wrong = str((int(right) + 1) % 10)
    assert check("ups", f"1Z{body}{wrong}") is False
    assert first(f"1Z{body}{wrong}") == ("ups", "UPS 1Z", "invalid")  # still the only candidate


@given(st.sampled_from("AHJKTV"), digits(9))
def test_ups_waybill(letter, body):
    assert check("ups", letter + body + ups_digit(body)) is True
    assert check("ups", letter + body + str((int(ups_digit(body)) + 5) % 10)) is False


@given(st.sampled_from(["91", "92", "93", "94", "95"]), digits(19))
def test_usps_with_22_digits_whatever_routing_code_is_in_front(kind, rest):
    number = kind + rest + gs1_digit(kind + rest)
    assert first(number)[0::2] == ("usps", "valid")
    for routing in ("42010118", "420101182345"):
        assert check("usps", routing + number) is True
    wrong = number[:-1] + str((int(number[-1]) + 3) % 10)
    assert check("usps", wrong) is False


@given(digits(5), digits(11))
def test_fedex_express_and_its_barcode(junk, body):
    number = body + fedex_digit(body)
    assert ("fedex", "FedEx Express", "valid") in [
        (c.carrier, c.format, c.checksum) for c in detect(number)
    ]
    inner = "00" + body
    barcode = f"10019{junk}{junk}00000" + inner + fedex_digit(inner)
    assert len(barcode) == 34
    assert first(barcode) == ("fedex", "FedEx Express barcode, 34 digits", "valid")
    assert check("fedex", number[:-1] + str((int(number[-1]) + 1) % 10)) is False


@given(digits(14), digits(5))
def test_fedex_ground_alone_and_behind_96(body, junk):
    number = body + gs1_digit(body)
    assert check("fedex", number) is True
    assert first(f"96{junk}{number}")[0::2] == ("fedex", "valid")


@given(st.integers(10**8, 10**10 - 1))
def test_dhl_express(serial):
    number = f"{serial}{serial - 7 * (serial // 7)}"
    assert check("dhl", number) is True
    assert check("dhl", f"{serial}{(serial % 7 + 1) % 10}") is False


@given(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=2, max_size=2), digits(8))
def test_s10_of_each_post(kind, serial):
    digit = s10_digit(serial)
    assert first(f"{kind}{serial}{digit}GB") == ("royal_mail", "UPU S10", "valid")
    assert first(f"{kind}{serial}{digit}US") == ("usps", "UPU S10", "valid")
    assert first(f"{kind}{serial}{digit}DE") == ("dhl", "UPU S10", "valid")
    wrong = str((int(digit) + 1) % 10)
    assert check("royal_mail", f"{kind}{serial}{wrong}GB") is False


# --------------------------------------------------------------------------- published examples


@pytest.mark.parametrize(
    ("number", "carrier"),
    [
        ("1Z5R89390357567127", "ups"),
        ("1ZCIETST0422222228", "ups"),  # UPS's own test number
        ("K2479825491", "ups"),
        ("J4603636537", "ups"),
        ("420 22153 9101026837331000039521", "usps"),
        ("9505 5110 6960 5048 6006 24", "usps"),
        ("9400 1112 0108 0805 4830 16", "usps"),
        ("92748931507708513018050063", "usps"),
        ("4201002334249200190132607600833457", "usps"),
        ("7112 3456 7891 2345 6787", "usps"),
        ("7196 9010 7560 0307 7385", "usps"),  # the check digit is that of 91 and these
        ("9865 7878 8855", "fedex"),
        ("1001921334250001000300779017972697", "fedex"),
        ("9622001900000000000000776632517510", "fedex"),
        ("9611020987654312345672", "fedex"),
        ("5682 8361 0012 734", "fedex"),
        ("61299998820821171811", "fedex"),
        # FedEx's sandbox
        ("449044304137821", "fedex"),
        ("020207021381215", "fedex"),
        ("122816215025810", "fedex"),
        ("843119172384577", "fedex"),
        ("3318810025", "dhl"),
        ("73891051146", "dhl"),
        ("00340434161094022115", "dhl"),  # in DHL's own documentation
        ("RB123456785GB", "royal_mail"),
    ],
)
def test_published_numbers_have_a_right_check_digit(number, carrier):
    assert first(number)[0::2] == (carrier, "valid")
    assert check(carrier, number) is True


@pytest.mark.parametrize(
    ("number", "carrier"),
    [
        ("2Z5R89390357567127", "ups"),
        ("1Z1111111111111111", "ups"),
        ("0307 1790 0005 2348 3742", "usps"),
        ("9400111899223033005436", "usps"),  # often quoted, and wrong by its own rule
        ("996578788855", "fedex"),
        ("1001901781990001000300617767839438", "fedex"),
        ("9622001560001234567100794808390595", "fedex"),
        ("3318810010", "dhl"),
        ("RB123456784GB", "royal_mail"),
        ("RB123456785XX", "royal_mail"),  # no country posts as XX
    ],
)
def test_published_wrong_numbers_are_not_right(number, carrier):
    assert check(carrier, number) is not True
    assert (carrier, "valid") not in [(c.carrier, c.checksum) for c in detect(number)]


@pytest.mark.parametrize("number", ["JJD0099999999", "JVGL0999999990", "GM2951173225174494"])
def test_formats_without_a_check_digit_say_so(number):
    assert first(number)[0::2] == ("dhl", "none")
    assert check("dhl", number) is None


# --------------------------------------------------------------------------- candidates


def test_a_number_of_another_post_is_not_royal_mails():
    """Each international item looked like Royal Mail's, whatever country it was posted in."""
    assert detect("RR123456785CN") == []
    assert check("royal_mail", "RR123456785CN") is True  # it may be on its way there


def test_twenty_digits_are_fedexs_as_well_as_usps():
    """FedEx's pattern of 20 digits stood behind one of USPS that took them all."""
    assert [c.carrier for c in detect("61299998820821171811")] == ["fedex", "usps"]


def test_numbers_of_fedex_ground_and_dhl_pieces_have_a_carrier():
    """Numbers that begin with 96 or JD, and those of 34 digits, were nobody's."""
    assert first("9611020987654312345672")[0] == "fedex"
    assert first("JD014600003828392837")[0] == "dhl"
    assert first("9632001560123456789900794808390594")[0] == "fedex"


def test_a_right_check_digit_comes_before_a_fixed_prefix_and_a_wrong_one_last():
    # Right for DHL Paket by its prefix, and for USPS by the same arithmetic.
    assert [(c.carrier, c.checksum) for c in detect("00340434161094022115")] == [
        ("dhl", "valid"),
        ("usps", "valid"),
    ]
    wrong = detect("996578788855")
    assert [(c.carrier, c.checksum) for c in wrong] == [("fedex", "invalid")]


def test_a_candidate_has_the_number_as_its_carrier_writes_it():
    (usps,) = detect(" 420 10023 3424 9200 1901 3260 7600 8334 57 ")
    assert usps == Candidate("usps", "USPS IMpb, 22 digits", "9200190132607600833457", "valid")


@given(st.text(max_size=60))
def test_any_text_gets_candidates_or_a_reason(text):
    try:
        candidates = detect(text)
    except NumberRefused:
        return
    assert len({c.carrier for c in candidates}) == len(candidates)
    order = ["valid", "none", "invalid"]
    ranks = [order.index(c.checksum) for c in candidates]
    assert ranks == sorted(ranks)


# --------------------------------------------------------------------------- spelling


@pytest.mark.parametrize(
    "text",
    [
        "1z5r8939 0357567127",
        " 1Z-5R8-939-03-5756712-7 ",
        "1Z5R8939\u00a00357567127",  # no-break space
        "1Z5R8939\u20110357567127\u200b",  # no-break hyphen, zero-width space
        "１Ｚ５Ｒ８９３９０３５７５６７１２７",  # full width
    ],
)
def test_spellings_of_one_number_are_one_number(text):
    assert normalise("ups", text) == "1Z5R89390357567127"


@pytest.mark.parametrize(
    "text",
    ["", "  - ", "1234", "1" * (LONGEST + 1), "1" * 100_000, "1Z5R8939/0357567127", "12345\x00678",
     "٤٤٩٠٤٤٣٠٤١٣٧٨٢١", "12345é"],
)  # fmt: skip
def test_what_cannot_be_a_number_is_refused(text):
    with pytest.raises(NumberRefused):
        normalise(None, text)


def test_only_usps_loses_the_routing_code():
    assert normalise("usps", "420221539101026837331000039521") == "9101026837331000039521"
    assert normalise(None, "420221539101026837331000039521").startswith("420")
    assert normalise("usps", "42000000") == "42000000"  # too short to have one


@given(st.sampled_from([None, "usps", "ups", "dhl"]), st.text("0123456789ABCZ -", max_size=44))
def test_writing_a_number_properly_twice_changes_nothing(carrier, text):
    try:
        once = normalise(carrier, text)
        assert normalise(carrier, once) == once
    except NumberRefused:
        pass


def test_the_posts_are_countries():
    assert len(POSTAL) == 249
    assert {"US", "GB", "DE", "CN"} <= POSTAL
    assert not {"XX", "ZZ", "UK"} & POSTAL
